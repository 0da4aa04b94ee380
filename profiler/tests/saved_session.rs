//! Saved sessions of real children and of a core: what is read back equals what was observed, byte
//! by byte. Needs no privilege.

mod support;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use profiler_testing::child::Child;
use profiler_testing::core_file;
use profiler_testing::wait::{eventually, promptly};
use serde_json::Value;
use support::{FRAGSCOPE, command, fragscope, stderr};

/// glibc's heap and pymalloc's, with holes; it goes on to allocate, so that no two walks are alike.
const WORKER: &str = r"
import sys, threading, time
kept = [bytes(i % 700) for i in range(60000)]
words = [str(i) * 9 for i in range(60000)]
del kept[::3], words[::2]
large = bytearray(3_000_000)
print('READY', flush=True)
threading.Thread(target=sys.stdin.read, daemon=True).start()
while True:
    kept.append(bytes(len(kept) % 3000))
    time.sleep(0.001)
";

/// Runs it and gives what it printed; it must end with `code`.
fn printed(args: &[&str], code: i32) -> Vec<u8> {
    let output = fragscope(args);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{args:?}: {}",
        stderr(&output)
    );
    output.stdout
}

/// `docs/snapshot-format.md` has figures of larger heaps: the more blocks, the less each takes.
#[test]
fn a_saved_walk_takes_two_bytes_a_block_at_most() {
    let child = Child::python(WORKER);
    let kept = Kept::new();
    let pid = child.pid().to_string();
    let shown = printed(
        &[
            "snapshot",
            "--json",
            "--pid",
            &pid,
            "-o",
            &kept.name("fragsnap"),
        ],
        0,
    );
    let shown: Value = serde_json::from_slice(&shown).expect("JSON");
    let heaps = shown["heaps"].as_array().expect("heaps").iter();
    let arenas = heaps.flat_map(|heap| heap["arenas"].as_array().expect("arenas"));
    let blocks: u64 = arenas
        .map(|arena| {
            let of = |key: &str| arena[key].as_u64().expect("a number");
            of("live_blocks") + of("free_blocks")
        })
        .sum();
    let size = fs::metadata(kept.path("fragsnap")).expect("saved").len();
    assert!(
        blocks > 80_000 && size <= 2 * blocks,
        "{size} bytes, {blocks} blocks"
    );
}

/// A folder with a session in every format.
struct Kept(tempfile::TempDir);

impl Kept {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.0.path().join(format!("a.{ending}"))
    }

    fn name(&self, ending: &str) -> String {
        self.path(ending).to_string_lossy().into_owned()
    }

    /// Runs a command with an output of each kind.
    fn write(&self, command: &[&str]) -> Output {
        let names = ["json", "csv", "hlog", "html", "fragsnap"].map(|ending| self.name(ending));
        let outputs = names.iter().flat_map(|name| ["-o", name]);
        fragscope(&command.iter().copied().chain(outputs).collect::<Vec<_>>())
    }

    /// What is exported of the session is what was written of the last view.
    fn assert_equal(&self) {
        let session = self.name("fragsnap");
        for format in ["json", "csv", "hlog", "html"] {
            let exported = printed(&["export", &session, "--format", format], 0);
            let live = fs::read(self.path(format)).expect("written");
            assert!(exported == live, "{format} differs");
            let file = self.name("exported");
            printed(&["export", &session, "--format", format, "-o", &file], 0);
            assert_eq!(fs::read(&file).expect("written"), live, "{format}");
        }
    }

    fn json(&self) -> Value {
        let bytes = fs::read(self.path("json")).expect("written");
        serde_json::from_slice(&bytes).expect("JSON")
    }
}

fn attach(pid: &str) -> Vec<&str> {
    vec![
        "attach",
        "--pid",
        pid,
        "--headless",
        "--no-probes",
        "--budget",
        "unlimited",
        "--interval",
        "100ms",
        "--duration",
        "1500ms",
    ]
}

