//! From an allocator's name to the shared object that is preloaded.
//!
//! jemalloc and mimalloc are inside fragscope, as files in memory; others are found on this host.
//! What cannot serve a player is told before it is tried.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::sys::memfd::{MFdFlags, memfd_create};
use object::{Object, ObjectKind, ObjectSymbol};
use profiler_core::heap::Allocator as Kind;
use profiler_core::text::visible;
use profiler_core::units::bytes;
use profiler_target::{Source, allocators_in, file_limit};

use super::loader;

/// An object inside fragscope.
struct Embedded {
    name: &'static str,
    bytes: &'static [u8],
    file: OnceLock<File>,
    /// What a user puts into `LD_PRELOAD` where the allocator is installed.
    listed: &'static str,
}

static EMBEDDED: [Embedded; 3] = [
    Embedded {
        name: "jemalloc",
        bytes: include_bytes!(env!("FRAGSCOPE_JEMALLOC")),
        file: OnceLock::new(),
        listed: "libjemalloc.so.2",
    },
    Embedded {
        name: "mimalloc",
        bytes: include_bytes!(env!("FRAGSCOPE_MIMALLOC_V3")),
        file: OnceLock::new(),
        listed: "libmimalloc.so.3",
    },
    Embedded {
        name: "mimalloc2",
        bytes: include_bytes!(env!("FRAGSCOPE_MIMALLOC_V2")),
        file: OnceLock::new(),
        listed: "libmimalloc.so.2",
    },
];

/// The names of tcmalloc's library, the one without a profiler first.
const TCMALLOC: [&str; 2] = ["libtcmalloc_minimal.so.4", "libtcmalloc.so.4"];

/// An allocator that can serve a player.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Allocator {
    /// Its name as the user says it: `glibc`, `jemalloc`, a path.
    pub name: String,
    /// Which one it is, as far as its object tells.
    pub kind: Option<Kind>,
    /// Its version, where it is known.
    pub version: Option<String>,
    /// The object to preload; `None` is the C library's own malloc.
    pub object: Option<PathBuf>,
    /// What a user puts into `LD_PRELOAD`.
    pub listed: Option<String>,
}

