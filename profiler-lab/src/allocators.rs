//! Finds the shared object to preload for an allocator's name.
//!
//! jemalloc and mimalloc are embedded in fragscope, as in-memory files; others are looked for on
//! this host. An object that cannot serve a player is reported before it is tried.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::sys::memfd::{MFdFlags, memfd_create};
use object::{Object, ObjectKind, ObjectSymbol};
use profiler_core::allocator::{
    Allocator, AllocatorIdentity, Build, BuildId, Role, Source as Origin,
};
use profiler_core::text::visible;
use profiler_core::units::bytes;
use profiler_target::{AllocatorProblem, ErrorKind, Limit, Source, file_limit, malloc_in};

use super::loader;

/// The bytes of a build that fragscope carries.
struct Carried {
    bytes: &'static [u8],
    file: OnceLock<File>,
}

impl Carried {
    const fn new(bytes: &'static [u8]) -> Self {
        let file = OnceLock::new();
        Self { bytes, file }
    }

    /// The row of this build; `None` if it comes from elsewhere.
    fn of(build: BuildId) -> Option<&'static Self> {
        static JEMALLOC: Carried = Carried::new(include_bytes!(env!("FRAGSCOPE_JEMALLOC")));
        static MIMALLOC_3: Carried = Carried::new(include_bytes!(env!("FRAGSCOPE_MIMALLOC_V3")));
        static MIMALLOC_2: Carried = Carried::new(include_bytes!(env!("FRAGSCOPE_MIMALLOC_V2")));
        match build {
            BuildId::Jemalloc => Some(&JEMALLOC),
            BuildId::Mimalloc3 => Some(&MIMALLOC_3),
            BuildId::Mimalloc2 => Some(&MIMALLOC_2),
            BuildId::Glibc | BuildId::Tcmalloc => None,
        }
    }
}

/// Which allocator a user means by a build's name or a library's path, as far as can be seen from
/// that.
pub(super) fn kind_named(name: &str) -> Option<Allocator> {
    let named = BuildId::named(name).map(BuildId::kind);
    named.or_else(|| Allocator::in_file_name(name))
}

/// An allocator that can serve a player.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlayableAllocator {
    /// The name that the user gives: `glibc`, `jemalloc`, a path.
    pub name: String,
    /// Which allocator it is, as far as its object shows.
    pub identity: AllocatorIdentity,
    /// The object to preload; `None` is the C library's own malloc.
    pub object: Option<PathBuf>,
    /// What a user puts into `LD_PRELOAD`.
    pub listed: Option<String>,
    /// Whether the loader finds it in the place where it is to be preloaded: not if it is one that
    /// fragscope carries.
    pub is_installed: bool,
}

/// Why an allocator cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NoAllocator {
    /// Nothing is known by this name.
    #[error("unknown allocator {}", visible(.0))]
    UnknownName(String),
    /// The loader finds no library of this name.
    #[error("the dynamic loader finds no {0}, and a name without a slash is not a path")]
    NotFound(String),
    /// It is not on this host.
    #[error("not installed here (Debian's package: {package})")]
    NotInstalled {
        /// The package that holds it.
        package: &'static str,
    },
    /// The file does not exist or cannot be read.
    #[error("cannot read {}: {why}", visible(path.display()))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        why: io::Error,
    },
    /// It is not a shared object.
    #[error("{} is not a shared object: {why}", visible(.path.display()))]
    NotShared {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It is for another kind of processor.
    #[error("{} is for {machine}, not for this host", visible(.path.display()))]
    OtherMachine {
        /// The file.
        path: PathBuf,
        /// The machine that it is for.
        machine: String,
    },
    /// It does not replace malloc.
    #[error("{} has no {function} in it: preloading it changes nothing", visible(.path.display()))]
    NoMalloc {
        /// The file.
        path: PathBuf,
        /// What is missing.
        function: &'static str,
    },
    /// Its tables are larger than the limit.
    #[error(
        "{} claims tables of more than {}, the limit of a file that is read",
        visible(.path.display()), bytes(*limit_bytes)
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How much is read.
        limit_bytes: u64,
    },
    /// No room for a file in memory.
    #[error("cannot unpack it: {0}")]
    Unpack(io::Error),
}

