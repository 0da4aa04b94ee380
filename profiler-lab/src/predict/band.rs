//! From the results of a candidate's players to a prediction: a middle value and a band.

use profiler_core::allocator::Allocator;
use profiler_core::heap::HeapSnapshot;
use profiler_core::prediction::Needs;
use profiler_core::sample::Sample;

use super::candidates::Interpretation;
use super::{MIDDLE, TOGETHER};
use crate::seed::WalkedHeap;

/// How far a program may differ from its replay in another allocator than its own: because of what
/// the program does besides the blocks that a walk shows, which mostly takes some more
/// (`docs/prediction.md`).
const MARGIN: Margin = Margin {
    below: 0.03,
    above: 0.10,
    least: 1 << 20,
};

/// The same for an allocator that returns little of what was freed (mimalloc, tcmalloc): sizes that
/// the program requested long ago, which no walk shows, occupy memory of their own there.
const KEEPING_MARGIN: Margin = Margin {
    above: 0.25,
    ..MARGIN
};

/// The same for a setting of the program's own allocator.
const OWN_MARGIN: Margin = Margin {
    below: 0.01,
    above: 0.01,
    least: 256 << 10,
};

/// The same for a program whose threads have arenas of their own: which thread had which arena, and
/// what is left in it, differs from run to run.
const OWN_THREADS_MARGIN: Margin = Margin {
    below: 0.08,
    above: 0.08,
    ..OWN_MARGIN
};

/// If more than this share of RSS is swapped out in addition, nobody knows which part of a need
/// would be resident.
const MOST_SWAPPED: f64 = 0.01;

struct Margin {
    /// As a share of the lower end.
    below: f64,
    /// As a share of the upper end.
    above: f64,
    /// In bytes, at either end.
    least: u64,
}

impl Margin {
    fn of(&self, end: u64, share: f64) -> u64 {
        self.least.max((end as f64 * share) as u64)
    }
}

/// What players came to, in resident bytes.
pub(super) struct HeapFigures {
    /// A candidate, by history.
    pub(super) all: Vec<u64>,
    /// The same with the caches of idle threads, if there are several threads.
    pub(super) idle_threads: Option<u64>,
    /// The heap as it is.
    pub(super) baseline: u64,
}

/// What the bands need from the walk of the heap.
pub(super) struct Walked {
    /// The size of malloc's heap, in bytes.
    pub(super) measured: u64,
    /// RSS without what is purged in that; `None` if much of the process is in swap.
    pub(super) rss: Option<u64>,
    /// The size of malloc's heap at the peak of the process, in bytes, if all that the process had
    /// more then than now was malloc's. It includes what is purged in its size now.
    pub(super) at_peak: u64,
    /// The same if malloc had the same share of that as it has of all heaps now.
    pub(super) likely_at_peak: u64,
    /// Threads per arena: in mimalloc each thread keeps something of its own.
    pub(super) threads_per_arena: f64,
    /// Whether several threads of the program have a part in the heap.
    pub(super) has_threads: bool,
    /// Bytes of live blocks.
    pub(super) live: u64,
    /// Bytes of unknown use.
    pub(super) unknown: u64,
    /// Bytes that only huge pages make resident. They are not replayed, and belong to the heap as
    /// it is; a walk does not show whether blocks elsewhere would be in huge pages too.
    pub(super) blank: u64,
    /// Whether glibc serves malloc.
    pub(super) is_glibc: bool,
}

impl Walked {
    /// From a sample in which malloc's heap takes `measured` bytes.
    pub(super) fn of(sample: &Sample, heap: &WalkedHeap<'_>, measured: u64) -> Self {
        let arenas = heap.arenas().len();
        let kernel = &sample.kernel;
        let now = kernel.rss_bytes.saturating_add(kernel.swap_bytes);
        let more = kernel.peak_rss_bytes.saturating_sub(now);
        let unpurged = heap.unpurged_bytes();
        let at_peak = |more: u64| {
            [measured, unpurged, more]
                .into_iter()
                .fold(0, u64::saturating_add)
        };
        let all_heaps = sample.heaps.iter().map(|heap| present(sample, heap)).sum();
        let share = measured as f64 / measured.max(all_heaps).max(1) as f64;
        Self {
            measured,
            rss: (kernel.swap_bytes as f64 <= kernel.rss_bytes as f64 * MOST_SWAPPED)
                .then(|| kernel.rss_bytes.saturating_sub(unpurged)),
            at_peak: at_peak(more),
            likely_at_peak: at_peak(scaled(more, share)),
            threads_per_arena: at_least_one(sample.target.threads.into(), arenas as u64),
            has_threads: arenas > 1,
            live: heap.live_bytes(),
            unknown: heap.unknown_bytes(),
            blank: heap.blank_bytes(),
            is_glibc: heap.allocator() == Allocator::Glibc,
        }
    }

