//! The account of a memory control group, for processes that really fill one.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use profiler_testing::child::{Child, state_of};
use serde_json::Value;
use support::memory_group::MemoryGroup;
use support::record::record;
use support::{fragscope, json, run, stderr, stdout};

/// Moves into the group, so that everything it uses is charged there, and writes a file of the
/// given number of MiB.
const WRITER: &str = "
import os, sys
entrance, path, mib = sys.argv[1:]
open(entrance, 'w').write(str(os.getpid()))
kept = [bytes(1000) for _ in range(20000)]
with open(path, 'wb') as file:
    for _ in range(int(mib)):
        file.write(os.urandom(1 << 20))
    os.fsync(file.fileno())
print(1, flush=True)
sys.stdin.read()
";

fn writer(group: &MemoryGroup, mib: u32) -> Child {
    // On a disk: the pages of files in memory are shared memory, and never taken back.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let script = folder.path().join("writer.py");
    fs::write(&script, WRITER).expect("written");
    let mut command = Command::new("python3");
    command.arg("-S").arg(&script).arg(group.entrance());
    command.arg(folder.path().join("file")).arg(mib.to_string());
    Child::run(command).keep(folder)
}

/// The explanation of a process in one line, and its JSON.
fn explained(child: &Child) -> (String, Value) {
    let pid = child.pid().to_string();
    let output = fragscope(&["explain", "--no-predict", "--pid", &pid]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let saved = json(&fragscope(&["snapshot", "--json", "--pid", &pid]));
    (text, saved)
}

#[test]
fn a_group_full_of_page_cache_is_said_to_be_and_its_parts_are_those_of_the_kernel() {
    let group = MemoryGroup::new("account", 128 << 20);
    let child = writer(&group, 150);
    let (text, saved) = explained(&child);
    assert!(text.contains("of the 128.0 MiB that it may have"), "{text}");
    let verdict = "It is full of page cache, not of what its processes have allocated";
    assert!(text.contains(verdict), "{text}");
    let account = &saved["cgroup"];
    let bytes = |key: &str| {
        account[key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key}: {account}"))
    };
    assert_eq!(account["path"].as_str(), Some(group.name().as_str()));
    assert_eq!(bytes("max_bytes"), 128 << 20);
    assert!(bytes("current_bytes") > 100 << 20, "{account}");
    assert!(bytes("file_bytes") > 80 << 20, "{account}");
    let anon = bytes("anon_bytes");
    assert!((15 << 20..60 << 20).contains(&anon), "{account}");
    assert!(bytes("left_bytes") > 60 << 20, "{account}");
    assert_eq!(bytes("oom_kills"), 0);
    // What is saved is what was seen.
    let file = tempfile::tempdir().expect("a folder");
    let file = file.path().join("walk.fragsnap");
    let file = file.to_str().expect("UTF-8");
    let pid = child.pid().to_string();
    fragscope(&["snapshot", "--pid", &pid, "-o", file]);
    let again = json(&fragscope(&["export", file, "--format", "json"]));
    assert_eq!(again["cgroup"]["max_bytes"].as_u64(), Some(128 << 20));
    assert!(
        again["explanation"]
            .as_str()
            .expect("text")
            .contains(verdict)
    );
}

#[test]
fn a_group_far_from_its_limit_is_in_the_account_alone() {
    let group = MemoryGroup::new("far", 2 << 30);
    let child = writer(&group, 10);
    let (text, saved) = explained(&child);
    assert!(!text.contains("that it may have"), "{text}");
    assert_eq!(saved["cgroup"]["max_bytes"].as_u64(), Some(2 << 30));
}

/// Moves into the group, and keeps 200 MiB of small objects.
const KEEPER: &str = "
import os, sys
open(sys.argv[1], 'w').write(str(os.getpid()))
kept = [bytes(100) for _ in range(1500000)]
print(1, flush=True)
sys.stdin.read()
";

#[test]
fn where_a_group_has_no_room_for_fragscope_it_is_ended_and_not_the_target() {
    let group = MemoryGroup::new("crowded", 320 << 20);
    let mut command = Command::new("python3");
    command.args(["-S", "-c", KEEPER]).arg(group.entrance());
    let child = Child::run(command);
    let resident = group.charged();
    group.limit(resident + (8 << 20));
    // As somebody does in the target's container.
    let script = "echo $$ >\"$0\"; exec \"$@\"";
    let pid = child.pid().to_string();
    let explain = ["explain", "--pid", &pid];
    let mut within = Command::new("sh");
    within.args(["-c", script]).arg(group.entrance());
    within.arg(env!("CARGO_BIN_EXE_fragscope")).args(explain);
    let output = run(&mut within);
    let said = stderr(&output);
    assert_eq!(output.status.signal(), Some(9), "it had no room: {said}");
    assert_ne!(state_of(child.pid()), 'Z', "{said}");
}

#[test]
fn what_fragscope_starts_keeps_the_score_that_it_would_have() {
    let score = "/proc/self/oom_score_adj";
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(&mut record(&folder.path().join("trace"), &["cat", score]));
    let own = fs::read_to_string(score).expect("a score");
    assert_eq!(stdout(&output), own, "{}", stderr(&output));
}
