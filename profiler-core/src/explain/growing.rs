//! Whether a process grows: one rule, over live blocks and all other memory, of which one sentence is made.

use std::cmp::Ordering;

use crate::allocator::Allocator;
use crate::memory_growth::{Half, MemoryGrowth};
use crate::objects::{Census, Growth, Holder, HolderGrowth};
use crate::report::FragReport;
use crate::tables::{LedgerClass, LedgerPart};
use crate::trend::Point;

/// What goes on gains at least this share, in each half of the time, of what it would at a steady rate.
const STEADY: f64 = 0.25;
/// Memory that gained at least this share of what live blocks gained shows when these did.
const SAME: f64 = 0.8;
/// What gained this share of the rest is the rest.
const MOST: f64 = 0.5;
/// Live blocks grow in free memory where all memory gained less than this share of what they gained.
const REUSED: f64 = 0.25;
/// What was asked for is hardly written to where memory gained less than this share of it.
const HARDLY: f64 = 0.05;
/// What live blocks gain by so little of what is live, and other memory does not show, may be a full cache at two moments,
const FLUCTUATION: f64 = 0.02;
/// and is no more than that.
const MAX_FLUCTUATION: f64 = 2.0 * 1024.0 * 1024.0;
/// Unless a name has gained so many objects meanwhile, or what no root was found for so many blocks,
const LEAST_ITEMS: f64 = 16.0;
/// of at most so many bytes each.
const MAX_BYTES_OF_ONE: f64 = 16.0 * 1024.0;
/// What a name gains is worth a sentence from so many bytes on, although live blocks as a whole do not grow.
const LEAST_GAIN: f64 = 64.0 * 1024.0;
/// The share of what no root was found for that decides what it is.
pub(super) const NEARLY_ALL: f64 = 0.8;
/// A rest of less than this share of all that was gained goes unsaid.
const SAID: f64 = 0.2;

/// What grows of a process, in bytes a second, and what became larger without growing.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub(super) struct Growing {
    /// Live blocks; 0 where they do not grow.
    pub(super) live: f64,
    /// Blocks of pymalloc that no object owned when objects were read, beside others that did: what was freed between
    /// the walk and that, as in a burst.
    pub(super) unowned: f64,
    /// Whether that is of blocks that become larger again and again.
    pub(super) in_steps: bool,
    /// Whether all memory grows much less, or not at all.
    pub(super) is_reused: bool,
    /// Whether what live blocks gained was asked for and hardly written to, so that it takes no memory.
    pub(super) is_untouched: bool,
    /// All other memory; 0 where it does not grow.
    pub(super) rest: f64,
    /// Bytes that live blocks gained, too few to tell growth from what a full cache changes by.
    pub(super) fluctuation: f64,
    /// Whether what running functions have in hand is part of that growth, because all memory shows that it stays.
    pub(super) counts_passing: bool,
    /// Of what no root was found for, what can be relied upon.
    pub(super) unreached: f64,
    /// The same that cannot, where it is many blocks.
    pub(super) unsure: f64,
    /// Bytes that memory gained once.
    pub(super) once: f64,
    /// Bytes that memory gained beside live blocks between two looks, without a third that shows whether that goes on.
    pub(super) unclear: f64,
}

impl Growing {
    /// By what live blocks gained, and all memory in the same time, where that is known; the census is the later one.
    pub(super) fn of(growth: &Growth, memory: Option<&MemoryGrowth>, census: &Census) -> Self {
        let steady = growth.steady_bytes * growth.seconds();
        let counts_passing = memory.is_some_and(|memory| memory.shows(steady));
        // Of a target that ran on something may have been on its way from one place to the next when either was read.
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
        let all = Self::of_all(growth, passing, memory);
        // In the walk's own stop nothing is freed before it is read.
        let unowned = if census.exact { 0.0 } else { unowned(growth) };
        let live = all.live - unowned;
        let gained = live * growth.seconds();
        let is_more = gained > growth.noise_bytes;
        let is_little = gained < MAX_FLUCTUATION.min(census.live.bytes as f64 * FLUCTUATION)
            && !(unreached > 0.0 && gains_unreached(growth))
            && !gains_items(growth, census, live * MOST, counts_passing);
        // Large blocks that were gone when objects were read: a burst, or what is made anew.
        let is_burst = !census.exact && unreached >= live * MOST && !gains_unreached(growth);
        let is_little =
            (is_little || is_burst) && memory.is_some_and(|memory| !memory.shows(gained));
        Self {
            live: if is_more && !is_little { live } else { 0.0 },
            fluctuation: if is_more && is_little { gained } else { 0.0 },
            unowned,
            counts_passing,
            unreached,
            unsure,
            ..all
        }
    }

