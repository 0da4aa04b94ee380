//! Sentences about growth.

mod courses;

use super::cause::{cause, of_one_name};
use super::other_memory::mapper;
use super::steady::{added, held};
use super::*;
use crate::objects::{Amount, Census, Growth, GrowthStep, Holder, HolderGrowth, TypeRow};
use crate::report::ToCome;
use crate::tables::LedgerClass;
use crate::trend::{Grows, Point, RssGrowth, Trend};

const MIB: u64 = 1 << 20;

/// A program that accumulates sessions in a dictionary: `sessions` of them, the bytes of the
/// dictionary's table, and the bytes the dictionary retains.
fn census(taken_at_ns: u64, sessions: u64, table: u64, retained_bytes: u64) -> Census {
    let amount = |blocks: u64, bytes: u64| Amount { blocks, bytes };
    let row = |name: &str, objects: Amount, storage: Amount| TypeRow {
        name: name.into(),
        objects,
        storage,
        entries: storage.bytes / 30,
        ..TypeRow::default()
    };
    let objects = amount(sessions, sessions * 64);
    Census {
        taken_at_ns,
        live: amount(sessions + 601, objects.bytes + table),
        types: vec![
            row("dict", amount(600, 38_400), amount(600, table)),
            row("app.Session", objects, Amount::default()),
        ],
        holders: vec![Holder {
            name: "app.SESSIONS".into(),
            is_name: true,
            type_name: Some("dict".into()),
            retained_bytes,
            retained_blocks: sessions,
            item_type: Some("app.Session".into()),
            items: sessions,
            ..Holder::default()
        }],
        ..Census::default()
    }
}

#[test]
fn growth_lately_is_said_before_objects_were_read_twice() {
    let mut report = FragReport::from_sample(&crate::sample::Sample::default());
    assert_eq!(answer(&report), None);
    report.target.python = Some("CPython 3.11".into());
    let mut said = |live: Option<u64>, census: bool| {
        report.objects = census.then(Default::default);
        report.to_come = ToCome::Objects;
        report.trend = Some(Trend {
            rss: RssGrowth {
                elapsed_ns: 2_000_000_000,
                bytes_per_second: (20 * MIB) as f64,
                is_growing: true,
            },
            live_bytes_per_second: live.map(|live| live as f64),
            grows: Some(match live {
                None => Grows::NotKnown,
                Some(live) if live > MIB => Grows::InUse,
                Some(_) => Grows::Elsewhere,
            }),
        });
        answer(&report).expect("it grows")
    };
    let grows = said(Some(19 * MIB), false);
    let in_use = "Growing 20.0 MiB/s: memory in use grows; what holds it will be known once";
    assert!(
        grows.starts_with(in_use) && grows.ends_with("read twice."),
        "{grows}"
    );
    assert!(said(Some(19 * MIB), true).ends_with("read again."));
    assert!(said(Some(0), false).contains("account for 0 B/s of that; the rest is free memory"));
    assert!(said(None, false).ends_with("after the next walk."));
    report.to_come = ToCome::Nothing;
    assert!(answer(&report).is_some_and(|said| said.contains("One walk cannot show")));
    report.trend.as_mut().expect("it has grown").grows = Some(Grows::InUse);
    let said = answer(&report).expect("it grows");
    assert!(
        said.contains("because its objects were not read twice"),
        "{said}"
    );
    report.to_come = ToCome::Walks;
    assert_eq!(answer(&report), Some(said), "no objects will be read");
}

