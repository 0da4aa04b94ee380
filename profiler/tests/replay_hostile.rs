//! `fragscope replay` and `export` of what a stranger made: settings and objects, pipes that nobody
//! writes to, files that are small and come to much, and those that are cut off.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use profiler_testing::child::KillOnDrop;
use profiler_trace::record::{Clock, Normaliser, Recorder, SourceEvent, SourceKind};
use profiler_trace::trace::{By, EventKind, Writer};
use serde_json::Value;
use support::text;

fn fragscope(command: &str, arguments: &[&str]) -> Command {
    let mut fragscope = support::command(&[command]);
    fragscope.args(arguments);
    fragscope
}

/// A trace of so many blocks of 100 bytes, with this description.
fn trace(described: &[(&str, &str)], blocks: u64) -> Vec<u8> {
    trace_of(described, (0..blocks).map(|_| 100))
}

/// A trace of blocks of these sizes.
fn trace_of(described: &[(&str, &str)], sizes: impl Iterator<Item = u64>) -> Vec<u8> {
    let described = described.iter().copied().collect();
    let writer = Writer::new(Vec::new(), &described).expect("memory");
    let mut recorder = Recorder::new(writer, Normaliser::new(Clock::new(0, 1)));
    for (number, bytes) in sizes.enumerate() {
        let alloc = SourceEvent {
            time_ns: 0,
            process: 0,
            thread: 0,
            kind: SourceKind::Event(EventKind::Alloc {
                addr: 0x1000 + ((number as u64) << 12),
                bytes,
                align: 0,
                by: By::Malloc,
            }),
        };
        recorder.record(&alloc).expect("memory");
    }
    recorder.finish().expect("memory").finish().expect("memory")
}

fn written(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("recording");
    fs::write(&path, bytes).expect("a writable folder");
    path
}