    /// The same, of which so many bytes a second are of no account.
    fn of_all(growth: &Growth, passing: f64, memory: Option<&MemoryGrowth>) -> Self {
        let seconds = growth.seconds();
        let swapped_in = memory.map_or(0.0, |memory| memory.swapped_in_bytes);
        // What came back from swap was there before, and could not be read.
        let gained = (growth.steady_bytes - passing) * seconds - swapped_in;
        let mut live = if gained > growth.noise_bytes {
            gained
        } else {
            0.0
        };
        let only = |live: f64| Self {
            live: live / seconds,
            ..Self::default()
        };
        let Some(memory) = memory else {
            return only(live);
        };
        if memory.shows(live) && memory.halves.is_some_and(|halves| !goes_on(halves, live)) {
            live = 0.0;
        }
        let mut rest = memory.bytes - live;
        if rest < memory.least_bytes || rest < memory.bytes * SAID {
            return Self {
                is_reused: live > 0.0 && memory.bytes < live * REUSED,
                is_untouched: live > 0.0
                    && memory.bytes < live * REUSED
                    && memory.bytes < memory.least_bytes.max(live * HARDLY)
                    && memory
                        .live_bytes
                        .is_some_and(|gained| gained < live * REUSED),
                ..only(live)
            };
        }
        let Some(halves) = memory.halves else {
            // Blocks that became larger are said to have.
            let stepped = (growth.live.bytes - growth.steady_bytes).max(0.0) * seconds;
            let unclear = Some(rest - stepped).filter(|rest| *rest >= memory.least_bytes);
            return Self {
                unclear: unclear.unwrap_or(0.0),
                ..only(live)
            };
        };
        let beside_live = halves.map(|half| Half {
            bytes: half.bytes - live * half.share,
            ..half
        });
        if !goes_on(beside_live, rest) {
            return Self {
                once: rest,
                ..only(live)
            };
        }
        let stepped = (growth.live.bytes - passing) * seconds - swapped_in - live;
        let in_steps = stepped > growth.noise_bytes && stepped >= rest * MOST;
        if in_steps {
            live += stepped;
            rest = (memory.bytes - live).max(0.0);
            if rest < memory.least_bytes || rest < memory.bytes * SAID {
                rest = 0.0;
            }
        }
        Self {
            in_steps,
            rest: rest / seconds,
            ..only(live)
        }
    }
}

/// By how much a process grows, in bytes a second, as the verdict has it.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct GrowsBy {
    /// Live blocks; 0 where they do not grow.
    pub live: f64,
    /// All other memory; 0 where it does not grow.
    pub rest: f64,
    /// Whether memory, or a name, gained something of which two looks do not show whether it goes on.
    pub is_unclear: bool,
}

impl GrowsBy {
    /// All of it.
    pub fn bytes_per_second(&self) -> f64 {
        self.live + self.rest
    }
}

/// The growth that the verdict of a report speaks of; `None` where objects were not read twice.
pub(super) fn grows_by(report: &FragReport) -> Option<GrowsBy> {
    let (census, growth) = (report.objects.as_deref()?, report.growth.as_ref()?);
    let growing = Growing::of(growth, report.memory_growth.as_ref(), census);
    Some(GrowsBy {
        live: match growing.is_untouched {
            true => 0.0,
            false => growing.live,
        },
        rest: growing.rest,
        is_unclear: growing.unclear > 0.0
            || (growing.live == 0.0
                && growing.rest == 0.0
                && (growing.unsure > 0.0 || unhidden_gain(growth, census).is_some())),
    })
}

/// Whether what no root was found for gains many blocks: a large object that is made anew is another by the time
/// that objects are read.
pub(super) fn gains_unreached(growth: &Growth) -> bool {
    let of = growth.unreached;
    of.blocks * growth.seconds() >= LEAST_ITEMS && of.bytes <= of.blocks * MAX_BYTES_OF_ONE
}

