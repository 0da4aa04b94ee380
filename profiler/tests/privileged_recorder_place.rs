//! Where the recorder and its ring are while a command is recorded, and who owns them. Needs root.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use profiler_common::ring::{READER_BYTES, READER_MAGIC, RING_BYTES, RING_MAGIC, RING_VARIABLE};
use profiler_testing::child::{install, open_folder};
use profiler_testing::wait::eventually;
use support::record::{compiled, held, record};
use support::{FRAGSCOPE, command, idle_python, run, stderr, stdout, text};

const NOBODY: u32 = 65534;

#[test]
fn the_recorder_is_roots_own_all_the_way_and_stays_there() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let output = run(&mut record(
        &trace,
        &["sh", "-c", "echo $LD_PRELOAD; cat ${LD_PRELOAD%%:*} >&2"],
    ));
    let listed = stdout(&output);
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
        FRAGSCOPE,
        text(&folder.path().join("trace"))
    );
    let output = run(Command::new("unshare").args(["-m", "sh", "-c", &script]));
    let listed = stdout(&output);
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
    eventually("the program's start", || {
        go.with_extension("ready").exists().then_some(())
    });
    recording.kill().expect("it runs");
    recording.wait().expect("it ends");
    fs::write(&go, "").expect("ours");
    eventually("the program's end", || {
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
        FRAGSCOPE,
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

/// A file in memory that looks like a ring, held by a process of the user that is given, and the reader's page: of
/// each its bytes and its first word are given, too.
const FALSE_RING: &str = "
import mmap, os, struct, sys
user, *files = map(int, sys.argv[1:])
os.setgid(user); os.setuid(user)
def file(name, size, magic):
    fd = os.memfd_create(name)
    os.ftruncate(fd, size)
    there = mmap.mmap(fd, 4096)
    there[:8] = struct.pack('<Q', magic)
    s = os.fstat(fd)
    return there, f'/proc/{os.getpid()}/fd/{fd} {s.st_dev} {s.st_ino}'
ring, place = file('fragscope-ring', *files[:2])
reader, of_reader = file('fragscope-reader', *files[2:])
print(place, of_reader, flush=True)
sys.stdin.read()
print(struct.unpack_from('<Q', ring, 64)[0])
";

/// How many events a program of root writes into a ring that a process of this user holds out.
fn events_in_a_ring_of(user: u32, preload: &str) -> u64 {
    let files = [
        RING_BYTES as u64,
        RING_MAGIC,
        READER_BYTES as u64,
        READER_MAGIC,
    ];
    let mut other = Command::new("python3")
        .args(["-S", "-c", FALSE_RING])
        .arg(user.to_string())
        .args(files.map(|number| number.to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut answers = BufReader::new(other.stdout.take().expect("piped"));
    let mut place = String::new();
    answers.read_line(&mut place).expect("it speaks");
    // A program that is written in C, and asks malloc for a buffer to print into.
    let program = Command::new("/bin/echo")
        .env("LD_PRELOAD", preload)
        // Behind no filter.
        .env(RING_VARIABLE, format!("{} 0", place.trim()))
        .stdout(Stdio::null())
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
    head.trim().parse().expect("a number")
}

#[test]
fn a_ring_that_another_user_holds_out_is_not_written_to() {
    let folder = open_folder();
    let trace = folder.path().join("trace");
    let output = run(&mut record(&trace, &["sh", "-c", "echo $LD_PRELOAD"]));
    let listed = stdout(&output);
    let preload = listed.trim();
    assert!(events_in_a_ring_of(0, preload) > 0, "root's own ring");
    assert_eq!(events_in_a_ring_of(NOBODY, preload), 0);
}

#[test]
fn an_ordinary_user_keeps_the_recorder_in_a_directory_of_his_own() {
    let folder = open_folder();
    let program = install(Path::new(FRAGSCOPE), &folder);
    let own = tempfile::tempdir_in("/run").expect("root may");
    std::os::unix::fs::chown(own.path(), Some(NOBODY), Some(NOBODY)).expect("root may");
    let recorded = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&program)
            .args(["record", "-o"])
            .arg(own.path().join("trace"))
            .arg("--")
            .args(words)
            .env_remove("XDG_CACHE_HOME");
        command
    };
    let as_nobody = |directory: &Path| {
        let mut command = recorded(&["sh", "-c", "echo $LD_PRELOAD"]);
        command
            .env("XDG_RUNTIME_DIR", directory)
            .env("HOME", "/nonexistent");
        run(&mut command)
    };
    let output = as_nobody(own.path());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let listed = stdout(&output);
    assert!(listed.starts_with(text(own.path())), "{listed}");
    assert!(
        held(&own.path().join("trace"), 0).events > 0,
        "{}",
        stderr(&output)
    );
    // Those of other versions go, though he may not look into others' processes.
    let object = PathBuf::from(listed.trim().split(':').next().expect("preloaded"));
    let name = object.file_name().and_then(|name| name.to_str());
    let begin = name
        .and_then(|name| name.split_once("-0."))
        .expect("a version")
        .0;
    let old = object.with_file_name(format!("{begin}-0.0.0.so"));
    fs::write(&old, "").expect("root may");
    std::os::unix::fs::chown(&old, Some(NOBODY), Some(NOBODY)).expect("root may");
    let year = Duration::from_secs(365 * 24 * 3600);
    let file = fs::File::options().write(true).open(&old).expect("ours");
    file.set_modified(SystemTime::now() - year).expect("ours");
    // Other processes of his may begin just now, or let nobody look at them.
    eventually("its removal", || {
        assert_eq!(as_nobody(own.path()).status.code(), Some(0));
        (!old.exists()).then_some(())
    });
    // His first cache is made; without a home the message says what to do.
    let at_home = |home: &Path| {
        let mut command = recorded(&["true"]);
        command.env_remove("XDG_RUNTIME_DIR").env("HOME", home);
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
