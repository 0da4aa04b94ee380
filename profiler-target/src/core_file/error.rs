//! Errors of core files, and how core files are distinguished from other files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use object::elf;
use profiler_core::machine::Machine;
use profiler_core::text::visible;

use crate::{CoreProblem, ErrorKind, Packer};

/// Why a file cannot be inspected as a core.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// It could not be opened or read.
    #[error("{path} cannot be read: {error}", path = visible(.path.display()))]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// It is something else.
    #[error("{path} is not a core file but {what}", path = visible(.path.display()))]
    NotACore {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// It is compressed.
    #[error("{path} is not a core file but compressed by {by}", path = visible(.path.display()))]
    Packed {
        /// The file.
        path: PathBuf,
        /// The name of the compression program.
        by: &'static str,
        /// The compression program.
        packer: Packer,
    },
    /// A core of a process that fragscope does not understand.
    #[error("{path} is a core of a {what} process, and fragscope reads those of 64-bit x86 (x86-64) and 64-bit ARM (aarch64) processes only", path = visible(.path.display()))]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its kind.
        what: String,
    },
    /// Its headers or notes are damaged or truncated.
    #[error("{path} is damaged or cut off within its {what}", path = visible(.path.display()))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        what: &'static str,
    },
    /// Its headers or notes are larger than those of any real process.
    #[error("{path} has more {what} than fragscope reads: it is not of a real process, or is damaged", path = visible(.path.display()))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What there is too much of.
        what: &'static str,
    },
    /// It contains no private memory.
    #[error("{path} holds no anonymous memory, so no heap", path = visible(.path.display()))]
    NoMemory {
        /// The file.
        path: PathBuf,
    },
    /// The program given is another one.
    #[error("{exe} is not the program of this core, which is {}", visible(program), exe = visible(.exe.display()))]
    OtherProgram {
        /// The file given.
        exe: PathBuf,
        /// The path of the program by the core.
        program: String,
    },
}

impl CoreError {
    pub(super) fn not_a_file(path: &Path) -> Self {
        Self::NotACore {
            path: path.to_owned(),
            what: "a directory, a device or a pipe",
        }
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { error, .. } => ErrorKind::of_input(error),
            Self::NotACore { .. } => ErrorKind::Core(CoreProblem::NotACore),
            Self::Packed { packer, .. } => ErrorKind::Core(CoreProblem::Packed(*packer)),
            Self::Foreign { .. } => ErrorKind::Core(CoreProblem::Foreign),
            Self::Damaged { .. } => ErrorKind::Core(CoreProblem::Damaged),
            Self::NoMemory { .. } => ErrorKind::Core(CoreProblem::NoMemory),
            Self::OtherProgram { .. } => ErrorKind::Core(CoreProblem::OtherProgram),
            Self::TooLarge { .. } => ErrorKind::Other,
        }
    }
}

/// The machine of a core, if the file begins like one that is supported.
pub(super) fn check_kind(path: &Path, file: &File) -> Result<Machine, CoreError> {
    let not_a_core = |what| {
        let path = path.to_owned();
        Err(CoreError::NotACore { path, what })
    };
    let packed = |by, packer| {
        let path = path.to_owned();
        Err(CoreError::Packed { path, by, packer })
    };
    let mut head = [0; 20];
    let read = file.read_at(&mut head, 0).map_err(|error| CoreError::Io {
        path: path.to_owned(),
        error,
    })?;
    match head {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return packed("zstd", Packer::Zstd),
        [0x1f, 0x8b, ..] => return packed("gzip", Packer::Gzip),
        [0xfd, b'7', b'z', b'X', ..] => return packed("xz", Packer::Xz),
        [0x04, 0x22, 0x4d, 0x18, ..] => return packed("lz4", Packer::Lz4),
        _ => {}
    }
    if head[..4] != elf::ELFMAG {
        return not_a_core("a file of another format");
    }
    let [.., kind_low, kind_high, machine_low, machine_high] = head;
    if read < head.len() {
        return Err(CoreError::Damaged {
            path: path.to_owned(),
            what: "header",
        });
    }
    let is_big = head[5] == 2;
    let number = |low, high| {
        if is_big {
            u16::from_be_bytes([low, high])
        } else {
            u16::from_le_bytes([low, high])
        }
    };
    if number(kind_low, kind_high) != elf::ET_CORE.0 {
        return not_a_core("a program or a library");
    }
    let bits = if head[4] == 2 { "64" } else { "32" };
    let foreign = |what| {
        Err(CoreError::Foreign {
            path: path.to_owned(),
            what,
        })
    };
    let number = number(machine_low, machine_high);
    if let Some(machine) = Machine::of_elf(number).filter(|_| head[4] == 2 && !is_big) {
        return Ok(machine);
    }
    match number {
        machine if machine == elf::EM_386.0 || machine == elf::EM_X86_64.0 => {
            foreign("32-bit x86".to_owned())
        }
        machine => foreign(format!("{bits}-bit machine-{machine}")),
    }
}
