//! Finds the mapped objects that contain an allocator, and their writable data.
//!
//! The signs that identify an allocator are in its row ([`profiler_core::allocator`]); this module
//! reads the files.

use std::collections::BTreeMap;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::allocator::{self, Allocator, AllocatorIdentity, AllocatorTitle, Role};
use profiler_core::object::{AllocatorObject, OptionAt};
use profiler_core::residency::{Mapping, MappingKind};

use super::Process;
use super::elf::{ElfFile, FilePath, Reader};
use super::jemalloc_options;
use super::known_files::{FileId, executed};

/// The allocators that an ELF file holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    allocators: Vec<(Allocator, Option<String>)>,
    defines_malloc: bool,
    /// Options of the jemalloc in it.
    options: Vec<jemalloc_options::Found>,
    /// The address, in the file's own addresses, of the start of its first page.
    first: u64,
    /// Bytes of zero-initialised data after the file's own pages.
    bss_bytes: u64,
}

/// The allocators in the objects that `process` maps in this way.
pub(super) fn find<P: Process + ?Sized>(process: &P, mappings: &[Mapping]) -> Vec<AllocatorObject> {
    let executed = executed(mappings);
    let known = &process.files().known;
    known.keep(&executed);
    let first = first_with_malloc(process, mappings, &executed);
    let mut objects = Vec::new();
    for (file, mapping) in &executed {
        let Some(facts) = known.facts(process, file, mapping) else {
            continue;
        };
        let held = &facts.held;
        objects.extend(
            held.identities(file, facts.is_python(), first.as_ref())
                .map(|identity| AllocatorObject {
                    options: match identity.is(Allocator::Jemalloc) {
                        true => options(mappings, file, held),
                        false => Vec::new(),
                    },
                    data: data(mappings, file, held.bss_bytes),
                    identity,
                }),
        );
    }
    objects
}

/// The allocator other than its C library's that serves the malloc calls of `process`.
pub(super) fn serving<P: Process + ?Sized>(
    process: &P,
    mappings: &[Mapping],
) -> Option<AllocatorTitle> {
    let executed = executed(mappings);
    let first = first_with_malloc(process, mappings, &executed);
    let serving = executed.iter().find_map(|(file, mapping)| {
        let facts = process.files().known.facts(process, file, mapping)?;
        let mut all = (facts.held).identities(file, facts.is_python(), first.as_ref());
        all.find(|one| one.serves_malloc())
    });
    // Files that cannot be read still have names.
    let named = || {
        let mut files = executed.keys();
        let of_name = |file: &FileId| {
            let is_first = first.as_ref().is_none_or(|first| first == file);
            Allocator::in_file_name(&file.path).filter(|_| is_first)
        };
        let kind = files.find_map(of_name)?;
        Some(AllocatorTitle::Known {
            kind,
            version: None,
        })
    };
    serving.map(|serving| serving.title()).or_else(named)
}

/// The object that malloc calls of `process` are bound to: the first in load order that defines
/// malloc. So a preloaded allocator takes precedence over the C library, and one loaded later with
/// `dlopen` does not, whatever it exports. `None` if the order is unknown: then any object that
/// exports malloc may be it.
fn first_with_malloc<P: Process + ?Sized>(
    process: &P,
    mappings: &[Mapping],
    executed: &BTreeMap<FileId, &Mapping>,
) -> Option<FileId> {
    let in_order = process.load_order().into_iter().filter_map(|dynamic| {
        let next = mappings.partition_point(|mapping| mapping.range.end() <= dynamic);
        let mapping = mappings.get(next)?;
        FileId::of(mapping).filter(|_| mapping.range.contains(dynamic))
    });
    in_order.into_iter().find(|file| {
        let facts = executed.get(file).and_then(|mapping| {
            let known = &process.files().known;
            known.facts(process, file, mapping)
        });
        let defines_malloc = facts.map_or_else(
            || Allocator::in_file_name(&file.path).is_some(),
            |facts| facts.held.defines_malloc,
        );
        defines_malloc || allocator::is_c_library_name(&file.path)
    })
}

