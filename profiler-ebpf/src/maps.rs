//! The maps, under the names by which userspace finds them.

use core::arch::asm;

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray, RingBuf};
use profiler_common::sampling::{PythonFrames, SamplingCounter};
use profiler_common::{Call, Config, MAX_SITES};

/// What userspace says.
#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// The events. Userspace sets the size when it loads the object.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// Hits by site.
#[map]
pub static HITS: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_SITES, 0);

/// Events lost for lack of room in the ring, and how many of them the ring reports.
#[map]
pub static LOST: Array<u64> = Array::with_max_entries(2, 0);

/// The call that each thread is in. A thread that dies there leaves its record behind, so the
/// oldest records are dropped when the map is full.
#[map]
pub static CALLS: LruHashMap<u32, Call> = LruHashMap::with_max_entries(16384, 0);

/// Where the target's Python keeps its threads and their frames.
#[map]
pub static PYTHON: Array<PythonFrames> = Array::with_max_entries(1, 0);

/// The state that Python keeps of a thread, by what `pthread_self` gives there.
#[map]
pub static THREADS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(4096, 0);

/// The counters of sampling, by [`SamplingCounter`].
#[map]
pub static SAMPLING: PerCpuArray<u64> = PerCpuArray::with_max_entries(SamplingCounter::COUNT, 0);

/// Where the heap that `brk` moves ends; 0 while that is unknown. Userspace sets it initially.
#[map]
pub static HEAP_END: Array<u64> = Array::with_max_entries(1, 0);

/// Processes that the kernel's OOM killer ends, by their pids. Only a black box reads them.
#[map]
pub static VICTIMS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Adds one to a map's element.
///
/// # Safety
/// It is valid and aligned, as a map's element is while the program runs.
#[inline(always)]
pub unsafe fn add_one(counter: *mut u64) {
    // SAFETY: the caller vouches for it.
    unsafe { add(counter, 1) };
}

/// Adds to a map's element.
///
/// # Safety
/// As for [`add_one`].
#[inline(always)]
pub unsafe fn add(counter: *mut u64, by: u64) {
    // Atomic, as another thread's hit may come in between, also on this CPU: programs can be
    // preempted. `core` has no such operation for this target.
    // SAFETY: the caller vouches for it.
    unsafe {
        asm!("lock *(u64 *)({counter} + 0) += {by}", counter = in(reg) counter, by = in(reg) by);
    }
}
