//! The result of a replay as plain data, from which text and JSON are made.

use profiler_core::allocator::{Allocator, AllocatorTitle, UnknownEnvironment};
use profiler_core::candidate::CandidateName;
use profiler_core::prediction::saving_stands;
use profiler_core::worth;
use profiler_trace::limits::Incomplete;

use super::ablation::Share;
use super::allocators::PlayableAllocator;
use super::calibrate::Calibration;
use super::failure::Failure;
use super::figures::{Figure, PeakAndFinal};

/// The whole report.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was replayed.
    pub trace: TraceFacts,
    /// How far the replay can be trusted.
    pub calibration: Calibration,
    /// What the program had, then all others by what they need at the end; failed ones come last.
    pub candidates: Vec<CandidateReport>,
    /// The gap between glibc and jemalloc in parts; empty when one of the two is not known.
    pub shares: Vec<Share>,
    /// What to do, in sentences.
    pub verdict: String,
    /// Whether the user stopped it before everything was replayed.
    pub interrupted: bool,
    /// What this kernel or fragscope's privileges do not allow for confining players, in sentences.
    pub not_confined: Vec<String>,
}

/// What a trace says about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceFacts {
    /// Its file.
    pub path: String,
    /// The program's command line.
    pub command: Option<String>,
    /// Its pid.
    pub pid: Option<u64>,
    /// Python's name and version.
    pub python: Option<String>,
    /// The C library.
    pub libc: Option<String>,
    /// The allocator that it had.
    pub malloc: Option<AllocatorTitle>,
    /// Processors that it could run on.
    pub cpus: Option<u64>,
    /// When it was recorded.
    pub started_at: Option<String>,
    /// The foreign format from which it was read.
    pub format: Option<String>,
    /// What that format does not hold.
    pub lacks: Vec<String>,
    /// Events.
    pub events: u64,
    /// Events lost.
    pub lost: u64,
    /// Events that were left out: those of threads or processes beyond the limits.
    pub left_out: u64,
    /// Threads.
    pub threads: u32,
    /// Processes.
    pub processes: u32,
    /// How long the recording took, in nanoseconds: to its last event or checkpoint.
    pub duration_ns: u64,
    /// Whether all figures include the memory of Python's object allocator, because the requests to
    /// it were recorded.
    pub has_objects: bool,
    /// Whether those requests were to be recorded but are missing.
    pub lacks_objects: bool,
    /// Calls of `malloc_trim`: they are played too.
    pub trims: u64,
    /// The most bytes live at once, as requested.
    pub peak_live_bytes: u64,
    /// Bytes live at the final checkpoint, likewise; `None` without any checkpoint.
    pub live_at_final_bytes: Option<u64>,
    /// Bytes live at the end of the recording, which is later, likewise; `None` if the program was
    /// seen to end and took apart what it had.
    pub kept_bytes: Option<u64>,
    /// Checkpoints with the program's resident memory.
    pub checkpoints: u64,
    /// The time of the last checkpoint, which gives the final value, in nanoseconds as above.
    pub last_checkpoint_ns: u64,
    /// Why it was not read to its end.
    pub trouble: Option<Incomplete>,
    /// Why it is unknown which settings the program had: the baseline has the defaults.
    pub environment_unknown: Option<UnknownEnvironment>,
    /// Variables of it that players did not get, as `NAME=VALUE`.
    pub not_taken: Vec<String>,
    /// Why its allocator was not loaded, or is not known.
    pub not_loaded: Option<Failure>,
}

impl TraceFacts {
    /// Whether events of the program are missing from the replay. A file may claim to lack any
    /// number.
    pub const fn lacks_events(&self) -> bool {
        self.lost > 0 || self.left_out > 0
    }
}

/// One candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct CandidateReport {
    /// Its name: a build's name stands for its defaults.
    pub name: CandidateName,
    /// What was replayed; `None` if it is not available.
    pub allocator: Option<PlayableAllocator>,
    /// Whether it is what the program had.
    pub is_baseline: bool,
    /// Whether Python calls malloc for its objects under it.
    pub objects: bool,
    /// All variables that it needs.
    pub env: Vec<(String, String)>,
    /// The ones of them to set where the program ran.
    pub set: Vec<(String, String)>,
    /// Those to unset there.
    pub unset: Vec<String>,
    /// What else must be done.
    pub step: Option<String>,
    /// What it costs, in words.
    pub price: String,
    /// The measurements; `None` if it failed.
    pub measured: Option<Measured>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Why it was not replayed because it is the same as what the program had.
    pub same_as_now: Option<String>,
    /// Its place among the completed ones, from 1.
    pub rank: Option<PeakAndFinal<usize>>,
    /// The replayed value at each checkpoint of the trace.
    pub checkpoints: Vec<Checkpoint>,
}

/// One candidate at one checkpoint.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Nanoseconds since the recording began.
    pub time_ns: u64,
    /// The process, by its number in the trace.
    pub process: u32,
    /// malloc's resident bytes, the median of the runs.
    pub resident_bytes: u64,
    /// The least of all runs, including those with large blocks untouched if that is uncertain.
    pub low_bytes: u64,
    /// The most of all runs.
    pub high_bytes: u64,
    /// What the real program had, under its own allocator.
    pub recorded_bytes: Option<u64>,
    /// Bytes live, as requested.
    pub live_bytes: u64,
    /// Whether the user requested this checkpoint.
    pub on_request: bool,
}

