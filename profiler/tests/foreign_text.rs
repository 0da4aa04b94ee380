//! Text chosen by a target, by file names or by a recording never drives the terminal and never
//! begins a line of its own. Needs no privilege; as root, more tests run.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use profiler_core::text::is_harmful;
use profiler_testing::child::{Child, compiled};
use serde_json::Value;
use support::memory_group::MemoryGroup;
use support::{FRAGSCOPE, are_all, command, json, run, stdout};

/// An escape sequence, a newline that forges a line, a C1 byte, and a character that turns text
/// around. It is no longer than a comm, of which the kernel keeps 15 bytes.
const HOSTILE: &str = "\x1b[2J\nFORGED\u{9b}\u{202e}";
/// How a forged line would begin.
const FORGED: &str = "FORGED";

/// A process all of which is hostile, that lives in `folder`.
fn hostile(folder: &Path) -> Child {
    let program = compiled("foreign");
    let home = folder.join(HOSTILE);
    fs::create_dir(&home).expect("made");
    let (exe, library) = (home.join(HOSTILE), home.join(format!("lib{HOSTILE}.so")));
    let installed = Command::new("install")
        .arg("-m755")
        .arg(program.path().join("foreign"))
        .arg(&exe)
        .status();
    assert!(installed.expect("install").success());
    // A library that holds an allocator, by its text, so that its path is shown.
    fs::write(&library, b"\x7fELF<jemalloc>: ").expect("written");
    let mut command = Command::new(&exe);
    command
        .arg(&library)
        .arg(HOSTILE)
        .current_dir(&home)
        .env("MALLOC_ARENA_MAX", HOSTILE)
        .env("GLIBC_TUNABLES", format!("glibc.malloc.{HOSTILE}=1"))
        .env("MALLOC_CONF", HOSTILE);
    let child = Child::run(command);
    assert_eq!(child.first_line(), "ready");
    child
}

/// Neither drives a terminal nor begins with words of somebody else.
#[track_caller]
fn is_harmless(bytes: &[u8], of: &str) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{of}: {error}"));
    let harmful: Vec<_> = text
        .chars()
        .filter(|&c| is_harmful(c) && c != '\n')
        .collect();
    assert!(harmful.is_empty(), "{of}: {harmful:?} in {text}");
    let forged = text
        .lines()
        .find(|line| line.trim_start().starts_with(FORGED));
    assert_eq!(forged, None, "{of}: {text}");
}

#[track_caller]
fn check(args: &[&str], folder: &Path) -> Output {
    let words: Vec<_> = args.iter().map(std::ffi::OsStr::new).collect();
    let output = run(command(&words).current_dir(folder));
    let of = format!("{args:?} ended with {:?}", output.status.code());
    is_harmless(&output.stdout, &of);
    is_harmless(&output.stderr, &of);
    output
}

#[test]
fn a_hostile_process_is_shown_harmlessly_by_every_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let child = hostile(folder.path());
    let pid = child.pid().to_string();
    let outputs = ["-o", "out.json", "-o", "out.csv", "-o", "out.hlog"];
    let attach = ["attach", "--pid", &pid, "--duration", "300ms"];
    let shown = check(&["snapshot", "--pid", &pid], folder.path());
    assert_eq!(shown.status.code(), Some(0));
    let shown = stdout(&shown);
    assert!(shown.contains("\\x1b[2J\\nFORGED"), "{shown}");
    check(&["snapshot", "--pid", &pid, "--json"], folder.path());
    let lines = [
        "snapshot --tree --pid PID".to_owned(),
        "snapshot --pid PID -o s.fragsnap".into(),
        "explain --pid PID".into(),
        "explain --tree --pid PID".into(),
        "explain s.fragsnap".into(),
        "check --max-rss 1 --max-growth 1/s --over 100ms --pid PID".into(),
        "check --max-rss 1 s.fragsnap".into(),
        "diff s.fragsnap --pid PID".into(),
        "diff s.fragsnap s.fragsnap --json".into(),
        "export s.fragsnap --format json".into(),
        "report s.fragsnap -o s.html".into(),
        "top --once --all".into(),
        "top --once --all --json".into(),
        "doctor --pid PID".into(),
        "doctor --pid PID --json".into(),
        // Below.
        "attach".into(),
        "record".into(),
    ];
    // A recording's player is in the next test, the metrics have one of their own, a screen is no text, and the
    // others show nothing of a process's.
    let others = ["replay", "serve", "view", "demo", "completions", "man"];
    are_all(&lines, &others);
    for line in lines.iter().filter(|line| line.contains(' ')) {
        let line = line.replace("PID", &pid);
        let args: Vec<&str> = line.split(' ').collect();
        let shown = check(&args, folder.path());
        let code = shown.status.code();
        assert!(matches!(code, Some(0 | 3)), "{line}: {shown:?}");
    }
    is_harmless(
        &fs::read(folder.path().join("s.html")).expect("written"),
        "s.html",
    );
    for how in [
        &["--headless"][..],
        &["--json"],
        &["--headless", "--no-probes"],
    ] {
        let args = [&attach[..], how, &outputs[..]].concat();
        check(&args, folder.path());
        for file in ["out.json", "out.csv", "out.hlog"] {
            let bytes = fs::read(folder.path().join(file)).expect("written");
            is_harmless(&bytes, file);
        }
    }
    let record = [
        "record",
        "--pid",
        &pid,
        "--duration",
        "300ms",
        "-o",
        "r.fragtrace",
    ];
    check(&record, folder.path());
    let document = check(&["snapshot", "--pid", &pid, "--json"], folder.path()).stdout;
    let document: serde_json::Value = serde_json::from_slice(&document).expect("JSON");
    assert_eq!(
        document["target"]["cmdline"][2], HOSTILE,
        "JSON keeps what it was"
    );
}

