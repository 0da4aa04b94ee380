//! The invariants, as rules on which module may name which path.

use std::collections::BTreeSet;
use std::fmt;

use super::references::{Named, References};

/// One source file.
pub(super) struct Source {
    /// Its path from the workspace.
    pub file: String,
    /// Its module.
    pub module: Vec<String>,
    pub references: References,
}

/// One place where a layer rule is violated.
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
    /// In this crate, except in this module.
    InBut(&'static str, &'static str),
    /// Everywhere in the crate but there.
    OutsideOf(&'static [&'static str]),
}

/// Paths that some modules must not name.
struct Rule {
    crates: &'static [&'static str],
    scope: Scope,
    forbidden: &'static [&'static str],
    why: &'static str,
}

/// Directories of the core that are not walkers. Every other directory must obey the rules for
/// walkers.
const NO_WALKERS: [&str; 12] = [
    "allocator",
    "columns",
    "explain",
    "host",
    "live",
    "memory",
    "metrics",
    "objects",
    "report",
    "residency",
    "sites",
    "tables",
];

/// Code that calls C or the kernel, and so may be `unsafe`, by crate and module; "" is a whole
/// crate. All other crates forbid it. The recorder and the player run inside other programs,
/// without the standard library.
const UNSAFE: [(&str, &str); 5] = [
    ("profiler_lab", "play"),
    ("profiler_probe", ""),
    ("profiler_record", ""),
    ("profiler_replay", ""),
    ("profiler_target", ""),
];

/// Libraries that handle untrusted text and run where there is a terminal.
pub(super) const LIBRARIES: [&str; 6] = [
    "profiler_core",
    "profiler_lab",
    "profiler_probe",
    "profiler_sampling",
    "profiler_target",
    "profiler_trace",
];

/// The command.
pub(super) const COMMAND: &str = "fragscope";

/// Why only one module of the command prints.
const PRINTS: &str = "printed through `say` alone, which cleans it of what drives a terminal";
/// Why the libraries do not.
const RETURNS: &str = "a library returns what there is to say: only the command prints";

/// What reads a file that has to be UTF-8, all of it.
const READS_TEXT: [&str; 2] = ["std::fs::read_to_string", "std::io::read_to_string"];
/// Why no file is read so.
const ONE_NAME: &str = "fails for all of a file of the kernel's because of one name in it that is not UTF-8, and has no \
     limit: `kernel_text` of profiler-target";

/// Why widths are declared.
const WIDTHS: &str =
    "counts a column's width by hand: `Column` and `TextColumn` of the core declare it once";

/// Why only the command line names flags.
const NO_ADVICE: &str = "names a flag: what to do about something is said by the command line and its hints, by its kind";

/// Why libraries do not name the command's own commands.
const NO_COMMANDS: &str = "names a command of fragscope: what to do is said by the command line and its hints, by its kind";

/// Names of commands that messages of a library may contain all the same: in sentences that are
/// part of a report. Nothing is added here, and entries that are no longer needed are removed.
pub(super) const NAMES_COMMANDS: [&str; 5] = [
    "profiler-core/src/explain/growth/cause.rs",
    "profiler-core/src/explain/growth/lately.rs",
    "profiler-core/src/explain/growth/other_memory.rs",
    "profiler-core/src/explain/prose.rs",
    "profiler-core/src/explain/remedies/rows.rs",
];

/// The modules of the command that may name flags: the command line, and what screens, files and notices
/// say that can be done.
const NAMES_FLAGS: [&str; 2] = ["cli", "hints"];

/// Where text leaves the process.
const STANDARD_STREAMS: [&str; 2] = ["std::io::stdout", "std::io::stderr"];
/// Code that looks at targets.
const INSPECTS_TARGETS: [&str; 4] = [
    "profiler_probe",
    "profiler_sampling",
    "profiler_target",
    "std::process",
];

/// What reads files or the surroundings.
const READS_FILES: [&str; 6] = ["libc", "nix", "std::env", "std::fs", "std::net", "std::os"];

