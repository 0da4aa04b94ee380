//! The files that commands write, where a hostile or careless neighbour has prepared the place.
//! Needs no privilege.

mod support;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use profiler_testing::child::Child;
use profiler_testing::wait::{eventually, promptly};
use support::record::record_python;
use support::{FRAGSCOPE, command, core_of, fragscope, idle_python, stderr, text};

/// A recording of a short program.
fn recording(folder: &Path) -> PathBuf {
    recording_of(folder, "kept = [bytes(i) for i in range(2000)]")
}

/// The recording of a Python program.
fn recording_of(folder: &Path, program: &str) -> PathBuf {
    let trace = folder.join("short.fragtrace");
    let made = fragscope(&record_python(&trace, program));
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    trace
}

/// Every command with every kind of file that it writes, to be completed by the name of one.
fn commands<'a>(pid: &'a str, trace: &'a str) -> Vec<(Vec<&'a str>, &'static str)> {
    let attach = vec![
        "attach",
        "--pid",
        pid,
        "--headless",
        "--no-probes",
        "--duration",
        "100ms",
    ];
    let snapshot = vec!["snapshot", "--pid", pid];
    let mut commands = Vec::new();
    for ending in ["json", "csv", "hlog", "fragsnap"] {
        commands.push((attach.clone(), ending));
        commands.push((snapshot.clone(), ending));
    }
    commands.push((vec!["export", trace, "--format", "logalloc"], "txt"));
    let replay = vec!["replay", trace, "--allocator", "glibc", "--runs", "1"];
    commands.push((replay, "json"));
    commands.push((vec!["record"], "fragtrace"));
    commands
}

/// Runs one of [`commands`] with its output at `path`.
fn run(command: &[&str], path: &Path) -> Output {
    let name = path.to_string_lossy();
    let mut args = command.to_vec();
    args.extend(["-o", &name]);
    if command[0] == "record" {
        args.extend(["--", "true"]);
    }
    fragscope(&args)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

fn names(folder: &Path) -> Vec<String> {
    let listed = fs::read_dir(folder).expect("listed");
    let mut names: Vec<_> = listed
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// A process with its number, and a recording in the folder, for [`commands`].
fn inputs(folder: &Path) -> (Child, String, String) {
    let child = idle_python();
    let pid = child.pid().to_string();
    (child, pid, text(&recording(folder)).to_owned())
}

#[test]
fn no_command_follows_a_link_or_replaces_a_device_a_pipe_or_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_child, pid, trace) = inputs(folder.path());
    for (command, ending) in commands(&pid, &trace) {
        let place = tempfile::tempdir().expect("a folder");
        let in_place = |name: &str| place.path().join(format!("{name}.{ending}"));
        let kept = in_place("kept");
        fs::write(&kept, "before").expect("written");
        let (link, dangling, pipe, within) = (
            in_place("link"),
            in_place("dangling"),
            in_place("pipe"),
            in_place("folder"),
        );
        symlink(&kept, &link).expect("linked");
        symlink(in_place("nothing"), &dangling).expect("linked");
        let made = Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo").success());
        fs::create_dir(&within).expect("made");
        for path in [&link, &dangling, &pipe, &within] {
            let output = run(&command, path);
            let said = stderr(&output);
            assert_eq!(
                output.status.code(),
                Some(1),
                "{command:?} {path:?}: {said}"
            );
            let is_link = [&link, &dangling].contains(&path);
            let why = match is_link {
                true => "it is a link, which is not followed",
                false if path == &within => "that names a folder",
                false => "not a regular file",
            };
            assert!(said.contains(why), "{command:?}: {said}");
        }
        assert_eq!(fs::read(&kept).expect("read"), b"before", "{command:?}");
        assert!(
            fs::symlink_metadata(&pipe)
                .expect("there")
                .file_type()
                .is_fifo()
        );
        assert_eq!(names(place.path()).len(), 5, "{command:?} made nothing");
    }
}

