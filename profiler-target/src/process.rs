//! What a live process and a core file have in common, as one trait.

use std::io;
use std::path::Path;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::allocator::{self, AllocatorIdentity, PRELOAD, UnknownEnvironment};
use profiler_core::machine::{Machine, ThreadVariables};
use profiler_core::object::AllocatorObject;
use profiler_core::objects::stacks::PythonSymbols;
use profiler_core::residency::Mapping;
use profiler_core::sample;

use super::allocators::{self, serving_malloc};
use super::auxv::{AT_RANDOM, auxv_value};
use super::elf::{FileError, FilePath, Reader, Source, UnreadFiles};
use super::environment::StartEnvironment;
use super::identity::{self, Identity, Libc, Python};
use super::known_files::KnownFiles;

/// A process to inspect: a live one ([`Target`](super::Target)) or one in a core file
/// ([`CoreFile`](super::CoreFile)).
pub trait Process {
    /// Its mappings, ascending, as far as known.
    ///
    /// # Errors
    /// When it has exited.
    fn mappings(&self) -> io::Result<Vec<Mapping>>;

    /// Its auxiliary vector, as filled in by the kernel at its start.
    ///
    /// # Errors
    /// When it has exited, or when the kernel does not permit it.
    fn auxv(&self) -> io::Result<Vec<u8>>;

    /// The addresses of its objects' dynamic sections in load order, the program first; empty if
    /// the loader has no list (a static program), or none yet, or it is unreadable.
    fn load_order(&self) -> Vec<RemoteAddr>;

    /// Its pid, its names and its number of threads; nothing from its files.
    fn names(&self) -> sample::Target;

    /// The environment that its program was started with.
    ///
    /// # Errors
    /// Why it is unknown. A core holds none that could be trusted to be that of its start.
    fn environment(&self) -> Result<StartEnvironment, UnknownEnvironment>;

    /// Where the file behind one of its mappings can be opened, if anywhere. Other processes may
    /// map another file under the same path.
    fn file_of(&self, mapping: &Mapping) -> FilePath;

    /// Whether this mapped file is its program.
    fn is_program(&self, mapped: &str) -> bool;

    /// The part of a mapped file's read-only data that is in memory, in case the file itself is not
    /// available.
    fn read_only_memory(&self, mapped: &str) -> Vec<Vec<u8>>;

    /// What was read of its files so far.
    fn files(&self) -> &Files;

    /// Its identity, as text.
    ///
    /// # Errors
    /// When its mappings cannot be read: it has exited, or the kernel does not permit it.
    fn describe(&self) -> io::Result<sample::Target> {
        Ok(self.identify(self.names(), &self.mappings()?))
    }

    /// Its names and what its files say, given these mappings.
    fn identify(&self, names: sample::Target, mappings: &[Mapping]) -> sample::Target {
        let identity = &self.files().identity;
        let python = identity.python(self, mappings);
        sample::Target {
            python: python.map(|python| format!("CPython {}", python.full_version)),
            libc: identity.libc(self, mappings).map(Libc::to_string),
            malloc: identity.malloc(self, mappings),
            ..names
        }
    }

    /// Its C library; `None` if it is statically linked.
    ///
    /// # Errors
    /// When its mappings cannot be read: it has exited, or the kernel does not permit it.
    fn libc(&self) -> io::Result<Option<&Libc>> {
        match self.files().identity.known_libc() {
            Some(known) => Ok(Some(known)),
            None => Ok(self.libc_in(&self.mappings()?)),
        }
    }

    /// The distance, in bytes, from the result of `pthread_self` up to the thread pointer: 0 on
    /// x86-64; on aarch64 the size of the C library's data for a thread (`THREAD_SELF` in glibc's
    /// `sysdeps/aarch64/nptl/tls.h`), `None` if the library does not say.
    ///
    /// # Errors
    /// When its mappings cannot be read: it has exited, or the kernel does not permit it.
    fn thread_self_before(&self) -> io::Result<Option<u32>> {
        match Machine::OWN.thread_variables() {
            ThreadVariables::Below => Ok(Some(0)),
            ThreadVariables::Above => Ok(self.libc()?.and_then(|libc| libc.thread_bytes)),
        }
    }

    /// Its C library, given these mappings.
    fn libc_in(&self, mappings: &[Mapping]) -> Option<&Libc> {
        self.files().identity.libc(self, mappings)
    }

    /// The writable mappings of its C library, with the zero-initialised data after them.
    ///
    /// # Errors
    /// When its mappings cannot be read: it has exited, or the kernel does not permit it.
    fn libc_data_ranges(&self) -> io::Result<Vec<AddrRange>> {
        Ok(self.libc_data_ranges_in(&self.mappings()?))
    }

    /// The same, given these mappings.
    fn libc_data_ranges_in(&self, mappings: &[Mapping]) -> Vec<AddrRange> {
        let libc = self.libc_in(mappings);
        libc.map_or_else(Vec::new, |libc| identity::libc_data(mappings, &libc.path))
    }

