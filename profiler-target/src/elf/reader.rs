//! Reads the target's files within limits of bytes and time.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use profiler_core::text::visible;
use profiler_core::units;

use super::{ElfFile, FilePath, Source};
use crate::error_kind::start_thread;
use crate::file_reader::{self, NotOpened};
use crate::known_files::{FileFacts, Shared};
use crate::privileges::Rights;

/// The default limit of bytes read from one file: symbol tables and text to search. An unstripped
/// Python needs 12 MiB.
pub const FILE_LIMIT: u64 = 128 << 20;
/// At most this many files of the full size are read per target.
const FILES: u64 = 32;
/// A file that is not read within this time, because its file system does not answer, is skipped.
pub(crate) const FILE_TIME: Duration = Duration::from_secs(10);
/// All files together.
const ALL_TIME: Duration = Duration::from_secs(30);
/// At most this many files per target are inspected, whatever their size: each takes a request to
/// another process. A large Python service maps some hundreds.
pub(crate) const MAX_FILES: usize = 4096;
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

/// Reads the files of one target and records what the limits excluded.
#[derive(Debug)]
pub(crate) struct Reader {
    limit: u64,
    rest: Mutex<Rest>,
    unread: Mutex<BTreeMap<String, FileLimit>>,
    looked: AtomicU64,
    waits_once: AtomicBool,
    /// Whether a file did not answer.
    has_waited: AtomicBool,
}

/// Why a mapped file was not read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be opened, or is not a regular file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A limit was met.
    #[error(transparent)]
    Limit(#[from] FileLimit),
}

/// What keeps a mapped file from being read.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FileLimit {
    /// It is larger than this many bytes, or all files together are.
    #[error("more than {} would have to be read", units::bytes(*.0))]
    Bytes(u64),
    /// It was not read within this time.
    #[error("not read within {0:.0?}")]
    Time(Duration),
    /// The others took the bytes or the time for all of them.
    #[error("the files before it took all that may be spent")]
    Spent,
    /// Its file system did not answer a short time ago.
    #[error("its file system did not answer before")]
    Silent,
    /// As many processes as may be started wait for file systems that do not answer.
    #[error("{0} processes that read files wait for file systems that do not answer")]
    Waiting(usize),
    /// Another one did not answer, and this one may not, either.
    #[error("its file system may not answer, as that of another did not")]
    WaitedOnce,
    /// This many files were inspected before it, which is the limit.
    #[error("no more than {0} files are looked into")]
    Files(usize),
}

impl FileLimit {
    /// Whether [`set_file_limit`] would raise it.
    pub fn is_of_bytes(self) -> bool {
        matches!(self, Self::Bytes(_) | Self::Spent)
    }
}

/// Mapped files that were not read completely.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnreadFiles {
    /// Which, and why, in one sentence.
    pub what: String,
    /// Whether [`set_file_limit`] lets more of them be read.
    pub is_over_limit: bool,
}

/// A file that was examined.
enum Examined {
    /// Before, for this process or another.
    Known(Arc<FileFacts>),
    /// It was read now; the flag says whether it has more read-only data than is searched.
    Read(Arc<FileFacts>, bool),
}

/// The remaining limits.
#[derive(Debug)]
struct Rest {
    files: usize,
    bytes: u64,
    time: Duration,
}

impl Default for Reader {
    fn default() -> Self {
        let limit = file_limit();
        Self {
            limit,
            rest: Mutex::new(Rest {
                files: MAX_FILES,
                bytes: limit.saturating_mul(FILES),
                time: ALL_TIME,
            }),
            unread: Mutex::default(),
            looked: AtomicU64::new(0),
            waits_once: AtomicBool::new(false),
            has_waited: AtomicBool::new(false),
        }
    }
}

impl Reader {
    /// After one file has not answered, no other file that the kernel does not serve itself is
    /// waited for.
    pub(crate) fn waits_once(&self) {
        self.waits_once.store(true, Ordering::Relaxed);
    }

