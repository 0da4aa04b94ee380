//! A walk in slices: many short stops of a target instead of one long one.
//!
//! All reads of a walk go through one gate. When a slice has used up its time, the next read
//! resumes the target for four times as long as it was stopped, stops it again, and continues;
//! other reads wait meanwhile. So everything that one read returns is from one moment, and
//! [`Slices::epoch`] says whether two reads belong to the same slice.
//!
//! Most reads of a large heap need no stop. A walk that follows a heap's chunks in pieces of a few
//! hundred KiB copies each piece in a tenth of a millisecond, in which hardly anything changes, and
//! it has to resynchronise between two slices anyway. Such reads ([`Slices::read_now`]) continue
//! between slices.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use profiler_core::addr::{AddrRange, HEAP_END, RemoteAddr};
use profiler_core::completeness::EndedEarly;
use profiler_core::memory::ReadError;
use profiler_core::threads::Thread;
use zerocopy::IntoBytes;

use super::maps;
use super::pagemap::Entry;
use super::proc_dir::ProcDir;
use super::runs_on::{RunsOn, Sharers};
use super::stop::{self, StopError, StopGuards, StopOutcome, Stopped};

/// Between two slices the target runs this many times as long as it was stopped.
pub const RUNS_BETWEEN: u32 = 4;
/// How often a stop is tried that fails, each time after the target has run.
const STOP_TRIES: u32 = 5;
/// A read that takes longer than a slice this many times in a row is given up.
const READ_TRIES: u32 = 3;
/// After this many slices it is checked whether slicing is worth it.
const FIRST_SLICES: u32 = 16;
/// If less than this part of the stopped time is left for reading, slicing is given up: the target
/// would be stopped for longer in total than in one stop.
const LEAST_USEFUL_PART: u32 = 5;
/// No walk has more slices.
const MAX_SLICES: u32 = 10_000;
/// If nothing was read for this long that needs a stopped target, the target is resumed.
const IDLE: Duration = Duration::from_micros(500);
/// Pages whose entries are looked up together: 2 MiB of addresses.
const REGION_PAGES: u64 = 512;

/// The outcome of a walk in slices.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct SliceTally {
    /// How often the target was stopped.
    pub slices: u32,
    /// The longest of these stops.
    pub longest: Duration,
    /// All of them together, with those that failed.
    pub stood: Duration,
    /// How long was waited for it to run in between.
    pub waited: Duration,
    /// Whether it ran before everything was read.
    pub has_run: bool,
    /// Why the rest was read while it ran, if it was.
    pub given_up: Option<EndedEarly>,
    /// Bytes read that contradicted what was read before.
    pub changed_bytes: u64,
    /// Bytes that were read while it ran.
    pub running_bytes: u64,
}

/// The entries of a region's pages.
pub(super) type Region = Arc<[u64; REGION_PAGES as usize]>;

/// A target that is stopped repeatedly while it is read.
#[derive(Debug)]
pub struct Slices {
    dir: Arc<ProcDir>,
    guards: Arc<StopGuards>,
    sharers: Arc<Sharers>,
    longest: Duration,
    /// When all this began.
    since: Instant,
    /// When something that needs a stopped target was last read, in ns since then.
    last_read_ns: AtomicU64,
    epoch: AtomicU64,
    changed_bytes: AtomicU64,
    running_bytes: AtomicU64,
    /// Held by readers; held exclusively to end a slice and begin the next.
    slice: RwLock<Slice>,
}

/// The slice that is under way.
#[derive(Debug, Default)]
pub(super) struct Slice {
    /// `None` once the rest is read while it runs.
    stopped: Option<Stopped>,
    /// When all its threads had stopped.
    began: Option<Instant>,
    tally: SliceTally,
    /// It is not stopped again before then.
    runs_until: Option<Instant>,
    /// The part of the stopped time that was left for reading.
    useful: Duration,
    /// Whether its unshared pages may be read in the faster way ([`super::memory`]).
    is_unmerged: bool,
    regions: Mutex<HashMap<u64, Region>>,
    /// `None` once the target has no memory any more.
    mapped: OnceLock<Option<Vec<AddrRange>>>,
}

