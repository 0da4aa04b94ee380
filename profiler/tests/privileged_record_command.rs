//! `record -- COMMAND` on programs that end, die, stay and hide.

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use profiler_testing::child::{eventually, install, open_folder};
use profiler_trace::trace::{EventKind, Item, Reader};
use support::record::{Recording, allocate, compiled, ended, held, record, run};
use support::{command, idle_python, stderr, text};

const NOBODY: u32 = 65534;

#[test]
fn it_ends_with_the_exit_code_of_its_command() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    for (script, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
    ] {
        let output = run(&mut record(&trace, &["sh", "-c", script]));
        assert_eq!(
            output.status.code(),
            Some(code),
            "{script}: {}",
            stderr(&output)
        );
        assert!(held(&trace, 0).whole);
        assert!(
            !stderr(&output).contains("not recorded"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn what_is_executed_as_another_user_and_not_recorded_is_named_at_the_end() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let shell = ["/bin/sh", "-c", "sleep 1; exit 3"];
    let drop = ["setpriv", "--reuid=65534", "--clear-groups"];
    let output = run(&mut record(&trace, &[&drop[..], &shell[..]].concat()));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("not recorded, though"), "{said}");
    assert!(said.contains("sh (process "), "{said}");
    // What stays who it was is recorded.
    let output = run(&mut record(
        &trace,
        &["sh", "-c", "python3 -S -c 'import time; time.sleep(1)'"],
    ));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("not recorded"), "{said}");
}

#[test]
fn the_recorder_is_roots_own_all_the_way_and_stays_there() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let output = run(&mut record(
        &trace,
        &["sh", "-c", "echo $LD_PRELOAD; cat ${LD_PRELOAD%%:*} >&2"],
    ));
    let listed = String::from_utf8_lossy(&output.stdout);
    let path = PathBuf::from(listed.trim().split(':').next().expect("preloaded"));
    let object = fs::symlink_metadata(&path).expect("it stays");
    assert!(object.is_file() && output.stderr.starts_with(b"\x7fELF"));
    for step in path.ancestors() {
        let found = fs::symlink_metadata(step).expect("there");
        assert_eq!(found.uid(), 0, "{}", step.display());
        assert_eq!(found.mode() & 0o022, 0, "{}", step.display());
        // Whoever the program becomes can load it.
        assert_eq!(found.mode() & 0o005, 0o005, "{}", step.display());
    }
}

/// Records with a `/run` and a `/var/lib` of its own, which `mounts` changes before; `preloaded` into
/// fragscope. What the command was given to preload, and what is left where the recorder can be.
fn recorded_with(mounts: &str, preloaded: &str) -> (String, String) {
    let folder = open_folder();
    let script = format!(
        "for own in /run /var/lib; do mount -t tmpfs -o mode=755 none $own; done; mkdir /run/fragscope; {mounts}; \
         LD_PRELOAD={preloaded} {} record -o {} -- sh -c 'echo $LD_PRELOAD' && \
         ls -A /run/fragscope /var/lib/fragscope",
        env!("CARGO_BIN_EXE_fragscope"),
        text(&folder.path().join("trace"))
    );
    let output = run(Command::new("unshare").args(["-m", "sh", "-c", &script]));
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let (first, left) = listed.split_once('\n').unwrap_or_default();
    assert!(first.contains("/recorder-"), "{listed} {}", stderr(&output));
    (first.to_owned(), left.to_owned())
}

#[test]
fn the_recorder_is_put_also_where_no_file_is_without_a_name_and_else_in_the_next_place() {
    let folder = open_folder();
    let nameless = compiled(&folder, "nameless", &["-shared", "-fPIC"]);
    let (preloaded, left) = recorded_with("true", text(&nameless));
    assert!(preloaded.starts_with("/run/fragscope/"), "{preloaded}");
    assert!(!left.contains(".fragscope-"), "{left}");
    let cases = [
        "mount -t tmpfs -o mode=755,ro none /run/fragscope",
        "mount -t tmpfs -o mode=755,noexec none /run/fragscope",
        // No room for it.
        "mount -t tmpfs -o mode=755,size=4k none /run/fragscope",
    ];
    for mounts in cases {
        let (preloaded, left) = recorded_with(mounts, "");
        assert!(
            preloaded.starts_with("/var/lib/fragscope/"),
            "{mounts}: {preloaded}"
        );
        assert!(!left.contains(".fragscope-"), "{mounts}: {left}");
    }
}

