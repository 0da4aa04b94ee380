//! `fragscope replay` and `export` on untrusted input: settings and objects, pipes that nobody
//! writes to, small files that expand to much, and truncated ones.

mod replay_hostile {
    pub(crate) mod made;
    mod waits;
}
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use profiler_target::children_of;
use profiler_testing::child::{KillOnDrop, compile, open_folder};
use profiler_testing::trace::TraceBuilder;
use profiler_testing::wait::eventually;
use replay_hostile::made::{bait, failure_of_now, replayed, sparse_elf, trace, trace_of, written};
use serde_json::Value;
use support::{command, run, stderr, text};

#[test]
fn a_trace_makes_nobody_load_the_libraries_that_it_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bait, mark) = bait(folder.path(), "libbait.so");
    let bait = text(&bait);
    for described in [
        &[("malloc", "glibc 2.36"), ("env.LD_AUDIT", bait)][..],
        &[("malloc", "glibc 2.36"), ("env.LD_PRELOAD", bait)],
        &[("malloc", "jemalloc 5.3.0"), ("malloc_path", bait)],
        &[("malloc", bait)],
    ] {
        let path = written(folder.path(), &trace(described, 100));
        let flags = [text(&path), "--allocator", "glibc", "--json", "--runs", "1"];
        let output = run(command(&["replay"]).args(flags));
        assert!(!mark.exists(), "{described:?}");
        let document = replayed(&output);
        let failure = failure_of_now(&document);
        assert!(
            !failure.contains("bait is loaded"),
            "{described:?} {failure}"
        );
        let not_taken = document["trace"]["not_taken"].to_string();
        if described.len() > 1 {
            assert!(not_taken.contains("libbait.so"), "{not_taken}");
            assert_eq!(failure, "", "the rest is played: {described:?}");
        }
    }
}

/// What a replay under glibc comes to that may load the allocator that the recording names.
fn replayed_with_its_allocator(path: &Path) -> Value {
    let flags = ["--allocator", "glibc", "--json", "--runs", "1"];
    let mut replay = command(&["replay", "--allow-recorded-allocator", text(path)]);
    replayed(&run(replay.args(flags)))
}

#[test]
fn the_recorded_allocator_is_loaded_when_it_is_allowed_and_nobody_elses() {
    // Of root's, in folders of root's: not in /tmp, where anyone can write.
    let ours = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let anyones = tempfile::tempdir_in("/tmp").expect("a folder");
    for (folder, is_loaded) in [(ours.path(), true), (anyones.path(), false)] {
        let (bait, _) = bait(folder, "libbait.so");
        let described = [("malloc", "jemalloc 5.3.0"), ("malloc_path", text(&bait))];
        let path = written(folder, &trace(&described, 100));
        let document = replayed_with_its_allocator(&path);
        let failure = failure_of_now(&document);
        assert_eq!(failure.contains("bait is loaded"), is_loaded, "{document}");
        let not_taken = document["trace"]["not_taken"].to_string();
        assert_eq!(
            not_taken.contains("/tmp can be written by other users"),
            !is_loaded,
            "{not_taken}"
        );
    }
}

#[test]
fn a_name_without_a_slash_is_never_a_file_of_the_current_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, mark) = bait(folder.path(), "libjemalloc.so.2");
    fs::copy(
        folder.path().join("libjemalloc.so.2"),
        folder.path().join("libnobody.so"),
    )
    .expect("copied");
    let path = written(folder.path(), &trace(&[], 100));
    for name in ["libjemalloc.so.2", "libnobody.so"] {
        let flags = [text(&path), "--allocator", name, "--json", "--runs", "1"];
        let mut replay = command(&["replay"]);
        let replay = replay.args(flags).current_dir(folder.path());
        let output = run(replay.env("LD_LIBRARY_PATH", folder.path()));
        let document = replayed(&output);
        assert!(!mark.exists());
        assert!(
            !document.to_string().contains("bait is loaded"),
            "{document}"
        );
        if name == "libnobody.so" {
            let said = document.to_string();
            assert!(
                said.contains("the dynamic loader finds no libnobody.so"),
                "{said}"
            );
        }
    }
}

#[test]
fn an_allocator_that_is_a_pipe_or_claims_more_than_there_is_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let recording = written(folder.path(), &trace(&[], 100));
    let pipe = folder.path().join("libpipe.so");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    // A symbol table of many GB: of zeros, which cost nothing.
    let sparse = folder.path().join("libsparse.so");
    fs::write(&sparse, sparse_elf()).expect("written");
    let file = File::options().write(true).open(&sparse).expect("open");
    file.set_len(64 << 30).expect("sparse");
    for (object, why, fix) in [
        (&pipe, "not a regular file", ""),
        (
            &sparse,
            "the limit of a file that is read",
            "\nfix: --file-limit raises the limit\n",
        ),
    ] {
        let flags = [text(&recording), "--allocator", text(object), "--json"];
        let mut replay = command(&["replay"]);
        limit_data(replay.args(flags), 2 << 30);
        let output = run(&mut replay);
        let said = replayed(&output).to_string();
        assert!(said.contains(why), "{said}");
        assert!(stderr(&output).contains(fix), "{output:?}");
    }
}

