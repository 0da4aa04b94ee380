//! Samples and observations, made up by proptest.

use std::sync::Arc;

use hdrhistogram::Histogram;
use profiler_core::activity::{Activity, ClassActivity, ProbeCost, ProbeState, ProbeStatus};
use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::allocator::AllocatorTitle;
use profiler_core::arena::{ArenaFigure, ArenaKind};
use profiler_core::completeness::{
    Completeness, Confidence, Defect, EndedEarly, Released, StandStill,
};
use profiler_core::fork::ForkSharing;
use profiler_core::heap::{
    Allocator, Arena, CrossCheck, Extent, ExtentKind, HeapSnapshot, RequestedSetting,
};
use profiler_core::objects::{
    AllocatorShare, Amount, Census, Copied, Dropped, Holder, LayoutBasis, NativeRow, PathStep,
    TypeRow, Via,
};
use profiler_core::over_time::{Moment, OverTime};
use profiler_core::prediction::{Needs, Prediction, Predictions, SelfCheck};
use profiler_core::report::Mechanism;
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use profiler_core::sample::{Host, KernelCount, PythonMalloc, Sample, Target};
use profiler_core::size_class::SizeClass;
use profiler_core::span::{SpanList, SpanState};
use profiler_core::view::{Point, Shadow, WhatIf};
use profiler_trace::snapshot::Observation;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const BASE: u64 = 0x5555_0000_0000;
const COUNT: std::ops::Range<u64> = 0..1 << 40;

fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::with_len(RemoteAddr::new(start), len).expect("in range")
}

fn text() -> impl Strategy<Value = String> {
    "[a-zé \\n]{0,12}"
}

fn mapping_kind() -> impl Strategy<Value = MappingKind> {
    prop_oneof![
        Just(MappingKind::Brk),
        Just(MappingKind::Stack),
        Just(MappingKind::Anonymous),
        text().prop_map(MappingKind::NamedAnonymous),
        text().prop_map(MappingKind::File),
        text().prop_map(MappingKind::SharedAnonymous),
        text().prop_map(MappingKind::Special),
    ]
}

fn amount() -> impl Strategy<Value = Amount> {
    (COUNT, COUNT).prop_map(|(blocks, bytes)| Amount { blocks, bytes })
}

fn holder() -> impl Strategy<Value = Holder> {
    let step = (
        option::of(select(&Via::ALL[..])),
        text(),
        option::of(COUNT),
        COUNT,
    );
    let step = step.prop_map(|(via, type_name, length, times)| PathStep {
        attribute: None,
        via,
        type_name,
        length,
        times,
    });
    let dropped = (COUNT, COUNT).prop_map(|(live_bytes, unpinned_bytes)| Dropped {
        live_bytes,
        unpinned_bytes,
    });
    let names = (text(), vec(text(), 0..3), any::<bool>());
    let types = (option::of(text()), option::of(text()), vec(step, 0..3));
    let figures = (option::of(COUNT), COUNT, COUNT, COUNT, option::of(dropped));
    (names, types, figures).prop_map(|(names, types, figures)| Holder {
        name: names.0,
        shared_with: names.1,
        is_name: names.2,
        type_name: types.0,
        item_type: types.1,
        path: types.2,
        length: figures.0,
        retained_bytes: figures.1,
        retained_blocks: figures.2,
        pinned_free_bytes: figures.3,
        dropped: figures.4,
        items: figures.1 / 3,
    })
}

