//! Splits the gap between glibc and jemalloc into parts, each the difference of two replays.

use profiler_core::allocator::{BuildId, Environment};
use profiler_core::mechanism::Mechanism;
use profiler_core::tuning::{self, Tuning};

use super::allocators::PlayableAllocator;
use super::candidates::{Candidate, Facts, Trim};
use super::failure::Failure;
use super::figures::PeakAndFinal;

/// Why a program needs more under glibc than under jemalloc.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum GapCause {
    /// glibc raises its mmap threshold when a mapped block is freed: large blocks then end up on
    /// the heap.
    DynamicThreshold,
    /// Cached chunks, and the chunks that they prevent from being merged and trimmed.
    ThreadCaches,
    /// Each thread's arena has its own free memory.
    Arenas,
    /// Whole free pages that glibc does not return by itself.
    Untrimmed,
    /// The difference that remains between glibc with all of that undone and jemalloc without
    /// decay.
    Unexplained,
    /// Free pages that jemalloc keeps for a while: negative if it keeps some.
    Decay,
}

/// A part of the gap between glibc and jemalloc.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Which cause.
    pub cause: GapCause,
    /// Its bytes; negative if undoing it costs memory.
    pub bytes: PeakAndFinal<i64>,
}

impl GapCause {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DynamicThreshold => Mechanism::DynamicMmapThreshold.name(),
            Self::ThreadCaches => "thread_caches",
            Self::Arenas => "arenas",
            Self::Untrimmed => "untrimmed_free_memory",
            Self::Unexplained => "unexplained",
            Self::Decay => "jemalloc_decay",
        }
    }

    /// A phrase that follows its bytes.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::DynamicThreshold => "large blocks on the heap, as the mmap threshold grew",
            Self::ThreadCaches => "chunks cached by threads, and what they pin",
            Self::Arenas => "memory that is free in one thread's arena only",
            Self::Untrimmed => "free pages that glibc does not give back by itself",
            Self::Decay => "free pages that jemalloc keeps for a while",
            Self::Unexplained => "unexplained: headers, size classes, and where blocks lie",
        }
    }

    /// The mechanism that findings use for it; `None` if that part of the gap is not glibc's
    /// fragmentation.
    pub const fn mechanism(self) -> Option<Mechanism> {
        match self {
            Self::DynamicThreshold => Some(Mechanism::DynamicMmapThreshold),
            Self::ThreadCaches => Some(Mechanism::Caches),
            Self::Arenas => Some(Mechanism::ArenaSprawl),
            Self::Untrimmed => Some(Mechanism::Untrimmed),
            Self::Unexplained | Self::Decay => None,
        }
    }

    /// Whether a glibc setting or a call can do something about it.
    pub const fn has_remedy(self) -> bool {
        self.mechanism().is_some()
    }
}

/// The steps from unchanged glibc to glibc with all remedies, each adding one to the previous ones,
/// and jemalloc without decay: the change in each step is the share of a cause.
pub fn steps(facts: &Facts<'_>) -> Vec<(GapCause, Candidate)> {
    let mut env = facts.env.clone();
    let mut all = Vec::new();
    let mut step = |cause: GapCause, tuning: Option<&Tuning>, trim| {
        if let Some(tuning) = tuning {
            env.assign(tuning.allocator, tuning.sets);
        }
        let glibc = Ok(PlayableAllocator::glibc());
        let mut candidate = Candidate::called(cause.name(), glibc, env.clone());
        candidate.trim = trim;
        all.push((cause, candidate));
    };
    step(
        GapCause::DynamicThreshold,
        Some(&tuning::MMAP_THRESHOLD),
        Trim::Never,
    );
    step(
        GapCause::ThreadCaches,
        Some(&tuning::NO_TCACHE),
        Trim::Never,
    );
    if facts.threads > 1 {
        step(GapCause::Arenas, Some(&tuning::ONE_ARENA), Trim::Never);
    }
    step(GapCause::Untrimmed, None, Trim::AtCheckpoints);
    let jemalloc = PlayableAllocator::to_preload(BuildId::Jemalloc, None).map_err(Failure::from);
    let undecayed = Environment::default();
    let undecayed = Candidate::tuned(&tuning::JEMALLOC_NO_DECAY, jemalloc, undecayed);
    all.push((GapCause::Unexplained, undecayed));
    all
}

/// The parts of the gap from `glibc` to `jemalloc`. Each of `steps` undoes one more cause than the
/// previous one; the bytes that this saves are its part. The last step is jemalloc without decay;
/// the part up to it is the unexplained one. All parts sum to the gap.
pub fn shares(
    glibc: PeakAndFinal<u64>,
    steps: &[(GapCause, PeakAndFinal<u64>)],
    jemalloc: PeakAndFinal<u64>,
) -> Vec<Share> {
    let mut before = glibc;
    let last = (GapCause::Decay, jemalloc);
    let all = steps.iter().chain([&last]).map(|(cause, after)| {
        let share = Share {
            cause: *cause,
            bytes: before.zip(*after).map(difference),
        };
        before = *after;
        share
    });
    all.collect()
}

fn difference((before, after): (u64, u64)) -> i64 {
    i64::try_from(i128::from(before) - i128::from(after)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_sets_undoes_the_mechanism_of_its_cause() {
        for (cause, tuning) in [
            (GapCause::DynamicThreshold, &tuning::MMAP_THRESHOLD),
            (GapCause::Arenas, &tuning::ONE_ARENA),
            (GapCause::Untrimmed, &tuning::TRIM),
        ] {
            assert_eq!(tuning.undoes, cause.mechanism(), "{cause:?}");
        }
    }

    #[test]
    fn the_parts_sum_to_the_gap() {
        let both = |peak, at_end| PeakAndFinal { peak, at_end };
        let steps = [
            (GapCause::DynamicThreshold, both(100, 80)),
            (GapCause::ThreadCaches, both(101, 60)),
            (GapCause::Untrimmed, both(90, 20)),
            (GapCause::Unexplained, both(95, 18)),
        ];
        let found = shares(both(100, 90), &steps, both(110, 25));
        let parts: Vec<_> = found
            .iter()
            .map(|share| (share.cause, share.bytes.peak, share.bytes.at_end))
            .collect();
        assert_eq!(
            parts,
            [
                (GapCause::DynamicThreshold, 0, 10),
                (GapCause::ThreadCaches, -1, 20),
                (GapCause::Untrimmed, 11, 40),
                (GapCause::Unexplained, -5, 2),
                (GapCause::Decay, -15, -7),
            ]
        );
        let sum: i64 = found.iter().map(|share| share.bytes.at_end).sum();
        assert_eq!(sum, 90 - 25);
        let sum: i64 = found.iter().map(|share| share.bytes.peak).sum();
        assert_eq!(sum, 100 - 110);
    }
}