#[test]
fn a_program_that_starts_when_fragscope_is_gone_starts_silently() {
    let folder = open_folder();
    let [go, out, error] = ["go", "out", "error"].map(|name| folder.path().join(name));
    let late = format!(
        "trap '' HUP; touch {go}.ready; while [ ! -e {go} ]; do sleep 0.05; done; \
         /bin/echo late > {out} 2> {error}; setpriv --reuid {NOBODY} --regid {NOBODY} \
         --clear-groups /bin/echo other >> {out} 2>> {error}; touch {go}.done",
        go = text(&go),
        out = text(&out),
        error = text(&error),
    );
    let trace = folder.path().join("trace");
    let mut recording = record(&trace, &["sh", "-c", &late])
        .stderr(Stdio::null())
        .spawn()
        .expect("fragscope");
    eventually("the program runs", || {
        go.with_extension("ready").exists().then_some(())
    });
    recording.kill().expect("it runs");
    recording.wait().expect("it ends");
    fs::write(&go, "").expect("ours");
    eventually("the program ends", || {
        go.with_extension("done").exists().then_some(())
    });
    assert_eq!(fs::read_to_string(&error).expect("written"), "");
    assert_eq!(fs::read_to_string(&out).expect("written"), "late\nother\n");
}

#[test]
fn what_starts_in_another_root_directory_starts_silently() {
    let folder = open_folder();
    let root = folder.path().join("root");
    fs::create_dir(&root).expect("ours");
    // The same files, but for the recorder. The mounts go with the namespace.
    let script = format!(
        "mount --bind / {root} && mount -t tmpfs none {root}/run && exec {} record -o {} -- \
         chroot {root} /bin/sh -c 'echo \"<$LD_PRELOAD>\"; /bin/echo inside'",
        env!("CARGO_BIN_EXE_fragscope"),
        text(&folder.path().join("trace")),
        root = text(&root),
    );
    let output = run(Command::new("unshare").args(["-m", "sh", "-c", &script]));
    let said = stderr(&output);
    assert_eq!(output.stdout, b"<>\ninside\n", "{said}");
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains("ld.so"), "{said}");
    assert!(held(&folder.path().join("trace"), 0).events > 0, "{said}");
}

/// A file in memory that looks like a ring, held by a process of another user.
const FALSE_RING: &str = "
import mmap, os, struct, sys
os.setgid(65534); os.setuid(65534)
fd = os.memfd_create('fragscope-ring')
os.ftruncate(fd, 4096 + (1 << 20) * 48)
ring = mmap.mmap(fd, 4096)
ring[:8] = b'FSRING\\0\\4'
s = os.fstat(fd)
print(f'/proc/{os.getpid()}/fd/{fd} {s.st_dev} {s.st_ino}', flush=True)
sys.stdin.read()
print(struct.unpack_from('<Q', ring, 64)[0])
";

#[test]
fn a_ring_that_another_user_holds_out_is_not_written_to() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let output = run(&mut record(&trace, &["sh", "-c", "echo $LD_PRELOAD"]));
    let preload = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let mut other = Command::new("python3")
        .args(["-S", "-c", FALSE_RING])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut answers = BufReader::new(other.stdout.take().expect("piped"));
    let mut place = String::new();
    answers.read_line(&mut place).expect("it speaks");
    let program = Command::new("/bin/true")
        .env("LD_PRELOAD", preload)
        .env("FRAGSCOPE_RECORD_RING", place.trim())
        .output()
        .expect("true");
    assert!(
        program.status.success() && program.stderr.is_empty(),
        "{program:?}"
    );
    drop(other.stdin.take());
    let mut head = String::new();
    answers.read_line(&mut head).expect("it speaks");
    other.wait().expect("it ends");
    assert_eq!(head.trim(), "0", "events were written");
}

