//! Copies memory that may hold Python objects while the target is stopped, so that the objects are
//! read as of the moment of the walk although the target runs on.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::memory::{ReadError, ResidentMemory, TargetMemory};
use profiler_core::objects::{Census, Context, NoCensus};
use profiler_core::residency::{PageRun, ResidencyMap};
use profiler_core::sample::{PythonMalloc, Sample};
use profiler_target::{LiveMemory, Process, ReadTime, Target};

use super::file_pages::WithFiles;
use super::objects::{WalkedTarget, census};

/// Bytes copied between checks of the clock.
const PIECE: usize = 1 << 20;
/// Copying prolongs a stop by at most this long.
const LONGEST_COPY: Duration = Duration::from_millis(20);
/// More bytes than can be copied in that time are not begun with.
const MOST_COPIED: u64 = 48 << 20;
/// A process with this much resident memory has more than `MOST_COPIED` on writable pages.
const MOST_RESIDENT: u64 = 256 << 20;

/// The writable pages of a target, as they were while it was stopped.
#[derive(Debug)]
pub struct CopiedMemory {
    residency: ResidencyMap,
    python_malloc: Option<PythonMalloc>,
    /// The start of each copied range in `bytes`; ranges ascend and are not adjacent.
    parts: Vec<(AddrRange, usize)>,
    bytes: Vec<u8>,
}

/// Room to copy a target's memory into, which the kernel has given before the target is stopped.
#[derive(Debug, Default)]
pub struct CopySpace {
    bytes: RefCell<Vec<u8>>,
}

impl CopySpace {
    /// Space for the resident memory of this target, if that is small enough to be copied.
    pub fn for_target(target: &Target) -> Self {
        let count = target.quick_count().unwrap_or_default();
        let all = match count.rss_bytes <= MOST_RESIDENT {
            true => count.rss_bytes.min(MOST_COPIED) as usize,
            false => 0,
        };
        let mut bytes = vec![0u8; all];
        // The kernel gives zeroed pages when they are written to for the first time.
        bytes
            .iter_mut()
            .step_by(PAGE_SIZE as usize)
            .for_each(|byte| *black_box(byte) = 0);
        Self {
            bytes: bytes.into(),
        }
    }
}

impl CopiedMemory {
    /// Copies memory that may hold objects of a stopped target, in one stop of at most `max_stop`;
    /// `None` if that would take too long, and if the target runs.
    pub fn of(walked: &WalkedTarget<'_>, max_stop: Duration, space: &CopySpace) -> Option<Self> {
        // The stop must end before its limit.
        let left = (max_stop / 4 * 3).checked_sub(walked.age())?;
        if !walked.stopped || walked.python_malloc.is_none() {
            return None;
        }
        let parts = parts(walked.residency);
        let all: u64 = parts.iter().map(|range| range.len()).sum();
        if all > MOST_COPIED {
            return None;
        }
        let began = Instant::now();
        let memory = ResidentMemory::new(&walked.memory, walked.residency);
        let mut copied = Self {
            residency: walked.residency.clone(),
            python_malloc: walked.python_malloc,
            parts: Vec::with_capacity(parts.len()),
            bytes: space.bytes.take(),
        };
        copied.bytes.resize(all as usize, 0);
        let mut done = 0;
        for range in parts {
            copied.parts.push((range, done));
            let part = &mut copied.bytes[done..done + range.len() as usize];
            let mut at = range.start();
            for piece in part.chunks_mut(PIECE) {
                if began.elapsed() > left.min(LONGEST_COPY) {
                    return None;
                }
                memory.read(at, piece).ok()?;
                at = at.checked_add(piece.len() as u64)?;
            }
            done += range.len() as usize;
        }
        Some(copied)
    }

    /// The census of the target whose sample was taken in the stop in which this was copied.
    ///
    /// # Errors
    /// When there is nothing to examine.
    pub(crate) fn census(
        &self,
        target: &Target,
        sample: &Sample,
        time: &ReadTime,
    ) -> Result<Census, NoCensus> {
        let both = CopyAndLive {
            copy: self,
            live: target.memory().in_time(time),
        };
        let memory = ResidentMemory::new(both, &self.residency);
        let memory = WithFiles::new(target, &self.residency, memory);
        let copied = target.copied_since_fork(&self.residency);
        let context = Context {
            python: target
                .python_in(self.residency.mappings())
                .map(|python| python.version),
            serves: self.python_malloc.unwrap_or_default(),
            stopped: true,
            copied: &copied,
        };
        let mut census = census(&memory, &self.residency, &sample.heaps, context, time)?;
        census.taken_at_ns = sample.taken_at_ns;
        Ok(census)
    }

    /// The copy of this range, if all of it was copied.
    fn get(&self, range: AddrRange) -> Option<&[u8]> {
        let behind = self
            .parts
            .partition_point(|(part, _)| part.start() <= range.start());
        let (part, from) = self.parts.get(behind.checked_sub(1)?)?;
        let at = from + (range.start().get() - part.start().get()) as usize;
        part.encloses(&range)
            .then(|| &self.bytes[at..at + range.len() as usize])
    }
}

/// Ranges with data on pages that the target can write to and shares at most with relatives.
fn parts(residency: &ResidencyMap) -> Vec<AddrRange> {
    let mut parts: Vec<AddrRange> = Vec::new();
    let writable = residency.mappings().iter();
    let writable = writable.filter(|mapping| mapping.read && mapping.write && !mapping.shared);
    let runs = writable.flat_map(|mapping| residency.runs_in(mapping.range));
    let has_data = |run: &PageRun| run.state.is_present() && !run.state.is_zero();
    for run in runs.filter(has_data) {
        match parts.last_mut() {
            Some(last) if last.end() == run.range.start() => {
                *last = AddrRange::new(last.start(), run.range.end()).unwrap_or(*last);
            }
            _ => parts.push(run.range),
        }
    }
    parts
}

/// The copy, together with memory that the target cannot write to and that is therefore unchanged.
struct CopyAndLive<'c> {
    copy: &'c CopiedMemory,
    live: LiveMemory,
}

impl TargetMemory for CopyAndLive<'_> {
    fn is_out_of_time(&self) -> bool {
        self.live.is_out_of_time()
    }

    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let range = AddrRange::with_len(addr, buf.len() as u64);
        match range.and_then(|range| self.copy.get(range)) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => self.live.read(addr, buf),
        }
    }
}
