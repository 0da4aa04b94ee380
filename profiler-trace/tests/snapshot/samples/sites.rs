//! Call sites of allocations.

use profiler_core::sites::{
    AtWalk, Estimate, Frame, GrowthSampling, Language, MmapThreshold, NativeSampling, Site,
    SiteFigures, SiteGrowth, Sites, SitesWalk, StackEnd,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::COUNT;

fn estimate() -> impl Strategy<Value = Estimate> {
    (0.0..1e12, 0.0..1e20).prop_map(|(value, variance)| Estimate { value, variance })
}

fn figures() -> impl Strategy<Value = SiteFigures> {
    let ages = vec(0.0..1e12, 6);
    (COUNT, vec(estimate(), 10), ages).prop_map(|(samples, sums, ages)| SiteFigures {
        samples,
        bytes: sums[0],
        allocations: sums[1],
        live_bytes: sums[2],
        live_blocks: sums[3],
        at_walk: AtWalk {
            bytes: sums[4],
            blocks: sums[5],
            pinned_free_bytes: sums[6],
            by_age: ages.try_into().expect("six"),
        },
        samples_before_walk: samples,
        growth: SiteGrowth {
            samples,
            grown: sums[7],
            returned: sums[8],
            touched: sums[9],
        },
    })
}

/// Sites with anything in them, whose stacks have functions that there are.
pub(crate) fn sites() -> impl Strategy<Value = Sites> {
    let names = ("[a-z.é]{0,9}", "[a-z/ ]{0,9}", option::of(any::<u32>()));
    let frame = (select(&Language::ALL[..]), names);
    let frame = frame.prop_map(|(language, (function, file, line))| Frame {
        language,
        function: function.into(),
        file: file.into(),
        line,
    });
    let site = (vec(0..4u32, 0..5), select(&StackEnd::ALL[..]), figures());
    let site = site.prop_map(|(stack, end, figures)| Site {
        stack: stack.into(),
        end,
        figures,
    });
    let walk = (any::<u64>(), COUNT, COUNT, COUNT);
    let walk = walk.prop_map(|(taken_at_ns, looked_up, found, unreadable)| SitesWalk {
        taken_at_ns,
        looked_up,
        found,
        unreadable,
    });
    let raiser = (vec(0..4u32, 0..5), select(&StackEnd::ALL[..]));
    let raiser = raiser.prop_map(|(stack, end)| (stack.into(), end));
    let threshold = (COUNT, option::of(raiser));
    let threshold = threshold.prop_map(|(bytes, raised_by)| MmapThreshold { bytes, raised_by });
    let growth = (vec(COUNT, 5), vec("[a-z]{0,9}", 0..3), any::<bool>());
    let growth = growth.prop_map(|(counts, missing, is_over_budget)| GrowthSampling {
        watched_ns: counts[0],
        mean_bytes: counts[1],
        grown_bytes: counts[2],
        returned_bytes: counts[3],
        touched_bytes: counts[4],
        missing,
        is_over_budget,
    });
    let native = (COUNT, COUNT, COUNT, vec("[a-z]{0,9}", 0..3));
    let native =
        native.prop_map(
            |(copied, not_copied, unwinding_ns, unread_files)| NativeSampling {
                copied,
                not_copied,
                unwinding_ns,
                unread_files,
            },
        );
    let beside = (
        any::<bool>(),
        option::of("[a-z]{0,9}"),
        option::of(walk),
        option::of(threshold),
        option::of(growth),
        option::of(native),
    );
    (vec(frame, 4), vec(site, 0..4), vec(COUNT, 7), beside).prop_map(
        |(
            frames,
            sites,
            counts,
            (frees_complete, no_stacks, walk, mmap_threshold, growth, native),
        )| {
            Sites {
                sites,
                frames,
                samples: counts[0],
                samples_lost: counts[1],
                mean_bytes: counts[2],
                sampling_ns: counts[3],
                armed_ns: counts[4],
                counted_bytes: counts[5],
                stacks_left_out: counts[6],
                frees_complete,
                no_stacks,
                walk,
                mmap_threshold,
                growth,
                native,
            }
        },
    )
}
