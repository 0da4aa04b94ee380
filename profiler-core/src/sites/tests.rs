//! Sums of samples, the rows made of them, and what a walk adds.

use profiler_common::sampling::is_sampled;

use super::*;
use crate::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use crate::allocator::Allocator;
use crate::glibc::CHUNK_HEADER;
use crate::heap::{Extent, ExtentKind, HeapSnapshot};
use crate::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use crate::sample::Sample;
use crate::span::SpanState;

fn frame(function: &str, line: u32) -> Frame {
    Frame {
        language: Language::Python,
        function: function.into(),
        file: "/srv/app/jobs/a.py".into(),
        line: Some(line),
    }
}

/// An allocation that is certain to be sampled, so that the estimates are exact.
fn certain(block: u64, bytes: u64) -> Allocation {
    Allocation {
        block: RemoteAddr::new(block),
        bytes,
        is_usable_size: true,
        mean_bytes: 1,
        at_ns: 0,
    }
}

/// Repeatable numbers that are equally distributed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) >> 32) as u32
    }
}

/// Three sites with sizes from far below to far above the mean, sampled many times over: the
/// estimates are right on average, and their errors are as large as they say.
#[test]
fn estimates_are_unbiased_and_their_errors_are_what_they_say() {
    const RUNS: u32 = 400;
    let sites: [(&str, u32, u32); 3] = [
        ("small", 24, 40_000),
        ("middle", 3000, 700),
        ("large", 40_000, 100),
    ];
    let mut random = Random(7);
    for (name, size, calls) in sites {
        let truth = f64::from(size * calls);
        let (mut sum, mut squares, mut within) = (0.0, 0.0, 0);
        for _ in 0..RUNS {
            let mut table = SiteTable::default();
            for call in 0..calls {
                if is_sampled(random.next(), u64::from(size), 16 << 10) {
                    let allocation = Allocation {
                        mean_bytes: 16 << 10,
                        ..certain(u64::from(call) + 1, u64::from(size))
                    };
                    table.sampled(allocation, vec![frame(name, 1)], StackEnd::Whole);
                }
            }
            let found = table.sites().bytes();
            sum += found.value;
            squares += (found.value - truth).powi(2) / found.variance;
            within += u32::from((found.value - truth).abs() <= 2.0 * found.error() + 1e-6);
        }
        let mean = sum / f64::from(RUNS) / truth;
        assert!((mean - 1.0).abs() < 0.02, "{name}: {mean} of the truth");
        let ratio = squares / f64::from(RUNS);
        assert!(
            (0.8..1.25).contains(&ratio),
            "{name}: {ratio} of the variance"
        );
        let share = f64::from(within) / f64::from(RUNS);
        assert!(share > 0.92, "{name}: {share} within two errors");
    }
}

#[test]
fn blocks_that_are_freed_or_replaced_live_no_more() {
    let mut table = SiteTable::default();
    for (block, name) in [(16, "a"), (32, "a"), (48, "b"), (32, "b")] {
        table.sampled(
            certain(block, 1 << 20),
            vec![frame(name, 3)],
            StackEnd::Whole,
        );
    }
    for gone in [16, 16, 999] {
        table.gone(RemoteAddr::new(gone), 1);
    }
    let sites = table.sites();
    let live: Vec<_> = sites
        .sites
        .iter()
        .map(|site| {
            let name = sites
                .stack(site)
                .next()
                .map(|frame| frame.function.to_string());
            let of = &site.figures;
            (name, of.live_bytes.rounded(), of.bytes.rounded())
        })
        .collect();
    let of = |name: &str, live| (Some(name.to_owned()), live, 2 << 20);
    assert_eq!(live, [of("a", 0), of("b", 2 << 20)]);
}

/// Two lines of one outer function that call an inner one, a stack that was cut, and none.
fn branching() -> Sites {
    let mut table = SiteTable::default();
    let stack = |line| vec![frame("inner", 5), frame("outer", line)];
    for line in [1, 2, 2] {
        table.sampled(certain(8, 4096), stack(line), StackEnd::Whole);
    }
    table.sampled(certain(8, 512), vec![frame("inner", 5)], StackEnd::Cut);
    table.sampled(certain(8, 1024), Vec::new(), StackEnd::NoThreadState);
    table.sites()
}