fn census() -> impl Strategy<Value = Census> {
    let of_type = (text(), amount(), amount(), COUNT, COUNT);
    let of_type = of_type.prop_map(|(name, objects, storage, tracked, pinned)| TypeRow {
        name,
        objects,
        storage,
        tracked,
        entries: tracked,
        pinned_free_bytes: pinned,
        copied_bytes: pinned / 2,
    });
    let native = (select(&Allocator::ALL[..]), 1..COUNT.end, amount());
    let native = native.prop_map(|(allocator, size, native)| NativeRow {
        allocator,
        class: SizeClass::of(size),
        native,
    });
    let share = (select(&Allocator::ALL[..]), amount(), amount());
    let share = share.prop_map(|(allocator, live, named)| AllocatorShare {
        allocator,
        live,
        named,
    });
    let basis = (
        any::<(u8, u8)>(),
        select(&LayoutBasis::ALL[..]),
        any::<bool>(),
    );
    let rows = (
        vec(of_type, 0..4),
        vec(native, 0..4),
        vec(share, 0..3),
        vec(holder(), 0..4),
    );
    let amounts = (amount(), amount(), amount(), amount(), amount());
    let figures = (COUNT, COUNT, COUNT, COUNT, vec(text(), 0..2), any::<bool>());
    (basis, rows, amounts, figures).prop_map(|(basis, rows, amounts, figures)| Census {
        python: basis.0,
        layout: basis.1,
        exact: basis.2,
        types: rows.0,
        native: rows.1,
        shares: rows.2,
        holders: rows.3,
        live: amounts.0,
        spare: amounts.1,
        unreadable: amounts.2,
        held_by_names: amounts.3,
        unreached: amounts.4,
        taken_at_ns: figures.0,
        changed: figures.1,
        compared: figures.1,
        replaced: figures.1 / 2,
        references: figures.2,
        took_ns: figures.3,
        gaps: figures.4,
        copied: figures.5.then_some(Copied {
            bytes: figures.1,
            collector_bytes: figures.2,
        }),
    })
}

/// Mappings with gaps, and runs of pages anywhere from their start on.
fn residency() -> impl Strategy<Value = ResidencyMap> {
    let mapping = (0..9u64, 1..40u64, mapping_kind(), any::<[bool; 5]>());
    let mappings = vec((mapping, COUNT, COUNT), 0..6);
    let runs = vec((0..5u64, 1..30u64, 0..128u8), 0..20);
    (mappings, runs).prop_map(|(mappings, runs)| {
        let mut at = BASE;
        let all = mappings
            .into_iter()
            .map(|((gap, pages, kind, bits), offset, inode)| {
                let start = at + gap * PAGE_SIZE;
                at = start + pages * PAGE_SIZE;
                Mapping {
                    range: range(start, pages * PAGE_SIZE),
                    kind,
                    read: bits[0],
                    write: bits[1],
                    execute: bits[2],
                    shared: bits[3],
                    is_tmpfs: bits[4],
                    offset,
                    inode,
                }
            });
        let mut map = ResidencyMap::new(all.collect());
        let mut at = BASE;
        for (gap, pages, bits) in runs {
            let start = at + gap * PAGE_SIZE;
            at = start + pages * PAGE_SIZE;
            map.push_run(PageRun {
                range: range(start, pages * PAGE_SIZE),
                state: PageState::from_bits(bits),
            });
        }
        map
    })
}

fn arena() -> impl Strategy<Value = Arena> {
    let figures = vec((select(ArenaFigure::ALL), COUNT), 0..5);
    (
        0..9u32,
        select(ArenaKind::ALL),
        any::<u64>(),
        vec(COUNT, 8),
        figures,
    )
        .prop_map(|(id, kind, addr, counts, figures)| Arena {
            id,
            kind,
            addr: RemoteAddr::new(addr),
            system_bytes: counts[0],
            live_blocks: counts[1],
            live_bytes: counts[2],
            free_blocks: counts[3],
            free_bytes: counts[4],
            cached_blocks: counts[5],
            cached_bytes: counts[6],
            top_bytes: counts[7],
            figures,
        })
}

