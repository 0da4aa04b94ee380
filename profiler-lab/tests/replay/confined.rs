//! What a player cannot do, whatever it was made to load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use profiler_lab::play::{PlayError, Setup, play};
use profiler_testing::trace::TraceBuilder;

use super::program::program;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The object of `attacks.c`.
fn attacker(folder: &Path) -> PathBuf {
    let to = folder.join("libattacks.so");
    let file = folder.join("file");
    fs::write(&file, "as it was").expect("a writable folder");
    let text = |name: &str, value: &str| format!("-D{name}=\"{value}\"");
    let path = |path: &Path| path.display().to_string();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-fno-builtin", "-w", "-o"])
        .arg(&to)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay/attacks.c"))
        .arg(text("FILE_OF_ROOT", &path(&file)))
        .arg(text("FOLDER", &path(folder)))
        .arg(text("PROGRAM_OF_PLAYER", "/proc/self/exe"))
        .arg(format!("-DBECOMES_OTHER_USER={}", i32::from(is_root())))
        .status();
    assert!(status.expect("a C compiler").success());
    to
}

/// What the attacks came to, of a program that starts another one or not.
fn said(starts_another: bool) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let mut trace = TraceBuilder::default();
    trace.alloc(0, 64);
    if starts_another {
        trace.begin(1, 1);
        trace.start(1);
    }
    for _ in 0..1000 {
        trace.alloc(0, 64);
    }
    let setup = Setup {
        preload: Some(attacker(folder.path())),
        ..Setup::default()
    };
    let outcome = play(&program(&trace), &setup, &|_| true);
    let kept = fs::read_to_string(folder.path().join("file"));
    assert_eq!(kept.expect("it is still there"), "as it was");
    let mut names: Vec<_> = fs::read_dir(folder.path()).expect("listed").collect();
    assert_eq!(names.drain(..).count(), 2, "nothing was made");
    match outcome {
        Err(PlayError::Crashed(how)) => how,
        other => panic!("it ends by itself: {other:?}"),
    }
}

#[test]
fn a_player_cannot_write_connect_execute_or_reach_other_processes() {
    let said = said(false);
    assert!(said.starts_with("SIGABRT: allowed: "), "{said}");
    assert!(said.ends_with("allowed: end"), "{said}");
}

#[test]
fn one_that_plays_several_programs_executes_nothing_but_itself() {
    let said = said(true);
    assert!(said.ends_with("allowed: end"), "{said}");
}