const RULES: &[Rule] = &[
    Rule {
        crates: &["profiler_core"],
        scope: Scope::In(""),
        forbidden: &[
            "std::fs",
            "std::net",
            "std::process",
            "std::os",
            "std::env",
            "std::time::Instant",
            "std::time::SystemTime",
        ],
        why: "the core is pure: no IO, no clock",
    },
    Rule {
        crates: &LIBRARIES,
        scope: Scope::In(""),
        forbidden: &READS_TEXT,
        why: ONE_NAME,
    },
    Rule {
        crates: &[COMMAND],
        scope: Scope::In(""),
        forbidden: &READS_TEXT,
        why: ONE_NAME,
    },
    Rule {
        crates: &["profiler_core"],
        scope: Scope::In("metrics"),
        forbidden: &["crate::explain"],
        why: "metrics see no explanations",
    },
    Rule {
        crates: &[COMMAND],
        scope: Scope::OutsideOf(&["tui"]),
        forbidden: &["ratatui", "crossterm"],
        why: "ratatui and crossterm only under tui",
    },
    Rule {
        crates: &[COMMAND],
        scope: Scope::OutsideOf(&["cli"]),
        forbidden: &["clap"],
        why: "clap only under cli",
    },
    Rule {
        crates: &[COMMAND],
        scope: Scope::OutsideOf(&[
            "export",
            "session::push::settings",
            "session::serve::web_config",
        ]),
        forbidden: &["serde", "serde_json", "csv"],
        why: "serialising only under export, and reading of the two files of settings",
    },
    Rule {
        crates: &[COMMAND],
        // The screen is drawn by a crate that takes control characters out.
        scope: Scope::OutsideOf(&["say", "tui"]),
        forbidden: &STANDARD_STREAMS,
        why: PRINTS,
    },
    Rule {
        crates: &LIBRARIES,
        scope: Scope::In(""),
        forbidden: &STANDARD_STREAMS,
        why: RETURNS,
    },
    Rule {
        crates: &[COMMAND],
        scope: Scope::In("tui"),
        forbidden: &INSPECTS_TARGETS,
        why: "the terminal UI touches neither /proc nor probes",
    },
    Rule {
        crates: &[COMMAND],
        scope: Scope::InBut("tui", "terminal"),
        forbidden: &READS_FILES,
        why: "of the terminal UI only what holds the terminal touches files and the environment",
    },
    Rule {
        crates: &[COMMAND],
        scope: Scope::In("export"),
        forbidden: &INSPECTS_TARGETS,
        why: "exports touch neither /proc nor probes",
    },
    Rule {
        crates: &[COMMAND],
        scope: Scope::In("export"),
        forbidden: &READS_FILES,
        why: "exports are made from a view: they touch neither files nor the environment",
    },
];

/// All violations in the sources of one crate.
pub(super) fn violations(krate: &str, sources: &[Source]) -> Vec<Violation> {
    let walkers = if krate == "profiler_core" {
        walkers(sources)
    } else {
        BTreeSet::new()
    };
    let rules = || RULES.iter().filter(|rule| rule.crates.contains(&krate));
    let may_be_unsafe = || UNSAFE.iter().filter(|(of, _)| *of == krate);
    let mut found = Vec::new();
    for source in sources {
        let mut report = |line, what| {
            found.push(Violation {
                file: source.file.clone(),
                line,
                what,
            });
        };
        if krate == COMMAND || LIBRARIES.contains(&krate) {
            let strings = &source.references.strings;
            let may_name_commands = NAMES_COMMANDS.contains(&source.file.as_str());
            if may_name_commands && !strings.iter().any(|(string, _)| names_command(string)) {
                report(
                    1,
                    "names no command any more: take it out of NAMES_COMMANDS".to_owned(),
                );
            }
            for (string, line) in strings {
                if has_width(string) {
                    report(*line, WIDTHS.to_string());
                }
                let may_name_flags = krate == COMMAND
                    && NAMES_FLAGS
                        .iter()
                        .any(|inside| is_in(&source.module, inside));
                if !may_name_flags && names_flag(string) {
                    report(*line, NO_ADVICE.to_string());
                }
                if krate != COMMAND && !may_name_commands && names_command(string) {
                    report(*line, NO_COMMANDS.to_string());
                }
            }
        }
        for named in &source.references.named {
            for rule in rules() {
                if rule.scope.holds(&source.module)
                    && let Some(path) = rule.forbidden.iter().find(|path| reaches(named, path))
                {
                    report(named.line, format!("names {path}: {}", rule.why));
                }
            }
            if let Some((walker, why)) = reached_walker(&source.module, named, &walkers) {
                report(named.line, format!("names crate::{walker}: {why}"));
            }
        }
        if krate == COMMAND || LIBRARIES.contains(&krate) {
            let why = if krate == COMMAND { PRINTS } else { RETURNS };
            for (name, line) in &source.references.prints {
                report(*line, format!("names {name}!: {why}"));
            }
            for &line in &source.references.raw_paths {
                let what = "shows a path as it is: `visible(path.display())` makes it harmless";
                report(line, what.to_string());
            }
        }
        if !may_be_unsafe().any(|(_, module)| is_in(&source.module, module)) {
            for &line in &source.references.unsafe_lines {
                report(
                    line,
                    "unsafe only where C or the kernel is called".to_string(),
                );
            }
        }
        if may_be_unsafe().next().is_none()
            && source.file.ends_with("src/lib.rs")
            && !source.references.forbids_unsafe
        {
            report(1, "the crate must say #![forbid(unsafe_code)]".to_string());
        }
    }
    found
}

