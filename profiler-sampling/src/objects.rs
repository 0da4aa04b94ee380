//! The census of Python objects: of a live target after a walk while it runs on, or during the
//! walk's stop; or of a core file.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::heap::HeapSnapshot;
use profiler_core::memory::{ReadError, ResidentMemory, TargetMemory};
use profiler_core::objects::{self, Census, Context, NoCensus};
use profiler_core::residency::{MappingKind, ResidencyMap};
use profiler_core::sample::{PythonMalloc, Sample};
use profiler_target::{LiveMemory, Process, ReadTime, Target};

use super::file_pages::WithFiles;
use super::options::SamplingOptions;

/// A target immediately after its walk, still stopped if it was stopped.
#[derive(Debug)]
pub struct WalkedTarget<'a> {
    pub(crate) target: &'a Target,
    pub(crate) memory: LiveMemory,
    pub(crate) options: SamplingOptions,
    /// Its pages, as they should be read.
    pub(crate) residency: &'a ResidencyMap,
    pub(crate) heaps: &'a [HeapSnapshot],
    pub(crate) python_malloc: Option<PythonMalloc>,
    pub(crate) stopped: bool,
    /// When it was stopped, or for a running target, when the walk began.
    pub(crate) since: Instant,
}

impl WalkedTarget<'_> {
    /// Time since the walk's moment: since then it has been stopped, if it was stopped at all.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Takes the census of its objects.
    ///
    /// # Errors
    /// When there is nothing to examine.
    pub fn census(&self) -> Result<Census, NoCensus> {
        let python = self.target.python_version().map_err(unreadable)?;
        let time = self.options.objects_time(self.target);
        let memory = self.memory.clone().in_time(&time);
        let memory = ResidentMemory::new(memory, self.residency);
        let memory = WithFiles::new(self.target, self.residency, memory);
        let copied = self.target.copied_since_fork(self.residency);
        let context = Context {
            python,
            serves: self.python_malloc.unwrap_or_default(),
            stopped: self.stopped,
            copied: &copied,
        };
        census(&memory, self.residency, self.heaps, context, &time)
    }
}

/// The mappings or the states of pages could not be read.
pub(crate) fn unreadable(error: io::Error) -> NoCensus {
    NoCensus::Unreadable(error.to_string())
}

/// The census of a target that was walked before and has run since: the blocks are the walk's,
/// their contents are the present ones.
pub(crate) fn census_since(
    target: &Target,
    sample: &Sample,
    time: &ReadTime,
) -> Result<Census, NoCensus> {
    let mappings = target.mappings().map_err(unreadable)?;
    // Pages may have been returned or swapped out meanwhile.
    let mut residency = target.residency(&mappings).map_err(unreadable)?;
    let walked = sample.residency.mappings().iter();
    for stack in walked.filter(|mapping| mapping.kind == MappingKind::Stack) {
        residency.mark_stack(stack.range.start());
    }
    let memory = MovingMemory {
        target,
        time,
        known: ResidentMemory::new(target.memory().in_time(time), &residency),
        residency: &residency,
        began: Instant::now(),
        renewed: Mutex::default(),
    };
    let memory_and_files = WithFiles::new(target, &residency, &memory);
    let python = target.python_in(&mappings).map(|python| python.version);
    let copied = target.copied_since_fork(&residency);
    let context = Context {
        python,
        serves: sample.target.python_malloc.unwrap_or_default(),
        stopped: false,
        copied: &copied,
    };
    let mut census = census(&memory_and_files, &residency, &sample.heaps, context, time)?;
    if let Some(error) = memory.trouble() {
        return Err(unreadable(error));
    }
    census.taken_at_ns = sample.taken_at_ns;
    Ok(census)
}

/// The memory of a running target: addresses that were not mapped when reading began are looked up
/// in the present pages. Swapped pages are never read.
struct MovingMemory<'t> {
    target: &'t Target,
    time: &'t ReadTime,
    known: ResidentMemory<'t, LiveMemory>,
    residency: &'t ResidencyMap,
    began: Instant,
    renewed: Mutex<Renewed>,
}

/// Pages as they were found later.
#[derive(Default)]
struct Renewed {
    /// All of them, and when.
    all: Option<(Instant, ResidencyMap)>,
    /// Those about an address that was asked for.
    near: Option<(Instant, ResidencyMap)>,
    /// What looking for those took.
    near_took: Duration,
    /// Why they could not be looked up: memory that was not found may exist.
    trouble: Option<io::Error>,
}

