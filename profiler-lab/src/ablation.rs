//! The gap between glibc and jemalloc in parts: each the difference of two replays.

use super::candidates::Mechanism;
use super::figures::PeakAndFinal;
use super::report::Share;

/// The parts of the gap from `glibc` to `jemalloc`. Each of `steps` undoes one mechanism more than
/// the one before; its bytes are what that took away. The last step is jemalloc without decay, which
/// what is left unexplained leads to. All parts sum to the gap.
pub fn shares(
    glibc: PeakAndFinal<u64>,
    steps: &[(Mechanism, PeakAndFinal<u64>)],
    jemalloc: PeakAndFinal<u64>,
) -> Vec<Share> {
    let mut before = glibc;
    let last = (Mechanism::Decay, jemalloc);
    let all = steps.iter().chain([&last]).map(|(mechanism, after)| {
        let share = Share {
            mechanism: *mechanism,
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

/// What a mechanism is, in words that go on after its bytes.
pub const fn in_words(mechanism: Mechanism) -> &'static str {
    match mechanism {
        Mechanism::DynamicThreshold => "large blocks on the heap, as the mmap threshold grew",
        Mechanism::ThreadCaches => "chunks cached by threads, and what they pin",
        Mechanism::Arenas => "memory that is free in one thread's arena only",
        Mechanism::Untrimmed => "free pages that glibc does not give back by itself",
        Mechanism::Decay => "free pages that jemalloc keeps for a while",
        Mechanism::Unexplained => "unexplained: headers, size classes, and where blocks lie",
    }
}

/// Whether a setting of glibc's, or a call, does something about a mechanism.
pub const fn has_remedy(mechanism: Mechanism) -> bool {
    match mechanism {
        Mechanism::DynamicThreshold
        | Mechanism::ThreadCaches
        | Mechanism::Arenas
        | Mechanism::Untrimmed => true,
        Mechanism::Unexplained | Mechanism::Decay => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_sum_to_the_gap() {
        let both = |peak, at_end| PeakAndFinal { peak, at_end };
        let steps = [
            (Mechanism::DynamicThreshold, both(100, 80)),
            (Mechanism::ThreadCaches, both(101, 60)),
            (Mechanism::Untrimmed, both(90, 20)),
            (Mechanism::Unexplained, both(95, 18)),
        ];
        let found = shares(both(100, 90), &steps, both(110, 25));
        let parts: Vec<_> = found
            .iter()
            .map(|share| (share.mechanism, share.bytes.peak, share.bytes.at_end))
            .collect();
        assert_eq!(
            parts,
            [
                (Mechanism::DynamicThreshold, 0, 10),
                (Mechanism::ThreadCaches, -1, 20),
                (Mechanism::Untrimmed, 11, 40),
                (Mechanism::Unexplained, -5, 2),
                (Mechanism::Decay, -15, -7),
            ]
        );
        let sum: i64 = found.iter().map(|share| share.bytes.at_end).sum();
        assert_eq!(sum, 90 - 25);
        let sum: i64 = found.iter().map(|share| share.bytes.peak).sum();
        assert_eq!(sum, 100 - 110);
    }
}
