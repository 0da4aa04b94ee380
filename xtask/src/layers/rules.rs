//! The invariants, as rules on which module may name which path.

use std::fmt;

use super::references::{Named, References};

/// One source file.
pub(super) struct Source {
    /// Its path from the workspace.
    pub file: String,
    /// The module that it is.
    pub module: Vec<String>,
    pub references: References,
}

/// One place where a layer is crossed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Violation {
    pub file: String,
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// Where a rule applies.
enum Scope {
    /// In this module of the crate and below; the crate's root is "".
    In(&'static str),
    /// Everywhere in the crate but there.
    OutsideOf(&'static [&'static str]),
}

/// Paths that some modules must not name.
struct Rule {
    krate: &'static str,
    scope: Scope,
    forbidden: &'static [&'static str],
    why: &'static str,
}

const WALKERS: [&str; 5] = ["glibc", "pymalloc", "jemalloc", "mimalloc", "musl"];

/// Why only one module prints.
const PRINTS: &str = "printed through `say` alone, which cleans it of what drives a terminal";

const RULES: &[Rule] = &[
    Rule {
        krate: "profiler_core",
        scope: Scope::In(""),
        forbidden: &[
            "std::fs",
            "std::net",
            "std::process",
            "std::os",
            "std::env",
            "std::time::Instant",
            "std::time::SystemTime",
            "libc",
            "nix",
            "procfs",
            "tokio",
            "aya",
            "aya_obj",
            "ratatui",
            "crossterm",
            "clap",
            "serde",
            "serde_json",
            "csv",
        ],
        why: "the core is pure: no IO, no clock, no libc, BPF, terminal, arguments or formats",
    },
    Rule {
        krate: "profiler_core",
        scope: Scope::In("metrics"),
        forbidden: &[
            "crate::glibc",
            "crate::pymalloc",
            "crate::jemalloc",
            "crate::mimalloc",
            "crate::musl",
            "crate::explain",
        ],
        why: "metrics see samples, never an allocator's layout, and no explanations",
    },
    Rule {
        krate: "profiler_core",
        scope: Scope::In("explain"),
        forbidden: &[
            "crate::glibc",
            "crate::pymalloc",
            "crate::jemalloc",
            "crate::mimalloc",
            "crate::musl",
        ],
        why: "explanations see samples and metrics, never an allocator's layout",
    },
    Rule {
        krate: "fragscope",
        scope: Scope::OutsideOf(&["probe"]),
        forbidden: &["aya", "aya_obj"],
        why: "aya only under probe",
    },
    Rule {
        krate: "fragscope",
        scope: Scope::OutsideOf(&["tui"]),
        forbidden: &["ratatui", "crossterm"],
        why: "ratatui and crossterm only under tui",
    },
    Rule {
        krate: "fragscope",
        scope: Scope::OutsideOf(&["cli"]),
        forbidden: &["clap"],
        why: "clap only under cli",
    },
    Rule {
        krate: "fragscope",
        scope: Scope::OutsideOf(&["export"]),
        forbidden: &["serde", "serde_json", "csv"],
        why: "serialising only under export and in profiler-trace",
    },
    Rule {
        krate: "fragscope",
        // The screen is drawn by a crate that takes control characters out.
        scope: Scope::OutsideOf(&["say", "tui"]),
        forbidden: &["std::io::stdout", "std::io::stderr"],
        why: PRINTS,
    },
    Rule {
        krate: "fragscope",
        scope: Scope::In("tui"),
        forbidden: &["crate::process", "crate::probe", "procfs", "std::process"],
        why: "the terminal UI touches neither /proc nor probes",
    },
    Rule {
        krate: "fragscope",
        scope: Scope::In("export"),
        forbidden: &["crate::process", "crate::probe", "procfs", "std::process"],
        why: "exports touch neither /proc nor probes",
    },
    Rule {
        krate: "fragscope",
        scope: Scope::In("process"),
        forbidden: &[
            "crate::tui",
            "crate::export",
            "crate::session",
            "crate::cli",
        ],
        why: "only session sees both the target and what is shown",
    },
    Rule {
        krate: "fragscope",
        scope: Scope::In("probe"),
        forbidden: &[
            "crate::tui",
            "crate::export",
            "crate::session",
            "crate::cli",
        ],
        why: "only session sees both the target and what is shown",
    },
];

/// All violations in the sources of one crate.
pub(super) fn violations(krate: &str, sources: &[Source]) -> Vec<Violation> {
    let mut found = Vec::new();
    for source in sources {
        let mut report = |line, what| {
            found.push(Violation {
                file: source.file.clone(),
                line,
                what,
            });
        };
        for named in &source.references.named {
            for rule in RULES.iter().filter(|rule| rule.krate == krate) {
                if rule.scope.holds(&source.module)
                    && let Some(path) = rule.forbidden.iter().find(|path| reaches(named, path))
                {
                    report(named.line, format!("names {path}: {}", rule.why));
                }
            }
            if krate == "profiler_core"
                && let Some(other) = other_walker(&source.module, named)
            {
                report(
                    named.line,
                    format!("names crate::{other}: walkers never import each other"),
                );
            }
        }
        if krate == "fragscope" {
            for (name, line) in &source.references.prints {
                report(*line, format!("names {name}!: {PRINTS}"));
            }
        }
        if ["fragscope", "profiler_trace"].contains(&krate) {
            for &line in &source.references.raw_paths {
                let what = "shows a path as it is: `visible(path.display())` makes it harmless";
                report(line, what.to_string());
            }
        }
        // What runs inside other programs, without the standard library, cannot do without.
        let is_payload = ["profiler_record", "profiler_replay"].contains(&krate);
        let may_be_unsafe = is_payload
            || krate == "fragscope"
                && ["process", "probe"]
                    .iter()
                    .any(|m| is_in(&source.module, m));
        if !may_be_unsafe {
            for &line in &source.references.unsafe_lines {
                let what = "unsafe only under process and probe, in the recorder and the player"
                    .to_string();
                report(line, what);
            }
        }
        if krate == "profiler_core"
            && source.file.ends_with("src/lib.rs")
            && !source.references.forbids_unsafe
        {
            report(1, "the core must say #![forbid(unsafe_code)]".to_string());
        }
    }
    found
}

impl Scope {
    fn holds(&self, module: &[String]) -> bool {
        match self {
            Self::In(inside) => is_in(module, inside),
            Self::OutsideOf(inside) => !inside.iter().any(|inside| is_in(module, inside)),
        }
    }
}

fn is_in(module: &[String], inside: &str) -> bool {
    inside.is_empty() || module.first().is_some_and(|first| first == inside)
}

/// Whether naming it gives access to `forbidden`: it is it, is inside it, or is a glob that
/// brings it in.
fn reaches(named: &Named, forbidden: &str) -> bool {
    let forbidden: Vec<&str> = forbidden.split("::").collect();
    match named.path.split_last() {
        Some((star, base)) if star == "*" && base.len() < forbidden.len() => {
            !base.is_empty() && base.iter().zip(&forbidden).all(|(a, b)| a == b)
        }
        _ => {
            named.path.len() >= forbidden.len()
                && forbidden.iter().zip(&named.path).all(|(a, b)| a == b)
        }
    }
}

fn other_walker(module: &[String], named: &Named) -> Option<&'static str> {
    let own = WALKERS.into_iter().find(|w| is_in(module, w))?;
    WALKERS
        .into_iter()
        .find(|other| *other != own && reaches(named, &format!("crate::{other}")))
}
