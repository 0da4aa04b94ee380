//! A process, live or in a core file: what both give, each once.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::allocator::{self, Allocator, AllocatorIdentity, PRELOAD};
use profiler_core::object::AllocatorObject;
use profiler_core::objects::stacks::PythonSymbols;
use profiler_core::residency::{Mapping, MappingKind};
use profiler_core::sample;

use super::allocators::{KnownObjects, serving_malloc};
use super::auxv::{AT_RANDOM, auxv_value};
use super::elf::{FileError, FilePath, Reader, Source};
use super::identity::{self, Identity, Libc, Python};

/// A process to look into: a live one ([`Target`](super::Target)) or what a core file holds of one
/// ([`CoreFile`](super::CoreFile)).
pub trait Process {
    /// Its mappings, ascending, as far as they are known.
    ///
    /// # Errors
    /// When it has exited.
    fn mappings(&self) -> io::Result<Vec<Mapping>>;

    /// Its auxiliary vector, as the kernel filled it in at its start.
    ///
    /// # Errors
    /// When it has exited, or when the kernel does not permit it.
    fn auxv(&self) -> io::Result<Vec<u8>>;

    /// Its number, its names and how many threads it has; nothing of what its files say.
    fn names(&self) -> sample::Target;

    /// The entries of its environment that begin so and are not empty, in a bounded number and cut to a
    /// bounded length. A core holds none that could be trusted to be those of its start.
    fn environment(&self, begin: &str) -> Vec<String>;

    /// Where the file behind one of its mappings can be opened, which may be nowhere. Others may map another
    /// file by the same path.
    fn file_of(&self, mapping: &Mapping) -> FilePath;

    /// Whether this mapped file is its program.
    fn is_program(&self, mapped: &str) -> bool;

    /// Read-only data of a mapped file as far as it is in memory, for when the file itself is not to
    /// be had.
    fn read_only_memory(&self, mapped: &str) -> Vec<Vec<u8>>;

    /// What was read of its files so far.
    fn files(&self) -> &Files;

    /// Who it is, in words.
    fn describe(&self) -> sample::Target {
        let python = self.python();
        sample::Target {
            python: python.map(|python| format!("CPython {}", python.full_version)),
            libc: self.libc().map(Libc::to_string),
            malloc: self.files().identity.malloc(self),
            ..self.names()
        }
    }

    /// Its C library; `None` when it is linked statically.
    fn libc(&self) -> Option<&Libc> {
        self.files().identity.libc(self)
    }

    /// The writable mappings of its C library, with the zero-initialised data after them.
    fn libc_data_ranges(&self) -> Vec<AddrRange> {
        let mappings = self.mappings().unwrap_or_default();
        let libc = self.libc();
        libc.map_or_else(Vec::new, |libc| identity::libc_data(&mappings, &libc.path))
    }

    /// Its Python; `None` when it runs none, or none yet.
    fn python(&self) -> Option<&Python> {
        self.files().identity.python(self)
    }

    /// Where its Python's own data are, by the symbols of the file that Python is in; none without Python.
    fn python_symbols(&self) -> PythonSymbols {
        let symbols = self.python().and_then(|python| {
            let mappings = self.mappings().ok()?;
            identity::symbols(self, &mappings, &python.path)
        });
        symbols.unwrap_or_default()
    }

    /// Its Python's major and minor version.
    fn python_version(&self) -> Option<(u8, u8)> {
        self.python().map(|python| python.version)
    }

    /// Every allocator besides its C library's and Python's own that a mapped object holds.
    fn allocator_objects(&self) -> Vec<AllocatorObject> {
        self.files().objects.find(self)
    }

    /// Where the kernel's random bytes lie (`AT_RANDOM`).
    fn at_random(&self) -> Option<RemoteAddr> {
        let auxv = self.auxv().unwrap_or_default();
        auxv_value(&auxv, AT_RANDOM).map(RemoteAddr::new)
    }

    /// What its environment asks of Python's allocators, e.g. `PYTHONMALLOC=malloc`: a hint, for a
    /// program may set it for its children only, or have it ignored (`-E`, `-I`).
    fn python_malloc_setting(&self) -> Option<String> {
        let set = |name| self.environment(name).into_iter().next();
        set("PYTHONMALLOC=").or_else(|| set("PYTHONDEVMODE="))
    }

    /// What its environment asks of glibc's malloc, as the program was started with it: `NAME=VALUE`.
    fn malloc_environment(&self) -> Vec<String> {
        let variables = Allocator::Glibc.row().variables.iter();
        let all = variables.flat_map(|name| self.environment(name));
        // Another allocator's variable may begin as glibc's do.
        let is_glibcs = |entry: &String| {
            let name = entry.split('=').next().unwrap_or(entry);
            allocator::reader_of(name) == Some(Allocator::Glibc)
        };
        all.filter(is_glibcs).collect()
    }

    /// What its environment asks of any allocator, as it was started: names and values.
    fn allocator_environment(&self) -> Vec<(String, String)> {
        let preload = format!("{PRELOAD}=");
        let of_allocators =
            allocator::environment_beginnings().flat_map(|name| self.environment(name));
        let all: Vec<String> = of_allocators.chain(self.environment(&preload)).collect();
        let entries = all.iter().filter_map(|entry| entry.split_once('='));
        let owned = entries.map(|(name, value)| (name.to_owned(), value.to_owned()));
        owned.collect()
    }

    /// The files that it executes code from by their paths, each with its first mapping as code.
    fn executed_files(&self) -> BTreeMap<String, Mapping> {
        let mut files = BTreeMap::new();
        for mapping in self.mappings().unwrap_or_default() {
            if let MappingKind::File(path) = &mapping.kind
                && mapping.execute
            {
                files.entry(path.clone()).or_insert(mapping);
            }
        }
        files
    }

    /// What was not looked into of its files because there was too much of it, in one sentence.
    fn unread_files(&self) -> Option<String> {
        self.files().reader.unread()
    }
}

/// What the mapped files of a process hold, as far as they were read: they do not change while they
/// are mapped.
#[derive(Debug, Default)]
pub struct Files {
    pub(super) identity: Identity,
    pub(super) objects: KnownObjects,
    pub(super) reader: Reader,
}

impl Files {
    /// What `read` finds in a file that the process maps as `mapped`, within the limits of bytes, time and
    /// number that all of its files share.
    ///
    /// # Errors
    /// When it cannot be opened, is no regular file, or was cut off by a limit.
    pub fn read<T: Send + 'static>(
        &self,
        mapped: &str,
        path: FilePath,
        read: impl FnOnce(&Source) -> T + Send + 'static,
    ) -> Result<T, FileError> {
        self.reader.read(mapped, path, read)
    }

    /// The allocator behind the malloc of a file that the process maps as `mapped` and takes its malloc from.
    pub fn malloc_in(&self, mapped: &str, path: FilePath) -> AllocatorIdentity {
        serving_malloc(&self.reader, mapped, path)
    }
}

/// The allocator behind the malloc of the file at `path`.
pub fn malloc_in(path: &Path) -> AllocatorIdentity {
    let name = path.to_string_lossy();
    Files::default().malloc_in(&name, path.to_owned().into())
}