/// No UTF-8, and no text of any other kind that a terminal shows.
const NO_TEXT: &[u8] = b"\xff\x9b\xfe";

/// A process whose program, comm, argument, thread, and memory are named [`NO_TEXT`].
fn nameless(folder: &Path) -> Child {
    let program = compiled("not_text");
    let home = folder.join(OsStr::from_bytes(NO_TEXT));
    fs::create_dir(&home).expect("made");
    let exe = home.join(OsStr::from_bytes(NO_TEXT));
    let installed = Command::new("install")
        .arg("-m755")
        .arg(program.path().join("not_text"))
        .arg(&exe)
        .status();
    assert!(installed.expect("install").success());
    let mut command = Command::new(&exe);
    command.arg(OsStr::from_bytes(NO_TEXT)).current_dir(&home);
    let child = Child::run(command);
    assert_eq!(child.first_line(), "ready");
    child
}

/// What is shown for [`NO_TEXT`].
const SHOWN: &str = "\u{fffd}\u{fffd}\u{fffd}";

#[test]
fn a_process_whose_names_are_not_utf_8_is_shown_like_any_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let child = nameless(folder.path());
    let pid = child.pid();
    let own = pid.to_string();
    for line in [
        "snapshot --pid PID",
        "explain --no-predict --pid PID",
        "doctor --pid PID",
        "top --once --all",
        "attach --headless --duration 300ms --pid PID",
    ] {
        let line = line.replace("PID", &own);
        let args: Vec<&str> = line.split(' ').collect();
        let shown = check(&args, folder.path());
        assert_eq!(shown.status.code(), Some(0), "{line}: {shown:?}");
    }
    let shown = json(&check(
        &["snapshot", "--json", "--pid", &own],
        folder.path(),
    ));
    let target = &shown["target"];
    assert_eq!(target["comm"], SHOWN);
    assert_eq!(target["cmdline"][1], SHOWN);
    assert!(target["libc"].is_string(), "its files are read: {target}");
    let top = json(&check(&["top", "--once", "--all", "--json"], folder.path()));
    let listed = in_list(&top, pid);
    assert_eq!(listed["comm"], SHOWN);
    assert!(listed["rss_bytes"].as_u64() > Some(0), "{listed}");
}

/// A process in what `top` says.
fn in_list(top: &Value, pid: i32) -> &Value {
    let all = top["processes"].as_array().expect("processes");
    all.iter().find(|one| one["pid"] == pid).expect("it runs")
}

/// Any user who has `fusermount3` can mount something there.
#[test]
fn a_mount_point_that_is_not_utf_8_hides_no_control_group() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let group = MemoryGroup::new("not_text", 1 << 30);
    let child = nameless(folder.path());
    group.take(child.pid());
    let pid = child.pid().to_string();
    // Not under a mount point: that of the temporary folder may have been copied before.
    let place = folder.path().join(OsStr::from_bytes(b"mount\xff"));
    fs::create_dir(&place).expect("made");
    let beside = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", "mount -t tmpfs x \"$0\" && exec \"$@\""]);
        command.arg(&place).arg(FRAGSCOPE).args(args);
        let output = run(&mut command);
        is_harmless(&output.stdout, &format!("{args:?}"));
        is_harmless(&output.stderr, &format!("{args:?}"));
        output
    };
    let name = group.name();
    let doctor = beside(&["doctor", "--pid", &pid]);
    assert_eq!(doctor.status.code(), Some(0), "{doctor:?}");
    let shown = json(&beside(&["snapshot", "--json", "--pid", &pid]));
    let top = json(&beside(&["top", "--once", "--all", "--json"]));
    for cgroup in [&shown["cgroup"], &in_list(&top, child.pid())["cgroup"]] {
        let path = cgroup["path"].as_str().unwrap_or_default();
        assert!(path.ends_with(&name), "{cgroup}");
        assert_eq!(cgroup["max_bytes"], 1 << 30, "{cgroup}");
    }
}

