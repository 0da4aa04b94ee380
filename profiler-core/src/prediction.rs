//! What malloc's heap would need under other allocators and settings, predicted from one walk.
//!
//! The lab replays the heap in real allocators (`docs/prediction.md`). Here are the results and
//! what follows from them.

use crate::allocator::{AllocatorTitle, ReturnTime, UnknownEnvironment};
use crate::candidate::CandidateName;
use crate::mechanism::Mechanism;
use crate::units::{bytes, nanoseconds};
use crate::worth;

/// A replay of the program's own configuration may differ from the measurement by this share;
/// predictions for other configurations are trusted then.
pub const TRUSTED_ERROR: f64 = 0.05;
/// A replay of a walk may also differ by this many bytes, which the allocator's own state takes.
const TRUSTED_BYTES: u64 = 512 << 10;

/// The error allowed for another allocator, as a multiple of the program's own: only the latter can
/// be measured.
const LOOSER: f64 = 2.0;

/// Whether one of several configurations would save `least` bytes for a program that needed `had`
/// and would need `with`, allowing for a replay's error. `error` is the share by which the replay
/// was off where it could be compared: `had` may be that much smaller, and `with` larger by twice
/// the share.
pub fn saving_stands(had: u64, with: u64, least: u64, error: f64) -> bool {
    let (had, with) = (
        had as f64 * (1.0 - error),
        with as f64 * (1.0 + LOOSER * error),
    );
    with + least as f64 <= had
}

/// The predictions from one walk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predictions {
    /// When the walk was taken, in ns since 1970-01-01 UTC.
    pub walk_ns: u64,
    /// The current heap, replayed: whether the rest can be trusted. `None` until that is done.
    pub self_check: Option<SelfCheck>,
    /// One for each candidate, in the lab's order.
    pub candidates: Vec<Prediction>,
    /// Candidates that have not been played yet.
    pub pending: u32,
    /// Why there are none, or no more.
    pub trouble: Option<String>,
    /// RSS at the walk, without pages that its allocator is about to purge, as in [`Self::now`];
    /// `None` if much of the process is in swap, so that it is unknown which part of a need would
    /// be.
    pub rss_bytes: Option<u64>,
    /// Why it is unknown which settings the environment asked for, where the heap was played with the defaults instead;
    /// `None` where they are known, or were read from the heap.
    pub environment_unknown: Option<UnknownEnvironment>,
}

/// The current heap, compared with a replay of it in its own allocator.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct SelfCheck {
    /// Resident and swapped bytes of the heap that serves malloc.
    pub measured_bytes: u64,
    /// The same as replayed.
    pub predicted_bytes: u64,
}

/// What one candidate would need.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Its name, as in `replay`: `jemalloc`, `mmap_threshold=128K`.
    pub candidate: CandidateName,
    /// Its allocator.
    pub allocator: AllocatorTitle,
    /// The shared object that was replayed with and is to be preloaded; `None` for the C library's
    /// own malloc.
    pub path: Option<String>,
    /// Whether the process's loader would not find it, so that it must be installed first: the
    /// object is embedded in fragscope, or it is on this host and the process runs in a container
    /// without it.
    pub is_carried: bool,
    /// Variables to set.
    pub set: Vec<(String, String)>,
    /// What else must be done, in words.
    pub step: Option<String>,
    /// The mechanism whose remedy it is.
    pub remedies: Option<Mechanism>,
    /// What malloc's heap would need; `None` if it could not be replayed.
    pub needs: Option<Needs>,
    /// The number of replays.
    pub runs: u32,
    /// Why it could not be replayed.
    pub failure: Option<String>,
}

/// Resident and swapped bytes of malloc's heap, predicted.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Needs {
    /// The middle.
    pub bytes: u64,
    /// The least that is plausible.
    pub low_bytes: u64,
    /// The most that is plausible.
    pub high_bytes: u64,
}

/// A row of the table of predictions: for a candidate, or for the current heap.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct NeedsRow {
    /// What malloc's heap takes or would need; `None` for a candidate that was not replayed.
    pub bytes: Option<u64>,
    /// The band; `None` if there is only one figure, or none.
    pub band: Option<Needs>,
    /// RSS now or as predicted, if everything else stays the same; `None` if unknown.
    pub rss_bytes: Option<u64>,
    /// Its meaning; `None` for the current heap, and if nothing can be concluded.
    pub effect: Option<Effect>,
}

