//! All events of a process, in the order in which they happened.

use std::num::NonZeroU32;
use std::sync::Arc;

use profiler_common::{RawEvent, RecordKind};
use zerocopy::FromBytes;

use super::armed::Armed;
use super::calibrate::HitCost;
use super::error::ProbeError;
use super::loaded::Loaded;
use super::meter::Meter;
use super::plan::{Function, ProbePlan};
use super::traps::Traps;
use super::worker::now_ns;

/// Size of the ring buffer, in bytes: 800 thousand events.
const RING_BYTES: u32 = 32 << 20;

/// Probes that stay armed, and what they record. Dropping it removes them and waits until they are
/// gone; if fragscope is killed, the guard that holds them does the same.
///
/// The kernel reserves room in the ring under a lock, so the order in the ring is the order in
/// which the probes were hit, on whichever processors; and each probe is hit between the visible
/// effects of its call: a free before it takes effect, an allocation after it did. While the target
/// is stopped no program runs, so the ring then holds all that happened.
pub struct EventStream {
    armed: Armed,
    meter: Meter,
    /// Lost events that were reported.
    reported: u64,
    /// Why threads' ends are not recorded, if they are not.
    blind: Option<String>,
    failed: Vec<(Function, String)>,
}

/// What the probes took from the target so far.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct StreamCost {
    /// Hits of any probe.
    pub hits: u64,
    /// The target's time that they took, in ns, from the measured cost of a hit here.
    pub spent_ns: f64,
}

impl StreamCost {
    /// What they took since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            hits: self.hits.saturating_sub(before.hits),
            spent_ns: (self.spent_ns - before.spent_ns).max(0.0),
        }
    }
}

impl EventStream {
    /// Measures the cost of a hit here and attaches the probes of `plan` to process `pid`, whose
    /// events are recorded from now on.
    ///
    /// # Errors
    /// If no probe at all can be attached.
    pub fn attach(pid: i32, plan: &ProbePlan) -> Result<Self, ProbeError> {
        Self::attach_with_ring(pid, plan, RING_BYTES)
    }

    /// Like [`EventStream::attach`], with a ring buffer of `ring_bytes`: a power of two, at least a
    /// page.
    ///
    /// # Errors
    /// If no probe at all can be attached.
    pub fn attach_with_ring(
        pid: i32,
        plan: &ProbePlan,
        ring_bytes: u32,
    ) -> Result<Self, ProbeError> {
        let number = u32::try_from(pid).ok().and_then(NonZeroU32::new);
        let number = number.ok_or(ProbeError::Gone(pid))?;
        let mut loaded = Loaded::new(ring_bytes)?;
        let cost = HitCost::measure(&mut loaded)?;
        let blind = loaded.watch_threads().err().map(|error| error.to_string());
        let traps = Arc::new(Traps::new(plan, number));
        let meter = Meter::new(&traps, cost, now_ns());
        let mut armed = Armed::new(number, loaded, traps, plan.probes.len())?;
        armed.attach(meter.hits())?;
        armed.open(true)?;
        let failed = plan.probes.iter().zip(armed.failed());
        let failed = failed.filter_map(|(probe, why)| Some((probe.function, why.clone()?)));
        Ok(Self {
            failed: failed.collect(),
            armed,
            meter,
            reported: 0,
            blind,
        })
    }

    /// Functions whose probe could not be attached, and why: their calls are missing.
    pub fn failed(&self) -> &[(Function, String)] {
        &self.failed
    }

    /// Why the ends of threads are not recorded, if they are not.
    pub fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
    }

    /// Hands over the events in the ring, up to `most`, and returns how many. They include
    /// [`RecordKind::Lost`], with the number of events lost there; events lost at the end come with
    /// the next event.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(&RawEvent)) -> usize {
        let mut taken = 0;
        let before = self.armed.lost_before();
        while taken < most
            && let Some(record) = self.armed.loaded.events.next()
        {
            let Ok((mut event, _)) = RawEvent::read_from_prefix(&record) else {
                continue;
            };
            if event.kind() == Some(RecordKind::Lost) {
                let lost = event.size.saturating_sub(before);
                let new = lost.saturating_sub(self.reported);
                self.reported = self.reported.max(lost);
                if new == 0 {
                    continue;
                }
                event.size = new;
            }
            take(&event);
            taken += 1;
        }
        taken
    }

    /// Events that were lost and not reported yet.
    ///
    /// # Errors
    /// When the kernel's counters cannot be read.
    pub fn unreported_losses(&mut self) -> Result<u64, ProbeError> {
        let (_, lost) = self.armed.counts()?;
        let new = lost.saturating_sub(self.reported);
        self.reported = self.reported.max(lost);
        Ok(new)
    }

    /// What the probes took from the target so far.
    ///
    /// # Errors
    /// If the kernel's counters cannot be read.
    pub fn cost(&mut self) -> Result<StreamCost, ProbeError> {
        self.armed.check_guard()?;
        let (hits, _) = self.armed.counts()?;
        for (index, hits) in hits.iter().enumerate() {
            self.meter.count(index, *hits);
        }
        Ok(StreamCost {
            hits: hits.iter().sum(),
            spent_ns: self.meter.spent_ns(),
        })
    }

    /// Ends the events; those in the ring can still be taken.
    ///
    /// # Errors
    /// If the kernel rejects it.
    pub fn close(&mut self) -> Result<(), ProbeError> {
        self.armed.open(false)?;
        self.armed.end()
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        // What cannot be removed here, the end of the guard removes.
        let _ = self.armed.end();
    }
}