fn extents() -> impl Strategy<Value = Vec<Extent>> {
    let len = prop_oneof![9 => 1..600u64, 1 => 1..1u64 << 36];
    let spans = vec((len, select(SpanState::ALL.as_slice())), 0..40);
    let kinds = vec![
        ExtentKind::Brk,
        ExtentKind::ThreadHeap,
        ExtentKind::LargeMapped,
        ExtentKind::PoolArena,
        ExtentKind::Region,
    ];
    vec((0..900u64, 0..3u32, select(kinds), spans, 0..50u64), 0..4).prop_map(|extents| {
        let mut at = BASE;
        let made = extents.into_iter().map(|(gap, arena, kind, parts, rest)| {
            let mut spans = SpanList::default();
            for (granules, state) in parts {
                spans.push(granules * 8, state);
            }
            let start = at + gap * 8;
            let range = range(start, spans.bytes() + rest * 8);
            at = range.end().get();
            Extent {
                range,
                kind,
                arena,
                block_header_bytes: 8,
                spans,
            }
        });
        made.collect()
    })
}

fn confidence() -> impl Strategy<Value = Confidence> {
    select(vec![
        Confidence::None,
        Confidence::Low,
        Confidence::Medium,
        Confidence::High,
    ])
}

fn defects() -> impl Strategy<Value = Vec<Defect>> {
    let defect = (option::of(any::<u64>()), text(), COUNT);
    let defect = defect.prop_map(|(addr, what, bytes)| Defect {
        addr: addr.map(RemoteAddr::new),
        what,
        bytes,
    });
    vec(defect, 0..3)
}

fn heap() -> impl Strategy<Value = HeapSnapshot> {
    let trimmable = vec((0..90u64, 1..9u64), 0..6);
    let pairs = || vec((text(), text()), 0..3);
    let requested = vec((text(), option::of(any::<bool>()), text()), 0..2);
    let checks = vec((text(), COUNT, COUNT), 0..2);
    let lists = (vec(arena(), 0..4), extents(), trimmable, defects());
    let words = (text(), pairs(), pairs(), requested, checks);
    let rest = (confidence(), any::<u32>(), COUNT);
    (select(Allocator::ALL.as_slice()), lists, words, rest).prop_map(
        |(allocator, (arenas, extents, trimmable, defects), words, rest)| {
            let (version, settings, defaults, requested, checks) = words;
            let (confidence, threads_inside, unreadable_bytes) = rest;
            let mut at = BASE;
            let trimmable = trimmable.into_iter().map(|(gap, pages)| {
                let start = at + gap * PAGE_SIZE;
                at = start + pages * PAGE_SIZE;
                range(start, pages * PAGE_SIZE)
            });
            HeapSnapshot {
                arenas,
                extents,
                trimmable: trimmable.collect(),
                settings,
                defaults,
                requested: requested
                    .into_iter()
                    .map(|(request, in_force, note)| RequestedSetting {
                        request,
                        in_force,
                        note,
                    })
                    .collect(),
                checks: checks
                    .into_iter()
                    .map(|(name, expected, found)| CrossCheck {
                        name,
                        expected,
                        found,
                    })
                    .collect(),
                confidence,
                threads_inside,
                defects,
                unreadable_bytes,
                ..HeapSnapshot::new(allocator, version)
            }
        },
    )
}

fn target() -> impl Strategy<Value = Target> {
    let names = vec(option::of(text()), 3);
    let malloc = option::of(select(PythonMalloc::ALL.as_slice()));
    (
        any::<(i32, u32)>(),
        text(),
        vec(text(), 0..4),
        names,
        malloc,
    )
        .prop_map(
            |((pid, threads), comm, cmdline, mut names, python_malloc)| Target {
                pid,
                comm,
                cmdline,
                python: names.pop().flatten(),
                python_malloc,
                libc: names.pop().flatten(),
                malloc: names
                    .pop()
                    .flatten()
                    .map(|text| AllocatorTitle::parse(&text)),
                threads,
                began_ticks: (threads % 3 > 0).then_some(threads.into()),
                boot_id: (threads % 2 > 0).then(|| threads.to_string()),
            },
        )
}