/// What a candidate would change.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Less memory, at both ends of the band.
    Saves,
    /// More memory, at both ends.
    Costs,
    /// The same as now, at both ends of the band.
    Same,
    /// No less at either end, and more at one.
    NoLess,
    /// Less at one end at least, and no less at the other.
    Unclear,
}

impl Effect {
    /// The name in output and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Saves => "saves",
            Self::Costs => "costs",
            Self::Same => "same",
            Self::NoLess => "no_less",
            Self::Unclear => "unclear",
        }
    }

    /// In words, after how much would be needed.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Saves => "less",
            Self::Costs => "more",
            Self::Same => "no difference",
            Self::NoLess => "not less",
            Self::Unclear => "unclear",
        }
    }
}

impl SelfCheck {
    /// The error of the replay, as a share of the measurement.
    pub fn error(&self) -> f64 {
        let (measured, predicted) = (self.measured_bytes as f64, self.predicted_bytes as f64);
        if self.measured_bytes == 0 {
            return f64::from(u8::from(self.predicted_bytes > 0));
        }
        predicted / measured - 1.0
    }

    /// Whether predictions for others can be trusted.
    pub fn holds(&self) -> bool {
        self.error().abs() <= TRUSTED_ERROR
            || self.measured_bytes.abs_diff(self.predicted_bytes) <= TRUSTED_BYTES
    }
}

impl Needs {
    /// Whether the entire band differs from `now`, the heap's size in bytes, by at most a share of
    /// RSS: then the candidate makes no difference for the process, whichever end is right.
    pub fn is_within(&self, share: f64, rss_bytes: u64, now: u64) -> bool {
        let most = (rss_bytes as f64 * share) as u64;
        now.abs_diff(self.low_bytes) <= most && now.abs_diff(self.high_bytes) <= most
    }

    /// The effect for a heap that takes `now` bytes.
    pub fn effect(&self, now: u64) -> Effect {
        let least = worth::OF_MALLOC.least(now);
        let (below, above) = (now.saturating_sub(least), now.saturating_add(least));
        if self.high_bytes < below {
            Effect::Saves
        } else if self.low_bytes > above {
            Effect::Costs
        } else if self.low_bytes >= below && self.high_bytes <= above {
            Effect::Same
        } else if self.low_bytes >= below {
            Effect::NoLess
        } else {
            Effect::Unclear
        }
    }

    /// Both ends as text, such as `24.1 MiB to 28.0 MiB`, or one if they are equal.
    pub fn band(&self) -> String {
        let (low, high) = (bytes(self.low_bytes), bytes(self.high_bytes));
        if low == high {
            return low;
        }
        match (low.split_once(' '), high.split_once(' ')) {
            (Some((number, unit)), Some((_, other))) if unit == other => {
                format!("{number} to {high}")
            }
            _ => format!("{low} to {high}"),
        }
    }
}

impl Prediction {
    /// Of a candidate that was not played yet.
    pub fn of(candidate: CandidateName, allocator: AllocatorTitle) -> Self {
        Self {
            candidate,
            allocator,
            path: None,
            is_carried: false,
            set: Vec::new(),
            step: None,
            remedies: None,
            needs: None,
            runs: 0,
            failure: None,
        }
    }

    /// Its name for people: another allocator with its version.
    pub fn title(&self) -> String {
        if self.path.is_none() || self.allocator.version().is_none() {
            return self.candidate.to_string();
        }
        match self.candidate {
            CandidateName::Tuning(tuning) => format!("{} {}", self.allocator, tuning.title),
            CandidateName::Build(_)
            | CandidateName::WithoutObjectAllocator(_)
            | CandidateName::Other(_) => self.allocator.to_string(),
        }
    }

    /// The condition under which it needs what was predicted, as text after the figure: it returns
    /// freed memory some seconds after it is left alone, so a program that keeps using the memory
    /// keeps it.
    pub fn condition(&self) -> &'static str {
        let time = self.allocator.kind().map(|kind| kind.row().return_time);
        match time {
            Some(ReturnTime::InCalls | ReturnTime::WithLaterCalls) => " once it has purged",
            Some(ReturnTime::ByPlace | ReturnTime::Never | ReturnTime::Unknown) | None => "",
        }
    }

    /// How to get it: what to set, or to do.
    pub fn how(&self) -> Option<String> {
        let mut parts: Vec<String> = self.set.iter().map(|(n, v)| format!("{n}={v}")).collect();
        parts.extend(self.step.clone());
        if parts.is_empty() {
            return None;
        }
        let how = parts.join(" ");
        Some(match self.is_carried {
            // Until then the loader ignores the line.
            true => format!("to be installed first: {how}"),
            false => how,
        })
    }

    /// Bytes that it saves by the middle of its band; negative if it costs some.
    pub fn saves(&self, now: u64) -> Option<i64> {
        let needs = self.needs?;
        Some(now as i64 - needs.bytes as i64)
    }
}

