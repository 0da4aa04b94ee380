//! A target whose control group is frozen.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use profiler_testing::child::{Child, KillOnDrop};
use profiler_testing::wait::eventually;

use crate::support::{FRAGSCOPE, fragscope, stderr, stdout, text};

/// A group of our own that can be frozen, of the first version where that is mounted.
struct Freezer {
    path: PathBuf,
    is_first: bool,
}

impl Freezer {
    fn new() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let is_first = root.join("freezer").is_dir();
        let parent = match is_first {
            true => root.join("freezer"),
            false => root.to_owned(),
        };
        let path = parent.join(format!("fragscope-test-{}", std::process::id()));
        fs::create_dir(&path).expect("control groups are mounted, and we are root");
        Self { path, is_first }
    }

    fn add(&self, pid: i32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("it runs");
    }

    fn write(&self, frozen: bool) -> std::io::Result<()> {
        let (file, words) = match self.is_first {
            true => ("freezer.state", ["THAWED", "FROZEN"]),
            false => ("cgroup.freeze", ["0", "1"]),
        };
        fs::write(self.path.join(file), words[usize::from(frozen)])
    }

    fn freeze(&self) {
        self.write(true).expect("it can be frozen");
        let (file, wanted) = match self.is_first {
            true => ("freezer.state", "FROZEN"),
            false => ("cgroup.events", "frozen 1"),
        };
        let state = self.path.join(file);
        let state = || fs::read_to_string(&state).expect("a state");
        eventually("its frozen state", || {
            state().lines().any(|line| line == wanted).then_some(())
        });
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // Its process ends when it runs again, and the group can be removed after that.
        let _ = self.write(false);
        eventually("the end of the group", || fs::remove_dir(&self.path).ok());
    }
}

/// A quota of processor time, or a frozen group, of fragscope's must keep no stop from ending.
#[test]
fn a_guard_leaves_the_groups_that_keep_it_from_running() {
    let root = Path::new("/sys/fs/cgroup");
    let name = format!("fragscope-guard-{}", std::process::id());
    let hierarchies = ["cpu", "freezer", "memory"].map(|controller| root.join(controller));
    let mut groups: Vec<PathBuf> = hierarchies.into_iter().filter(|one| one.is_dir()).collect();
    if groups.is_empty() {
        groups.push(root.to_owned());
    }
    let groups: Vec<PathBuf> = groups.into_iter().map(|one| one.join(&name)).collect();
    let child = Child::python("print(1, flush=True)\ninput()");
    let mut script = String::new();
    for group in &groups {
        fs::create_dir(group).expect("control groups are mounted, and we are root");
        script += &format!("echo $$ >{}/cgroup.procs; ", text(group));
    }
    // Beside a mount point that is not UTF-8, as any user can make one who has `fusermount3`.
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join(OsStr::from_bytes(b"mount\xff"));
    fs::create_dir(&place).expect("made");
    script += "mount -t tmpfs x \"$2\"; exec \"$0\" attach --json --no-probes --pid \"$1\"";
    let attached = Command::new("unshare")
        .args([
            "-m",
            "sh",
            "-e",
            "-c",
            &script,
            FRAGSCOPE,
            &child.pid().to_string(),
        ])
        .arg(&place)
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh");
    let mut attached = KillOnDrop(attached);
    let mut line = String::new();
    // A session whose lines nobody reads any more ends.
    let mut lines = BufReader::new(attached.stdout.take().expect("piped"));
    lines.read_line(&mut line).expect("a line");
    // Any of its threads may have forked it.
    let tasks = fs::read_dir(format!("/proc/{}/task", attached.id())).expect("it runs");
    let children = tasks.flatten().map(|task| task.path().join("children"));
    let children: String = children.flat_map(fs::read_to_string).collect();
    let guards: Vec<String> = children
        .split_whitespace()
        .filter(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "stop-guard"
        })
        .map(|pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs"))
        .collect();
    assert_eq!(guards.len(), 1, "{guards:?}");
    assert!(!guards[0].contains(&name), "{}", guards[0]);
    drop(attached);
    for group in &groups {
        eventually("the end of the group", || fs::remove_dir(group).ok());
    }
}

#[test]
fn a_frozen_target_is_walked_called_frozen_and_goes_on_when_it_is_thawed() {
    let freezer = Freezer::new();
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = Child::python(
        "import sys\nprint(1, flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)",
    );
    freezer.add(child.pid());
    freezer.freeze();
    let pid = child.pid().to_string();
    let trace = folder.path().join("it.fragtrace");
    for (words, code) in [
        (&["snapshot", "--pid", &pid][..], &[0][..]),
        (&["doctor", "--pid", &pid], &[0, 1]),
        (
            &["attach", "--headless", "--duration", "300ms", "--pid", &pid],
            &[0],
        ),
        (
            &[
                "record",
                "--duration",
                "300ms",
                "-o",
                text(&trace),
                "--pid",
                &pid,
            ],
            &[0],
        ),
    ] {
        let output = fragscope(words);
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert!(
            code.contains(&output.status.code().unwrap_or(-1)),
            "{words:?}: {said}"
        );
        if words[0] == "doctor" {
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains("is frozen with its control group"), "{said}");
        }
    }
    assert!(freezer.write(false).is_ok());
    assert_eq!(child.ask("go on"), "go on");
    child.kill();
}
