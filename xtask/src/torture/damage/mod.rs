//! Damaged files: recordings of ours and of other tools, cores, saved sessions, exports. The
//! command that reads them must end with one of its own exit codes, within bounds of time and
//! memory.

mod files;
mod mutate;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::files::{Input, Reader};
use super::cgroup::{Cgroup, Kind};
use super::stage::{Interrupted, Stage};
use super::{Round, Tally};

/// The memory limit of a command and its children.
const MEMORY: u64 = 1 << 30;
/// How long reading one of these small files may take, on a busy host.
const TIME: Duration = Duration::from_secs(60);
/// One recording in this many is replayed; the others are only read.
const REPLAYED: u64 = 20;
/// Files are read side by side.
const LANES: usize = 2;

/// The row.
pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<()> {
    let inputs = files::make(stage)?;
    let kept = crate::root().join("target/torture-failures");
    let next = Arc::new(AtomicU64::new(0));
    let (report, reported) = mpsc::channel();
    let lanes: Vec<_> = (0..LANES)
        .map(|_| {
            Ok(Lane {
                cgroup: Cgroup::new(Kind::Memory)?,
                folder: stage.fresh_folder("damaged")?,
                fragscope: stage.fragscope.clone(),
                kept: kept.clone(),
                interrupted: Arc::clone(stage.interrupted()),
            })
        })
        .collect::<Result<_>>()?;
    thread::scope(|scope| {
        for lane in &lanes {
            let (next, report, inputs) = (&next, report.clone(), &inputs);
            let (seed, rounds) = (tally.seed, tally.rounds);
            scope.spawn(move || {
                while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed))
                    && number < rounds
                {
                    let mut round = Round::new(seed.wrapping_add(number));
                    let done = lane.one(&mut round, inputs);
                    let failed = done.is_err();
                    // The receiver lives as long as the lanes.
                    if report.send((round, done)).is_err() || failed {
                        break;
                    }
                }
            });
        }
        drop(report);
        let mut first = Ok(());
        for (round, done) in reported {
            if done.is_ok() {
                tally.add(round);
            }
            first = first.and(done);
        }
        first
    })?;
    let read = tally.rounds_of(READ);
    if (read as f64) < tally.rounds as f64 * LEAST_READ {
        tally.fault(format!("{read} files were read at all: little was tried"));
    }
    Ok(())
}

/// A file that was read, whole or in part.
const READ: &str = "read";
/// A run in which fewer files were readable has only tested how files are rejected.
const LEAST_READ: f64 = 0.1;

/// What runs one file after the other.
struct Lane {
    cgroup: Cgroup,
    folder: PathBuf,
    fragscope: PathBuf,
    /// Where files that made a round fail are kept.
    kept: PathBuf,
    interrupted: Arc<AtomicBool>,
}

impl Lane {
    fn one(&self, round: &mut Round, inputs: &[Input]) -> Result<()> {
        let input = &inputs[(round.seed % inputs.len() as u64) as usize];
        let other = &inputs[round.random.usize(..inputs.len())];
        let bytes = mutate::damaged(&mut round.random, input, &other.bytes)?;
        let file = self.folder.join(input.name);
        fs::write(&file, &bytes)?;
        let replayed = round.random.u64(..REPLAYED) == 0;
        let words = reading(input.reader, replayed);
        round.what = format!("fragscope {} {}", words.join(" "), input.name);
        round.kind(input.name);
        round.kind(words[0]);
        let errors = self.folder.join("stderr");
        self.cgroup.limit_memory(MEMORY)?;
        let kills = self.cgroup.kills()?;
        let began = Instant::now();
        let status = self.run(words, &file, &errors)?;
        let took = began.elapsed().as_secs_f64();
        round.figure(
            if words[0] == "replay" {
                "seconds to replay"
            } else {
                "seconds to read"
            },
            took,
        );
        round.hear(String::from_utf8_lossy(&fs::read(&errors)?).into_owned());
        let was_killed = self.cgroup.kills()? > kills;
        judge(round, status, was_killed);
        if round.has_failed() {
            self.keep(round, &file, input.name)?;
        }
        Ok(())
    }

    /// Runs it in the group of this lane. Returns how it ended, unless it took too long.
    fn run(&self, words: &[&str], file: &Path, errors: &Path) -> Result<Option<ExitStatus>> {
        let began = Instant::now();
        let mut child = Command::new("sh")
            .args(["-c", "echo 0 > \"$0\" && exec \"$@\""])
            .arg(self.cgroup.entrance())
            .arg(&self.fragscope)
            .args(words)
            .arg(file)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(errors)?)
            .spawn()
            .context("sh")?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            let stop = self.interrupted.load(Ordering::SeqCst);
            if stop || began.elapsed() > TIME {
                let _ = child.kill();
                child.wait()?;
                ensure!(!stop, Interrupted);
                return Ok(None);
            }
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Keeps the file, so that the reader can be fixed.
    fn keep(&self, round: &mut Round, file: &Path, name: &str) -> Result<()> {
        fs::create_dir_all(&self.kept)?;
        let kept = self.kept.join(format!("{}-{name}", round.seed));
        fs::copy(file, &kept)?;
        let place = format!("; the file is kept as {}", kept.display());
        round.what.push_str(&place);
        Ok(())
    }
}

/// The command that reads such a file, or the one that plays it.
fn reading(reader: Reader, replayed: bool) -> &'static [&'static str] {
    match reader {
        Reader::Core => &["snapshot", "--json", "--core"],
        Reader::Session if replayed => &["explain"],
        Reader::Session => &["export", "--format", "json"],
        Reader::Recording if replayed => &["replay", "--allocator", "glibc", "--runs", "1"],
        Reader::Recording => &["export", "--format", "logalloc"],
    }
}

/// It may read or reject the file, within its memory and time; `None` means that it took too long.
fn judge(round: &mut Round, status: Option<ExitStatus>, was_killed: bool) {
    match status {
        _ if was_killed => round.fault(
            "unbounded memory",
            format!("more than {} MiB", MEMORY >> 20),
        ),
        None => round.fault("unbounded time", format!("more than {TIME:?}")),
        Some(status) if status.signal().is_some() || status.code() == Some(101) => {
            round.fault("a death", status.to_string());
        }
        Some(status) => match status.code() {
            Some(0 | 6) => round.kind(READ),
            Some(1) => round.kind("refused"),
            // Including those of a shell that cannot start it.
            _ => round.fault("a wrong exit code", status.to_string()),
        },
    }
}