impl NoAllocator {
    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownName(_) => ErrorKind::Allocator(AllocatorProblem::UnknownName),
            Self::NotFound(_) => ErrorKind::Allocator(AllocatorProblem::NotFound),
            Self::NotInstalled { package } => {
                ErrorKind::Allocator(AllocatorProblem::NotInstalled { package })
            }
            Self::TooLarge { .. } => ErrorKind::Limit(Limit::File),
            Self::Unreadable { why, .. } | Self::Unpack(why) => ErrorKind::of_io(why),
            Self::NotShared { .. } | Self::OtherMachine { .. } | Self::NoMalloc { .. } => {
                ErrorKind::Other
            }
        }
    }
}

impl PlayableAllocator {
    /// The C library's own malloc.
    pub fn glibc() -> Self {
        Self {
            name: Allocator::Glibc.name().to_owned(),
            identity: AllocatorIdentity {
                kind: Some(Allocator::Glibc),
                version: None,
                object: String::new(),
                in_python: false,
                role: Role::ServesMalloc,
            },
            object: None,
            listed: None,
            is_installed: true,
        }
    }

    /// The allocator with a given name, the path of a shared object, or the name of a file that the
    /// dynamic loader finds. A name without a slash is never a path: a file of that name in the
    /// current directory may belong to anyone.
    ///
    /// # Errors
    /// If it is unknown, not present, or cannot serve as malloc.
    pub fn find(name: &str) -> Result<Self, NoAllocator> {
        if let Some(build) = BuildId::named(name) {
            return Self::to_preload(build, None);
        }
        if !name.contains('/') && !name.contains(".so") {
            return Err(NoAllocator::UnknownName(name.to_owned()));
        }
        if name.contains('/') {
            return Self::at_path(Path::new(name));
        }
        match loader::find(name) {
            Some(path) => Self::at_path(&path),
            None => Err(NoAllocator::NotFound(name.to_owned())),
        }
    }

    /// A build, as a line that preloads it would load it: the library installed here, or else the
    /// one that fragscope carries. A process with another root directory, at `root`, loads what is
    /// there: if that is not known to be the same, the line is said to need an installation. A
    /// library below `root` is never replayed, because whoever runs that process may have put it
    /// there.
    ///
    /// # Errors
    /// As for [`Self::find`].
    pub fn to_preload(id: BuildId, root: Option<&Path>) -> Result<Self, NoAllocator> {
        let build = id.build();
        let mut installed = build.libraries.iter().filter_map(|file| loader::find(file));
        let here = match installed.next() {
            Some(path) => Self::at(build.name, path.clone(), &path.to_string_lossy())?,
            None => Self::of(id)?,
        };
        let Some(root) = root else { return Ok(here) };
        Ok(here.listed_below(build, root))
    }

    /// The same, listed as a process with another root directory would load it.
    fn listed_below(self, build: &Build, root: &Path) -> Self {
        let mut libraries = build.libraries.iter();
        let there = libraries.find_map(|file| loader::find_below(root, file));
        let is_same = there.as_ref().is_some_and(|path| {
            let below = root.join(path.strip_prefix("/").unwrap_or(path));
            let found = malloc_in(&below);
            found.version.is_some() && found.version == self.identity.version
        });
        let listed = match there.filter(|_| is_same) {
            Some(path) => Some(path.to_string_lossy().into_owned()),
            None => build.libraries.first().map(|file| (*file).to_owned()),
        };
        Self {
            listed: listed.or(self.listed),
            is_installed: is_same,
            ..self
        }
    }

    /// A build: the one that fragscope carries, or else the one installed here.
    ///
    /// # Errors
    /// As for [`Self::find`].
    pub fn of(id: BuildId) -> Result<Self, NoAllocator> {
        let build = id.build();
        match build.source {
            Origin::CLibrary => Ok(Self::glibc()),
            Origin::Carried => {
                let carried = Carried::of(id);
                let unknown = || NoAllocator::UnknownName(build.name.to_owned());
                let path = carried.ok_or_else(unknown)?.path(build.name);
                let listed = build.libraries.first().copied().unwrap_or_default();
                Self::at(build.name, path.map_err(NoAllocator::Unpack)?, listed)
            }
            Origin::Package(package) => {
                let path = build.libraries.iter().find_map(|file| loader::find(file));
                let path = path.ok_or(NoAllocator::NotInstalled { package })?;
                let listed = path.to_string_lossy().into_owned();
                Self::at(build.name, path, &listed)
            }
        }
    }

