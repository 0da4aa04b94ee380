//! Events into the ring buffer.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_probe_read_user};
use profiler_common::{Cookie, RawEvent};

use crate::maps;

/// glibc's `mchunk_size` (malloc/malloc.c): bits 0 to 2 are flags, bit 1 says that the chunk has
/// its own mapping.
const SIZE_BITS: u64 = !7;
const IS_MMAPPED: u64 = 2;
const WORD: u64 = 8;

/// Puts one event into the ring, or counts it as lost.
#[inline(always)]
pub fn emit(tid: u32, kind: u16, addr: u64, size: u64, flags: u16) {
    let Some(mut entry) = maps::EVENTS.reserve::<RawEvent>(0) else {
        maps::add_one(&maps::LOST, 0);
        return;
    };
    entry.write(RawEvent {
        // SAFETY: the helper takes nothing.
        time_ns: unsafe { bpf_ktime_get_ns() },
        addr,
        size,
        tid,
        kind,
        flags,
    });
    // Waking the reader on each event would double the target's cost; it polls.
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// Tells that `block` was allocated, with its usable size where the allocator shows it, else as
/// requested.
#[inline(always)]
pub fn allocated(tid: u32, cookie: Cookie, block: u64, requested: u64) {
    tell(tid, RawEvent::ALLOC, cookie, block, requested);
}

/// Tells that `block` lives on, although its free was told.
#[inline(always)]
pub fn kept(tid: u32, cookie: Cookie, block: u64) {
    tell(tid, RawEvent::KEPT, cookie, block, 0);
}

#[inline(always)]
fn tell(tid: u32, kind: u16, cookie: Cookie, block: u64, requested: u64) {
    let usable = if cookie.chunk_header() {
        usable_size(block)
    } else {
        None
    };
    match usable {
        Some(usable) => emit(tid, kind, block, usable, RawEvent::USABLE),
        None => emit(tid, kind, block, requested, 0),
    }
}

/// What glibc's `malloc_usable_size` gives: a chunk's user bytes reach into the next chunk's first
/// word, except where the chunk has its own mapping.
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
