//! Reads an allocator's version from the file that contains it.

use std::fmt;

use memchr::memmem;

use super::Contents;

/// The version of an allocator that was found, or that none was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FoundVersion {
    /// By its number.
    Known(String),
    /// Its object names none.
    Unknown,
}

impl FoundVersion {
    /// That of an object that names it, or does not.
    pub(crate) fn of(named: Option<&str>) -> Self {
        named.map_or(Self::Unknown, |version| Self::Known(version.to_owned()))
    }
}

impl fmt::Display for FoundVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known(version) => version,
            Self::Unknown => "of unknown version",
        })
    }
}

/// The first and the last of these versions, in words; what is no version is passed over.
pub(crate) fn known_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let number = |name: &&str| -> Option<Vec<u32>> {
        name.split('.').map(|number| number.parse().ok()).collect()
    };
    let names = names.map(|name| name.trim_end_matches(','));
    let mut known: Vec<(Vec<u32>, &str)> = names
        .filter_map(|name| Some((number(&name)?, name)))
        .collect();
    known.sort();
    match (known.first(), known.last()) {
        (Some((first, only)), Some((last, _))) if first == last => (*only).to_owned(),
        (Some((_, first)), Some((_, last))) => format!("{first} to {last}"),
        _ => "none".to_owned(),
    }
}

/// What gperftools' version begins with (`TC_VERSION_STRING`).
pub(super) const GPERFTOOLS: &[u8] = b"gperftools ";
/// glibc's banner is at most this long.
const BANNER_BYTES: usize = 256;
/// The longest version that is kept.
const VERSION_BYTES: usize = 16;
/// `endbr64`, the first instruction of functions compiled for Intel's CET.
const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];

/// The version in glibc's banner, which survives stripping: `GNU C Library (Debian GLIBC 2.36-9)
/// stable release version 2.36.` (`csu/version.c`).
pub(super) fn glibc(contents: &Contents<'_>) -> Option<String> {
    let marker = b"release version ";
    contents.read_only.iter().find_map(|part| {
        memmem::find_iter(part, b"GNU C Library").find_map(|at| {
            let banner = &part[at..];
            let banner = &banner[..banner.len().min(BANNER_BYTES)];
            let banner = banner.split(|&byte| byte == 0).next()?;
            let version = memmem::find(banner, marker)? + marker.len();
            number_with_dots(&banner[version..])
        })
    })
}

/// A complete string such as `1.2.3`, in which musl stores its version (`src/internal/version.c`).
pub(super) fn musl(contents: &Contents<'_>) -> Option<String> {
    let mut strings = contents
        .read_only
        .iter()
        .flat_map(|part| part.split(|&byte| byte == 0));
    strings.find_map(|text| {
        let is_number =
            |part: &[u8]| (1..=3).contains(&part.len()) && part.iter().all(u8::is_ascii_digit);
        let parts = || text.split(|&byte| byte == b'.');
        (text.len() < VERSION_BYTES && parts().count() == 3 && parts().all(is_number))
            .then(|| String::from_utf8_lossy(text).into_owned())
    })
}

