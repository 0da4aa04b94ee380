//! Root writes into folders of other users, who are hostile: needs root.

mod child;

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use child::Child;

/// The other user.
const ALICE: u32 = 12_345;

fn fragscope(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fragscope"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("it runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn python() -> Child {
    Child::python("import sys; print(1, flush=True); sys.stdin.readline()")
}

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
    let (child, name) = (python(), path.to_string_lossy().into_owned());
    let pid = child.pid().to_string();
    let output = fragscope(&["snapshot", "--pid", &pid, "-o", &name]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let recorded = folder.path().join("out.fragtrace");
    fs::write(&recorded, "before").expect("written");
    chown(&recorded, Some(ALICE), Some(ALICE)).expect("as root");
    let to = recorded.to_string_lossy();
    let output = fragscope(&["record", "-o", &to, "--", "python3", "-c", "pass"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
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
    let child = python();
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
        assert!(said(&output).contains("not a regular file"));
        let about = fs::symlink_metadata(&device).expect("there");
        assert!(about.file_type().is_char_device());
    }
}

#[test]
fn a_folder_that_is_swapped_for_a_link_leads_nowhere_else() {
    let home = of_alice(0o755);
    let (folder, moved) = (home.path().join("out"), home.path().join("moved"));
    fs::create_dir(&folder).expect("made");
    chown(&folder, Some(ALICE), Some(ALICE)).expect("as root");
    let victim = tempfile::tempdir().expect("a folder");
    let (child, path) = (python(), folder.join("out.json"));
    let (pid, name) = (child.pid().to_string(), path.to_string_lossy());
    let mut attach = Command::new(env!("CARGO_BIN_EXE_fragscope"))
        .args([
            "attach",
            "--pid",
            &pid,
            "--json",
            "--no-probes",
            "-o",
            &name,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    // Its first line says that it has begun; Alice swaps the folder then.
    let mut line = String::new();
    let lines = attach.stdout.take().expect("piped");
    let mut lines = std::io::BufReader::new(lines);
    std::io::BufRead::read_line(&mut lines, &mut line).expect("a line");
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
    assert!(said(&output).contains("not followed"), "{}", said(&output));
    assert_eq!(fs::read_dir(victim.path()).expect("listed").count(), 0);
}

#[test]
fn what_anybody_planted_in_a_shared_folder_is_not_filled_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.json");
    fs::write(&path, "planted").expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("ours");
    chown(&path, Some(ALICE), Some(ALICE)).expect("as root");
    let (child, name) = (python(), path.to_string_lossy().into_owned());
    let pid = child.pid().to_string();
    // Shared with all, and with a group.
    for shared in [0o1777, 0o775] {
        fs::set_permissions(folder.path(), Permissions::from_mode(shared)).expect("ours");
        let output = fragscope(&["snapshot", "--pid", &pid, "-o", &name]);
        assert_eq!(output.status.code(), Some(1), "{shared:o}");
        assert!(
            said(&output).contains("belongs to user 12345"),
            "{}",
            said(&output)
        );
        assert_eq!(fs::read(&path).expect("read"), b"planted");
    }
}

#[test]
fn nobody_else_can_keep_root_from_writing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out.json");
    let (child, name) = (python(), path.to_string_lossy().into_owned());
    let pid = child.pid().to_string();
    // What a fragscope would take as its lock, which its own socket shows, Alice takes first.
    let mut first = Command::new(env!("CARGO_BIN_EXE_fragscope"))
        .args([
            "attach",
            "--pid",
            &pid,
            "--json",
            "--no-probes",
            "-o",
            &name,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut line = String::new();
    let mut lines = std::io::BufReader::new(first.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut lines, &mut line).expect("a line");
    let lock = lock_in(folder.path());
    first.kill().expect("killed");
    first.wait().expect("ended");
    let squat = format!(
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind('\\0{lock}'); s.listen(); \
         print(1, flush=True); sys.stdin.readline()"
    );
    let mut command = Command::new("python3");
    command.args(["-S", "-c", &squat]).uid(ALICE).gid(ALICE);
    let squatter = Child::run(command);
    assert_eq!(squatter.said(), "1", "Alice holds {lock}");
    let output = fragscope(&["snapshot", "--pid", &pid, "-o", &name]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

/// The name of the lock of an output in this folder.
fn lock_in(folder: &Path) -> String {
    let about = fs::metadata(folder).expect("there");
    let begin = format!("fragscope-output-{:x}-{:x}", about.dev(), about.ino());
    let sockets = fs::read_to_string("/proc/net/unix").expect("there");
    let names = sockets.lines().filter_map(|line| line.rsplit_once('@'));
    let mut names = names.map(|(_, name)| name.to_owned());
    names.find(|name| name.starts_with(&begin)).expect("a lock")
}