/// Two walks of a process, ten seconds apart, between which live blocks gained `sessions` sessions.
/// `earlier` and `later` are RSS, shared memory and swap in MiB, `middle` is RSS between the walks.
fn looked_at(sessions: u64, earlier: [u64; 3], middle: Option<u64>, later: [u64; 3]) -> FragReport {
    let of = |at: u64, [rss, shared, swap]: [u64; 3]| {
        let mut report = FragReport::from_sample(&crate::sample::Sample::default());
        report.taken_at_ns = at;
        report.kernel.rss_bytes = rss * MIB;
        report.kernel.swap_bytes = swap * MIB;
        report.ledger.iter_mut().for_each(|row| {
            if row.class == LedgerClass::SharedMemory {
                row.resident_bytes = shared * MIB;
            }
        });
        report.target.python = Some("CPython 3.11".into());
        report
    };
    let end = 10_000_000_000;
    let before = census(0, 1000, MIB, MIB);
    let now = census(end, 1000 + sessions, MIB, MIB + sessions * 64);
    let earlier = of(0, earlier);
    let report = of(end, later).with_objects(now.into(), Some(before.into()));
    let report = report.since(&earlier);
    let middle = middle.map(|rss| Point {
        time_ns: end / 2,
        rss_bytes: rss * MIB,
        ..Point::of(&earlier)
    });
    let points: Vec<Point> = [Point::of(&earlier)]
        .into_iter()
        .chain(middle)
        .chain([Point::of(&report)])
        .collect();
    report.with_history(Trend::of(&points), &points, ToCome::Nothing)
}

#[test]
fn growth_outside_of_live_blocks_is_said_by_its_class() {
    let said = |sessions, earlier, middle, later| {
        answer(&looked_at(sessions, earlier, middle, later)).expect("read twice")
    };
    assert_eq!(
        said(0, [18, 2, 0], Some(37), [57, 40, 0]),
        "Growing 3.9 MiB/s: shared memory grows by 3.8 MiB/s."
    );
    // The holder of the objects that contain it is not named for its own few bytes.
    assert_eq!(
        said(2000, [18, 2, 0], Some(37), [57, 40, 0]),
        "Growing 3.9 MiB/s: shared memory grows by 3.8 MiB/s."
    );
    assert_eq!(
        said(0, [18, 2, 0], None, [57, 40, 0]),
        "Memory grew by 39.0 MiB in 10.0 s (3.9 MiB/s): shared memory took 38.0 MiB of it. Two looks cannot show whether that goes on: \
         `fragscope explain` over a longer time can."
    );
    let once = said(0, [18, 2, 0], Some(57), [57, 40, 0]);
    assert!(
        once.ends_with(" Its memory grew by 39.0 MiB once and has not grown since."),
        "{once}"
    );
    let still = said(0, [100, 2, 0], Some(100), [100, 2, 0]);
    assert!(
        still.starts_with("Not growing") && !still.contains("has not grown since"),
        "{still}"
    );
}

#[test]
fn live_blocks_and_memory_are_never_said_to_grow_and_not_to_grow() {
    for sessions in [0, 2000, 80_000, 400_000] {
        for middle in [None, Some(100), Some(104), Some(110)] {
            for rss in [80, 100, 107, 110, 140] {
                let report = looked_at(sessions, [100, 2, 0], middle, [rss, 2, 0]);
                let said = answer(&report).expect("read twice");
                let (grows, not) = (said.contains("Growing"), said.contains("Not growing"));
                let once = said.contains("Memory grew by") || said.contains("memory grew by");
                assert!(grows != not || (once && !not), "{said}");
                assert!(!(grows && said.contains("has not grown since")), "{said}");
            }
        }
    }
    let reused = answer(&looked_at(80_000, [100, 2, 0], Some(100), [100, 2, 0]));
    let reused = reused.expect("read twice");
    assert!(
        reused.starts_with(
            "Growing 500.0 KiB/s: `app.SESSIONS` (dict) gains 8000 `app.Session` a second"
        ) && reused.contains("RSS does not grow with it"),
        "{reused}"
    );
}

#[test]
fn what_comes_back_from_swap_is_no_growth() {
    for sessions in [0, 400_000] {
        let said = answer(&looked_at(sessions, [18, 2, 40], Some(37), [57, 2, 1]));
        let said = said.expect("read twice");
        assert!(said.starts_with("Not growing"), "{said}");
        assert!(
            said.ends_with(" 39.0 MiB came back from swap meanwhile, which is no growth."),
            "{said}"
        );
    }
}

