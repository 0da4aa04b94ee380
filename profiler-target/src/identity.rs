//! Identifies the target: its names, its Python, its C library and its allocator.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::allocator::{self, Allocator, AllocatorTitle, Contents};
use profiler_core::objects::stacks::PythonSymbols;
use profiler_core::residency::{Mapping, MappingKind};

use super::Process;
use super::allocators;
use super::elf::{ElfFile, strings};
use super::known_files::{FileId, executed};

/// libc's zero-initialised data after its file mapping is shorter than this (glibc 2.43: 53 KiB).
const MAX_BSS_BYTES: u64 = 1 << 20;

/// The C library of a target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Libc {
    /// Its path as the target sees it.
    pub path: String,
    /// Which C library, by its allocator.
    pub kind: Allocator,
    /// Its version as it states it, e.g. `2.36` or `1.2.3`; empty if unreadable.
    pub version: String,
    /// The number of bytes it keeps for each thread; `None` if it does not say.
    pub thread_bytes: Option<u32>,
}

/// The Python of a target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Python {
    /// Its path as the target sees it: the program, or a libpython.
    pub path: String,
    /// Major and minor.
    pub version: (u8, u8),
    /// The full version if it could be read, e.g. `3.11.2`, else `3.11`.
    pub full_version: String,
}

/// Facts determined once, because they do not change while the program runs.
#[derive(Debug, Default)]
pub(super) struct Identity {
    libc: OnceLock<Libc>,
    python: OnceLock<Python>,
}

impl Identity {
    /// The Python of `process`, if it is known.
    pub(super) fn known_python(&self) -> Option<&Python> {
        self.python.get()
    }

    /// The Python of `process`, which has these mappings.
    pub(super) fn python<P: Process + ?Sized>(
        &self,
        process: &P,
        mappings: &[Mapping],
    ) -> Option<&Python> {
        if let Some(known) = self.python.get() {
            return Some(known);
        }
        let executed = executed(mappings);
        let found = executed.iter().find_map(|(file, mapping)| {
            let named = python_in_name(file_name(&file.path));
            if named.is_none() && !process.is_program(&file.path) {
                return None;
            }
            let facts = process.files().known.facts(process, file, mapping)?;
            facts.python.clone()
        })?;
        Some(self.python.get_or_init(|| found))
    }

    /// The C library of `process`, if it is known.
    pub(super) fn known_libc(&self) -> Option<&Libc> {
        self.libc.get()
    }

    /// The C library of `process`, which has these mappings.
    pub(super) fn libc<P: Process + ?Sized>(
        &self,
        process: &P,
        mappings: &[Mapping],
    ) -> Option<&Libc> {
        if let Some(known) = self.libc.get() {
            return Some(known);
        }
        let executed = executed(mappings);
        let mut files = executed.iter();
        let found = files.find_map(|(file, mapping)| libc_in(process, file, mapping))?;
        Some(self.libc.get_or_init(|| found))
    }

    /// The allocator that serves its malloc calls, with its version.
    pub(super) fn malloc<P: Process + ?Sized>(
        &self,
        process: &P,
        mappings: &[Mapping],
    ) -> Option<AllocatorTitle> {
        let serving = allocators::serving(process, mappings);
        serving.or_else(|| self.libc(process, mappings).map(Libc::title))
    }
}

impl Libc {
    /// Its malloc.
    fn title(&self) -> AllocatorTitle {
        AllocatorTitle::Known {
            kind: self.kind,
            version: (!self.version.is_empty()).then(|| self.version.clone()),
        }
    }

    /// Its release, major and minor, if it is glibc.
    pub fn glibc_release(&self) -> Option<(u32, u32)> {
        (self.kind == Allocator::Glibc).then(|| two_numbers(&self.version))?
    }
}