/// Whether a name that gains at least this rate gains objects, which a full cache does not.
fn gains_items(growth: &Growth, census: &Census, least: f64, counts_passing: bool) -> bool {
    let counted = |of: &HolderGrowth| counts_passing || !of.is_passing;
    let mut of_names = gain_items(growth, census, least);
    of_names.any(|(of, _)| counted(of))
}

/// Names that gain at least this rate, and objects, the most first.
fn gain_items<'a>(
    growth: &'a Growth,
    census: &'a Census,
    least: f64,
) -> impl Iterator<Item = (&'a HolderGrowth, &'a Holder)> {
    let grown = growth.holders.iter().filter(move |of| of.bytes >= least);
    let grown = grown.filter_map(|of| Some((of, census.holders.get(of.holder)?)));
    grown.filter(|(of, holder)| {
        let gained = match of.items {
            Some(rate) => rate * growth.seconds(),
            // Of one that had fewer than to be listed before, all may be new.
            None if of.has_more => holder.items as f64,
            None => 0.0,
        };
        holder.is_name && gained >= LEAST_ITEMS
    })
}

/// The name that gains most objects though live blocks as a whole do not grow, which may be because what running functions
/// have in hand became less; `None` where none gains enough.
pub(super) fn unhidden_gain<'a>(
    growth: &'a Growth,
    census: &'a Census,
) -> Option<(&'a HolderGrowth, &'a Holder)> {
    // A table that was enlarged is no more objects.
    let stepped = growth.notable_step().map_or(0.0, |step| step.bytes);
    let least = (LEAST_GAIN + stepped) / growth.seconds();
    // What all live blocks gained as well is judged with them.
    let whole = growth.steady_bytes - growth.passing_bytes.max(0.0);
    // What was not listed before may have been there all the same.
    let is_known = |of: &HolderGrowth| (!of.is_passing || of.is_same) && of.items.is_some();
    gain_items(growth, census, least).find(|(of, _)| is_known(of) && of.bytes > whole)
}

impl MemoryGrowth {
    /// Whether it shows when live blocks gained so many bytes: it gained as much.
    fn shows(&self, live: f64) -> bool {
        live >= self.least_bytes && self.bytes >= live * SAME
    }
}

/// How memory changed from an earlier report to a later one; `None` of cores, and where no time has passed between them.
pub(super) fn memory_between(earlier: &FragReport, later: &FragReport) -> Option<MemoryGrowth> {
    if later.kernel.is_core || earlier.kernel.is_core {
        return None;
    }
    let gained = |class: LedgerClass| {
        let held = |report: &FragReport| {
            let row = report.ledger.iter().find(|row| row.class == class);
            row.map_or(0.0, |row| {
                row.resident_bytes as f64 + row.swapped_bytes as f64
            })
        };
        held(later) - held(earlier)
    };
    let is_of_heaps = |class: LedgerClass| {
        matches!(class.part(), LedgerPart::InUse | LedgerPart::Fragmentation)
            || class == LedgerClass::AllocatorMetadata
    };
    let (heaps, other): (Vec<LedgerClass>, _) = LedgerClass::ALL
        .iter()
        .partition(|class| is_of_heaps(**class));
    let mut classes: Vec<_> = other
        .into_iter()
        .map(|class| (class, gained(class)))
        .collect();
    classes.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal));
    let mut growth = MemoryGrowth::of_counts(&Point::of(earlier), &Point::of(later))?;
    growth.heap_bytes = (!later.heaps.is_empty()).then(|| heaps.into_iter().map(gained).sum());
    growth.classes = classes;
    Some(growth)
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