/// A name whose `mmap` object maps `mapped_bytes`.
fn mapping(mapped_bytes: u64) -> Holder {
    Holder {
        name: "app.SHM".into(),
        is_name: true,
        type_name: Some("mmap.mmap".into()),
        retained_bytes: 104,
        retained_blocks: 1,
        mapped_bytes: Some(mapped_bytes),
        ..Holder::default()
    }
}

#[test]
fn a_new_mapping_is_no_leak_and_the_leak_is_named() {
    let mut earlier = census(0, 100_000, 5 * MIB, 12 * MIB);
    let mut later = census(2_000_000_000, 170_000, 5 * MIB, 12 * MIB + 70_000 * 64);
    for census in [&mut earlier, &mut later] {
        census.holders[0].mapped_bytes = Some(0);
    }
    later.holders.insert(0, mapping(64 * MIB));
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    let cause = cause(&later, &growth, &Growing::of(&growth, None, &later));
    assert!(
        cause.starts_with("`app.SESSIONS` (dict) gains 35.0k `app.Session` a second: a leak"),
        "{cause}"
    );
    let of_mapping = mapper(&later, &growth, 33.0 * MIB as f64);
    assert_eq!(
        of_mapping,
        ", of which mmap objects that `app.SHM` (mmap.mmap) holds map 32.0 MiB/s"
    );
}

#[test]
fn who_holds_most_of_the_heap_is_not_who_maps_most() {
    let mut census = census(0, 100_000, 5 * MIB, 12 * MIB);
    census.holders.insert(0, mapping(30 * MIB));
    assert_eq!(
        held(&census),
        ": `app.SESSIONS` (dict) holds most, 12.0 MiB"
    );
}

#[test]
fn who_gains_the_objects_is_named_though_its_table_moved_between_walk_and_reading() {
    let earlier = census(0, 100_000, 5 * MIB, 12 * MIB);
    // The new table was not among the walk's blocks: its bytes are missing from what the name
    // holds.
    let later = census(2_000_000_000, 170_000, 12 * MIB, 12 * MIB + 1000);
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    assert_eq!(growth.types[0].name, "dict", "the table gained most");
    let cause = cause(&later, &growth, &Growing::of(&growth, None, &later));
    let named = "`app.SESSIONS` (dict) gains 35.0k `app.Session` a second: a leak";
    assert!(cause.starts_with(named), "{cause}");
}

/// Two censuses between which 70,000 objects came that no name holds.
fn grown_without_holders() -> (Census, Census) {
    let mut both = [
        census(0, 100_000, 5 * MIB, 12 * MIB),
        census(2_000_000_000, 170_000, 12 * MIB, 12 * MIB),
    ];
    both.iter_mut().for_each(|census| census.holders.clear());
    both.into()
}

#[test]
fn what_nobody_holds_is_cycles_only_where_it_is_many_blocks() {
    let (earlier, mut later) = grown_without_holders();
    let gained = later.live.bytes - earlier.live.bytes;
    let mut said = |blocks, exact| {
        later.unreached = Amount {
            blocks,
            bytes: gained,
        };
        later.exact = exact;
        let growth = Growth::between(&earlier, &later).expect("time has passed");
        cause(&later, &growth, &Growing::of(&growth, None, &later))
    };
    assert!(said(70_000, false).contains("reached from no name: cycles"));
    assert!(said(1, false).starts_with("a few large blocks that are made anew"));
    assert!(said(1, true).contains("reached from no name"));
}