fn libc_in<P: Process + ?Sized>(process: &P, file: &FileId, mapping: &Mapping) -> Option<Libc> {
    let path = &file.path;
    if !allocator::is_c_library_name(path) {
        return None;
    }
    let (known, thread_bytes) = match process.files().known.facts(process, file, mapping) {
        Some(facts) => (facts.libc.clone()?, facts.thread_bytes),
        None => {
            let in_memory = process.read_only_memory(path);
            let known = allocator::c_library(&Contents {
                path,
                read_only: in_memory.iter().map(Vec::as_slice).collect(),
                ..Contents::default()
            })?;
            (known, None)
        }
    };
    let (kind, version) = known;
    Some(Libc {
        kind,
        version: version.unwrap_or_default(),
        path: path.to_string(),
        thread_bytes,
    })
}

/// The Python in a file that is mapped from `path`.
pub(super) fn python_in(file: &ElfFile, path: &str, is_program: bool) -> Option<Python> {
    let named = python_in_name(file_name(path));
    if named.is_none() && !is_program {
        return None;
    }
    // Every CPython exports it, so that extension modules can call it; a launcher that only loads
    // libpython does not. A program that contains all of Python may export nothing.
    if !(file.exports("Py_GetVersion") || is_program && reads_hash_seed(file)) {
        return None;
    }
    // `Py_Version` is `PY_VERSION_HEX`, since 3.11 (`Include/patchlevel.h`).
    if let Some(hex) = file.exported_u32("Py_Version") {
        let [major, minor, micro, release] = hex.to_be_bytes();
        let suffix = match (release >> 4, release & 15) {
            (0xa, n) => format!("a{n}"),
            (0xb, n) => format!("b{n}"),
            (0xc, n) => format!("rc{n}"),
            _ => String::new(),
        };
        return Some(Python {
            path: path.to_owned(),
            version: (major, minor),
            full_version: format!("{major}.{minor}.{micro}{suffix}"),
        });
    }
    let data = file.read_only_data();
    let versions: BTreeSet<&str> = data
        .iter()
        .flat_map(|part| strings(part, python_string))
        .filter(|text| match (python_numbers(text), named) {
            (Some(version), Some(named)) => version == named,
            (Some(version), None) => has_cache_tag(&data, version),
            (None, _) => false,
        })
        .collect();
    let only = versions.first().filter(|_| versions.len() == 1).copied();
    let version = named.or_else(|| python_numbers(only?))?;
    Some(Python {
        path: path.to_owned(),
        version,
        full_version: only.map_or_else(
            || format!("{}.{}", version.0, version.1),
            |full| full.trim_end_matches('+').to_owned(),
        ),
    })
}

/// The addresses of the data of the Python in the file mapped as `path`.
pub(super) fn symbols<P: Process + ?Sized>(
    process: &P,
    mappings: &[Mapping],
    path: &str,
) -> Option<PythonSymbols> {
    let first = mappings
        .iter()
        .find(|m| m.offset == 0 && matches!(&m.kind, MappingKind::File(of) if **of == *path))?;
    let reader = &process.files().reader;
    let file = reader.open(path, process.file_of(first))?;
    let bias = first.range.start().get().wrapping_sub(file.first_addr());
    let place = |name| {
        let place = file.place(name)?;
        Some(RemoteAddr::new(bias.wrapping_add(place)))
    };
    Some(PythonSymbols {
        runtime: place("_PyRuntime"),
        current_thread: place("_PyThreadState_Current"),
        code_type: place("PyCode_Type"),
    })
}

impl std::fmt::Display for Libc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.version.as_str() {
            "" => write!(f, "{} of unknown version", self.kind),
            version => write!(f, "{} {version}", self.kind),
        }
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