/// Why an allocator cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NoAllocator {
    /// Nothing is known by this name.
    #[error(
        "unknown allocator {}: use glibc, jemalloc, mimalloc, mimalloc2, tcmalloc or the \
         path of a shared object",
        visible(.0)
    )]
    UnknownName(String),
    /// The loader finds no library of this name.
    #[error(
        "the dynamic loader finds no {0}: give a path with a slash in it, such as ./{0} for one in \
         this folder"
    )]
    NotFound(String),
    /// It is not on this host.
    #[error("not installed here: on Debian, `apt-get install {package}`")]
    NotInstalled {
        /// The package that holds it.
        package: &'static str,
    },
    /// There is no such file, or it cannot be read.
    #[error("cannot read {}: {why}", visible(path.display()))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        why: io::Error,
    },
    /// It is no shared object.
    #[error("{} is not a shared object: {why}", visible(.path.display()))]
    NotShared {
        /// The file.
        path: PathBuf,
        /// What it is.
        why: String,
    },
    /// It is for another kind of processor.
    #[error("{} is for {machine}, not for this host", visible(.path.display()))]
    OtherMachine {
        /// The file.
        path: PathBuf,
        /// For what it is.
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
    /// Its tables are larger than what is read.
    #[error(
        "{} claims tables of more than {}, which is not read: --file-limit raises it",
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

impl Allocator {
    /// The C library's own malloc.
    pub fn glibc() -> Self {
        Self {
            name: "glibc".to_owned(),
            kind: Some(Kind::Glibc),
            version: None,
            object: None,
            listed: None,
        }
    }

    /// The allocator of a name, of a shared object's path, or of a file's name that the dynamic loader
    /// finds. What has no slash is no path: a file of that name in the current folder may be anyone's.
    ///
    /// # Errors
    /// When it is not known, not here, or cannot serve as malloc.
    pub fn find(name: &str) -> Result<Self, NoAllocator> {
        if name == "glibc" {
            return Ok(Self::glibc());
        }
        if let Some(embedded) = EMBEDDED.iter().find(|e| e.name == name) {
            let path = embedded.path().map_err(NoAllocator::Unpack)?;
            return Self::at(name, path, embedded.listed);
        }
        if name == "tcmalloc" {
            let path = TCMALLOC.iter().find_map(|file| loader::find(file));
            let path = path.ok_or(NoAllocator::NotInstalled {
                package: "libtcmalloc-minimal4",
            })?;
            let listed = path.to_string_lossy().into_owned();
            return Self::at(name, path, &listed);
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
        let held = allocators_in(&path).into_iter().next();
        let (kind, version) = held.map_or((None, None), |(kind, version)| (Some(kind), version));
        Ok(Self {
            name: name.to_owned(),
            kind,
            version,
            object: Some(path),
            listed: Some(listed.to_owned()),
        })
    }

    /// Its name with its version.
    pub fn title(&self) -> String {
        match &self.version {
            Some(version) => format!("{} {version}", self.name),
            None => self.name.clone(),
        }
    }
}

impl Embedded {
    /// The path by which a player loads it.
    fn path(&self) -> io::Result<PathBuf> {
        if self.file.get().is_none() {
            let name = format!("fragscope-{}", self.name);
            let mut file = File::from(memfd_create(name.as_str(), MFdFlags::MFD_CLOEXEC)?);
            file.write_all(self.bytes)?;
            // Another thread may have been quicker.
            let _ = self.file.set(file);
        }
        let fd = self.file.get().map_or(-1, AsRawFd::as_raw_fd);
        Ok(format!("/proc/{}/fd/{fd}", std::process::id()).into())
    }
}

/// Whether an object can serve as malloc, by its own symbols: the loader would go on without it.
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
    fn what_is_embedded_tells_its_version_and_serves_as_malloc() {
        for (name, kind, begins) in [
            ("jemalloc", Kind::Jemalloc, "5.3"),
            ("mimalloc", Kind::Mimalloc, "3."),
            ("mimalloc2", Kind::Mimalloc, "2."),
        ] {
            let found = Allocator::find(name).expect(name);
            assert_eq!(found.kind, Some(kind));
            let version = found.version.expect("it tells its version");
            assert!(version.starts_with(begins), "{name} {version}");
        }
    }

    #[test]
    fn a_library_without_malloc_is_refused_before_it_is_tried() {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let libgcc = maps.lines().find_map(|line| {
            let path = line.split_ascii_whitespace().nth(5)?;
            path.contains("libgcc_s").then(|| path.to_owned())
        });
        let path = libgcc.expect("Rust programs load libgcc_s");
        let refused = Allocator::find(&path).expect_err("no malloc in it");
        assert!(matches!(refused, NoAllocator::NoMalloc { .. }), "{refused}");
    }

    #[test]
    fn what_is_no_library_is_told_as_that() {
        let refused = |name: &str| Allocator::find(name).expect_err(name).to_string();
        assert!(refused("hoard").contains("unknown allocator hoard"));
        assert!(refused("/nowhere/liballoc.so").contains("cannot read"));
        assert!(refused("/proc/self/exe").contains("is not a shared object"));
        assert!(refused("/etc/passwd").contains("is not a shared object"));
        assert!(refused("/tmp/").contains("is not a shared object"));
    }

    #[test]
    fn one_for_another_processor_is_told_as_that() {
        let own = Allocator::find("jemalloc").expect("embedded");
        let mut bytes = std::fs::read(own.object.expect("an object")).expect("readable");
        // e_machine (elf.h): 243 is RISC-V.
        bytes[18..20].copy_from_slice(&243u16.to_le_bytes());
        let file = tempfile::Builder::new().suffix(".so").tempfile();
        let mut file = file.expect("a file");
        file.write_all(&bytes).expect("written");
        let path = file.path().to_string_lossy().into_owned();
        let refused = Allocator::find(&path).expect_err("another processor's");
        assert!(refused.to_string().contains("Riscv64"), "{refused}");
    }
}
