//! What can be wrong with a core file, and telling it from other files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use object::elf;
use profiler_core::text::visible;

use crate::ErrorKind;

/// Why a file cannot be looked at as a core.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// It could not be opened or read.
    #[error("{path} cannot be read: {error}", path = visible(.path.display()))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is something else.
    #[error("{path} is not a core file but {what}: {remedy}", path = visible(.path.display()))]
    NotACore {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A core of a process that fragscope does not understand.
    #[error("{path} is a core of a {what} process, and fragscope reads those of 64-bit x86 (x86-64) processes only: read it with a debugger instead", path = visible(.path.display()))]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its kind.
        what: String,
    },
    /// Its headers or notes are damaged or cut off.
    #[error("{path} is damaged or cut off within its {what}: take another core, with `ulimit -c unlimited`, room on the disk, and for systemd-coredump ProcessSizeMax= and ExternalSizeMax= above the process's size", path = visible(.path.display()))]
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
    /// It holds no private memory.
    #[error("{path} holds no anonymous memory, so no heap: take another core after `echo 0x33 > /proc/PID/coredump_filter`", path = visible(.path.display()))]
    NoMemory {
        /// The file.
        path: PathBuf,
    },
    /// The program given is another one.
    #[error("{exe} is not the program of this core, which is {}: use --exe with the file that really ran, or leave it out", visible(program), exe = visible(.exe.display()))]
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
            remedy: NAME_ONE,
        }
    }

    /// Of what kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Foreign { .. } => ErrorKind::UnsupportedTarget,
            Self::Io { error, .. } => ErrorKind::of_io(error),
            _ => ErrorKind::Other,
        }
    }
}

const NAME_ONE: &str =
    "name the file that the kernel, gcore or `coredumpctl dump -o FILE PID` wrote";

/// Whether the file begins like a core of a machine that is understood.
pub(super) fn check_kind(path: &Path, file: &File) -> Result<(), CoreError> {
    let not_a_core = |what, remedy| {
        Err(CoreError::NotACore {
            path: path.to_owned(),
            what,
            remedy,
        })
    };
    let mut head = [0; 20];
    let read = file.read_at(&mut head, 0).map_err(|error| CoreError::Io {
        path: path.to_owned(),
        error,
    })?;
    match head {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            return not_a_core("compressed by zstd", "unpack it with `zstd -d` first");
        }
        [0x1f, 0x8b, ..] => return not_a_core("compressed by gzip", "unpack it with gunzip first"),
        [0xfd, b'7', b'z', b'X', ..] => {
            return not_a_core("compressed by xz", "unpack it with unxz first");
        }
        [0x04, 0x22, 0x4d, 0x18, ..] => {
            return not_a_core("compressed by lz4", "unpack it with `lz4 -d` first");
        }
        _ => {}
    }
    if head[..4] != elf::ELFMAG {
        return not_a_core("a file of another format", NAME_ONE);
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
        return not_a_core("a program or a library", NAME_ONE);
    }
    let bits = if head[4] == 2 { "64" } else { "32" };
    let foreign = |what| {
        Err(CoreError::Foreign {
            path: path.to_owned(),
            what,
        })
    };
    match number(machine_low, machine_high) {
        machine if machine == elf::EM_X86_64.0 && head[4] == 2 && !is_big => Ok(()),
        machine if machine == elf::EM_386.0 || machine == elf::EM_X86_64.0 => {
            foreign("32-bit x86".to_owned())
        }
        machine if machine == elf::EM_AARCH64.0 => foreign("64-bit ARM (aarch64)".to_owned()),
        machine => foreign(format!("{bits}-bit machine-{machine}")),
    }
}
