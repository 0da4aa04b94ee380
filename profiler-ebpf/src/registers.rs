//! The registers of a thread by their role, for each architecture of a target.
//!
//! The object is compiled once per architecture (`bpf_target_arch`): the verifier rejects offsets
//! beyond the registers of its own architecture.

#[cfg(not(any(bpf_target_arch = "x86_64", bpf_target_arch = "aarch64")))]
compile_error!("registers are known of x86_64 and aarch64 only (--cfg bpf_target_arch)");

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use profiler_common::sampling::Registers;

/// The registers at a probed instruction. The accesses are to the program's context, and are checked when it is loaded.
pub trait Probed {
    /// The first three arguments, at a function's entry.
    fn arguments(&self) -> (u64, u64, u64);
    /// A function's result, at its return.
    fn result(&self) -> u64;
    /// The stack pointer.
    fn stack_pointer(&self) -> u64;
    /// The thread's position.
    fn place(&self) -> Registers;
}

#[cfg(bpf_target_arch = "x86_64")]
impl Probed for pt_regs {
    #[inline(always)]
    fn arguments(&self) -> (u64, u64, u64) {
        (self.rdi, self.rsi, self.rdx)
    }

    #[inline(always)]
    fn result(&self) -> u64 {
        self.rax
    }

    #[inline(always)]
    fn stack_pointer(&self) -> u64 {
        self.rsp
    }

    #[inline(always)]
    fn place(&self) -> Registers {
        Registers {
            instruction: self.rip,
            stack: self.rsp,
            frame: self.rbp,
            link: 0,
        }
    }
}

#[cfg(bpf_target_arch = "aarch64")]
impl Probed for pt_regs {
    #[inline(always)]
    fn arguments(&self) -> (u64, u64, u64) {
        (self.regs[0], self.regs[1], self.regs[2])
    }

    #[inline(always)]
    fn result(&self) -> u64 {
        self.regs[0]
    }

    #[inline(always)]
    fn stack_pointer(&self) -> u64 {
        self.sp
    }

    #[inline(always)]
    fn place(&self) -> Registers {
        Registers {
            instruction: self.pc,
            stack: self.sp,
            frame: self.regs[29],
            link: self.regs[30],
        }
    }
}

/// The return address of the function whose entry this is; 0 if it cannot be read.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub fn return_address(registers: &pt_regs) -> u64 {
    // SAFETY: the helper checks the address, which is the target's.
    unsafe { aya_ebpf::helpers::bpf_probe_read_user(registers.rsp as *const u64) }.unwrap_or(0)
}

/// The same.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub fn return_address(registers: &pt_regs) -> u64 {
    registers.regs[30]
}

/// The kernel's copy of the registers of a thread that is in the kernel.
#[derive(Copy, Clone)]
pub struct Kept(pub *const pt_regs);

#[cfg(bpf_target_arch = "x86_64")]
impl Kept {
    /// The number of the system call that it is in.
    #[inline(always)]
    pub fn number(self) -> Option<u64> {
        // SAFETY: a place within the kernel's copy of the registers, which the helper checks.
        unsafe { bpf_probe_read_kernel(&raw const (*self.0).orig_rax) }.ok()
    }

    /// Its first four arguments.
    #[inline(always)]
    pub fn arguments(self) -> Option<[u64; 4]> {
        // SAFETY: as above.
        unsafe {
            Some([
                bpf_probe_read_kernel(&raw const (*self.0).rdi).ok()?,
                bpf_probe_read_kernel(&raw const (*self.0).rsi).ok()?,
                bpf_probe_read_kernel(&raw const (*self.0).rdx).ok()?,
                bpf_probe_read_kernel(&raw const (*self.0).r10).ok()?,
            ])
        }
    }

    /// The thread's position; none if the registers are the kernel's own.
    #[inline(always)]
    pub fn place(self) -> Registers {
        // SAFETY: as above.
        let read = unsafe {
            (
                bpf_probe_read_kernel(&raw const (*self.0).rip),
                bpf_probe_read_kernel(&raw const (*self.0).rsp),
                bpf_probe_read_kernel(&raw const (*self.0).rbp),
            )
        };
        match read {
            (Ok(instruction), Ok(stack), Ok(frame)) if instruction >> 63 == 0 => Registers {
                instruction,
                stack,
                frame,
                link: 0,
            },
            _ => Registers::default(),
        }
    }
}

/// Bytes from the beginning of `struct pt_regs` to the fields behind a thread's own registers
/// (`arch/arm64/include/asm/ptrace.h`): the first argument, which its result has replaced, and the call's number.
#[cfg(bpf_target_arch = "aarch64")]
const FIRST_ARGUMENT: usize = 272;
#[cfg(bpf_target_arch = "aarch64")]
const CALL_NUMBER: usize = 280;

#[cfg(bpf_target_arch = "aarch64")]
impl Kept {
    /// The number of the system call that it is in.
    #[inline(always)]
    pub fn number(self) -> Option<u64> {
        let at = self.0.cast::<u8>().wrapping_add(CALL_NUMBER);
        // SAFETY: a place within the kernel's copy of the registers, which the helper checks.
        let number: i32 = unsafe { bpf_probe_read_kernel(at.cast()) }.ok()?;
        Some(number as u32 as u64)
    }

    /// Its first four arguments.
    #[inline(always)]
    pub fn arguments(self) -> Option<[u64; 4]> {
        let first = self.0.cast::<u8>().wrapping_add(FIRST_ARGUMENT);
        // SAFETY: as above.
        unsafe {
            Some([
                bpf_probe_read_kernel(first.cast()).ok()?,
                bpf_probe_read_kernel(&raw const (*self.0).regs[1]).ok()?,
                bpf_probe_read_kernel(&raw const (*self.0).regs[2]).ok()?,
                bpf_probe_read_kernel(&raw const (*self.0).regs[3]).ok()?,
            ])
        }
    }

    /// The thread's position; none if the registers are the kernel's own.
    #[inline(always)]
    pub fn place(self) -> Registers {
        // SAFETY: as above.
        let read = unsafe {
            (
                bpf_probe_read_kernel(&raw const (*self.0).pc),
                bpf_probe_read_kernel(&raw const (*self.0).sp),
                bpf_probe_read_kernel(&raw const (*self.0).regs[29]),
                bpf_probe_read_kernel(&raw const (*self.0).regs[30]),
            )
        };
        match read {
            (Ok(instruction), Ok(stack), Ok(frame), Ok(link)) if instruction >> 63 == 0 => {
                Registers {
                    instruction,
                    stack,
                    frame,
                    link,
                }
            }
            _ => Registers::default(),
        }
    }
}

/// Numbers of system calls: `asm/unistd_64.h` of x86, `asm-generic/unistd.h` of aarch64.
#[cfg(bpf_target_arch = "x86_64")]
pub mod number {
    pub const MMAP: u64 = 9;
    pub const MPROTECT: u64 = 10;
    pub const MUNMAP: u64 = 11;
    pub const BRK: u64 = 12;
    pub const MREMAP: u64 = 25;
    pub const MADVISE: u64 = 28;
}

/// The same.
#[cfg(bpf_target_arch = "aarch64")]
pub mod number {
    pub const BRK: u64 = 214;
    pub const MUNMAP: u64 = 215;
    pub const MREMAP: u64 = 216;
    pub const MMAP: u64 = 222;
    pub const MPROTECT: u64 = 226;
    pub const MADVISE: u64 = 233;
}
