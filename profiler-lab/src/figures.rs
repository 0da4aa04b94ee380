//! Computes figures from measurements at checkpoints: peak, final, medians and ranges.

use profiler_trace::compile::{ProcessEnd, ProgramCheckpoint};

/// Processes of a program that end within this many ns of each other end together: a server's
/// workers and the server.
const SHUTDOWN_NS: u64 = 500_000_000;
/// The number of the program's first process.
const FIRST: u32 = 0;

/// A figure that may have several measurements.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Figure {
    /// The median of the runs.
    pub bytes: u64,
    /// The smallest of all, including those that only widen the range.
    pub low_bytes: u64,
    /// The largest of all.
    pub high_bytes: u64,
}

/// The peak and the final value of something. Each has one definition: [`PeakAndFinal::of`]
/// implements it, and the glossary has it in words.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct PeakAndFinal<T> {
    /// The most at any checkpoint.
    pub peak: T,
    /// At the last checkpoint: "final" on screens, `rest_bytes` in JSON.
    pub at_end: T,
}

/// A checkpoint: its process, and how much was resident.
pub type At = (u32, u64);

impl PeakAndFinal<u64> {
    /// The most that all processes together had at once, and what they had last; `None` without any
    /// checkpoint. A process counts from its first checkpoint to its end. If its end is not known,
    /// checkpoints come in rounds, one of each running process, and it counts to the end of its
    /// last round.
    pub fn of(checkpoints: &[At]) -> Option<Self> {
        Self::of_ending(checkpoints, &Endings::default())
    }

    /// The same, if the ends of some processes are known.
    pub fn of_ending(checkpoints: &[At], endings: &Endings) -> Option<Self> {
        let rounds = rounds(checkpoints);
        let mut sums = vec![0u64; checkpoints.len()];
        let mut at_end = 0u64;
        for (at, (process, bytes)) in checkpoints.iter().enumerate() {
            let mut later = checkpoints.iter().enumerate().skip(at + 1);
            let next = later.find(|(_, (other, _))| other == process);
            // It stays as it was until its next checkpoint.
            let end = match next {
                Some((next, _)) => next,
                None if endings.lasting.contains(process) => sums.len(),
                None if endings.before.contains(process) => at + 1,
                None => match endings.at(*process) {
                    Some(end) => end.clamp(at + 1, sums.len()),
                    // It is there as long as nothing says that it ended.
                    None if *process == FIRST => sums.len(),
                    None => rounds.partition_point(|round| *round <= rounds[at]),
                },
            };
            for sum in &mut sums[at..end] {
                *sum = sum.saturating_add(*bytes);
            }
            if end == sums.len() && !endings.only_played.contains(process) {
                at_end = at_end.saturating_add(*bytes);
            }
        }
        let peak = *sums.iter().max()?;
        Some(Self { peak, at_end })
    }
}

/// When processes ended that were measured as they did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Endings {
    /// The processes that ended with the program: their last values count to the last checkpoint,
    /// even if the others ended a moment later.
    pub lasting: Vec<u32>,
    /// Those that ended before: nothing counts after their last checkpoint.
    pub before: Vec<u32>,
    /// Processes that were not measured as they ended, each with how many checkpoints came before.
    pub unmeasured: Vec<ProcessEnd>,
    /// Those of which nothing was recorded at all: they count to the peak, and are not part of the
    /// final value.
    pub only_played: Vec<u32>,
}

impl<T> PeakAndFinal<T> {
    /// Both, changed alike.
    pub fn map<U>(self, change: impl Fn(T) -> U) -> PeakAndFinal<U> {
        PeakAndFinal {
            peak: change(self.peak),
            at_end: change(self.at_end),
        }
    }

    /// Both paired with another's.
    pub fn zip<U>(self, other: PeakAndFinal<U>) -> PeakAndFinal<(T, U)> {
        PeakAndFinal {
            peak: (self.peak, other.peak),
            at_end: (self.at_end, other.at_end),
        }
    }
}

/// The round of each checkpoint: a new one begins when a process comes again.
fn rounds(checkpoints: &[At]) -> Vec<usize> {
    let (mut round, mut met) = (0, Vec::new());
    let numbers = checkpoints.iter().map(|(process, _)| {
        if met.contains(process) {
            round += 1;
            met.clear();
        }
        met.push(*process);
        round
    });
    numbers.collect()
}

