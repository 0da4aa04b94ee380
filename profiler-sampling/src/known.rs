//! What is known about a target before it is stopped, and kept between its walks: the files it maps
//! and their contents, and the locations of allocators' roots.
//!
//! A stop is only for reading what changes. So files are inspected and roots are searched for while
//! the target runs. During the stop its mappings are compared with those inspected, and each root
//! is verified.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::io;
use std::sync::{LazyLock, Mutex};

use profiler_core::memory::ResidentMemory;
use profiler_core::residency::{Mapping, MappingKind};
use profiler_target::{ReadTime, Target};

use super::facts::Facts;
use super::roots::{Roots, locked};
use super::walkers::{self, Input};

/// Facts of a target, valid for certain mapped files.
#[derive(Clone, Debug)]
pub(crate) struct KnownFacts {
    /// The [`signature`] of its mappings.
    signature: u64,
    pub(crate) facts: Facts,
}

impl KnownFacts {
    /// Whether these facts are valid for these mappings.
    pub(crate) fn is_of(&self, mappings: &[Mapping]) -> bool {
        signature(mappings) == self.signature
    }

    /// Updates the facts for the target's present mappings.
    pub(crate) fn renew(&mut self, target: &Target, mappings: &[Mapping]) {
        self.signature = signature(mappings);
        self.facts = self.facts.clone().with_files(target, mappings);
    }
}

/// A hash of the mappings of files and of the anonymous mappings after them (`.bss`, which contains
/// programs' variables): which file, and where. Nobody can choose mappings to get the same hash,
/// because the key is random in each run of fragscope.
fn signature(mappings: &[Mapping]) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let mut hasher = KEY.build_hasher();
    let mut end = None;
    for mapping in mappings {
        let is_file = matches!(mapping.kind, MappingKind::File(_));
        let is_behind = end == Some(mapping.range.start());
        end = (is_file || is_behind).then_some(mapping.range.end());
        if end.is_some() {
            let place = [mapping.range.start().get(), mapping.range.end().get()];
            let file = [mapping.device, mapping.inode, mapping.offset];
            let rights = [mapping.read, mapping.write, mapping.execute, mapping.shared];
            (place, file, rights).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// What is known about one target.
#[derive(Debug, Default)]
pub(crate) struct KnownTarget {
    facts: Mutex<Option<KnownFacts>>,
    pub(crate) roots: Roots,
}

impl KnownTarget {
    /// Inspects the target while it runs: reads new files, and finds unknown roots.
    pub(crate) fn inspect(
        &self,
        target: &Target,
        mappings: &[Mapping],
        time: &ReadTime,
    ) -> io::Result<KnownFacts> {
        let mut kept = locked(&self.facts);
        let known = kept.take().filter(|known| known.is_of(mappings));
        let known = match known {
            Some(known) => known,
            None => KnownFacts {
                signature: signature(mappings),
                facts: Facts::of(target, mappings)?,
            },
        };
        self.find_roots(target, mappings, &known.facts, time)?;
        Ok(kept.insert(known).clone())
    }

    fn find_roots(
        &self,
        target: &Target,
        mappings: &[Mapping],
        facts: &Facts,
        time: &ReadTime,
    ) -> io::Result<()> {
        let searches = walkers::missing_roots(facts, &self.roots);
        if searches.is_empty() {
            return Ok(());
        }
        let residency = target.residency(mappings)?;
        let input = Input {
            memory: &ResidentMemory::new(target.memory().in_time(time), &residency),
            residency: &residency,
            facts,
            roots: &self.roots,
            threads: &[],
        };
        for search in searches {
            search(&input);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use profiler_core::allocator::Allocator;
    use profiler_target::Process;
    use profiler_testing::child::{Child, libraries};

    use super::*;

    const LOADER: &str = "
import ctypes, sys
print('READY', flush=True)
for line in sys.stdin:
    ctypes.CDLL(line.strip())
    print('LOADED', flush=True)
";

    fn time() -> ReadTime {
        ReadTime::from_now(Duration::from_secs(60))
    }

    fn mimallocs(known_facts: &KnownFacts) -> Vec<&str> {
        let allocators = known_facts.facts.allocators.iter();
        let mimallocs = allocators.filter(|object| object.identity.is(Allocator::Mimalloc));
        mimallocs
            .map(|object| object.identity.object.as_str())
            .collect()
    }

    /// The file from which a target maps its mimalloc.
    fn mimalloc(mappings: &[Mapping]) -> PathBuf {
        let paths = mappings.iter().filter_map(|mapping| match &mapping.kind {
            MappingKind::File(path) => Some(path),
            _ => None,
        });
        let path = paths.into_iter().find(|path| path.contains("libmimalloc"));
        PathBuf::from(&**path.expect("libmimalloc, of its package"))
    }

    #[test]
    fn what_is_loaded_after_a_look_is_noticed_and_looked_into() {
        let mut child = Child::python(LOADER);
        let target = Target::open(child.pid()).expect("our own child");
        let known = KnownTarget::default();
        let before = target.mappings().expect("alive");
        let mut known_facts = known.inspect(&target, &before, &time()).expect("alive");
        assert!(known_facts.is_of(&target.mappings().expect("alive")));
        assert!(target.knows_files_of(&before));
        assert_eq!(mimallocs(&known_facts), [""; 0]);
        assert!(locked(&known.roots.glibc).are_known());

        assert_eq!(child.ask("libmimalloc.so.2"), "LOADED");
        let now = target.mappings().expect("alive");
        assert!(!known_facts.is_of(&now));
        assert!(!target.knows_files_of(&now), "a stop is not for files");
        known_facts.renew(&target, &now);
        assert!(known_facts.is_of(&now));
        assert_eq!(mimallocs(&known_facts).len(), 1);
        let files = target.reads().files;
        known.inspect(&target, &now, &time()).expect("alive");
        assert_eq!(target.reads().files, files, "nothing is read twice");
    }

    #[test]
    fn a_library_that_takes_the_place_of_one_that_is_still_mapped_is_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = libraries(&folder, 1).remove(0);
        let mut child = Child::python(LOADER);
        let target = Target::open(child.pid()).expect("our own child");
        let known = KnownTarget::default();
        assert_eq!(child.ask(path.to_str().expect("UTF-8")), "LOADED");
        let mappings = target.mappings().expect("alive");
        let known_facts = known.inspect(&target, &mappings, &time()).expect("alive");
        assert_eq!(mimallocs(&known_facts), [""; 0]);

        let mut other = Child::python(LOADER);
        assert_eq!(other.ask("libmimalloc.so.2"), "LOADED");
        let other = Target::open(other.pid()).expect("our own child");
        let mimalloc = mimalloc(&other.mappings().expect("alive"));
        fs::remove_file(&path).expect("ours");
        fs::copy(mimalloc, &path).expect("a copy");
        // Under another name, because otherwise the loader would return the one it has.
        let again = folder.path().join(".").join("library-0.so");
        assert_eq!(child.ask(&format!("{}", again.display())), "LOADED");
        let mappings = target.mappings().expect("alive");
        let known_facts = known.inspect(&target, &mappings, &time()).expect("alive");
        assert_eq!(mimallocs(&known_facts), [path.to_str().expect("UTF-8")]);
    }
}