#[test]
fn reference_counts_decide_whether_nobody_or_something_unseen_holds_it() {
    let (earlier, mut later) = grown_without_holders();
    later.unreached = Amount {
        blocks: 70_000,
        bytes: later.live.bytes - earlier.live.bytes,
    };
    let of = |cycles, held_unseen, exact| {
        let mut later = later.clone();
        let part = |share: u64| Amount {
            blocks: later.unreached.blocks * share / 10,
            bytes: later.unreached.bytes * share / 10,
        };
        (later.cycles, later.held_unseen) = (part(cycles), part(held_unseen));
        later.exact = exact;
        let growth = Growth::between(&earlier, &later).expect("time has passed");
        cause(&later, &growth, &Growing::of(&growth, None, &later))
    };
    let cycles = of(9, 0, false);
    assert!(
        cycles.contains("cycles, in which objects refer to one another"),
        "{cycles}"
    );
    assert!(!cycles.contains("native code"), "{cycles}");
    let held = of(0, 9, true);
    assert!(
        held.contains("native code keeps them, or has forgotten"),
        "{held}"
    );
    assert!(
        !held.contains("cycles") && !held.contains("made anew"),
        "{held}"
    );
    assert!(of(0, 9, false).contains("or an object that was made anew"));
    let either = of(5, 5, false);
    assert!(
        either.contains("cycles") && either.contains("native code"),
        "{either}"
    );
}

#[test]
fn objects_that_no_name_gains_are_named_by_their_type_behind_a_table_that_gained_more() {
    let (earlier, later) = grown_without_holders();
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    let cause = cause(&later, &growth, &Growing::of(&growth, None, &later));
    assert!(
        cause.starts_with("35.0k more `app.Session` a second"),
        "{cause}"
    );
}

#[test]
fn variables_of_many_threads_are_named_together() {
    let holder = Holder {
        name: "app.worker(): rows".into(),
        is_name: true,
        type_name: Some("list".into()),
        ..Holder::default()
    };
    let other = Holder {
        name: "app.CACHE".into(),
        is_name: true,
        ..Holder::default()
    };
    let of = |holder, bytes| HolderGrowth {
        is_passing: false,
        is_same: true,
        course: None,
        pace: None,
        swing_bytes: 0.0,
        mapped_bytes: None,
        holder,
        bytes,
        has_more: true,
        branch: None,
        at_largest: None,
        items: None,
    };
    let growths: Vec<HolderGrowth> = (0..40).map(|at| of(at, 16.0 * 1024.0)).collect();
    let little = of(40, 30.0 * 1024.0);
    let mut grown: Vec<_> = growths.iter().map(|growth| (growth, &holder)).collect();
    grown.push((&little, &other));
    let live = 700.0 * 1024.0;
    assert_eq!(
        of_one_name(&grown, live).as_deref(),
        Some(
            "`app.worker(): rows` (list), in 40 threads or objects, gains 640.0 KiB a second: more of these, or \
             more in each"
        )
    );
    assert_eq!(
        of_one_name(&grown[40..], live),
        None,
        "one alone is said elsewhere"
    );
    let nested = 300.0 * 1024.0;
    let said = of_one_name(&grown, nested).expect("most of it");
    assert!(said.contains("gains 300.0 KiB"), "no more than all: {said}");
}

/// A name that gains `bytes` per second.
fn gainer(name: &str, at: usize, bytes: f64) -> (HolderGrowth, Holder) {
    let holder = Holder {
        name: name.into(),
        is_name: true,
        type_name: Some("dict".into()),
        inner_bytes: Some(0),
        ..Holder::default()
    };
    let of = HolderGrowth {
        is_passing: name.contains("(): "),
        is_same: true,
        course: None,
        pace: None,
        swing_bytes: 0.0,
        mapped_bytes: None,
        holder: at,
        bytes,
        has_more: true,
        branch: None,
        at_largest: None,
        items: None,
    };
    (of, holder)
}

/// The sentence for a process in which these names gain bytes per second, out of this total.
fn caused(gainers: &[(&str, f64)], live: f64, has_more_threads: bool) -> String {
    let (mut earlier, mut later) = (census(0, 1000, MIB, MIB), census(0, 1000, MIB, MIB));
    earlier.taken_at_ns = 0;
    later.taken_at_ns = 5_000_000_000;
    let mut growth = Growth::between(&earlier, &later).expect("time has passed");
    later.holders.clear();
    growth.holders.clear();
    for (at, (name, bytes)) in gainers.iter().enumerate() {
        let (of, holder) = gainer(name, at, *bytes);
        growth.holders.push(of);
        later.holders.push(holder);
    }
    growth.live.bytes = live;
    growth.typed.bytes = live;
    let growing = Growing {
        live,
        counts_passing: true,
        has_more_threads,
        ..Growing::default()
    };
    cause(&later, &growth, &growing)
}

