//! The allocators that fragscope knows, one [`AllocatorRow`] for each, and how one is identified.
//!
//! Every name, sign, environment variable and library of an allocator comes from its row. Each
//! walker is a module of its own ([`crate::glibc`] and its neighbours).

mod builds;
mod environment;
mod glibc_settings;
mod in_force;
pub(crate) mod jemalloc_classes;
mod recognise;
mod rows;
mod settings;
mod version;

use std::fmt;

pub use self::version::FoundVersion;
pub(crate) use self::version::known_of;

pub use self::builds::{Build, BuildId, Source};
pub use self::environment::{Environment, PRELOAD, UnknownEnvironment};
pub use self::glibc_settings::{
    GlibcSetting, INITIAL_MMAP_THRESHOLD_KIB, INITIAL_TRIM_THRESHOLD, MMAP_THRESHOLDS,
};
pub use self::in_force::{AsSettings, Purging, SettingsInForce};
pub use self::recognise::{
    Contents, allocators_in, c_library, functions, is_c_library_name, serving_malloc,
};
pub(crate) use self::rows::MALLOC_TRIM_IN_C;
pub use self::rows::ROWS;
pub use self::settings::{
    Assignment, List, Settings, ValueForm, environment_beginnings, reader_of,
};

/// Declares [`Allocator`] and the list of all allocators. An allocator added here is in both, and
/// the tables of rows and of walkers, which have the same length, do not compile without it.
macro_rules! allocators {
    ($($(#[$doc:meta])* $id:ident,)*) => {
        /// The allocators that fragscope distinguishes.
        #[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
        pub enum Allocator {
            $($(#[$doc])* $id,)*
        }

        impl Allocator {
            /// How many there are.
            pub const COUNT: usize = [$(Self::$id),*].len();

            /// All of them.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$id),*];
        }
    };
}

allocators! {
    /// GNU libc's malloc (ptmalloc).
    Glibc,
    /// CPython's object allocator (`Objects/obmalloc.c`).
    Pymalloc,
    /// jemalloc.
    Jemalloc,
    /// mimalloc.
    Mimalloc,
    /// gperftools' tcmalloc.
    Tcmalloc,
    /// musl's malloc (oldmalloc or mallocng).
    Musl,
}

impl Allocator {
    /// Whether its heap serves the target's malloc calls: pymalloc's does not, nor does one that is
    /// private to `library`.
    pub fn serves_malloc(self, library: Option<&str>) -> bool {
        self != Self::Pymalloc && library.is_none()
    }

    /// The name in output and files.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Guesses the allocator from a library's file name, such as `libjemalloc.so.2`, for files that
    /// cannot be read.
    pub fn in_file_name(path: &str) -> Option<Self> {
        let library = file_name(path).strip_prefix("lib")?;
        let mut others = ROWS.iter().filter(|row| row.home == Home::AnyObject);
        let row = others.find(|row| library.starts_with(row.name))?;
        Some(row.kind)
    }
}

/// Which kind of object contains an allocator.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Home {
    /// In the C library of that name.
    CLibrary,
    /// In CPython.
    Python,
    /// In any program or library: preloaded, linked, or copied into one.
    AnyObject,
}

/// Everything specific to one allocator except its walker and its remedies.
#[derive(Debug)]
pub struct AllocatorRow {
    /// Which one.
    pub kind: Allocator,
    /// Its name in output and files.
    pub name: &'static str,
    /// The kind of object that contains it.
    pub home: Home,
    /// What identifies it in a file.
    pub signs: Signs,
    /// Reads its version from a file that contains it.
    pub version: fn(&Contents<'_>) -> Option<String>,
    /// Prefixes of the environment variables that it reads; complete names end in `=`.
    pub variables: &'static [&'static str],
    /// Its settings in those variables.
    pub settings: Settings,
    /// What a walk lists in addition to its heap.
    pub listed: Listed,
    /// The builds that the lab can load, the usual one first.
    pub builds: &'static [BuildId],
    /// Whether the word before a block holds its chunk's size and three flag bits, as glibc's
    /// `mchunk_size` does. Then usable sizes can be read at the time of allocation.
    pub chunk_header: bool,
    /// Which free pages it can return.
    pub page_return: PageReturn,
    /// When it returns them by itself.
    pub return_time: ReturnTime,
    /// The call or event that returns whole free pages; `None` if only freeing the last block near
    /// them does.
    pub gives_back: Option<&'static str>,
    /// Its name for caches of freed blocks.
    pub caches: &'static str,
}

/// Which of the pages in its extents an allocator can return to the kernel.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum PageReturn {
    /// Every page that neither contains nor borders on a block, by the margins.
    PagesBetween(Margins),
    /// Only whole extents in which nothing is live.
    WholeExtents,
    /// By other rules, which are not followed here.
    Other,
}

/// Bytes next to a block's span that stay with the block, in extents with many blocks.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Margins {
    /// Before its start.
    pub before: u64,
    /// After its end.
    pub behind: u64,
}

/// When an allocator returns free pages by itself.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum ReturnTime {
    /// When a block is freed that has nothing live above it, so it depends on the positions of
    /// blocks.
    ByPlace,
    /// During calls, some time after blocks were freed: an idle program keeps the pages.
    InCalls,
    /// When the program continues to call it in certain ways.
    WithLaterCalls,
    /// Never.
    Never,
    /// Unknown; no player has this allocator.
    Unknown,
}

