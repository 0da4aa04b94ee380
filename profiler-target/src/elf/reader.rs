//! Looking into the target's files within limits of bytes and time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use profiler_core::text::visible;
use profiler_core::units;

use super::ElfFile;

/// What is read of one file unless the user says otherwise: tables of symbols and text to search.
/// An unstripped Python needs 12 MiB.
pub const FILE_LIMIT: u64 = 128 << 20;
/// So many files of that size are read of one target.
const FILES: u64 = 32;
/// A file that is not read after this long, because its file system does not answer, is left.
const FILE_TIME: Duration = Duration::from_secs(10);
/// All files together.
const ALL_TIME: Duration = Duration::from_secs(30);
/// Files that are named of those that were not read.
const NAMED: usize = 3;

static LIMIT: AtomicU64 = AtomicU64::new(FILE_LIMIT);

/// Sets how many bytes are read of one mapped file at most, for the whole process.
pub fn set_file_limit(bytes: u64) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

/// How many bytes are read of one file at most.
pub fn file_limit() -> u64 {
    LIMIT.load(Ordering::Relaxed)
}

/// Reads the files of one target, and remembers what the limits kept it from.
#[derive(Debug)]
pub(crate) struct Reader {
    limit: u64,
    rest: Mutex<Rest>,
    unread: Mutex<BTreeMap<String, String>>,
}

/// What may still be spent.
#[derive(Debug)]
struct Rest {
    bytes: u64,
    time: Duration,
}

impl Default for Reader {
    fn default() -> Self {
        let limit = file_limit();
        Self {
            limit,
            rest: Mutex::new(Rest {
                bytes: limit.saturating_mul(FILES),
                time: ALL_TIME,
            }),
            unread: Mutex::default(),
        }
    }
}

impl Reader {
    /// What the ELF file at `path` says of itself, which the target maps as `mapped`; `None` when it
    /// is none or could not be read.
    pub(crate) fn open(&self, mapped: &str, path: PathBuf) -> Option<ElfFile> {
        // One file at a time: what it may take is known when its turn comes.
        let mut rest = self.rest.lock().ok()?;
        let bytes = self.limit.min(rest.bytes);
        let time = FILE_TIME.min(rest.time);
        if bytes == 0 || time.is_zero() {
            self.note(mapped, "the files before it took all that may be spent");
            return None;
        }
        let began = Instant::now();
        // A thread of its own, because a file system that does not answer cannot be interrupted.
        let (answer, answered) = sync_channel(1);
        let read = thread::Builder::new().name("file".into()).spawn(move || {
            // Nobody waits for it any more when it took too long.
            let _ = answer.send(ElfFile::read(&path, bytes));
        });
        read.ok()?;
        let found = answered.recv_timeout(time);
        rest.time = rest.time.saturating_sub(began.elapsed());
        match found {
            Ok(found) => {
                let (file, spent) = found?;
                rest.bytes = rest.bytes.saturating_sub(spent);
                if file.is_cut {
                    let limit = units::bytes(bytes);
                    self.note(mapped, &format!("more than {limit} would have to be read"));
                }
                Some(file)
            }
            Err(RecvTimeoutError::Timeout) => {
                self.note(mapped, &format!("not read within {time:.0?}"));
                None
            }
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn note(&self, mapped: &str, why: &str) {
        if let Ok(mut unread) = self.unread.lock() {
            unread
                .entry(mapped.to_owned())
                .or_insert_with(|| why.to_owned());
        }
    }

    /// What the limits kept from being read, as one sentence.
    pub(crate) fn unread(&self) -> Option<String> {
        let unread = self.unread.lock().ok()?;
        if unread.is_empty() {
            return None;
        }
        let mut named: Vec<_> = unread
            .iter()
            .take(NAMED)
            .map(|(path, why)| format!("{} ({why})", visible(path)))
            .collect();
        if let Some(more) = unread.len().checked_sub(NAMED).filter(|more| *more > 0) {
            named.push(format!("{more} more"));
        }
        Some(format!(
            "mapped files were not read completely, so an allocator or a Python in them may not \
             be recognised: {}; --file-limit reads more of each",
            named.join(", ")
        ))
    }
}
