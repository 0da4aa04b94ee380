//! Remedies for each mechanism, in the terms and settings of the allocator that serves malloc: one
//! row for each remedy. The settings themselves are declared in [`crate::tuning`].

mod rows;

pub(crate) use self::rows::{NAMED_MAPPING, NO_DECAY, OBJECTS_WERE_READ};
use self::rows::{NONE, OF_LIBRARIES, ONE_ARENA, REMEDIES, RemedyRow};
use crate::allocator::Allocator;
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