#[test]
fn stacks_that_differ_in_one_line_are_two_sites_of_one_outer_function() {
    let sites = branching();
    assert_eq!((sites.sites.len(), sites.frames.len()), (4, 3));
    let shown = |direction, path: &[StackStep]| {
        let follows = |site: &&Site| {
            let mut path = path.iter().enumerate();
            path.all(|(depth, step)| site.step(&sites, direction, depth) == Some(*step))
        };
        let of: Vec<&Site> = sites.sites.iter().filter(follows).collect();
        let rows = sites.rows(direction, path.len(), &of).into_iter();
        rows.map(|row| {
            let bytes = row.figures.bytes.rounded();
            (sites.short_label(row.step), bytes, row.leads_on)
        })
        .collect::<Vec<_>>()
    };
    let of = |name: &str, bytes, leads_on| (name.to_owned(), bytes, leads_on);
    let inner = StackStep::Function(0);
    assert_eq!(
        shown(Direction::Outwards, &[]),
        [
            of("inner (jobs/a.py:5)", 3 * 4096 + 512, true),
            of("(no Python function)", 1024, false)
        ]
    );
    assert_eq!(
        shown(Direction::Outwards, &[inner]),
        [
            of("outer (jobs/a.py:2)", 2 * 4096, false),
            of("outer (jobs/a.py:1)", 4096, false),
            of("(cut)", 512, false)
        ]
    );
    // From outside the functions that are missing come first.
    assert_eq!(
        shown(Direction::Inwards, &[]),
        [
            of("outer (jobs/a.py:2)", 2 * 4096, true),
            of("outer (jobs/a.py:1)", 4096, true),
            of("(no Python function)", 1024, false),
            of("(cut)", 512, true)
        ]
    );
    assert_eq!(
        shown(Direction::Inwards, &[StackStep::Rest(StackEnd::Cut)]),
        [of("inner (jobs/a.py:5)", 512, false)]
    );
    for site in &sites.sites {
        let outwards = site.steps(&sites, Direction::Outwards).collect::<Vec<_>>();
        let mut inwards = site.steps(&sites, Direction::Inwards).collect::<Vec<_>>();
        inwards.reverse();
        assert_eq!(outwards, inwards);
    }
}

const BASE: u64 = 0x5555_0000_0000;

/// A walk of one extent of these spans, all of it resident except its last page.
fn walk_of(spans: &[(u64, SpanState)]) -> Sample {
    let spans = spans.iter().copied().collect();
    let extent = Extent::of_spans(ExtentKind::Brk, RemoteAddr::new(BASE), spans).expect("low");
    let range = extent.range;
    let mut heap = HeapSnapshot::new(Allocator::Glibc, "");
    heap.extents.push(Extent {
        block_header_bytes: CHUNK_HEADER,
        ..extent
    });
    let mut residency = ResidencyMap::new(vec![Mapping::private(range, MappingKind::Brk)]);
    residency.push_run(PageRun {
        range: AddrRange::with_len(range.start(), range.len() - PAGE_SIZE).expect("low"),
        state: PageState::PRESENT,
    });
    Sample {
        taken_at_ns: 77,
        residency,
        heaps: vec![heap],
        ..Sample::default()
    }
}

