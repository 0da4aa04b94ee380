//! Writing events into the ring.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use profiler_common::ring::{Header, RING_MAGIC, SLOTS_AT, Slot};

use crate::sys;
use crate::thread;

/// The ring, or null while nothing is told.
static RING: AtomicPtr<Header> = AtomicPtr::new(ptr::null_mut());
/// Its slots, less one.
static MASK: AtomicU64 = AtomicU64::new(0);

/// After so many sleeps of [`NAP_NS`] in which the reader did not move, it is taken for dead.
const PATIENCE: u32 = 2_000;
const NAP_NS: i64 = 1_000_000;
/// So often a writer yields before it sleeps.
const YIELDS: u32 = 64;

/// Maps the ring that the environment names, if it does.
///
/// # Safety
/// The environment is not changed at the same moment: called from the object's constructor.
pub(crate) unsafe fn open() {
    // SAFETY: a constant name with its zero; the constructor runs before other threads do.
    let path = unsafe { sys::getenv(c"FRAGSCOPE_RECORD_RING".as_ptr()) };
    if path.is_null() {
        return;
    }
    // SAFETY: getenv gave a string with its zero.
    let fd = unsafe { sys::open(path, sys::O_RDWR | sys::O_CLOEXEC) };
    if fd < 0 {
        return;
    }
    if let Some(header) = map(fd, SLOTS_AT) {
        // SAFETY: a page of it was mapped, and its file has that page, or reading it would have
        // been refused by the reader, which made it.
        let header = unsafe { &*header };
        let (magic, slots) = (header.magic, header.slots);
        // SAFETY: the mapping made above, of this length.
        unsafe { sys::munmap(ptr::from_ref(header).cast_mut().cast(), SLOTS_AT) };
        if magic == RING_MAGIC && slots.is_power_of_two() && slots <= 1 << 28 {
            let len = SLOTS_AT + slots as usize * size_of::<Slot>();
            if let Some(header) = map(fd, len) {
                MASK.store(slots - 1, Ordering::Relaxed);
                RING.store(header, Ordering::Release);
            }
        }
    }
    // SAFETY: our own descriptor.
    unsafe { sys::close(fd) };
}

fn map(fd: i32, len: usize) -> Option<*mut Header> {
    // SAFETY: a new shared mapping, placed by the kernel.
    let at = unsafe {
        sys::mmap(
            ptr::null_mut(),
            len,
            sys::PROT_READ_WRITE,
            sys::MAP_SHARED,
            fd,
            0,
        )
    };
    (at != usize::MAX as *mut c_void).then_some(at.cast())
}

/// Tells one event. When the ring is full it waits for the reader, so that nothing is lost.
pub(crate) fn tell(kind: u64, addr: u64, size: u64) {
    let header = RING.load(Ordering::Acquire);
    if header.is_null() {
        return;
    }
    // SAFETY: the mapping stays until the process ends; all shared fields are atomic.
    let header = unsafe { &*header };
    if header.closed.load(Ordering::Relaxed) != 0 {
        return;
    }
    let thread = thread::word();
    let mask = MASK.load(Ordering::Relaxed);
    let number = header.head.fetch_add(1, Ordering::Relaxed);
    if number.wrapping_sub(header.tail.load(Ordering::Acquire)) > mask
        && !room(header, number, mask)
    {
        return;
    }
    let index = (number & mask) as usize;
    let at = ptr::from_ref(header).cast::<u8>();
    // SAFETY: the mapping holds all slots, and the index is below their number.
    let slot = unsafe { at.add(SLOTS_AT + index * size_of::<Slot>()) }.cast::<Slot>();
    // SAFETY: as said; its fields are atomic, and the mapping is aligned to a page.
    let slot = unsafe { &*slot };
    slot.time_ns.store(now_ns(), Ordering::Relaxed);
    slot.addr.store(addr, Ordering::Relaxed);
    slot.size.store(size, Ordering::Relaxed);
    slot.thread.store(thread, Ordering::Relaxed);
    slot.kind.store(kind, Ordering::Relaxed);
    slot.turn.store(number + 1, Ordering::Release);
}

/// Waits until the slot is free; gives false when the reader has ended or died.
#[cold]
fn room(header: &Header, number: u64, mask: u64) -> bool {
    let mut beat = header.heartbeat.load(Ordering::Relaxed);
    let mut still = 0;
    for turn in 0u32.. {
        if number.wrapping_sub(header.tail.load(Ordering::Acquire)) <= mask {
            return true;
        }
        if header.closed.load(Ordering::Relaxed) != 0 {
            return false;
        }
        if turn < YIELDS {
            // SAFETY: no arguments.
            unsafe { sys::sched_yield() };
            continue;
        }
        let nap = sys::Timespec {
            seconds: 0,
            nanoseconds: NAP_NS,
        };
        // SAFETY: a time to sleep, and no place for the rest of it.
        unsafe { sys::nanosleep(&nap, ptr::null_mut()) };
        let now = header.heartbeat.load(Ordering::Relaxed);
        still = if now == beat { still + 1 } else { 0 };
        beat = now;
        if still > PATIENCE {
            close(&header.closed);
            return false;
        }
    }
    false
}

fn close(closed: &AtomicU32) {
    closed.store(1, Ordering::Relaxed);
}

fn now_ns() -> u64 {
    let mut time = sys::Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: a place for the answer.
    unsafe { sys::clock_gettime(sys::CLOCK_MONOTONIC, &mut time) };
    time.seconds as u64 * 1_000_000_000 + time.nanoseconds as u64
}
