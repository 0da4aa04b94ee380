//! The allocators and settings under which the programs really run: builds and tunings of the core.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use profiler_core::allocator::{BuildId, Environment, PRELOAD};
use profiler_core::candidate::CandidateName;
use profiler_core::tuning::{JEMALLOC_BACKGROUND, MMAP_THRESHOLD, NO_TCACHE, Tuning};

use super::programs::library;

/// The setting under which the programs are recorded.
pub(super) const BASELINE: &str = "glibc";

/// One allocator with its settings.
pub(super) struct Setting {
    /// Its name for `--allocator`.
    pub(super) name: &'static str,
    /// The build that is preloaded; `None` for the C library's own malloc.
    preloaded: Option<BuildId>,
    tuning: Option<&'static Tuning>,
    candidate: Option<CandidateName>,
}

/// All of them, [`BASELINE`] first.
pub(super) static SETTINGS: [Setting; 6] = [
    tuned(BASELINE, None, None),
    tuned(
        "glibc-mmap-threshold",
        Some(&MMAP_THRESHOLD),
        Some(CandidateName::Tuning(&MMAP_THRESHOLD)),
    ),
    tuned("glibc-no-tcache", Some(&NO_TCACHE), None),
    // In a walk, jemalloc has purged, as in a program that continues.
    preloaded(
        "jemalloc",
        BuildId::Jemalloc,
        CandidateName::Tuning(&JEMALLOC_BACKGROUND),
    ),
    preloaded(
        "mimalloc",
        BuildId::Mimalloc2,
        CandidateName::Build(BuildId::Mimalloc2),
    ),
    preloaded(
        "tcmalloc",
        BuildId::Tcmalloc,
        CandidateName::Build(BuildId::Tcmalloc),
    ),
];

const fn tuned(
    name: &'static str,
    tuning: Option<&'static Tuning>,
    candidate: Option<CandidateName>,
) -> Setting {
    Setting {
        name,
        preloaded: None,
        tuning,
        candidate,
    }
}

const fn preloaded(name: &'static str, build: BuildId, candidate: CandidateName) -> Setting {
    Setting {
        name,
        preloaded: Some(build),
        tuning: None,
        candidate: Some(candidate),
    }
}

impl Setting {
    /// Whether the programs are recorded under it.
    pub(super) fn is_baseline(&self) -> bool {
        self.name == BASELINE
    }

    /// The candidate of one walk for this setting, if there is one.
    pub(super) fn candidate(&self) -> Option<String> {
        self.candidate.as_ref().map(CandidateName::to_string)
    }

    /// Makes a command run under it.
    pub(super) fn apply(&self, command: &mut Command) -> Result<()> {
        if let Some(object) = self.object()? {
            command.env(PRELOAD, object);
        }
        if let Some(tuning) = self.tuning {
            let mut environment = Environment::default();
            environment.assign(tuning.allocator, tuning.sets);
            command.envs(environment.variables().iter().cloned());
        }
        Ok(())
    }

    /// Makes `fragscope replay` use it.
    pub(super) fn choose(&self, replay: &mut Command) -> Result<()> {
        match (self.object()?, self.tuning) {
            (Some(object), _) => {
                replay.arg("--allocator").arg(object);
            }
            (None, Some(tuning)) => {
                for set in tuning.sets {
                    let setting = format!("{}={}", set.name, set.value);
                    replay.args(["--tunable", &setting]);
                }
            }
            // The allocator of the recording is replayed in any case.
            (None, None) => {
                replay.args(["--allocator", BASELINE]);
            }
        }
        Ok(())
    }

    /// The shared object of Debian's that is preloaded.
    fn object(&self) -> Result<Option<PathBuf>> {
        let Some(build) = self.preloaded.map(BuildId::build) else {
            return Ok(None);
        };
        let mut objects = build.libraries.iter().map(|name| library(name));
        let found = objects.find(|object| object.exists());
        let found = found.with_context(|| format!("none of {:?} is there", build.libraries))?;
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> Vec<String> {
        let words = command.get_args();
        words.map(|word| word.to_string_lossy().into()).collect()
    }

    #[test]
    fn a_tuning_is_set_and_replayed_by_one_declaration() {
        let setting = |name: &str| SETTINGS.iter().find(|one| one.name == name);
        for (name, variable, value, tunable) in [
            (
                "glibc-mmap-threshold",
                "MALLOC_MMAP_THRESHOLD_",
                "131072",
                "mmap_threshold=131072",
            ),
            (
                "glibc-no-tcache",
                "GLIBC_TUNABLES",
                "glibc.malloc.tcache_count=0",
                "tcache_count=0",
            ),
        ] {
            let setting = setting(name).expect("declared");
            let (mut program, mut replay) = (Command::new("a"), Command::new("b"));
            setting.apply(&mut program).expect("nothing is preloaded");
            setting.choose(&mut replay).expect("nothing is preloaded");
            let set: Vec<_> = program.get_envs().collect();
            assert_eq!(set, [(variable.as_ref(), Some(value.as_ref()))]);
            assert_eq!(words(&replay), ["--tunable", tunable]);
        }
    }

    #[test]
    fn what_is_preloaded_is_a_build_with_a_library() {
        for build in SETTINGS.iter().filter_map(|one| one.preloaded) {
            assert!(!build.build().libraries.is_empty(), "{build:?}");
        }
    }
}
