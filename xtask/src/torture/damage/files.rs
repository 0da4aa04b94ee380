//! The files that are damaged: small intact ones of each kind.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::torture::small_trace;
use crate::torture::stage::Stage;
use crate::torture::worker::{Size, Worker};

/// Which commands read it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Reader {
    /// `export` and `replay`.
    Recording,
    /// `snapshot --core`.
    Core,
    /// `export` and `explain`.
    Session,
}

/// How the content is stored in the file: damage is done to the file, or to the content, which is
/// then packed again so that no checksum protects the reader from the damage.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Packing {
    Plain,
    Zstd,
    Lz4,
    /// Blocks of docs/trace-format.md, in traces and in saved sessions.
    Blocks,
}

/// A whole file.
pub(super) struct Input {
    pub(super) name: &'static str,
    pub(super) reader: Reader,
    pub(super) packing: Packing,
    pub(super) bytes: Vec<u8>,
}

/// Makes or reads one of each kind.
pub(super) fn make(stage: &Stage) -> Result<Vec<Input>> {
    let samples = crate::root().join("profiler-trace/tests/interchange");
    let recording = |name, packing, bytes| Input {
        name,
        reader: Reader::Recording,
        packing,
        bytes,
    };
    let python = fs::read(small_trace(stage)?)?;
    let [small, logalloc] = of_command(stage)?;
    let probed = of_process(stage)?;
    let heaptrack = fs::read(samples.join("heaptrack.zst"))?;
    let memray = fs::read(samples.join("memray.bin"))?;
    let [json, hlog, session] = exported(stage)?;
    let inputs = vec![
        recording("small.fragtrace", Packing::Blocks, small),
        recording("python.fragtrace", Packing::Blocks, python),
        recording("process.fragtrace", Packing::Blocks, probed),
        recording("logalloc.txt", Packing::Plain, logalloc),
        recording("heaptrack.zst", Packing::Zstd, heaptrack),
        recording("memray.bin", Packing::Lz4, memray),
        // No command reads these: if given by mistake, they are rejected, and no more.
        recording("sample.json", Packing::Plain, json),
        recording("sample.hlog", Packing::Plain, hlog),
        Input {
            name: "session.fragsnap",
            reader: Reader::Session,
            packing: Packing::Blocks,
            bytes: session,
        },
        Input {
            name: "core",
            reader: Reader::Core,
            packing: Packing::Plain,
            bytes: core(stage)?,
        },
    ];
    for input in &inputs {
        must_be_read(stage, input)?;
    }
    Ok(inputs)
}

/// A reader that refuses everything would survive everything.
fn must_be_read(stage: &Stage, input: &Input) -> Result<()> {
    let whole = stage.fresh(input.name);
    fs::write(&whole, &input.bytes)?;
    let path = whole.to_string_lossy();
    match input.reader {
        _ if input.name.starts_with("sample") => Ok(()),
        Reader::Recording => fragscope(stage, &["export", &path, "--format", "logalloc"]),
        Reader::Core => fragscope(stage, &["snapshot", "--core", &path]),
        Reader::Session => fragscope(stage, &["explain", &path]),
    }
}

fn fragscope(stage: &Stage, words: &[&str]) -> Result<()> {
    let done = Command::new(&stage.fragscope)
        .args(words)
        .output()
        .context("fragscope")?;
    ensure!(
        done.status.success(),
        "fragscope {words:?} failed: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// A recording of a small command, and its text.
fn of_command(stage: &Stage) -> Result<[Vec<u8>; 2]> {
    let (trace, text) = (stage.fresh("ls.fragtrace"), stage.fresh("logalloc.txt"));
    let (to_trace, to_text) = (trace.to_string_lossy(), text.to_string_lossy());
    fragscope(stage, &["record", "-o", &to_trace, "--", "ls", "-l", "/"])?;
    let export = ["export", &to_trace, "--format", "logalloc", "-o", &to_text];
    fragscope(stage, &export)?;
    Ok([fs::read(trace)?, fs::read(text)?])
}

/// A recording through probes, which begins with a walk of the heap.
fn of_process(stage: &Stage) -> Result<Vec<u8>> {
    let worker = Worker::start(stage, Size { mib: 1, threads: 1 })?;
    let trace = stage.fresh("process.fragtrace");
    let (pid, path) = (worker.pid.to_string(), trace.to_string_lossy());
    fragscope(
        stage,
        &["record", "--pid", &pid, "--duration", "300ms", "-o", &path],
    )?;
    Ok(fs::read(trace)?)
}

/// What `snapshot` writes.
fn exported(stage: &Stage) -> Result<[Vec<u8>; 3]> {
    let worker = Worker::start(stage, Size { mib: 1, threads: 1 })?;
    let pid = worker.pid.to_string();
    let files = ["json", "hlog", "fragsnap"].map(|ending| stage.fresh(&format!("sample.{ending}")));
    let names = files.each_ref().map(|file| file.to_string_lossy());
    let mut words = vec!["snapshot", "--pid", &pid];
    words.extend(names.iter().flat_map(|name| ["-o", name]));
    fragscope(stage, &words)?;
    let [json, hlog, session] = files.map(fs::read);
    Ok([json?, hlog?, session?])
}

/// A core of a small process, by gcore.
fn core(stage: &Stage) -> Result<Vec<u8>> {
    let mut sleeper = Command::new("sleep").arg("600").spawn()?;
    let path = stage.fresh("core");
    let made = Command::new("gcore")
        .arg("-o")
        .arg(&path)
        .arg(sleeper.id().to_string())
        .output();
    sleeper.kill()?;
    sleeper.wait()?;
    let made = made.context("gcore, of gdb")?;
    ensure!(
        made.status.success(),
        "gcore: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    let mut name = path.into_os_string();
    name.push(format!(".{}", sleeper.id()));
    fs::read(Path::new(&name)).context("gcore's file")
}

impl Packing {
    /// The content of a whole file of this packing.
    pub(super) fn unpack(self, file: &[u8]) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        match self {
            Self::Plain | Self::Blocks => content.extend(file),
            Self::Zstd => content = zstd::decode_all(file)?,
            Self::Lz4 => {
                lz4_flex::frame::FrameDecoder::new(file).read_to_end(&mut content)?;
            }
        }
        Ok(content)
    }
}
