//! How much a recording may amount to: in bytes, in memory, and relative to its own size.
//!
//! Files are untrusted. A megabyte can unpack to gigabytes, and a gigabyte of text can name a
//! hundred million blocks. So everything that reads a recording counts in one [`Meter`], and
//! exceeding a limit ends the reading with a message; what was read until then is used. That also
//! limits time: each allowed byte takes some nanoseconds, and a signal ends the reading between two
//! parts.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use profiler_core::text::visible;

/// The size that even the smallest recording may reach.
const FLOOR: u64 = 512 << 20;
/// How many additional bytes each byte of a file allows: real ones unpack to 5 to 30 bytes, and
/// compile to 40.
const RATIO: u64 = 200;
/// The most for any recording, once unpacked, as a program, and as another format.
const MAX_SIZE: u64 = 64 << 30;
/// The most memory for tables: of 40 million live blocks.
const MAX_MEMORY: u64 = 4 << 30;

/// A limit.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Bound {
    /// This many bytes, as set by the user.
    Given(u64),
    /// At most this, and as much as a file of its size may produce.
    Grows(u64),
}

impl Bound {
    /// The number of bytes allowed after `read` bytes of the file.
    fn allows(self, read: u64) -> u64 {
        match self {
            Self::Given(bytes) => bytes,
            Self::Grows(most) => most.min(FLOOR.saturating_add(read.saturating_mul(RATIO))),
        }
    }
}

/// The limits of reading one recording.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// For the unpacked content, the compiled program, and the exported file, each.
    pub size: Bound,
    /// For the memory of tables: what is known of blocks, threads and checkpoints.
    pub memory: Bound,
}

impl Default for Limits {
    /// The limits for a stream that is not a file.
    fn default() -> Self {
        Self {
            size: Bound::Given(MAX_SIZE),
            memory: Bound::Given(MAX_MEMORY),
        }
    }
}

impl Limits {
    /// The limits for a file: the user's, or defaults for a host with `available_bytes` of memory
    /// available.
    pub fn new(size: Option<u64>, memory: Option<u64>, available_bytes: u64) -> Self {
        let most_memory = MAX_MEMORY.min((available_bytes / 2).max(FLOOR / 2));
        Self {
            size: size.map_or(Bound::Grows(MAX_SIZE), Bound::Given),
            memory: memory.map_or(Bound::Grows(most_memory), Bound::Given),
        }
    }
}

/// Things that have a limit.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Limit {
    /// The size of a recording ([`Limits::size`]).
    Size,
    /// The memory for tables ([`Limits::memory`]).
    Memory,
    /// The part of the directory for temporary files that a program may use, which is half of its
    /// free space.
    TemporaryRoom,
}

/// Why reading stopped, as the source of an [`io::Error`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stopped {
    /// A limit was met.
    Limit {
        /// What would have exceeded it.
        what: &'static str,
        /// The limit in bytes.
        bytes: u64,
        /// Which one.
        limit: Limit,
    },
    /// A signal came.
    Interrupted,
}

impl fmt::Display for Stopped {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { what, bytes, limit } => {
                let bytes = profiler_core::units::bytes(*bytes);
                let which = match limit {
                    Limit::Size => "the limit of size",
                    Limit::Memory => "the limit of memory",
                    Limit::TemporaryRoom => "half of the room in the folder for temporary files",
                };
                write!(
                    out,
                    "reading stopped: {what} would have come to more than {bytes}, {which}"
                )
            }
            Self::Interrupted => out.write_str("interrupted"),
        }
    }
}

impl Error for Stopped {}

impl Stopped {
    /// The reason in an error, if it is one of these.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// Why a file was not read to its end. Everything before that was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Incomplete {
    /// In words.
    pub why: String,
    /// The limit that was met, if that is why.
    pub limit: Option<Limit>,
}

impl Incomplete {
    /// The same, for one of several files.
    #[must_use]
    pub fn of_file(self, path: &Path) -> Self {
        Self {
            why: format!("{}: {}", visible(path.display()), self.why),
            ..self
        }
    }

    /// A recording that was read to its end but lacks `events` events.
    pub fn of_lost(events: u64) -> Self {
        let events = match events {
            1 => "1 event was".to_owned(),
            _ => format!("{events} events were"),
        };
        format!("{events} lost while it was recorded").into()
    }

    /// This reason and, if `events` is not 0, that many lost events.
    #[must_use]
    pub fn and_lost(self, events: u64) -> Self {
        match events {
            0 => self,
            _ => self.and(&Self::of_lost(events).why),
        }
    }

    /// For this reason, and another.
    #[must_use]
    pub fn and(self, other: &str) -> Self {
        Self {
            why: format!("{}; {other}", self.why),
            ..self
        }
    }

    /// Both, for two files: if one met a limit, that one.
    #[must_use]
    pub fn and_of(self, other: &Self) -> Self {
        let limit = self.limit.or(other.limit);
        Self {
            limit,
            ..self.and(&other.why)
        }
    }
}

impl From<String> for Incomplete {
    /// For another reason than a limit.
    fn from(why: String) -> Self {
        Self { why, limit: None }
    }
}

impl From<&Stopped> for Incomplete {
    fn from(stopped: &Stopped) -> Self {
        Self {
            why: stopped.to_string(),
            limit: match stopped {
                Stopped::Limit { limit, .. } => Some(*limit),
                Stopped::Interrupted => None,
            },
        }
    }
}

impl fmt::Display for Incomplete {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.why)
    }
}

