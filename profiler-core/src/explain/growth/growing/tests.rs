//! When a process counts as growing.

use super::super::memory::beside;
use super::*;
use crate::objects::{GrowthStep, Holder, HolderGrowth, NativeGrowth, Rate};
use crate::size_class::SizeClass;

const MIB: f64 = (1 << 20) as f64;
const SECONDS: f64 = 5.0;

/// Live blocks of a process, and the part of their growth that was not a step, in MiB gained in
/// five seconds.
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
        swinging_bytes: 0.0,
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

/// All memory: its gain, and the part of that in the second half.
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
            course: None,
            pace: None,
            swing_bytes: 0.0,
            mapped_bytes: None,
            holder: 0,
            bytes: rate(gained),
            has_more: items > 0.0,
            branch: None,
            at_largest: None,
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
    // So may large blocks be that nothing referred to any more when objects were read, however
    // many.
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
    // However memory that became larger once is described, live blocks do not grow beside it.
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
    // Two samples do not show whether it continues.
    let twice = of(&growth(0.0, 0.0), memory(39.5, None));
    assert_eq!((twice.rest, twice.unclear), (0.0, 39.5 * MIB));
    let table = of(&growth(2.6, 0.0), memory(2.5, None));
    assert_eq!(table, Growing::default(), "a table that was enlarged");
}

#[test]
fn live_blocks_that_grow_are_the_same_growth_as_that_of_memory() {
    let leak = of(&growth(20.0, 18.0), memory(20.5, Some(10.0)));
    assert_eq!((leak.live, leak.rest, leak.once), (rate(18.0), 0.0, 0.0));
    // Where free memory is reused, memory does not grow.
    let reused = of(&growth(4.0, 4.0), memory(0.0, Some(0.0)));
    assert!(reused.live == rate(4.0) && reused.is_reused);
    let half = of(&growth(4.0, 4.0), memory(2.0, Some(0.0)));
    assert!(half.live == rate(4.0) && !half.is_reused);
    // Less than what memory shows.
    let slow = of(&growth(0.5, 0.5), memory(0.5, Some(0.0)));
    assert_eq!(slow.live, rate(0.5));
    // Other memory besides them, that continues to grow and that does not.
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
            course: None,
            pace: None,
            swing_bytes: 0.0,
            mapped_bytes: None,
            holder: 0,
            bytes: rate(bytes),
            has_more: true,
            branch: None,
            at_largest: None,
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
    assert!(found(235.0, 0.22, 0.0, false), "little of a large process");
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
    // Else objects that were replaced or moved while they were read took with them what they led
    // to.
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

#[test]
fn a_little_more_free_memory_is_no_growth_yet() {
    let with = |gained: f64, free: f64| {
        let memory = MemoryGrowth {
            heap_bytes: Some((free + 0.05) * MIB),
            ..memory(gained, Some(gained / 2.0))
        };
        let grown = of(&growth(0.05, 0.05), memory);
        (grown.rest, grown.unclear)
    };
    assert_eq!(with(1.9, 1.4), (0.0, 1.9 * MIB), "a table was made anew");
    assert_eq!(with(9.0, 8.0), (rate(9.0), 0.0));
    assert_eq!(with(1.9, 0.2), (rate(1.9), 0.0), "memory elsewhere");
}

#[test]
fn what_threads_have_in_hand_grows_where_they_become_more() {
    let with = |threads: (u32, u32)| {
        let mut growth = growth(0.6, 0.6);
        growth.passing_bytes = rate(0.5);
        let memory = MemoryGrowth {
            threads: Some(threads),
            ..memory(1.1, Some(0.5))
        };
        of(&growth, memory).live
    };
    assert_eq!(with((30, 55)), rate(0.6));
    assert_eq!(with((30, 34)), 0.0, "a few more at that moment");
    assert_eq!(with((300, 325)), 0.0, "of a server that has many");
}

#[test]
fn what_is_there_for_a_moment_or_was_not_written_to_is_not_in_the_rate() {
    let halves = |each: f64| {
        [each; 2].map(|bytes| Half {
            share: 0.4,
            bytes: bytes * MIB,
        })
    };
    // A string of 7 MiB that was being copied when it was looked at, besides the growth.
    let copied = MemoryGrowth {
        halves: Some(halves(1.0)),
        ..memory(9.5, None)
    };
    let growing = of(&growth(9.5, 9.5), copied);
    assert!((growing.live - rate(2.5)).abs() < 1.0, "{growing:?}");
    // A buffer that has room for an eighth more.
    let room = |all: f64| MemoryGrowth {
        live_bytes: Some(2.0 * MIB),
        halves: Some(halves(all * 0.4)),
        ..memory(all, None)
    };
    assert_eq!(of(&growth(2.8, 2.8), room(2.0)).live, rate(2.0));
    assert_eq!(
        of(&growth(2.8, 2.8), room(1.1)).live,
        rate(2.8),
        "the rest of it lies where memory was free"
    );
}

#[test]
fn that_all_memory_grows_by_more_is_told() {
    let is_said = |bytes: f64, later: f64, live: f64| {
        beside(&memory(bytes, Some(later)), rate(live)).is_some()
    };
    assert!(is_said(1.4, 0.7, 0.7));
    assert!(!is_said(1.4, 0.7, 1.3), "the same");
    assert!(!is_said(1.4, 0.0, 0.7), "it does not go on");
    assert!(!is_said(2.4, 1.8, 1.2), "a table was enlarged beside it");
    assert!(!is_said(0.9, 0.4, 0.4), "less than memory varies by");
}

#[test]
fn a_batch_that_is_built_up_in_free_memory_is_no_growth_yet() {
    let with = |passing: f64, memory_gained: f64| {
        let mut growth = growth(passing, passing);
        growth.passing_bytes = rate(passing);
        let grown = of(&growth, memory(memory_gained, Some(memory_gained / 2.0)));
        (grown.live, grown.rest, grown.unclear)
    };
    assert_eq!(with(64.0, 17.0), (0.0, 0.0, 17.0 * MIB));
    assert_eq!(with(16.0, 17.0).2, 0.0, "all memory shows it");
    assert_eq!(with(2.0, 17.0).2, 0.0, "most of it is something else");
}

#[test]
fn what_memory_gains_is_no_growth_yet_where_it_fell_by_as_much_meanwhile() {
    let with = |fell: f64, passing: f64| {
        let mut growth = growth(passing, passing);
        growth.passing_bytes = rate(passing);
        let memory = MemoryGrowth {
            fell_bytes: fell * MIB,
            ..memory(8.0, Some(4.0))
        };
        let grown = of(&growth, memory);
        (grown.live, grown.rest, grown.unclear)
    };
    assert_eq!(with(0.0, 0.0), (0.0, rate(8.0), 0.0));
    assert_eq!(with(20.0, 0.0), (0.0, 0.0, 8.0 * MIB));
    assert_eq!(with(1.0, 8.0), (rate(8.0), 0.0, 0.0), "it stays");
    assert_eq!(with(20.0, 8.0).0, 0.0, "work in hand at one look");
}
