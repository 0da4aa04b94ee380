//! The black box: the last observations of a process that is gone, and how it ended. Processes are
//! really killed, in their own memory control groups.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use profiler_testing::child::{Child, KillOnDrop};
use profiler_testing::wait::eventually;
use serde_json::Value;
use support::memory_group::MemoryGroup;
use support::{command, fragscope, script, stderr, stdout};

/// Waits for a line, and takes all the memory that there is.
const EATER: &str = "
import sys
kept = [bytes(1000) for _ in range(20000)]
print(1, flush=True)
while sys.stdin.readline() == 'more\\n':
    while True:
        kept.append(bytes(1000) * 100)
";

/// fragscope that goes on, and what it has printed.
struct Running {
    fragscope: KillOnDrop,
    said: Arc<Mutex<String>>,
}

impl Running {
    fn start(mut fragscope: Command) -> Self {
        let spawned = fragscope.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = spawned.stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let said = Arc::new(Mutex::new(String::new()));
        let all = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *all.lock().expect("whole") += &(line + "\n");
            }
        });
        let fragscope = KillOnDrop(child);
        Self { fragscope, said }
    }

    fn serve(black_box: &Path, flags: &[&str]) -> Self {
        let mut serve = command(&["serve", "--listen", "127.0.0.1:0", "--interval", "200ms"]);
        serve.args(["--budget", "unlimited", "--black-box"]);
        serve.arg(black_box).args(flags);
        Self::start(serve)
    }

    fn said(&self) -> String {
        self.said.lock().expect("whole").clone()
    }

    fn until_said(&self, words: &str) {
        eventually(words, || self.said().contains(words).then_some(()));
    }
}

/// The file of a process, once it has a walk.
fn file_of(black_box: &Path, name: &str, child: &Child) -> PathBuf {
    let file = black_box.join(format!("{name}-{}.fragsnap", child.pid()));
    eventually("a walk in the black box", || {
        file.exists().then_some(file.clone())
    })
}

/// Words without what is between them: lines end where a path may be cut.
fn packed(text: &str) -> String {
    text.split_whitespace().collect()
}

/// The explanation of a file, which is whole, packed.
fn explained(file: &Path) -> String {
    let output = fragscope(&["explain", "--no-predict", file.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    packed(&text)
}

fn snapshot(file: &Path) -> Value {
    let file = file.to_str().expect("UTF-8");
    let output = fragscope(&["export", file, "--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).expect("JSON")
}

/// Has it take all memory that its group has, until the kernel ends it.
fn is_killed(child: &mut Child) {
    child.send("more");
    let status = child.ended();
    assert_eq!(
        status.signal(),
        Some(Signal::SIGKILL as i32),
        "by the kernel"
    );
}

#[test]
fn a_worker_that_the_oom_killer_kills_is_explained_from_the_black_box_of_serve() {
    let folder = tempfile::tempdir().expect("a folder");
    let black_box = folder.path().join("box");
    let group = MemoryGroup::new("box_serve", 100 << 20);
    let mut worker = script("box_worker.py", EATER);
    let bystander = script("box_bystander.py", EATER);
    group.take(worker.pid());
    group.take(bystander.pid());
    let serving = Running::serve(&black_box, &[]);
    let file = file_of(&black_box, "box_worker", &worker);
    let other = file_of(&black_box, "box_bystander", &bystander);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&black_box), mode(&file)), (0o700, 0o600));
    let pid = worker.pid();
    is_killed(&mut worker);
    let killed = format!(
        "process {pid} was killed by the OOM killer in the memory control group {}, whose limit is 100.0 MiB",
        group.name()
    );
    serving.until_said(&killed);
    let text = explained(&file);
    let said = text.find(&packed(&killed[1..])).expect("it is said");
    let verdict = text.find("resident,").expect("it goes on");
    assert!(said < verdict, "before all else: {text}");
    // The geometry before: what it had lived, and its program.
    let saved = snapshot(&file);
    assert_eq!(saved["target"]["pid"].as_i64(), Some(pid.into()));
    let live = saved["heaps"][0]["live_bytes"].as_u64().expect("walked");
    assert!(live > 10 << 20, "{live}");
    assert!(saved["ended"].as_str().expect("it has").contains(&killed));
    // Nobody has ended the other one.
    assert!(snapshot(&other)["ended"].is_null());
    drop(serving);
    let files = fs::read_dir(&black_box).expect("listed").count();
    assert!(files >= 2, "both are there when serve is not");
}

/// `attach` without a screen that looks often, and at memory alone.
fn attach_to(worker: &Child) -> Command {
    let pid = worker.pid().to_string();
    let mut attach = command(&["attach", "--headless", "--no-probes", "--interval", "100ms"]);
    attach.args(["--no-predict", "--no-objects", "--pid", &pid]);
    attach
}

#[test]
fn attach_names_the_oom_killer_in_the_session_and_in_the_black_box() {
    let folder = tempfile::tempdir().expect("a folder");
    let black_box = folder.path().join("box");
    let session = folder.path().join("session.fragsnap");
    let group = MemoryGroup::new("box_attach", 100 << 20);
    let mut worker = script("box_attached.py", EATER);
    group.take(worker.pid());
    let mut attach = attach_to(&worker);
    attach.arg("--black-box").arg(&black_box);
    attach.arg("-o").arg(&session);
    let mut attached = Running::start(attach);
    let file = file_of(&black_box, "box_attached", &worker);
    is_killed(&mut worker);
    let status = attached.fragscope.ended();
    assert_eq!(status.code(), Some(5), "{}", attached.said());
    let killed = format!(
        "The target process {} was killed by the OOM killer in the memory control group {}, whose limit is 100.0 MiB",
        worker.pid(),
        group.name()
    );
    for file in [&file, &session] {
        let text = explained(file);
        assert!(text.contains(&packed(&killed)), "{text}");
    }
}

#[test]
fn without_a_black_box_a_session_says_what_the_control_group_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    let session = folder.path().join("session.fragsnap");
    let group = MemoryGroup::new("box_none", 100 << 20);
    let mut worker = script("box_counted.py", EATER);
    group.take(worker.pid());
    let mut attach = attach_to(&worker);
    attach.arg("-o").arg(&session);
    let mut attached = Running::start(attach);
    eventually("a walk", || session.exists().then_some(()));
    is_killed(&mut worker);
    let status = attached.fragscope.ended();
    assert_eq!(status.code(), Some(5), "{}", attached.said());
    let text = explained(&session);
    let expected = format!(
        "The target process {} has exited, and meanwhile the OOM killer has killed a process of its memory \
         control group {}, whose limit is 100.0 MiB",
        worker.pid(),
        group.name()
    );
    assert!(text.contains(&packed(&expected)), "{text}");
}