/// `JEMALLOC_VERSION`, e.g. `5.3.0-0-g54eaed1d…` with the 40 digits of a commit
/// (`include/jemalloc/jemalloc.h`). Builds without git say `0.0.0-0-g000…`, which shows nothing.
pub(super) fn jemalloc(contents: &Contents<'_>) -> Option<String> {
    contents.read_only.iter().find_map(|part| {
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

/// What `mi_version` returns, as a constant: 209 is 2.0.9, and 30302 is 3.3.2
/// (`include/mimalloc.h`, `MI_MALLOC_VERSION`).
pub(super) fn mimalloc(contents: &Contents<'_>) -> Option<String> {
    let code = contents.code_of("mi_version")?;
    let code = code.strip_prefix(ENDBR64).unwrap_or(code);
    let [0xb8, a, b, c, d, 0xc3, ..] = *code else {
        return None;
    };
    let number = u32::from_le_bytes([a, b, c, d]);
    let base = if number < 1000 { 10 } else { 100 };
    let (major, minor, patch) = (number / base / base, number / base % base, number % base);
    Some(format!("{major}.{minor}.{patch}"))
}

/// `gperftools 2.10`.
pub(super) fn tcmalloc(contents: &Contents<'_>) -> Option<String> {
    contents.read_only.iter().find_map(|part| {
        memmem::find_iter(part, GPERFTOOLS)
            .find_map(|at| number_with_dots(part.get(at + GPERFTOOLS.len()..)?))
    })
}

fn number_with_dots(text: &[u8]) -> Option<String> {
    let digits: String = text
        .iter()
        .map(|&byte| char::from(byte))
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .take(VERSION_BYTES)
        .collect();
    let digits = digits.trim_end_matches('.');
    (!digits.is_empty()).then(|| digits.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_version_are_found_by_number() {
        let names = "2.1.8 to 2.4.1, secure 2.10 2.0.9";
        assert_eq!(known_of(names.split(' ')), "2.0.9 to 2.10");
        assert_eq!(known_of(["2.10"].into_iter()), "2.10");
        assert_eq!(known_of(["none"].into_iter()), "none");
        assert_eq!(FoundVersion::of(None).to_string(), "of unknown version");
        assert_eq!(FoundVersion::of(Some("5.3")).to_string(), "5.3");
    }

    fn of(read_only: &[u8], version: fn(&Contents<'_>) -> Option<String>) -> Option<String> {
        version(&Contents {
            path: "",
            functions: &[],
            read_only: vec![read_only],
        })
    }

    #[test]
    fn versions_are_read_from_what_each_says_of_itself() {
        let some = |version: &str| Some(version.to_owned());
        let banner =
            b"\0GNU C Library (Debian GLIBC 2.36-9+deb12u10) stable release version 2.36.\n";
        assert_eq!(of(banner, glibc), some("2.36"));
        let development = b"GNU C Library (GNU libc) development release version 2.42.9000.\n";
        assert_eq!(of(development, glibc), some("2.42.9000"));
        assert_eq!(of(b"1.2\0..\x001.2.3\0", musl), some("1.2.3"));
        assert_eq!(of(b"1.2\x001.2.3.4\x001..3\0", musl), None);
        assert_eq!(of(b"..gperftools 2.10\0", tcmalloc), some("2.10"));
        let commit = "54eaed1d8b56b1aa528be3bdd1877e59c56fa90c";
        let text = format!("\0x-gno\05.3.0-0-g{commit}\0");
        assert_eq!(of(text.as_bytes(), jemalloc), some("5.3.0"));
        let cut = &text.as_bytes()[..text.len() - 1];
        assert_eq!(of(cut, jemalloc), None);
        let without_git = format!("\0{}-0-g{commit}\0", "0.0.0");
        assert_eq!(of(without_git.as_bytes(), jemalloc), None);
    }

    #[test]
    fn a_cut_banner_shows_no_version() {
        for text in [
            &b"GNU C Library release version"[..],
            b"GNU C Library release version x",
            b"GNU C Library\0release version 2.36",
            b"",
        ] {
            assert_eq!(of(text, glibc), None);
        }
    }

    #[test]
    fn both_encodings_of_mimallocs_version_are_read() {
        let of = |code: &[u8]| {
            mimalloc(&Contents {
                path: "",
                functions: &[("mi_version", code.to_vec())],
                read_only: Vec::new(),
            })
        };
        let returns = |number: u32| {
            let [a, b, c, d] = number.to_le_bytes();
            [0xb8, a, b, c, d, 0xc3]
        };
        assert_eq!(of(&returns(209)).as_deref(), Some("2.0.9"));
        assert_eq!(of(&returns(30302)).as_deref(), Some("3.3.2"));
        let with_cet = [ENDBR64, &returns(225)].concat();
        assert_eq!(of(&with_cet).as_deref(), Some("2.2.5"));
        assert_eq!(of(&[0x55, 0xc3]), None);
    }
}
