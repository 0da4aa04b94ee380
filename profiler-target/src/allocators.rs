//! Which mapped objects hold an allocator, and where their writable data lies.
//!
//! An object is told by the functions that it defines and, when those are stripped or prefixed, by
//! strings that the allocator's own messages leave in its read-only data.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use memchr::memmem;
use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::heap::Allocator;
use profiler_core::object::{AllocatorObject, OptionAt};
use profiler_core::residency::{Mapping, MappingKind};

use super::Target;
use super::elf::{ElfFile, Reader};
use super::identity::Image;
use super::jemalloc_options;

/// What tells one allocator.
struct Sign {
    allocator: Allocator,
    /// Functions that only it defines.
    functions: &'static [&'static str],
    /// Text that only it has in its read-only data; found within longer strings too.
    text: &'static [u8],
    version: fn(&ElfFile) -> Option<String>,
}

/// C libraries and pymalloc are not among them: `Target::libc` and `Target::python` tell those.
const SIGNS: [Sign; 3] = [
    Sign {
        allocator: Allocator::Jemalloc,
        functions: &["mallctl", "je_mallctl", "_rjem_mallctl"],
        text: jemalloc_options::MARKER,
        version: jemalloc_version,
    },
    Sign {
        allocator: Allocator::Mimalloc,
        functions: &["mi_malloc", "mi_version"],
        text: b"mimalloc: warning: ",
        version: mimalloc_version,
    },
    Sign {
        allocator: Allocator::Tcmalloc,
        functions: &["tc_malloc", "MallocExtension_GetNumericProperty"],
        text: b"gperftools ",
        version: tcmalloc_version,
    },
];

/// What was found in each file, by its path. A file does not change while it is mapped.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<BTreeMap<String, Found>>);

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

impl Target {
    /// Every allocator besides its C library's and Python's own that a mapped object holds.
    pub fn allocator_objects(&self) -> Vec<AllocatorObject> {
        self.allocators.find(self)
    }
}

impl Known {
    /// The allocators in the objects of `image`.
    pub(super) fn find(&self, image: &dyn Image) -> Vec<AllocatorObject> {
        let mappings = image.image_mappings();
        let Ok(mut known) = self.0.lock() else {
            return Vec::new();
        };
        let mut objects = Vec::new();
        for path in image.files() {
            let found = known
                .entry(path.clone())
                .or_insert_with(|| look_into(image.reader().open(&path, image.path_of(&path))));
            objects.extend(
                found
                    .allocators
                    .iter()
                    .map(|(allocator, version)| AllocatorObject {
                        allocator: *allocator,
                        version: version.clone(),
                        defines_malloc: found.defines_malloc,
                        path: path.clone(),
                        options: if *allocator == Allocator::Jemalloc {
                            options(&mappings, &path, found)
                        } else {
                            Vec::new()
                        },
                        data: data(&mappings, &path, found.bss_bytes),
                    }),
            );
        }
        objects
    }
}

/// The allocators in the file at `path` and their versions, but for C libraries' and Python's own.
pub fn allocators_in(path: &Path) -> Vec<(Allocator, Option<String>)> {
    let name = path.to_string_lossy();
    look_into(Reader::default().open(&name, path.to_owned())).allocators
}

fn look_into(file: Option<ElfFile>) -> Found {
    let Some(file) = file else {
        return Found::default();
    };
    let parts = file.read_only_data();
    let allocators: Vec<_> = SIGNS
        .iter()
        .filter(|sign| {
            let text = memmem::Finder::new(sign.text);
            parts.iter().any(|part| text.find(part).is_some())
                || sign.functions.iter().any(|name| file.exports(name))
        })
        .map(|sign| (sign.allocator, (sign.version)(&file)))
        .collect();
    if allocators.is_empty() {
        return Found::default();
    }
    Found {
        defines_malloc: file.exports("malloc"),
        options: if allocators.iter().any(|(a, _)| *a == Allocator::Jemalloc) {
            file.jemalloc_options()
        } else {
            Vec::new()
        },
        first: file.first_addr(),
        bss_bytes: file.bss_bytes(),
        allocators,
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

/// `JEMALLOC_VERSION`, e.g. `5.3.0-0-g54eaed1d…` with the 40 digits of a commit
/// (`include/jemalloc/jemalloc.h`). Builds without git say `0.0.0-0-g000…`, of which nothing can be
/// told.
fn jemalloc_version(file: &ElfFile) -> Option<String> {
    file.read_only_data().into_iter().find_map(|part| {
        memmem::find_iter(part, b"-g").find_map(|dash| {
            let commit = part.get(dash + 2..dash + 43)?;
            let whole = commit[..40].iter().all(u8::is_ascii_hexdigit) && commit[40] == 0;
            let before = &part[dash.saturating_sub(32)..dash];
            let start = memchr::memrchr(0, before)? + 1;
            let version = number_with_dots(before.get(start..)?)?;
            (whole && version.split('.').count() == 3 && version != "0.0.0").then_some(version)
        })
    })
}

/// What `mi_version` returns, as a constant: 209 is 2.0.9 (`src/options.c`).
fn mimalloc_version(file: &ElfFile) -> Option<String> {
    let code = file.exported_bytes::<16>("mi_version")?;
    let code = code
        .strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa])
        .unwrap_or(&code);
    let [0xb8, a, b, c, d, 0xc3, ..] = *code else {
        return None;
    };
    let number = u32::from_le_bytes([a, b, c, d]);
    let (major, minor, patch) = if number < 1000 {
        (number / 100, number / 10 % 10, number % 10)
    } else {
        (number / 10000, number / 100 % 100, number % 100)
    };
    Some(format!("{major}.{minor}.{patch}"))
}

/// `gperftools 2.10` (`TC_VERSION_STRING`).
fn tcmalloc_version(file: &ElfFile) -> Option<String> {
    let marker = b"gperftools ";
    file.read_only_data().into_iter().find_map(|part| {
        memmem::find_iter(part, marker)
            .find_map(|at| number_with_dots(part.get(at + marker.len()..)?))
    })
}

fn number_with_dots(text: &[u8]) -> Option<String> {
    let digits: String = text
        .iter()
        .map(|&byte| char::from(byte))
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .take(16)
        .collect();
    let digits = digits.trim_end_matches('.');
    (!digits.is_empty()).then(|| digits.to_owned())
}