    /// How often a file was inspected, or should have been.
    pub(crate) fn looked(&self) -> u64 {
        self.looked.load(Ordering::Relaxed)
    }

    /// The contents of the ELF file at `path`, which the target maps as `mapped`; `None` if it is
    /// not one or is unreadable. A partly read file returns what was read.
    pub(crate) fn open(&self, mapped: &str, path: FilePath) -> Option<ElfFile> {
        let (file, cut) = self.look(mapped, path, ElfFile::read).ok()?;
        if file.is_cut && cut.is_none() {
            self.note(mapped, FileLimit::Bytes(self.limit));
        }
        Some(file)
    }

    /// The facts about the ELF file at `path`, which the target maps as `mapped`, from an earlier
    /// inspection or a new one; `None` if it is not one or is unreadable. A known file costs no
    /// more than opening it.
    pub(crate) fn examine(
        &self,
        mapped: &str,
        path: FilePath,
        is_program: bool,
    ) -> Option<Arc<FileFacts>> {
        let name = mapped.to_owned();
        let look = move |source: &Source| {
            let key = source
                .version()
                .map(|version| (version, name.clone(), is_program));
            if let Some(known) = key.as_ref().and_then(|key| Shared::lock().get(key)) {
                return Examined::Known(known);
            }
            let file = ElfFile::read(source);
            let facts = Arc::new(FileFacts::of(&file, &name, is_program));
            if let Some(key) = key.filter(|_| !file.is_cut && !source.is_exceeded()) {
                Shared::lock().insert(key, Arc::clone(&facts));
            }
            Examined::Read(facts, file.is_cut)
        };
        let (examined, cut) = self.look(mapped, path, look).ok()?;
        match examined {
            Examined::Known(facts) => {
                // It costs the others nothing.
                let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
                rest.files += 1;
                Some(facts)
            }
            Examined::Read(facts, is_cut) => {
                if is_cut && cut.is_none() {
                    self.note(mapped, FileLimit::Bytes(self.limit));
                }
                Some(facts)
            }
        }
    }

