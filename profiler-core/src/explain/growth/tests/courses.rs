//! What is said of containers whose items were counted between two looks, and of large blocks that are made anew.

use super::*;
use crate::addr::RemoteAddr;
use crate::allocator::Allocator;
use crate::memory::MemoryImage;
use crate::objects::{Amount, Course, LengthAt, Lengths, NativeGrowth, Rate, TypeRow};
use crate::size_class::SizeClass;

/// What is said of a process of which this name has these lengths at seven counts, and so many MiB at the first and the last.
fn said_of_course<const N: usize>(
    name: &str,
    lengths: [u64; N],
    [was, now]: [u64; 2],
    rss: [u64; 2],
) -> String {
    said_of_table(name, lengths, [was, now], rss, 0)
}

/// The same, where a table of it was enlarged by so many bytes meanwhile.
fn said_of_table<const N: usize>(
    name: &str,
    lengths: [u64; N],
    [was, now]: [u64; 2],
    rss: [u64; 2],
    enlarged: u64,
) -> String {
    let at = RemoteAddr::new(0x1000);
    let of = |taken_at_ns: u64, items: u64, mib: u64| {
        let mut census = census(taken_at_ns, 1000, MIB, mib * MIB);
        census.types.push(TypeRow {
            name: "dict".into(),
            objects: Amount {
                blocks: 1,
                bytes: MIB + u64::from(taken_at_ns > 0) * enlarged,
            },
            ..TypeRow::default()
        });
        // What else it has becomes more and less by as much as the name gains.
        census.live.bytes = 60 * MIB + mib * MIB;
        let holder = census.holders.pop().expect("a holder");
        census.holders.push(
            Holder {
                name: name.into(),
                object: Some(at),
                items,
                retained_blocks: items,
                length_at: Some(LengthAt {
                    at,
                    container: None,
                }),
                ..holder
            }
            .with_kinds(),
        );
        census
    };
    let second = 1_000_000_000;
    let before = of(0, lengths[0], was);
    let mut after = of(6 * second, lengths[N - 1], now);
    let mut counted = Lengths::of(&before);
    for (at_ns, length) in (0..)
        .map(|at| at * 6 * second / (N as u64 - 1))
        .zip(lengths)
    {
        let mut memory = MemoryImage::default();
        memory.insert(at, length.to_le_bytes().to_vec());
        counted.count(at_ns, &memory);
    }
    counted.give_courses(&mut after);
    let look = |at: u64, rss: u64| {
        let mut report = FragReport::from_sample(&crate::sample::Sample::default());
        report.taken_at_ns = at;
        report.kernel.rss_bytes = rss * MIB;
        report
    };
    let first = look(0, rss[0]);
    let report = look(6 * second, rss[1]).with_objects(after.into(), Some(before.into()));
    let report = report.since(&first);
    let points: Vec<Point> = (0..=6)
        .map(|at| Point {
            time_ns: at * second,
            rss_bytes: (rss[0] * (6 - at) + rss[1] * at) / 6 * MIB,
            ..Point::of(&first)
        })
        .collect();
    let report = report.with_history(Trend::of(&points), &points, ToCome::Nothing);
    answer(&report).expect("read twice")
}

#[test]
fn a_list_that_is_filled_and_emptied_in_turn_does_not_grow() {
    let lengths = [100, 8000, 15_000, 3000, 9000, 1000, 8000];
    let said = said_of_course("app.BATCH", lengths, [1, 4], [70, 70]);
    assert!(
        said.starts_with("Whether it grows cannot be told from ")
            && said.contains("`app.BATCH` (dict) becomes longer and shorter in turn, and had 3.0 MiB more at the second look. A longer look"),
        "{said}"
    );
    // A leak below such a swing may have less at the second look.
    let lengths = [8000, 100, 8000, 15_000, 3000, 9000, 1000];
    let said = said_of_course("app.BATCH", lengths, [4, 1], [70, 70]);
    assert!(
        said.starts_with("Whether it grows cannot be told from ")
            && said.contains("had 3.0 MiB less at the second look."),
        "{said}"
    );
    // Emptied at every second count, for long enough.
    let lengths = [
        10, 8000, 10, 8000, 10, 8000, 10, 8000, 10, 8000, 10, 8000, 8000,
    ];
    let said = said_of_course("app.BATCH", lengths, [1, 4], [70, 70]);
    assert!(said.starts_with("Not growing"), "{said}");
    assert!(
        said.contains("`app.BATCH` (dict) becomes longer and shorter in turn: that it had 3.0 MiB more at the second look is no growth."),
        "{said}"
    );
}