impl Slices {
    pub(super) fn new(
        dir: Arc<ProcDir>,
        guards: Arc<StopGuards>,
        sharers: Arc<Sharers>,
        stopped: Stopped,
        longest: Duration,
        is_unmerged: bool,
    ) -> Self {
        let mut slice = Slice::default();
        slice.begin(stopped, is_unmerged);
        Self {
            dir,
            guards,
            sharers,
            longest,
            since: Instant::now(),
            last_read_ns: AtomicU64::default(),
            epoch: AtomicU64::default(),
            changed_bytes: AtomicU64::default(),
            running_bytes: AtomicU64::default(),
            slice: RwLock::new(slice),
        }
    }

    /// The threads as they are stopped in this slice.
    pub fn threads(&self) -> Vec<Thread> {
        let slice = self.read_lock();
        let stopped = slice.stopped.as_ref();
        stopped.map_or_else(Vec::new, |stopped| stopped.threads().to_vec())
    }

    /// How often the target has run since the first slice began.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Records that `bytes` bytes contradict what was read in an earlier slice.
    pub fn note_changed(&self, bytes: u64) {
        self.changed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records that `bytes` bytes were read while the target ran.
    pub(super) fn count_running(&self, bytes: u64) {
        self.running_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// When the current slice began; now, if the rest is read while the target runs.
    pub fn since(&self) -> Instant {
        let slice = self.read_lock();
        slice
            .stopped
            .as_ref()
            .map_or_else(Instant::now, Stopped::since)
    }

    /// Resumes the target permanently.
    pub fn end(&self) -> SliceTally {
        let mut slice = self.write_lock();
        let last = slice.end();
        // Data other than memory, such as page states, may have been read after a slice that ended
        // early.
        let ended_early = last.is_some_and(|last| last.ended_early.is_some());
        SliceTally {
            has_run: self.epoch() > 0 || ended_early,
            changed_bytes: self.changed_bytes.load(Ordering::Relaxed),
            running_bytes: self.running_bytes.load(Ordering::Relaxed),
            ..slice.tally
        }
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, Slice> {
        self.slice.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads by `read` within one slice.
    pub(super) fn read<T>(&self, mut read: impl FnMut(&Slice) -> T) -> T {
        let mut in_vain = 0;
        loop {
            let slice = self.read_lock();
            if slice.tally.given_up.is_some() {
                return read(&slice);
            }
            if slice.has_time(self.longest) {
                let result = read(&slice);
                let now = self.since.elapsed().as_nanos() as u64;
                self.last_read_ns.fetch_max(now, Ordering::Relaxed);
                // Half of it may be from a moment at which it ran.
                if slice.stands() {
                    return result;
                }
                in_vain += 1;
            }
            drop(slice);
            if in_vain >= READ_TRIES {
                self.give_up();
            }
            self.advance();
        }
    }

    /// Reads with `standing` during a slice, else with `running`: for data that may be read while
    /// the target runs. It does not wait for a slice.
    pub(super) fn read_now<T>(
        &self,
        standing: impl FnOnce(&Slice) -> T,
        running: impl FnOnce() -> T,
    ) -> T {
        if let Ok(slice) = self.slice.try_read() {
            let goes_on = slice.has_time(self.longest) && !self.is_idle();
            if goes_on {
                let result = standing(&slice);
                if slice.stands() {
                    return result;
                }
            }
            let is_over = slice.stopped.is_some();
            drop(slice);
            if is_over {
                self.finish();
            }
        }
        running()
    }

    /// Whether a slice is under way that may go on.
    pub(super) fn goes_on(&self) -> bool {
        let slice = self.slice.try_read();
        slice.is_ok_and(|slice| slice.has_time(self.longest)) && !self.is_idle()
    }

    /// Whether the current slice is no longer needed. The first slice reads as much as possible,
    /// because data read within one slice is consistent.
    fn is_idle(&self) -> bool {
        let last = Duration::from_nanos(self.last_read_ns.load(Ordering::Relaxed));
        self.epoch() > 0 && self.since.elapsed().saturating_sub(last) > IDLE
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, Slice> {
        self.slice.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the slice whose time is over.
    fn finish(&self) {
        let mut slice = self.write_lock();
        let goes_on = slice.has_time(self.longest) && !self.is_idle();
        if !goes_on && slice.end().is_some() {
            self.epoch.fetch_add(1, Ordering::Release);
        }
    }

    /// From now on the rest is read while the target runs.
    fn give_up(&self) {
        let mut slice = self.write_lock();
        if slice.end().is_some() {
            self.epoch.fetch_add(1, Ordering::Release);
        }
        slice.tally.given_up.get_or_insert(EndedEarly::Overdue);
    }

    /// Begins the next slice, unless one is under way.
    fn advance(&self) {
        let mut slice = self.write_lock();
        if slice.has_time(self.longest) || slice.tally.given_up.is_some() {
            return;
        }
        if slice.end().is_some() {
            self.epoch.fetch_add(1, Ordering::Release);
        }
        if slice.is_futile() {
            slice.tally.given_up = Some(EndedEarly::Overdue);
            return;
        }
        for _ in 0..STOP_TRIES {
            slice.wait(&self.sharers);
            self.sharers.look();
            let asked = Instant::now();
            match stop::stop(&self.dir, &self.guards, self.longest, self.longest) {
                // Page states kept for a slice are not valid if another process shares the memory
                // and keeps running.
                Ok(stopped) => {
                    let runs_on = self.sharers.with(&stopped);
                    if runs_on == RunsOn::Nobody {
                        slice.begin(stopped, !self.dir.has_merged_pages());
                        return;
                    }
                    slice.stood_for(stopped.resume().held);
                    // The host may have been too busy to ask all processes in time.
                    if runs_on != RunsOn::Unknown {
                        break;
                    }
                }
                Err(StopError::Gone) => break,
                Err(_) => slice.stood_for(asked.elapsed()),
            }
        }
        slice.tally.given_up = Some(EndedEarly::Overdue);
    }

    /// Whether anything is mapped there.
    ///
    /// # Errors
    /// [`ReadError::Gone`] if that is unknown because the target no longer has memory.
    pub(super) fn is_mapped(&self, slice: &Slice, page: RemoteAddr) -> Result<bool, ReadError> {
        let mapped = slice.mapped.get_or_init(|| mapped_ranges(&self.dir));
        let mapped = mapped.as_ref().ok_or(ReadError::Gone)?;
        let next = mapped.partition_point(|range| range.end() <= page);
        Ok(mapped.get(next).is_some_and(|range| range.contains(page)))
    }
}

/// The mapped ranges; `None` if they are unreadable or empty, as for an exiting process.
fn mapped_ranges(dir: &ProcDir) -> Option<Vec<AddrRange>> {
    let ranges = maps::ranges(dir).ok()?;
    (!ranges.is_empty()).then_some(ranges)
}

impl Slice {
    /// Records that the target is stopped from now on.
    fn begin(&mut self, stopped: Stopped, is_unmerged: bool) {
        self.began = Some(Instant::now());
        self.is_unmerged = is_unmerged;
        self.stopped = Some(stopped);
    }

    /// Resumes the target if it is stopped.
    fn end(&mut self) -> Option<StopOutcome> {
        let regions = self.regions.get_mut();
        regions.unwrap_or_else(PoisonError::into_inner).clear();
        self.mapped = OnceLock::new();
        let stopped = self.stopped.take()?;
        let coming = self.began.map_or(Duration::ZERO, |began| {
            began.saturating_duration_since(stopped.since())
        });
        let outcome = stopped.resume();
        self.tally.slices += 1;
        self.tally.longest = self.tally.longest.max(outcome.held);
        self.useful += outcome.held.saturating_sub(coming);
        self.stood_for(outcome.held);
        Some(outcome)
    }

    /// Threads of the target were stopped for `stood` and are running again.
    fn stood_for(&mut self, stood: Duration) {
        self.tally.stood += stood;
        self.runs_until = Some(Instant::now() + stood * RUNS_BETWEEN);
    }

    /// Waits until the target has run for long enough.
    fn wait(&mut self, sharers: &Sharers) {
        let until = self.runs_until.take();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.unwrap_or_default();
        sharers.sleep(left);
        self.tally.waited += left;
    }

    /// Whether the target is stopped and may stay so for a while.
    fn has_time(&self, longest: Duration) -> bool {
        let stopped = self.stopped.as_ref();
        stopped.is_some_and(|stopped| {
            stopped.ended_early().is_none() && stopped.since().elapsed() < longest * 3 / 4
        })
    }

    /// Whether nearly all of the stopped time is spent on stopping the target.
    fn is_futile(&self) -> bool {
        let tally = &self.tally;
        tally.slices >= MAX_SLICES
            || tally.slices >= FIRST_SLICES && self.useful * LEAST_USEFUL_PART < tally.stood
    }

    /// Whether the target is stopped.
    pub(super) fn stands(&self) -> bool {
        let stopped = self.stopped.as_ref();
        stopped.is_some_and(|stopped| stopped.ended_early().is_none())
    }

    /// Whether pages that no other process maps may be pinned.
    pub(super) fn may_pin(&self) -> bool {
        self.is_unmerged && self.stands()
    }

    /// The entries of the pages around `page`. While the target is stopped they are kept.
    pub(super) fn region(&self, pagemap: &File, page: RemoteAddr) -> Result<Region, ReadError> {
        let key = region_of(page);
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(region) = regions.get(&key) {
            return Ok(Arc::clone(region));
        }
        let mut entries = [0; REGION_PAGES as usize];
        let read = loop {
            match pagemap.read_at(entries.as_mut_bytes(), key * REGION_PAGES * 8) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) if page.get() >= HEAP_END => Err(ReadError::Unmapped(page)),
            Ok(0) => Err(ReadError::Gone),
            Ok(_) => {
                let region = Arc::new(entries);
                regions.insert(key, Arc::clone(&region));
                Ok(region)
            }
            Err(_) => Err(ReadError::Failed(page)),
        }
    }
}

/// The number of the region that an address is in.
pub(super) fn region_of(addr: RemoteAddr) -> u64 {
    addr.page() / REGION_PAGES
}

/// The entry of the page of `addr`, which is in this region.
pub(super) fn entry_of(region: &Region, addr: RemoteAddr) -> Entry {
    Entry::new(region[(addr.page() % REGION_PAGES) as usize])
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;
    use std::thread;
    use std::time::{Duration, Instant};

    use profiler_core::addr::RemoteAddr;
    use profiler_core::memory::ReadError;

    use super::{Slice, mapped_ranges};
    use crate::open;

    #[test]
    fn a_page_map_that_cannot_be_read_does_not_say_that_nothing_is_mapped() {
        // Reading a folder is an error.
        let folder = File::open("/").expect("it is there");
        let page = RemoteAddr::new(0x7000);
        let read = Slice::default().region(&folder, page);
        assert_eq!(read.err(), Some(ReadError::Failed(page)));
    }

    #[test]
    fn of_a_target_that_has_ended_it_is_not_known_what_is_mapped() {
        let child = Command::new("sleep").arg("600").spawn();
        let mut child = child.expect("it starts");
        let (dir, _memory) = open::open(child.id().cast_signed()).expect("opened");
        assert!(mapped_ranges(&dir).is_some());
        child.kill().expect("killed");
        // It is not reaped, so that its files still exist, empty.
        let began = Instant::now();
        while mapped_ranges(&dir).is_some() {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "it is there still"
            );
            thread::sleep(Duration::from_millis(5));
        }
        child.wait().expect("reaped");
        assert_eq!(mapped_ranges(&dir), None);
    }
}
