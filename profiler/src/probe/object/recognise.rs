//! Telling which allocator an object is, by what it defines and what it says of itself.

use profiler_core::heap::Allocator;

use super::elf::ElfObject;

/// What an object turned out to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Identity {
    pub allocator: Option<Allocator>,
    /// E.g. `glibc 2.36`; the file's name when the allocator is not known.
    pub name_and_version: String,
    /// See [`crate::probe::plan::MallocObject::chunk_header`].
    pub chunk_header: bool,
}

/// Functions that only this allocator defines.
const SIGNS: [(Allocator, &[&str]); 3] = [
    (
        Allocator::Jemalloc,
        &["mallctl", "je_mallctl", "_rjem_mallctl"],
    ),
    (Allocator::Mimalloc, &["mi_malloc", "mi_version"]),
    (
        Allocator::Tcmalloc,
        &["tc_malloc", "MallocExtension_GetNumericProperty"],
    ),
];

/// Functions of glibc, in its exports and in a static program's symbols.
const GLIBC: [&str; 3] = ["gnu_get_libc_version", "_int_malloc", "__libc_malloc"];

/// Whether a function of this name tells allocators apart.
pub(super) fn is_sign(name: &str) -> bool {
    GLIBC.contains(&name) || SIGNS.iter().any(|(_, names)| names.contains(&name))
}

/// Which allocator the object at `path` is.
pub(super) fn identify(path: &str, object: &ElfObject) -> Identity {
    let defines = |names: &[&str]| names.iter().any(|n| object.functions.contains_key(*n));
    let file_name = path.rsplit('/').next().unwrap_or(path);
    let known = SIGNS
        .iter()
        .find(|(_, names)| defines(names))
        .map(|(allocator, _)| *allocator);
    let (allocator, version) = match known {
        Some(allocator) => (Some(allocator), None),
        // A static program has no `gnu_get_libc_version` unless it calls it, but malloc's inner
        // functions in its symbols.
        None if defines(&GLIBC[..1]) || (defines(&GLIBC[1..2]) && defines(&GLIBC[2..])) => {
            (Some(Allocator::Glibc), glibc_version(&object.contents))
        }
        None if file_name.starts_with("ld-musl-")
            || find(&object.contents, b"musl libc (").is_some() =>
        {
            (Some(Allocator::Musl), None)
        }
        None => (None, None),
    };
    Identity {
        allocator,
        name_and_version: match (allocator, version) {
            (Some(allocator), Some(version)) => format!("{} {version}", allocator.name()),
            (Some(allocator), None) => allocator.name().to_string(),
            (None, _) => file_name.to_string(),
        },
        chunk_header: allocator == Some(Allocator::Glibc),
    }
}

/// The version in glibc's banner, which survives stripping: `GNU C Library (…) stable release
/// version 2.36.`
fn glibc_version(contents: &[u8]) -> Option<String> {
    let banner = &contents[find(contents, b"GNU C Library")?..];
    let banner = &banner[..banner.len().min(256)];
    let marker = b"release version ";
    let version = &banner[find(banner, marker)? + marker.len()..];
    let digits: String = version
        .iter()
        .map(|&b| char::from(b))
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    let digits = digits.trim_end_matches('.');
    (!digits.is_empty()).then(|| digits.to_string())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::object::elf::Definition;
    use crate::probe::sites::Body;

    fn object(functions: &[&str], contents: &[u8]) -> ElfObject {
        let definition = Definition {
            body: Body { start: 0, end: 1 },
            indirect: false,
        };
        ElfObject {
            functions: functions
                .iter()
                .map(|name| (name.to_string(), definition))
                .collect(),
            contents: contents.to_vec(),
            ..Default::default()
        }
    }

    fn identity(
        path: &str,
        functions: &[&str],
        contents: &[u8],
    ) -> (Option<Allocator>, String, bool) {
        let i = identify(path, &object(functions, contents));
        (i.allocator, i.name_and_version, i.chunk_header)
    }

    #[test]
    fn allocators_by_their_signs() {
        let banner = b"..GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\nCopy";
        assert_eq!(
            identity(
                "/lib/libc.so.6",
                &["malloc", "gnu_get_libc_version"],
                banner
            ),
            (Some(Allocator::Glibc), "glibc 2.36".to_string(), true)
        );
        assert_eq!(
            identity("/opt/app", &["_int_malloc", "__libc_malloc"], b""),
            (Some(Allocator::Glibc), "glibc".to_string(), true)
        );
        assert_eq!(
            identity("/usr/lib/libjemalloc.so.2", &["malloc", "mallctl"], banner),
            (Some(Allocator::Jemalloc), "jemalloc".to_string(), false)
        );
        assert_eq!(
            identity("/lib/ld-musl-x86_64.so.1", &["malloc"], b""),
            (Some(Allocator::Musl), "musl".to_string(), false)
        );
        assert_eq!(
            identity("/lib/libc.so", &["malloc"], b"..musl libc (x86_64)\n"),
            (Some(Allocator::Musl), "musl".to_string(), false)
        );
        assert_eq!(
            identity("/opt/libshim.so", &["malloc"], b""),
            (None, "libshim.so".to_string(), false)
        );
    }

    #[test]
    fn a_cut_banner_gives_no_version() {
        assert_eq!(glibc_version(b"GNU C Library release version"), None);
        assert_eq!(glibc_version(b"GNU C Library release version x"), None);
        assert_eq!(glibc_version(b""), None);
    }
}