pub(super) fn libc_data(mappings: &[Mapping], path: &str) -> Vec<AddrRange> {
    let mut ranges: Vec<AddrRange> = Vec::new();
    let mut end_of_data = None;
    for mapping in mappings {
        let is_file = matches!(&mapping.kind, MappingKind::File(of) if **of == *path);
        let is_data = mapping.write && is_file;
        let is_bss = mapping.write
            && mapping.kind == MappingKind::Anonymous
            && end_of_data == Some(mapping.range.start());
        if is_data {
            ranges.push(mapping.range);
        } else if is_bss {
            let length = mapping.range.len().min(MAX_BSS_BYTES);
            ranges.extend(AddrRange::with_len(mapping.range.start(), length));
        }
        end_of_data = is_data.then_some(mapping.range.end());
    }
    ranges
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn two_numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether it contains the suffix of compiled modules' names, such as `cpython-311`
/// (`Python/sysmodule.c`, `sys.implementation.cache_tag`, since 3.3).
fn has_cache_tag(data: &[&[u8]], (major, minor): (u8, u8)) -> bool {
    let tag = format!("cpython-{major}{minor}");
    let named = |text: &str| (text == tag).then_some(());
    data.iter()
        .any(|part| strings(part, named).next().is_some())
}

/// Whether it looks up `PYTHONHASHSEED`, as every CPython since 2.7 and 3.2 does at start.
fn reads_hash_seed(file: &ElfFile) -> bool {
    let named = |text: &str| text.ends_with("PYTHONHASHSEED").then_some(());
    file.read_only_data()
        .iter()
        .any(|part| strings(part, named).next().is_some())
}

/// The version in a file name such as `python3.11`, `libpython3.8.so.1.0` or `libpython3.7m.so`.
fn python_in_name(name: &str) -> Option<(u8, u8)> {
    let rest = name.strip_prefix("lib").unwrap_or(name);
    let rest = rest.strip_prefix("python")?;
    python_numbers(rest)
}

/// The two leading numbers of a Python version.
fn python_numbers(text: &str) -> Option<(u8, u8)> {
    let (major, rest) = text.split_once('.')?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..end].parse().ok()?))
}

/// A possible `PY_VERSION` (`Include/patchlevel.h`) in a string: `3.8.20`, `3.9.0rc1`, `3.7.3+`. It
/// is looked for at the end, because linkers merge a string that is the end of another one, such as
/// that of `PREFIX`.
fn python_string(text: &str) -> Option<&str> {
    let text = text.rsplit(['/', '-']).next()?;
    let (major, rest) = text.split_once('.')?;
    let (minor, micro) = rest.split_once('.')?;
    let digits = micro
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(micro.len());
    let suffix = micro[digits..].trim_end_matches('+');
    let known_suffix =
        ["", "a", "b", "rc", "c"].contains(&suffix.trim_end_matches(|c: char| c.is_ascii_digit()));
    // Other libraries inside the same file also have versions: sqlite's are 3.3x and 3.4x.
    let known_minor = match major {
        "2" => minor == "7",
        "3" => minor
            .parse()
            .is_ok_and(|minor: u8| (2..=29).contains(&minor)),
        _ => false,
    };
    (known_minor && is_number(minor) && is_number(&micro[..digits]) && known_suffix).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_names_and_strings() {
        assert_eq!(python_in_name("python3.11"), Some((3, 11)));
        assert_eq!(python_in_name("libpython3.7m.so.1.0"), Some((3, 7)));
        assert_eq!(python_in_name("python"), None);
        assert_eq!(python_in_name("pythonista"), None);
        for good in ["3.8.20", "2.7.18", "3.9.0rc1", "3.7.3+", "3.10.0b4"] {
            assert_eq!(python_string(good), Some(good));
        }
        assert_eq!(python_string("/opt/python/2.7.18"), Some("2.7.18"));
        for bad in [
            "1.2.13", "3.8", "3.8.x", "3..1", "3.8.20.1", "4.0.0", "3.40.1", "",
        ] {
            assert_eq!(python_string(bad), None, "{bad}");
        }
        assert_eq!(two_numbers("2.42.9000"), Some((2, 42)));
    }
}