impl Endings {
    /// How the processes of these checkpoints ended. A process ended with the program if it ended
    /// after the very last checkpoint, or if its measurement at its end, or while it ran on, came
    /// shortly before that checkpoint and no process began after that in its place.
    pub fn of(checkpoints: &[ProgramCheckpoint], ends: &[ProcessEnd]) -> Self {
        let Some(end_ns) = checkpoints.last().map(|at| at.checkpoint.time_ns) else {
            return Self::default();
        };
        let newest_ns = checkpoints.iter().map(|at| at.began_ns).max().unwrap_or(0);
        let was_recorded = |end: &&ProcessEnd| {
            let mut all = checkpoints.iter();
            all.any(|at| at.recorded && at.checkpoint.process == end.process)
        };
        let only_played = ends
            .iter()
            .filter(|end| end.process != FIRST && !was_recorded(end));
        let mut endings = Self {
            unmeasured: ends.to_vec(),
            only_played: only_played.map(|end| end.process).collect(),
            ..Self::default()
        };
        for ProgramCheckpoint { checkpoint, .. } in checkpoints {
            endings
                .lasting
                .retain(|process| *process != checkpoint.process);
            endings
                .before
                .retain(|process| *process != checkpoint.process);
            if checkpoint.figures.is_final {
                let is_shortly_before = end_ns.saturating_sub(checkpoint.time_ns) <= SHUTDOWN_NS
                    && checkpoint.time_ns >= newest_ns;
                let end = endings.at(checkpoint.process);
                let is_last = is_shortly_before || end.is_some_and(|end| end >= checkpoints.len());
                let ended = match is_last {
                    true => &mut endings.lasting,
                    false => &mut endings.before,
                };
                ended.push(checkpoint.process);
            }
        }
        endings
    }

    /// Whether a process's last measurement is part of the final figure: it ran to the last of
    /// `checkpoints` checkpoints, or is not known to have ended earlier.
    pub fn counts_to_end(&self, process: u32, checkpoints: usize) -> bool {
        let ended = self.at(process).is_some_and(|end| end < checkpoints);
        !ended && !self.before.contains(&process) && !self.only_played.contains(&process)
    }

    /// How many checkpoints come before the end of a process that was not measured then.
    fn at(&self, process: u32) -> Option<usize> {
        let mut ends = self.unmeasured.iter();
        Some(ends.find(|end| end.process == process)?.checkpoints)
    }
}

