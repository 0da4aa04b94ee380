//! Who the target is: its names, its Python, its C library and its allocator.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use profiler_core::addr::AddrRange;
use profiler_core::allocator::{self, Allocator, Contents};
use profiler_core::residency::{Mapping, MappingKind};
use profiler_core::sample;

use super::Target;
use super::allocators::Known;
use super::elf::{ElfFile, Reader, strings};
use super::proc_dir::field;

/// The longest part of a command line that is kept, in bytes.
const MAX_CMDLINE_BYTES: usize = 64 << 10;
/// So many entries of the environment of one kind are kept at the most.
const MAX_SETTINGS: usize = 32;
/// The longest entry of the environment that is shown whole, in bytes.
const MAX_SETTING_BYTES: usize = 1024;
/// The variable of the dynamic loader that loads an allocator.
const PRELOAD: &str = "LD_PRELOAD=";
/// libc's zero-initialised data after its file mapping is shorter than this (glibc 2.43: 53 KiB).
const MAX_BSS_BYTES: u64 = 1 << 20;

/// The C library of a target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Libc {
    /// Its path as the target sees it.
    pub path: String,
    /// Which one, by its allocator.
    pub kind: Allocator,
    /// Its version as it writes it, e.g. `2.36` or `1.2.3`; empty when it could not be read.
    pub version: String,
}

/// The Python of a target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Python {
    /// Its path as the target sees it: the program, or a libpython.
    pub path: String,
    /// Major and minor.
    pub version: (u8, u8),
    /// The version in full where it could be read, e.g. `3.11.2`, else `3.11`.
    pub full_version: String,
}

/// What is looked into to tell who a target is: a live process or a core file.
pub(super) trait Image {
    /// Its mappings, ascending; none when it is gone.
    fn image_mappings(&self) -> Vec<Mapping>;

    /// A path of ours to a file that it maps, which may lead nowhere.
    fn path_of(&self, mapped: &str) -> PathBuf;

    /// Whether this mapped file is its program.
    fn is_program(&self, mapped: &str) -> bool;

    /// Reads those files, within limits.
    fn reader(&self) -> &Reader;

    /// Read-only data of a mapped file as far as it is in memory, for when the file itself is not to
    /// be had.
    fn read_only_memory(&self, mapped: &str) -> Vec<Vec<u8>> {
        let _ = mapped;
        Vec::new()
    }

    /// The files that it executes code from, each once.
    fn files(&self) -> BTreeSet<String> {
        self.image_mappings()
            .into_iter()
            .filter(|m| m.execute)
            .filter_map(|m| match m.kind {
                MappingKind::File(path) => Some(path),
                _ => None,
            })
            .collect()
    }
}

/// What is learned once: it does not change while the program runs.
#[derive(Debug, Default)]
pub(super) struct Identity {
    libc: OnceLock<Libc>,
    python: OnceLock<Python>,
    /// Files that were looked into and are no Python. Others may be loaded later.
    no_python: Mutex<BTreeSet<String>>,
}

impl Target {
    /// Who it is, in words.
    pub fn describe(&self) -> sample::Target {
        let status = self.dir.text("status").unwrap_or_default();
        let comm = self.dir.text("comm").unwrap_or_default();
        sample::Target {
            pid: self.pid(),
            comm: comm.trim_end().to_owned(),
            cmdline: self.cmdline(),
            python: self
                .python()
                .map(|python| format!("CPython {}", python.full_version)),
            // Its memory tells, when it is walked.
            python_malloc: None,
            libc: self.libc().map(Libc::to_string),
            malloc: self.identity.malloc(self, &self.allocators),
            threads: field(&status, "Threads").unwrap_or(0) as u32,
        }
    }

    /// Its Python; `None` when it runs none, or none yet.
    pub fn python(&self) -> Option<&Python> {
        self.identity.python(self)
    }

    /// Its Python's major and minor version.
    pub fn python_version(&self) -> Option<(u8, u8)> {
        self.python().map(|python| python.version)
    }

