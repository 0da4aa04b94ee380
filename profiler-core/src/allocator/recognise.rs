//! Identifies allocators by the symbols that a file defines and by the strings in it.

use memchr::memmem;

use super::{Allocator, AllocatorRow, Home, ROWS, file_name};

/// What is known about a file. It is passed in, so that this module does not depend on files and
/// their formats.
#[derive(Clone, Debug, Default)]
pub struct Contents<'a> {
    /// Its path.
    pub path: &'a str,
    /// The functions of [`functions`] that the file defines, with their first bytes.
    pub functions: &'a [(&'static str, Vec<u8>)],
    /// Its read-only data, in one or several parts.
    pub read_only: Vec<&'a [u8]>,
}

impl Contents<'_> {
    /// The first bytes of a function that the file defines.
    pub(super) fn code_of(&self, function: &str) -> Option<&[u8]> {
        let mut all = self.functions.iter();
        let (_, code) = all.find(|(name, _)| *name == function)?;
        Some(code)
    }

    fn defines_signs_of(&self, row: &AllocatorRow) -> bool {
        let mut groups = row.signs.functions.iter();
        groups.any(|group| group.iter().all(|name| self.code_of(name).is_some()))
    }

    fn has_text_of(&self, row: &AllocatorRow) -> bool {
        let text = memmem::Finder::new(row.signs.text);
        let mut parts = self.read_only.iter();
        !row.signs.text.is_empty() && parts.any(|part| text.find(part).is_some())
    }
}

/// The functions that identify allocators.
pub fn functions() -> impl Iterator<Item = &'static str> {
    let groups = ROWS.iter().flat_map(|row| row.signs.functions);
    groups.flat_map(|group| group.iter().copied())
}

/// The allocators in a file, with their versions, except those of C libraries and Python's own.
pub fn allocators_in(contents: &Contents<'_>) -> Vec<(Allocator, Option<String>)> {
    let others = ROWS.iter().filter(|row| row.home == Home::AnyObject);
    others
        .filter(|row| contents.has_text_of(row) || contents.defines_signs_of(row))
        .map(|row| (row.kind, (row.version)(contents)))
        .collect()
}

/// The allocator behind the `malloc` that a file defines, and its version. Except for a C library,
/// text is not a sign: an allocator may be in the file without being its malloc.
pub fn serving_malloc(contents: &Contents<'_>) -> Option<(Allocator, Option<String>)> {
    let is_it = |row: &&&AllocatorRow| match row.home {
        Home::AnyObject => contents.defines_signs_of(row),
        Home::CLibrary => {
            contents.defines_signs_of(row)
                || has_name_of(contents.path, row)
                || contents.has_text_of(row)
        }
        Home::Python => false,
    };
    // An allocator linked into a program takes precedence over the C library in the program.
    let of = |home| ROWS.iter().filter(move |row| row.home == home);
    let mut all = of(Home::AnyObject).chain(of(Home::CLibrary));
    let row = all.find(is_it)?;
    Some((row.kind, (row.version)(contents)))
}

/// If the file is a C library: its allocator and its version.
pub fn c_library(contents: &Contents<'_>) -> Option<(Allocator, Option<String>)> {
    let mut libraries = c_libraries();
    let row = libraries.find(|row| has_name_of(contents.path, row))?;
    Some((row.kind, (row.version)(contents)))
}

/// Whether a file is a C library, by its name.
pub fn is_c_library_name(path: &str) -> bool {
    c_libraries().any(|row| has_name_of(path, row))
}

fn c_libraries() -> impl Iterator<Item = &'static AllocatorRow> {
    let all = ROWS.iter().copied();
    all.filter(|row| row.home == Home::CLibrary)
}

fn has_name_of(path: &str, row: &AllocatorRow) -> bool {
    let file = file_name(path);
    let mut names = row.signs.files.iter();
    names.any(|begin| file.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANNER: &[u8] =
        b"..GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\nCopy";

    fn serving(path: &str, functions: &[&'static str], text: &[u8]) -> Option<(Allocator, String)> {
        let functions: Vec<_> = functions.iter().map(|name| (*name, Vec::new())).collect();
        let found = serving_malloc(&Contents {
            path,
            functions: &functions,
            read_only: vec![text],
        });
        found.map(|(kind, version)| (kind, version.unwrap_or_default()))
    }

    #[test]
    fn who_serves_malloc_is_identified_by_its_signs() {
        let some = |kind, version: &str| Some((kind, version.to_owned()));
        assert_eq!(
            serving("/lib/libc.so.6", &["gnu_get_libc_version"], BANNER),
            some(Allocator::Glibc, "2.36")
        );
        assert_eq!(
            serving("/opt/app", &["_int_malloc", "__libc_malloc"], b""),
            some(Allocator::Glibc, "")
        );
        assert_eq!(serving("/opt/app", &["__libc_malloc"], b""), None);
        assert_eq!(
            serving("/usr/lib/libjemalloc.so.2", &["mallctl"], BANNER),
            some(Allocator::Jemalloc, "")
        );
        // jemalloc linked into a static program of glibc's.
        let both = ["_int_malloc", "__libc_malloc", "mallctl"];
        assert_eq!(
            serving("/opt/app", &both, b""),
            some(Allocator::Jemalloc, "")
        );
        assert_eq!(
            serving("/lib/ld-musl-x86_64.so.1", &[], b"\x001.2.3\0"),
            some(Allocator::Musl, "1.2.3")
        );
        assert_eq!(
            serving("/opt/app", &[], b"..musl libc (x86_64)\n"),
            some(Allocator::Musl, "")
        );
        assert_eq!(serving("/opt/libshim.so", &[], b""), None);
        // The text of an allocator that the file contains for another purpose.
        assert_eq!(serving("/opt/libshim.so", &[], b"<jemalloc>: "), None);
    }

    #[test]
    fn all_that_a_file_holds_is_found_but_for_c_libraries() {
        let held = allocators_in(&Contents {
            path: "/opt/app",
            functions: &[
                ("_rjem_mallctl", Vec::new()),
                ("gnu_get_libc_version", Vec::new()),
            ],
            read_only: vec![b"..", b"mimalloc: warning: %s"],
        });
        let kinds: Vec<_> = held.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [Allocator::Jemalloc, Allocator::Mimalloc]);
    }

    #[test]
    fn no_file_is_glibc_because_it_is_nothing_else() {
        let library = |path| {
            let contents = Contents {
                path,
                ..Contents::default()
            };
            c_library(&contents).map(|(kind, _)| kind)
        };
        for path in ["/lib/libc.so.6", "/lib/libc-2.31.so"] {
            assert_eq!(library(path), Some(Allocator::Glibc), "{path}");
        }
        for path in ["/lib/ld-musl-x86_64.so.1", "/usr/lib/musl/lib/libc.so"] {
            assert_eq!(library(path), Some(Allocator::Musl), "{path}");
        }
        for path in ["/lib/libcap.so.2", "/lib/libc_malloc_debug.so.0", "libm.so"] {
            assert_eq!(library(path), None, "{path}");
        }
    }
}
