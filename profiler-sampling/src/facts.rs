//! What walks must know of a target besides its memory and its pages.

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::allocator::{Allocator, AllocatorIdentity, Role};
use profiler_core::heap::HeapSnapshot;
use profiler_core::memory::TargetMemory;
use profiler_core::object::AllocatorObject;
use profiler_core::pymalloc;
use profiler_core::residency::ResidencyMap;
use profiler_core::sample::PythonMalloc;
use profiler_target::auxv::{AT_RANDOM, auxv_value};
use profiler_target::{CoreFile, Libc, Target};

/// What walks must know of a target. A live process and a core file give the same facts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Its C library; `None` when it is linked statically.
    pub(crate) libc: Option<Libc>,
    /// The writable mappings of its C library, `.bss` included.
    pub(crate) libc_data: Vec<AddrRange>,
    /// What its environment asks of glibc's malloc.
    pub(crate) malloc_environment: Vec<String>,
    /// Where the kernel's random bytes lie (`AT_RANDOM`).
    pub(crate) at_random: Option<RemoteAddr>,
    /// Python's major and minor version.
    pub(crate) python: Option<(u8, u8)>,
    /// What its environment asks of Python's allocators.
    pub(crate) python_malloc_setting: Option<String>,
    /// What its memory says of them: [`Facts::look`].
    pub(crate) python_malloc: Option<PythonMalloc>,
    /// Allocators other than its C library's and Python's, in whichever object holds them.
    pub(crate) allocators: Vec<AllocatorObject>,
}

impl Facts {
    /// Those of a live process.
    pub(crate) fn of(target: &Target) -> Self {
        Self {
            libc: target.libc().cloned(),
            libc_data: target.libc_data_ranges(),
            malloc_environment: target.malloc_environment(),
            at_random: at_random(&target.auxv().unwrap_or_default()),
            python: target.python_version(),
            python_malloc_setting: target.python_malloc_setting(),
            python_malloc: None,
            allocators: target.allocator_objects(),
        }
    }

    /// Those of a core file.
    pub(crate) fn of_core(core: &CoreFile) -> Self {
        Self {
            libc: core.libc().cloned(),
            libc_data: core.libc_data_ranges(),
            malloc_environment: Vec::new(),
            at_random: at_random(core.auxv()),
            python: core.python().map(|python| python.version),
            python_malloc_setting: None,
            python_malloc: None,
            allocators: core.allocator_objects(),
        }
    }

    /// Finds in the target's memory what serves Python's objects.
    pub(crate) fn look<M: TargetMemory>(&mut self, memory: &M, residency: &ResidencyMap) {
        let look = |python| pymalloc::objects_allocator(memory, residency, python);
        self.python_malloc = self.python.map(look);
        // CPython has a mimalloc in it from 3.13 on that most programs never use.
        let role = match self.python_malloc {
            Some(PythonMalloc::Mimalloc | PythonMalloc::MimallocDebug) => Role::Private,
            _ => Role::Unused,
        };
        let all = self
            .allocators
            .iter_mut()
            .map(|object| &mut object.identity);
        let in_python = all.filter(|identity| identity.is_in_python());
        for identity in in_python.filter(|identity| identity.is(Allocator::Mimalloc)) {
            identity.role = role;
        }
    }

    /// What serves Python's objects, when the walks are done: pools in use are pymalloc's.
    pub(crate) fn python_malloc(&self, heaps: &[HeapSnapshot]) -> Option<PythonMalloc> {
        let walked = heaps
            .iter()
            .any(|heap| heap.allocator == Allocator::Pymalloc);
        match self.python_malloc? {
            PythonMalloc::Unknown if walked => Some(PythonMalloc::Pymalloc),
            told => Some(told),
        }
    }

    /// Its C library, if it is of this kind.
    pub(crate) fn libc_of(&self, kind: Allocator) -> Option<&Libc> {
        self.libc.as_ref().filter(|libc| libc.kind == kind)
    }

    /// Whether an allocator other than the C library's serves its malloc calls.
    pub(crate) fn replaces_malloc(&self) -> bool {
        let mut identities = self.allocators.iter().map(|object| &object.identity);
        identities.any(AllocatorIdentity::serves_malloc)
    }
}

fn at_random(auxv: &[u8]) -> Option<RemoteAddr> {
    auxv_value(auxv, AT_RANDOM).map(RemoteAddr::new)
}
