//! Writes events into the ring buffer.

use aya_ebpf::bindings::{BPF_RB_NO_WAKEUP, pt_regs};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_probe_read_user};
use profiler_common::{Arguments, Call, Cookie, RawEvent, RecordKind};

use crate::registers::Probed;
use crate::{maps, stack};

/// glibc's `mchunk_size` (malloc/malloc.c): bits 0 to 2 are flags, bit 1 means that the chunk has
/// its own mapping.
const SIZE_BITS: u64 = !7;
const IS_MMAPPED: u64 = 2;
const WORD: u64 = 8;

/// Puts one event into the ring, or counts it as lost.
#[inline(always)]
pub fn emit(tid: u32, kind: RecordKind, addr: u64, size: u64, flags: u16) {
    emit_losses(tid);
    if !put(tid, kind, addr, size, flags)
        && let Some(lost) = maps::LOST.get_ptr_mut(0)
    {
        // SAFETY: the map's element.
        unsafe { maps::add_one(lost) };
    }
}

/// Records in the ring, at this place, that events were lost before.
#[inline(always)]
fn emit_losses(tid: u32) {
    let (Some(lost), Some(known)) = (maps::LOST.get_ptr(0), maps::LOST.get_ptr_mut(1)) else {
        return;
    };
    // SAFETY: the map's element, which other CPUs may write meanwhile.
    let lost = unsafe { lost.read_volatile() };
    // SAFETY: as above.
    let emitted = unsafe { known.read_volatile() };
    // Two CPUs may emit the same: it is a sum, so nothing is counted twice.
    if lost != emitted && put(tid, RecordKind::Lost, 0, lost, 0) {
        // SAFETY: as above.
        unsafe { known.write_volatile(lost) };
    }
}

/// Puts one event into the ring; whether there was room.
#[inline(always)]
fn put(tid: u32, kind: RecordKind, addr: u64, size: u64, flags: u16) -> bool {
    let Some(mut entry) = maps::EVENTS.reserve::<RawEvent>(0) else {
        return false;
    };
    entry.write(RawEvent {
        // SAFETY: the helper takes nothing.
        time_ns: unsafe { bpf_ktime_get_ns() },
        addr,
        size,
        tid,
        kind: kind as u16,
        flags,
    });
    // Waking the reader on each event would double the target's cost; it polls.
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    true
}

/// Records that `block` was allocated by this call, or by one whose entry is not probed, with its
/// usable size if the allocator shows it, else as requested. `at` is the thread's position.
#[inline(always)]
pub fn allocated(tid: u32, cookie: Cookie, block: u64, call: Option<&Call>, at: &pt_regs) {
    let kind = if cookie.has(Arguments::CountSize) {
        RecordKind::Calloc
    } else if takes_old(cookie) && call.is_some_and(|call| call.pointer != 0) {
        RecordKind::Reallocated
    } else {
        RecordKind::Alloc
    };
    let (requested, align) = call.map_or((0, 0), |call| (call.size, call.align as u8));
    let flags = RawEvent::with_align(0, align);
    let (size, flags) = emit_block(tid, kind, cookie, block, requested, flags);
    stack::sample(tid, block, size, flags, || at.place());
}

/// Records that `block` stays alive, although its realloc was recorded.
#[inline(always)]
pub fn kept(tid: u32, cookie: Cookie, block: u64) {
    let _not_sampled = emit_block(tid, RecordKind::Kept, cookie, block, 0, 0);
}

/// Whether the function is given a block to resize.
#[inline(always)]
pub fn takes_old(cookie: Cookie) -> bool {
    cookie.has(Arguments::OldSize) || cookie.has(Arguments::OldCountSize)
}

/// Puts it into the ring, and returns its size and flags there.
#[inline(always)]
fn emit_block(
    tid: u32,
    kind: RecordKind,
    cookie: Cookie,
    block: u64,
    requested: u64,
    flags: u16,
) -> (u64, u16) {
    let usable = if cookie.chunk_header() {
        usable_size(block)
    } else {
        None
    };
    let (size, flags) = match usable {
        Some(usable) => (usable, flags | RawEvent::USABLE),
        None => (requested, flags),
    };
    emit(tid, kind, block, size, flags);
    (size, flags)
}

/// The result of glibc's `malloc_usable_size`: a chunk's user bytes extend into the next chunk's
/// first word, unless the chunk has its own mapping.
#[inline(always)]
fn usable_size(block: u64) -> Option<u64> {
    // SAFETY: the helper checks the address, which is the target's.
    let word = unsafe { bpf_probe_read_user(block.wrapping_sub(WORD) as *const u64) }.ok()?;
    let overhead = if word & IS_MMAPPED != 0 {
        2 * WORD
    } else {
        WORD
    };
    Some((word & SIZE_BITS).saturating_sub(overhead))
}
