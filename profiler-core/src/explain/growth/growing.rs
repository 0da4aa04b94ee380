//! Decides whether a process grows: one rule over live blocks and all other memory.

use super::gains::{
    LEAST_GAIN, gain_items, gains_items, gains_unreached, least_gain, unhidden_gain,
};
use super::memory::{SAME, gains_threads, goes_on, lasting_of, shows};
use crate::allocator::Allocator;
use crate::memory_growth::{Half, MemoryGrowth};
use crate::objects::{Census, Course, Growth, HolderGrowth};
use crate::report::FragReport;
use crate::worth::{MOST, is_named_for_gaining};

/// Live blocks grow into free memory if all memory gained less than this share of their gain.
const REUSED: f64 = 0.25;
/// Free memory that became more by less than this, and nothing else that did, comes and goes.
const FREE_BYTES: f64 = 4.0 * 1024.0 * 1024.0;
/// Requested memory counts as hardly written to if memory gained less than this share of it.
const HARDLY: f64 = 0.05;
/// A gain of live blocks by at most this share, if other memory does not show it, may be a full
/// cache at two moments,
const FLUCTUATION: f64 = 0.02;
/// but only up to this many bytes.
const MAX_FLUCTUATION: f64 = 2.0 * 1024.0 * 1024.0;
/// If this share of the blocks without a known root is of one kind, all of them are treated as that
/// kind.
pub(super) const NEARLY_ALL: f64 = 0.8;
/// Remaining growth below this share of the total is not mentioned.
const SAID: f64 = 0.2;

/// What grows in a process, in bytes per second, and what became larger without growing.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub(super) struct Growing {
    /// Live blocks; 0 if they do not grow.
    pub(super) live: f64,
    /// Blocks of pymalloc that no object owned when objects were read, while other blocks had
    /// owners: they were freed between the walk and the reading, as in a burst.
    pub(super) unowned: f64,
    /// Whether that is of blocks that become larger again and again.
    pub(super) in_steps: bool,
    /// Whether all memory grows much less, or not at all.
    pub(super) is_reused: bool,
    /// Whether live blocks gained memory that was requested but hardly written to, so that it takes
    /// no memory.
    pub(super) is_untouched: bool,
    /// All other memory; 0 if it does not grow.
    pub(super) rest: f64,
    /// Bytes that live blocks gained, too few to distinguish growth from the fluctuation of a full
    /// cache.
    pub(super) fluctuation: f64,
    /// Whether data held by running functions counts as part of the growth, because all memory
    /// shows that it stays.
    pub(super) counts_passing: bool,
    /// Whether threads were added, so that their functions' data counts as part of the growth too.
    pub(super) has_more_threads: bool,
    /// The reliable part of the growth of blocks without a known root.
    pub(super) unreached: f64,
    /// The unreliable part of it, if it is many blocks.
    pub(super) unsure: f64,
    /// Whether the rate is that of two moments of a memory that goes up and down by as much, and no name gains it.
    pub(super) is_rough: bool,
    /// By how much live blocks may grow more or less than that, in bytes per second, because two looks at a container met it
    /// anywhere in a swing.
    pub(super) spread: f64,
    /// Bytes that memory gained once.
    pub(super) once: f64,
    /// Bytes that memory gained outside live blocks between two observations, without a third to
    /// show whether that continues.
    pub(super) unclear: f64,
}