/// The median; of two in the middle, the lower one.
pub fn median<T: Copy + PartialOrd>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use profiler_trace::compile::ObjectBytes;
    use profiler_trace::trace::{Checkpoint, Figures};

    use super::*;

    fn of(checkpoints: &[At]) -> Option<(u64, u64)> {
        PeakAndFinal::of(checkpoints).map(|both| (both.peak, both.at_end))
    }

    #[test]
    fn the_last_checkpoint_is_final() {
        assert_eq!(of(&[(0, 5), (0, 9), (0, 7)]), Some((9, 7)));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn processes_count_from_their_first_checkpoint_to_their_last() {
        let checkpoints = [
            (0, 10),
            (0, 10),
            (1, 4),
            (2, 5),
            (0, 10),
            (2, 6),
            (0, 11),
            (2, 7),
        ];
        assert_eq!(of(&checkpoints), Some((19, 18)));
    }

    #[test]
    fn a_process_is_as_it_was_until_its_next_checkpoint() {
        let checkpoints = [(0, 10), (1, 4), (0, 20), (0, 10), (1, 4)];
        assert_eq!(of(&checkpoints), Some((24, 14)));
    }

    #[test]
    fn processes_that_end_with_the_program_count_to_its_end() {
        let at = |process, tenths: u64, is_final| ProgramCheckpoint {
            checkpoint: Checkpoint {
                time_ns: tenths * 100_000_000,
                process,
                figures: Figures {
                    is_final,
                    ..Figures::default()
                },
            },
            recorded: true,
            began_ns: 0,
            live_bytes: 0,
            objects: ObjectBytes::default(),
            events: 0,
        };
        let mut checkpoints = [
            at(1, 10, true),
            at(0, 20, false),
            at(2, 20, false),
            at(3, 20, true),
            at(4, 21, true),
            at(3, 22, false),
            at(2, 28, true),
            at(4, 29, true),
            at(0, 30, true),
        ];
        let endings = Endings::of(&checkpoints, &[]);
        assert_eq!(
            (&*endings.lasting, &*endings.before),
            (&[2, 4, 0][..], &[1][..])
        );
        // A process that began after another had ended takes its place.
        checkpoints[7].began_ns = 2_850_000_000;
        assert_eq!(Endings::of(&checkpoints, &[]).lasting, [4, 0]);
        // A round of final checkpoints may take longer than that: a process that ended after the
        // last of them was there.
        let end = |process, checkpoints| ProcessEnd {
            process,
            checkpoints,
        };
        let of_ends = |ends: &[ProcessEnd]| Endings::of(&checkpoints, ends).lasting;
        assert_eq!(of_ends(&[end(1, 9), end(3, 6)]), [1, 4, 0]);
        assert_eq!(of_ends(&[end(1, 1)]), [4, 0]);
        assert_eq!(Endings::of(&[], &[]), Endings::default());
        // A worker, and a moment later the server itself.
        let checkpoints = [(0, 50), (2, 40), (2, 30), (0, 9), (0, 8)];
        let endings = Endings {
            lasting: vec![2, 0],
            ..Endings::default()
        };
        let both = PeakAndFinal::of_ending(&checkpoints, &endings).expect("some");
        assert_eq!((both.peak, both.at_end), (90, 38));
        assert_eq!(of(&checkpoints), Some((90, 8)));
    }

    #[test]
    fn children_that_come_after_one_another_never_count_together() {
        let checkpoints = [(1, 40), (2, 41), (3, 42), (0, 2)];
        let endings = Endings {
            lasting: vec![0],
            before: vec![1, 2, 3],
            ..Endings::default()
        };
        let both = PeakAndFinal::of_ending(&checkpoints, &endings).expect("some");
        assert_eq!((both.peak, both.at_end), (42, 2));
    }

    #[test]
    fn a_process_that_was_not_measured_as_it_ended_counts_to_its_end() {
        let checkpoints = [(0, 2), (1, 40), (2, 41), (0, 3), (0, 2)];
        let end = |process, checkpoints| ProcessEnd {
            process,
            checkpoints,
        };
        let of = |unmeasured| {
            let endings = Endings {
                unmeasured,
                ..Endings::default()
            };
            let both = PeakAndFinal::of_ending(&checkpoints, &endings).expect("some");
            (both.peak, both.at_end)
        };
        // One after the other, side by side, and the second to the last moment.
        assert_eq!(of(vec![end(1, 2), end(2, 3)]), (43, 2));
        assert_eq!(of(vec![end(1, 4), end(2, 4)]), (84, 2));
        assert_eq!(of(vec![end(1, 2), end(2, 5)]), (44, 43));
        // As a damaged program may claim.
        assert_eq!(of(vec![end(1, 0), end(2, 99)]), (44, 43));
    }

    #[test]
    fn a_child_of_which_nothing_was_recorded_is_in_the_peak_and_not_in_what_is_final() {
        let at = |process, recorded| ProgramCheckpoint {
            checkpoint: Checkpoint {
                process,
                ..Checkpoint::default()
            },
            recorded,
            began_ns: 0,
            live_bytes: 0,
            objects: ObjectBytes::default(),
            events: 0,
        };
        let checkpoints = [at(0, true), at(1, true), at(2, false)];
        let ends = [1, 2].map(|process| ProcessEnd {
            process,
            checkpoints: 3,
        });
        let endings = Endings::of(&checkpoints, &ends);
        assert_eq!(endings.only_played, [2]);
        let both = PeakAndFinal::of_ending(&[(0, 5), (1, 3), (2, 90)], &endings);
        let both = both.expect("some");
        assert_eq!((both.peak, both.at_end), (98, 8));
    }

    #[test]
    fn a_median_is_one_of_the_values() {
        assert_eq!(median(&[3, 1, 2]), Some(2));
        assert_eq!(median(&[4, 1, 2, 3]), Some(2));
        assert_eq!(median::<u64>(&[]), None);
    }
}