/// Every command that reads a file and writes one, whatever the file is called.
#[test]
fn no_command_writes_a_file_that_is_called_as_others_call_the_standard_output() {
    for (command, ending) in [
        commands("1", "none"),
        vec![(vec!["report", "none"], "html"), (vec!["demo"], "json")],
    ]
    .concat()
    {
        let folder = tempfile::tempdir().expect("a folder");
        let mut args = command.clone();
        args.extend(["-o", "-"]);
        if command[0] == "record" {
            args.extend(["--", "true"]);
        }
        let output = support::run(support::command(&args).current_dir(&folder));
        let said = stderr(&output);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{command:?} {ending}: {said}"
        );
        assert!(said.contains("- the standard output"), "{said}");
        assert_eq!(names(folder.path()), Vec::<String>::new(), "{command:?}");
    }
}

#[test]
fn no_command_replaces_what_it_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let in_folder = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let trace = recording(folder.path()).to_string_lossy().into_owned();
    let (session, program) = (in_folder("saved.fragsnap"), in_folder("program.json"));
    let child = idle_python();
    let pid = child.pid().to_string();
    let saved = fragscope(&["snapshot", "--pid", &pid, "-o", &session]);
    assert_eq!(saved.status.code(), Some(0), "{}", stderr(&saved));
    let core = core_of(&pid, folder.path());
    let core_as = in_folder("core.json");
    fs::rename(core, &core_as).expect("ours");
    fs::write(&program, "#!/bin/sh\n").expect("written");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("ours");
    let library = in_folder("library.json");
    fs::write(&library, "none").expect("written");
    for (words, input) in [
        (&["export", &trace, "--format", "logalloc"][..], &trace),
        (&["export", &session, "--format", "text"], &session),
        (&["replay", &trace], &trace),
        (&["replay", &trace, "--allocator", &library], &library),
        (&["snapshot", "--core", &core_as], &core_as),
        (
            &["snapshot", "--core", &core_as, "--exe", &program],
            &program,
        ),
        (
            &[
                "attach",
                "--headless",
                "--duration",
                "100ms",
                "--pid",
                &pid,
                "--what-if",
                &library,
            ],
            &library,
        ),
        (&["record", "--", &program], &program),
    ] {
        let before = fs::read(input).expect("there");
        let ending = Path::new(input).extension().expect("it has one");
        let second = folder.path().join("second").with_extension(ending);
        fs::hard_link(input, &second).expect("linked");
        for output in [Path::new(input), &second] {
            // Before what is recorded.
            let at = words.iter().position(|word| *word == "--");
            let (first, last) = words.split_at(at.unwrap_or(words.len()));
            let name = output.to_string_lossy();
            let args = [first, &["-o", &name], last].concat();
            let ended = fragscope(&args);
            let said = stderr(&ended);
            assert_eq!(ended.status.code(), Some(1), "{args:?}: {said}");
            assert!(
                said.contains("it is the file that is read"),
                "{args:?}: {said}"
            );
        }
        assert_eq!(fs::read(&second).expect("there"), before);
        fs::remove_file(&second).expect("ours");
        assert_eq!(fs::read(input).expect("there"), before, "{words:?}");
    }
}

#[test]
fn a_limit_of_the_size_of_files_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = recording(folder.path());
    let child = idle_python();
    let pid = child.pid().to_string();
    let (trace, out) = (trace.to_string_lossy(), folder.path().join("out.json"));
    let out = out.to_string_lossy();
    for words in [
        &["export", &trace, "--format", "logalloc", "-o", &out][..],
        &["snapshot", "--pid", &pid, "-o", &out],
        &["record", "-o", &out, "--", "true"],
    ] {
        let ended = Command::new("sh")
            .args(["-c", "ulimit -f 1; exec \"$@\"", "sh"])
            .arg(FRAGSCOPE)
            .args(words)
            .output()
            .expect("a shell");
        let said = stderr(&ended);
        assert_eq!(ended.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains("ulimit -f"), "{words:?}: {said}");
        assert_eq!(
            fs::metadata(&*out).err().map(|e| e.kind()),
            Some(std::io::ErrorKind::NotFound)
        );
    }
}