    /// The needs under a candidate.
    pub(super) fn needs(
        &self,
        interpretation: Interpretation,
        is_glibc: bool,
        played: HeapFigures,
    ) -> Option<Needs> {
        let HeapFigures {
            mut all,
            idle_threads,
            baseline,
        } = played;
        let measured = self.measured.saturating_sub(self.blank);
        let own_error = measured.abs_diff(baseline);
        let margin = match interpretation {
            _ if is_glibc && self.has_threads => &OWN_THREADS_MARGIN,
            _ if is_glibc => &OWN_MARGIN,
            Interpretation::Collected | Interpretation::Peak => &KEEPING_MARGIN,
            Interpretation::Baseline
            | Interpretation::Histories
            | Interpretation::Idle
            | Interpretation::UpToPeak => &MARGIN,
        };
        if is_glibc && self.is_glibc {
            // A setting is compared with the same allocator in a replay: the error of both cancels
            // out.
            for bytes in &mut all {
                *bytes = bytes.saturating_add(measured).saturating_sub(baseline);
            }
        }
        let Needs {
            bytes: mut middle,
            low_bytes: low,
            high_bytes: mut high,
        } = self.band(interpretation, &all, measured)?;
        let low = match is_glibc {
            true => low,
            false => self.if_grouped(low, measured),
        };
        if let Some(kept) = idle_threads {
            // Whether all threads are idle, and had blocks of as many sizes, is not known.
            high = high.max(kept);
            middle = geometric_mean(&[middle, middle.max(kept)]);
        }
        if self.blank > 0 {
            high = high.saturating_add(self.blank);
            middle = geometric_mean(&[middle, middle.saturating_add(self.blank)]);
        }
        Some(Needs {
            bytes: middle,
            low_bytes: low.saturating_sub(margin.of(low, margin.below).max(own_error)),
            high_bytes: high
                .saturating_add(margin.of(high, margin.above).max(own_error))
                .saturating_add(self.unknown),
        })
    }

    /// The least need of another allocator whose histories need `low`. In these, blocks that live lie
    /// among the same freed ones as here. Allocators that keep equal sizes together may have what
    /// was freed together in the same pages instead: then they save more of what they save anyway.
    fn if_grouped(&self, low: u64, measured: u64) -> u64 {
        let saved = 1.0 - low as f64 / measured.max(1) as f64;
        let weight = saved.clamp(0.0, 0.5);
        let live = self.live.clamp(1, low.max(1)) as f64;
        (low as f64 * (live / low.max(1) as f64).powf(weight)) as u64
    }

    /// How many times as large malloc's heap may have been at the peak.
    fn larger(&self) -> f64 {
        at_least_one(self.at_peak, self.measured)
    }

    /// How many times as large it probably was.
    fn likely_larger(&self) -> f64 {
        at_least_one(self.likely_at_peak, self.measured)
    }

    /// A candidate's band from the results `all` of its players, before the margin of error is
    /// applied.
    fn band(&self, interpretation: Interpretation, all: &[u64], measured: u64) -> Option<Needs> {
        let (mut low, mut high) = (*all.iter().min()?, *all.iter().max()?);
        let mut middle = geometric_mean(&all[..MIDDLE.min(all.len())]);
        match interpretation {
            Interpretation::Baseline | Interpretation::Histories => {}
            Interpretation::Idle => {
                // Idle from its last free on, it keeps all that had not been purged until then. It
                // is as likely that the program continues.
                let unpurged = all.last().copied().unwrap_or(0);
                middle = geometric_mean(&[middle, unpurged.max(measured)]);
                high = high.max(self.at_peak);
            }
            Interpretation::Collected => {
                if self.has_threads {
                    // Other threads' heaps are collected by these alone.
                    low = low.min(self.live);
                }
                high = scaled(high, self.threads_per_arena).max(scaled(high, self.larger()));
                // Of what it had at the peak it may have returned all or nothing since.
                middle = scaled(middle, self.likely_larger().sqrt());
            }
            Interpretation::Peak => {
                // At the peak, the arenas had their blocks at the same time.
                let together: Vec<u64> = TOGETHER
                    .iter()
                    .filter_map(|at| all.get(*at).copied())
                    .collect();
                middle = scaled(geometric_mean(&together), self.likely_larger());
                high = scaled(high, self.larger());
            }
            Interpretation::UpToPeak => high = high.max(self.at_peak),
        }
        Some(Needs {
            bytes: middle,
            low_bytes: low,
            high_bytes: high,
        })
    }
}