#[test]
fn what_a_walk_finds_is_told_by_exact_addresses_and_sizes() {
    const SECOND: u64 = 1_000_000_000;
    let user = |offset: u64| BASE + offset + CHUNK_HEADER;
    // The first page: 1024 live, 1024 free, 2048 live; the second a block that extends into the
    // third, of which 2048 are free; the fourth could not be read, the fifth is not resident.
    let sample = walk_of(&[
        (1024, SpanState::Live),
        (1024, SpanState::Free),
        (2048, SpanState::Live),
        (PAGE_SIZE + 2048, SpanState::Live),
        (2048, SpanState::Free),
        (PAGE_SIZE, SpanState::Unknown),
        (1024, SpanState::Live),
        (3072, SpanState::Free),
    ]);
    let usable = |len: u64| len - CHUNK_HEADER;
    let mut table = SiteTable::default();
    let mut take = |name: &str, offset, bytes, at_ns| {
        let allocation = Allocation {
            at_ns,
            ..certain(user(offset), bytes)
        };
        table.sampled(allocation, vec![frame(name, 1)], StackEnd::Whole);
    };
    take("first", 0, usable(1024), 95 * SECOND);
    take("freed", 1024, usable(1024), 95 * SECOND);
    take("other size", 2048, usable(1024), 95 * SECOND);
    take("large", PAGE_SIZE, usable(PAGE_SIZE + 2048), 0);
    take("inside", PAGE_SIZE + 512, usable(1024), 0);
    take("unreadable", 3 * PAGE_SIZE + 64, usable(1024), 0);
    take("not resident", 4 * PAGE_SIZE, usable(1024), 99 * SECOND);
    take("later", 2048, usable(2048), 101 * SECOND);
    assert_eq!(table.sites().walk, None);
    let found = table.lookup(100 * SECOND).in_walk(&sample);
    table.walked(found);
    let sites = table.sites();
    assert_eq!(
        sites.walk,
        Some(SitesWalk {
            taken_at_ns: 77,
            looked_up: 6,
            found: 3,
            unreadable: 1
        })
    );
    let of = |name: &str| {
        let mut all = sites.sites.iter();
        let site = all.find(|site| sites.stack(site).any(|frame| &*frame.function == name));
        let walk = site.expect("it was sampled").figures.at_walk;
        let pinned = walk.pinned_free_bytes.rounded();
        let ages = walk.by_age.map(|bytes| bytes as u64);
        let age = ages.iter().position(|bytes| *bytes > 0);
        (walk.bytes.rounded(), walk.blocks.rounded(), pinned, age)
    };
    // Half of the free memory on its page, which it shares with another block.
    assert_eq!(of("first"), (usable(1024), 1, 512, Some(1)));
    assert_eq!(of("large"), (usable(PAGE_SIZE + 2048), 1, 2048, Some(3)));
    assert_eq!(of("not resident"), (usable(1024), 1, 0, Some(0)));
    for name in ["freed", "other size", "inside", "unreadable", "later"] {
        assert_eq!(of(name), (0, 0, 0, None), "{name}");
    }
    // A later walk determines everything anew.
    let found = table
        .lookup(100 * SECOND)
        .in_walk(&walk_of(&[(PAGE_SIZE, SpanState::Free)]));
    table.walked(found);
    assert_eq!(
        table.sites().total().at_walk.bytes,
        Estimate {
            value: 0.0,
            variance: 0.0
        }
    );
}

