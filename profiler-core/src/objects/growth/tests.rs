use super::*;
use crate::addr::RemoteAddr;

fn row(name: &str, objects: u64, bytes: u64) -> TypeRow {
    TypeRow {
        name: name.into(),
        objects: Amount {
            blocks: objects,
            bytes,
        },
        ..TypeRow::default()
    }
}

fn holder(name: &str, shared_with: &[&str], retained_bytes: u64, items: u64) -> Holder {
    Holder {
        name: name.into(),
        shared_with: shared_with.iter().map(|&name| name.to_owned()).collect(),
        retained_bytes,
        item_type: Some("Order".into()),
        items,
        ..Holder::default()
    }
}

fn census(taken_at_ns: u64, live: u64) -> Census {
    Census {
        taken_at_ns,
        live: Amount {
            blocks: live / 64,
            bytes: live,
        },
        ..Census::default()
    }
}

#[test]
fn what_is_gained_is_given_by_the_second_and_the_most_first() {
    let mut earlier = census(1_000_000_000, 1 << 20);
    let mut later = census(5_000_000_000, 3 << 20);
    earlier.types = vec![row("dict", 10, 1000), row("gone", 4, 400)];
    later.types = vec![
        row("Order", 40, 4000),
        row("dict", 10, 1000),
        row("set", 1, 4),
    ];
    earlier.holders = vec![holder("b", &["a"], 100, 7), holder("c", &[], 900, 9)];
    later.holders = vec![holder("a", &["b"], 4100, 47), holder("d", &[], 40, 1)];
    let class = SizeClass::of(88);
    later.native = vec![NativeRow {
        allocator: Allocator::Glibc,
        class,
        native: Amount {
            blocks: 8,
            bytes: 704,
        },
    }];
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    assert!(growth.is_growing);
    assert_eq!(growth.live.bytes, (2u64 << 20) as f64 / 4.0);
    let types: Vec<_> = growth.types.iter().map(|of| of.name.as_str()).collect();
    assert_eq!(types, ["Order", "set", "gone"]);
    let order = growth.of_type("Order");
    assert_eq!((order.blocks, order.bytes), (10.0, 1000.0));
    assert_eq!(growth.of_type("gone").bytes, -100.0);
    assert_eq!(growth.of_type("dict"), Rate::default());
    assert_eq!(growth.of_native(Allocator::Glibc, class).blocks, 2.0);
    let shared = growth.of_holder(0).expect("it grew");
    assert_eq!((shared.bytes, shared.items), (1000.0, Some(10.0)));
    let new = growth.of_holder(1).expect("it is new");
    assert_eq!((new.bytes, new.items), (10.0, Some(0.25)));
}

#[test]
fn what_was_not_among_the_largest_grew_by_what_it_must_have() {
    let mut earlier = census(0, 0);
    let mut later = census(1_000_000_000, 0);
    earlier.holders = (0..SHOWN)
        .map(|nth| holder(&nth.to_string(), &[], 500, 1))
        .collect();
    later.holders = vec![holder("new", &[], 800, 1), holder("small", &[], 300, 1)];
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    assert_eq!(growth.of_holder(0).map(|of| of.bytes), Some(300.0));
    assert_eq!(growth.of_holder(1), None);
}

#[test]
fn what_a_new_holder_maps_is_no_growth_of_blocks_and_unknown_is_not_nothing() {
    let mapped = |name: &str, retained, mapped| Holder {
        mapped_bytes: mapped,
        ..holder(name, &[], retained, 1)
    };
    let mut earlier = census(0, 0);
    let mut later = census(1_000_000_000, 0);
    earlier.holders = vec![mapped("LEAK", 500, Some(0)), mapped("SHM", 100, Some(4096))];
    later.holders = vec![
        mapped("NEW", 100, Some(64 << 20)),
        mapped("LEAK", 900, Some(0)),
        mapped("SHM", 100, Some(12_288)),
    ];
    let gains = |earlier: &Census| {
        let growth = Growth::between(earlier, &later).expect("time has passed");
        let of = |at| growth.of_holder(at).map(|of| (of.bytes, of.mapped_bytes));
        [of(0), of(1), of(2)]
    };
    assert_eq!(
        gains(&earlier),
        [
            Some((100.0, Some(f64::from(64 << 20)))),
            Some((400.0, Some(0.0))),
            Some((0.0, Some(8192.0))),
        ]
    );
    // For older files it is unknown what was mapped.
    for holder in &mut earlier.holders {
        holder.mapped_bytes = None;
    }
    assert_eq!(
        gains(&earlier),
        [Some((100.0, None)), Some((400.0, None)), None]
    );
}

fn branch(object: u64, retained_bytes: u64, items: u64) -> Branch {
    Branch {
        object: RemoteAddr::new(object),
        retained_bytes,
        path: vec![PathStep {
            type_name: "list".into(),
            ..PathStep::default()
        }],
        item_type: Some("Event".into()),
        items,
        length_at: None,
        course: None,
        pace: None,
    }
}