/// The allocator behind the malloc of the file at `path`, which a target maps as `mapped` and gets
/// its malloc from.
pub(super) fn serving_malloc(reader: &Reader, mapped: &str, path: FilePath) -> AllocatorIdentity {
    let file = reader.open(mapped, path);
    let found = file.and_then(|file| allocator::serving_malloc(&file.contents(mapped)));
    let (kind, version) = found.unzip();
    AllocatorIdentity {
        kind,
        version: version.flatten(),
        object: mapped.to_owned(),
        in_python: false,
        role: Role::ServesMalloc,
    }
}

impl Held {
    /// Those in a file.
    pub(super) fn of(file: &ElfFile) -> Self {
        let allocators = file.allocators().to_vec();
        if allocators.is_empty() {
            return Self::default();
        }
        Self {
            defines_malloc: file.exports("malloc"),
            options: file.jemalloc_options(),
            first: file.first_addr(),
            bss_bytes: file.bss_bytes(),
            allocators,
        }
    }

    /// The allocators in it, if it is this file; `first` is the object that malloc calls are bound
    /// to.
    fn identities(
        &self,
        file: &FileId,
        in_python: bool,
        first: Option<&FileId>,
    ) -> impl Iterator<Item = AllocatorIdentity> {
        // Only under the name malloc can it serve the whole program; a copy with a prefix, inside a
        // library, or after another one only serves code that requests it explicitly.
        let is_first = first.is_none_or(|first| first == file);
        let role = match self.defines_malloc && is_first {
            true => Role::ServesMalloc,
            false => Role::Private,
        };
        let path = &file.path;
        let all = self.allocators.iter();
        all.map(move |(kind, version)| AllocatorIdentity {
            kind: Some(*kind),
            version: version.clone(),
            object: path.to_string(),
            in_python,
            role,
        })
    }
}

/// The options of a jemalloc, at the addresses where the target maps its file.
fn options(mappings: &[Mapping], file: &FileId, found: &Held) -> Vec<OptionAt> {
    let first = mappings.iter().find(|m| m.offset == 0 && file.is_of(m));
    let Some(bias) = first.map(|m| m.range.start().get().wrapping_sub(found.first)) else {
        return Vec::new();
    };
    let options = found.options.iter();
    options
        .map(|(name, addr, kind)| OptionAt {
            name: (*name).to_owned(),
            addr: RemoteAddr::new(addr.wrapping_add(bias)),
            kind: *kind,
        })
        .collect()
}

/// The writable mappings of an object's file, and up to `bss_bytes` of anonymous memory right
/// after one of them.
fn data(mappings: &[Mapping], file: &FileId, bss_bytes: u64) -> Vec<AddrRange> {
    let mut ranges: Vec<AddrRange> = Vec::new();
    let mut bss = None;
    for mapping in mappings {
        match &mapping.kind {
            MappingKind::File(_) if file.is_of(mapping) => {
                if mapping.write {
                    ranges.push(mapping.range);
                }
                bss = Some((mapping.range.end(), bss_bytes));
            }
            // The brk area of a program that is not randomised may be one mapping with its `.bss`.
            MappingKind::Anonymous | MappingKind::NamedAnonymous(_) | MappingKind::Brk => {
                let Some((at, rest)) = bss.filter(|(at, _)| *at == mapping.range.start()) else {
                    continue;
                };
                let length = mapping.range.len().min(rest);
                if mapping.write && length > 0 {
                    ranges.extend(AddrRange::with_len(at, length));
                }
                bss = Some((
                    mapping.range.end(),
                    rest.saturating_sub(mapping.range.len()),
                ));
            }
            _ => {}
        }
    }
    ranges
}