#[test]
fn no_command_follows_a_link_in_the_path_that_others_could_have_put_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_child, pid, trace) = inputs(folder.path());
    let private = tempfile::tempdir().expect("a folder");
    let open = tempfile::tempdir().expect("a folder");
    symlink(private.path(), open.path().join("link")).expect("linked");
    for (command, ending) in commands(&pid, &trace) {
        let path = open.path().join(format!("link/out.{ending}"));
        // Into a sticky folder others move a link of ours from a folder of theirs.
        for shared in [0o777, 0o1777] {
            fs::set_permissions(open.path(), Permissions::from_mode(shared)).expect("mode");
            let output = run(&command, &path);
            assert_eq!(output.status.code(), Some(1), "{command:?}");
            let said = stderr(&output);
            assert!(said.contains("not followed"), "{said}");
            assert_eq!(names(private.path()), [""; 0]);
        }
        // One that only root and we can have made is as good as a folder.
        fs::set_permissions(open.path(), Permissions::from_mode(0o755)).expect("mode");
        let output = run(&command, &path);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{command:?} {}",
            stderr(&output)
        );
        fs::remove_file(path).expect("written");
    }
}

#[test]
fn every_command_writes_for_the_owner_alone_and_keeps_the_mode_of_what_it_replaces() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_child, pid, trace) = inputs(folder.path());
    assert_eq!(mode(Path::new(&trace)), 0o600);
    for (command, ending) in commands(&pid, &trace) {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join(format!("out.{ending}"));
        for wanted in [0o600, 0o664] {
            let output = run(&command, &path);
            assert_eq!(
                output.status.code(),
                Some(0),
                "{command:?} {}",
                stderr(&output)
            );
            assert_eq!(mode(&path), wanted, "{command:?}");
            fs::set_permissions(&path, Permissions::from_mode(0o664)).expect("mode");
        }
        assert_eq!(
            names(place.path()).len(),
            1,
            "{command:?} left nothing else"
        );
    }
}

/// Waits until a process holds the lock of an output.
fn wait_for_lock(child: &std::process::Child) {
    let folder = format!("/proc/{}/fdinfo", child.id());
    promptly("a lock", || {
        let open = fs::read_dir(&folder).expect("it runs");
        let mut open = open
            .flatten()
            .filter_map(|fd| fs::read_to_string(fd.path()).ok());
        open.any(|about| about.contains("OFDLCK")).then_some(())
    });
}

#[test]
fn a_second_writer_of_the_same_file_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let child = idle_python();
    let pid = child.pid().to_string();
    let path = folder.path().join("out.json");
    let name = path.to_string_lossy();
    let attach = [
        "attach",
        "--pid",
        &pid,
        "--headless",
        "--no-probes",
        "-o",
        &name,
    ];
    let mut first = command(&attach)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    wait_for_lock(&first);
    let second = fragscope(&["snapshot", "--pid", &pid, "-o", &name]);
    assert_eq!(second.status.code(), Some(1));
    let expected = format!("process {} is writing it", first.id());
    assert!(stderr(&second).contains(&expected), "{}", stderr(&second));
    assert_eq!(names(folder.path()), [""; 0], "nothing was left by either");
    first.kill().expect("killed");
    first.wait().expect("ended");
    // A kill takes the lock with it, once the processes of its own have ended that it had just begun.
    eventually("the lock", || {
        let third = fragscope(&["snapshot", "--pid", &pid, "-o", &name]);
        third.status.success().then_some(())
    });
    let twice = fragscope(&["snapshot", "--pid", &pid, "-o", &name, "-o", &name]);
    assert!(stderr(&twice).contains("named twice"), "{}", stderr(&twice));
}

#[test]
fn a_kill_while_a_whole_file_is_written_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    // More than a block of events, so that a part of it can be written before all is read.
    let long = "for i in range(500000): kept = bytes(600 + i % 9)";
    let trace = fs::read(recording_of(folder.path(), long)).expect("read");
    let place = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let (input, output) = (pipe.to_string_lossy(), place.path().join("out.txt"));
    let output = output.to_string_lossy();
    let mut export = command(&["export", &input, "--format", "logalloc", "-o", &output])
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    // It gets most of a recording and waits for the rest.
    let mut writer = OpenOptions::new()
        .write(true)
        .open(&pipe)
        .expect("it reads");
    writer
        .write_all(&trace[..trace.len() - 64])
        .expect("it reads");
    let inside = place.path().to_string_lossy().into_owned();
    promptly("something that is written", || {
        let open = fs::read_dir(format!("/proc/{}/fd", export.id())).expect("it runs");
        let writes = open.flatten().any(|fd| {
            let link = fs::read_link(fd.path()).unwrap_or_default();
            link.to_string_lossy().starts_with(&inside)
                && fs::metadata(fd.path()).is_ok_and(|about| about.is_file() && about.len() > 0)
        });
        writes.then_some(())
    });
    assert_eq!(names(place.path()), [""; 0], "nothing is seen of it yet");
    export.kill().expect("killed");
    export.wait().expect("ended");
    assert_eq!(names(place.path()), [""; 0], "nothing is left of it");
}