impl Scope {
    fn holds(&self, module: &[String]) -> bool {
        match self {
            Self::In(inside) => is_in(module, inside),
            Self::InBut(inside, but) => {
                is_in(module, inside) && module.get(1).is_none_or(|second| second != but)
            }
            Self::OutsideOf(inside) => !inside.iter().any(|inside| is_in(module, inside)),
        }
    }
}

fn is_in(module: &[String], inside: &str) -> bool {
    inside.is_empty() || {
        let inside: Vec<&str> = inside.split("::").collect();
        module.len() >= inside.len() && module.iter().zip(inside).all(|(one, of)| one == of)
    }
}

/// Whether the named path gives access to `forbidden`: it is that path, is inside it, or is a glob
/// that imports it.
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

/// Whether a format string aligns something to a fixed width: `{name:<24}`.
fn has_width(format: &str) -> bool {
    let mut pieces = format.split(':').skip(1);
    pieces.any(|spec| {
        let aligned = spec.strip_prefix(['<', '>', '^']);
        let width = aligned.unwrap_or(spec);
        let digits = width.trim_start_matches(|c: char| c.is_ascii_digit());
        let count = width.len() - digits.len();
        // `{:02}` and `{:016x}` pad a number with zeros, and are not columns.
        count > 0 && !width.starts_with('0') && digits.starts_with(['}', '.'])
    })
}

/// Whether words name a flag of a command: ` --json`.
fn names_flag(words: &str) -> bool {
    words.match_indices("--").any(|(at, dashes)| {
        let before = words[..at].chars().next_back();
        let after = words[at + dashes.len()..].chars().next();
        before.is_none_or(|c| " (`'".contains(c)) && after.is_some_and(|c| c.is_ascii_lowercase())
    })
}

/// Whether words name a command: `fragscope explain`.
fn names_command(words: &str) -> bool {
    words.contains("`fragscope ")
}

/// The walkers of the core, by their folders.
fn walkers(sources: &[Source]) -> BTreeSet<&str> {
    let folders = sources.iter().filter_map(|source| {
        let inside = source.file.split_once("/src/").map(|(_, inside)| inside)?;
        Some(inside.split_once('/')?.0)
    });
    folders
        .filter(|folder| !NO_WALKERS.contains(folder))
        .collect()
}

/// The walker that a module names although it must not, and why it must not.
fn reached_walker<'a>(
    module: &[String],
    named: &Named,
    walkers: &BTreeSet<&'a str>,
) -> Option<(&'a str, &'static str)> {
    let of = module.first()?.as_str();
    let why = match of {
        "metrics" => "metrics see samples, never an allocator's layout",
        "explain" => "explanations see samples and metrics, never an allocator's layout",
        "columns" | "difference" | "host" | "over_time" | "report" | "sites" | "view" => {
            "reports and their tables see samples, never an allocator's layout"
        }
        walker if walkers.contains(walker) => "walkers never import each other",
        _ => return None,
    };
    let mut others = walkers.iter().filter(|walker| **walker != of);
    let reached = others.find(|walker| reaches(named, &format!("crate::{walker}")))?;
    Some((reached, why))
}