/// An allocator that never comes to play, and takes its time where nobody watches it.
const HANGS: &str = "
#include <sys/prctl.h>
#include <unistd.h>
__attribute__((constructor)) static void hang(void) {
    prctl(PR_SET_NAME, \"hangs\");
    for (;;) pause();
}
void *malloc(unsigned long bytes) { return 0; }
void *calloc(unsigned long count, unsigned long bytes) { return 0; }
void *realloc(void *block, unsigned long bytes) { return 0; }
void free(void *block) {}
";

#[test]
fn players_end_with_fragscope_whatever_was_loaded_into_them() {
    let folder = open_folder();
    let recording = written(folder.path(), &trace(&[], 100));
    let source = folder.path().join("hangs.c");
    fs::write(&source, HANGS).expect("written");
    let object = folder.path().join("libhangs.so");
    compile("cc", &source, &["-shared", "-fPIC"], &object);
    let flags = [text(&recording), "--allocator", text(&object)];
    let replay = command(&["replay"])
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut replay = KillOnDrop(replay.expect("fragscope"));
    let hanging = eventually("a player that hangs", || {
        let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        let hangs = |pid: &u32| name(pid).as_deref() == Some("hangs\n");
        let children = children_of(replay.pid().as_raw().cast_unsigned());
        children.into_iter().find(hangs)
    });
    kill(replay.pid(), Signal::SIGKILL).expect("it runs");
    replay.ended();
    eventually("the player's end", || {
        let state = fs::read_to_string(format!("/proc/{hanging}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    });
}

/// Limits a command to `bytes` of memory.
fn limit_data(command: &mut Command, bytes: u64) {
    // SAFETY: a kernel call that allocates nothing.
    unsafe {
        command.pre_exec(move || {
            use nix::sys::resource::{Resource, setrlimit};
            Ok(setrlimit(Resource::RLIMIT_DATA, bytes, bytes)?)
        });
    }
}

#[test]
fn a_trace_that_is_cut_off_is_said_by_export_and_replay_with_a_code_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = trace(&[], 1000);
    let path = written(folder.path(), &whole);
    let out = folder.path().join("out.txt");
    let exported = |whole: bool| {
        let flags = [text(&path), "--format", "logalloc", "-o", text(&out)];
        let output = run(command(&["export"]).args(flags));
        let said = stderr(&output);
        assert_eq!(said.contains("incomplete"), !whole, "{said}");
        assert_eq!(said.contains("cut off: 1000 events"), !whole, "{said}");
        let lines = fs::read_to_string(&out).expect("written").lines().count();
        (output.status.code(), lines)
    };
    assert_eq!(exported(true), (Some(0), 1000));
    // The end is missing, and then more.
    fs::write(&path, &whole[..whole.len() - 10]).expect("written");
    assert_eq!(exported(false), (Some(6), 1000));
    let flags = [text(&path), "--allocator", "glibc", "--json"];
    let output = run(command(&["replay"]).args(flags));
    assert_eq!(output.status.code(), Some(6));
    assert!(replayed(&output)["trace"]["trouble"].is_string());
    let said = stderr(&output);
    assert!(said.contains("incomplete"), "{said}");
}

#[test]
fn a_bomb_stays_below_a_limit_of_memory_and_of_the_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    // 400 MB of text, in less than a MB: a hundred million blocks.
    let lines = b"+ 0\n".repeat(1 << 20);
    let mut packer = zstd::Encoder::new(Vec::new(), 1).expect("memory");
    packer
        .write_all(b"v 10400 3\nX bomb\na 10 1\n")
        .expect("memory");
    for _ in 0..100 {
        packer.write_all(&lines).expect("memory");
    }
    let bomb = packer.finish().expect("memory");
    assert!(bomb.len() < 1 << 20);
    let path = written(folder.path(), &bomb);
    let limited = |subcommand: &str, flags: &[&str]| {
        let mut limited = command(&[subcommand]);
        limit_data(limited.args(flags), 1 << 30);
        run(&mut limited)
    };
    let sizes = ["--max-memory", "256M", "--max-size", "512M"];
    let replay = [text(&path), "--allocator", "glibc", "--json"];
    let output = limited("replay", &[&replay[..], &sizes].concat());
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let trouble = replayed(&output)["trace"]["trouble"].to_string();
    assert!(trouble.contains("the limit of"), "{trouble}");
    assert!(stderr(&output).contains("\nfix: --max-"), "{output:?}");
    let out = folder.path().join("out.txt");
    let sizes = ["--max-size", "500M", "--max-memory", "64M"];
    let export = [text(&path), "--format", "logalloc", "-o", text(&out)];
    let output = limited("export", &[&export[..], &sizes].concat());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(
        said.contains("the limit of memory\nfix: --max-memory raises"),
        "{said}"
    );
    assert!(fs::metadata(&out).expect("written").len() < 500 << 20);
}

#[test]
fn a_trace_that_wants_more_memory_than_there_is_ends_its_players_and_not_the_host() {
    let folder = tempfile::tempdir().expect("a folder");
    // One that no allocator gives, and in another trace a hundred that are touched whole.
    let path = written(folder.path(), &trace_of(&[], [1 << 60].into_iter()));
    let flags = [text(&path), "--allocator", "glibc", "--json"];
    let output = run(command(&["replay"]).args(flags));
    assert!(failure_of_now(&replayed(&output)).contains("gave no memory"));
}

#[test]
fn what_is_saved_is_not_for_others_to_load() {
    // The flag asks who can have changed the object, whatever it is called.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (bait, _) = bait(folder.path(), "libbait.so");
    fs::set_permissions(&bait, fs::Permissions::from_mode(0o777)).expect("set");
    let described = [("malloc", "jemalloc 5.3.0"), ("malloc_path", text(&bait))];
    let path = written(folder.path(), &trace(&described, 100));
    let document = replayed_with_its_allocator(&path);
    assert_eq!(failure_of_now(&document), "");
    let not_taken = document["trace"]["not_taken"].to_string();
    assert!(
        not_taken.contains("can be written by other users"),
        "{not_taken}"
    );
}