    /// What its environment asks of Python's allocators, e.g. `PYTHONMALLOC=malloc`: a hint, for a
    /// program may set it for its children only, or have it ignored (`-E`, `-I`).
    pub fn python_malloc_setting(&self) -> Option<String> {
        let set = |name| self.environment(name).into_iter().next();
        set("PYTHONMALLOC=").or_else(|| set("PYTHONDEVMODE="))
    }

    /// What its environment asks of glibc's malloc: `GLIBC_TUNABLES` and variables that begin with
    /// `MALLOC_`, as the program was started with them. Nothing else of the environment is kept.
    pub fn malloc_environment(&self) -> Vec<String> {
        let variables = Allocator::Glibc.row().variables.iter();
        variables.flat_map(|name| self.environment(name)).collect()
    }

    /// What its environment asks of any allocator, as it was started: names and values.
    pub fn allocator_environment(&self) -> Vec<(String, String)> {
        let names = allocator::environment_beginnings().chain([PRELOAD]);
        let all = names.flat_map(|name| self.environment(name));
        all.filter_map(|entry| {
            let (name, value) = entry.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        })
        .collect()
    }

    /// The entries of its environment that begin so and are not empty, cut to a bounded length.
    fn environment(&self, begin: &str) -> Vec<String> {
        let environment = self.dir.bytes("environ").unwrap_or_default();
        let entries = environment.split(|&byte| byte == 0);
        entries
            .filter(|entry| entry.starts_with(begin.as_bytes()) && !entry.ends_with(b"="))
            .take(MAX_SETTINGS)
            .map(|entry| &entry[..entry.len().min(MAX_SETTING_BYTES)])
            .map(|entry| String::from_utf8_lossy(entry).into_owned())
            .collect()
    }

    /// Its C library; `None` when it is linked statically.
    pub fn libc(&self) -> Option<&Libc> {
        self.identity.libc(self)
    }

    /// The version of its glibc, major and minor; `None` for another C library or an unknown one.
    pub fn libc_version(&self) -> Option<(u32, u32)> {
        self.libc()?.glibc_release()
    }

    /// The writable mappings of its C library, with the zero-initialised data after them.
    pub fn libc_data_ranges(&self) -> Vec<AddrRange> {
        let mappings = self.mappings().unwrap_or_default();
        let Some(libc) = self.libc() else {
            return Vec::new();
        };
        libc_data(&mappings, &libc.path)
    }

    /// What was not looked into of its files because there was too much of it, in one sentence.
    pub fn unread_files(&self) -> Option<String> {
        self.files.unread()
    }

    /// Whether its program was linked statically: it has no C library of its own to look into.
    pub fn is_static(&self) -> bool {
        self.libc().is_none()
            && self
                .files
                .open("its program", self.dir.path("exe"))
                .is_some_and(|exe| !exe.has_interpreter())
    }

    fn cmdline(&self) -> Vec<String> {
        let bytes = self.dir.bytes("cmdline").unwrap_or_default();
        let kept = &bytes[..bytes.len().min(MAX_CMDLINE_BYTES)];
        let kept = kept.strip_suffix(b"\0").unwrap_or(kept);
        if kept.is_empty() {
            return Vec::new();
        }
        kept.split(|&byte| byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect()
    }
}

impl Image for Target {
    fn image_mappings(&self) -> Vec<Mapping> {
        self.mappings().unwrap_or_default()
    }

    fn path_of(&self, mapped: &str) -> PathBuf {
        self.host_path(mapped)
    }

    fn reader(&self) -> &Reader {
        &self.files
    }