#[test]
fn a_variable_that_becomes_longer_all_the_time_grows_though_memory_does_not_show_it() {
    let steady = [1000, 2000, 3000, 4000, 5000, 6000, 7000];
    let said = said_of_course("app.fill(): seen", steady, [1, 4], [70, 70]);
    assert!(
        said.contains("`app.fill(): seen` (dict) gains 1000 `app.Session` a second: a leak, or work that has not ended"),
        "{said}"
    );
    let once = [1000, 1000, 1000, 1000, 1000, 7000, 7000];
    let said = said_of_course("app.fill(): seen", once, [1, 4], [70, 70]);
    assert!(!said.starts_with("Growing"), "{said}");
}

#[test]
fn a_leak_below_a_swing_has_the_rate_of_what_only_rises() {
    // 300 a second below a sawtooth of 1000 that turns five times.
    let lengths: [u64; 121] = std::array::from_fn(|nth| {
        let ms = nth as u64 * 50;
        8000 + 300 * ms / 1000 + ms % 1150 * 1000 / 1150
    });
    // Two looks met it at the bottom and at the top.
    let said = said_of_course("app.CACHE", lengths, [8, 11], [70, 73]);
    assert!(said.starts_with("Growing "), "{said}");
    assert!(
        said.contains("`app.CACHE` (dict) gains 3")
            && said.contains("`app.Session` a second below a swing of "),
        "{said}"
    );
    let rate = said
        .split("gains ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let rate: f64 = rate.expect("a rate").parse().expect("a number");
    assert!((rate - 300.0).abs() < 60.0, "{said}");
    // What was enlarged once does not hide it.
    let said = said_of_table("app.CACHE", lengths, [8, 9], [70, 70], MIB);
    assert!(said.contains("`app.CACHE` (dict) gains "), "{said}");
}

#[test]
fn what_is_stopped_is_not_said_not_to_grow() {
    for halted in crate::sample::Halted::ALL {
        let mut report = looked_at(0, [100, 2, 0], Some(100), [100, 2, 0]);
        report.target.halted = Some(halted);
        let said = answer(&report).expect("read twice");
        assert!(
            said.contains("none of its threads runs, so that whether it grows cannot be told"),
            "{said}"
        );
        assert!(!said.contains("Not growing"), "{said}");
    }
    let mut grown = looked_at(400_000, [18, 2, 0], Some(37), [57, 2, 0]);
    grown.target.halted = Some(crate::sample::Halted::Stopped);
    let said = answer(&grown).expect("read twice");
    assert!(said.starts_with("Growing"), "{said}");
}

#[test]
fn the_name_that_is_bound_to_a_new_object_each_time_is_named_where_its_blocks_have_no_owner() {
    use crate::objects::Binding;

    let bound = |name: &str, rebound| Binding {
        name: name.into(),
        type_name: "pandas.Series".into(),
        rebound,
        ..Binding::default()
    };
    let mut census = census(5_000_000_000, 1000, MIB, MIB);
    census.bindings = vec![bound("app.S", 20), bound("app.ONCE", 1)];
    let before = self::census(0, 1000, MIB, MIB);
    let mut growth = Growth::between(&before, &census).expect("time has passed");
    growth.live.bytes = 60e6;
    growth.native = vec![NativeGrowth {
        allocator: Allocator::Glibc,
        class: SizeClass::of(150 * MIB),
        rate: Rate {
            blocks: 0.4,
            bytes: 60e6,
        },
    }];
    let growing = Growing {
        live: 60e6,
        counts_passing: true,
        ..Growing::default()
    };
    let said = cause(&census, &growth, &growing);
    assert!(
        said.contains("each time larger, as that of `app.S` (pandas.Series), which is bound to a new one each time"),
        "{said}"
    );
    assert!(!said.contains("app.ONCE"), "{said}");
    // Nor is it the function's that has the next one in hand.
    let (of, holder) = gainer("pandas.concat(): res", 0, 20e6);
    census.holders = vec![holder];
    growth.holders = vec![HolderGrowth {
        is_same: false,
        ..of
    }];
    (growth.native, growth.typed.bytes) = (Vec::new(), 60e6);
    let said = cause(&census, &growth, &growing);
    assert!(
        said.starts_with("a few large blocks that are made anew, each time larger, as that of `app.S` (pandas.Series)"),
        "{said}"
    );
}

#[test]
fn a_name_that_came_while_another_was_emptied_is_not_said_not_to_grow() {
    let holder = |name: &str, items: u64| {
        let mut holder = census(0, items, 0, items * 64).holders.remove(0);
        holder.name = name.into();
        holder
    };
    let mut before = census(0, 30_000, MIB, 0);
    before.holders = vec![holder("app.OLD", 30_000)];
    let mut after = census(6_000_000_000, 20_000, MIB, 0);
    after.holders = vec![holder("app.LEAK", 20_000)];
    let growth = Growth::between(&before, &after).expect("time has passed");
    let report = FragReport::from_sample(&crate::sample::Sample::default());
    let said = still(
        &report,
        &after,
        &growth,
        &Growing::of(&growth, None, &after),
    );
    assert!(
        said.starts_with("Whether it grows cannot be told from 6.0 s: `app.LEAK` (dict) gains 3333 `app.Session` a second"),
        "{said}"
    );
}

#[test]
fn a_cache_that_is_being_emptied_is_said_to_shrink() {
    let falls = [7000, 6000, 5000, 4000, 3000, 2000, 1000];
    let said = said_of_course("app.CACHE", falls, [10, 4], [76, 76]);
    assert_eq!(
        said,
        "Shrinking 1.0 MiB/s in live blocks: `app.CACHE` (dict) loses 1000 `app.Session` a second. Memory as a whole has not \
         fallen with it: what is freed stays in the heaps as free memory."
    );
    let said = said_of_course("app.CACHE", falls, [10, 4], [82, 70]);
    assert!(
        said.starts_with("Shrinking 1.0 MiB/s: `app.CACHE` (dict) loses 1000 `app.Session` a second. Memory as a whole fell by 2.0 MiB/s."),
        "{said}"
    );
    let once = [7000, 7000, 7000, 7000, 7000, 1000, 1000];
    let said = said_of_course("app.CACHE", once, [10, 4], [76, 76]);
    assert!(said.starts_with("Not growing"), "{said}");
}

#[test]
fn counts_between_two_looks_say_nothing_of_a_longer_time() {
    let before = census(0, 1000, MIB, MIB);
    let mut after = census(10_000_000_000, 1000, MIB, 2 * MIB);
    after.holders[0].course = Some(Course::Rises);
    after.counted_since_ns = Some(5_000_000_000);
    let growth = Growth::between(&before, &after).expect("time has passed");
    assert_eq!(growth.holders[0].course, None);
    after.counted_since_ns = Some(0);
    let growth = Growth::between(&before, &after).expect("time has passed");
    assert!(growth.holders[0].course.is_some());
}

#[test]
fn a_stack_that_has_a_large_block_for_a_moment_does_not_hold_what_grows() {
    let census = Census {
        holders: vec![
            Holder {
                name: "(thread stacks)".into(),
                type_name: Some("numpy.ndarray".into()),
                ..Holder::default()
            }
            .with_kinds(),
        ],
        ..census(5_000_000_000, 1000, MIB, MIB)
    };
    let mut growth = Growth::between(&self::census(0, 1000, MIB, MIB), &census);
    let growth = growth.as_mut().expect("time has passed");
    let (of, _) = gainer("(thread stacks)", 0, 15e6);
    growth.holders = vec![HolderGrowth {
        has_more: false,
        ..of
    }];
    growth.live.bytes = 15e6;
    growth.typed.bytes = 15e6;
    let mut growing = Growing {
        live: 15e6,
        counts_passing: true,
        ..Growing::default()
    };
    let said = cause(&census, growth, &growing);
    assert!(!said.contains("(thread stacks)"), "{said}");
    // Nor do two large blocks that no object had any more say that nobody owns them.
    growth.typed.bytes = 0.0;
    growth.native = vec![NativeGrowth {
        allocator: Allocator::Glibc,
        class: SizeClass::of(150 * MIB),
        rate: Rate {
            blocks: 0.4,
            bytes: 60e6,
        },
    }];
    growing.live = 60e6;
    let said = cause(&census, growth, &growing);
    assert!(
        said.contains("made anew again and again") && !said.contains("that no Python object owns"),
        "{said}"
    );
}
