//! Growth: memory that the target requests from the kernel, returns, and touches for the first
//! time, each with its size and, if sampled, its stack.
//!
//! The programs run at the system calls and page faults of every process of the host, and return at
//! once for processes other than the target.

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_prandom_u32};
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::growth::GrowthKind;
use profiler_common::sampling::{SamplingCounter, may_be_sampled};
use profiler_common::PAGE_BYTES;

use crate::registers::Kept;
use crate::registers::number::{BRK, MADVISE, MMAP, MPROTECT, MREMAP, MUNMAP};
use crate::{maps, stack};

/// The smallest page size. Sizes are rounded up to it, also on kernels with larger pages.
const PAGE: u64 = PAGE_BYTES as u64;
/// `PROT_NONE` and `PROT_WRITE`, `MAP_PRIVATE`, `MAP_FIXED` and `MAP_ANONYMOUS` (mman.h).
const NO_ACCESS: u64 = 0;
const WRITE: u64 = 2;
const PRIVATE: u64 = 2;
const FIXED: u64 = 0x10;
const ANONYMOUS: u64 = 0x20;
/// `MADV_DONTNEED` and `MADV_FREE`.
const DONT_NEED: u64 = 4;
const FREE: u64 = 8;
/// The bits of a page fault's error code (`asm/trap_pf.h`): the page is present, and it was a write.
const FAULT_PRESENT: u64 = 1;
const FAULT_WRITE: u64 = 2;
/// The highest number of an error (`MAX_ERRNO`).
const MAX_ERRNO: u64 = 4095;

/// The thread, and the mean distance between sampling points, if it is the target's.
#[inline(always)]
fn watched() -> Option<(u32, u64)> {
    let config = maps::CONFIG.get(0)?;
    let id = bpf_get_current_pid_tgid();
    // Without a number to tell the target by, no process counts.
    let is_target = config.tgid != 0 && config.tgid == (id >> 32) as u32;
    (is_target && config.growth_mean_bytes != 0).then_some((id as u32, config.growth_mean_bytes))
}

/// A system call of the target's ended.
#[inline(always)]
pub fn called(context: &RawTracePointContext) {
    let Some((thread, mean_bytes)) = watched() else { return };
    // All the target's calls pass here, and that costs it something.
    stack::count(SamplingCounter::GrowthEvents, 1);
    let (registers, result): (*const pt_regs, u64) = (context.arg(0), context.arg(1));
    let registers = Kept(registers);
    if result >= 0u64.wrapping_sub(MAX_ERRNO) {
        return;
    }
    let Some((kind, addr, bytes)) = grown(registers, result) else { return };
    record(thread, mean_bytes, kind, addr, bytes, registers);
}

/// What a successful call has got or returned, where, and how much.
#[inline(always)]
fn grown(registers: Kept, result: u64) -> Option<(GrowthKind, u64, u64)> {
    use GrowthKind::{Grown, Returned};
    let number = registers.number()?;
    if !matches!(number, MMAP | MPROTECT | MUNMAP | BRK | MREMAP | MADVISE) {
        return None;
    }
    if number == BRK {
        return moved_break(result);
    }
    let [first, second, third, flags] = registers.arguments()?;
    let is_own = flags & ANONYMOUS != 0 && flags & PRIVATE != 0;
    match number {
        MMAP if is_own && third & WRITE != 0 => Some((Grown, result, second)),
        // glibc takes the end of a heap back in this way.
        MMAP if is_own && third == NO_ACCESS && flags & FIXED != 0 => {
            Some((Returned, result, second))
        }
        MUNMAP => Some((Returned, first, second)),
        // Memory that was reserved becomes usable.
        MPROTECT if third & WRITE != 0 => Some((Grown, first, second)),
        MADVISE if third == DONT_NEED || third == FREE => Some((Returned, first, second)),
        MREMAP if third > second => Some((Grown, result.wrapping_add(second), third - second)),
        MREMAP if third < second => Some((Returned, result.wrapping_add(third), second - third)),
        _ => None,
    }
}

/// What `brk` has done, which gives the end of the heap.
#[inline(always)]
fn moved_break(result: u64) -> Option<(GrowthKind, u64, u64)> {
    let end = maps::HEAP_END.get_ptr_mut(0)?;
    // SAFETY: the map's element, which other threads may write meanwhile.
    let before = unsafe { end.read_volatile() };
    // SAFETY: as above.
    unsafe { end.write_volatile(result) };
    if before == 0 || before == result {
        return None;
    }
    match result > before {
        true => Some((GrowthKind::Grown, before, result - before)),
        false => Some((GrowthKind::Returned, result, before - result)),
    }
}

/// A page fault, by the target or by the kernel on its behalf.
#[inline(always)]
pub fn faulted(context: &RawTracePointContext) {
    let Some((thread, mean_bytes)) = watched() else { return };
    stack::count(SamplingCounter::GrowthEvents, 1);
    let (addr, code): (u64, u64) = (context.arg(0), context.arg(2));
    // The kernel's own addresses have the highest bit set. Pages that are read or mapped from a
    // file are not present either, but are not written to.
    if addr >> 63 == 0 && code & FAULT_PRESENT == 0 && code & FAULT_WRITE != 0 {
        record(thread, mean_bytes, GrowthKind::Touched, addr, PAGE, Kept(context.arg(1)));
    }
}

#[inline(always)]
fn record(
    thread: u32,
    mean_bytes: u64,
    kind: GrowthKind,
    addr: u64,
    bytes: u64,
    registers: Kept,
) {
    let bytes = bytes.wrapping_add(PAGE - 1) & !(PAGE - 1);
    stack::count(kind.counter(), bytes);
    // SAFETY: the helper takes nothing.
    let random = unsafe { bpf_get_prandom_u32() };
    if may_be_sampled(random, bytes, mean_bytes) {
        stack::take(&stack::Taken {
            taker: stack::Taker::growth(kind, thread),
            addr,
            size: bytes,
            mean_bytes,
            random: random.into(),
            registers: registers.place(),
        });
    }
}