impl Predictions {
    /// None, for a reason.
    pub fn none(walk_ns: u64, trouble: impl Into<String>) -> Self {
        Self {
            walk_ns,
            trouble: Some(trouble.into()),
            ..Self::default()
        }
    }

    /// The predictions of a walk whose replay has just begun.
    pub fn under_way(walk_ns: u64) -> Self {
        Self {
            walk_ns,
            // At least the current heap.
            pending: 1,
            ..Self::default()
        }
    }

    /// How long before the walk at `walked_at_ns` their walk was, as text; `None` if it is the same
    /// walk.
    pub fn before(&self, walked_at_ns: u64) -> Option<String> {
        let before = walked_at_ns.saturating_sub(self.walk_ns);
        (before > 0).then(|| nanoseconds(before))
    }

    /// What malloc's heap took at their walk, in half a sentence that follows a candidate's need.
    /// It names the walk if the report is of another one, at `walked_at_ns`. `purged` follows the
    /// figure.
    pub fn baseline(&self, walked_at_ns: u64, purged: &str) -> Option<String> {
        let now = bytes(self.now()?);
        Some(match self.before(walked_at_ns) {
            None => format!("now {now}{purged}"),
            Some(before) => {
                format!("where malloc took {now}{purged} by the walk {before} earlier")
            }
        })
    }

    /// Everything known, one phrase each, the smallest need first.
    pub fn phrases(&self) -> Vec<String> {
        let phrase = |(prediction, needs, effect): (&Prediction, Needs, Effect)| {
            let (title, band) = (prediction.title(), needs.band());
            format!("{title} {band}, {}", effect.words())
        };
        self.ranked().into_iter().map(phrase).collect()
    }

    /// What is unknown and why, one sentence each.
    pub fn sentences(&self) -> Vec<String> {
        let pending = match (self.pending, self.self_check) {
            (0, _) => None,
            (_, None) => Some(
                "The heap is being replayed in other allocators: what they would need is not known yet."
                    .to_owned(),
            ),
            (1, Some(_)) => Some("1 more is not replayed yet.".to_owned()),
            (more, Some(_)) => Some(format!("{more} more are not replayed yet.")),
        };
        let failed = self.candidates.iter().filter_map(|prediction| {
            let why = prediction.failure.as_ref()?;
            Some(format!("{} was not replayed: {why}.", prediction.title()))
        });
        let trouble = self.trouble.as_ref().map(|why| {
            let nothing = self.candidates.iter().all(|one| one.needs.is_none());
            let what = if nothing { "Nothing" } else { "No more" };
            format!("{what} was predicted: {why}.")
        });
        let assumed = self.environment_unknown.map(|reason| {
            let why = reason.because();
            format!("The heap was replayed with default settings, its own are unknown: {why}.")
        });
        let all = assumed.into_iter().chain(pending);
        all.chain(failed).chain(trouble).collect()
    }

    /// What malloc's heap took at their walk, if the replay reproduced it.
    pub fn now(&self) -> Option<u64> {
        let check = self.self_check.filter(SelfCheck::holds)?;
        Some(check.measured_bytes)
    }

    /// RSS if malloc's heap took `malloc_bytes` and everything else stayed the same.
    pub fn rss_with(&self, malloc_bytes: u64) -> Option<u64> {
        let others = self.rss_bytes?.checked_sub(self.now()?)?;
        Some(others.saturating_add(malloc_bytes))
    }

    /// The row of a candidate.
    pub fn row(&self, of: &Prediction) -> NeedsRow {
        NeedsRow {
            bytes: of.needs.map(|needs| needs.bytes),
            band: of.needs,
            rss_bytes: of.needs.and_then(|needs| self.rss_with(needs.bytes)),
            effect: of
                .needs
                .zip(self.now())
                .map(|(needs, now)| needs.effect(now)),
        }
    }