    /// The shared object at a path.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn at_path(path: &Path) -> Result<Self, NoAllocator> {
        // The player is started elsewhere.
        let real = path.canonicalize();
        let real = real.map_err(|why| NoAllocator::Unreadable {
            path: path.to_owned(),
            why,
        })?;
        let listed = real.to_string_lossy().into_owned();
        Self::at(&path.to_string_lossy(), real, &listed)
    }

    fn at(name: &str, path: PathBuf, listed: &str) -> Result<Self, NoAllocator> {
        check(&path)?;
        Ok(Self {
            name: name.to_owned(),
            identity: malloc_in(&path),
            is_installed: !path.starts_with(own_files()),
            object: Some(path),
            listed: Some(listed.to_owned()),
        })
    }

    /// Its name with its version.
    pub fn title(&self) -> String {
        match &self.identity.version {
            Some(version) => format!("{} {version}", self.name),
            None => self.name.clone(),
        }
    }
}

/// The directory of the objects that fragscope carries.
fn own_files() -> String {
    format!("/proc/{}/fd", std::process::id())
}

/// The names of all builds, in a list.
pub fn names() -> String {
    let names = BuildId::ALL.map(|id| id.build().name);
    names.join(", ")
}

impl Carried {
    /// The path by which a player loads it.
    fn path(&self, name: &str) -> io::Result<PathBuf> {
        if self.file.get().is_none() {
            let name = format!("fragscope-{name}");
            let mut file = File::from(memfd_create(name.as_str(), MFdFlags::MFD_CLOEXEC)?);
            file.write_all(self.bytes)?;
            // Another thread may have been quicker.
            let _ = self.file.set(file);
        }
        let fd = self.file.get().map_or(-1, AsRawFd::as_raw_fd);
        Ok(Path::new(&own_files()).join(fd.to_string()))
    }
}

