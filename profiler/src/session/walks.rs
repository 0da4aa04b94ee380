//! Walking every heap of a target: the one place that knows all walkers.

use std::fmt::Display;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::completeness::{Completeness, Confidence, Defect};
use profiler_core::heap::HeapSnapshot;
use profiler_core::memory::TargetMemory;
use profiler_core::residency::ResidencyMap;
use profiler_core::threads::Thread;
use profiler_core::{glibc, musl, pymalloc};

use crate::process::Target;

/// What walks must know of a target besides its memory and its pages. A live process and a core
/// file give the same facts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Whether glibc is its C library.
    pub(crate) has_glibc: bool,
    /// The release of its glibc.
    pub(crate) glibc: Option<(u32, u32)>,
    /// The writable mappings of its C library, `.bss` included.
    pub(crate) libc_data: Vec<AddrRange>,
    /// The version of its musl, when that is its C library.
    pub(crate) musl: Option<String>,
    /// Where the kernel's random bytes lie (`AT_RANDOM`).
    pub(crate) at_random: Option<RemoteAddr>,
    /// Python's major and minor version.
    pub(crate) python: Option<(u8, u8)>,
}

impl Facts {
    /// Those of a live process.
    pub(crate) fn of(target: &Target) -> Self {
        let libc = |name| target.libc().filter(|libc| libc.name == name);
        Self {
            has_glibc: libc("glibc").is_some(),
            glibc: target.libc_version(),
            libc_data: target.libc_data_ranges(),
            musl: libc("musl").map(|musl| musl.version.clone()),
            at_random: at_random(&target.auxv().unwrap_or_default()),
            python: target.python_version(),
        }
    }
}

/// Walks all heaps there are, outer allocators before inner ones. What could not be walked and was
/// to be expected, and what the walkers say of themselves, goes into `completeness`.
///
/// `memory` reads only what is resident and is of the moment of `residency`; `threads` is empty
/// when the target was not stopped.
pub(crate) fn heaps<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    facts: &Facts,
    threads: &[Thread],
    completeness: &mut Completeness,
) -> Vec<HeapSnapshot> {
    let mut heaps = Vec::new();
    let mut take = |allocator, expected, walked: Result<HeapSnapshot, Box<dyn Display>>| {
        match walked {
            Ok(heap) => heaps.push(heap),
            // pymalloc in a C program is not to be expected.
            Err(reason) if expected => completeness.defects.push(Defect {
                addr: None,
                what: format!("{allocator} was not walked: {reason}"),
                bytes: 0,
            }),
            Err(_) => {}
        }
    };
    let context = glibc::Context {
        version: facts.glibc,
        threads,
        libc_data: facts.libc_data.clone(),
    };
    let walked = glibc::walk(memory, residency, &context);
    take("glibc", facts.has_glibc, walked.map_err(boxed));

    // A static program of musl's shows no C library, but its heap can be told by its secret.
    if !facts.has_glibc {
        let context = musl::Context {
            at_random: facts.at_random,
            version: facts.musl.clone().unwrap_or_default(),
        };
        let walked = musl::walk(memory, residency, &context);
        take("musl", facts.musl.is_some(), walked.map_err(boxed));
    }

    let context = pymalloc::Context {
        python: facts.python,
    };
    let walked = pymalloc::walk(memory, residency, &context);
    take("pymalloc", facts.python.is_some(), walked.map_err(boxed));

    judge(completeness, &heaps);
    heaps
}

/// `AT_RANDOM` of an auxiliary vector (`include/uapi/linux/auxvec.h`).
fn at_random(auxv: &[u8]) -> Option<RemoteAddr> {
    const AT_RANDOM: u64 = 25;
    let (words, _) = auxv.as_chunks::<8>();
    let (pairs, _) = words.as_chunks::<2>();
    let of_random = |[key, _]: &&[[u8; 8]; 2]| u64::from_le_bytes(*key) == AT_RANDOM;
    let [_, addr] = pairs.iter().find(of_random)?;
    Some(RemoteAddr::new(u64::from_le_bytes(*addr)))
}

fn boxed<E: Display + 'static>(error: E) -> Box<dyn Display> {
    Box::new(error)
}

/// Sums up what the walkers said of themselves.
fn judge(completeness: &mut Completeness, heaps: &[HeapSnapshot]) {
    completeness.layout_confidence = heaps
        .iter()
        .map(|heap| heap.confidence)
        .min()
        .unwrap_or(Confidence::None);
    for heap in heaps {
        // glibc: arenas whose mutex was held, so that a thread stood inside malloc.
        let locked = heap.total(|arena| {
            let mut figures = arena.figures.iter();
            figures
                .find(|(name, _)| *name == "locked")
                .map_or(0, |(_, value)| *value)
        });
        completeness.threads_in_allocator += locked as u32;
        completeness.unreadable_bytes += heap.unreadable_bytes;
        completeness.defects.extend(heap.defects.iter().cloned());
    }
}