#[test]
fn the_second_leak_is_named_beside_the_first() {
    let two = caused(&[("app.B", 300e3), ("app.A", 200e3)], 500e3, false);
    assert!(
        two.starts_with("`app.B` (dict) gains 293.0 KiB a second, and `app.A` (dict) gains 195.3 KiB a second: a leak"),
        "{two}"
    );
    for (first, second, live) in [(450e3, 50e3, 500e3), (500e3, 480e3, 500e3)] {
        let one = caused(&[("app.B", first), ("app.A", second)], live, false);
        assert!(
            !one.contains("app.A"),
            "too little, or the same bytes: {one}"
        );
    }
}

#[test]
fn no_name_gains_more_than_everything() {
    let said = caused(&[("app.REPORT", 2e6)], 472.0 * 1024.0, false);
    assert!(
        said.starts_with("`app.REPORT` (dict) gains 472.0 KiB a second"),
        "{said}"
    );
}

#[test]
fn threads_that_pile_up_are_said_with_what_most_of_them_have() {
    let each = [
        ("app.serve(): doc", 4e3),
        ("app.serve(): doc", 4e3),
        ("app.run(): all", 3e3),
    ];
    assert_eq!(
        caused(&each, 100e3, true),
        "threads become more, and with them what their functions have in hand, among them `app.serve(): doc` (dict)"
    );
    let leak = caused(&[("app.LEAK", 90e3), each[0], each[1]], 100e3, true);
    assert!(leak.starts_with("`app.LEAK` (dict) gains"), "{leak}");
}

#[test]
fn one_large_object_more_is_not_called_an_enlarged_table() {
    let said = |item: &str, items: f64| {
        let census = census(5_000_000_000, 1000, MIB, MIB);
        let mut growth = Growth::between(&self::census(0, 1000, MIB, MIB), &census);
        let growth = growth.as_mut().expect("time has passed");
        let (of, holder) = gainer("app.KEEP", 0, 3e6 / 5.0);
        let holder = Holder {
            item_type: Some(item.into()),
            ..holder
        };
        growth.holders = vec![HolderGrowth {
            has_more: false,
            at_largest: Some(items / 5.0),
            ..of
        }];
        growth.steps = vec![GrowthStep {
            type_name: Some("bytes".into()),
            bytes: 3e6,
        }];
        let census = Census {
            holders: vec![holder],
            ..census
        };
        let with_step = added(&census, growth, 0.0);
        growth.steps.clear();
        assert_eq!(added(&census, growth, 0.0), None, "nothing gained");
        let once = added(&census, growth, 3e6);
        assert_eq!(once.is_some(), items > 0.0, "{once:?}");
        with_step
    };
    let added = said("bytes", 1.0).expect("one more");
    assert!(
        added.contains("`app.KEEP` (dict) has 1 more `bytes`, of 2.9 MiB in all"),
        "{added}"
    );
    assert_eq!(said("bytes", 0.0), None, "it became larger");
    assert_eq!(said("app.Session", 1.0), None, "its table became larger");
}

#[test]
fn modules_made_while_it_runs_are_said_to_be() {
    let mut earlier = census(0, 1000, MIB, MIB);
    earlier.holders.clear();
    let mut later = earlier.clone();
    later.taken_at_ns = 5_000_000_000;
    let of = |name: &str, blocks: u64, bytes: u64| TypeRow {
        name: name.into(),
        objects: Amount { blocks, bytes },
        ..TypeRow::default()
    };
    later
        .types
        .extend([of("module", 100, 7_200), of("function", 3000, 500_000)]);
    later.live.bytes += 507_200;
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    let said = cause(&later, &growth, &Growing::of(&growth, None, &later));
    assert!(
        said.starts_with("20 more `module` a second") && said.contains("`sys.modules` has"),
        "{said}"
    );
}
