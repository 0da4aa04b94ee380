//! Telling which allocator an object is, by what it defines and what it says of itself.

use profiler_core::heap::Allocator;

use super::elf::ElfObject;

/// What an object turned out to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Identity {
    pub allocator: Option<Allocator>,
    /// E.g. `glibc 2.36`; the file's name when the allocator is not known.
    pub name_and_version: String,
    /// See [`crate::plan::MallocObject::chunk_header`].
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
        Some(allocator) => (Some(allocator), version(allocator, object)),
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

/// The version of an allocator that is not a libc's.
fn version(allocator: Allocator, object: &ElfObject) -> Option<String> {
    match allocator {
        Allocator::Jemalloc => jemalloc_version(&object.contents),
        Allocator::Mimalloc => mimalloc_version(object),
        Allocator::Tcmalloc => {
            let marker = b"gperftools ";
            let at = find(&object.contents, marker)? + marker.len();
            number_with_dots(&object.contents[at..])
        }
        _ => None,
    }
}

/// `JEMALLOC_VERSION`, e.g. `5.3.0-0-g54eaed1d…` with the 40 digits of a commit.
fn jemalloc_version(contents: &[u8]) -> Option<String> {
    let mut at = 0;
    loop {
        let dash = at + find(contents.get(at..)?, b"-g")?;
        let commit = contents.get(dash + 2..)?;
        if commit.len() > 40 && commit[..40].iter().all(u8::is_ascii_hexdigit) && commit[40] == 0 {
            let start = contents[..dash].iter().rposition(|b| *b == 0)? + 1;
            return number_with_dots(&contents[start..dash]);
        }
        at = dash + 2;
    }
}

/// What `mi_version` returns, as a constant: 209 is 2.0.9.
fn mimalloc_version(object: &ElfObject) -> Option<String> {
    let start = object.functions.get("mi_version")?.body.start;
    let code = object.code.bytes_at(start)?;
    let code = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(code);
    let [0xb8, a, b, c, d, 0xc3, ..] = *code else {
        return None;
    };
    let number = u32::from_le_bytes([a, b, c, d]);
    Some(format!(
        "{}.{}.{}",
        number / 100,
        number / 10 % 10,
        number % 10
    ))
}

/// The version in glibc's banner, which survives stripping: `GNU C Library (…) stable release
/// version 2.36.`
fn glibc_version(contents: &[u8]) -> Option<String> {
    let banner = &contents[find(contents, b"GNU C Library")?..];
    let banner = &banner[..banner.len().min(256)];
    let marker = b"release version ";
    let version = &banner[find(banner, marker)? + marker.len()..];
    number_with_dots(version)
}

fn number_with_dots(text: &[u8]) -> Option<String> {
    let digits: String = text
        .iter()
        .map(|&b| char::from(b))
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .take(16)
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
    use crate::object::elf::Definition;
    use crate::sites::{Body, Code, Segment};

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
    fn versions_of_the_others() {
        let commit = "54eaed1d8b56b1aa528be3bdd1877e59c56fa90c";
        let text = format!("\0x-gno\05.3.0-0-g{commit}\0");
        assert_eq!(jemalloc_version(text.as_bytes()), Some("5.3.0".to_string()));
        let cut = &text.as_bytes()[..text.len() - 1];
        assert_eq!(jemalloc_version(cut), None);
        assert_eq!(
            identity(
                "/lib/libtcmalloc.so.4",
                &["tc_malloc"],
                b"..gperftools 2.10\0"
            )
            .1,
            "tcmalloc 2.10"
        );
        let mut mimalloc = object(&["mi_version"], b"");
        let code = |bytes: &[u8]| {
            Code::new(vec![Segment {
                address: 0,
                file_offset: 0,
                bytes: bytes.to_vec(),
            }])
        };
        mimalloc.code = code(&[0xb8, 0xd1, 0, 0, 0, 0xc3]);
        assert_eq!(identify("m", &mimalloc).name_and_version, "mimalloc 2.0.9");
        mimalloc.code = code(&[0x55, 0xc3]);
        assert_eq!(identify("m", &mimalloc).name_and_version, "mimalloc");
    }

    #[test]
    fn a_cut_banner_gives_no_version() {
        assert_eq!(glibc_version(b"GNU C Library release version"), None);
        assert_eq!(glibc_version(b"GNU C Library release version x"), None);
        assert_eq!(glibc_version(b""), None);
    }
}