/// A library that leaves a mark when it is loaded, and ends what loaded it.
fn bait(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (source, object, mark) = (
        folder.join("bait.c"),
        folder.join(name),
        folder.join("loaded"),
    );
    let code = format!(
        "#include <fcntl.h>\n#include <stddef.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
         __attribute__((constructor)) static void begin(void) {{\n\
           open(\"{}\", O_CREAT | O_WRONLY, 0600);\n\
           static const char said[] = \"the bait is loaded\\n\";\n\
           if (write(2, said, sizeof said - 1) > 0) abort(); }}\n\
         unsigned la_version(unsigned v) {{ begin(); return v; }}\n\
         void *malloc(size_t n) {{ (void)n; return NULL; }}\n\
         void *calloc(size_t n, size_t m) {{ (void)n, (void)m; return NULL; }}\n\
         void *realloc(void *p, size_t n) {{ (void)n; return p; }}\n\
         void free(void *p) {{ (void)p; }}\n",
        mark.display()
    );
    fs::write(&source, code).expect("a writable folder");
    let cc = Command::new("cc")
        .args(["-shared", "-fPIC", "-fno-builtin", "-o"])
        .args([&object, &source])
        .status();
    assert!(cc.expect("a C compiler").success());
    (object, mark)
}

fn replayed(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {said}"))
}

/// Why what the program had could not be played; empty when it was.
fn failure_of_now(document: &Value) -> String {
    let all = document["candidates"].as_array().expect("a list");
    let now = all
        .iter()
        .find(|one| one["now"] == true)
        .expect("it is played");
    now["failure"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_trace_makes_nobody_load_the_libraries_that_it_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bait, mark) = bait(folder.path(), "libbait.so");
    let bait = text(&bait);
    for described in [
        &[("malloc", "glibc 2.36"), ("env.LD_AUDIT", bait)][..],
        &[("malloc", "glibc 2.36"), ("env.LD_PRELOAD", bait)],
        &[("malloc", "jemalloc 5.3.0"), ("malloc_path", bait)],
        &[("malloc", bait)],
    ] {
        let path = written(folder.path(), &trace(described, 100));
        let flags = [text(&path), "--allocator", "glibc", "--json", "--runs", "1"];
        let output = fragscope("replay", &flags).output().expect("it runs");
        assert!(!mark.exists(), "{described:?}");
        let document = replayed(&output);
        let failure = failure_of_now(&document);
        assert!(
            !failure.contains("bait is loaded"),
            "{described:?} {failure}"
        );
        let not_taken = document["trace"]["not_taken"].to_string();
        if described.len() > 1 {
            assert!(not_taken.contains("libbait.so"), "{not_taken}");
            assert_eq!(failure, "", "the rest is played: {described:?}");
        }
    }
}

#[test]
fn the_recorded_allocator_is_loaded_when_it_is_allowed_and_nobody_elses() {
    // Of root's, in folders of root's: not in /tmp, where anyone can write.
    let ours = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let anyones = tempfile::tempdir_in("/tmp").expect("a folder");
    for (folder, is_loaded) in [(ours.path(), true), (anyones.path(), false)] {
        let (bait, _) = bait(folder, "libbait.so");
        let described = [("malloc", "jemalloc 5.3.0"), ("malloc_path", text(&bait))];
        let path = written(folder, &trace(&described, 100));
        let flags = [
            text(&path),
            "--allocator",
            "glibc",
            "--json",
            "--runs",
            "1",
            "--allow-recorded-allocator",
        ];
        let output = fragscope("replay", &flags).output().expect("it runs");
        let document = replayed(&output);
        let failure = failure_of_now(&document);
        assert_eq!(failure.contains("bait is loaded"), is_loaded, "{document}");
        let not_taken = document["trace"]["not_taken"].to_string();
        assert_eq!(
            not_taken.contains("/tmp can be written by other users"),
            !is_loaded,
            "{not_taken}"
        );
    }
}

#[test]
fn a_name_without_a_slash_is_never_a_file_of_the_current_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, mark) = bait(folder.path(), "libjemalloc.so.2");
    fs::copy(
        folder.path().join("libjemalloc.so.2"),
        folder.path().join("libnobody.so"),
    )
    .expect("copied");
    let path = written(folder.path(), &trace(&[], 100));
    for name in ["libjemalloc.so.2", "libnobody.so"] {
        let flags = [text(&path), "--allocator", name, "--json", "--runs", "1"];
        let mut command = fragscope("replay", &flags);
        let output = command
            .current_dir(folder.path())
            .env("LD_LIBRARY_PATH", folder.path())
            .output();
        let document = replayed(&output.expect("it runs"));
        assert!(!mark.exists());
        assert!(
            !document.to_string().contains("bait is loaded"),
            "{document}"
        );
        if name == "libnobody.so" {
            let said = document.to_string();
            assert!(
                said.contains("the dynamic loader finds no libnobody.so"),
                "{said}"
            );
        }
    }
}

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
    for device in ["/dev/ptmx", "/dev/zero", "/dev/null"] {
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
            assert!(said.contains("neither a regular file nor a pipe"), "{said}");
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
fn an_allocator_that_is_a_pipe_or_claims_more_than_there_is_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let recording = written(folder.path(), &trace(&[], 100));
    let pipe = folder.path().join("libpipe.so");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    // A symbol table of many GB: of zeros, which cost nothing.
    let sparse = folder.path().join("libsparse.so");
    fs::write(&sparse, sparse_elf()).expect("written");
    let file = File::options().write(true).open(&sparse).expect("open");
    file.set_len(64 << 30).expect("sparse");
    for (object, why, fix) in [
        (&pipe, "not a regular file", ""),
        (
            &sparse,
            "the limit of a file that is read",
            "\nfix: --file-limit raises the limit\n",
        ),
    ] {
        let flags = [text(&recording), "--allocator", text(object), "--json"];
        let mut replay = fragscope("replay", &flags);
        limit_data(&mut replay, 2 << 30);
        let output = replay.output().expect("it runs");
        let said = replayed(&output).to_string();
        assert!(said.contains(why), "{said}");
        assert!(support::stderr(&output).contains(fix), "{output:?}");
    }
}

/// A shared object for this host whose table of dynamic symbols is said to have 32 GiB.
fn sparse_elf() -> Vec<u8> {
    let machine: u16 = match std::env::consts::ARCH {
        "x86_64" => 62,
        _ => 183,
    };
    let mut bytes = vec![0; 64 + 3 * 64];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(16, &3u16.to_le_bytes()); // e_type: ET_DYN
    put(18, &machine.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(40, &64u64.to_le_bytes()); // e_shoff
    put(52, &64u16.to_le_bytes()); // e_ehsize
    put(58, &64u16.to_le_bytes()); // e_shentsize
    put(60, &3u16.to_le_bytes()); // e_shnum
    put(62, &2u16.to_le_bytes()); // e_shstrndx
    // The second section is SHT_DYNSYM, with the third, SHT_STRTAB, for its names.
    let (symbols, names) = (64 + 64, 64 + 128);
    put(symbols + 4, &11u32.to_le_bytes());
    put(symbols + 24, &4096u64.to_le_bytes());
    put(symbols + 32, &(32u64 << 30).to_le_bytes());
    put(symbols + 40, &2u32.to_le_bytes());
    put(symbols + 56, &24u64.to_le_bytes());
    put(names + 4, &3u32.to_le_bytes());
    put(names + 24, &1024u64.to_le_bytes());
    put(names + 32, &16u64.to_le_bytes());
    bytes
}

/// Allows a command so many bytes of memory.
fn limit_data(command: &mut Command, bytes: u64) {
    // SAFETY: a kernel call that allocates nothing.
    unsafe {
        command.pre_exec(move || {
            use nix::sys::resource::{Resource, setrlimit};
            Ok(setrlimit(Resource::RLIMIT_DATA, bytes, bytes)?)
        });
    }
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
fn a_trace_that_is_cut_off_is_said_by_export_and_replay_with_a_code_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = trace(&[], 1000);
    let path = written(folder.path(), &whole);
    let out = folder.path().join("out.txt");
    let exported = |whole: bool| {
        let flags = [text(&path), "--format", "logalloc", "-o", text(&out)];
        let output = fragscope("export", &flags).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.contains("incomplete"), !whole, "{said}");
        assert_eq!(said.contains("cut off: 1000 events"), !whole, "{said}");
        let lines = fs::read_to_string(&out).expect("written").lines().count();
        (output.status.code(), lines)
    };
    assert_eq!(exported(true), (Some(0), 1000));
    // The end is missing, and then more.
    fs::write(&path, &whole[..whole.len() - 10]).expect("written");
    assert_eq!(exported(false), (Some(6), 1000));
    let flags = [text(&path), "--allocator", "glibc", "--json"];
    let output = fragscope("replay", &flags).output().expect("it runs");
    assert_eq!(output.status.code(), Some(6));
    assert!(replayed(&output)["trace"]["trouble"].is_string());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("incomplete"), "{said}");
}