/// A sample of any kind.
pub(crate) fn sample() -> impl Strategy<Value = Sample> {
    let kernel = (vec(COUNT, 3), vec(option::of(COUNT), 4), any::<bool>());
    let fork = option::of((any::<i32>(), COUNT, COUNT, COUNT));
    let released = (select(EndedEarly::ALL.to_vec()), COUNT)
        .prop_map(|(why, after_ns)| StandStill::Released(Released { why, after_ns }));
    let stand_still = prop_oneof![
        Just(StandStill::Never),
        Just(StandStill::Throughout),
        released,
    ];
    let completeness = (
        stand_still,
        vec(COUNT, 4),
        any::<u32>(),
        confidence(),
        defects(),
    );
    let host = (text(), text(), any::<u32>(), COUNT);
    let about = (any::<u64>(), host, target(), kernel, fork, completeness);
    (about, residency(), vec(heap(), 0..3)).prop_map(|(about, residency, heaps)| {
        let (taken_at_ns, host, target, (counts, known, is_core), fork, completeness) = about;
        let (stand_still, times, threads_in_allocator, layout_confidence, defects) = completeness;
        Sample {
            taken_at_ns,
            host: Host {
                kernel: host.0,
                arch: host.1,
                cpus: host.2,
                memory_bytes: host.3,
            },
            target,
            kernel: KernelCount {
                rss_bytes: counts[0],
                swap_bytes: counts[1],
                peak_rss_bytes: counts[2],
                pss_bytes: known[0],
                lazy_free_bytes: known[1],
                anon_huge_bytes: known[2],
                ksm_bytes: known[3],
                is_core,
            },
            residency,
            heaps,
            fork: fork.map(
                |(parent, shared_bytes, copied_bytes, own_bytes)| ForkSharing {
                    parent,
                    shared_bytes,
                    copied_bytes,
                    own_bytes,
                },
            ),
            completeness: Completeness {
                stand_still,
                stop_ns: times[0],
                walk_ns: times[1],
                threads_in_allocator,
                events_lost: times[2],
                unreadable_bytes: times[3],
                layout_confidence,
                defects,
            },
        }
    })
}

fn histogram() -> impl Strategy<Value = Histogram<u64>> {
    vec((1..1u64 << 44, 1..90u64), 0..20).prop_map(|values| {
        let mut histogram = Histogram::new(3).expect("three digits");
        for (value, count) in values {
            histogram.record_n(value, count).expect("in range");
        }
        histogram
    })
}

fn activity() -> impl Strategy<Value = Activity> {
    let class = (0..SizeClass::COUNT as u16, vec(COUNT, 6));
    let class = class.prop_map(|(class, counts)| ClassActivity {
        class: SizeClass(class),
        allocs: counts[0],
        frees: counts[1],
        alloc_bytes: counts[2],
        lifetime_p50_ns: counts[3],
        lifetime_p90_ns: counts[4],
        lifetime_p99_ns: counts[5],
    });
    let state = prop_oneof![
        Just(ProbeState::Firing),
        Just(ProbeState::Silent),
        text().prop_map(ProbeState::Failed),
    ];
    let probe = (text(), text(), text(), COUNT, state);
    let probe = probe.prop_map(|(function, object, site, hits, state)| ProbeStatus {
        function,
        object,
        site,
        hits,
        state,
    });
    let rates = (vec(0.0..1e9, 5), option::of(0.0..1.0));
    let lists = (vec(class, 0..4), vec(probe, 0..3));
    (
        vec(COUNT, 11),
        rates,
        histogram(),
        histogram(),
        lists,
        option::of(text()),
    )
        .prop_map(
            |(counts, (rates, budget), lifetimes, sizes, (classes, probes), ended)| Activity {
                elapsed_ns: counts[0],
                armed_ns: counts[1],
                allocs: counts[2],
                alloc_bytes: counts[3],
                frees: counts[4],
                frees_of_older: counts[5],
                events_lost: counts[6],
                alloc_rate: rates[0],
                free_rate: rates[1],
                alloc_byte_rate: rates[2],
                tracked_blocks: counts[7],
                tracked_bytes: counts[8],
                untracked_blocks: counts[10],
                ended,
                lifetimes,
                sizes,
                classes,
                probes,
                cost: ProbeCost {
                    hits: counts[9],
                    ns_per_hit: rates[3],
                    share: rates[4],
                    budget,
                },
            },
        )
}

