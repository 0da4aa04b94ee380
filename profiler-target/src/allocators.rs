//! Which mapped objects hold an allocator, and where their writable data lies.
//!
//! What identifies one stands in its row ([`profiler_core::allocator`]); here are the files.

use std::collections::BTreeMap;
use std::sync::Mutex;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::allocator::{self, Allocator, AllocatorIdentity, Role};
use profiler_core::object::{AllocatorObject, OptionAt};
use profiler_core::residency::{Mapping, MappingKind};

use super::Process;
use super::elf::{ElfFile, FilePath, MAX_FILES, Reader};
use super::jemalloc_options;

/// What was found in each file, by its path. A file does not change while it is mapped.
#[derive(Debug, Default)]
pub(super) struct KnownObjects(Mutex<BTreeMap<String, Found>>);

#[derive(Clone, Debug, Default)]
struct Found {
    allocators: Vec<(Allocator, Option<String>)>,
    defines_malloc: bool,
    /// Options of the jemalloc in it.
    options: Vec<jemalloc_options::Found>,
    /// An address of the file's own at the start of its first page.
    first: u64,
    /// Bytes of zero-initialised data after the file's own pages.
    bss_bytes: u64,
}

impl KnownObjects {
    /// The allocators in the objects of `process`.
    pub(super) fn find<P: Process + ?Sized>(&self, process: &P) -> Vec<AllocatorObject> {
        let mappings = process.mappings().unwrap_or_default();
        let mut objects = Vec::new();
        self.each(process, |path, found| {
            objects.extend(found.identities(path).map(|identity| AllocatorObject {
                options: match identity.is(Allocator::Jemalloc) {
                    true => options(&mappings, path, found),
                    false => Vec::new(),
                },
                data: data(&mappings, path, found.bss_bytes),
                identity,
            }));
        });
        objects
    }

    /// The allocator other than its C library's that serves the malloc calls of `process`.
    pub(super) fn serving<P: Process + ?Sized>(&self, process: &P) -> Option<AllocatorIdentity> {
        let mut serving = None;
        self.each(process, |path, found| {
            let mut all = found.identities(path);
            serving = serving
                .take()
                .or_else(|| all.find(|one| one.serves_malloc()));
        });
        serving
    }

    /// Calls `see` with each file of `process` and what is in it.
    fn each<P: Process + ?Sized>(&self, process: &P, mut see: impl FnMut(&str, &Found)) {
        let Ok(mut known) = self.0.lock() else {
            return;
        };
        for (path, mapping) in process.executed_files() {
            if !known.contains_key(&path) {
                let reader = &process.files().reader;
                let file = reader.open(&path, process.file_of(&mapping));
                // What is beyond the reader's limit has nothing to be remembered.
                if known.len() >= MAX_FILES {
                    continue;
                }
                let found = file.as_ref().map(examine).unwrap_or_default();
                known.insert(path.clone(), found);
            }
            if let Some(found) = known.get(&path) {
                see(&path, found);
            }
        }
    }
}

/// The allocator behind the malloc of the file at `path`, which a target maps as `mapped` and takes
/// its malloc from.
pub(super) fn serving_malloc(reader: &Reader, mapped: &str, path: FilePath) -> AllocatorIdentity {
    let file = reader.open(mapped, path);
    let found = file.and_then(|file| allocator::serving_malloc(&file.contents(mapped)));
    let (kind, version) = found.unzip();
    AllocatorIdentity {
        kind,
        version: version.flatten(),
        object: mapped.to_owned(),
        role: Role::ServesMalloc,
    }
}

fn examine(file: &ElfFile) -> Found {
    let allocators = file.allocators().to_vec();
    if allocators.is_empty() {
        return Found::default();
    }
    Found {
        defines_malloc: file.exports("malloc"),
        options: file.jemalloc_options(),
        first: file.first_addr(),
        bss_bytes: file.bss_bytes(),
        allocators,
    }
}

impl Found {
    /// The allocators in it, where it is mapped from `path`.
    fn identities(&self, path: &str) -> impl Iterator<Item = AllocatorIdentity> {
        // By the name of malloc it can serve the whole program; a copy with a prefix, or inside a
        // library, serves that library only.
        let role = match self.defines_malloc {
            true => Role::ServesMalloc,
            false => Role::Private,
        };
        let all = self.allocators.iter();
        all.map(move |(kind, version)| AllocatorIdentity {
            kind: Some(*kind),
            version: version.clone(),
            object: path.to_owned(),
            role,
        })
    }
}

/// The options of a jemalloc where the target maps its file.
fn options(mappings: &[Mapping], path: &str, found: &Found) -> Vec<OptionAt> {
    let first = mappings
        .iter()
        .find(|m| m.offset == 0 && matches!(&m.kind, MappingKind::File(of) if of == path));
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

/// The writable mappings of the object at `path`, and up to `bss_bytes` of anonymous memory right
/// after one of them.
fn data(mappings: &[Mapping], path: &str, bss_bytes: u64) -> Vec<AddrRange> {
    let mut ranges: Vec<AddrRange> = Vec::new();
    let mut bss = None;
    for mapping in mappings {
        match &mapping.kind {
            MappingKind::File(of) if of == path => {
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