#[test]
fn a_session_of_a_python_worker_reads_back_as_it_was_seen() {
    let child = Child::python(WORKER);
    assert_eq!(child.first_line(), "READY");
    let kept = Kept::new();
    let pid = child.pid().to_string();
    let output = kept.write(&attach(&pid));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("a.fragsnap"),
        "{}",
        stderr(&output)
    );
    kept.assert_equal();
    let live = kept.json();
    let allocators = live["heaps"].as_array().expect("heaps").iter();
    let allocators: Vec<_> = allocators.map(|heap| heap["allocator"].clone()).collect();
    assert_eq!(allocators, ["glibc", "pymalloc"]);

    let session = kept.name("fragsnap");
    // What was predicted when the session ended: else the rest would be played now.
    let prose = printed(&["explain", "--no-predict", &session], 0);
    let verdict = live["verdict"].as_str().expect("a verdict");
    // It may be longer than a line.
    let words = |text: &[u8]| {
        let text = String::from_utf8_lossy(text).into_owned();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(words(&prose).contains(verdict));
    let text = printed(&["export", &session, "--format", "text"], 0);
    assert!(words(&text).contains(verdict));

    // Each walk is there, one after another.
    let walk = |number: u64| {
        let at = number.to_string();
        let args = ["export", &session, "--format", "json", "--at", &at];
        serde_json::from_slice::<Value>(&printed(&args, 0)).expect("JSON")
    };
    let (first, second) = (walk(1), walk(2));
    assert!(first["taken_at"].as_str() < second["taken_at"].as_str());
    assert_eq!(first["history"].as_array().expect("points").len(), 1);
    let none = fragscope(&["explain", &session, "--at", "1000"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(
        stderr(&none).contains("has no walk 1000"),
        "{}",
        stderr(&none)
    );
}

#[test]
fn a_session_of_a_worker_with_jemalloc_reads_back_as_it_was_seen() {
    let mut command = Command::new("python3");
    command.args(["-S", "-c", WORKER]);
    command.env("LD_PRELOAD", "libjemalloc.so.2");
    let child = Child::run(command);
    let kept = Kept::new();
    let pid = child.pid().to_string();
    let output = kept.write(&attach(&pid));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(kept.json()["heaps"].to_string().contains("\"jemalloc\""));
    kept.assert_equal();
}

#[test]
fn a_snapshot_of_a_process_and_of_a_core_reads_back_as_it_was_seen() {
    let child = Child::python(WORKER);
    let kept = Kept::new();
    let pid = child.pid().to_string();
    let output = kept.write(&["snapshot", "--pid", &pid]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    kept.assert_equal();
    let text = printed(&["export", &kept.name("fragsnap"), "--format", "text"], 0);
    assert_eq!(text, output.stdout);

    let core = kept.path("core");
    fs::write(&core, core_file::sound()).expect("written");
    let output = kept.write(&["snapshot", "--core", &kept.name("core")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    kept.assert_equal();
    assert!(kept.json()["core_bytes"].is_u64(), "it is of the core");
}

/// A session of two walks or more: on a busy host one has time for a single walk.
fn session(kept: &Kept) -> PathBuf {
    let child = Child::python(WORKER);
    let pid = child.pid().to_string();
    eventually("two walks", || {
        let output = kept.write(&attach(&pid));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let second = fragscope(&[
            "export",
            &kept.name("fragsnap"),
            "--format",
            "json",
            "--at",
            "2",
        ]);
        (second.status.code() == Some(0)).then(|| kept.path("fragsnap"))
    })
}

#[test]
fn a_session_that_is_cut_off_or_damaged_is_used_as_far_as_it_is_whole() {
    let kept = Kept::new();
    let path = session(&kept);
    let whole = fs::read(&path).expect("read");
    let name = kept.name("fragsnap");

    fs::write(&path, &whole[..whole.len() - 1]).expect("ours");
    let output = fragscope(&["explain", &name]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("incomplete: it was cut off"),
        "{}",
        stderr(&output)
    );
    let exported = printed(&["export", &name, "--format", "json"], 6);
    assert!(
        exported == fs::read(kept.path("json")).expect("read"),
        "all but its end is there"
    );

    // The first walk's block.
    let mut damaged = whole.clone();
    damaged[200] ^= 0x55;
    fs::write(&path, &damaged).expect("ours");
    let output = fragscope(&["explain", &name]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("1 record is damaged"),
        "{}",
        stderr(&output)
    );
    let output = fragscope(&["explain", &name, "--at", "1"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    printed(&["explain", &name, "--at", "2"], 6);

    for (bytes, words) in [
        (&b"FRAGSNP\x02"[..], "by a later fragscope"),
        (&b"FRAGSNP\x01"[..], "no walk that can be read"),
        (&b"FRAGTRC\x01"[..], "recording"),
        (&b"{}"[..], "not a saved session"),
        (&b""[..], "not a saved session"),
    ] {
        fs::write(&path, bytes).expect("ours");
        for args in [
            &["explain", &*name][..],
            &["export", &name, "--format", "csv"],
        ] {
            let output = fragscope(args);
            assert_eq!(
                output.status.code(),
                Some(1),
                "{args:?} {}",
                stderr(&output)
            );
            assert!(
                stderr(&output).contains(words),
                "{args:?} {}",
                stderr(&output)
            );
        }
    }
    fs::write(&path, b"FRAGSNP\x01").expect("ours");
    let output = fragscope(&["export", &name, "--format", "logalloc"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("a saved session"),
        "{}",
        stderr(&output)
    );
}

/// A block with this content.
fn block(content: &[u8]) -> Vec<u8> {
    let mut packer = zstd::Encoder::new(Vec::new(), 3).expect("memory");
    packer.include_checksum(true).expect("memory");
    packer.write_all(content).expect("memory");
    let packed = packer.finish().expect("memory");
    let lengths = [packed.len(), content.len()].map(|len| (len as u32).to_le_bytes());
    [&b"FSBK"[..], &lengths.concat(), &packed].concat()
}

#[test]
fn a_last_walk_of_an_unknown_form_hides_none_before_it() {
    let kept = Kept::new();
    let path = session(&kept);
    let name = kept.name("fragsnap");
    let whole = fs::read(&path).expect("read");
    let end = whole.windows(4).rposition(|mark| mark == b"FSBK");
    let end = end.expect("its end");
    // A walk (1) in one part (3) with a number, whose sample is shorter than it says.
    let unknown = block(&[1, 3, 99, 120, 1, 2, 3]);
    let bytes = [&whole[..end], &unknown, &whole[end..]].concat();
    fs::write(&path, bytes).expect("ours");

    let output = fragscope(&["explain", &name]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("walk 99 cannot be read"), "{said}");
    assert!(said.contains("is taken instead"), "{said}");
    let exported = printed(&["export", &name, "--format", "json"], 6);
    assert!(exported == fs::read(kept.path("json")).expect("read"));
    let output = fragscope(&["explain", &name, "--at", "99"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
}

#[test]
fn a_session_can_come_from_a_pipe() {
    let kept = Kept::new();
    let path = session(&kept);
    let mut child = command(&["export", "/dev/stdin", "--format", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let bytes = fs::read(&path).expect("read");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(&bytes).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.stdout == fs::read(kept.path("json")).expect("read"));
}

#[test]
fn a_kill_leaves_a_session_that_is_readable_to_its_last_walk() {
    let child = Child::python(WORKER);
    let kept = Kept::new();
    let pid = child.pid().to_string();
    let mut args = attach(&pid);
    let name = kept.name("fragsnap");
    args.truncate(9);
    args.extend(["-o", &name]);
    let mut attach = command(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let size = || fs::metadata(kept.path("fragsnap")).map_or(0, |about| about.len());
    // The second walk has begun to be written when the file is larger than the first made it.
    let mut first = 0;
    promptly("a second walk", || {
        first = if first == 0 { size() } else { first };
        (first > 0 && size() > first).then_some(())
    });
    attach.kill().expect("killed");
    attach.wait().expect("ended");
    let output = fragscope(&["explain", &name]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    assert!(stderr(&output).contains("cut off"), "{}", stderr(&output));
}

#[test]
fn a_session_that_a_signal_ends_is_whole() {
    let child = Child::python(WORKER);
    let kept = Kept::new();
    let pid = child.pid().to_string();
    let mut args = attach(&pid);
    args.truncate(5);
    let name = kept.name("fragsnap");
    args.extend(["-o", &name]);
    let attach = command(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    promptly("something that is written", || {
        let about = fs::metadata(kept.path("fragsnap")).ok()?;
        (about.len() > 0).then_some(())
    });
    // SAFETY: it takes two integers; the process is ours and was not waited for.
    unsafe { libc::kill(attach.id() as i32, libc::SIGTERM) };
    let output = attach.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    printed(&["explain", &name], 0);
}

#[test]
fn view_wants_a_terminal_and_says_what_needs_none() {
    let kept = Kept::new();
    let output = fragscope(&["view", &kept.name("fragsnap")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("export FILE --format text"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_full_disk_ends_the_saving_and_is_said() {
    // The smallest full disk that needs no privilege: a limit on the size of files.
    let child = Child::python(WORKER);
    let kept = Kept::new();
    let pid = child.pid().to_string();
    let name = kept.name("fragsnap");
    let mut args = attach(&pid);
    args.extend(["-o", &name]);
    let with_limit = |kib: u64| {
        let args = args.join(" ");
        let command = format!("trap '' XFSZ; ulimit -f {kib}; exec {FRAGSCOPE} {args}");
        let output = Command::new("bash").args(["-c", &command]).output();
        let output = output.expect("bash");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("not saved any more"), "{said}");
        said
    };
    // No walk has room: what was there before stays.
    let path = kept.path("fragsnap");
    let said = with_limit(1);
    assert!(!said.contains("can be read"), "{said}");
    assert!(!path.exists(), "{said}");
    fs::write(&path, "before").expect("written");
    with_limit(1);
    assert_eq!(fs::read_to_string(&path).expect("read"), "before");
    // One has.
    printed(&["snapshot", "--pid", &pid, "-o", &name], 0);
    let one = fs::metadata(&path).expect("a session").len();
    let said = with_limit(one.div_ceil(1024) + 1);
    let walks = said
        .rsplit_once(" in it can be read")
        .map(|(before, _)| before);
    let (before, _) = walks
        .and_then(|text| text.rsplit_once(" walk"))
        .expect(&said);
    let walks: u64 = before
        .rsplit_once(' ')
        .expect("a number")
        .1
        .parse()
        .expect("a number");
    assert!((1..=2).contains(&walks), "{said}");
    let at = walks.to_string();
    printed(&["export", &name, "--format", "json", "--at", &at], 6);
}

/// 24 MiB of bytes objects that a list holds, and what becomes of it.
fn holder(more: &str) -> Child {
    let child = Child::python(&format!(
        "import sys\nkept = [bytes(1000) for _ in range(24000)]\n{more}\nprint('READY', flush=True)\nsys.stdin.read()"
    ));
    assert_eq!(child.first_line(), "READY");
    child
}

#[test]
fn a_difference_names_the_change_that_explains_that_of_rss() {
    let folder = tempfile::tempdir().expect("a folder");
    let [before, after] = ["before", "after"].map(|name| {
        let path = folder.path().join(name).with_extension("fragsnap");
        path.to_string_lossy().into_owned()
    });
    let small = holder("del kept[12000:]");
    let large = holder("kept.append(bytearray(b'x') * (32 << 20))");
    for (child, file) in [(&small, &before), (&large, &after)] {
        let pid = child.pid().to_string();
        printed(&["snapshot", "--pid", &pid, "--objects", "-o", file], 0);
    }
    let json: Value =
        serde_json::from_slice(&printed(&["diff", &before, &after, "--json"], 0)).expect("JSON");
    assert_eq!(json["schema"], "fragscope.diff/1");
    let change = |row: &Value| row["change"].as_f64().expect("a number");
    let rss = change(&json["rss_bytes"]);
    assert!(rss > f64::from(32 << 20), "{rss}");
    // The parts are all of it.
    let ledger = json["ledger"].as_array().expect("a list");
    assert_eq!(ledger.iter().map(change).sum::<f64>(), rss);
    let sentence = json["sentence"].as_str().expect("a sentence");
    assert!(sentence.starts_with("RSS is "), "{sentence}");
    assert!(sentence.contains(" higher"), "{sentence}");
    assert!(sentence.contains("more in use"), "{sentence}");
    assert!(sentence.contains("bytearray changed most"), "{sentence}");
    let types = json["types"].as_array().expect("a list");
    assert_eq!(types[0]["name"], "bytearray");

    // Of a session and itself nothing changed, and a process is compared like a file.
    let same = printed(&["diff", &before, &before], 0);
    let same = String::from_utf8(same).expect("text");
    assert!(same.contains("RSS is unchanged"), "{same}");
    assert!(!same.contains("WHERE RSS IS"), "{same}");
    let pid = large.pid().to_string();
    let live = String::from_utf8(printed(&["diff", &before, "--pid", &pid], 0)).expect("text");
    for title in ["WHERE RSS IS", "TYPES OF PYTHON'S OBJECTS", "HOLDERS"] {
        assert!(live.contains(title), "{live}");
    }
    printed(&["diff", &before], 2);
    printed(&["diff", &before, "/nonexistent.fragsnap"], 1);
    let whole = fs::read(&after).expect("written");
    fs::write(&after, &whole[..200]).expect("cut off");
    printed(&["diff", &after, &before], 1);
    // Which file is cut off is said, whichever it is, and in --since too.
    fs::write(&after, &whole[..whole.len() - 3]).expect("cut off");
    for command in [
        ["diff", &before, &after, "--json"],
        ["diff", &after, &before, "--json"],
    ] {
        let output = fragscope(&command);
        assert_eq!(output.status.code(), Some(6), "{command:?}");
        assert!(stderr(&output).contains(&*after), "{}", stderr(&output));
    }
}
