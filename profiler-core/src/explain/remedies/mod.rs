//! Remedies for each mechanism, in the terms and settings of the allocator that serves malloc: one
//! row for each remedy. The settings themselves are declared in [`crate::tuning`].

mod rows;

use self::rows::{
    BACKGROUND, NEVER, NEVER_IN_CHILD, NO_DECAY, NONE, OF_LIBRARIES, ONE_ARENA, REMEDIES,
    RemedyRow, SHORT_DECAY, SOON,
};
pub(crate) use self::rows::{NAMED_MAPPING, OBJECTS_WERE_READ};
use crate::allocator::{Allocator, Purging};
use crate::candidate::CandidateName;
use crate::mechanism::Mechanism;
use crate::remedy::Remedy;
use crate::tuning;

impl Remedy {
    /// The remedy for a mechanism if `serving` serves malloc or, for a mechanism of one allocator,
    /// in that allocator.
    pub fn of(mechanism: Mechanism, serving: Option<Allocator>) -> &'static Self {
        let fitting = |wanted: fn(&RemedyRow, Option<Allocator>) -> bool| {
            let mut rows = REMEDIES.iter().filter(|row| row.mechanism == mechanism);
            rows.find(|row| wanted(row, serving)).map(|row| &row.remedy)
        };
        fitting(|row, serving| serving.is_some_and(|own| row.allocators.contains(&own)))
            .or_else(|| fitting(|row, _| row.allocators.is_empty()))
            .unwrap_or(&NONE)
    }

    /// The remedy that a candidate was replayed for, so that the advice matches the replay.
    pub(crate) fn as_played(&'static self, candidate: &CandidateName) -> &'static Self {
        match candidate {
            CandidateName::Tuning(played) if **played == tuning::ONE_ARENA => &ONE_ARENA,
            CandidateName::Build(_)
            | CandidateName::Tuning(_)
            | CandidateName::WithoutObjectAllocator(_)
            | CandidateName::Other(_) => self,
        }
    }

    /// The remedy for a mechanism with any allocator, without allocator-specific settings.
    pub fn general(mechanism: Mechanism) -> &'static Self {
        Self::of(mechanism, None)
    }

    /// The remedy for the heap of a library, by the library's file name.
    pub(crate) fn of_library(library: &str, allocator: Allocator) -> &'static Self {
        let mut rows = OF_LIBRARIES.iter();
        let row = rows.find(|row| {
            library.starts_with(row.library) && row.allocator.is_none_or(|own| own == allocator)
        });
        row.map_or(&NONE, |row| &row.remedy)
    }
}

/// What to do about free pages that a jemalloc with this purging has not purged yet.
pub(crate) fn of_unpurged(purging: Purging, is_forked: bool) -> &'static Remedy {
    let is_short = purging.within_ms.is_some_and(|ms| ms <= SHORT_MS);
    match (purging.within_ms, is_forked) {
        (None, true) => &NEVER_IN_CHILD,
        (None, false) => &NEVER,
        (Some(_), true) => &NO_DECAY,
        (Some(_), false) if purging.by_itself && is_short => &SOON,
        (Some(_), false) if purging.by_itself => &SHORT_DECAY,
        (Some(_), false) if is_short => &BACKGROUND,
        (Some(_), false) => Remedy::of(Mechanism::Untrimmed, Some(Allocator::Jemalloc)),
    }
}

/// A decay that [`tuning::JEMALLOC_SHORT_DECAY`] does not make shorter, in milliseconds.
const SHORT_MS: u64 = 1_000;

/// The call or event that returns whole free pages.
pub(crate) fn give_back(serving: Option<Allocator>) -> &'static str {
    let call = serving.map(|kind| kind.row().gives_back.unwrap_or(kind.row().name));
    call.unwrap_or("a trim")
}

/// The names of the caches.
pub(crate) fn caches(serving: Option<Allocator>) -> &'static str {
    serving.map_or("the allocator's caches", |kind| kind.row().caches)
}

#[cfg(test)]
mod tests {
    use super::rows::POLARS;
    use super::*;
    use crate::allocator::reader_of;
    use crate::remedy::Step;

    #[test]
    fn the_prose_names_all_that_a_remedy_sets() {
        let of_libraries = OF_LIBRARIES.iter().map(|row| &row.remedy);
        for remedy in REMEDIES.iter().map(|row| &row.remedy).chain(of_libraries) {
            for at in 0..remedy.steps.len() {
                let is_named = [format!("{{{at}}}"), format!("{{{at}=}}")]
                    .iter()
                    .any(|place| remedy.sentences.contains(place));
                assert!(is_named, "step {at} in {remedy:?}");
            }
            let prose = remedy.prose();
            assert!(!prose.contains(['{', '}']), "{prose}");
        }
    }