#[test]
fn an_ordinary_user_keeps_the_recorder_in_a_directory_of_his_own() {
    let folder = open_folder();
    let program = install(Path::new(env!("CARGO_BIN_EXE_fragscope")), &folder);
    let own = tempfile::tempdir_in("/run").expect("root may");
    std::os::unix::fs::chown(own.path(), Some(NOBODY), Some(NOBODY)).expect("root may");
    let as_nobody = |directory: &Path| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&program)
            .args(["record", "-o"])
            .arg(own.path().join("trace"))
            .args(["--", "sh", "-c", "echo $LD_PRELOAD"])
            .env("XDG_RUNTIME_DIR", directory)
            .env_remove("XDG_CACHE_HOME")
            .env("HOME", "/nonexistent");
        run(&mut command)
    };
    let output = as_nobody(own.path());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let listed = String::from_utf8_lossy(&output.stdout);
    assert!(listed.starts_with(text(own.path())), "{listed}");
    assert!(
        held(&own.path().join("trace"), 0).events > 0,
        "{}",
        stderr(&output)
    );
    // His first cache is made; without a home the message says what to do.
    let at_home = |home: &Path| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&program)
            .args(["record", "-o"])
            .arg(own.path().join("trace"))
            .args(["--", "true"])
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("XDG_CACHE_HOME")
            .env("HOME", home);
        run(&mut command)
    };
    let output = at_home(own.path());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let cache = fs::metadata(own.path().join(".cache")).expect("made");
    assert_eq!((cache.uid(), cache.mode() & 0o777), (NOBODY, 0o700));
    let output = at_home(Path::new("/nonexistent"));
    let what = "set XDG_RUNTIME_DIR or XDG_CACHE_HOME to a directory of your own";
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(what), "{}", stderr(&output));
    // Where anybody can put something, the recorder is not put.
    fs::set_permissions(own.path(), fs::Permissions::from_mode(0o777)).expect("root may");
    let output = as_nobody(own.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("can be written by other users"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_daemon_is_recorded_to_its_end_and_that_is_said() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let daemon = format!(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        \
         time.sleep(6)\n        exec({:?})\n        os._exit(0)\nos._exit(5)\n",
        allocate(1000, 123_457)
    );
    let output = run(&mut record(&trace, &["python3", "-S", "-c", &daemon]));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(
        said.contains("ended with exit code 5; of its processes "),
        "{said}"
    );
    let held = held(&trace, 123_457);
    assert!(held.whole && held.of_size == 1000, "{held:?}: {said}");
}

#[test]
fn children_of_threads_that_fork_at_once_are_the_ones_that_were_announced() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let script = "import os, threading\ndef fork():\n    for _ in range(50):\n        pid = os.fork()\n        \
                  if pid == 0: os._exit(0)\n        os.waitpid(pid, 0)\n\
                  threads = [threading.Thread(target=fork) for _ in range(4)]\n\
                  [t.start() for t in threads]; [t.join() for t in threads]\n";
    let output = run(&mut record(&trace, &["python3", "-S", "-c", script]));
    assert!(output.status.success(), "{}", stderr(&output));
    let mut reader = Reader::new(File::open(&trace).expect("a trace")).expect("a trace");
    let (mut announced, mut known) = (BTreeSet::new(), BTreeSet::new());
    while let Some(item) = reader.next_item().expect("sound") {
        let Item::Event(event) = item else { continue };
        match event.kind {
            EventKind::Fork { process, child } => assert!(announced.insert((process, child))),
            EventKind::Begin { process } => assert_eq!(process, 0, "no child of its own"),
            _ => drop(known.insert(event.thread)),
        }
    }
    // What `python3` starts before it is Python may fork as well.
    assert!(announced.len() >= 200, "{}", announced.len());
    let silent = announced.iter().filter(|(_, child)| !known.contains(child));
    assert_eq!(silent.count(), 0, "each child frees or allocates something");
}

