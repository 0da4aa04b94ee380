//! A target maps a file of a file system that no longer answers: every command reports it and ends.

mod support;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child as Process, Command};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use profiler_testing::child::{Child, KillOnDrop, children_of};
use profiler_testing::silent_files::{JEMALLOC, SilentFiles};
use profiler_testing::wait::eventually;
use support::{command, fragscope, json};

/// Maps the file that it is given, as a library is mapped, and never touches it.
const MAPS: &str = "
import mmap, os, sys
opened = os.open(sys.argv[1], os.O_RDONLY)
mapped = mmap.mmap(opened, 0, prot=mmap.PROT_READ | mmap.PROT_EXEC)
os.close(opened)
print('READY', flush=True)
sys.stdin.readline()
";

/// The same of several, in more memory than others have.
const MAPS_ALL: &str = "
import mmap, os, sys
kept = [b'x' * 1000 for _ in range(100_000)]
mapped = []
for name in sys.argv[1:]:
    opened = os.open(name, os.O_RDONLY)
    mapped.append(mmap.mmap(opened, 0, prot=mmap.PROT_READ | mmap.PROT_EXEC))
    os.close(opened)
print('READY', flush=True)
sys.stdin.readline()
";

/// The same, and has the loader's list of loaded objects begin on a page of it (`struct r_debug` in glibc's `elf/link.h`).
const FORGES_ITS_LIST: &str = "
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
opened = os.open(sys.argv[1], os.O_RDONLY)
mapped = libc.mmap(None, 1 << 16, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, opened, 0)
os.close(opened)
debug = ctypes.addressof(ctypes.c_char.in_dll(libc, '_r_debug'))
ctypes.c_uint64.from_address(debug + 8).value = mapped
print('READY', flush=True)
sys.stdin.readline()
";

/// Its root directory is the file system's.
const LIVES_THERE: &str = "
import os, sys
kept = [b'x' * 1000 for _ in range(10_000)]
os.chroot(os.path.dirname(sys.argv[1]))
print('READY', flush=True)
sys.stdin.readline()
";

/// Its program is the file, of which nothing is in memory but what ran.
const RUNS_FROM_THERE: &str = "
import sys
kept = [b'x' * 1000 for _ in range(10_000)]
print('READY', flush=True)
sys.stdin.readline()
";

/// Has it loaded before all else.
const PRELOADS: &str = "
import os, sys
if 'LD_PRELOAD' not in os.environ:
    os.environ['LD_PRELOAD'] = sys.argv[1]
    os.execv(sys.executable, sys.orig_argv)
print('READY', flush=True)
sys.stdin.readline()
";

/// With a Python that maps a file.
fn silent() -> SilentFiles {
    running(MAPS)
}

/// With a program that is given the file's name.
fn running(python: &str) -> SilentFiles {
    SilentFiles::of_mounts(1, python)
}

/// With a Python that is itself the file.
fn as_program(python: &str) -> SilentFiles {
    let found = Command::new("/usr/bin/python3")
        .args([
            "-c",
            "import os, sys; print(os.path.realpath(sys.executable))",
        ])
        .output();
    let found = found.expect("there is one").stdout;
    let found = String::from_utf8(found).expect("a path");
    SilentFiles::mounted(1, found.trim_end(), |mounts| {
        let mut command = vec!["env".into(), "PYTHONHOME=/usr".into()];
        command.push(mounts[0].join("file").into_os_string());
        command.extend(["-c".into(), python.into()]);
        command
    })
}

/// What runs, and where it prints.
struct Running {
    what: String,
    process: KillOnDrop,
    printed: PathBuf,
}

fn start(silent: &SilentFiles, name: &str, args: &[&str]) -> Running {
    let printed = silent.file(name);
    let to = || File::create(&printed).expect("made");
    let out = to();
    let errors = out.try_clone().expect("a handle");
    let process = command(args).stdout(out).stderr(errors).spawn();
    Running {
        what: format!("{args:?}"),
        process: KillOnDrop(process.expect("it runs")),
        printed,
    }
}

/// Waits until a process has one that reads files, and that waits for the file system.
fn wait_of(process: u32) -> Pid {
    eventually("a wait for the file system", || {
        // fs/fuse/dev.c
        let waits = |pid: &Pid| {
            let place = fs::read_to_string(format!("/proc/{pid}/wchan"));
            place.is_ok_and(|place| place == "request_wait_answer")
        };
        children_of(process, "file-reader").into_iter().find(waits)
    })
}