/// Pages are looked up again only when they are this old and a quarter of the time since the
/// beginning has passed.
const RENEWED_AFTER: Duration = Duration::from_millis(20);
/// Bytes after an address whose pages are looked up with its own.
const NEAR: u64 = 32 << 20;

impl MovingMemory<'_> {
    fn memory(&self) -> LiveMemory {
        self.target.memory().in_time(self.time)
    }

    /// Reads from the present pages. Any word may have been mistaken for an address, so pages are
    /// not looked up for each.
    fn read_of_now(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = RENEWED_AFTER.max(self.began.elapsed() / 4);
        let last = renewed.all.as_ref().map_or(self.began, |(at, _)| *at);
        if last.elapsed() >= patience {
            let mappings = self.target.mappings();
            match mappings.and_then(|mappings| self.target.residency(&mappings)) {
                Ok(residency) => renewed.all = Some((Instant::now(), residency)),
                Err(error) => renewed.trouble = Some(error),
            }
        }
        match &renewed.all {
            Some((_, residency)) => ResidentMemory::new(self.memory(), residency).read(addr, buf),
            None => Err(ReadError::Unmapped(addr)),
        }
    }

    /// The pages of this range, as they are now.
    fn near(&self, range: AddrRange) -> io::Result<ResidencyMap> {
        let mut mappings = self.target.mappings()?;
        mappings.retain_mut(|mapping| {
            let part = mapping.range.intersect(&range);
            mapping.range = part.unwrap_or_default();
            part.is_some() && !matches!(mapping.kind, MappingKind::File(_))
        });
        self.target.residency(&mappings)
    }

    /// Why pages could not be looked up, if they could not.
    fn trouble(&self) -> Option<io::Error> {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.trouble.take()
    }
}

/// Whether all of a range is on pages with data that were in memory.
fn is_present(residency: &ResidencyMap, range: AddrRange) -> bool {
    let mut at = range.start();
    while at < range.end() {
        match residency.run_at(at) {
            Some(run) if run.state.is_present() && !run.state.is_zero() => at = run.range.end(),
            _ => return false,
        }
    }
    true
}

impl TargetMemory for MovingMemory<'_> {
    fn is_out_of_time(&self) -> bool {
        self.time.is_over()
    }

    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        match self.known.read(addr, buf) {
            Err(ReadError::Unmapped(_)) => self.read_of_now(addr, buf),
            done => done,
        }
    }

    fn read_current(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let range = AddrRange::with_len(addr, buf.len() as u64).ok_or(ReadError::Unmapped(addr))?;
        if self.is_out_of_time() {
            return Err(ReadError::OutOfTime);
        }
        if is_present(self.residency, range) && self.known.read(addr, buf).is_ok() {
            return Ok(());
        }
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = renewed
            .near
            .as_ref()
            .is_some_and(|(at, near)| at.elapsed() < RENEWED_AFTER && is_present(near, range));
        let began = Instant::now();
        if !is_recent && renewed.near_took <= RENEWED_AFTER.max(self.began.elapsed() / 4) {
            let near = AddrRange::with_len(addr.align_down(PAGE_SIZE), NEAR);
            renewed.near = None;
            match near.map(|near| self.near(near)) {
                Some(Ok(near)) => renewed.near = Some((began, near)),
                Some(Err(error)) => renewed.trouble = Some(error),
                None => {}
            }
            renewed.near_took += began.elapsed();
        }
        match &renewed.near {
            Some((_, near)) => ResidentMemory::new(self.memory(), near).read(addr, buf),
            None => Err(ReadError::Unmapped(addr)),
        }
    }
}

/// The census of memory of a known moment.
pub(crate) fn census<M: TargetMemory + Sync>(
    memory: &M,
    residency: &ResidencyMap,
    heaps: &[HeapSnapshot],
    context: Context<'_>,
    time: &ReadTime,
) -> Result<Census, NoCensus> {
    let began = Instant::now();
    let census = objects::census(memory, residency, heaps, context);
    if time.was_met() {
        // The result is a part of the objects, and it is unknown which part.
        return Err(NoCensus::OutOfTime {
            after_ns: time.longest().as_nanos() as u64,
        });
    }
    let mut census = census?;
    census.took_ns = began.elapsed().as_nanos() as u64;
    Ok(census)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_target_that_cannot_be_read_any_more_has_no_empty_census() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("a child");
        let target = Target::open(child.id().cast_signed()).expect("a process of our own");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        let census = census_since(
            &target,
            &Sample::default(),
            &ReadTime::from_now(Duration::from_secs(60)),
        );
        assert!(
            matches!(census, Err(NoCensus::Unreadable(_))),
            "{:?}",
            census.err()
        );
    }
}
