//! Root writes into directories of other, hostile users. Needs root.

mod support;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, ChildStdout, Command, Stdio};

use profiler_testing::child::{Child, install, open_folder};
use profiler_testing::wait::eventually;
use support::{FRAGSCOPE, command, fragscope, idle_python, stderr};

/// The other user.
const ALICE: u32 = 12_345;

/// A folder of Alice's.
fn of_alice(mode: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(mode)).expect("ours");
    chown(folder.path(), Some(ALICE), Some(ALICE)).expect("as root");
    folder
}

#[test]
fn a_report_of_another_user_stays_that_users() {
    let folder = of_alice(0o755);
    let path = folder.path().join("out.json");
    fs::write(&path, "before").expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("ours");
    chown(&path, Some(ALICE), Some(ALICE)).expect("as root");
    let (child, name) = (idle_python(), path.to_string_lossy().into_owned());
    let pid = child.pid().to_string();
    let output = fragscope(&["snapshot", "--pid", &pid, "-o", &name]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let recorded = folder.path().join("out.fragtrace");
    fs::write(&recorded, "before").expect("written");
    chown(&recorded, Some(ALICE), Some(ALICE)).expect("as root");
    let to = recorded.to_string_lossy();
    let output = fragscope(&["record", "-o", &to, "--", "python3", "-c", "pass"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for (path, mode) in [(&path, 0o640), (&recorded, 0o644)] {
        let about = fs::metadata(path).expect("there");
        assert_eq!((about.uid(), about.gid()), (ALICE, ALICE));
        assert_eq!(about.mode() & 0o777, mode);
        assert_ne!(fs::read(path).expect("read"), b"before");
    }
}

#[test]
fn devices_are_neither_replaced_nor_written_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let child = idle_python();
    let pid = child.pid().to_string();
    for ending in ["json", "csv", "hlog", "fragtrace"] {
        let device = folder.path().join(format!("device.{ending}"));
        let name = device.to_string_lossy();
        let made = Command::new("mknod").args([&*name, "c", "1", "3"]).status();
        assert!(made.expect("mknod").success());
        let output = match ending {
            "fragtrace" => fragscope(&["record", "-o", &name, "--", "true"]),
            _ => fragscope(&["snapshot", "--pid", &pid, "-o", &name]),
        };
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("not a regular file"));
        let about = fs::symlink_metadata(&device).expect("there");
        assert!(about.file_type().is_char_device());
    }
}

/// A session that has begun, as its first line says, and that writes this file at its end; with its
/// stdout, which it could not write to otherwise.
fn attached_to(pid: &str, output: &str) -> (process::Child, BufReader<ChildStdout>) {
    let words = ["--pid", pid, "--json", "--no-probes", "-o", output];
    let mut attach = command(&["attach"]);
    attach
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut attach = attach.spawn().expect("it runs");
    let mut lines = BufReader::new(attach.stdout.take().expect("piped"));
    lines.read_line(&mut String::new()).expect("a line");
    (attach, lines)
}

#[test]
fn a_folder_that_is_swapped_for_a_link_leads_nowhere_else() {
    let home = of_alice(0o755);
    let (folder, moved) = (home.path().join("out"), home.path().join("moved"));
    fs::create_dir(&folder).expect("made");
    chown(&folder, Some(ALICE), Some(ALICE)).expect("as root");
    let victim = tempfile::tempdir().expect("a folder");
    let (child, path) = (idle_python(), folder.join("out.json"));
    let (pid, name) = (child.pid().to_string(), path.to_string_lossy());
    let (mut attach, _lines) = attached_to(&pid, &name);
    // Alice swaps the folder once the session has begun.
    fs::rename(&folder, &moved).expect("moved");
    symlink(victim.path(), &folder).expect("linked");
    // SAFETY: it takes two integers; the process is our child, and not yet waited for.
    unsafe { libc::kill(attach.id() as i32, libc::SIGTERM) };
    let ended = attach.wait().expect("it ends");
    assert_eq!(ended.code(), Some(130));
    assert_eq!(fs::read_dir(victim.path()).expect("listed").count(), 0);
    assert!(moved.join("out.json").is_file(), "it is where it was begun");
    // And a link of Alice's is not followed from the start.
    let output = fragscope(&["snapshot", "--pid", &pid, "-o", &name]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("not followed"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fs::read_dir(victim.path()).expect("listed").count(), 0);
}

#[test]
fn what_anybody_planted_in_a_shared_folder_is_not_filled_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.json");
    fs::write(&path, "planted").expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("ours");
    chown(&path, Some(ALICE), Some(ALICE)).expect("as root");
    let (child, name) = (idle_python(), path.to_string_lossy().into_owned());
    let pid = child.pid().to_string();
    // Shared with all, and with a group.
    for shared in [0o1777, 0o775] {
        fs::set_permissions(folder.path(), Permissions::from_mode(shared)).expect("ours");
        let output = fragscope(&["snapshot", "--pid", &pid, "-o", &name]);
        assert_eq!(output.status.code(), Some(1), "{shared:o}");
        assert!(
            stderr(&output).contains("belongs to user 12345"),
            "{}",
            stderr(&output)
        );
        assert_eq!(fs::read(&path).expect("read"), b"planted");
    }
}

/// Alice moves a file that root made for others to read from her folder to where root writes a report.
#[test]
fn what_is_written_over_a_file_that_anybody_can_have_moved_there_is_for_its_owner_alone() {
    let (shared, alices) = (tempfile::tempdir().expect("a folder"), of_alice(0o755));
    let log = alices.path().join("log");
    fs::write(&log, "root's").expect("written");
    fs::set_permissions(&log, Permissions::from_mode(0o644)).expect("ours");
    fs::set_permissions(shared.path(), Permissions::from_mode(0o1777)).expect("ours");
    let path = shared.path().join("out.json");
    let mut moved = Command::new("mv");
    moved.args([&log, &path]).uid(ALICE).gid(ALICE);
    assert!(moved.status().expect("mv").success());
    let (child, name) = (idle_python(), path.to_string_lossy().into_owned());
    let pid = child.pid().to_string();
    let output = fragscope(&["snapshot", "--pid", &pid, "-o", &name]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let about = fs::metadata(&path).expect("there");
    assert_eq!((about.uid(), about.mode() & 0o777), (0, 0o600));
}

#[test]
fn the_file_of_locks_is_no_output() {
    let child = idle_python();
    let pid = child.pid().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let first = folder
        .path()
        .join("out.json")
        .to_string_lossy()
        .into_owned();
    let made = fragscope(&["snapshot", "--pid", &pid, "-o", &first]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let before = fs::metadata("/run/fragscope/written").expect("there").ino();
    let folder = tempfile::tempdir().expect("a folder");
    let link = folder.path().join("link.json");
    fs::hard_link("/run/fragscope/written", &link)
        .or_else(|_| symlink("/run/fragscope/written", &link))
        .expect("linked");
    let link = link.to_string_lossy().into_owned();
    let output = fragscope(&["record", "-o", "/run/fragscope/written", "--", "true"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("for its locks"),
        "{}",
        stderr(&output)
    );
    let output = fragscope(&["snapshot", "--pid", &pid, "-o", &link]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let after = fs::metadata("/run/fragscope/written").expect("there").ino();
    assert_eq!(before, after);
}

#[test]
fn nobody_else_can_keep_root_from_writing_or_from_noticing_a_second_writer() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.json");
    let (child, name) = (idle_python(), path.to_string_lossy().into_owned());
    let pid = child.pid().to_string();
    // What once was the lock, which anybody could work out and hold, is Alice's; what is the lock now
    // is not.
    let squat = format!(
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind('\\0{}'); s.listen()\n\
         try: open('/run/fragscope/written')\nexcept PermissionError: print(1, flush=True)\n\
         sys.stdin.readline()",
        once_the_lock(folder.path(), "out.json")
    );
    let made = fragscope(&["snapshot", "--pid", &pid, "-o", &name]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let mut command = Command::new("python3");
    command.args(["-S", "-c", &squat]).uid(ALICE).gid(ALICE);
    let squatter = Child::run(command);
    assert_eq!(squatter.first_line(), "1", "the file of locks is root's");
    let (mut first, _lines) = attached_to(&pid, &name);
    let second = fragscope(&["snapshot", "--pid", &pid, "-o", &name]);
    let expected = format!("process {} is writing it", first.id());
    assert_eq!(second.status.code(), Some(1), "it is noticed");
    assert!(stderr(&second).contains(&expected), "{}", stderr(&second));
    first.kill().expect("killed");
    first.wait().expect("ended");
    // A player that was about to start has the lock as well, until it starts or ends.
    eventually("writing by a third", || {
        let output = fragscope(&["snapshot", "--pid", &pid, "-o", &name]);
        output.status.success().then_some(())
    });
}

/// The name of a socket that was once the lock of an output in this folder.
fn once_the_lock(folder: &Path, name: &str) -> String {
    let about = fs::metadata(folder).expect("there");
    let mut hash = DefaultHasher::new();
    OsStr::new(name).hash(&mut hash);
    let (device, inode, number) = (about.dev(), about.ino(), hash.finish());
    format!("fragscope-output-{device:x}-{inode:x}-{number:016x}")
}

#[test]
fn a_user_without_a_directory_for_locks_writes_all_the_same_and_is_warned() {
    let folder = open_folder();
    let program = install(Path::new(FRAGSCOPE), &folder);
    let trace = folder.path().join("trace");
    let made = fragscope(&["record", "-o", &trace.to_string_lossy(), "--", "true"]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    chown(&trace, Some(ALICE), Some(ALICE)).expect("as root");
    let own = of_alice(0o755);
    let text = own.path().join("out.txt");
    let mut export = Command::new(&program);
    export
        .arg("export")
        .arg(&trace)
        .args(["--format", "logalloc", "-o"])
        .arg(&text)
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("XDG_CACHE_HOME")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .uid(ALICE)
        .gid(ALICE);
    let output = export.output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("nothing keeps a second fragscope from writing"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fs::metadata(&text).expect("written").uid(), ALICE);
    // With a home in which he alone can write, all the way, nothing is said.
    let home = tempfile::tempdir_in("/run").expect("root may");
    chown(home.path(), Some(ALICE), Some(ALICE)).expect("as root");
    let output = export.env("HOME", home.path()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        !stderr(&output).contains("nothing keeps"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn mounts_in_the_way_of_an_output_are_noticed_before_anything_is_looked_at() {
    let folder = tempfile::tempdir().expect("a folder");
    let child = idle_python();
    let script = "
        set -e
        mkdir first second
        touch first/file.json mounted.json
        mount --bind first second
        mount --bind mounted.json first/file.json
        set +e
        \"$1\" snapshot --pid \"$2\" -o first/file.json
        echo $?
        \"$1\" snapshot --pid \"$2\" -o first/out.json -o second/out.json > printed
        echo $?";
    let ended = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(env!("CARGO_BIN_EXE_fragscope"))
        .arg(child.pid().to_string())
        .current_dir(&folder)
        .output()
        .expect("unshare, of util-linux");
    let said = stderr(&ended);
    // Of the first nothing is printed.
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "1\n1\n", "{said}");
    for why in [
        "cannot write first/file.json: something is mounted there",
        "cannot write second/out.json: it is named twice; the other files are written",
    ] {
        assert!(said.contains(why), "{said}");
    }
    assert!(folder.path().join("first/out.json").exists());
}
