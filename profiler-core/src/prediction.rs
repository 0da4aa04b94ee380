//! What malloc's heap would need under other allocators and settings, predicted from one walk.
//!
//! The lab replays the heap in real allocators (`docs/prediction.md`). Here are the results and
//! what follows from them.

use crate::allocator::{
    Allocator, AllocatorTitle, Environment, Purging, ReturnTime, UnknownEnvironment,
};
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

    /// How to get it, a line for each place where something is to be done: the variables to set, and what the program
    /// is to do. These are never one line, because no shell runs it.
    pub fn how(&self) -> Vec<String> {
        let variables: Vec<String> = self.set.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let variables = variables.join(" ");
        let environment = (!variables.is_empty()).then(|| match (self.is_carried, &self.step) {
            // Until then the loader ignores the line.
            (true, _) => format!("to be installed first: {variables}"),
            (false, Some(_)) => format!("in the environment: {variables}"),
            (false, None) => variables,
        });
        let step = self.step.as_ref().map(|step| match &environment {
            Some(_) => format!("in the program: {step}"),
            None => step.clone(),
        });
        environment.into_iter().chain(step).collect()
    }

    /// The purging of the allocator with these settings, if that is jemalloc.
    fn purging(&self, is_forked: bool) -> Option<Purging> {
        let is_jemalloc = self.allocator.kind() == Some(Allocator::Jemalloc);
        let set = self.set.iter().map(|(name, value)| (&**name, &**value));
        let set = Environment::of(set);
        let setting = |name: &str| set.setting(Allocator::Jemalloc, name);
        is_jemalloc.then(|| Purging::of(self.allocator.version(), is_forked, setting))
    }

    /// When it returns what was freed, in words that follow its name; `None` if it has no time for that.
    fn returns(&self, is_forked: bool) -> Option<String> {
        if let Some(purging) = self.purging(is_forked) {
            return Some(purging.words());
        }
        let kind = self.allocator.kind()?;
        let is_later = kind.row().return_time == ReturnTime::WithLaterCalls;
        is_later.then(|| "when later calls come upon that memory".to_owned())
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
            format!(
                "Settings of its allocator that the walk does not show were replayed with the defaults, its own are \
                 unknown: {why}."
            )
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

    /// Of some candidates the one to name. Those that need least count as equal within what a prediction can tell
    /// apart; of these it is the one with the narrowest band, then the one that needs least, then the first of the
    /// table. So two predictions from the same heap name the same one.
    pub(crate) fn preferred<'a>(
        &self,
        of: impl Iterator<Item = (&'a Prediction, Needs, Effect)>,
    ) -> Option<(&'a Prediction, Needs, Effect)> {
        let step = worth::OF_MALLOC.least(self.now()?);
        let all: Vec<_> = of.collect();
        let least = all.iter().map(|(_, needs, _)| needs.bytes).min()?;
        let equal = all
            .into_iter()
            .filter(|(_, needs, _)| needs.bytes - least <= step);
        equal.min_by_key(|(_, needs, _)| {
            // By its order of magnitude, which no noise changes; an exact figure has none.
            let width = needs.high_bytes.saturating_sub(needs.low_bytes);
            (width.checked_ilog2(), needs.bytes / step)
        })
    }

    /// When those that were played and return freed memory after some time do so, in one phrase each.
    pub(crate) fn returns(&self, is_forked: bool) -> Vec<String> {
        let mut all: Vec<(String, Vec<String>)> = Vec::new();
        for candidate in self.candidates.iter().filter(|one| one.needs.is_some()) {
            let Some(when) = candidate.returns(is_forked) else {
                continue;
            };
            match all.iter_mut().find(|(said, _)| *said == when) {
                Some((_, titles)) => titles.push(candidate.title()),
                None => all.push((when, vec![candidate.title()])),
            }
        }
        let phrase =
            |(when, titles): (String, Vec<String>)| format!("{} {when}", titles.join(" and "));
        all.into_iter().map(phrase).collect()
    }

    /// The candidate that is sure to save, and saves most.
    pub fn best(&self) -> Option<(&Prediction, Needs)> {
        let saving = self.effects();
        let saving = saving.filter(|(.., effect)| *effect == Effect::Saves);
        self.preferred(saving)
            .map(|(prediction, needs, _)| (prediction, needs))
    }

    /// What the remedy of a mechanism would do. Among several, one that is sure to save is
    /// preferred, then the one that needs least.
    pub fn of(&self, mechanism: Mechanism) -> Option<(&Prediction, Needs, Effect)> {
        let own = || {
            let all = self.effects();
            all.filter(|(prediction, ..)| prediction.remedies == Some(mechanism))
        };
        let saving = own().filter(|(.., effect)| *effect == Effect::Saves);
        self.preferred(saving).or_else(|| self.preferred(own()))
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

    fn saved(candidates: Vec<Prediction>) -> Predictions {
        Predictions {
            self_check: Some(SelfCheck {
                measured_bytes: 100 * MIB,
                predicted_bytes: 100 * MIB,
            }),
            candidates,
            ..Predictions::default()
        }
    }

    #[test]
    fn of_equals_the_most_certain_is_named_then_the_first_of_the_table() {
        let named = |all: &[(&str, Needs)]| {
            let all = all.iter().map(|(name, needs)| Prediction {
                needs: Some(*needs),
                ..prediction(name, name)
            });
            let predictions = saved(all.collect());
            let (best, _) = predictions.best().expect("some save");
            best.candidate.to_string()
        };
        // What need least by a hair, and by another hair in the next look, is the same one.
        let wide = |middle| ("jemalloc", needs(10, middle, 60));
        let narrow = |middle| ("mimalloc", needs(18, middle, 25));
        assert_eq!(named(&[wide(20), narrow(21)]), "mimalloc");
        assert_eq!(named(&[wide(21), narrow(20)]), "mimalloc");
        // A saving that is larger by more than that goes first, however wide its band is.
        assert_eq!(named(&[wide(16), narrow(21)]), "jemalloc");
        // An exact figure is more certain than any band.
        let exact = ("malloc_trim", needs(20, 20, 20));
        assert_eq!(
            named(&[("jemalloc", needs(19, 20, 21)), exact]),
            "malloc_trim"
        );
        // The table's order decides between two that are alike.
        let alike = |name| (name, needs(18, 20, 25));
        assert_eq!(named(&[alike("tcmalloc"), alike("jemalloc")]), "tcmalloc");
        assert_eq!(named(&[alike("jemalloc"), alike("tcmalloc")]), "jemalloc");
    }

    #[test]
    fn variables_and_calls_are_never_one_line() {
        let own = |set: &[(&str, &str)], step: Option<&str>| Prediction {
            set: set
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            step: step.map(str::to_owned),
            ..prediction("malloc_trim", "glibc")
        };
        let variable = ("MALLOC_ARENA_MAX", "2");
        let call = "call malloc_trim(0) after peaks";
        assert_eq!(own(&[variable], None).how(), ["MALLOC_ARENA_MAX=2"]);
        assert_eq!(own(&[], Some(call)).how(), [call]);
        let both = [
            "in the environment: MALLOC_ARENA_MAX=2".to_owned(),
            format!("in the program: {call}"),
        ];
        assert_eq!(own(&[variable], Some(call)).how(), both);
        assert!(own(&[], None).how().is_empty());
    }

    #[test]
    fn when_memory_is_returned_follows_from_the_options() {
        let jemalloc = |name: &str, conf: &str| Prediction {
            set: vec![("MALLOC_CONF".into(), conf.into())],
            path: Some("libjemalloc.so.2".into()),
            needs: Some(needs(1, 2, 3)),
            ..prediction(name, "jemalloc 5.3.0")
        };
        let predictions = saved(vec![
            jemalloc("jemalloc background", "background_thread:true"),
            jemalloc("jemalloc", ""),
            jemalloc("jemalloc no decay", "dirty_decay_ms:0,muzzy_decay_ms:0"),
            Prediction {
                needs: Some(needs(1, 2, 3)),
                ..prediction("mimalloc", "mimalloc 3.3.2")
            },
            prediction("tcmalloc", "tcmalloc"),
        ]);
        assert_eq!(
            predictions.returns(false),
            [
                "jemalloc 5.3.0 background within about 20.0 s",
                "jemalloc 5.3.0 within about 10.0 s, and only while it is called",
                "jemalloc 5.3.0 no decay at once",
                "mimalloc when later calls come upon that memory",
            ]
        );
        let [child, ..] = &predictions.returns(true)[..] else {
            panic!("nothing returns any");
        };
        let both = "jemalloc 5.3.0 background and jemalloc 5.3.0 within about 10.0 s, and only while it is called";
        assert_eq!(child, both, "a fork copies no threads");
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