#[test]
fn programs_into_which_nothing_is_preloaded_run_silently_and_the_reason_is_said() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let source = folder.path().join("hello.c");
    fs::write(
        &source,
        "#include <stdio.h>\nint main(void) { return puts(\"hello\") < 0; }\n",
    )
    .expect("ours");
    let compile = |name: &str, options: &[&str]| {
        let program = folder.path().join(name);
        let mut compiler = Command::new("cc");
        compiler.args(options).arg("-o").arg(&program).arg(&source);
        assert!(compiler.status().expect("a C compiler").success());
        program
    };
    let fixed = compile("static", &["-static"]);
    let set = compile("setuid", &[]);
    std::os::unix::fs::chown(&set, Some(NOBODY), None).expect("root may");
    fs::set_permissions(&set, fs::Permissions::from_mode(0o4755)).expect("root may");
    for (program, why) in [(fixed, "linked statically"), (set, "is set-user-ID")] {
        let output = run(&mut record(&trace, &[text(&program)]));
        let said = stderr(&output);
        assert_eq!(output.stdout, b"hello\n");
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(
            said.contains("nothing was recorded") && said.contains(why),
            "{said}"
        );
        assert!(!said.contains("ld.so"), "{said}");
    }
}

#[test]
fn a_disk_that_fills_up_leaves_the_command_running_and_the_events_that_are_said_to_be_whole() {
    let folder = open_folder();
    let [disk, go] = ["disk", "go"].map(|name| folder.path().join(name));
    fs::create_dir(&disk).expect("ours");
    let small = |command: &str, options: &[&str]| {
        let done = Command::new(command).args(options).arg(&disk).status();
        assert!(done.expect(command).success(), "{command} {options:?}");
    };
    small("mount", &["-t", "tmpfs", "-o", "size=1536k", "none"]);
    let trace = disk.join("trace");
    // Of all sizes, so that packing does not make little of them.
    let program = format!(
        "import ctypes, os, random, sys, time\nc = ctypes.CDLL(None)\n\
         for i in range(900000): c.malloc(random.randrange(1, 200))\n\
         for i in range(6000):\n    if os.path.exists({go:?}): break\n    time.sleep(0.05)\nopen({:?}, 'w')\n\
         sys.exit(7)\n",
        go.with_extension("done"),
    );
    // The command keeps what it writes to.
    let error = folder.path().join("error");
    let mut recording = record(&trace, &["python3", "-S", "-c", &program])
        .stderr(File::create(&error).expect("ours"))
        .spawn()
        .expect("fragscope");
    let said = || fs::read_to_string(&error).expect("UTF-8");
    eventually("the disk is full", || {
        said()
            .contains("goes on without being recorded")
            .then_some(())
    });
    let running = recording.try_wait().expect("ours");
    assert_eq!(running, None, "it waits for the command");
    fs::write(&go, "").expect("ours");
    let status = ended(&mut recording);
    assert!(go.with_extension("done").exists(), "the command went on");
    let held = held(&trace, 0);
    small("umount", &[]);
    let said = said();
    assert_eq!(status.code(), Some(7), "the command's own: {said}");
    let counted = format!(
        "; {} events are complete in it and can be replayed",
        held.events
    );
    assert!(
        said.contains(&counted) && held.events > 10_000,
        "{held:?}: {said}"
    );
    assert!(!held.whole);
}

#[test]
fn a_signal_after_the_commands_end_leaves_its_code() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let script = "sleep 60 & echo $!; exit 9";
    let mut recording = Recording::start(&mut record(&trace, &["sh", "-c", script]));
    let left = recording.command_line().parse().expect("a number");
    recording.wait_for("of its processes 1");
    recording.signal(Signal::SIGTERM);
    assert_eq!(recording.status().code(), Some(9));
    kill(Pid::from_raw(left), Signal::SIGKILL).expect("it was left running");
    assert!(held(&trace, 0).whole);
}

