//! Pipes and devices: reading and writing them waits as long as necessary, and a signal ends the
//! wait.

use crate::*;

/// The command that reads this recording.
fn reading(subcommand: &str, path: &Path) -> Command {
    let mut reading = command(&[subcommand, text(path)]);
    if subcommand == "export" {
        reading.args(["--format", "logalloc"]);
    }
    reading
}

fn start(command: &mut Command) -> KillOnDrop {
    KillOnDrop(command.spawn().expect("it starts"))
}

/// Waits until it has been waiting for a while, by what the kernel says, with `file` open.
fn settle(running: &KillOnDrop, file: Option<&Path>) {
    let process = PathBuf::from(format!("/proc/{}", running.id()));
    // Its state, and the time that it had on processors.
    let used = || {
        let stat = fs::read_to_string(process.join("stat")).expect("it runs");
        let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
        let words: Vec<&str> = rest.split(' ').collect();
        [words[0], words[11], words[12]].map(str::to_owned)
    };
    let has_it = || {
        let open = fs::read_dir(process.join("fd")).expect("it runs");
        let mut open = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        file.is_none_or(|file| open.any(|path| path == file))
    };
    let (mut before, mut unchanged) = (used(), 0);
    eventually("its wait", || {
        let now = used();
        let waits = has_it() && now[0] == "S" && now == before;
        unchanged = if waits { unchanged + 1 } else { 0 };
        before = now;
        (unchanged == 20).then_some(())
    });
}

#[test]
fn a_signal_ends_the_wait_for_a_pipe() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    let bytes = trace(&[], 1000);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        for command in ["replay", "export"] {
            for is_written_to in [false, true] {
                let mut reading = reading(command, &pipe);
                let mut running = start(reading.stdout(Stdio::null()).stderr(Stdio::null()));
                let mut writer = None;
                if is_written_to {
                    // Opened when the reader is there.
                    let mut half = File::options().write(true).open(&pipe).expect("open");
                    half.write_all(&bytes[..bytes.len() / 2]).expect("written");
                    writer = Some(half);
                }
                settle(&running, Some(&pipe));
                kill(running.pid(), signal).expect("it runs");
                let status = running.ended();
                drop(writer);
                assert_eq!(
                    status.code(),
                    Some(130),
                    "{command} {signal} {is_written_to}"
                );
            }
        }
    }
}

#[test]
fn a_device_that_somebody_linked_to_is_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("recording");
    // The last ones look like regular files: read, they would take messages from others or never end.
    let devices =
        ["/dev/ptmx", "/dev/zero", "/dev/null"].map(|path| (path, "regular file nor a pipe"));
    let files = ["/proc/kmsg", "/proc/self/mem"].map(|path| (path, "the kernel's own files"));
    for (device, why) in devices.into_iter().chain(files) {
        std::os::unix::fs::symlink(device, &path).expect("linked");
        for command in ["replay", "export"] {
            let output = run(reading(command, &path).stdin(Stdio::piped()));
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{command} {device}: {said}");
            assert!(said.contains(why), "{said}");
        }
        fs::remove_file(&path).expect("removed");
    }
}

#[test]
fn what_is_given_as_stdin_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = written(folder.path(), &trace(&[], 1000));
    for is_pipe in [false, true] {
        let mut export = reading("export", Path::new("/dev/stdin"));
        let mut cat = None;
        if is_pipe {
            let mut writer = Command::new("cat")
                .arg(&path)
                .stdout(Stdio::piped())
                .spawn()
                .expect("cat runs");
            export.stdin(writer.stdout.take().expect("a pipe"));
            cat = Some(writer);
        } else {
            export.stdin(File::open(&path).expect("readable"));
        }
        let output = run(&mut export);
        cat.map(|mut cat| cat.wait().expect("it ends"));
        let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!((output.status.code(), lines), (Some(0), 1000));
    }
    // A device that is open already does no more harm by being read.
    let said = stderr(&run(&mut reading("export", Path::new("/dev/stdin"))));
    assert!(said.contains("not a recording of a known format"), "{said}");
}

#[test]
fn a_pipe_is_read_to_its_end_however_slowly_it_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    let mut export = reading("export", &pipe);
    let running = export.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut writer = File::options().write(true).open(&pipe).expect("open");
    for part in trace(&[], 1000).chunks(100) {
        writer.write_all(part).expect("written");
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(writer);
    let output = running.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines, 1000);
}

#[test]
fn a_signal_ends_the_wait_for_a_reader() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = written(folder.path(), &trace(&[], 100_000));
    let mut running = start(reading("export", &path).stdout(Stdio::piped()));
    settle(&running, None);
    kill(running.pid(), Signal::SIGINT).expect("it runs");
    assert_eq!(running.ended().code(), Some(130));
}

#[test]
fn an_export_that_a_signal_ends_says_what_was_not_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    let (out, said) = (folder.path().join("out.txt"), folder.path().join("said"));
    let to_file = format!("{} was not written", out.display());
    for (flags, expected) in [
        (&["-o", text(&out)][..], &*to_file),
        (&[], "not all of the recording was printed"),
    ] {
        let mut export = reading("export", &pipe);
        export.args(flags).stdout(Stdio::null());
        export.stderr(File::create(&said).expect("ours"));
        let mut running = start(&mut export);
        settle(&running, Some(&pipe));
        kill(running.pid(), Signal::SIGTERM).expect("it runs");
        assert_eq!(running.ended().code(), Some(130));
        let said = fs::read_to_string(&said).expect("ours");
        assert!(said.contains(expected), "{said:?}");
        assert!(!out.exists());
    }
}