fn moment() -> impl Strategy<Value = Moment> {
    (any::<u64>(), COUNT, COUNT).prop_map(|(time_ns, heap, live)| Moment {
        time_ns,
        heap,
        live,
    })
}

fn what_if() -> impl Strategy<Value = WhatIf> {
    let shadow = (
        text(),
        option::of(COUNT),
        option::of(COUNT),
        option::of(text()),
        any::<bool>(),
    );
    let shadow =
        shadow.prop_map(
            |(name, resident_bytes, worker_bytes, ended, is_baseline)| Shadow {
                name,
                resident_bytes,
                worker_bytes,
                ended,
                is_baseline,
            },
        );
    let share = || option::of(0.0..1.0);
    (
        vec(shadow, 0..3),
        option::of(0.0..9.0),
        COUNT,
        share(),
        COUNT,
    )
        .prop_map(
            |(shadows, turned_over, events_lost, gone_share, allocated_bytes)| WhatIf {
                allocated_bytes,
                shadows,
                turned_over,
                events_lost,
                gone_share,
            },
        )
}

fn predictions() -> impl Strategy<Value = Predictions> {
    let needs = (COUNT, COUNT, COUNT).prop_map(|(bytes, low_bytes, high_bytes)| Needs {
        bytes,
        low_bytes,
        high_bytes,
    });
    let words = (
        text(),
        text(),
        option::of(text()),
        option::of(text()),
        option::of(text()),
    );
    let remedies = option::of(select(Mechanism::PREDICTED.to_vec()));
    let set = vec((text(), text()), 0..3);
    let one = (
        words,
        any::<bool>(),
        set,
        remedies,
        option::of(needs),
        any::<u32>(),
    );
    let one = one.prop_map(
        |(
            (candidate, allocator, version, path, failure),
            is_carried,
            set,
            remedies,
            needs,
            runs,
        )| {
            Prediction {
                candidate,
                allocator,
                version,
                step: path.clone(),
                path,
                is_carried,
                set,
                remedies,
                needs,
                runs,
                failure,
            }
        },
    );
    let check = (COUNT, COUNT).prop_map(|(measured_bytes, predicted_bytes)| SelfCheck {
        measured_bytes,
        predicted_bytes,
    });
    let all = (
        any::<u64>(),
        option::of(check),
        vec(one, 0..3),
        any::<u32>(),
        option::of(text()),
    );
    all.prop_map(
        |(walk_ns, self_check, candidates, pending, trouble)| Predictions {
            walk_ns,
            self_check,
            candidates,
            pending,
            trouble,
        },
    )
}

/// An observation with anything in it.
pub(crate) fn observation() -> impl Strategy<Value = Observation> {
    let point = (
        any::<u64>(),
        COUNT,
        COUNT,
        option::of(COUNT),
        option::of(COUNT),
    );
    let point = point.prop_map(
        |(time_ns, rss_bytes, swap_bytes, live_bytes, heap_bytes)| Point {
            time_ns,
            rss_bytes,
            swap_bytes,
            live_bytes,
            heap_bytes,
        },
    );
    let moments = (option::of(moment()), moment(), moment(), 0.0..9e9, 0.0..9e9);
    let over_time = moments.prop_map(|(last, most_live, most_heap, sum, time)| OverTime {
        last,
        most_live,
        most_heap,
        sum,
        time,
    });
    let words = (any::<bool>(), vec(text(), 0..3), option::of(text()));
    (
        option::of(activity()),
        words,
        vec(point, 0..5),
        over_time,
        (
            option::of(what_if()),
            option::of(predictions()),
            vec(census().prop_map(Arc::new), 0..3),
        ),
    )
        .prop_map(
            |(activity, (probes_wanted, notices, ended), points, over_time, beside)| Observation {
                activity: activity.map(Arc::new),
                probes_wanted,
                notices,
                points,
                over_time,
                what_if: beside.0,
                ended,
                predictions: beside.1,
                objects: beside.2,
            },
        )
}
