//! Observations beside a walk.

use std::sync::Arc;

use hdrhistogram::Histogram;
use profiler_core::activity::{Activity, ClassActivity, ProbeCost, ProbeState, ProbeStatus};
use profiler_core::allocator::{Allocator, AllocatorTitle};
use profiler_core::candidate::CandidateName;
use profiler_core::over_time::{Moment, OverTime};
use profiler_core::prediction::{Needs, Prediction, Predictions, SelfCheck};
use profiler_core::report::Mechanism;
use profiler_core::size_class::SizeClass;
use profiler_core::view::{Point, Shadow, WhatIf};
use profiler_trace::snapshot::Observation;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::heap::environment_unknown;
use super::objects::census;
use super::sites::sites;
use super::{COUNT, text};

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

fn cost() -> impl Strategy<Value = ProbeCost> {
    (COUNT, 0.0..9e3, 0.0..1.0, option::of(0.0..1.0)).prop_map(
        |(hits, ns_per_hit, share, budget)| ProbeCost {
            hits,
            ns_per_hit,
            share,
            budget,
        },
    )
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
        option::of(cost()),
        (option::of(text()), environment_unknown()),
    )
        .prop_map(
            |(shadows, turned_over, events_lost, gone_share, allocated_bytes, cost, end)| WhatIf {
                allocated_bytes,
                cost,
                ended: end.0,
                environment_unknown: end.1,
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
    let candidate = select(vec![
        "jemalloc",
        "mimalloc2",
        "jemalloc background",
        "hugetlb=1",
    ]);
    let candidate = prop_oneof![candidate.prop_map(str::to_owned), text()];
    let name = prop_oneof![
        select(Allocator::ALL.to_vec()).prop_map(|kind| kind.name().to_owned()),
        text()
    ];
    let words = (
        candidate.prop_map(|text| CandidateName::parse(&text)),
        (name, option::of(text()))
            .prop_map(|(name, version)| AllocatorTitle::named(&name, version)),
        option::of(text()),
        option::of(text()),
    );
    let remedies = option::of(select(Mechanism::predicted().collect::<Vec<_>>()));
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
        |((candidate, allocator, path, failure), is_carried, set, remedies, needs, runs)| {
            Prediction {
                candidate,
                allocator,
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
        environment_unknown(),
    );
    all.prop_map(
        |(walk_ns, self_check, candidates, pending, trouble, environment_unknown)| Predictions {
            rss_bytes: walk_ns.checked_mul(3),
            walk_ns,
            self_check,
            candidates,
            pending,
            trouble,
            environment_unknown,
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
        option::of(COUNT),
    );
    let point = point.prop_map(
        |(time_ns, rss_bytes, swap_bytes, live_bytes, heap_bytes, live_resident_bytes)| Point {
            live_resident_bytes,
            threads: live_resident_bytes.map(|bytes| bytes as u32),
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
            option::of(sites().prop_map(Arc::new)),
            any::<bool>(),
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
                sites: beside.3,
                probes_attaching: beside.4,
            },
        )
}