impl Growing {
    /// From the gains of live blocks and, if known, of all memory in the same time; the census is
    /// the later one.
    pub(super) fn of(growth: &Growth, memory: Option<&MemoryGrowth>, census: &Census) -> Self {
        let settled = memory.and_then(MemoryGrowth::settled);
        let memory = settled.as_ref().or(memory);
        let steady = growth.steady_bytes * growth.seconds();
        let has_more_threads = memory.is_some_and(gains_threads);
        let counts_passing = has_more_threads || memory.is_some_and(|memory| shows(memory, steady));
        // In a target that ran on, something may have been moving from one place to another while
        // either was read.
        let cycles = growth.cycles.bytes >= growth.unreached.bytes * NEARLY_ALL;
        let unreached = match census.exact || counts_passing || cycles && !census.is_unsteady() {
            true => growth.unreached.bytes,
            false => 0.0,
        };
        let is_unsure = unreached == 0.0
            && gains_unreached(growth)
            && growth.unreached.bytes * growth.seconds() > growth.noise_bytes;
        let unsure = if is_unsure {
            growth.unreached.bytes
        } else {
            0.0
        };
        let passing = match counts_passing {
            true => 0.0,
            false => growth.passing_bytes + growth.unreached.bytes - unreached,
        };
        let passing = passing + growth.swinging_bytes;
        let all = Self::of_all(growth, passing, memory);
        // Within the walk's own stop nothing is freed before it is read.
        let unowned = if census.exact { 0.0 } else { unowned(growth) };
        let live = all.live - unowned;
        let gained = live * growth.seconds();
        let is_more = gained > growth.noise_bytes;
        let is_little = gained < MAX_FLUCTUATION.min(census.live.bytes as f64 * FLUCTUATION)
            && !(unreached > 0.0 && gains_unreached(growth))
            && !gains_items(growth, census, live * MOST, counts_passing);
        // Large blocks that were gone when objects were read: a burst, or objects that are
        // recreated.
        let is_burst = !census.exact && unreached >= live * MOST && !gains_unreached(growth);
        let is_little =
            (is_little || is_burst) && memory.is_some_and(|memory| !shows(memory, gained));
        let lasting = memory.map_or(gained, |memory| lasting_of(memory, gained));
        let is_rough = settled.is_none()
            && memory.is_some_and(|memory| memory.fell_bytes >= lasting * MOST)
            && !names_gain(growth, census, live, counts_passing);
        // Of large blocks that are made anew both looks may have found one too many.
        let lasting = match &settled {
            Some(settled) if !names_gain(growth, census, live, counts_passing) => {
                lasting.min(settled.bytes)
            }
            _ => lasting,
        };
        let lasting = lasting / growth.seconds();
        let live = match is_more && !is_little {
            // Two looks at what goes up and down meet it anywhere: what is drawn from counts is not less.
            true if growth.holders.iter().any(HolderGrowth::is_below_swing) => {
                lasting.max(steady_gain(growth, census))
            }
            true => lasting,
            // A name that gains objects all the time grows, whatever else varies.
            false => steady_gain(growth, census),
        };
        let spread = match live > 0.0 {
            true => spread(growth),
            false => 0.0,
        };
        Self {
            live,
            is_rough: is_rough && live > 0.0,
            spread,
            fluctuation: if is_more && is_little && live == 0.0 {
                gained
            } else {
                0.0
            },
            unowned,
            counts_passing,
            has_more_threads,
            unreached,
            unsure,
            ..all
        }
    }

    /// The same, ignoring `passing` bytes per second of the growth.
    fn of_all(growth: &Growth, passing: f64, memory: Option<&MemoryGrowth>) -> Self {
        let seconds = growth.seconds();
        let swapped_in = memory.map_or(0.0, |memory| memory.swapped_in_bytes);
        // Memory that was swapped in existed before but could not be read.
        let gained = (growth.steady_bytes - passing) * seconds - swapped_in;
        let live = if gained > growth.noise_bytes {
            gained
        } else {
            0.0
        };
        let Some(memory) = memory else {
            return Self::of_live(live / seconds);
        };
        let is_step =
            shows(memory, live) && memory.halves.is_some_and(|halves| !goes_on(halves, live));
        let live = if is_step { 0.0 } else { live };
        let rest = memory.bytes - live;
        if is_no_rest(rest, memory) {
            return Self {
                is_reused: live > 0.0 && memory.bytes < live * REUSED,
                is_untouched: is_untouched(live, memory),
                ..Self::of_live(live / seconds)
            };
        }
        let Some(halves) = memory.halves else {
            // Blocks that became larger are reported separately.
            let stepped = (growth.live.bytes - growth.steady_bytes).max(0.0) * seconds;
            let unclear = Some(rest - stepped).filter(|rest| *rest >= memory.least_bytes);
            return Self {
                unclear: unclear.unwrap_or(0.0),
                ..Self::of_live(live / seconds)
            };
        };
        let beside_live = halves.map(|half| Half {
            bytes: half.bytes - live * half.share,
            ..half
        });
        if !goes_on(beside_live, rest) {
            return Self {
                once: rest,
                ..Self::of_live(live / seconds)
            };
        }
        if memory.fell_bytes >= rest
            || live == 0.0 && is_moment(growth, passing * seconds, rest, memory)
        {
            return Self {
                unclear: rest,
                ..Self::of_live(live / seconds)
            };
        }
        let stepped = (growth.live.bytes - passing) * seconds - swapped_in - live;
        let in_steps = stepped > growth.noise_bytes && stepped >= rest * MOST;
        match in_steps {
            true => Self::in_steps(live + stepped, memory, seconds),
            false => Self {
                rest: rest / seconds,
                ..Self::of_live(live / seconds)
            },
        }
    }

    /// Of live blocks alone.
    fn of_live(bytes_per_second: f64) -> Self {
        Self {
            live: bytes_per_second,
            ..Self::default()
        }
    }

    /// Live blocks gained `live` bytes, mostly in blocks that become larger again and again.
    fn in_steps(live: f64, memory: &MemoryGrowth, seconds: f64) -> Self {
        let rest = (memory.bytes - live).max(0.0);
        let rest = if is_no_rest(rest, memory) { 0.0 } else { rest };
        Self {
            in_steps: true,
            rest: rest / seconds,
            ..Self::of_live(live / seconds)
        }
    }
}