    /// The row of the heap as measured.
    pub fn measured(&self, check: &SelfCheck) -> NeedsRow {
        NeedsRow {
            bytes: Some(check.measured_bytes),
            band: None,
            rss_bytes: self.rss_bytes,
            effect: None,
        }
    }

    /// The row of the current heap, replayed.
    pub fn replayed(&self, check: &SelfCheck) -> NeedsRow {
        NeedsRow {
            bytes: Some(check.predicted_bytes),
            band: None,
            rss_bytes: self.rss_with(check.predicted_bytes),
            effect: None,
        }
    }

    /// Replayed candidates, each with its need and effect.
    pub fn effects(&self) -> impl Iterator<Item = (&Prediction, Needs, Effect)> {
        let now = self.now();
        self.candidates.iter().filter_map(move |prediction| {
            let needs = prediction.needs?;
            Some((prediction, needs, needs.effect(now?)))
        })
    }

    /// The same, the smallest need first.
    pub fn ranked(&self) -> Vec<(&Prediction, Needs, Effect)> {
        let mut all: Vec<_> = self.effects().collect();
        all.sort_by_key(|(_, needs, _)| needs.bytes);
        all
    }

    /// The candidate that is sure to save, and saves most.
    pub fn best(&self) -> Option<(&Prediction, Needs)> {
        let saving = self
            .effects()
            .filter(|(.., effect)| *effect == Effect::Saves);
        let saving = saving.map(|(prediction, needs, _)| (prediction, needs));
        saving.min_by_key(|(_, needs)| needs.bytes)
    }

    /// What the remedy of a mechanism would do. Among several, one that is sure to save is
    /// preferred, then the one that needs least.
    pub fn of(&self, mechanism: Mechanism) -> Option<(&Prediction, Needs, Effect)> {
        let all = self.effects();
        let own = all.filter(|(prediction, ..)| prediction.remedies == Some(mechanism));
        own.min_by_key(|(_, needs, effect)| (*effect != Effect::Saves, needs.bytes))
    }