#[test]
fn a_first_signal_is_answered_and_a_second_leaves_the_command() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let script = "trap '' TERM; echo $$; while :; do :; done";
    let mut recording = Recording::start(&mut record(&trace, &["sh", "-c", script]));
    let command = recording.command_line().parse().expect("a number");
    recording.signal(Signal::SIGINT);
    recording
        .wait_for("the command, which gets SIGTERM, has ended; a second signal leaves it running");
    recording.signal(Signal::SIGINT);
    assert_eq!(recording.status().code(), Some(130));
    kill(Pid::from_raw(command), Signal::SIGKILL).expect("it was left running");
    assert!(held(&trace, 0).whole);
}

#[test]
fn an_interrupt_that_is_sent_to_fragscope_alone_ends_the_command() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let script = "echo ready; while :; do :; done";
    let mut recording = Recording::start(&mut record(&trace, &["sh", "-c", script]));
    assert_eq!(recording.command_line(), "ready");
    let (code, said) = recording.interrupt();
    assert_eq!(code, 128 + Signal::SIGTERM as i32, "{said}");
    assert!(held(&trace, 0).whole);
}

#[test]
fn a_reader_that_is_held_up_is_given_up_after_10_s_and_that_is_said() {
    let folder = open_folder();
    let (trace, go) = (folder.path().join("trace"), folder.path().join("go"));
    // More events than the ring has room for.
    let script = format!(
        "import os, time\nprint(1, flush=True)\nwhile not os.path.exists('{}'): time.sleep(0.01)\n{}print(2, flush=True)",
        text(&go),
        allocate(600_000, 64)
    );
    let command = ["python3", "-S", "-c", &script];
    let mut recording = Recording::start(&mut record(&trace, &command));
    assert_eq!(recording.command_line(), "1");
    // The thread that reads the ring alone: those that show that fragscope runs go on.
    let reader = recording.pid();
    ptrace::seize(reader, ptrace::Options::empty()).expect("our own child");
    ptrace::interrupt(reader).expect("traced");
    waitpid(reader, None).expect("it stops");
    fs::write(&go, "").expect("ours");
    assert_eq!(recording.command_line(), "2", "the program goes on");
    ptrace::detach(reader, None).expect("traced");
    let (code, said) = recording.end();
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("did not come for events for 10 s while a program waited"),
        "{said}"
    );
}

#[test]
fn nobody_else_can_forbid_a_recording() {
    let target = idle_python();
    let pid = target.pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let ticks = fields.split(' ').nth(19).expect("field 22");
    // What served as the lock: anybody can bind it.
    let name = format!("fragscope-record-{pid}-{ticks}");
    let address = <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name);
    let _bound = UnixListener::bind_addr(&address.expect("short")).expect("free");
    let folder = open_folder();
    let mut record = command(&[
        "record",
        "--duration",
        "10ms",
        "--pid",
        &pid.to_string(),
        "-o",
    ]);
    record.arg(folder.path().join("trace"));
    let output = run(&mut record);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lock = fs::symlink_metadata("/run/fragscope/recorded").expect("what serves now");
    assert_eq!((lock.uid(), lock.mode() & 0o777), (0, 0o600));
}

#[test]
fn a_process_that_ends_or_executes_while_its_recording_begins_ends_it_with_5_and_a_sentence() {
    let folder = open_folder();
    for round in 0..12u32 {
        let after = f64::from(round) * 0.05;
        let end = if round % 2 == 0 {
            "exit 0"
        } else {
            "exec sleep 2"
        };
        let mut target = Command::new("sh")
            .args(["-c", &format!("sleep {after}; {end}")])
            .spawn()
            .expect("sh");
        let mut record = command(&[
            "record",
            "--duration",
            "60s",
            "--pid",
            &target.id().to_string(),
            "-o",
        ]);
        record.arg(folder.path().join("trace"));
        let output = run(&mut record);
        target.wait().expect("it ends");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(5), "after {after} s: {said}");
        assert!(!said.contains("entity not found"), "{said}");
    }
}