#[test]
fn where_a_holder_grows_is_found_beside_what_is_largest() {
    let mut earlier = census(0, 0);
    let mut later = census(2_000_000_000, 0);
    let holders = |retained, branches| {
        let mut app = holder("app", &[], retained, 7);
        app.branches = branches;
        vec![app]
    };
    let [idle, small] = [branch(0x10, 30_000, 3), branch(0x20, 20_000, 100)];
    earlier.holders = holders(900_000, vec![idle.clone(), small.clone()]);
    let grown = branch(0x20, 60_000, 300);
    later.holders = holders(940_000, vec![grown.clone(), idle.clone()]);
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    let found = growth.branch_of(0, &later.holders[0]);
    assert_eq!(found, Some(&grown));
    assert_eq!(growth.of_holder(0).and_then(|of| of.items), Some(100.0));
    // A new one has gained all that it has; one with more than the holder gained was somewhere below it before.
    earlier.holders = holders(900_000, vec![idle.clone()]);
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    assert_eq!(growth.branch_of(0, &later.holders[0]), None);
    earlier.holders = holders(880_000, vec![idle.clone()]);
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    assert_eq!(growth.branch_of(0, &later.holders[0]), Some(&grown));
    // If the largest gains more, the growth is there.
    earlier.holders = holders(700_000, vec![idle, small]);
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    assert_eq!(growth.branch_of(0, &later.holders[0]), None);
}

/// A row of dictionary tables: `storage` bytes with `entries` entries.
fn tables(storage: u64, entries: u64) -> TypeRow {
    let mut row = row("dict", 10, 640);
    row.storage = Amount {
        blocks: 10,
        bytes: storage,
    };
    row.entries = entries;
    row
}

#[test]
fn a_table_that_was_enlarged_once_is_a_step_and_no_growth() {
    let mut earlier = census(0, 10 << 20);
    let mut later = census(2_000_000_000, 15 << 20);
    earlier.types = vec![tables(5 << 20, 87_381)];
    later.types = vec![tables(10 << 20, 87_385)];
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    assert!(!growth.is_growing, "{growth:?}");
    let step = growth.notable_step().expect("a step");
    assert_eq!(step.type_name.as_deref(), Some("dict"));
    assert!(
        (step.bytes - (5u64 << 20) as f64).abs() < 4096.0,
        "{step:?}"
    );
    // The same bytes for as many more entries are growth.
    later.types = vec![tables(10 << 20, 2 * 87_381)];
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    assert!(growth.is_growing, "{growth:?}");
    assert_eq!(growth.notable_step(), None);
    assert_eq!(growth.steady_bytes, growth.live.bytes);
}

#[test]
fn one_native_block_more_is_a_step_and_many_are_growth() {
    let class = SizeClass::of(1 << 20);
    let native = |blocks: u64| NativeRow {
        allocator: Allocator::Glibc,
        class,
        native: Amount {
            blocks,
            bytes: blocks << 20,
        },
    };
    let mut earlier = census(0, 1 << 20);
    earlier.native = vec![native(1)];
    for (blocks, grows) in [(2, false), (9, true)] {
        let mut later = census(1_000_000_000, blocks << 20);
        later.native = vec![native(blocks)];
        let growth = Growth::between(&earlier, &later).expect("time has passed");
        assert_eq!(growth.is_growing, grows, "{growth:?}");
        assert_eq!(growth.notable_step().is_some(), !grows);
    }
}

#[test]
fn who_grows_is_reported_beyond_the_largest() {
    let mut earlier = census(0, 0);
    let mut later = census(1_000_000_000, 0);
    let all = |grown: u64| {
        let static_ones = (0..150).map(|nth| holder(&format!("S{nth}"), &[], 900_000, 1));
        static_ones.chain([holder("app", &[], grown, 1)]).collect()
    };
    earlier.holders = all(100_000);
    later.holders = all(400_000);
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    let shown = later.shown(Some(&growth));
    assert_eq!(shown.len(), SHOWN + 1);
    assert_eq!(shown.last().map(|(_, of)| of.name.as_str()), Some("app"));
    assert_eq!(later.shown(None).len(), SHOWN);
    let rate = growth.of_holder(150).map(|of| of.bytes);
    assert_eq!(rate, Some(300_000.0));
}

#[test]
fn what_gains_a_little_is_sorted_by_its_size() {
    let growth = Growth::between(&census(0, 0), &census(1_000_000_000, 0)).expect("time");
    assert_eq!((growth.rank(-5e6), growth.rank(100.0)), (0, 0));
    assert!(growth.rank(2e6) > growth.rank(1e6));
}

#[test]
fn a_little_is_no_growth_and_no_time_gives_none() {
    let (earlier, later) = (
        census(5, 1 << 30),
        census(2_000_000_005, (1 << 30) + 70_000),
    );
    let growth = Growth::between(&earlier, &later).expect("time has passed");
    assert!(!growth.is_growing);
    assert_eq!(Growth::between(&later, &earlier), None);
    assert_eq!(Growth::between(&later, &later), None);
}