/// Whether memory gained in both halves something of what a steady growth by so many bytes would have given it.
fn goes_on(halves: [Half; 2], bytes: f64) -> bool {
    halves
        .iter()
        .all(|half| half.bytes >= bytes * half.share * STEADY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{GrowthStep, NativeGrowth, Rate};
    use crate::size_class::SizeClass;

    const MIB: f64 = (1 << 20) as f64;
    const SECONDS: f64 = 5.0;

    /// Live blocks of a process, and what of that was no step, in MiB gained in five seconds.
    fn growth(live: f64, steady: f64) -> Growth {
        Growth {
            elapsed_ns: 5_000_000_000,
            live: Rate {
                blocks: 0.0,
                bytes: live * MIB / SECONDS,
            },
            typed: Rate::default(),
            types: Vec::new(),
            native: Vec::new(),
            holders: Vec::new(),
            passing_bytes: 0.0,
            unreached: Rate::default(),
            cycles: Rate::default(),
            held_unseen: Rate::default(),
            most_unreached: None,
            steps: Vec::new(),
            steady_bytes: steady * MIB / SECONDS,
            is_growing: steady > 0.1,
            noise_bytes: 0.1 * MIB,
        }
    }

    /// All memory: what it gained, and what of that in the second half.
    fn memory(bytes: f64, later: Option<f64>) -> MemoryGrowth {
        MemoryGrowth {
            elapsed_ns: 5_000_000_000,
            bytes: bytes * MIB,
            heap_bytes: Some(0.0),
            halves: later.map(|later| {
                [bytes - later, later].map(|half| Half {
                    share: 0.5,
                    bytes: half * MIB,
                })
            }),
            least_bytes: MIB,
            ..MemoryGrowth::default()
        }
    }

    #[test]
    fn what_is_asked_for_and_not_written_to_is_no_growth_of_memory() {
        let untouched = |live: Option<f64>, all: f64| {
            let memory = MemoryGrowth {
                live_bytes: live.map(|live| live * MIB),
                ..memory(all, Some(all / 2.0))
            };
            of(&growth(400.0, 400.0), memory).is_untouched
        };
        assert!(untouched(Some(2.0), 2.5));
        assert!(!untouched(Some(398.0), 2.5), "free memory is used again");
        assert!(!untouched(Some(2.0), 390.0), "it went to swap");
        assert!(!untouched(None, 2.5), "not known of one walk");
        assert!(
            !untouched(Some(80.0), 80.0),
            "a fifth of it is written to, and that grows"
        );
    }

    fn of(growth: &Growth, memory: MemoryGrowth) -> Growing {
        Growing::of(growth, Some(&memory), &Census::default())
    }

    /// A rate in MiB gained in the time.
    fn rate(mib: f64) -> f64 {
        mib * MIB / SECONDS
    }

    #[test]
    fn a_little_of_what_is_live_that_other_memory_does_not_show_may_be_a_full_cache() {
        let of = |gained: f64, memory_gained: f64, live_mib: u64, items: f64| {
            let mut growth = growth(gained, gained);
            growth.holders = vec![HolderGrowth {
                is_passing: false,
                is_same: true,
                mapped_bytes: None,
                holder: 0,
                bytes: rate(gained),
                has_more: items > 0.0,
                branch: None,
                items: Some(items / SECONDS),
            }];
            let mut census = Census::default();
            census.live.bytes = live_mib << 20;
            census.holders = vec![Holder {
                is_name: true,
                ..Holder::default()
            }];
            let memory = memory(memory_gained, Some(memory_gained / 2.0));
            Growing::of(&growth, Some(&memory), &census)
        };
        // A ring of lists that is full, at two moments.
        let full = of(0.45, 0.0, 50, 1.0);
        assert_eq!(full.live, 0.0);
        assert!((full.fluctuation - 0.45 * MIB).abs() < 1.0, "{full:?}");
        // So may large blocks be that nobody had any more when objects were read, as many as they are.
        let passing = |blocks: f64, memory_gained: f64| {
            let mut growth = growth(2.5, 2.5);
            growth.unreached = Rate {
                blocks: blocks / SECONDS,
                bytes: rate(2.4),
            };
            growth.cycles = growth.unreached;
            let memory = memory(memory_gained, Some(memory_gained / 2.0));
            Growing::of(&growth, Some(&memory), &Census::default()).live
        };
        assert_eq!(passing(25.0, 0.0), 0.0);
        assert_eq!(passing(25.0, 2.6), rate(2.5), "which all memory shows");
        assert_eq!(passing(2500.0, 0.0), rate(2.5), "cycles");
        // More than that, as much as all memory gained, and what comes with objects of a name grows.
        for (gained, memory_gained, live_mib, items) in [
            (1.2, 0.0, 50, 1.0),
            (2.5, 2.6, 500, 1.0),
            (0.45, 0.0, 50, 1800.0),
        ] {
            let grows = of(gained, memory_gained, live_mib, items);
            assert_eq!((grows.live, grows.fluctuation), (rate(gained), 0.0));
        }
    }

    #[test]
    fn what_stands_still_does_not_grow() {
        let still = growth(0.01, 0.01);
        assert_eq!(of(&still, memory(0.3, Some(0.2))), Growing::default());
        assert_eq!(of(&still, memory(-7.0, Some(-1.0))), Growing::default());
        // Whatever is said of memory that became larger once, live blocks do not grow beside it.
        let stepped = of(&growth(5.0, 0.05), memory(7.0, Some(0.0)));
        let once = Growing {
            once: 7.0 * MIB,
            ..Growing::default()
        };
        assert_eq!(stepped, once);
        assert_eq!(
            of(&growth(5.0, 0.05), memory(7.0, Some(7.0))),
            once,
            "and late"
        );
    }

    #[test]
    fn imports_that_have_ended_are_one_step() {
        let grown = of(&growth(6.0, 5.0), memory(9.0, Some(0.2)));
        assert_eq!((grown.live, grown.rest, grown.once), (0.0, 0.0, 9.0 * MIB));
        let twice = of(&growth(6.0, 5.0), memory(9.0, Some(4.0)));
        assert_eq!((twice.live, twice.rest), (rate(5.0), rate(4.0)), "goes on");
    }

    #[test]
    fn memory_outside_of_live_blocks_grows_slowly_and_fast() {
        for (gained, live) in [(2.0, 0.0), (20.0, 0.06), (20.0, 0.0)] {
            let grown = of(&growth(live, live), memory(gained, Some(gained * 0.45)));
            assert_eq!((grown.live, grown.rest), (0.0, rate(gained)));
        }
        // Two looks do not show whether it goes on.
        let twice = of(&growth(0.0, 0.0), memory(39.5, None));
        assert_eq!((twice.rest, twice.unclear), (0.0, 39.5 * MIB));
        let table = of(&growth(2.6, 0.0), memory(2.5, None));
        assert_eq!(table, Growing::default(), "a table that was enlarged");
    }

    #[test]
    fn live_blocks_that_grow_are_the_same_growth_as_that_of_memory() {
        let leak = of(&growth(20.0, 18.0), memory(20.5, Some(10.0)));
        assert_eq!((leak.live, leak.rest, leak.once), (rate(18.0), 0.0, 0.0));
        // Where free memory is used again, memory does not grow.
        let reused = of(&growth(4.0, 4.0), memory(0.0, Some(0.0)));
        assert!(reused.live == rate(4.0) && reused.is_reused);
        let half = of(&growth(4.0, 4.0), memory(2.0, Some(0.0)));
        assert!(half.live == rate(4.0) && !half.is_reused);
        // Less than what memory shows.
        let slow = of(&growth(0.5, 0.5), memory(0.5, Some(0.0)));
        assert_eq!(slow.live, rate(0.5));
        // Other memory beside them, that goes on and that does not.
        let both = of(&growth(10.0, 10.0), memory(30.0, Some(15.0)));
        assert_eq!((both.live, both.rest), (rate(10.0), rate(20.0)));
        let once = of(&growth(10.0, 10.0), memory(30.0, Some(5.0)));
        assert_eq!(
            (once.live, once.rest, once.once),
            (rate(10.0), 0.0, 20.0 * MIB)
        );
    }

    #[test]
    fn blocks_that_become_larger_again_and_again_grow() {
        let one = of(&growth(19.0, 0.0), memory(20.0, Some(10.0)));
        assert!(one.in_steps && one.rest == 0.0, "{one:?}");
        assert_eq!(one.live, rate(19.0));
        let once = of(&growth(19.0, 0.0), memory(20.0, Some(0.0)));
        assert_eq!((once.live, once.once), (0.0, 20.0 * MIB));
    }

    #[test]
    fn what_a_burst_had_and_no_object_owns_is_left_out() {
        let mut burst = growth(15.0, 15.0);
        burst.native = vec![NativeGrowth {
            allocator: Allocator::Pymalloc,
            class: SizeClass::of(128),
            rate: Rate {
                blocks: 5000.0,
                bytes: rate(10.0),
            },
        }];
        let live = |burst: &Growth, exact| {
            let census = Census {
                exact,
                ..Census::default()
            };
            Growing::of(burst, None, &census).live
        };
        assert_eq!(live(&burst, false), rate(15.0), "nothing else grows");
        burst.typed.bytes = rate(5.0);
        assert_eq!(live(&burst, false), rate(5.0));
        assert_eq!(
            live(&burst, true),
            rate(15.0),
            "objects were read in the stop"
        );
        burst.native[0].allocator = Allocator::Glibc;
        assert_eq!(live(&burst, false), rate(15.0));
        // Memory that the burst took is nothing else's growth.
        burst.native[0].allocator = Allocator::Pymalloc;
        let grown = of(&burst, memory(15.5, Some(7.5)));
        assert_eq!((grown.live, grown.rest), (rate(5.0), 0.0));
    }

    #[test]
    fn what_running_functions_have_in_hand_is_no_growth_unless_all_memory_shows_it() {
        let with = |passing: f64, memory_gained: f64| {
            let mut growth = growth(2.4, 2.4);
            growth.passing_bytes = rate(passing);
            of(&growth, memory(memory_gained, Some(memory_gained / 2.0)))
        };
        assert_eq!(with(2.4, 0.0).live, 0.0);
        let leak = with(2.0, 0.0).live;
        assert!((leak - rate(0.4)).abs() < 1.0, "{leak}");
        let held_less = with(-2.0, 0.0).live;
        assert!((held_less - rate(4.4)).abs() < 1.0, "{held_less}");
        let stays = with(2.0, 2.3);
        assert!(stays.counts_passing && stays.live == rate(2.4), "{stays:?}");
    }

    #[test]
    fn a_name_that_gains_objects_is_found_though_all_vary_by_more_and_an_enlarged_table_is_none() {
        let found = |items: f64, bytes: f64, stepped: f64, is_passing: bool| {
            let mut growth = growth(0.0, 0.0);
            growth.holders = vec![HolderGrowth {
                is_passing,
                is_same: false,
                mapped_bytes: None,
                holder: 0,
                bytes: rate(bytes),
                has_more: true,
                branch: None,
                items: Some(items / SECONDS),
            }];
            growth.steps = vec![GrowthStep {
                type_name: Some("dict".into()),
                bytes: stepped * MIB,
            }];
            let census = Census {
                holders: vec![Holder {
                    is_name: true,
                    ..Holder::default()
                }],
                ..Census::default()
            };
            unhidden_gain(&growth, &census).is_some()
        };
        assert!(found(400.0, 0.3, 0.0, false));
        assert!(!found(400.0, 0.3, 0.0, true), "in hand");
        assert!(!found(400.0, 0.03, 0.0, false), "too little");
        assert!(!found(10.0, 0.3, 0.0, false), "too few");
        assert!(!found(100.0, 2.5, 2.5, false), "an enlarged table");
    }

    #[test]
    fn what_is_reached_from_nowhere_is_growth_where_reference_counts_or_a_stop_say_so() {
        let with = |replaced: u64, cycles: f64, exact: bool| {
            let mut growth = growth(2.4, 2.4);
            growth.unreached = Rate {
                blocks: 2000.0,
                bytes: rate(2.0),
            };
            growth.cycles.bytes = rate(cycles);
            let census = Census {
                exact,
                replaced,
                compared: 1000,
                ..Census::default()
            };
            let memory = memory(0.0, Some(0.0));
            let growing = Growing::of(&growth, Some(&memory), &census);
            (growing.live, growing.unreached)
        };
        assert_eq!(with(0, 2.0, false), (rate(2.4), rate(2.0)), "cycles");
        assert_eq!(with(500, 0.0, true), (rate(2.4), rate(2.0)));
        // Else what was replaced, or moved on, while it was read took with it what it led to.
        for (replaced, cycles) in [(500, 2.0), (0, 1.0)] {
            let (live, unreached) = with(replaced, cycles, false);
            assert!((live - rate(0.4)).abs() < 1.0 && unreached == 0.0, "{live}");
        }
    }

    #[test]
    fn what_comes_back_from_swap_does_not_grow() {
        let back = MemoryGrowth {
            swapped_in_bytes: 39.0 * MIB,
            ..memory(0.5, Some(0.3))
        };
        assert_eq!(of(&growth(30.0, 30.0), back), Growing::default());
    }
}
