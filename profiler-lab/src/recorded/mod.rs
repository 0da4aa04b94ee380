//! Which of a recording's settings are used.
//!
//! A recording may come from anyone: root records unprivileged programs with `record --pid`, and
//! files are passed on. So players only get those of its variables that set sizes, counts, times
//! and thresholds of allocators, checked by name and by the form of the value: none that the loader
//! reads, and none by which an allocator opens a file. No object is loaded because a recording
//! names it, unless the caller allows that and nobody else can have written the object.

mod forms;

use std::path::Path;

use profiler_core::allocator::{BuildId, Environment, PRELOAD};
use profiler_target::{AllocatorProblem, ErrorKind};
use profiler_trace::trace::TraceDescription;
use profiler_trace::whole_file::ownership;

use self::forms::Kept;
use super::allocators::PlayableAllocator;
use super::failure::Failure;

/// The variables of a recording that players get, and a description of what was not accepted.
pub fn environment(description: &TraceDescription) -> (Environment, Vec<String>) {
    let all = description.env.iter();
    let all = all.map(|(name, value)| (&**name, &**value));
    // What it loaded beside its allocator is not played; the allocator is spoken of below.
    taken(all.filter(|(name, value)| *name != PRELOAD || !is_the_allocator(description, value)))
}

/// Of these variables what players get, and what they do not, as `NAME=VALUE`.
pub(crate) fn taken<'a>(
    variables: impl Iterator<Item = (&'a str, &'a str)>,
) -> (Environment, Vec<String>) {
    let mut taken = Environment::default();
    let mut dropped = Vec::new();
    for (name, value) in variables {
        let Kept { value, rest } = forms::kept(name, value);
        if !value.is_empty() {
            taken.set(name, &value);
        }
        dropped.extend(rest.map(|what| format!("{name}={what}")));
    }
    (taken, dropped)
}

fn is_the_allocator(description: &TraceDescription, preloaded: &str) -> bool {
    let file = |path: &str| path.rsplit('/').next().map(str::to_owned);
    let path = description.malloc_path.as_deref().unwrap_or_default();
    !path.is_empty() && file(path) == file(preloaded)
}

/// The allocator under which a recording was made, and its replacement.
#[derive(Debug)]
pub struct Recorded {
    /// What is replayed, or why nothing is.
    pub allocator: Result<PlayableAllocator, Failure>,
    /// Why it is not the object that the recording names, if that is so.
    pub note: Option<Failure>,
}

/// The allocator `name` under which a recording was made; the recording gives the path of its
/// object as `path`.
pub fn allocator(name: &str, path: &str, allowed: bool) -> Recorded {
    if path.is_empty() {
        return Recorded {
            allocator: stand_in(name),
            note: None,
        };
    }
    let found = match allowed {
        false => Err(Failure {
            why: "an object that only a recording names is not loaded".to_owned(),
            kind: ErrorKind::Allocator(AllocatorProblem::OnlyRecorded),
        }),
        true => own(Path::new(path)),
    };
    match found {
        Ok(allocator) => Recorded {
            allocator: Ok(allocator),
            note: None,
        },
        Err(why) => Recorded {
            allocator: stand_in(name).map_err(|_| why.clone()),
            note: Some(Failure {
                why: format!("{path} was not loaded: {}", why.why),
                kind: why.kind,
            }),
        },
    }
}

fn own(path: &Path) -> Result<PlayableAllocator, Failure> {
    let path = ownership::only_ours(path).map_err(|why| why.to_string())?;
    if !path.is_file() {
        return Err("it is not a file".to_owned().into());
    }
    Ok(PlayableAllocator::at_path(&path)?)
}

/// An allocator of the same name that fragscope or the host has. The name comes from the recording
/// as well, and is never used as a path.
fn stand_in(name: &str) -> Result<PlayableAllocator, Failure> {
    match BuildId::named(name).filter(|id| *id != BuildId::Glibc) {
        Some(id) => Ok(PlayableAllocator::of(id)?),
        None => Err(format!("fragscope has no allocator of the name {name}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(all: &[(&str, &str)]) -> TraceDescription {
        all.iter().copied().collect()
    }

    #[test]
    fn what_the_loader_reads_and_what_opens_files_is_dropped_and_said() {
        let (taken, dropped) = environment(&described(&[
            ("malloc", "glibc 2.36"),
            ("env.LD_AUDIT", "/tmp/a.so"),
            ("env.LD_PRELOAD", "/tmp/b.so"),
            ("env.LD_LIBRARY_PATH", "/tmp"),
            ("env.MALLOC_TRACE", "/etc/passwd"),
            ("env.HEAPPROFILE", "/etc/passwd"),
            (
                "env.GLIBC_TUNABLES",
                "glibc.malloc.arena_max=2:glibc.rtld.nns=9",
            ),
            (
                "env.MALLOC_CONF",
                "narenas:2,prof:true,prof_prefix:/etc/cron.d/x",
            ),
            ("env.MALLOC_ARENA_MAX", "4"),
        ]));
        assert_eq!(
            taken.variables(),
            [
                ("GLIBC_TUNABLES".into(), "glibc.malloc.arena_max=2".into()),
                ("MALLOC_CONF".into(), "narenas:2".into()),
                ("MALLOC_ARENA_MAX".into(), "4".into()),
            ]
        );
        assert_eq!(
            dropped,
            [
                "LD_AUDIT=/tmp/a.so",
                "LD_PRELOAD=/tmp/b.so",
                "LD_LIBRARY_PATH=/tmp",
                "MALLOC_TRACE=/etc/passwd",
                "HEAPPROFILE=/etc/passwd",
                "GLIBC_TUNABLES=glibc.rtld.nns=9",
                "MALLOC_CONF=prof:true,prof_prefix:/etc/cron.d/x",
            ]
        );
    }

    #[test]
    fn a_recordings_object_is_not_loaded_and_another_of_its_name_stands_in() {
        let found = allocator("jemalloc", "/lib/x86_64-linux-gnu/libc.so.6", false);
        assert!(found.allocator.expect("embedded").name == "jemalloc");
        let refused = ErrorKind::Allocator(AllocatorProblem::OnlyRecorded);
        assert_eq!(found.note.expect("said").kind, refused);
        let found = allocator("/tmp/evil.so", "", false);
        assert!(found.allocator.is_err(), "a name is never a path");
    }

    #[test]
    fn only_a_file_is_loaded() {
        let why = own(Path::new("/etc")).expect_err("a folder");
        assert_eq!(why.why, "it is not a file");
    }
}
