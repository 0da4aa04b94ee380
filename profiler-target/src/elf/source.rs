//! The bytes of an untrusted file, read piece by piece up to a limit.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashSet;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::statfs::{DEBUGFS_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, TRACEFS_MAGIC, fstatfs};
use object::read::{ReadCache, ReadRef};

use crate::file_reader::{Asked, NotOpened, Opened};

/// The cost of a piece in addition to its bytes.
const PIECE: u64 = 128;

/// Opens the regular file at `path` for reading.
///
/// A target's path may lead to anything: merely opening a device can do harm (a watchdog, a tape),
/// and opening a pipe waits for its writer. So it is first examined through a descriptor that only
/// refers to its place.
///
/// # Errors
/// When it cannot be opened or is not a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open_checked(path, |about| match about.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        )),
    })
}

/// Opens the file at `path` for reading if `may` has no objection; it is not opened before that. A
/// pipe is opened without waiting for its writer.
///
/// # Errors
/// When it cannot be opened, or the objection of `may`.
pub fn open_checked(
    path: &Path,
    may: impl FnOnce(&Metadata) -> io::Result<()>,
) -> io::Result<File> {
    let place = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    may(&place.metadata()?)?;
    if is_of_kernel(&place) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, OF_KERNEL));
    }
    // The same file that was examined. A holder of a lease on it is not waited for.
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

/// Why a file of procfs or a similar file system is not read.
const OF_KERNEL: &str = "it is one of the kernel's own files (procfs, sysfs, tracefs, debugfs)";

/// Whether a file has no bytes of its own: files that look regular may consume data meant for
/// others with each read, or never end.
fn is_of_kernel(file: &File) -> bool {
    let kind = fstatfs(file).map(|about| about.filesystem_type());
    kind.is_ok_and(|kind| {
        [PROC_SUPER_MAGIC, SYSFS_MAGIC, TRACEFS_MAGIC, DEBUGFS_MAGIC].contains(&kind)
    })
}

/// A file that was written less than this many seconds ago may be written again without a visible
/// change of its times: file systems' clocks are coarse.
const SETTLED_AFTER: u64 = 2;

/// A version of a file.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Version {
    /// Device and inode.
    pub(crate) file: (u64, u64),
    pub(crate) bytes: u64,
    pub(crate) modified: (i64, i64),
    pub(crate) changed: (i64, i64),
}