#[test]
fn a_walk_is_of_one_moment_whatever_is_freed_and_allocated_while_it_is_read() {
    const MOMENT: u64 = 100;
    let mut table = SiteTable::default();
    let mut user = (0..4).map(|chunk| BASE + chunk * 1024 + CHUNK_HEADER);
    let blocks: [u64; 4] = std::array::from_fn(|_| user.next().expect("four"));
    let take = |table: &mut SiteTable, name: &str, block, at_ns| {
        let allocation = Allocation {
            at_ns,
            ..certain(block, 1024 - CHUNK_HEADER)
        };
        table.sampled(allocation, vec![frame(name, 1)], StackEnd::Whole);
    };
    let old = |table: &mut SiteTable| {
        for block in blocks {
            take(table, "old", block, 10);
        }
    };
    old(&mut table);
    // As long as no walk has begun, freed blocks are not remembered.
    table.gone(RemoteAddr::new(blocks[0]), 20);
    table.walk_begins();
    // Before the moment and after it, at an address that is given out again, and unseen.
    table.gone(RemoteAddr::new(blocks[1]), MOMENT - 1);
    table.gone(RemoteAddr::new(blocks[2]), MOMENT + 1);
    take(&mut table, "new", blocks[2], MOMENT + 2);
    take(&mut table, "new", blocks[3], MOMENT + 2);
    take(&mut table, "new", blocks[0], MOMENT + 2);
    table.gone(RemoteAddr::new(blocks[0]), MOMENT + 3);
    let sample = walk_of(&[(1024, SpanState::Live); 4]);
    let found = table.lookup(MOMENT).in_walk(&sample);
    table.walked(found);
    let sites = table.sites();
    let by_name = |name: &str| {
        let mut all = sites.sites.iter();
        let site = all.find(|site| sites.stack(site).any(|frame| &*frame.function == name));
        site.map(|site| site.figures.at_walk.blocks.rounded())
    };
    assert_eq!((by_name("old"), by_name("new")), (Some(2), Some(0)));
    // A walk has not looked at blocks that were only sampled after it began.
    let known = sites.by_innermost().into_iter();
    let known = known.map(|row| (sites.label(row.step), row.is_known_of_walk()));
    let known: Vec<(String, bool)> = known.collect();
    let of = |name: &str| known.iter().find(|(label, _)| label.starts_with(name));
    assert_eq!(of("old").map(|(_, known)| *known), Some(true));
    assert_eq!(of("new").map(|(_, known)| *known), Some(false));
    assert_eq!(sites.walk.map(|walk| walk.looked_up), Some(2));
    // What was kept for one walk is not in the next.
    let found = table.lookup(MOMENT).in_walk(&sample);
    table.walked(found);
    assert_eq!(table.sites().walk.map(|walk| walk.found), Some(0));
}

#[test]
fn growth_is_added_up_by_kind_beside_what_is_allocated_there() {
    let mut table = SiteTable::default();
    let stack = || vec![frame("load", 4)];
    table.sampled(certain(16, 4096), stack(), StackEnd::Whole);
    for (kind, bytes) in [
        (GrowthKind::Grown, 64 << 20),
        (GrowthKind::Grown, 4096),
        (GrowthKind::Returned, 4096),
        (GrowthKind::Touched, 8192),
        (GrowthKind::Touched, 0),
    ] {
        table.grew(kind, bytes, 1, stack(), StackEnd::Whole);
    }
    // A sample that stands for others: one page at a sampling mean of 64 KiB.
    table.grew(
        GrowthKind::Touched,
        4096,
        64 << 10,
        vec![frame("rare", 1)],
        StackEnd::Whole,
    );
    let sites = table.sites();
    assert_eq!((sites.samples, sites.sites.len()), (1, 2));
    let growth = sites.sites[0].figures.growth;
    assert_eq!(
        (growth.samples, sites.sites[0].figures.bytes.rounded()),
        (4, 4096)
    );
    assert_eq!(growth.grown.rounded(), (64 << 20) + 4096);
    assert_eq!(
        (growth.returned.rounded(), growth.touched.rounded()),
        (4096, 8192)
    );
    let rare = sites.sites[1].figures.growth.touched;
    let one = 4096.0 / -(-1.0f64 / 16.0).exp_m1();
    assert!(
        (rare.value - one).abs() < 1e-6 && rare.error() > 60_000.0,
        "{rare:?}"
    );
}

#[test]
fn a_block_of_a_requested_size_fits_what_an_allocator_gives_for_it() {
    let mut table = SiteTable::default();
    let requested = Allocation {
        is_usable_size: false,
        ..certain(BASE + CHUNK_HEADER, 3000)
    };
    table.sampled(requested, vec![frame("f", 1)], StackEnd::Whole);
    for (len, fits) in [(2048, 0), (3072, 1), (4096, 1), (8192, 0)] {
        let spans = [(len, SpanState::Live), (8192, SpanState::Top)];
        let found = table.lookup(1).in_walk(&walk_of(&spans));
        table.walked(found);
        let walk = table.sites().walk.expect("it was walked");
        assert_eq!(walk.found, fits, "{len}");
    }
}