#[test]
fn a_hostile_tracer_is_named_harmlessly() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = compiled("traced");
    let mut command = Command::new(program.path().join("traced"));
    command.arg(HOSTILE);
    let child = Child::run(command);
    assert_eq!(child.first_line(), "ready");
    let pid = child.pid().to_string();
    let attach = ["attach", "--headless", "--duration", "300ms", "--pid", &pid];
    for args in [
        &["snapshot", "--pid", &pid][..],
        &["snapshot", "--json", "--pid", &pid],
        &["explain", "--no-predict", "--pid", &pid],
        &["doctor", "--pid", &pid],
        &attach,
    ] {
        let output = check(args, folder.path());
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // Where the tracer is named, which JSON need not do, it is by its name.
        assert!(
            !said.contains("already traced") || said.contains("x1b[2J"),
            "{args:?}: {said}"
        );
    }
    let doctor = check(&["doctor", "--pid", &pid], folder.path());
    let said = stdout(&doctor);
    assert!(said.contains("\\x1b[2J\\nFORGED"), "{said}");
}

#[test]
fn a_hostile_command_is_recorded_and_replayed_harmlessly() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(hostile(folder.path()));
    let home = folder.path().join(HOSTILE);
    let exe = home.join(HOSTILE);
    let library = home.join(format!("lib{HOSTILE}.so"));
    let (exe, library) = (exe.to_string_lossy(), library.to_string_lossy());
    let trace = format!("{HOSTILE}.fragtrace");
    let record = ["record", "-o", &trace, "--", &exe, &library, HOSTILE];
    let recorded = check(&record, folder.path());
    assert_eq!(recorded.status.code(), Some(0));
    let report = format!("{HOSTILE}.json");
    let replay = ["replay", &trace, "--allocator", "glibc", "--runs", "1"];
    check(&replay, folder.path());
    // One that jemalloc ends for, and says so with the value in it.
    let hostile_value = format!("MALLOC_CONF=abort_conf:true,{HOSTILE}:x");
    let played = check(
        &["replay", &trace, "--runs", "1", "--tunable", &hostile_value],
        folder.path(),
    );
    assert_eq!(played.status.code(), Some(1));
    check(
        &[&replay[..], &["--json", "-o", &report]].concat(),
        folder.path(),
    );
    is_harmless(
        &fs::read(folder.path().join(&report)).expect("written"),
        "it",
    );
    let text = format!("{HOSTILE}.txt");
    let export = ["export", &trace, "--format", "logalloc", "-o", &text];
    assert_eq!(check(&export, folder.path()).status.code(), Some(0));
    is_harmless(&fs::read(folder.path().join(&text)).expect("written"), "it");
}

#[test]
fn errors_name_hostile_files_and_words_harmlessly() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let there = format!("{HOSTILE}.core");
    fs::write(path(&there), "nothing that is known").expect("written");
    fs::create_dir(path(&format!("{HOSTILE}.json"))).expect("made");
    std::os::unix::fs::symlink("a", path(&format!("{HOSTILE}.csv"))).expect("linked");
    fs::write(path("not_a_library.so"), "nothing that is known").expect("written");
    let pid = std::process::id().to_string();
    let name = |ending: &str| format!("{HOSTILE}{ending}");
    let (json, csv, xml, missing) = (name(".json"), name(".csv"), name(".xml"), name(".none"));
    let nowhere = format!("{HOSTILE}/out.json");
    for args in [
        &["snapshot", "--core", &there][..],
        &["snapshot", "--core", &missing],
        &["snapshot", "--core", &there, "--exe", &missing],
        &["explain", "--core", "."],
        &["snapshot", "--pid", &pid, "-o", &json],
        &["snapshot", "--pid", &pid, "-o", &csv],
        &["snapshot", "--pid", &pid, "-o", &xml],
        &["snapshot", "--pid", &pid, "-o", &nowhere],
        &["attach", "--pid", &pid, "--headless", "-o", &nowhere],
        &["replay", &there],
        &["replay", &missing],
        &["replay", &there, "--allocator", HOSTILE],
        &["replay", &there, "--tunable", HOSTILE],
        &["replay", &there, "--tunable", &format!("{HOSTILE}=1")],
        &[
            "replay",
            &there,
            "--tunable",
            &format!("mmap_threshold={HOSTILE}"),
        ],
        &["attach", "--pid", &pid, "--headless", "--what-if", HOSTILE],
        &["attach", "--pid", &pid, "--headless", "--what-if", &nowhere],
        &["export", &there, "--format", "logalloc"],
        &["export", &missing, "--format", "logalloc"],
        &["export", &missing, "--format", HOSTILE],
        &["record", "-o", &nowhere, "--", "true"],
        &["record", "-o", "out.fragtrace", "--", &missing],
        &["attach", "--pid", HOSTILE],
        &["attach", "--pid", &pid, "--budget", HOSTILE],
        &[HOSTILE],
        &["--", HOSTILE],
    ] {
        let output = check(args, folder.path());
        assert_ne!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?} says why");
    }
    // Names need not be UTF-8.
    let bytes = std::ffi::OsStr::from_bytes(b"\x1b\x9b\xff\n.core");
    let words = ["snapshot", "--core"].map(std::ffi::OsStr::new);
    let output = run(command(&[words[0], words[1], bytes]).current_dir(folder.path()));
    is_harmless(&output.stderr, "a name that is not UTF-8");
}
