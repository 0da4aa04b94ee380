//! `record -- COMMAND` on programs that end, crash, stay or hide.

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use profiler_testing::child::{KillOnDrop, compiled_by, open_folder};
use profiler_testing::wait::eventually;
use profiler_trace::trace::{EventKind, Item, Reader};
use support::memory_group::MemoryGroup;
use support::record::{Recording, allocate, held, record, record_python};
use support::{FRAGSCOPE, command, run, stderr, text};

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
fn what_is_executed_and_not_recorded_is_named_at_the_end() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let shell = ["/bin/sh", "-c", "sleep 1; exit 3"];
    let as_another_user = ["setpriv", "--reuid=65534", "--clear-groups"];
    // There the ring's path leads nowhere.
    let with_another_proc = ["unshare", "--pid", "--fork", "--mount-proc"];
    for before in [&as_another_user[..], &with_another_proc] {
        let output = run(&mut record(&trace, &[before, &shell[..]].concat()));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("not recorded, though"), "{said}");
        assert!(said.contains("sh (process "), "{said}");
    }
    // What stays who it was is recorded.
    let output = run(&mut record(
        &trace,
        &["sh", "-c", "python3 -S -c 'import time; time.sleep(1)'"],
    ));
    let said = stderr(&output);
    assert!(!said.contains("not recorded"), "{said}");
}

#[test]
fn processes_of_another_pid_namespace_are_not_recorded_and_that_is_said() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let allocates = |size: u64| {
        [
            "python3".into(),
            "-S".into(),
            "-c".into(),
            allocate(1000, size),
        ]
    };
    // One that is forked there goes on without executing anything, and a program that is executed there finds the
    // ring, by the host's /proc.
    let forked = format!(
        "import ctypes, os\n{}\nif ctypes.CDLL(None).unshare(0x20000000): raise OSError\npid = os.fork()\nif pid == 0:\n    \
         exec({:?})\n    os._exit(0)\nos._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
        allocate(1000, 123_459),
        allocate(1000, 123_457),
    );
    let executed = ["unshare", "--pid", "--fork"].map(String::from);
    for command in [
        vec!["python3".into(), "-S".into(), "-c".into(), forked],
        [&executed[..], &allocates(123_457)].concat(),
    ] {
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        let output = run(&mut record(&trace, &command));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(
            said.contains("a process began in a PID namespace"),
            "{said}"
        );
        assert!(
            !said.contains("events of processes that had ended"),
            "{said}"
        );
        let held = held(&trace, 123_457);
        assert!(held.whole && held.of_size == 0, "{held:?}: {said}");
    }
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
    let recording = record(&trace, &["python3", "-S", "-c", &program])
        .stderr(File::create(&error).expect("ours"))
        .spawn();
    let mut recording = KillOnDrop(recording.expect("fragscope"));
    let said = || fs::read_to_string(&error).expect("UTF-8");
    eventually("a full disk", || {
        said()
            .contains("goes on without being recorded")
            .then_some(())
    });
    let running = recording.try_wait().expect("ours");
    assert_eq!(running, None, "it waits for the command");
    fs::write(&go, "").expect("ours");
    let status = recording.ended();
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
    let whole = Some(WaitPidFlag::__WALL);
    // In a system call: in malloc it may have a lock that others need.
    eventually("a moment when it waits", || {
        ptrace::interrupt(sampling).expect("traced");
        waitpid(sampling, whole).expect("it stops");
        let call = fs::read_to_string(format!("/proc/{sampling}/syscall")).expect("it is there");
        let waits = !call.starts_with("-1");
        if !waits {
            ptrace::cont(sampling, None).expect("stopped");
        }
        waits.then_some(())
    });
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

#[test]
fn the_ring_is_not_charged_to_the_control_group_of_what_is_recorded() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    // More than the program needs, and less than the ring has.
    let group = MemoryGroup::new("ring", 30 << 20);
    let program = "for n in range(700_000): bytes(600)\nraise SystemExit(7)";
    let entrance = group.entrance();
    let enter = "echo $$ > \"$0\" && exec python3 -S -c \"$1\"";
    let mut recorded = record(&trace, &["sh", "-c", enter, text(&entrance), program]);
    let output = run(&mut recorded);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(held(&trace, 1_400_000).whole);
}

#[test]
fn a_command_that_is_killed_for_want_of_memory_is_said_to_be() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let group = MemoryGroup::new("killed", 400 << 20);
    let entrance = group.entrance();
    let program = "kept = []\nwhile True: kept.append(b'x' * 100_000)";
    // As in a container: fragscope is in the group too, and the kernel takes the larger.
    let mut recorded = Command::new("sh");
    recorded.args([
        "-c",
        "echo $$ > \"$0\" && exec \"$@\"",
        text(&entrance),
        FRAGSCOPE,
    ]);
    recorded.args(record_python(&trace, program));
    let output = run(&mut recorded);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(137), "{said}");
    let name = group.name();
    let expected = format!(
        "the command was ended by signal 9: the kernel ended a process of its memory control group \
         {name}, whose limit is 400.0 MiB, for want of memory"
    );
    assert!(said.contains(&expected), "{said}");
    assert!(held(&trace, 0).whole);
}

/// Where the guard may not trace, a thread of fragscope does, and the kernel gives a tracee's stops to all
/// threads of its tracer that wait for it.
#[test]
fn a_stop_is_not_taken_for_the_end_of_the_command_where_a_thread_traces_it() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let shim = compiled_by("cc", "no_guard", &["-shared", "-fPIC", "-ldl"]);
    // Walked about ten times a second while it runs, as its memory changes.
    let program = "\
import sys, time
kept, until = [], time.monotonic() + 3
while time.monotonic() < until:
    kept.append(bytes(3000))
    if len(kept) > 20000: kept.clear()
sys.exit(3)";
    let mut recorded = record(&trace, &["python3", "-S", "-c", program]);
    recorded.env("LD_PRELOAD", shim.path().join("no_guard"));
    let output = run(&mut recorded);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(held(&trace, 0).whole, "{said}");
}

/// As after `nohup`, and in a background job of a script.
#[test]
fn what_is_ignored_stays_ignored_in_fragscope_and_its_command() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let command = "
import signal, sys
print(*(signal.getsignal(s) == signal.SIG_IGN for s in (1, 2, 3, 15)), flush=True)
sys.stdin.read()
sys.exit(7)
";
    let mut recording = Command::new("sh")
        .args([
            "-c",
            "trap '' HUP INT; exec \"$0\" record -o \"$1\" -- python3 -S -c \"$2\"",
        ])
        .args([FRAGSCOPE, text(&trace), command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh");
    let mut out = BufReader::new(recording.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("it speaks");
    assert_eq!(line, "True True False False\n");
    let fragscope = Pid::from_raw(recording.id() as i32);
    for signal in [Signal::SIGHUP, Signal::SIGINT] {
        kill(fragscope, signal).expect("it runs");
    }
    drop(recording.stdin.take());
    let ended = recording.wait().expect("it ends");
    assert_eq!(ended.code(), Some(7));
    assert!(held(&trace, 1).whole);
}