impl Version {
    /// From the file's metadata.
    pub(crate) fn of(about: &Metadata) -> Self {
        Self {
            file: (about.dev(), about.ino()),
            bytes: about.len(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }
}

/// A file of which at most a limited number of bytes is read and kept in memory. A file can be
/// larger than memory and its tables as large as it claims: a sparse file costs its creator
/// nothing.
pub struct Source {
    content: Rc<Content>,
    cache: ReadCache<Cursor>,
    charged: RefCell<HashSet<(u64, u64)>>,
    rest: Cell<u64>,
    limit: u64,
    is_exceeded: Cell<bool>,
}

impl Source {
    /// Opens the regular file at `path`, to read at most `limit` bytes of it.
    ///
    /// # Errors
    /// When it cannot be opened or is not a regular file.
    pub fn open(path: &Path, limit: u64) -> io::Result<Self> {
        Self::of(open_regular(path)?, limit)
    }

    /// The same for an open file.
    ///
    /// # Errors
    /// When the kernel does not return its metadata.
    pub fn of(file: File, limit: u64) -> io::Result<Self> {
        let about = Version::of(&file.metadata()?);
        Ok(Self::with(Content::here(about, file), limit))
    }

    /// The same for a file opened by a helper process.
    pub(crate) fn of_opened(opened: Opened, limit: u64) -> io::Result<Self> {
        match opened {
            Opened::Here(file) => Self::of(file, limit),
            Opened::There(asked) => Ok(Self::with(Content::there(asked, limit), limit)),
        }
    }

    fn with(content: Content, limit: u64) -> Self {
        let content = Rc::new(content);
        Self {
            cache: ReadCache::new(Cursor {
                content: Rc::clone(&content),
                at: 0,
            }),
            content,
            charged: RefCell::default(),
            rest: Cell::new(limit),
            limit,
            is_exceeded: Cell::new(false),
        }
    }

    /// What distinguishes the present file from every other and from its later versions; `None` if
    /// it was written so recently that another change might not show.
    pub(crate) fn version(&self) -> Option<Version> {
        let about = &self.content.about;
        let changed = about.modified.0.max(about.changed.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        let is_settled = changed < now.checked_sub(SETTLED_AFTER)? as i64;
        is_settled.then(|| about.clone())
    }

    /// Whether something was not read because of the limit.
    pub fn is_exceeded(&self) -> bool {
        self.is_exceeded.get()
    }

    /// Whether its file system did not answer when it was read.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.content.is_unanswered.get()
    }

    /// Bytes read so far.
    pub fn spent(&self) -> u64 {
        (self.limit - self.rest.get()).max(self.content.copied.get().unwrap_or(0))
    }

    /// A separate piece, which is not kept here.
    pub fn piece(&self, offset: u64, size: u64) -> Option<Vec<u8>> {
        // A file that ends earlier is not read beyond its end.
        let end = offset.checked_add(size);
        let end = end.filter(|end| *end <= self.content.about.bytes)?;
        self.charge(size, end).ok()?;
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        let file = self.content.file()?;
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// The same, up to the end of the file if that comes first.
    pub fn piece_within(&self, offset: u64, most: u64) -> Option<Vec<u8>> {
        let len = self.content.about.bytes;
        self.piece(offset, most.min(len.checked_sub(offset)?))
    }

    /// Deducts `size` bytes, the last of which ends at `end`, from the limit.
    fn charge(&self, size: u64, end: u64) -> Result<(), ()> {
        let rest = self.rest.get().checked_sub(size.saturating_add(PIECE));
        // A copy is at most as long as the limit.
        let is_beyond = self.content.is_copied() && end > self.limit;
        let rest = rest.filter(|_| !is_beyond);
        self.is_exceeded
            .set(self.is_exceeded.get() || rest.is_none());
        self.rest.set(rest.ok_or(())?);
        Ok(())
    }
}

/// The source of a file's bytes.
struct Content {
    about: Version,
    /// The file, or a copy, after it was requested.
    file: OnceCell<Option<File>>,
    /// The helper that can make a copy.
    asked: Cell<Option<Asked>>,
    /// The most bytes of it to copy.
    limit: u64,
    /// The number of bytes copied.
    copied: Cell<Option<u64>>,
    is_unanswered: Cell<bool>,
}

impl Content {
    fn here(about: Version, file: File) -> Self {
        Self {
            about,
            file: OnceCell::from(Some(file)),
            asked: Cell::new(None),
            limit: 0,
            copied: Cell::new(None),
            is_unanswered: Cell::new(false),
        }
    }

    fn there(asked: Asked, limit: u64) -> Self {
        Self {
            about: asked.about().clone(),
            file: OnceCell::new(),
            asked: Cell::new(Some(asked)),
            limit,
            copied: Cell::new(None),
            is_unanswered: Cell::new(false),
        }
    }

    /// Whether what is read is a copy, or will be.
    fn is_copied(&self) -> bool {
        self.copied.get().is_some() || self.file.get().is_none()
    }

    /// What to read from, which may have to be copied first.
    fn file(&self) -> Option<&File> {
        let copy = || {
            let (file, bytes) = match self.asked.take()?.copy(self.limit) {
                Ok(copied) => copied,
                Err(why) => {
                    self.is_unanswered.set(matches!(why, NotOpened::Unanswered));
                    return None;
                }
            };
            self.copied.set(Some(bytes));
            Some(file)
        };
        self.file.get_or_init(copy).as_ref()
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            asked.forget();
        }
    }
}

/// A place in a file.
struct Cursor {
    content: Rc<Content>,
    at: u64,
}

impl Read for Cursor {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let file = self.content.file();
        let file = file.ok_or_else(|| io::Error::other("its file system does not answer"))?;
        let read = file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (self.content.about.bytes, by),
        };
        let at = from.checked_add_signed(by);
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl<'a> ReadRef<'a> for &'a Source {
    fn len(self) -> Result<u64, ()> {
        (&self.cache).len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        let end = offset.checked_add(size).ok_or(())?;
        if end > self.len()? {
            return Err(());
        }
        if !self.charged.borrow().contains(&(offset, size)) {
            self.charge(size, end)?;
            self.charged.borrow_mut().insert((offset, size));
        }
        (&self.cache).read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        if self.is_exceeded() {
            return Err(());
        }
        let found = (&self.cache).read_bytes_at_until(range.clone(), delimiter)?;
        let len = found.len() as u64;
        self.charge(len, range.start.saturating_add(len))?;
        Ok(found)
    }
}
