//! What walks need to know about a target besides its memory and pages.

use std::io;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::allocator::{Allocator, AllocatorIdentity, Role, UnknownEnvironment, reader_of};
use profiler_core::heap::{HeapSnapshot, RequestedSetting};
use profiler_core::memory::TargetMemory;
use profiler_core::object::AllocatorObject;
use profiler_core::pymalloc;
use profiler_core::residency::{Mapping, ResidencyMap};
use profiler_core::sample::PythonMalloc;
use profiler_target::{Libc, Process};

use super::roots::{Roots, locked};

/// What walks must know of a target.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Its C library; `None` if it is statically linked.
    pub(crate) libc: Option<Libc>,
    /// The writable mappings of its C library, `.bss` included.
    pub(crate) libc_data: Vec<AddrRange>,
    /// What its environment asks of allocators, `NAME=VALUE` each, or why that is unknown.
    pub(crate) environment: Result<Vec<String>, UnknownEnvironment>,
    /// Where the kernel's random bytes lie (`AT_RANDOM`).
    pub(crate) at_random: Option<RemoteAddr>,
    /// Python's major and minor version.
    pub(crate) python: Option<(u8, u8)>,
    /// What its environment asks of Python's allocators, or why that is unknown.
    pub(crate) python_malloc_setting: Result<Option<String>, UnknownEnvironment>,
    /// What its memory says of them: [`Facts::read_python_tables`].
    pub(crate) python_malloc: Option<PythonMalloc>,
    /// Allocators other than its C library's and Python's, in any object.
    pub(crate) allocators: Vec<AllocatorObject>,
}

impl Facts {
    /// The facts of a process, live or in a core file, with these mappings.
    ///
    /// # Errors
    /// When the target has exited, or the kernel does not permit reading its auxiliary vector.
    pub(crate) fn of(process: &impl Process, mappings: &[Mapping]) -> io::Result<Self> {
        let of_its_start = Self {
            libc: None,
            libc_data: Vec::new(),
            environment: process.allocator_environment(),
            at_random: process.at_random()?,
            python: None,
            python_malloc_setting: process.python_malloc_setting(),
            python_malloc: None,
            allocators: Vec::new(),
        };
        Ok(of_its_start.with_files(process, mappings))
    }

    /// The same facts of the process after its mappings have changed.
    pub(crate) fn with_files(self, process: &impl Process, mappings: &[Mapping]) -> Self {
        let libc_data = process.libc_data_ranges_in(mappings);
        Self {
            libc: process.libc_in(mappings).cloned(),
            libc_data,
            python: process.python_in(mappings).map(|python| python.version),
            python_malloc: None,
            allocators: process.allocator_objects_in(mappings),
            ..self
        }
    }

    /// Determines the allocator of Python's objects from the target's memory.
    pub(crate) fn read_python_tables<M: TargetMemory>(
        &mut self,
        memory: &M,
        residency: &ResidencyMap,
        roots: &Roots,
    ) {
        let mut roots = locked(&roots.pymalloc);
        self.python_malloc = self
            .python
            .map(|python| pymalloc::objects_allocator_from(memory, residency, python, &mut roots));
        // From 3.13 on CPython contains a mimalloc that most programs never use.
        let role = match self.python_malloc {
            Some(PythonMalloc::Mimalloc | PythonMalloc::MimallocDebug) => Role::Private,
            _ => Role::Unused,
        };
        let all = self
            .allocators
            .iter_mut()
            .map(|object| &mut object.identity);
        let in_python = all.filter(|identity| identity.in_python);
        for identity in in_python.filter(|identity| identity.is(Allocator::Mimalloc)) {
            identity.role = role;
        }
    }

    /// The allocator of Python's objects after the walks: pools in use mean pymalloc.
    pub(crate) fn python_malloc(&self, heaps: &[HeapSnapshot]) -> Option<PythonMalloc> {
        let walked = heaps
            .iter()
            .any(|heap| heap.allocator == Allocator::Pymalloc);
        match self.python_malloc? {
            PythonMalloc::Unknown if walked => Some(PythonMalloc::Pymalloc),
            known => Some(known),
        }
    }

    /// What its environment asks of the allocator that serves its malloc, where that has no walker that compares the
    /// two, or why that is unknown.
    pub(crate) fn requested_of(
        &self,
        kind: Allocator,
    ) -> Result<Vec<RequestedSetting>, UnknownEnvironment> {
        let entries = self.environment.as_ref().map_err(|reason| *reason)?.iter();
        let is_read = |entry: &&String| {
            let name = entry.split('=').next().unwrap_or(entry);
            reader_of(name) == Some(kind)
        };
        let own = entries.filter(is_read).map(|entry| RequestedSetting {
            request: entry.clone(),
            in_force: None,
            note: "it is not compared with what is in effect".to_owned(),
        });
        Ok(own.collect())
    }

    /// Its C library, if it is of this kind.
    pub(crate) fn libc_of(&self, kind: Allocator) -> Option<&Libc> {
        self.libc.as_ref().filter(|libc| libc.kind == kind)
    }

    /// The objects that hold this allocator.
    pub(crate) fn objects_of(&self, kind: Allocator) -> impl Iterator<Item = &AllocatorObject> {
        let all = self.allocators.iter();
        all.filter(move |object| object.identity.is(kind))
    }

    /// Whether an allocator other than the C library's serves its malloc calls.
    pub(crate) fn replaces_malloc(&self) -> bool {
        let mut identities = self.allocators.iter().map(|object| &object.identity);
        identities.any(AllocatorIdentity::serves_malloc)
    }
}