/// Whether it is still there, which no signal ends.
fn is_there(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// How a process ended, which nobody ended.
fn end_of(process: &mut Process, what: &str) -> Option<i32> {
    let ended = eventually(what, || process.try_wait().expect("ours"));
    ended.code()
}

/// Has every command look at it, and gives what those printed, which all have to end.
fn all_look_at(silent: &SilentFiles) -> Vec<(String, String)> {
    let pid = silent.pid().to_string();
    let trace = silent.file("trace.fragtrace");
    let trace = support::text(&trace).to_owned();
    let each: [(&str, &[&str]); 8] = [
        ("snapshot", &["snapshot", "--pid", &pid]),
        (
            "explain",
            &["explain", "--no-predict", "--growth", "0s", "--pid", &pid],
        ),
        ("check", &["check", "--max-rss", "900G", "--pid", &pid]),
        ("doctor", &["doctor", "--pid", &pid]),
        (
            "attach",
            &["attach", "--headless", "--duration", "1s", "--pid", &pid],
        ),
        (
            "record",
            &["record", "--duration", "1s", "-o", &trace, "--pid", &pid],
        ),
        ("tree", &["snapshot", "--tree", "--pid", &pid]),
        ("top", &["top", "--once"]),
    ];
    // `top` ends with another code where it finds no Python process.
    let _python = Child::python("import time; print('ready', flush=True); time.sleep(600)");
    let mut all: Vec<_> = each
        .iter()
        .map(|(name, args)| start(silent, name, args))
        .collect();
    let ended = all.iter_mut().map(|one| {
        let code = end_of(&mut one.process, &one.what);
        let printed = fs::read_to_string(&one.printed).expect("text");
        assert_eq!(code, Some(0), "{}: {printed}", one.what);
        (one.what.clone(), printed)
    });
    ended.collect()
}

#[test]
fn a_mapped_file_that_no_file_system_answers_for_keeps_no_command() {
    let silent = silent();
    silent.fall_silent();
    for (what, printed) in all_look_at(&silent) {
        if !what.contains("tree") && (what.contains("snapshot") || what.contains("doctor")) {
            assert!(printed.contains("not read within"), "{what}: {printed}");
        }
    }
}

/// Anybody may mount an overlay over such a file system, in which its files are those of an overlay.
#[test]
fn a_file_of_an_overlay_over_a_file_system_that_does_not_answer_keeps_no_command() {
    let silent = SilentFiles::mounted(1, JEMALLOC, |mounts| {
        let below = mounts[0].display();
        let overlay = "mkdir \"$0.o\" \"$0.e\" && mount -t overlay -o lowerdir=\"$0:$0.e\" overlay \"$0.o\" \
            && exec python3 -c \"$1\" \"$0.o/file\"";
        ["sh", "-c", overlay, &below.to_string(), MAPS]
            .map(Into::into)
            .into()
    });
    silent.fall_silent();
    let pid = silent.pid().to_string();
    let mut one = start(&silent, "snapshot", &["snapshot", "--pid", &pid]);
    assert_eq!(end_of(&mut one.process, &one.what), Some(0));
    let printed = fs::read_to_string(&one.printed).expect("text");
    assert!(printed.contains("not read within"), "{printed}");
}

#[test]
fn a_page_of_a_silent_file_to_which_memory_leads_is_not_touched() {
    let silent = running(FORGES_ITS_LIST);
    silent.fall_silent();
    all_look_at(&silent);
}

#[test]
fn a_root_directory_that_no_file_system_answers_for_keeps_no_command() {
    let silent = running(LIVES_THERE);
    silent.fall_silent();
    all_look_at(&silent);
}

#[test]
fn a_program_that_no_file_system_answers_for_keeps_no_command() {
    let silent = as_program(RUNS_FROM_THERE);
    silent.fall_silent();
    all_look_at(&silent);
}

#[test]
fn a_signal_ends_the_wait_for_a_file_system_that_does_not_answer() {
    let silent = silent();
    silent.fall_silent();
    let pid = silent.pid().to_string();
    let saved = silent.file("saved.json");
    let attach = ["attach", "--headless", "--pid", &pid, "-o"];
    let attach = [&attach[..], &[support::text(&saved)]].concat();
    let snapshot = &["snapshot", "--pid", &pid][..];
    let each = [
        (Signal::SIGTERM, snapshot),
        (Signal::SIGINT, snapshot),
        (Signal::SIGQUIT, &attach),
    ];
    for (signal, args) in each {
        let mut one = start(&silent, "printed", args);
        let own = one.process.id();
        let waits = wait_of(own);
        kill(Pid::from_raw(own as i32), signal).expect("ours");
        let code = end_of(&mut one.process, &one.what);
        let printed = fs::read_to_string(&one.printed).expect("text");
        assert_eq!(code, Some(130), "{printed}");
        // It was not the limit of time.
        assert!(!printed.contains("not read within"), "{printed}");
        assert!(is_there(waits), "it ended, and could have been waited for");
        if args.contains(&"attach") {
            assert!(printed.contains("nothing was saved"), "{printed}");
            assert!(!saved.exists());
        }
    }
}

#[test]
fn a_file_system_that_goes_away_leaves_no_process() {
    let mut silent = silent();
    silent.fall_silent();
    let pid = silent.pid().to_string();
    let mut one = start(&silent, "snapshot", &["snapshot", "--pid", &pid]);
    let waits = wait_of(one.process.id());
    assert_eq!(end_of(&mut one.process, &one.what), Some(0));
    assert!(is_there(waits));
    silent.program().kill();
    eventually("its end", || (!is_there(waits)).then_some(()));
}

#[test]
fn a_file_of_a_file_system_that_answers_is_read_by_a_copy() {
    let silent = running(PRELOADS);
    let pid = silent.pid().to_string();
    let taken = json(&fragscope(&["snapshot", "--json", "--pid", &pid]));
    let malloc = taken["target"]["malloc"].to_string();
    assert!(malloc.contains("jemalloc 5"), "{malloc}");
}

#[test]
fn files_that_nobody_answers_for_take_no_time_from_the_walks_of_others() {
    let silent = SilentFiles::of_mounts(4, MAPS_ALL);
    let other = Child::python("import sys; print('READY', flush=True); sys.stdin.readline()");
    assert_eq!(other.first_line(), "READY");
    silent.fall_silent();
    let seen = json(&fragscope(&["top", "--once", "--json"]));
    let processes = seen["processes"].as_array().expect("a list");
    let walked_at = |pid: i32| {
        let mut its = processes.iter().filter(|one| one["pid"] == pid);
        its.next().map(|one| one["walked_at"].to_string())
    };
    let [other, silent] = [other.pid(), silent.pid()].map(walked_at);
    // It is larger, and comes after it all the same, within the time for walks.
    let are_walked = other.as_deref() != Some("null") && silent.as_deref() != Some("null");
    assert!(are_walked && other < silent, "{seen:#}");
}

/// A thread reads a page of the file by way of the process's memory, which takes the lock of its address space for reading; the
/// next waits to write to it, and all further readers wait behind that (`mmap_lock`, fair). The first waits in
/// `request_wait_answer` (`fs/fuse/dev.c`).
const HOLDS_ITS_LOCK: &str = "
import ctypes, mmap, os, sys, threading
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
kept = [b'x' * 1000 for _ in range(10_000)]
opened = os.open(sys.argv[1], os.O_RDONLY)
mapped = libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, opened, 0)
memory = os.open('/proc/self/mem', os.O_RDONLY)
print('READY', flush=True)
sys.stdin.readline()
threading.Thread(target=os.pread, args=(memory, 8, mapped)).start()
waits = f'/proc/self/task/{threading.enumerate()[1].native_id}/wchan'
while 'request_wait_answer' not in open(waits).read():
    pass
libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, opened, 0)
";

/// Waits until nobody gets an answer of a process.
fn no_answer_of(pid: i32) {
    eventually("a wait for the lock", || {
        let (send, answered) = channel();
        // Left behind: it ends with the file system.
        thread::spawn(move || send.send(fs::read(format!("/proc/{pid}/cmdline"))));
        answered.recv_timeout(Duration::from_millis(300)).err()
    });
}

#[test]
fn a_process_that_holds_the_lock_of_its_address_space_keeps_nobody_from_looking_at_others() {
    let mut silent = running(HOLDS_ITS_LOCK);
    let other = Child::python("import sys; print('READY', flush=True); sys.stdin.readline()");
    assert_eq!(other.first_line(), "READY");
    silent.fall_silent();
    silent.program().send("");
    no_answer_of(silent.pid());
    let seen = json(&fragscope(&["top", "--once", "--json"]));
    let processes = seen["processes"].as_array().expect("a list");
    let its = processes.iter().find(|one| one["pid"] == other.pid());
    assert!(
        its.is_some_and(|its| !its["walked_at"].is_null()),
        "{seen:#}"
    );
    let why = format!("process {} has not answered for", silent.pid());
    assert!(seen["notices"].to_string().contains(&why), "{seen:#}");
}