/// The size of a heap's pages that are resident or in swap, in bytes.
fn present(sample: &Sample, heap: &HeapSnapshot) -> u64 {
    let extents = heap.extents.iter();
    extents.map(|e| sample.residency.data_bytes(e.range)).sum()
}

/// `part` per `of`, but at least one.
pub(super) fn at_least_one(part: u64, of: u64) -> f64 {
    (part as f64 / of.max(1) as f64).max(1.0)
}

pub(super) fn scaled(bytes: u64, times: f64) -> u64 {
    (bytes as f64 * times) as u64
}

/// The mean of values that may differ by factors: of 10 and 1000 it is 100.
fn geometric_mean(all: &[u64]) -> u64 {
    let sum: f64 = all.iter().map(|bytes| (*bytes.max(&1) as f64).ln()).sum();
    (sum / all.len() as f64).exp().round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn walked() -> Walked {
        Walked {
            measured: 100 * MIB,
            rss: Some(150 * MIB),
            at_peak: 150 * MIB,
            likely_at_peak: 150 * MIB,
            threads_per_arena: 2.0,
            has_threads: false,
            live: 10 * MIB,
            unknown: 0,
            blank: 0,
            is_glibc: true,
        }
    }

    fn needs(
        walked: &Walked,
        interpretation: Interpretation,
        is_glibc: bool,
        all: [u64; 4],
        baseline: u64,
    ) -> Needs {
        let all = all.map(|mib| mib * MIB).to_vec();
        let played = HeapFigures {
            all,
            idle_threads: None,
            baseline: baseline * MIB,
        };
        let needs = walked.needs(interpretation, is_glibc, played);
        needs.expect("it was played")
    }

    #[test]
    fn the_middle_is_of_the_first_two_and_the_band_of_all() {
        let full = Walked {
            live: 20 * MIB,
            ..walked()
        };
        let found = needs(
            &full,
            Interpretation::Histories,
            false,
            [40, 90, 20, 200],
            100,
        );
        assert_eq!(found.bytes, 60 * MIB);
        assert_eq!(found.low_bytes, 19 * MIB, "the least margin");
        assert_eq!(found.high_bytes, 220 * MIB, "a tenth above");
    }

    #[test]
    fn what_the_baseline_is_off_by_cancels_for_its_own_settings_and_widens_the_band() {
        let found = needs(&walked(), Interpretation::Histories, true, [50; 4], 103);
        assert_eq!(found.bytes, 47 * MIB);
        assert_eq!((found.low_bytes, found.high_bytes), (44 * MIB, 50 * MIB));
        let other = needs(&walked(), Interpretation::Histories, false, [50; 4], 103);
        assert_eq!(other.bytes, 50 * MIB);
    }

    #[test]
    fn allocators_that_give_nothing_back_are_judged_by_the_peak() {
        let found = needs(&walked(), Interpretation::Peak, false, [100; 4], 100);
        assert_eq!(found.bytes, 150 * MIB);
        let back = needs(&walked(), Interpretation::UpToPeak, true, [80; 4], 100);
        assert!(back.high_bytes >= 150 * MIB, "{back:?}");
        assert_eq!(back.bytes, 80 * MIB);
    }

    #[test]
    fn what_was_freed_together_may_lie_together_where_another_allocator_saves() {
        let mut walked = walked();
        walked.live = 16 * MIB;
        let low = |all| {
            let needs = needs(&walked, Interpretation::Histories, false, all, 100);
            needs.low_bytes
        };
        // Half of it is saved anyway: the root of 16 and 49, less the margin.
        assert_eq!(low([49; 4]), 27 * MIB);
        assert_eq!(low([100; 4]), 97 * MIB, "nothing is saved");
    }

    #[test]
    fn an_allocator_that_gives_nothing_back_had_all_arenas_at_once() {
        let walked = Walked {
            live: 20 * MIB,
            ..walked()
        };
        let tcmalloc = needs(&walked, Interpretation::Peak, false, [90, 20, 30, 90], 100);
        assert_eq!(
            tcmalloc.bytes,
            135 * MIB,
            "not of arenas one after the other"
        );
        assert_eq!(tcmalloc.low_bytes, 19 * MIB, "which is possible");
    }

    #[test]
    fn threads_leave_something_else_in_their_arenas_each_time() {
        let mut walked = walked();
        let one = needs(&walked, Interpretation::Histories, true, [90; 4], 100);
        walked.has_threads = true;
        let several = needs(&walked, Interpretation::Histories, true, [90; 4], 100);
        assert_eq!(several.bytes, one.bytes);
        assert!(several.high_bytes > 97 * MIB && one.high_bytes < 91 * MIB);
    }

    #[test]
    fn a_small_heap_may_have_had_all_that_the_process_had_more_at_its_peak() {
        // Of 315 MiB malloc takes 22 now, and the process took 106 more: large blocks, given back since.
        let walked = Walked {
            measured: 22 * MIB,
            at_peak: 128 * MIB,
            likely_at_peak: 75 * MIB,
            ..walked()
        };
        let tcmalloc = needs(&walked, Interpretation::Peak, false, [24; 4], 22);
        assert!(tcmalloc.high_bytes >= 128 * MIB, "{tcmalloc:?}");
        assert_eq!(tcmalloc.bytes, scaled(24 * MIB, 75.0 / 22.0));
        let glibc = needs(&walked, Interpretation::UpToPeak, true, [22; 4], 22);
        assert!(glibc.high_bytes >= 128 * MIB, "{glibc:?}");
        assert_eq!(glibc.bytes, 22 * MIB);
    }

    #[test]
    fn one_that_purges_only_when_called_may_never_have_purged() {
        let walked = Walked {
            at_peak: 104 * MIB,
            likely_at_peak: 102 * MIB,
            ..walked()
        };
        // The last is of a program that is idle once all was freed.
        let idle = needs(&walked, Interpretation::Idle, false, [64, 64, 60, 81], 100);
        assert_eq!(
            idle.bytes,
            80 * MIB,
            "between one that goes on and one that does not"
        );
        assert!(idle.high_bytes >= 104 * MIB, "{idle:?}");
        assert!(idle.low_bytes < 60 * MIB, "{idle:?}");
    }

    #[test]
    fn an_allocator_that_collects_later_may_keep_it_all() {
        let mut walked = walked();
        let found = needs(
            &walked,
            Interpretation::Collected,
            false,
            [80, 80, 80, 20],
            100,
        );
        let middle = scaled(80 * MIB, 1.5f64.sqrt());
        assert_eq!(
            found.bytes, middle,
            "between what it has before it collects, now and at the peak"
        );
        assert!(
            found.high_bytes >= 200 * MIB,
            "each thread keeps its own, and it gives back little: {found:?}"
        );
        walked.has_threads = true;
        let threads = needs(
            &walked,
            Interpretation::Collected,
            false,
            [80, 80, 80, 20],
            100,
        );
        assert_eq!(threads.bytes, middle);
        assert_eq!(threads.low_bytes, 9 * MIB);
    }

    #[test]
    fn threads_that_are_idle_may_keep_what_their_caches_have() {
        let of = |idle_threads: Option<u64>| {
            let played = HeapFigures {
                all: vec![40 * MIB; 4],
                idle_threads: idle_threads.map(|mib| mib * MIB),
                baseline: 100 * MIB,
            };
            let needs = walked().needs(Interpretation::Histories, false, played);
            needs.expect("it was played")
        };
        let kept = of(Some(160));
        assert_eq!(kept.bytes, 80 * MIB);
        assert_eq!(kept.high_bytes, 176 * MIB);
        assert_eq!(kept.low_bytes, of(None).low_bytes);
        assert_eq!(of(Some(30)), of(None), "they keep nothing");
    }

    #[test]
    fn blocks_that_are_not_known_may_all_be_needed() {
        let mut walked = walked();
        let known = needs(&walked, Interpretation::Histories, false, [50; 4], 100);
        walked.unknown = 7 * MIB;
        let found = needs(&walked, Interpretation::Histories, false, [50; 4], 100);
        assert_eq!(found.high_bytes, known.high_bytes + 7 * MIB);
        assert_eq!(found.low_bytes, known.low_bytes);
    }
}