    /// What jemalloc, configured to return freed memory, would do.
    pub fn jemalloc(&self) -> Option<(&Prediction, Needs, Effect)> {
        self.of(Mechanism::PinnedPages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn prediction(candidate: &str, allocator: &str) -> Prediction {
        Prediction::of(
            CandidateName::parse(candidate),
            AllocatorTitle::parse(allocator),
        )
    }

    fn needs(low: u64, middle: u64, high: u64) -> Needs {
        Needs {
            bytes: middle * MIB,
            low_bytes: low * MIB,
            high_bytes: high * MIB,
        }
    }

    #[test]
    fn an_effect_holds_at_both_ends_of_the_band() {
        let now = 100 * MIB;
        assert_eq!(needs(20, 30, 40).effect(now), Effect::Saves);
        assert_eq!(needs(20, 80, 99).effect(now), Effect::Unclear);
        assert_eq!(needs(98, 100, 102).effect(now), Effect::Same);
        assert_eq!(needs(104, 110, 130).effect(now), Effect::Costs);
        assert_eq!(needs(99, 110, 130).effect(now), Effect::NoLess);
        assert_eq!(needs(90, 110, 130).effect(now), Effect::Unclear);
    }

    #[test]
    fn a_saving_stands_that_is_left_when_both_figures_are_off() {
        let stands = |with, error| saving_stands(100 * MIB, with * MIB, 5 * MIB, error);
        assert!(stands(2, 0.088) && stands(2, 0.3) && stands(70, 0.088));
        assert!(!stands(80, 0.088) && !stands(45, 0.3) && !stands(2, 0.95));
        assert!(stands(95, 0.0) && !stands(96, 0.0));
    }

    #[test]
    fn a_band_has_its_unit_once() {
        assert_eq!(needs(24, 26, 28).band(), "24.0 to 28.0 MiB");
        assert_eq!(needs(24, 24, 24).band(), "24.0 MiB");
        assert_eq!(needs(24, 24, 2048).band(), "24.0 MiB to 2.0 GiB");
    }

    #[test]
    fn another_allocator_is_called_by_its_version_with_what_is_set_of_it() {
        let title = |candidate: &str| {
            let prediction = Prediction {
                path: Some("libjemalloc.so.2".into()),
                ..prediction(candidate, "jemalloc 5.3.0")
            };
            prediction.title()
        };
        assert_eq!(title("jemalloc"), "jemalloc 5.3.0");
        assert_eq!(title("jemalloc background"), "jemalloc 5.3.0 background");
        assert_eq!(
            prediction("arena_max=2", "glibc 2.36").title(),
            "arena_max=2"
        );
    }

    #[test]
    fn of_two_remedies_the_one_that_is_sure_to_save_is_taken() {
        let candidate = |name: &str, needs| Prediction {
            remedies: Some(Mechanism::ArenaSprawl),
            needs: Some(needs),
            ..prediction(name, "glibc")
        };
        let predictions = Predictions {
            self_check: Some(SelfCheck {
                measured_bytes: 194 * MIB,
                predicted_bytes: 194 * MIB,
            }),
            candidates: vec![
                candidate("arena_max=1", needs(17, 58, 195)),
                candidate("arena_max=2", needs(33, 70, 147)),
            ],
            ..Predictions::default()
        };
        let (taken, ..) = predictions.of(Mechanism::ArenaSprawl).expect("played");
        assert_eq!(taken.candidate.to_string(), "arena_max=2");
    }

    #[test]
    fn what_is_not_known_is_said_with_why() {
        let mut predictions = Predictions::under_way(1);
        let under_way = predictions.sentences();
        assert!(under_way.len() == 1 && under_way[0].contains("not known yet"));
        predictions.self_check = Some(SelfCheck::default());
        predictions.candidates = vec![Prediction {
            failure: Some("it crashed".into()),
            ..prediction("jemalloc", "jemalloc")
        }];
        predictions.trouble = Some("no time".into());
        assert_eq!(
            predictions.sentences(),
            [
                "1 more is not replayed yet.",
                "jemalloc was not replayed: it crashed.",
                "Nothing was predicted: no time."
            ]
        );
        predictions.pending = 0;
        predictions.candidates.push(Prediction {
            needs: Some(needs(1, 2, 3)),
            ..prediction("arena_max=2", "glibc")
        });
        let last = predictions.sentences().pop();
        assert_eq!(last.as_deref(), Some("No more was predicted: no time."));
    }

    #[test]
    fn rss_is_what_it_was_with_what_malloc_would_need_instead() {
        let mut predictions = Predictions {
            self_check: Some(SelfCheck {
                measured_bytes: 100 * MIB,
                predicted_bytes: 101 * MIB,
            }),
            rss_bytes: Some(160 * MIB),
            ..Predictions::default()
        };
        assert_eq!(predictions.rss_with(30 * MIB), Some(90 * MIB));
        assert_eq!(predictions.rss_with(140 * MIB), Some(200 * MIB));
        predictions.rss_bytes = None;
        assert_eq!(predictions.rss_with(30 * MIB), None, "not zero");
        // More than the total: some part of it is unknown.
        predictions.rss_bytes = Some(90 * MIB);
        assert_eq!(predictions.rss_with(30 * MIB), None);
    }

    #[test]
    fn what_malloc_took_says_of_which_walk_it_is() {
        let measured_bytes = 100 * MIB;
        let predictions = Predictions {
            walk_ns: 5_000_000_000,
            self_check: Some(SelfCheck {
                measured_bytes,
                predicted_bytes: measured_bytes,
            }),
            ..Predictions::default()
        };
        let at = |walk_ns| predictions.baseline(walk_ns, "").expect("reproduced");
        assert_eq!(at(5_000_000_000), "now 100.0 MiB");
        let later = "where malloc took 100.0 MiB by the walk 18.0 s earlier";
        assert_eq!(at(23_000_000_000), later);
        let purged = predictions.baseline(5_000_000_000, " after purging");
        assert_eq!(purged.as_deref(), Some("now 100.0 MiB after purging"));
        assert_eq!(Predictions::under_way(1).baseline(2, ""), None);
    }

    #[test]
    fn nothing_is_concluded_where_the_heap_itself_is_not_reproduced() {
        let mut predictions = Predictions {
            self_check: Some(SelfCheck {
                measured_bytes: 100 * MIB,
                predicted_bytes: 110 * MIB,
            }),
            candidates: vec![Prediction {
                needs: Some(needs(20, 30, 40)),
                ..prediction("jemalloc", "jemalloc")
            }],
            ..Predictions::default()
        };
        assert_eq!(predictions.now(), None);
        assert!(predictions.best().is_none());
        predictions.self_check = Some(SelfCheck {
            measured_bytes: 100 * MIB,
            predicted_bytes: 104 * MIB,
        });
        assert!(predictions.best().is_some());
    }
}