/// Whether an object can serve as malloc, judged by its own symbols: the loader would continue
/// without it.
fn check(path: &Path) -> Result<(), NoAllocator> {
    let unreadable = |why| NoAllocator::Unreadable {
        path: path.to_owned(),
        why,
    };
    let not_shared = |why: &str| NoAllocator::NotShared {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let source = Source::open(path, file_limit()).map_err(|why| match why.kind() {
        io::ErrorKind::InvalidInput => not_shared(&why.to_string()),
        _ => unreadable(why),
    })?;
    let too_large = || NoAllocator::TooLarge {
        path: path.to_owned(),
        limit_bytes: file_limit(),
    };
    let elf = object::File::parse(&source).map_err(|error| match source.is_exceeded() {
        true => too_large(),
        false => not_shared(&error.to_string()),
    })?;
    let machine = elf.architecture();
    let is_ours = format!("{machine:?}").to_lowercase() == std::env::consts::ARCH;
    if !is_ours {
        return Err(NoAllocator::OtherMachine {
            path: path.to_owned(),
            machine: format!("{machine:?}"),
        });
    }
    if elf.kind() != ObjectKind::Dynamic || elf.section_by_name(".interp").is_some() {
        return Err(not_shared("it is a program or a part of one"));
    }
    for function in ["malloc", "free", "realloc", "calloc"] {
        let mut symbols = elf.dynamic_symbols();
        if !symbols.any(|s| s.is_definition() && s.name_bytes() == Ok(function.as_bytes())) {
            if source.is_exceeded() {
                return Err(too_large());
            }
            return Err(NoAllocator::NoMalloc {
                path: path.to_owned(),
                function,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_shows_its_version_and_serves_as_malloc() {
        for (id, begins) in [
            (BuildId::Jemalloc, "5.3"),
            (BuildId::Mimalloc3, "3."),
            (BuildId::Mimalloc2, "2."),
        ] {
            let found = PlayableAllocator::of(id).expect("carried");
            assert!(found.identity.is(id.kind()), "{found:?}");
            let version = found.identity.version.expect("it shows its version");
            assert!(version.starts_with(begins), "{id:?} {version}");
        }
    }

    #[test]
    fn what_a_process_with_another_root_does_not_have_must_be_installed_there() {
        let root = tempfile::tempdir().expect("a folder");
        let missing =
            PlayableAllocator::to_preload(BuildId::Jemalloc, Some(root.path())).expect("carried");
        assert!(!missing.is_installed);
        assert_eq!(missing.listed.as_deref(), Some("libjemalloc.so.2"));
        // The very object that is played, in a folder that the loader searches.
        let object = missing.object.expect("an object");
        let folder = root.path().join("usr/lib");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::copy(&object, folder.join("libjemalloc.so.2")).expect("copied");
        let there =
            PlayableAllocator::to_preload(BuildId::Jemalloc, Some(root.path())).expect("carried");
        assert!(there.is_installed);
        assert_eq!(there.listed.as_deref(), Some("/usr/lib/libjemalloc.so.2"));
        assert_eq!(there.object, Some(object), "what is there is not played");
    }

    #[test]
    fn each_build_is_what_its_row_says() {
        for id in BuildId::ALL {
            let build = id.build();
            assert_eq!(kind_named(build.name), Some(id.kind()));
            let is_carried = build.source == Origin::Carried;
            assert_eq!(Carried::of(id).is_some(), is_carried, "{id:?}");
            match PlayableAllocator::find(build.name) {
                Ok(found) => assert!(found.identity.is(id.kind()), "{found:?}"),
                Err(why) => assert!(matches!(build.source, Origin::Package(_)), "{why}"),
            }
        }
    }

    #[test]
    fn a_name_stands_for_the_library_that_predictions_are_of() {
        for id in BuildId::ALL {
            let predicted = PlayableAllocator::to_preload(id, None);
            let named = PlayableAllocator::find(id.build().name);
            match (predicted, named) {
                (Ok(predicted), Ok(named)) => {
                    assert_eq!(named.identity, predicted.identity);
                    assert_eq!(named.is_installed, predicted.is_installed, "{id:?}");
                }
                (Err(_), Err(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(PlayableAllocator::find("hoard").is_err());
    }

    #[test]
    fn a_library_without_malloc_is_refused_before_it_is_tried() {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let libgcc = maps.lines().find_map(|line| {
            let path = line.split_ascii_whitespace().nth(5)?;
            path.contains("libgcc_s").then(|| path.to_owned())
        });
        let path = libgcc.expect("Rust programs load libgcc_s");
        let refused = PlayableAllocator::find(&path).expect_err("no malloc in it");
        assert!(matches!(refused, NoAllocator::NoMalloc { .. }), "{refused}");
    }

    #[test]
    fn what_is_no_library_is_reported_as_that() {
        let refused = |name: &str| PlayableAllocator::find(name).expect_err(name).to_string();
        assert_eq!(refused("hoard"), "unknown allocator hoard");
        assert!(refused("/nowhere/liballoc.so").contains("cannot read"));
        assert!(refused("/proc/self/exe").contains("is not a shared object"));
        assert!(refused("/etc/passwd").contains("is not a shared object"));
        assert!(refused("/tmp/").contains("is not a shared object"));
    }

    #[test]
    fn one_for_another_processor_is_reported_as_that() {
        let own = PlayableAllocator::find("jemalloc").expect("embedded");
        let mut bytes = std::fs::read(own.object.expect("an object")).expect("readable");
        // e_machine (elf.h): 243 is RISC-V.
        bytes[18..20].copy_from_slice(&243u16.to_le_bytes());
        let file = tempfile::Builder::new().suffix(".so").tempfile();
        let mut file = file.expect("a file");
        file.write_all(&bytes).expect("written");
        let path = file.path().to_string_lossy().into_owned();
        let refused = PlayableAllocator::find(&path).expect_err("another processor's");
        assert!(refused.to_string().contains("Riscv64"), "{refused}");
    }
}