    #[test]
    fn what_is_to_be_done_about_unpurged_pages_depends_on_the_options_in_force() {
        let said = |within_ms, by_itself, is_forked| {
            let purging = Purging {
                within_ms,
                by_itself,
            };
            of_unpurged(purging, is_forked).prose()
        };
        let default = said(Some(10_000), false, false);
        assert!(
            default.contains("MALLOC_CONF=background_thread:true"),
            "{default}"
        );
        let has_thread = said(Some(10_000), true, false);
        assert!(
            !has_thread.contains("background_thread") && has_thread.contains("dirty_decay_ms:1000"),
            "{has_thread}"
        );
        let short = said(Some(1_000), false, false);
        assert!(
            !short.contains("decay") && short.contains("background_thread:true"),
            "{short}"
        );
        assert!(said(Some(0), true, false).contains("nothing is to be done"));
        for never in [said(None, false, false), said(None, true, true)] {
            assert!(
                never.contains("for good: MALLOC_CONF=dirty_decay_ms:"),
                "{never}"
            );
        }
        assert!(said(Some(10_000), false, true).contains("dirty_decay_ms:0"));
        let shortened = tuning::JEMALLOC_SHORT_DECAY.sets[0].value;
        assert_eq!(shortened, SHORT_MS.to_string());
    }

    #[test]
    fn the_prose_has_steps_whole_or_by_their_value() {
        let caches = Remedy::of(Mechanism::Caches, Some(Allocator::Glibc));
        assert_eq!(
            caches.prose(),
            "GLIBC_TUNABLES=glibc.malloc.tcache_count=0 gives up tcaches and \
             glibc.malloc.mxfast=0 fastbins, at some cost in speed; with fewer threads there are \
             fewer. malloc_trim(0) returns what lies in fastbins."
        );
        assert_eq!(
            POLARS.steps[0].to_string(),
            "_RJEM_MALLOC_CONF=dirty_decay_ms:0,muzzy_decay_ms:0"
        );
    }

    #[test]
    fn what_is_played_against_a_mechanism_is_its_remedy() {
        for tuning in [
            &tuning::MMAP_THRESHOLD,
            &tuning::TRIM_THRESHOLD,
            &tuning::TWO_ARENAS,
            &tuning::TRIM,
        ] {
            let undoes = tuning.undoes.expect("it undoes a mechanism");
            let remedy = Remedy::of(undoes, Some(tuning.allocator));
            assert!(remedy.steps.contains(&Step::Tune(tuning)), "{tuning:?}");
        }
    }

    #[test]
    fn a_mechanism_has_one_remedy_for_each_allocator() {
        for (at, row) in REMEDIES.iter().enumerate() {
            for other in &REMEDIES[..at] {
                let same = other.mechanism == row.mechanism;
                let shared = row
                    .allocators
                    .iter()
                    .any(|own| other.allocators.contains(own));
                let both_general = row.allocators.is_empty() && other.allocators.is_empty();
                assert!(!(same && (shared || both_general)), "{row:?}");
            }
        }
    }

    #[test]
    fn no_allocator_gets_the_settings_of_another_in_its_place() {
        for row in REMEDIES.iter().filter(|row| !row.allocators.is_empty()) {
            for serving in [None, Some(Allocator::Glibc), Some(Allocator::Musl)] {
                let is_its = serving.is_some_and(|own| row.allocators.contains(&own));
                let remedy = Remedy::of(row.mechanism, serving);
                assert_eq!(*remedy == row.remedy, is_its, "{serving:?}: {remedy:?}");
            }
        }
        for mechanism in REMEDIES.iter().map(|row| row.mechanism) {
            for serving in Allocator::ALL.map(Some).into_iter().chain([None]) {
                let prose = Remedy::of(mechanism, serving).prose();
                let of_glibc = ["malloc_trim", "MALLOC_ARENA", "GLIBC_TUNABLES", "glibc"];
                let names_glibc = of_glibc.iter().any(|name| prose.contains(name));
                let is_glibc = serving == Some(Allocator::Glibc);
                assert!(is_glibc || !names_glibc, "{serving:?}: {prose}");
            }
        }
    }

    #[test]
    fn settings_are_those_of_the_allocator_that_serves_malloc() {
        for row in REMEDIES {
            for step in row.remedy.steps {
                // Only predictions know what the loader finds where the target runs.
                if let Step::Tune(tuning) = step {
                    assert!(row.allocators.contains(&tuning.allocator), "{row:?}");
                }
            }
        }
    }

    #[test]
    fn a_variable_beside_the_tunings_is_read_by_no_allocator() {
        let of_libraries = OF_LIBRARIES.iter().map(|row| &row.remedy);
        for remedy in REMEDIES.iter().map(|row| &row.remedy).chain(of_libraries) {
            for step in remedy.steps {
                if let Step::Variable(name, _) = step {
                    assert_eq!(reader_of(name), None, "{remedy:?}");
                }
            }
        }
    }
}