/// The values listed by a walk, under the allocator's own names. All other listed values are
/// settings that are plain numbers or words.
#[derive(Debug)]
pub struct Listed {
    /// Those that are amounts of bytes.
    pub bytes: &'static [&'static str],
    /// Values that nobody sets: the allocator's counters.
    pub counters: &'static [&'static str],
    /// Those that threads of the allocator's own carry out, which a forked process does not have.
    pub lost_by_fork: &'static [&'static str],
    /// Which of them an environment sets, and how.
    pub as_settings: AsSettings,
}

/// What identifies an allocator in a file.
#[derive(Debug)]
pub struct Signs {
    /// Groups of functions that only this allocator defines: a file that defines a whole group has
    /// the sign.
    pub functions: &'static [&'static [&'static str]],
    /// Text found only in its read-only data, alone or within longer strings; may be empty.
    pub text: &'static [u8],
    /// Prefixes of its file names; only C libraries are identified by them.
    pub files: &'static [&'static str],
}

/// The role of an allocator in a target.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Role {
    /// It serves the program's malloc calls: its object defines `malloc` and is the first in load
    /// order that does.
    ServesMalloc,
    /// It serves only the program or library that contains it.
    Private,
    /// Nothing allocates from it, because another allocator serves instead.
    Unused,
}

/// One allocator in a target, a core file, or a library that can be preloaded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AllocatorIdentity {
    /// Which allocator; `None` if it has no row.
    pub kind: Option<Allocator>,
    /// Its version, if the object shows it, e.g. `5.3.0`.
    pub version: Option<String>,
    /// The path of the object that contains it, as the target sees it.
    pub object: String,
    /// Whether that object is Python: the program or a libpython.
    pub in_python: bool,
    /// Its role.
    pub role: Role,
}

/// An allocator's name for people and files. Files contain the text of its [`fmt::Display`];
/// [`AllocatorTitle::parse`] is the inverse.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AllocatorTitle {
    /// An allocator with a row, such as `glibc 2.36`.
    Known {
        /// Which one.
        kind: Allocator,
        /// Its version, if known.
        version: Option<String>,
    },
    /// The file name of an allocator without a row.
    Other(String),
}

/// The heap that serves malloc, given its allocator: if several heaps have this allocator, the
/// largest; `None` if none has. If the allocator is unknown, the largest of the heaps that may
/// serve malloc.
pub fn serving<H>(
    malloc: Option<&AllocatorTitle>,
    heaps: impl Iterator<Item = H>,
    serves_malloc: impl Fn(&H) -> Option<Allocator>,
    taken_bytes: impl Fn(&H) -> u64,
) -> Option<H> {
    let serves = |heap: &H| {
        let kind = serves_malloc(heap);
        kind.is_some() && malloc.is_none_or(|malloc| malloc.kind() == kind)
    };
    heaps.filter(serves).max_by_key(taken_bytes)
}

