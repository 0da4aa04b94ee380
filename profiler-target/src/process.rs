//! A process, live or in a core file: what both give, each once.

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

    /// Where the dynamic sections of its objects lie, in the order in which the loader loaded them, the program
    /// first; empty where the loader has no list (a static program), or none yet, or it cannot be read.
    fn load_order(&self) -> Vec<RemoteAddr>;

    /// Its number, its names and how many threads it has; nothing of what its files say.
    fn names(&self) -> sample::Target;

    /// The environment that its program was started with.
    ///
    /// # Errors
    /// Why it is unknown. A core holds none that could be trusted to be that of its start.
    fn environment(&self) -> Result<StartEnvironment, UnknownEnvironment>;

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
    ///
    /// # Errors
    /// When its mappings cannot be read: it has exited, or the kernel does not permit it.
    fn describe(&self) -> io::Result<sample::Target> {
        Ok(self.identify(self.names(), &self.mappings()?))
    }

    /// Its names with what its files say, when it has these mappings.
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

    /// Its C library; `None` when it is linked statically.
    ///
    /// # Errors
    /// When its mappings cannot be read: it has exited, or the kernel does not permit it.
    fn libc(&self) -> io::Result<Option<&Libc>> {
        match self.files().identity.known_libc() {
            Some(known) => Ok(Some(known)),
            None => Ok(self.libc_in(&self.mappings()?)),
        }
    }

    /// How many bytes before a thread's pointer that is what `pthread_self` gives: none on x86-64; on aarch64 what the C
    /// library keeps of a thread (`THREAD_SELF` in glibc's `sysdeps/aarch64/nptl/tls.h`), `None` where it does not say.
    ///
    /// # Errors
    /// When its mappings cannot be read: it has exited, or the kernel does not permit it.
    fn thread_self_before(&self) -> io::Result<Option<u32>> {
        match Machine::OWN.thread_variables() {
            ThreadVariables::Below => Ok(Some(0)),
            ThreadVariables::Above => Ok(self.libc()?.and_then(|libc| libc.thread_bytes)),
        }
    }

    /// The C library of one that has these mappings.
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

    /// The same of one that has these mappings.
    fn libc_data_ranges_in(&self, mappings: &[Mapping]) -> Vec<AddrRange> {
        let libc = self.libc_in(mappings);
        libc.map_or_else(Vec::new, |libc| identity::libc_data(mappings, &libc.path))
    }

    /// Its Python; `None` when it runs none, or none yet.
    ///
    /// # Errors
    /// When its mappings cannot be read: it has exited, or the kernel does not permit it.
    fn python(&self) -> io::Result<Option<&Python>> {
        match self.files().identity.known_python() {
            Some(known) => Ok(Some(known)),
            None => Ok(self.python_in(&self.mappings()?)),
        }
    }

    /// The Python of one that has these mappings.
    fn python_in(&self, mappings: &[Mapping]) -> Option<&Python> {
        self.files().identity.python(self, mappings)
    }

    /// Where its Python's own data are, by the symbols of the file that Python is in; none without Python.
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

    /// Every allocator besides its C library's and Python's own that a mapped object holds.
    ///
    /// # Errors
    /// When its mappings cannot be read: it has exited, or the kernel does not permit it.
    fn allocator_objects(&self) -> io::Result<Vec<AllocatorObject>> {
        Ok(self.allocator_objects_in(&self.mappings()?))
    }

    /// The same of one that has these mappings.
    fn allocator_objects_in(&self, mappings: &[Mapping]) -> Vec<AllocatorObject> {
        allocators::find(self, mappings)
    }

    /// Whether all files are known that these mappings are of, so that nothing is to be read to know what
    /// they are.
    fn knows_files_of(&self, mappings: &[Mapping]) -> bool {
        self.files().known.has_all(mappings)
    }

    /// Where the kernel's random bytes lie (`AT_RANDOM`).
    ///
    /// # Errors
    /// When its auxiliary vector cannot be read.
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

    /// What was not looked into of its files because there was too much of it.
    fn unread_files(&self) -> Option<UnreadFiles> {
        self.files().reader.unread()
    }
}

/// What the mapped files of a process hold, as far as they were read: they do not change while they
/// are mapped.
#[derive(Debug, Default)]
pub struct Files {
    pub(super) identity: Identity,
    pub(super) known: KnownFiles,
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