#[test]
fn a_recording_is_readable_after_a_kill_and_keeps_what_was_there_until_it_has_begun() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("out.fragtrace");
    let name = path.to_string_lossy();
    fs::write(&path, "before").expect("written");
    // What cannot be started leaves the file as it was.
    let failed = fragscope(&["record", "-o", &name, "--", "/no/such/program"]);
    assert_eq!(failed.status.code(), Some(127));
    assert_eq!(fs::read(&path).expect("read"), b"before");

    let program = "import os\nprint(os.getpid(), flush=True)\nwhile True: kept = bytes(700)";
    let mut record = command(&["record", "-o", &name, "--", "python3", "-S", "-c", program])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut line = String::new();
    BufReader::new(record.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("a line");
    promptly("a MiB of it", || {
        (fs::metadata(&path).expect("there").len() >= 1 << 20).then_some(())
    });
    record.kill().expect("killed");
    record.wait().expect("ended");
    let pid = line.trim().parse().expect("a number");
    // SAFETY: it takes two integers; the process is a child of the one that was killed.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    assert_eq!(names(place.path()), ["out.fragtrace"]);
    let text = place.path().join("out.txt");
    let to = text.to_string_lossy();
    fragscope(&["export", &name, "--format", "logalloc", "-o", &to]);
    let calls = BufReader::new(File::open(&text).expect("exported")).lines();
    assert!(calls.count() > 10_000, "what was written can be read");
}

#[test]
fn an_output_that_cannot_be_written_does_not_keep_the_others_from_being_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let child = idle_python();
    let pid = child.pid().to_string();
    let attach = ["attach", "--headless", "--no-probes", "--duration", "200ms"];
    for command in [&attach[..], &["snapshot"]] {
        for ending in ["json", "fragsnap"] {
            let good = path(&format!("good.{ending}"));
            let (nowhere, within) = (path("none/out.json"), path("within.fragsnap"));
            fs::create_dir(&within).expect("made");
            let outputs = ["-o", &nowhere, "-o", &good, "-o", &within];
            let ended = fragscope(&[command, &["--pid", &pid], &outputs].concat());
            let said = stderr(&ended);
            assert_eq!(ended.status.code(), Some(1), "{command:?}: {said}");
            assert!(
                fs::metadata(&good).is_ok_and(|about| about.len() > 0),
                "{said}"
            );
            let last = said.rsplit_once("wrote").expect("it says so").1;
            for failed in [&nowhere, &within] {
                let expected = format!("cannot write {failed}: ");
                assert!(last.contains(&expected), "{said}");
            }
            // Where nothing can be written nothing is looked at.
            let outputs = ["-o", &nowhere, "-o", &within];
            let ended = fragscope(&[command, &["--pid", &pid], &outputs].concat());
            assert_eq!(ended.status.code(), Some(1));
            assert!(ended.stdout.is_empty(), "{command:?}");
            fs::remove_dir(&within).expect("ours");
            fs::remove_file(&good).expect("written");
        }
    }
}

#[test]
fn what_a_process_has_open_is_no_place_for_a_file_and_is_called_what_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = recording(folder.path());
    let trace = trace.to_string_lossy();
    for place in ["/proc/self/fd/1", "/dev/fd/2", "/dev/stdout"] {
        let ended = fragscope(&["export", &trace, "--format", "logalloc", "-o", place]);
        let said = stderr(&ended);
        assert_eq!(ended.status.code(), Some(1), "{place}: {said}");
        assert!(
            said.contains("it stands for what a process has open"),
            "{said}"
        );
        assert!(said.contains("fix: name the file itself"), "{said}");
    }
}