impl From<Stopped> for io::Error {
    /// Of a kind that readers neither take for the end of their input nor retry.
    fn from(stopped: Stopped) -> Self {
        Self::new(io::ErrorKind::QuotaExceeded, stopped)
    }
}

/// The owners of tables.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum TableOwner {
    /// The reader of a format.
    Reader,
    /// The compiler.
    Compiler,
    /// What is known of the positions in a file.
    Index,
}

/// Counts the size of a recording while it is read. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    limits: Limits,
    /// Bytes read of the file.
    read: AtomicU64,
    /// Bytes of its content.
    content: AtomicU64,
    held: [AtomicU64; 3],
    interrupted: Arc<AtomicBool>,
}

impl Meter {
    /// Counts within limits, until it is interrupted.
    pub fn new(limits: Limits, interrupted: Arc<AtomicBool>) -> Self {
        Self(Arc::new(Counts {
            limits,
            interrupted,
            ..Counts::default()
        }))
    }

    /// Counts `bytes` more read from the file.
    ///
    /// # Errors
    /// When that is too much.
    pub(crate) fn read(&self, bytes: u64) -> io::Result<()> {
        let before = self.0.read.fetch_add(bytes, Ordering::Relaxed);
        self.size("the file", before.saturating_add(bytes))
    }

    /// Counts `bytes` more of its unpacked content.
    ///
    /// # Errors
    /// If that is too much.
    pub(crate) fn content(&self, bytes: u64) -> io::Result<()> {
        self.check()?;
        let before = self.0.content.fetch_add(bytes, Ordering::Relaxed);
        self.size("its content", before.saturating_add(bytes))
    }

    /// Checks the total size of something made from it.
    ///
    /// # Errors
    /// If that is too much.
    pub fn size(&self, what: &'static str, bytes: u64) -> io::Result<()> {
        self.within(self.0.limits.size, what, bytes, Limit::Size)
    }

    /// Records that the tables of `holder` now take `bytes`.
    ///
    /// # Errors
    /// When that is too much.
    pub fn hold(&self, holder: TableOwner, bytes: u64) -> io::Result<()> {
        let held = &self.0.held;
        held[holder as usize].store(bytes, Ordering::Relaxed);
        let all = held.iter().map(|one| one.load(Ordering::Relaxed));
        let all = all.fold(0, u64::saturating_add);
        let what = "what is known of its blocks";
        self.within(self.0.limits.memory, what, all, Limit::Memory)
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// When a signal came.
    pub fn check(&self) -> io::Result<()> {
        match self.0.interrupted.load(Ordering::Relaxed) {
            true => Err(Stopped::Interrupted.into()),
            false => Ok(()),
        }
    }

    fn within(&self, bound: Bound, what: &'static str, found: u64, limit: Limit) -> io::Result<()> {
        let bytes = bound.allows(self.0.read.load(Ordering::Relaxed));
        match found <= bytes {
            true => Ok(()),
            false => Err(Stopped::Limit { what, bytes, limit }.into()),
        }
    }
}

/// What is counted in a stream of bytes.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Layer {
    /// The file as it is.
    File,
    /// The unpacked content.
    Unpacked,
}

/// Counts the bytes read from a stream.
pub(crate) struct Counted<R> {
    pub(crate) inner: R,
    pub(crate) meter: Meter,
    pub(crate) layer: Layer,
}

impl<R: io::Read> io::Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.meter.check()?;
        let read = self.inner.read(buf)?;
        match self.layer {
            Layer::File => self.meter.read(read as u64)?,
            Layer::Unpacked => self.meter.content(read as u64)?,
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_may_come_to_less_than_a_large_one_and_a_flag_goes_before_both() {
        let grows = Bound::Grows(MAX_SIZE);
        assert_eq!(grows.allows(0), FLOOR);
        assert_eq!(grows.allows(1 << 20), FLOOR + (200 << 20));
        assert_eq!(grows.allows(1 << 40), MAX_SIZE);
        assert_eq!(Bound::Given(7).allows(1 << 40), 7);
    }

    #[test]
    fn of_two_files_both_are_said_and_the_limit_of_either() {
        let of = |why: &str, limit| Incomplete {
            why: why.to_owned(),
            limit,
        };
        let limit = Limit::Size;
        let both = of("a: cut off", None).and_of(&of("b: too large", Some(limit)));
        assert_eq!(both, of("a: cut off; b: too large", Some(limit)));
    }

    #[test]
    fn what_was_lost_is_said_beside_why_reading_stopped() {
        let cut = Incomplete {
            why: "it is cut off".to_owned(),
            limit: Some(Limit::Size),
        };
        assert_eq!(cut.clone().and_lost(0), cut);
        let both = cut.and_lost(u64::MAX);
        let lost = "it is cut off; 18446744073709551615 events were lost while it was recorded";
        assert_eq!((both.why.as_str(), both.limit), (lost, Some(Limit::Size)));
    }

    #[test]
    fn what_is_too_much_says_which_limit_it_met() {
        let limits = Limits::new(Some(10), Some(5), 1 << 30);
        let meter = Meter::new(limits, Arc::default());
        assert!(meter.content(10).is_ok());
        let error = meter.content(1).expect_err("too much").to_string();
        assert!(error.contains("10 B, the limit of size"), "{error}");
        assert!(meter.hold(TableOwner::Reader, 3).is_ok());
        let error = meter.hold(TableOwner::Compiler, 3).expect_err("too much");
        let stopped = Stopped::of(&error);
        let is_memory = matches!(
            stopped,
            Some(Stopped::Limit {
                limit: Limit::Memory,
                ..
            })
        );
        assert!(is_memory, "{error}");
    }
}