#[test]
fn no_signal_waits_for_a_sample_and_neither_does_the_end_after_it() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let script = "print(1, flush=True)\nwhile True: kept = [bytes(600) for _ in range(1000)]";
    let command = ["python3", "-S", "-c", script];
    let mut recording = Recording::start(&mut record(&trace, &command));
    assert_eq!(recording.command_line(), "1");
    // The thread that samples, which then never comes to an end with one.
    let tasks = PathBuf::from(format!("/proc/{}/task", recording.pid()));
    let sampling = eventually("the thread that samples", || {
        let tasks = fs::read_dir(&tasks).expect("it runs").flatten();
        let mut tasks = tasks.filter(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "sampling\n")
        });
        tasks.next()?.file_name().to_str()?.parse().ok()
    });
    let sampling = Pid::from_raw(sampling);
    ptrace::seize(sampling, ptrace::Options::empty()).expect("our own child's");
    ptrace::interrupt(sampling).expect("traced");
    let whole = Some(WaitPidFlag::__WALL);
    waitpid(sampling, whole).expect("it stops");
    recording.signal(Signal::SIGTERM);
    recording.wait_for("a second signal leaves it running");
    recording.wait_for("wrote ");
    // The process is not seen to have ended before its tracer has seen that of the thread.
    waitpid(sampling, whole).expect("it ends");
    let (code, said) = recording.end();
    assert_eq!(code, 128 + Signal::SIGTERM as i32, "{said}");
    assert!(held(&trace, 0).whole, "{said}");
}

#[test]
fn a_command_that_a_signal_ends_while_it_is_loaded_is_not_said_to_drop_the_recorder() {
    let folder = open_folder();
    let (trace, pipe) = (folder.path().join("trace"), folder.path().join("pipe"));
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    // The loader waits for a writer of what is preloaded, before anything of the program runs.
    let mut command = record(&trace, &["sleep", "60"]);
    let recording = Recording::start(command.env("LD_PRELOAD", &pipe));
    // fragscope's own goes on without it.
    drop(
        File::options()
            .write(true)
            .open(&pipe)
            .expect("it is being loaded"),
    );
    let children = format!("/proc/{0}/task/{0}/children", recording.pid());
    eventually("the command being loaded", || {
        let children = fs::read_to_string(&children).expect("it runs");
        let mut children = children.split_whitespace();
        children
            .any(|child| {
                fs::read_to_string(format!("/proc/{child}/comm"))
                    .is_ok_and(|name| name == "sleep\n")
            })
            .then_some(())
    });
    recording.signal(Signal::SIGTERM);
    let (code, said) = recording.end();
    assert_eq!(code, 128 + Signal::SIGTERM as i32, "{said}");
    let why = "nothing was recorded: SIGTERM came before the command had begun";
    assert!(said.contains(why), "{said}");
}

/// A memory control group of our own, of the first version where that is mounted.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(limit: u64) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let is_first = root.join("memory").is_dir();
        let (parent, file) = match is_first {
            true => (root.join("memory"), "memory.limit_in_bytes"),
            false => {
                // It may be so already.
                let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
                (root.to_owned(), "memory.max")
            }
        };
        let group = parent.join(format!("fragscope-test-{}", std::process::id()));
        fs::create_dir(&group).expect("control groups are mounted, and we are root");
        let group = Self(group);
        fs::write(group.0.join(file), limit.to_string()).expect("it takes a limit");
        group
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        eventually("the end of the group", || fs::remove_dir(&self.0).ok());
    }
}

#[test]
fn a_command_that_is_killed_for_want_of_memory_is_said_to_be() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let group = MemoryGroup::new(200 << 20);
    let script = "echo $$ > \"$0\" && exec python3 -S -c \"$1\"";
    // Its end comes after it was seen in its group.
    let program =
        "import time\ntime.sleep(0.5)\nkept = []\nwhile True: kept.append(b'x' * 100_000)";
    let entrance = group.0.join("cgroup.procs");
    let command = ["sh", "-c", script, text(&entrance), program];
    let output = run(&mut record(&trace, &command));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(137), "{said}");
    let name = group.0.file_name().expect("a name").to_string_lossy();
    let expected = format!(
        "the command was ended by signal 9: the kernel ended a process of its memory control group \
         /{name}, whose limit is 200.0 MiB, for want of memory"
    );
    assert!(said.contains(&expected), "{said}");
    assert!(held(&trace, 0).whole);
}