/// Whether the growth outside live blocks is too small a part of the whole to be reported.
fn is_no_rest(rest: f64, memory: &MemoryGrowth) -> bool {
    rest < memory.least_bytes || rest < memory.bytes * SAID
}

/// Whether live blocks gained `live` bytes that were requested but hardly written to.
fn is_untouched(live: f64, memory: &MemoryGrowth) -> bool {
    let touched = |gained: f64| gained < live * REUSED;
    live > 0.0
        && touched(memory.bytes)
        && memory.bytes < memory.least_bytes.max(live * HARDLY)
        && memory.live_bytes.is_some_and(touched)
}

/// How fast a process grows, in bytes per second, as stated in the verdict.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct GrowsBy {
    /// Live blocks; 0 if they do not grow.
    pub live: f64,
    /// All other memory; 0 if it does not grow.
    pub rest: f64,
    /// Whether memory, or a name, gained something for which two observations do not show whether
    /// it continues.
    pub is_unclear: bool,
    /// Whether what running functions have in hand is part of that growth, because all memory shows that it stays.
    pub counts_passing: bool,
}

impl GrowsBy {
    /// The sum.
    pub fn bytes_per_second(&self) -> f64 {
        self.live + self.rest
    }
}

/// The growth stated in a report's verdict; `None` if objects were not read twice.
pub(in crate::explain) fn grows_by(report: &FragReport) -> Option<GrowsBy> {
    let (census, growth) = (report.objects.as_deref()?, report.growth.as_ref()?);
    let growing = Growing::of(growth, report.memory_growth.as_ref(), census);
    Some(GrowsBy {
        live: match growing.is_untouched {
            true => 0.0,
            false => growing.live,
        },
        rest: growing.rest,
        counts_passing: growing.counts_passing,
        is_unclear: growing.unclear > 0.0
            || (growing.live == 0.0
                && growing.rest == 0.0
                && (growing.unsure > 0.0 || unhidden_gain(growth, census).is_some())),
    })
}

/// Whether the gain of memory outside live blocks may be temporary: a little free memory, or work
/// in progress that took more than memory gained because free memory was reused.
fn is_moment(growth: &Growth, in_hand: f64, rest: f64, memory: &MemoryGrowth) -> bool {
    let free = memory.heap_bytes.unwrap_or(0.0) - growth.live.bytes.max(0.0) * growth.seconds();
    let is_little_free = rest < FREE_BYTES && free >= rest * MOST;
    let is_in_hand = in_hand >= rest * MOST && memory.bytes < in_hand * SAME;
    is_little_free || is_in_hand
}

/// Whether a name gains so much of what live blocks do that it is named for it.
fn names_gain(growth: &Growth, census: &Census, live: f64, counts_passing: bool) -> bool {
    let grown = growth.holders.iter();
    let mut grown = grown.filter(|of| of.counts(counts_passing));
    grown.any(|of| {
        let holder = census.holders.get(of.holder);
        is_named_for_gaining(of.bytes, live) && holder.is_some_and(|holder| holder.is_name)
    })
}

/// Bytes a second that names gain all the time by counts in between, where live blocks as a whole do not grow; 0 without
/// such a name.
fn steady_gain(growth: &Growth, census: &Census) -> f64 {
    let least = least_gain(growth);
    let rising: Vec<_> = gain_items(growth, census, LEAST_GAIN / growth.seconds())
        .filter(|(of, _)| of.course.is_some_and(Course::rises))
        // What is drawn from lowest counts is of items, and not of an enlarged table.
        .filter(|(of, _)| of.is_below_swing() || of.bytes >= least)
        .collect();
    let single = rising.iter();
    let single = single.filter(|(_, holder)| holder.inner_bytes.unwrap_or(0) == 0);
    let several: f64 = single.map(|(of, _)| of.bytes).sum();
    // What is within others as well counts once.
    rising
        .iter()
        .map(|(of, _)| of.bytes)
        .fold(several, f64::max)
}

/// How far the rates of names may be off that were drawn from lowest counts, in bytes per second.
fn spread(growth: &Growth) -> f64 {
    let off = growth.holders.iter().filter_map(|of| {
        let pace = of.pace.filter(|_| of.course.is_some_and(Course::rises))?;
        let share = (pace.most - pace.least) / 2.0 / pace.middle();
        Some(of.bytes.max(0.0) * share)
    });
    off.fold(0.0, f64::max)
}

/// What pymalloc's blocks that no object owns gained a second, where objects gained something too: nearly all that
/// Python has there are objects.
fn unowned(growth: &Growth) -> f64 {
    if growth.typed.bytes * growth.seconds() <= growth.noise_bytes {
        return 0.0;
    }
    let native = growth.native.iter();
    let small = native.filter(|of| of.allocator == Allocator::Pymalloc);
    small.map(|of| of.rate.bytes.max(0.0)).sum()
}

#[cfg(test)]
mod tests;