    /// The result of `read` for the file at `path`, which the target maps as `mapped`. Reaching a
    /// limit is an error here, because a partly read table hides the rest.
    pub(crate) fn read<T: Send + 'static>(
        &self,
        mapped: &str,
        path: FilePath,
        read: impl FnOnce(&Source) -> T + Send + 'static,
    ) -> Result<T, FileError> {
        match self.look(mapped, path, read)? {
            (found, None) => Ok(found),
            (_, Some(limit)) => Err(limit.into()),
        }
    }

    /// The result of `read`, and what kept it from reading more.
    fn look<T: Send + 'static>(
        &self,
        mapped: &str,
        path: FilePath,
        read: impl FnOnce(&Source) -> T + Send + 'static,
    ) -> Result<(T, Option<FileLimit>), FileError> {
        let limited = |limit| {
            self.note(mapped, limit);
            limit
        };
        self.looked.fetch_add(1, Ordering::Relaxed);
        // One file at a time: its limits are known when its turn comes.
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        if rest.files == 0 {
            return Err(limited(FileLimit::Files(MAX_FILES)).into());
        }
        let has_waited = self.waits_once.load(Ordering::Relaxed) && self.has_waited();
        if has_waited && path.is_served() {
            return Err(limited(FileLimit::WaitedOnce).into());
        }
        let bytes = self.limit.min(rest.bytes);
        let time = FILE_TIME.min(rest.time);
        if bytes == 0 || time.is_zero() {
            return Err(limited(FileLimit::Spent).into());
        }
        rest.files -= 1;
        let began = Instant::now();
        let deadline = began + time;
        let answered = in_time(deadline, move || {
            let source = match file_reader::open(&path, deadline) {
                Ok(opened) => Source::of_opened(opened, bytes)?,
                Err(NotOpened::Refused(why)) => return Err(why.into()),
                Err(NotOpened::Unanswered) => return Err(FileLimit::Time(time).into()),
                Err(NotOpened::TooMany(waiting)) => return Err(FileLimit::Waiting(waiting).into()),
                Err(NotOpened::Silent) => return Err(FileLimit::Silent.into()),
            };
            let found = read(&source);
            match source.is_unanswered() {
                true => Err(FileLimit::Time(time).into()),
                false => Ok((found, source.spent(), source.is_exceeded())),
            }
        });
        rest.time = rest.time.saturating_sub(began.elapsed());
        match answered {
            Ok(Ok((found, spent, is_cut))) => {
                rest.bytes = rest.bytes.saturating_sub(spent);
                Ok((found, is_cut.then(|| limited(FileLimit::Bytes(bytes)))))
            }
            Ok(Err(FileError::Limit(limit))) => {
                self.has_waited.store(true, Ordering::Relaxed);
                Err(limited(limit).into())
            }
            Ok(Err(why)) => Err(why),
            Err(RecvTimeoutError::Timeout) => {
                self.has_waited.store(true, Ordering::Relaxed);
                Err(limited(FileLimit::Time(time)).into())
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(io::Error::other("its reader failed").into())
            }
        }
    }

    fn has_waited(&self) -> bool {
        self.has_waited.load(Ordering::Relaxed)
    }

    fn note(&self, mapped: &str, limit: FileLimit) {
        if let Ok(mut unread) = self.unread.lock()
            && unread.len() < MAX_FILES
        {
            unread.entry(mapped.to_owned()).or_insert(limit);
        }
    }

    /// What the limits excluded.
    pub(crate) fn unread(&self) -> Option<UnreadFiles> {
        let unread = self.unread.lock().ok()?;
        if unread.is_empty() {
            return None;
        }
        let mut named: Vec<_> = unread
            .iter()
            .take(NAMED)
            .map(|(path, limit)| format!("{} ({limit})", visible(path)))
            .collect();
        if let Some(more) = unread.len().checked_sub(NAMED).filter(|more| *more > 0) {
            // No more are counted than are read.
            let at_least = if unread.len() == MAX_FILES {
                "at least "
            } else {
                ""
            };
            named.push(format!("{at_least}{more} more"));
        }
        Some(UnreadFiles {
            what: format!(
                "mapped files were not read completely, so an allocator or a Python in them may not \
                 be recognised: {}",
                named.join(", ")
            ),
            is_over_limit: unread.values().any(|limit| limit.is_of_bytes()),
        })
    }
}

/// Work for a thread.
type Job = Box<dyn FnOnce() + Send>;

/// A thread that reads files.
struct Worker {
    jobs: Sender<Job>,
    /// Its rights: those of the thread that started it.
    rights: Rights,
}

/// The idle worker, if there is one.
static IDLE: Mutex<Option<Worker>> = Mutex::new(None);

impl Worker {
    /// A worker with the rights of this thread.
    fn idle_or_new() -> io::Result<Self> {
        let rights = Rights::of_this_thread();
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(idle) = idle.filter(|idle| idle.rights == rights) {
            return Ok(idle);
        }
        let (jobs, given) = channel::<Job>();
        // It ends when nothing can send it jobs any more.
        start_thread("file", move || given.into_iter().for_each(|job| job()))?;
        Ok(Self { jobs, rights })
    }

    /// Returns a worker that has done its work.
    fn put_back(self) {
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        *idle = Some(self);
    }
}

/// The result of `work` before `deadline`. It runs on a separate thread, which is abandoned at the
/// deadline, because a read may block. If no thread can be started, it is done here, for as long as
/// it takes.
fn in_time<T: Send + 'static>(
    deadline: Instant,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RecvTimeoutError> {
    let Ok(worker) = Worker::idle_or_new() else {
        return Ok(work());
    };
    let (answer, answered) = sync_channel(1);
    let job = move || {
        // Nothing waits for the result if it took too long.
        let _ = answer.send(work());
    };
    // The worker is waiting for it.
    let _ = worker.jobs.send(Box::new(job));
    let found = answered.recv_timeout(deadline.saturating_duration_since(Instant::now()))?;
    worker.put_back();
    Ok(found)
}
