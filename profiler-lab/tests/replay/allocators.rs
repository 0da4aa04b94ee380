//! Allocators that fail, each in a different way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use profiler_core::allocator::BuildId;
use profiler_lab::allocators::PlayableAllocator;
use profiler_lab::play::{PlayError, Played, Setup, play};
use profiler_testing::trace::TraceBuilder;

use super::program::program;

/// The object of an allocator that fragscope has.
pub(crate) fn named(name: &str) -> PathBuf {
    let build = BuildId::named(name).expect("a build");
    let found = PlayableAllocator::of(build).expect("it is inside");
    found.object.expect("it is an object")
}

/// Compiles a shared object in `folder`.
pub(crate) fn compile(folder: &Path, source: &str) -> PathBuf {
    let (from, to) = (folder.join("bad.c"), folder.join("libbad.so"));
    fs::write(&from, source).expect("a writable folder");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-fno-builtin", "-o"])
        .args([&to, &from])
        .status();
    assert!(status.expect("a C compiler").success());
    to
}

fn outcome(preload: PathBuf) -> Result<Played, PlayError> {
    let mut trace = TraceBuilder::default();
    for _ in 0..1000 {
        trace.alloc(0, 12_345);
    }
    let setup = Setup {
        preload: Some(preload),
        // Longer than a busy host keeps a player from a processor.
        patience: Some(Duration::from_secs(5)),
        memory_limit: Some(64 << 20),
        ..Setup::default()
    };
    play(&program(&trace), &setup, &|_| true)
}

fn outcome_of(source: &str) -> Result<Played, PlayError> {
    let folder = tempfile::tempdir().expect("a folder");
    outcome(compile(folder.path(), source))
}

/// malloc that serves 100 blocks and then does something else.
fn malloc_that(then: &str) -> String {
    format!(
        "#include <stddef.h>\n#include <stdlib.h>\n#include <signal.h>\n#include <string.h>\n\
         static char memory[1 << 24]; static size_t used; static int calls;\n\
         void *malloc(size_t n) {{ if (++calls > 100) {{ {then} }}\n\
           size_t at = used; used += (n + 15) & ~15ul; return memory + at; }}\n\
         void free(void *p) {{ (void)p; }}\n"
    )
}

#[test]
fn one_that_crashes_is_reported_by_its_signal() {
    let outcome = outcome_of(&malloc_that("*(volatile int *)8 = 1;"));
    assert!(
        matches!(&outcome, Err(PlayError::Crashed(how)) if how.contains("SIGSEGV")),
        "{outcome:?}"
    );
}

#[test]
fn one_that_hangs_is_reported() {
    let outcome = outcome_of(&malloc_that("for (;;) {}"));
    assert!(
        matches!(&outcome, Err(PlayError::Hung { .. })),
        "{outcome:?}"
    );
}

#[test]
fn one_that_gives_no_memory_is_reported_with_what_was_requested() {
    let outcome = outcome_of(&malloc_that("return NULL;"));
    assert!(
        matches!(&outcome, Err(PlayError::NoMemory { bytes: 12_345 })),
        "{outcome:?}"
    );
}

#[test]
fn one_that_takes_too_much_is_ended() {
    let greedy = "#include <sys/mman.h>\n#include <string.h>\n\
        void *malloc(unsigned long n) { (void)n; char *p = mmap(0, 1 << 20, 3, 34, -1, 0);\n\
          memset(p, 1, 1 << 20); for (volatile int i = 0; i < 300000; i++) {} return p; }\n\
        void free(void *p) { (void)p; }\n";
    // MAP_PRIVATE and MAP_SHARED, both MAP_ANONYMOUS.
    for greedy in [greedy.to_owned(), greedy.replace(", 34,", ", 33,")] {
        let outcome = outcome_of(&greedy);
        assert!(
            matches!(&outcome, Err(PlayError::TooLarge { .. })),
            "{outcome:?}"
        );
    }
}

#[test]
fn one_that_closes_its_pipe_and_goes_on_is_ended() {
    let outcome = outcome_of(
        "#include <unistd.h>\n\
         void *malloc(unsigned long n) { (void)n; close(1); for (;;) sleep(1); }\n\
         void free(void *p) { (void)p; }\n",
    );
    assert!(
        matches!(&outcome, Err(PlayError::Player(why)) if why.contains("closed its pipe")),
        "{outcome:?}"
    );
}

#[test]
fn what_cannot_be_loaded_is_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("libtext.so");
    fs::write(&path, "no object at all").expect("a writable folder");
    let outcome = outcome(path);
    assert!(
        matches!(&outcome, Err(PlayError::NotLoaded { .. })),
        "{outcome:?}"
    );
}