    fn is_program(&self, mapped: &str) -> bool {
        std::fs::read_link(self.dir.path("exe"))
            .is_ok_and(|exe| exe.to_string_lossy().trim_end_matches(" (deleted)") == mapped)
    }
}

impl Identity {
    /// The Python of `image`.
    pub(super) fn python(&self, image: &dyn Image) -> Option<&Python> {
        if let Some(known) = self.python.get() {
            return Some(known);
        }
        let mut no_python = self.no_python.lock().ok()?;
        let found = image.files().into_iter().find_map(|path| {
            if no_python.contains(&path) {
                return None;
            }
            let found = python_in(image, &path);
            if found.is_none() {
                no_python.insert(path);
            }
            found
        })?;
        Some(self.python.get_or_init(|| found))
    }

    /// The C library of `image`.
    pub(super) fn libc(&self, image: &dyn Image) -> Option<&Libc> {
        if let Some(known) = self.libc.get() {
            return Some(known);
        }
        let files = image.files();
        let found = files.into_iter().find_map(|path| libc_in(image, path))?;
        Some(self.libc.get_or_init(|| found))
    }

    /// The allocator that most likely serves its malloc calls, with its version. Which one really
    /// does is for whoever places probes to decide, by the order in which objects were loaded.
    pub(super) fn malloc(&self, image: &dyn Image, known: &Known) -> Option<String> {
        if let Some(serving) = known.serving(image) {
            return Some(serving.title());
        }
        // Files that cannot be read still have names.
        let files = image.files();
        let named = files.iter().find_map(|path| Allocator::in_file_name(path));
        let named = named.map(|kind| kind.name().to_owned());
        named.or_else(|| self.libc(image).map(Libc::to_string))
    }
}

impl Libc {
    /// Its release, major and minor, when it is glibc.
    pub fn glibc_release(&self) -> Option<(u32, u32)> {
        (self.kind == Allocator::Glibc).then(|| two_numbers(&self.version))?
    }
}

fn libc_in(image: &dyn Image, path: String) -> Option<Libc> {
    if !allocator::is_c_library_name(&path) {
        return None;
    }
    let file = image.reader().open(&path, image.path_of(&path));
    let in_memory = match &file {
        Some(_) => Vec::new(),
        None => image.read_only_memory(&path),
    };
    let contents = match &file {
        Some(file) => file.contents(&path),
        None => Contents {
            path: &path,
            read_only: in_memory.iter().map(Vec::as_slice).collect(),
            ..Contents::default()
        },
    };
    let (kind, version) = allocator::c_library(&contents)?;
    Some(Libc {
        kind,
        version: version.unwrap_or_default(),
        path,
    })
}

fn python_in(image: &dyn Image, path: &str) -> Option<Python> {
    let named = python_in_name(file_name(path));
    let is_program = image.is_program(path);
    if named.is_none() && !is_program {
        return None;
    }
    let file = image.reader().open(path, image.path_of(path))?;
    // Every CPython exports it, so that extension modules can call it; a launcher that only
    // loads libpython does not. A program with all of Python in it may export nothing.
    if !(file.exports("Py_GetVersion") || is_program && reads_hash_seed(&file)) {
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
        let is_data = mapping.write && mapping.kind == MappingKind::File(path.to_owned());
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

/// Whether there is the string that names compiled modules, such as `cpython-311` (`Python/sysmodule.c`,
/// `sys.implementation.cache_tag`, since 3.3).
fn has_cache_tag(data: &[&[u8]], (major, minor): (u8, u8)) -> bool {
    let tag = format!("cpython-{major}{minor}");
    let named = |text: &str| (text == tag).then_some(());
    data.iter()
        .any(|part| strings(part, named).next().is_some())
}

/// Whether it looks up `PYTHONHASHSEED`, as every CPython since 2.7 and 3.2 does when it starts.
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

/// What can be `PY_VERSION` (`Include/patchlevel.h`) in a string: `3.8.20`, `3.9.0rc1`, `3.7.3+`. It
/// is looked for at the end, because linkers keep a string that ends another one only as that end,
/// such as that of `PREFIX`.
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
    // Other libraries inside the same file have versions too: sqlite's are 3.3x and 3.4x.
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