/// The measurements of a candidate.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// malloc's memory: resident and swapped bytes.
    pub memory: PeakAndFinal<Figure>,
    /// Whether too little is known of Python's object allocator in children to give its peak: it is
    /// within its range.
    pub peak_is_unknown: bool,
    /// Runs.
    pub runs: u32,
    /// Processor time of playing, the median of the runs.
    pub cpu_seconds: f64,
    /// Page faults of playing, likewise.
    pub faults: u64,
    /// Kernel calls for memory in the replay, likewise; `None` if they could not be counted.
    pub kernel_calls: Option<u64>,
}

impl Report {
    /// What the program had.
    pub fn now(&self) -> Option<&CandidateReport> {
        self.candidates.iter().find(|row| row.is_baseline)
    }

    /// Candidates that need so little at the end compared with the baseline that switching is
    /// worthwhile, if the result is reliable: the replay is trusted, or its error is small compared
    /// with the saving.
    pub fn worthwhile(&self) -> impl Iterator<Item = &CandidateReport> {
        let had = self.now().and_then(|row| row.measured);
        self.candidates.iter().filter(move |row| {
            let both = had.zip(row.measured).filter(|_| !row.is_baseline);
            both.is_some_and(|(had, with)| had.saves_with(&with) && self.stands(&had, &with))
        })
    }

    fn stands(&self, had: &Measured, with: &Measured) -> bool {
        // Of each range the end that saves least.
        let (least, most) = (had.memory.at_end.low_bytes, with.memory.at_end.high_bytes);
        let outweighs = |worst| saving_stands(least, most, had.worth(), worst);
        self.calibration.trusted || self.calibration.worst_error.is_some_and(outweighs)
    }
}

impl CandidateReport {
    /// The report of a candidate that was not replayed yet.
    pub fn of(name: CandidateName) -> Self {
        Self {
            name,
            allocator: None,
            is_baseline: false,
            objects: false,
            env: Vec::new(),
            set: Vec::new(),
            unset: Vec::new(),
            step: None,
            price: String::new(),
            measured: None,
            failure: None,
            same_as_now: None,
            rank: None,
            checkpoints: Vec::new(),
        }
    }

    /// The same as what the program had, for tests.
    #[cfg(test)]
    pub(crate) fn into_baseline(self) -> Self {
        Self {
            is_baseline: true,
            ..self
        }
    }

    /// Whether it was replayed in this allocator, in any build and with any settings.
    pub fn is_under(&self, kind: Allocator) -> bool {
        let played = self.allocator.as_ref();
        played.is_some_and(|allocator| allocator.identity.is(kind))
    }
}

impl Measured {
    /// The smallest saving at the end that is worthwhile.
    pub(super) fn worth(&self) -> u64 {
        worth::OF_REPLAY.least(self.memory.at_end.bytes)
    }

    /// What another would have saved at the end.
    pub(super) fn saved_with(&self, other: &Self) -> u64 {
        let (own, other) = (self.memory.at_end.bytes, other.memory.at_end.bytes);
        own.saturating_sub(other)
    }

    /// Whether that is worthwhile.
    pub(super) fn saves_with(&self, other: &Self) -> bool {
        self.saved_with(other) >= self.worth()
    }
}

/// Puts what the program had first, then the others by what they need at the end, failed ones last,
/// and sets the ranks.
pub fn rank(rows: &mut [CandidateReport]) {
    rows.sort_by_key(|row| {
        let last = row.measured.map_or(u64::MAX, |m| m.memory.at_end.bytes);
        (!row.is_baseline, row.failure.is_some(), last)
    });
    let all: Vec<Measured> = rows.iter().filter_map(|row| row.measured).collect();
    let place = |own: u64, part: fn(&Measured) -> u64| {
        all.iter().filter(|other| part(other) < own).count() + 1
    };
    for row in rows {
        row.rank = row.measured.map(|own| PeakAndFinal {
            peak: place(own.memory.peak.bytes, |other| other.memory.peak.bytes),
            at_end: place(own.memory.at_end.bytes, |other| other.memory.at_end.bytes),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_may_lack_any_number_of_events() {
        let facts = |lost, left_out| TraceFacts {
            lost,
            left_out,
            ..TraceFacts::default()
        };
        assert!(facts(u64::MAX, u64::MAX).lacks_events());
        assert!(facts(1, 0).lacks_events() && facts(0, 1).lacks_events());
        assert!(!facts(0, 0).lacks_events());
    }

    #[test]
    fn rows_are_ranked_by_their_end_after_what_the_program_had() {
        let row = |name: &str, both: Option<(u64, u64)>| CandidateReport {
            failure: both.is_none().then(|| "crashed".to_owned().into()),
            measured: both.map(|(peak, at_end)| Measured {
                memory: PeakAndFinal { peak, at_end }.map(|bytes| Figure {
                    bytes,
                    ..Figure::default()
                }),
                ..Measured::default()
            }),
            ..CandidateReport::of(CandidateName::parse(name))
        };
        let mut rows = [
            row("broken", None),
            row("high", Some((80, 70))),
            row("low", Some((120, 30))),
            row("same", Some((100, 30))),
            row("baseline", Some((100, 60))).into_baseline(),
        ];
        rank(&mut rows);
        let rank = |row: &CandidateReport| row.rank.map(|rank| (rank.peak, rank.at_end));
        let names = rows.iter().map(|row| (row.name.to_string(), rank(row)));
        let names: Vec<_> = names.collect();
        assert_eq!(
            names,
            [
                ("baseline", Some((2, 3))),
                ("low", Some((4, 1))),
                ("same", Some((2, 1))),
                ("high", Some((1, 4))),
                ("broken", None),
            ]
            .map(|(name, rank)| (name.to_owned(), rank))
        );
    }
}