#[test]
fn a_bomb_stays_below_a_limit_of_memory_and_of_the_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    // 400 MB of text, in less than a MB: a hundred million blocks.
    let lines = b"+ 0\n".repeat(1 << 20);
    let mut packer = zstd::Encoder::new(Vec::new(), 1).expect("memory");
    packer
        .write_all(b"v 10400 3\nX bomb\na 10 1\n")
        .expect("memory");
    for _ in 0..100 {
        packer.write_all(&lines).expect("memory");
    }
    let bomb = packer.finish().expect("memory");
    assert!(bomb.len() < 1 << 20);
    let path = written(folder.path(), &bomb);
    let limited = |command: &str, flags: &[&str]| {
        let mut fragscope = fragscope(command, flags);
        limit_data(&mut fragscope, 1 << 30);
        fragscope.output().expect("it runs")
    };
    let sizes = ["--max-memory", "256M", "--max-size", "512M"];
    let replay = [text(&path), "--allocator", "glibc", "--json"];
    let output = limited("replay", &[&replay[..], &sizes].concat());
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let trouble = replayed(&output)["trace"]["trouble"].to_string();
    assert!(trouble.contains("the limit of"), "{trouble}");
    assert!(
        support::stderr(&output).contains("\nfix: --max-"),
        "{output:?}"
    );
    let out = folder.path().join("out.txt");
    let sizes = ["--max-size", "500M", "--max-memory", "64M"];
    let export = [text(&path), "--format", "logalloc", "-o", text(&out)];
    let output = limited("export", &[&export[..], &sizes].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(
        said.contains("the limit of memory\nfix: --max-memory raises"),
        "{said}"
    );
    assert!(fs::metadata(&out).expect("written").len() < 500 << 20);
}

#[test]
fn a_trace_that_wants_more_memory_than_there_is_ends_its_players_and_not_the_host() {
    let folder = tempfile::tempdir().expect("a folder");
    // One that no allocator gives, and in another trace a hundred that are touched whole.
    let path = written(folder.path(), &trace_of(&[], [1 << 60].into_iter()));
    let flags = [text(&path), "--allocator", "glibc", "--json"];
    let output = fragscope("replay", &flags).output().expect("it runs");
    assert!(failure_of_now(&replayed(&output)).contains("gave no memory"));
}

#[test]
fn what_is_saved_is_not_for_others_to_load() {
    // The flag asks who can have changed the object, whatever it is called.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (bait, _) = bait(folder.path(), "libbait.so");
    fs::set_permissions(&bait, fs::Permissions::from_mode(0o777)).expect("set");
    let described = [("malloc", "jemalloc 5.3.0"), ("malloc_path", text(&bait))];
    let path = written(folder.path(), &trace(&described, 100));
    let flags = [
        text(&path),
        "--allocator",
        "glibc",
        "--json",
        "--runs",
        "1",
        "--allow-recorded-allocator",
    ];
    let output = fragscope("replay", &flags).output().expect("it runs");
    let document = replayed(&output);
    assert_eq!(failure_of_now(&document), "");
    let not_taken = document["trace"]["not_taken"].to_string();
    assert!(
        not_taken.contains("can be written by other users"),
        "{not_taken}"
    );
}
