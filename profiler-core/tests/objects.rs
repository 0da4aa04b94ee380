//! Python's objects on a made-up image: who holds what, and any damage to it.

use profiler_core::objects::{Census, Holder, LayoutBasis, NoCensus, TypeRow};
use profiler_testing::image::Damage;
use profiler_testing::images::objects::{ITEMS, LIST_BYTES, Objects, assert_adds_up, sound};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn of_type<'c>(census: &'c Census, name: &str) -> &'c TypeRow {
    let row = census.types.iter().find(|row| row.name == name);
    row.unwrap_or_else(|| panic!("no {name} in {:#?}", census.types))
}

fn holder<'c>(census: &'c Census, name: &str) -> Option<&'c Holder> {
    census.holders.iter().find(|holder| holder.name == name)
}

#[test]
fn every_block_is_named_and_held_by_whom_it_is() {
    let objects = sound();
    let census = objects.census().expect("a census");
    assert_adds_up(&census);
    assert_eq!(census.layout, LayoutBasis::Exact);
    assert_eq!(of_type(&census, "float").objects.blocks, 4 * ITEMS + 1);
    let lists = of_type(&census, "list");
    assert_eq!((lists.objects.blocks, lists.tracked), (4, 4));
    assert_eq!(lists.storage.bytes, 4 * (ITEMS + 100) * 8);
    let order = of_type(&census, "app.Order");
    assert_eq!((order.objects.bytes, order.storage.bytes), (48, 272));
    // The name of the class is reached from it.
    assert_eq!(of_type(&census, "type").storage.blocks, 1);
    assert_eq!(census.native, [], "{:#?}", census.native);

    let alone = holder(&census, "app.ALONE").expect("it holds");
    assert_eq!(alone.retained_bytes, LIST_BYTES);
    assert_eq!((&*alone.shared_with, alone.length), (&[][..], Some(ITEMS)));
    assert_eq!(alone.type_name.as_deref(), Some("list"));
    assert_eq!(alone.item_type.as_deref(), Some("float"));
    let both = holder(&census, "app.BOTH").expect("it holds");
    assert_eq!(both.shared_with, ["app.ALSO"]);
    assert_eq!(both.retained_bytes, LIST_BYTES);
    let cache = holder(&census, "app.Order.CACHE").expect("it holds");
    assert_eq!(cache.retained_bytes, LIST_BYTES);
    let one = holder(&census, "app.ONE").expect("it holds");
    assert_eq!(one.retained_bytes, 48 + 272 + 32);
    assert_eq!(one.type_name.as_deref(), Some("app.Order"));
    // A weak reference holds nothing, and neither does one to an empty place.
    let watch = holder(&census, "app.WATCH").expect("the reference itself");
    assert_eq!(watch.retained_bytes, 80);
    assert_eq!(census.unreached.bytes, LIST_BYTES);
}

#[test]
fn without_types_or_blocks_it_says_so() {
    let mut objects = sound();
    objects.heaps.clear();
    assert_eq!(objects.census(), Err(NoCensus::NoBlocks));
    let mut objects = sound();
    objects.image.put(0x40_0100 + 8, 0);
    assert_eq!(objects.census(), Err(NoCensus::NoTypes));
}

#[test]
fn a_version_that_is_newer_than_those_known_is_said() {
    let known = sound().census_as((3, 15)).expect("a census");
    assert_eq!((known.layout, known.gaps.len()), (LayoutBasis::Exact, 0));
    let newer = sound().census_as((3, 16)).expect("a census");
    assert_eq!(newer.layout, LayoutBasis::Newest);
    let gap = newer.gaps.first().expect("it is said");
    assert!(gap.starts_with("CPython 3.16 is newer"), "{gap}");
    let unknown = sound().census_as((3, 5));
    assert_eq!(unknown, Err(NoCensus::UnknownVersion(3, 5)));
}

/// The address of the first dictionary's table: the class's, behind the lists and three names.
fn first_table(objects: &Objects) -> u64 {
    let start = profiler_testing::images::objects::HEAP + 4 * LIST_BYTES;
    let tables = (start..).step_by(16);
    let mut tables = tables.filter(|&at| {
        objects.image.get(at) == 1 && objects.image.get(at + 8) & 0xff_ffff == 0x01_0303
    });
    tables.next().expect("a table")
}

#[test]
fn a_table_that_claims_a_billion_entries_is_read_to_no_end() {
    for head in [0x01_1e_1e_u64, 0x00_27_2b, 0x01_03_03] {
        let mut objects = sound();
        let table = first_table(&objects);
        objects.image.put(table + 8, head);
        objects.image.put(table + 24, 1 << 30);
        let census = objects.census().expect("a census");
        assert_adds_up(&census);
    }
}

#[test]
fn a_name_without_an_end_or_with_control_characters_names_no_type() {
    for name in [&[b'x'; 0x200][..], b"a\x1b[2J\0", b"\0", b"\xff\xfe\0"] {
        let mut objects = sound();
        // The name of `float`.
        objects.image.bytes_mut(0x40_3000 + 6 * 0x40)[..name.len()].copy_from_slice(name);
        let census = objects.census().expect("a census");
        assert_adds_up(&census);
        assert!(census.types.iter().all(|row| row.name != "float"));
        assert!(census.types.iter().all(|row| row.name.len() <= 600));
    }
}

#[test]
fn a_class_with_control_characters_in_its_name_is_a_type_and_shown_escaped() {
    let mut objects = sound();
    let census = objects.census().expect("a census");
    let class = of_type(&census, "app.Order").objects;
    // Its name is the only text of these bytes in the heap that ends a block.
    let heap = profiler_testing::images::objects::HEAP + 4 * LIST_BYTES;
    let mut places = (heap..heap + 0x4000).step_by(16);
    let name = places.find(|&at| objects.image.get(at) == u64::from_le_bytes(*b"Order\0\0\0"));
    let name = name.expect("the name of the class");
    objects.image.bytes_mut(name)[..7].copy_from_slice(b"\x1b[31mX\0");
    let census = objects.census().expect("a census");
    assert_eq!(of_type(&census, "app.\\x1b[31mX").objects, class);
}

#[test]
fn damage_never_panics_always_ends_and_adds_up() {
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(500)
    };
    let objects = sound();
    let damage = (any::<u32>(), any::<u8>(), any::<u64>())
        .prop_map(|(place, kind, value)| Damage { place, kind, value });
    let kept = TestRunner::new(config).run(&vec(damage, 1..24), |damage| {
        objects.assert_survives(damage);
        Ok(())
    });
    kept.unwrap_or_else(|failure| panic!("{failure}"));
}
