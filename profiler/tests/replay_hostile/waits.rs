//! Pipes and devices: reading and writing them waits as long as it takes, and ends with a signal.

use super::*;

/// A process that ends with the test.
struct Running(KillOnDrop);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(KillOnDrop(command.spawn().expect("it starts")))
    }

    /// Waits until it has been waiting for a while, by what the kernel says, with `file` open.
    fn settle(&self, file: Option<&Path>) {
        let process = PathBuf::from(format!("/proc/{}", self.0.id()));
        let until = Instant::now() + Duration::from_secs(60);
        let used = || {
            let stat = fs::read_to_string(process.join("stat")).expect("it runs");
            let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
            let words: Vec<&str> = rest.split(' ').collect();
            (
                words[0].to_owned(),
                words[11].to_owned(),
                words[12].to_owned(),
            )
        };
        let has_it = || {
            let open = fs::read_dir(process.join("fd")).expect("it runs");
            let mut open = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
            file.is_none_or(|file| open.any(|path| path == file))
        };
        let mut before = used();
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let now = used();
            if has_it() && now.0 == "S" && now == before {
                return;
            }
            before = now;
            assert!(Instant::now() < until, "it does not come to wait");
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("it runs");
    }

    fn end(mut self) -> ExitStatus {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if let Some(status) = self.0.try_wait().expect("our own child") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it is deaf to the signal");
    }
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
                let flags: &[&str] = match command {
                    "replay" => &[text(&pipe)],
                    _ => &[text(&pipe), "--format", "logalloc"],
                };
                let mut fragscope = fragscope(command, flags);
                fragscope.stdout(Stdio::null()).stderr(Stdio::null());
                let running = Running::start(fragscope);
                let mut writer = None;
                if is_written_to {
                    // Opened when the reader is there.
                    let mut half = File::options().write(true).open(&pipe).expect("open");
                    half.write_all(&bytes[..bytes.len() / 2]).expect("written");
                    writer = Some(half);
                }
                running.settle(Some(&pipe));
                running.signal(signal);
                let status = running.end();
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
            let flags: &[&str] = match command {
                "replay" => &[text(&path)],
                _ => &[text(&path), "--format", "logalloc"],
            };
            let output = fragscope(command, flags)
                .stdin(Stdio::piped())
                .output()
                .expect("it runs");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
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
        let mut export = fragscope("export", &["/dev/stdin", "--format", "logalloc"]);
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
        let output = export.output().expect("it runs");
        cat.map(|mut cat| cat.wait().expect("it ends"));
        let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!((output.status.code(), lines), (Some(0), 1000));
    }
    // A device that is open already does no more harm by being read.
    let output = fragscope("export", &["/dev/stdin", "--format", "logalloc"]).output();
    let said = String::from_utf8_lossy(&output.expect("it runs").stderr).into_owned();
    assert!(said.contains("not a recording of a known format"), "{said}");
}

#[test]
fn a_pipe_is_read_to_its_end_however_slowly_it_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    let mut fragscope = fragscope("export", &[text(&pipe), "--format", "logalloc"]);
    fragscope.stdout(Stdio::piped());
    let running = fragscope.spawn().expect("it starts");
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
    let mut fragscope = fragscope("export", &[text(&path), "--format", "logalloc"]);
    fragscope.stdout(Stdio::piped());
    let running = Running::start(fragscope);
    running.settle(None);
    running.signal(Signal::SIGINT);
    assert_eq!(running.end().code(), Some(130));
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
        let format = ["--format", "logalloc"];
        let mut export = fragscope("export", &[&[text(&pipe)][..], &format, flags].concat());
        export.stdout(Stdio::null());
        export.stderr(File::create(&said).expect("ours"));
        let running = Running::start(export);
        running.settle(Some(&pipe));
        running.signal(Signal::SIGTERM);
        assert_eq!(running.end().code(), Some(130));
        let said = fs::read_to_string(&said).expect("ours");
        assert!(said.contains(expected), "{said:?}");
        assert!(!out.exists());
    }
}