#[test]
fn who_raised_the_mmap_threshold_is_told_by_the_size_of_what_was_freed_first() {
    const THRESHOLD: u64 = 100 * PAGE_SIZE;
    let with_threshold = |bytes: u64| {
        let mut sample = walk_of(&[(8192, SpanState::Live)]);
        let settings = [("mmap_threshold", bytes), ("no_dyn_threshold", 0)];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_string()));
        sample.heaps[0].settings = settings.to_vec();
        sample
    };
    let mapped = |block, chunk: u64, at_ns| Allocation {
        at_ns,
        ..certain(block, chunk - 16)
    };
    let raised_by = |table: &mut SiteTable, bytes| {
        let found = table.lookup(10).in_walk(&with_threshold(bytes));
        table.walked(found);
        let sites = table.sites();
        let raised = sites.mmap_threshold.clone()?;
        assert_eq!(raised.bytes, bytes);
        let (stack, _) = raised.raised_by?;
        Some(sites.frames[stack[0] as usize].function.to_string())
    };
    let mut table = SiteTable::default();
    for (name, block, chunk) in [
        ("a", 16, THRESHOLD),
        ("b", 32, THRESHOLD),
        ("c", 48, 2 * THRESHOLD),
    ] {
        let allocation = mapped(block, chunk, block / 16);
        table.sampled(allocation, vec![frame(name, 1)], StackEnd::Whole);
    }
    table.gone(RemoteAddr::new(32), 5);
    assert_eq!(raised_by(&mut table, THRESHOLD).as_deref(), Some("b"));
    // Freed unseen: no mapping is at its address any more.
    assert_eq!(raised_by(&mut table, 2 * THRESHOLD).as_deref(), Some("c"));
    assert_eq!(raised_by(&mut table, 3 * THRESHOLD), None);
    assert!(table.sites().mmap_threshold.is_some());
    // It is what it was at first.
    assert_eq!(raised_by(&mut table, 128 << 10), None);
    assert_eq!(table.sites().mmap_threshold, None);
}

#[test]
fn rows_of_native_functions_name_the_python_function_that_called_them() {
    let native = |name: &str| Frame::native(name.into(), "/usr/lib/libpython3.11.so".into());
    let mut table = SiteTable::default();
    let make = || vec![native("bytes_new"), native("type_call")];
    for (block, callers) in [
        (1, vec![frame("load", 3), frame("run", 1)]),
        (2, vec![frame("load", 3)]),
        (3, vec![frame("dump", 9)]),
        (4, Vec::new()),
    ] {
        let stack = make().into_iter().chain(callers).collect();
        table.sampled(certain(block, 4096), stack, StackEnd::Whole);
    }
    table.sampled(certain(5, 512), vec![frame("load", 3)], StackEnd::Whole);
    let sites = table.sites();
    let rows = sites.by_innermost();
    let shown = rows
        .iter()
        .map(|row| (sites.short_label(row.step), row.figures.samples));
    let mut shown: Vec<_> = shown.collect();
    shown.sort_by_key(|(_, samples)| std::cmp::Reverse(*samples));
    let of = |name: &str, samples| (name.to_owned(), samples);
    let library = "bytes_new (lib/libpython3.11.so)";
    assert_eq!(
        shown[0],
        of(&format!("{library}, called from load (jobs/a.py:3)"), 2)
    );
    shown[1..].sort();
    assert_eq!(
        shown[1..],
        [
            of(library, 1),
            of(&format!("{library}, called from dump (jobs/a.py:9)"), 1),
            of("load (jobs/a.py:3)", 1),
        ]
    );
    // A row opens to all functions on the way, from outside as from inside.
    let of_load: Vec<&Site> = sites
        .sites
        .iter()
        .filter(|site| site.step(&sites, Direction::Outwards, 0) == Some(rows[0].step))
        .collect();
    let next = sites.rows(Direction::Outwards, 1, &of_load);
    assert_eq!(
        sites.short_label(next[0].step),
        "type_call (lib/libpython3.11.so)"
    );
    assert_eq!(next.len(), 1);
    let outer = sites.rows(Direction::Inwards, 0, &of_load);
    assert_eq!(outer.len(), 2);
}