#[test]
fn a_process_that_ends_in_another_way_keeps_its_last_walk() {
    let folder = tempfile::tempdir().expect("a folder");
    let black_box = folder.path().join("box");
    let mut worker = script("box_quits.py", EATER);
    let serving = Running::serve(&black_box, &[]);
    let file = file_of(&black_box, "box_quits", &worker);
    kill(Pid::from_raw(worker.pid()), Signal::SIGKILL).expect("ours");
    worker.ended();
    let how = format!("process {} has exited", worker.pid());
    let saved = eventually("its end", || {
        let saved = snapshot(&file);
        (saved["ended"].as_str() == Some(&how)).then_some(saved)
    });
    assert!(saved["heaps"][0]["live_bytes"].as_u64() > Some(10 << 20));
    assert!(
        !serving.said().contains("OOM killer in"),
        "{}",
        serving.said()
    );
}

#[test]
fn a_full_disk_is_said_what_is_there_stays_and_it_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).expect("ours");
    let run = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).arg(&disk).status();
        assert!(status.expect(program).success(), "{program} {args:?}");
    };
    run("mount", &["-t", "tmpfs", "-o", "size=64m,mode=700", "none"]);
    let filler = disk.join("filler");
    let worker = script("box_full.py", EATER);
    let serving = Running::serve(&disk, &["--black-box-size", "40M"]);
    let file = file_of(&disk, "box_full", &worker);
    // All that there is.
    let mut full = fs::File::create(&filler).expect("ours");
    while full.write_all(&[1; 4096]).is_ok() {}
    serving.until_said("No space left on device");
    let before = fs::read(&file).expect("there");
    explained(&file);
    drop(full);
    fs::remove_file(&filler).expect("removed");
    serving.until_said("the black box is written again");
    eventually("another walk", || {
        (fs::read(&file).expect("there") != before).then_some(())
    });
    // Other processes of the host have smaller files, which may have found room meanwhile.
    let said = serving.said();
    let times = said.matches("No space left on device").count();
    let again = said.matches("the black box is written again").count();
    assert_eq!(times, again, "{said}");
    drop(serving);
    let left = fs::read_dir(&disk).expect("listed");
    let left: Vec<_> = left.map(|entry| entry.expect("read").file_name()).collect();
    let of_ours = |name: &std::ffi::OsString| name.to_string_lossy().ends_with(".fragsnap");
    assert!(left.iter().all(of_ours), "no half files: {left:?}");
    run("umount", &[]);
}

#[test]
fn a_folder_that_others_can_write_to_is_no_place_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = folder.path().join("open");
    fs::create_dir(&open).expect("ours");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("set");
    let output = fragscope(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--black-box",
        open.to_str().expect("UTF-8"),
    ]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("can be written by other users (mode 777)"),
        "{said}"
    );
    assert!(
        said.contains("name a folder that you alone can write to"),
        "{said}"
    );
}