    /// Its Python; `None` if it runs none, or none yet.
    ///
    /// # Errors
    /// When its mappings cannot be read: it has exited, or the kernel does not permit it.
    fn python(&self) -> io::Result<Option<&Python>> {
        match self.files().identity.known_python() {
            Some(known) => Ok(Some(known)),
            None => Ok(self.python_in(&self.mappings()?)),
        }
    }

    /// Its Python, given these mappings.
    fn python_in(&self, mappings: &[Mapping]) -> Option<&Python> {
        self.files().identity.python(self, mappings)
    }

    /// The addresses of its Python's own data, from the symbols of Python's file; empty without
    /// Python.
    ///
    /// # Errors
    /// When its mappings cannot be read: it has exited, or the kernel does not permit it.
    fn python_symbols(&self) -> io::Result<PythonSymbols> {
        let Some(python) = self.python()? else {
            return Ok(PythonSymbols::default());
        };
        let symbols = identity::symbols(self, &self.mappings()?, &python.path);
        Ok(symbols.unwrap_or_default())
    }

    /// Its Python's major and minor version.
    ///
    /// # Errors
    /// When its mappings cannot be read: it has exited, or the kernel does not permit it.
    fn python_version(&self) -> io::Result<Option<(u8, u8)>> {
        Ok(self.python()?.map(|python| python.version))
    }

    /// Every allocator in a mapped object, except its C library's and Python's own.
    ///
    /// # Errors
    /// When its mappings cannot be read: it has exited, or the kernel does not permit it.
    fn allocator_objects(&self) -> io::Result<Vec<AllocatorObject>> {
        Ok(self.allocator_objects_in(&self.mappings()?))
    }

    /// The same, given these mappings.
    fn allocator_objects_in(&self, mappings: &[Mapping]) -> Vec<AllocatorObject> {
        allocators::find(self, mappings)
    }

    /// Whether all files of these mappings are known, so that none need be read to identify them.
    fn knows_files_of(&self, mappings: &[Mapping]) -> bool {
        self.files().known.has_all(mappings)
    }

    /// The address of the kernel's random bytes (`AT_RANDOM`).
    ///
    /// # Errors
    /// When its auxiliary vector is unreadable.
    fn at_random(&self) -> io::Result<Option<RemoteAddr>> {
        Ok(auxv_value(&self.auxv()?, AT_RANDOM).map(RemoteAddr::new))
    }

    /// What its environment asks of Python's allocators, e.g. `PYTHONMALLOC=malloc`: a hint, for a
    /// program may set it for its children only, or have it ignored (`-E`, `-I`).
    ///
    /// # Errors
    /// Why its environment is unknown.
    fn python_malloc_setting(&self) -> Result<Option<String>, UnknownEnvironment> {
        let environment = self.environment()?;
        let set = |name| environment.beginning_with(name).into_iter().next();
        Ok(set("PYTHONMALLOC=").or_else(|| set("PYTHONDEVMODE=")))
    }

    /// What its environment asks of any allocator, as the program was started with it: `NAME=VALUE`.
    ///
    /// # Errors
    /// Why its environment is unknown.
    fn allocator_environment(&self) -> Result<Vec<String>, UnknownEnvironment> {
        let environment = self.environment()?;
        let preload = format!("{PRELOAD}=");
        let beginnings = allocator::environment_beginnings();
        let mut all: Vec<String> = beginnings
            .flat_map(|name| environment.beginning_with(name))
            .collect();
        all.extend(environment.beginning_with(&preload));
        Ok(all)
    }

    /// The parts of its files that were not read because of limits.
    fn unread_files(&self) -> Option<UnreadFiles> {
        self.files().reader.unread()
    }
}

/// What is known about the mapped files of a process. It stays valid, because the files do not
/// change while they are mapped.
#[derive(Debug, Default)]
pub struct Files {
    pub(super) identity: Identity,
    pub(super) known: KnownFiles,
    pub(super) reader: Reader,
}

impl Files {
    /// The result of `read` for a file that the process maps as `mapped`, within the limits of
    /// bytes, time and number shared by all its files.
    ///
    /// # Errors
    /// When it cannot be opened, is not a regular file, or exceeds a limit.
    pub fn read<T: Send + 'static>(
        &self,
        mapped: &str,
        path: FilePath,
        read: impl FnOnce(&Source) -> T + Send + 'static,
    ) -> Result<T, FileError> {
        self.reader.read(mapped, path, read)
    }

    /// The allocator behind the malloc of a file that the process maps as `mapped` and gets its
    /// malloc from.
    pub fn malloc_in(&self, mapped: &str, path: FilePath) -> AllocatorIdentity {
        serving_malloc(&self.reader, mapped, path)
    }
}

/// The allocator behind the malloc of the file at `path`.
pub fn malloc_in(path: &Path) -> AllocatorIdentity {
    let name = path.to_string_lossy();
    Files::default().malloc_in(&name, path.to_owned().into())
}