impl AllocatorTitle {
    /// Parses its text.
    pub fn parse(text: &str) -> Self {
        let (name, version) = match text.split_once(' ') {
            Some((name, version)) => (name, Some(version.to_owned())),
            None => (text, None),
        };
        match Self::named(name, version) {
            Self::Other(_) => Self::Other(text.to_owned()),
            known => known,
        }
    }

    /// From a name and, if known, a version. An allocator without a row has no version.
    pub fn named(name: &str, version: Option<String>) -> Self {
        match ROWS.iter().find(|row| row.name == name) {
            Some(row) => Self::Known {
                kind: row.kind,
                version,
            },
            None => Self::Other(name.to_owned()),
        }
    }

    /// Its version, if known.
    pub fn version(&self) -> Option<&str> {
        match self {
            Self::Known { version, .. } => version.as_deref(),
            Self::Other(_) => None,
        }
    }

    /// Which allocator; `None` if it has no row.
    pub fn kind(&self) -> Option<Allocator> {
        match self {
            Self::Known { kind, .. } => Some(*kind),
            Self::Other(_) => None,
        }
    }

    /// Its name without its version.
    pub fn name(&self) -> &str {
        match self {
            Self::Known { kind, .. } => kind.name(),
            Self::Other(file) => file,
        }
    }
}

impl fmt::Display for AllocatorTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known {
                version: Some(version),
                ..
            } => write!(f, "{} {version}", self.name()),
            Self::Known { version: None, .. } | Self::Other(_) => f.write_str(self.name()),
        }
    }
}

impl AllocatorIdentity {
    /// Its name with its version; the file's name if it has no row.
    pub fn title(&self) -> AllocatorTitle {
        match self.kind {
            Some(kind) => AllocatorTitle::Known {
                kind,
                version: self.version.clone(),
            },
            None => AllocatorTitle::Other(file_name(&self.object).to_owned()),
        }
    }

    /// Whether it is this allocator.
    pub fn is(&self, kind: Allocator) -> bool {
        self.kind == Some(kind)
    }

    /// The library that has it for itself; `None` if it serves malloc or Python.
    pub fn private_library(&self) -> Option<String> {
        let is_private = self.role == Role::Private && !self.in_python;
        is_private.then(|| self.object.clone())
    }

    /// Whether it serves the program's malloc calls.
    pub fn serves_malloc(&self) -> bool {
        self.role == Role::ServesMalloc
    }
}

impl fmt::Display for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The last part of a path.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_row() {
        for kind in Allocator::ALL {
            let row = kind.row();
            assert_eq!(row.kind, kind);
            assert!(ROWS.iter().any(|one| std::ptr::eq(*one, row)), "{kind}");
        }
    }

    #[test]
    fn a_title_comes_back_from_its_text() {
        for row in ROWS {
            let title = AllocatorTitle::parse(&format!("{} 1.2.3", row.name));
            assert_eq!(title.kind(), Some(row.kind));
        }
        for text in [
            "glibc",
            "glibc 2.36",
            "glibc ",
            "glibc  2",
            "glibcs 2",
            "libfast.so",
            "",
        ] {
            assert_eq!(AllocatorTitle::parse(text).to_string(), text);
        }
    }

    #[test]
    fn a_title_is_the_name_with_the_version_or_the_files_name() {
        let mut identity = AllocatorIdentity {
            kind: Some(Allocator::Mimalloc),
            version: Some("3.3.2".to_owned()),
            object: "/opt/libfast.so".to_owned(),
            in_python: false,
            role: Role::ServesMalloc,
        };
        assert_eq!(identity.title().to_string(), "mimalloc 3.3.2");
        identity.version = None;
        assert_eq!(identity.title().to_string(), "mimalloc");
        identity.kind = None;
        let other = AllocatorTitle::Other("libfast.so".to_owned());
        assert_eq!(identity.title(), other);
    }

    #[test]
    fn only_glibc_gives_back_and_caches_in_glibcs_words() {
        for row in ROWS.iter().filter(|row| row.kind != Allocator::Glibc) {
            assert_ne!(row.gives_back, Allocator::Glibc.row().gives_back);
            assert_ne!(row.caches, Allocator::Glibc.row().caches);
        }
    }
}
