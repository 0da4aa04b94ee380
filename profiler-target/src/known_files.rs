//! Results of inspecting mapped files, so that each file is read once, whichever processes map it,
//! for as long as the file is unchanged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use profiler_core::allocator::{self, Allocator};
use profiler_core::residency::{Mapping, MappingKind};

use super::Process;
use super::allocators::Held;
use super::elf::{self, ElfFile, MAX_FILES, Version};
use super::identity::{self, Python};

/// Files whose facts are kept for all processes at most. Each takes some hundred bytes.
const MAX_SHARED: usize = 4096;

/// Facts about an ELF file.
#[derive(Debug, Default)]
pub(super) struct FileFacts {
    /// Allocators in it, except those of C libraries and Python's own.
    pub(super) held: Held,
    /// If it is a C library: which one, and its version.
    pub(super) libc: Option<(Allocator, Option<String>)>,
    /// The number of bytes kept per thread, if it is a C library that says so.
    pub(super) thread_bytes: Option<u32>,
    /// The Python in it.
    pub(super) python: Option<Python>,
}

impl FileFacts {
    /// Of a file that is mapped from `mapped`, which may be the process's program.
    pub(super) fn of(file: &ElfFile, mapped: &str, is_program: bool) -> Self {
        let is_libc = allocator::is_c_library_name(mapped);
        let libc = is_libc.then(|| allocator::c_library(&file.contents(mapped)));
        Self {
            held: Held::of(file),
            libc: libc.flatten(),
            thread_bytes: file.exported_u32(elf::THREAD_BYTES).filter(|_| is_libc),
            python: identity::python_in(file, mapped, is_program),
        }
    }

    /// Whether it is Python: the program or a libpython.
    pub(super) fn is_python(&self) -> bool {
        self.python.is_some()
    }
}

/// A mapped file: while it is mapped, no other file has its device and inode.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct FileId {
    /// The path it is mapped from.
    pub(super) path: Arc<str>,
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file of a mapping, if it has one.
    pub(super) fn of(mapping: &Mapping) -> Option<Self> {
        let MappingKind::File(path) = &mapping.kind else {
            return None;
        };
        Some(Self {
            path: path.clone(),
            device: mapping.device,
            inode: mapping.inode,
        })
    }

    /// Whether a mapping belongs to it.
    pub(super) fn is_of(&self, mapping: &Mapping) -> bool {
        let is_path = matches!(&mapping.kind, MappingKind::File(path) if *path == self.path);
        is_path && (self.device, self.inode) == (mapping.device, mapping.inode)
    }
}

/// The files mapped as code, each with its first executable mapping.
pub(super) fn executed(mappings: &[Mapping]) -> BTreeMap<FileId, &Mapping> {
    let mut files = BTreeMap::new();
    for mapping in mappings.iter().filter(|mapping| mapping.execute) {
        if let Some(file) = FileId::of(mapping) {
            files.entry(file).or_insert(mapping);
        }
    }
    files
}

/// The files of one process; `None` if a file could not be read.
#[derive(Debug, Default)]
pub(super) struct KnownFiles(Mutex<BTreeMap<FileId, Option<Arc<FileFacts>>>>);

impl KnownFiles {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<FileId, Option<Arc<FileFacts>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The facts about the file of a mapping of `process`, which is read unless they are known.
    pub(super) fn facts<P: Process + ?Sized>(
        &self,
        process: &P,
        file: &FileId,
        mapping: &Mapping,
    ) -> Option<Arc<FileFacts>> {
        let mut known = self.lock();
        if let Some(facts) = known.get(file) {
            return facts.clone();
        }
        let is_program = process.is_program(&file.path);
        let reader = &process.files().reader;
        let facts = reader.examine(&file.path, process.file_of(mapping), is_program);
        // Files beyond the reader's limit need not be remembered.
        if known.len() < MAX_FILES {
            known.insert(file.clone(), facts.clone());
        }
        facts
    }

    /// Forgets files that are not executed from any more: another may get their inodes.
    pub(super) fn keep(&self, executed: &BTreeMap<FileId, &Mapping>) {
        self.lock().retain(|file, _| executed.contains_key(file));
    }

