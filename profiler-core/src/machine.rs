//! The processor architectures whose layouts, registers and instructions are known, and how a kernel makes huge pages.

/// When a kernel makes huge pages of its own accord (`Documentation/admin-guide/mm/transhuge.rst`).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum HugePageMode {
    /// Of all memory that is large enough.
    Always,
    /// Of what a program asks for (`MADV_HUGEPAGE`).
    Madvise,
    /// Of nothing.
    Never,
}

impl HugePageMode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Always, Self::Madvise, Self::Never];

    /// The name in files, which is the kernel's own.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Madvise => "madvise",
            Self::Never => "never",
        }
    }

    /// The mode of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// The machine that a program was compiled for.
#[derive(Copy, Clone, Debug, Eq, Hash, PartialEq)]
pub enum Machine {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Machine {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// The architecture that fragscope was compiled for, which is that of every live 64-bit target.
    pub const OWN: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::X86_64
    };

    /// Its name, as printed by `uname -m`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// `e_machine` of its programs (`elf(5)`: `EM_X86_64`, `EM_AARCH64`).
    pub const fn elf_number(self) -> u16 {
        match self {
            Self::X86_64 => 62,
            Self::Aarch64 => 183,
        }
    }

    /// The architecture with that number.
    pub fn of_elf(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.elf_number() == number)
    }

    /// Where a thread's variables are relative to its thread pointer: below it on x86-64 (variant
    /// II of "ELF Handling For Thread-Local Storage"), above it on aarch64 (variant I), after two
    /// words of the C library.
    pub const fn thread_variables(self) -> ThreadVariables {
        match self {
            Self::X86_64 => ThreadVariables::Below,
            Self::Aarch64 => ThreadVariables::Above,
        }
    }
}

/// The side of the thread pointer on which a thread's variables are.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum ThreadVariables {
    /// Directly below it.
    Below,
    /// Directly above it.
    Above,
}
