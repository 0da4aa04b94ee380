//! What is tried.

use std::path::Path;

use profiler_core::allocator::Allocator as Kind;
use profiler_core::report::Mechanism;

use crate::allocators::Allocator;
use crate::environment::Environment;
use crate::seed::SeedHeap;

/// How far what was played says what the program would need.
#[derive(Copy, Clone, Eq, PartialEq)]
pub(super) enum Reach {
    /// It is the heap as it is: any of the histories shows whether that is reproduced.
    Itself,
    /// All that decides is in the walk and the histories.
    Full,
    /// When it gives back what was freed depends on what the program does next (mimalloc): it was
    /// played once more with all of it given back, which is the lower end.
    Collected,
    /// It gives back what was freed only when it is called (jemalloc without a background thread): it
    /// was played once more for a program that is idle, which is the upper end.
    Idle,
    /// It gives nothing back: what it needs was decided at the peak (tcmalloc).
    Peak,
    /// The heap of another allocator does not show what it would have kept: up to what there was.
    Other,
}

impl Reach {
    /// How often it is played.
    pub(super) fn runs(self, histories: usize) -> usize {
        match self {
            Self::Itself => 1,
            Self::Collected | Self::Idle => histories + 1,
            Self::Full | Self::Peak | Self::Other => histories,
        }
    }
}

/// A candidate.
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) allocator: Result<Allocator, String>,
    pub(super) env: Environment,
    /// What it needs, where that follows from the walk and need not be played.
    pub(super) exact: Option<u64>,
    pub(super) step: Option<&'static str>,
    pub(super) remedies: Option<Mechanism>,
    pub(super) reach: Reach,
}

/// What is tried: first the heap as it is, then what is asked for most.
pub(super) fn candidates(
    heap: &SeedHeap<'_>,
    measured: u64,
    root: Option<&Path>,
) -> Vec<Candidate> {
    let own = heap.allocator();
    let env = settings_of(heap);
    let with = |name: &str, allocator: Result<Allocator, String>, env: &Environment| Candidate {
        name: name.to_owned(),
        allocator,
        env: env.clone(),
        exact: None,
        step: None,
        remedies: None,
        reach: Reach::Full,
    };
    let installed =
        |build: &str| Allocator::to_preload(build, root).map_err(|error| error.to_string());
    let as_it_is = match own {
        Kind::Glibc => Ok(Allocator::glibc()),
        other => as_the_worker_has(heap, installed(other.name())),
    };
    let empty = Environment::default();
    let mut all = vec![Candidate {
        reach: Reach::Itself,
        ..with("baseline", as_it_is, &env)
    }];
    let mut background = Environment::default();
    background.set_setting(Kind::Jemalloc, "background_thread", "true");
    let others = [
        ("jemalloc background", "jemalloc", &background),
        ("jemalloc", "jemalloc", &empty),
        ("mimalloc2", "mimalloc2", &empty),
        ("mimalloc", "mimalloc", &empty),
        ("tcmalloc", "tcmalloc", &empty),
    ];
    for (name, build, env) in others {
        let candidate = with(name, installed(build), env);
        if candidate
            .allocator
            .as_ref()
            .is_ok_and(|a| a.identity.is(own))
        {
            continue;
        }
        all.push(Candidate {
            remedies: (name == "jemalloc background").then_some(Mechanism::PinnedPages),
            reach: match name {
                "jemalloc" => Reach::Idle,
                "mimalloc" | "mimalloc2" => Reach::Collected,
                "tcmalloc" => Reach::Peak,
                _ => Reach::Full,
            },
            ..candidate
        });
    }
    let glibc_env = if own == Kind::Glibc { env } else { empty };
    let glibc = |name: &str, settings: &[(&str, &str)], remedies| {
        let mut env = glibc_env.clone();
        for (setting, value) in settings {
            env.set_setting(Kind::Glibc, setting, value);
        }
        Candidate {
            remedies,
            ..with(name, Ok(Allocator::glibc()), &env)
        }
    };
    if own != Kind::Glibc {
        all.push(Candidate {
            reach: Reach::Other,
            ..glibc("glibc", &[], None)
        });
        return all;
    }
    let fixed = [("mmap_threshold", "131072")];
    let trimmed = [("trim_threshold", "131072"), ("mmap_threshold", "33554432")];
    all.extend([
        glibc(
            "mmap_threshold=128K",
            &fixed,
            Some(Mechanism::DynamicMmapThreshold),
        ),
        glibc("trim_threshold=128K", &trimmed, Some(Mechanism::KeptTop)),
        Candidate {
            exact: Some(measured.saturating_sub(heap.trimmable_bytes())),
            step: Some("call malloc_trim(0) after peaks: ctypes.CDLL(None).malloc_trim(0)"),
            ..glibc("malloc_trim", &[], Some(Mechanism::Untrimmed))
        },
    ]);
    if heap.arenas().len() > 1 {
        let sprawl = Some(Mechanism::ArenaSprawl);
        all.push(glibc("arena_max=2", &[("arena_max", "2")], sprawl));
        all.push(glibc("arena_max=1", &[("arena_max", "1")], sprawl));
    }
    all
}

/// The allocator of a worker that has another than glibc, where that can be had as it is.
fn as_the_worker_has(
    heap: &SeedHeap<'_>,
    found: Result<Allocator, String>,
) -> Result<Allocator, String> {
    let found = found?;
    let here = found.identity.version.as_deref().unwrap_or("unknown");
    if here != heap.version() {
        return Err(format!(
            "the process has version {}, and {here} is what can be played here",
            heap.version()
        ));
    }
    if heap.has_settings() {
        return Err(
            "its settings are those of its environment, which players do not get".to_owned(),
        );
    }
    Ok(found)
}

/// glibc's settings in force, as far as they were changed and a variable sets them.
fn settings_of(heap: &SeedHeap<'_>) -> Environment {
    let mut env = Environment::default();
    if heap.allocator() != Kind::Glibc {
        return env;
    }
    let is_fixed = heap.setting("no_dyn_threshold") == Some(1);
    for (setting, tunable) in [
        ("arena_max", "arena_max"),
        ("top_pad", "top_pad"),
        ("tcache_count", "tcache_count"),
        ("n_mmaps_max", "mmap_max"),
        ("mmap_threshold", "mmap_threshold"),
        ("trim_threshold", "trim_threshold"),
    ] {
        let adapts = tunable.ends_with("threshold") && !is_fixed;
        if let Some(value) = heap.changed_setting(setting).filter(|_| !adapts) {
            env.set_setting(Kind::Glibc, tunable, &value.to_string());
        }
    }
    env
}