    /// Whether nothing has to be read to know what files these mappings are of.
    pub(super) fn has_all(&self, mappings: &[Mapping]) -> bool {
        let known = self.lock();
        let executed = executed(mappings);
        let mut files = executed.keys();
        files.all(|file| known.contains_key(file) || known.len() >= MAX_FILES)
    }
}

/// A version of a file, the path it is mapped from, and whether it is the program of the process
/// that maps it.
type Key = (Version, String, bool);

/// What is known about files mapped by any process; the least recently used are replaced by new
/// ones.
#[derive(Debug, Default)]
pub(super) struct Shared {
    files: BTreeMap<Key, (Arc<FileFacts>, u64)>,
    uses: u64,
}

static SHARED: Mutex<Shared> = Mutex::new(Shared {
    files: BTreeMap::new(),
    uses: 0,
});

impl Shared {
    /// The cache of this process.
    pub(super) fn lock() -> MutexGuard<'static, Self> {
        SHARED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known about a file.
    pub(super) fn get(&mut self, key: &Key) -> Option<Arc<FileFacts>> {
        self.uses += 1;
        let (facts, used) = self.files.get_mut(key)?;
        *used = self.uses;
        Some(Arc::clone(facts))
    }

    /// Records the facts about a file.
    pub(super) fn insert(&mut self, key: Key, facts: Arc<FileFacts>) {
        self.uses += 1;
        if self.files.len() >= MAX_SHARED && !self.files.contains_key(&key) {
            let mut used: Vec<u64> = self.files.values().map(|(_, used)| *used).collect();
            let middle = used.len() / 2;
            let (_, &mut newest_old, _) = used.select_nth_unstable(middle);
            self.files.retain(|_, (_, used)| *used > newest_old);
        }
        self.files.insert(key, (facts, self.uses));
    }
}

#[cfg(test)]
mod tests {
    use profiler_testing::child::{Child, libraries};

    use super::super::Target;
    use super::super::elf::Source;
    use super::*;

    /// The facts about the file that a target maps from a path containing `name`.
    fn facts_of(target: &Target, name: &str) -> Arc<FileFacts> {
        let mappings = target.mappings().expect("alive");
        let executed = executed(&mappings);
        let mut files = executed.iter();
        let found = files.find(|(file, _)| file.path.contains(name));
        let (file, mapping) = found.expect("it is mapped");
        let facts = target.files().known.facts(target, file, mapping);
        facts.expect("it can be read")
    }

    #[test]
    fn a_file_is_examined_once_whichever_process_maps_it() {
        const PROGRAM: &str = "print(1, flush=True); input()";
        let children = [PROGRAM; 2].map(Child::python);
        let targets = children.map(|child| {
            let target = Target::open(child.pid()).expect("our own child");
            let (libc, python) = (facts_of(&target, "libc.so"), facts_of(&target, "python"));
            (libc, python, target.reads().files)
        });
        let [(libc, python, files), (same_libc, same_python, same_files)] = targets;
        assert!(Arc::ptr_eq(&libc, &same_libc) && Arc::ptr_eq(&python, &same_python));
        assert_eq!(
            (files, same_files),
            (2, 2),
            "each is opened, for it may be another"
        );
        assert!(libc.libc.is_some(), "{libc:?}");
    }

    #[test]
    fn a_file_that_was_just_written_is_not_known_by_its_times() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = libraries(&folder, 1).remove(0);
        let source = Source::open(&path, 1 << 20).expect("ours");
        assert_eq!(source.version(), None);
        let old = Source::open("/bin/sh".as_ref(), 1 << 20).expect("a shell");
        assert_ne!(old.version(), None);
    }

    #[test]
    fn of_too_many_files_those_that_were_used_last_stay_known() {
        let old = Source::open("/bin/sh".as_ref(), 1 << 20).expect("a shell");
        let version = old.version().expect("it was installed before");
        let key = |number: usize| (version.clone(), number.to_string(), false);
        let mut shared = Shared::default();
        for number in 0..MAX_SHARED {
            shared.insert(key(number), Arc::default());
        }
        assert!(shared.get(&key(0)).is_some());
        shared.insert(key(MAX_SHARED), Arc::default());
        assert!(shared.files.len() <= MAX_SHARED / 2 + 1);
        for kept in [0, MAX_SHARED - 1, MAX_SHARED] {
            assert!(shared.get(&key(kept)).is_some(), "{kept}");
        }
        assert!(shared.get(&key(1)).is_none());
    }
}
