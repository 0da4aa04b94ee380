//! Sums over the processes of a host, and the cost of watching them.

use super::ProcessRow;
use crate::units::{bytes, count, nanoseconds};

/// Sums of several processes, in bytes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// How many.
    pub processes: usize,
    /// How many of them were walked.
    pub walked: usize,
    /// Sum of PSS, in which shared pages count once if all processes that share them are included.
    pub pss_bytes: u64,
    /// Sum of USS.
    pub uss_bytes: u64,
    /// Sum of swap.
    pub swap_bytes: u64,
    /// Sum of what trims would return, of those that were walked.
    pub trim_returnable_bytes: u64,
}

impl Totals {
    /// Of rows.
    pub fn of<'a>(rows: impl Iterator<Item = &'a ProcessRow>) -> Self {
        rows.fold(Self::default(), |sum, row| {
            let memory = row.process.memory;
            let trim = row
                .walk
                .as_ref()
                .and_then(|walk| walk.trim_returnable_bytes);
            let add = |sum: u64, more: Option<u64>| sum.saturating_add(more.unwrap_or(0));
            Self {
                processes: sum.processes + 1,
                walked: sum.walked + usize::from(row.walk.is_some()),
                pss_bytes: add(sum.pss_bytes, memory.pss_bytes),
                uss_bytes: add(sum.uss_bytes, memory.uss_bytes),
                swap_bytes: add(sum.swap_bytes, memory.swap_bytes),
                trim_returnable_bytes: add(sum.trim_returnable_bytes, trim),
            }
        })
    }
}

impl Totals {
    /// Properties of several processes, as short phrases.
    pub fn phrases(&self, what: &str) -> Vec<String> {
        let mut phrases = vec![
            match self.processes {
                1 => format!("1 {what}process"),
                count => format!("{count} {what}processes"),
            },
            format!("PSS {}", bytes(self.pss_bytes)),
            format!("USS {}", bytes(self.uss_bytes)),
            format!("swap {}", bytes(self.swap_bytes)),
        ];
        if self.walked > 0 {
            phrases.push(format!(
                "trims return {}",
                bytes(self.trim_returnable_bytes)
            ));
        }
        match self.walked {
            0 => phrases.push("none walked yet".into()),
            some if some < self.processes => phrases.push(format!("{some} walked")),
            _ => {}
        }
        phrases
    }
}

impl Cost {
    /// Processor time as a share of one core.
    pub fn cpu_share(&self) -> f64 {
        self.cpu_ns as f64 / self.elapsed_ns.max(1) as f64
    }

    /// What watching took, in short phrases.
    pub fn phrases(&self) -> Vec<String> {
        let mut phrases = vec![format!("cost {:.1} % of a core", self.cpu_share() * 100.0)];
        if self.walks > 0 {
            phrases.push(match self.walks {
                1 => "1 walk".into(),
                walks => format!("{} walks", count(walks)),
            });
            phrases.push(format!("stopped {} in all", nanoseconds(self.stop_ns)));
            phrases.push(format!("longest {}", nanoseconds(self.longest_stop_ns)));
        }
        phrases
    }
}

/// The cost of watching so far.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Cost {
    /// How long it has been watched, in ns.
    pub elapsed_ns: u64,
    /// Processor time of fragscope, in nanoseconds.
    pub cpu_ns: u64,
    /// Walks.
    pub walks: u64,
    /// How long processes were stopped, all together, in nanoseconds.
    pub stop_ns: u64,
    /// The longest time that one was stopped for a walk, in nanoseconds.
    pub longest_stop_ns: u64,
    /// How long walks stopped their processes: how many for how long.
    pub stops: StopCounts,
    /// Walks without a result, except those of processes that ended.
    pub failed_walks: u64,
}

/// Bounds between which [`StopCounts`] counts, in nanoseconds, each included.
pub const STOP_BOUNDS_NS: [u64; 11] = [
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];

/// Walks by the time that they stopped their process for.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct StopCounts([u64; STOP_BOUNDS_NS.len() + 1]);

impl StopCounts {
    /// Counts one.
    pub fn count(&mut self, stop_ns: u64) {
        let at = STOP_BOUNDS_NS.partition_point(|bound| *bound < stop_ns);
        self.0[at] += 1;
    }

    /// Up to and with each of the bounds, and all.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = STOP_BOUNDS_NS.into_iter().map(Some).chain([None]);
        let mut sum = 0;
        bounds.zip(self.0).map(move |(bound, count)| {
            sum += count;
            (bound, sum)
        })
    }
}
