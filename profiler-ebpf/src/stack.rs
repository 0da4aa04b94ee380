//! Samples: an allocation with the stack of Python's functions that made it, and the top of the native stack.
//!
//! A thread's frames are read from the interpreter's own structures, where userspace says that they are.
//! All of it is the target's memory and may be anything: each chain is followed for a bounded number of
//! steps, and ends where it cannot be read.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE};
use aya_ebpf::helpers::generated::bpf_probe_read_user as read_user;
use aya_ebpf::helpers::{
    bpf_get_current_task, bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_probe_read_kernel,
    bpf_probe_read_user,
};
use profiler_common::{PAGE_BYTES, RawEvent};
use profiler_common::growth::GrowthKind;
use profiler_common::sampling::{
    CODE_TAGS, FrameKind, MAX_FRAMES, NativeCopy, PythonFrames, RawFrame, RawNative, RawStack,
    Registers, STACK_PAGES, SamplingCounter, StackEnd, is_near, may_be_sampled,
};

use crate::{call, maps};

/// How many threads are checked to find one that userspace has not listed. New ones come first in
/// the interpreter's own list.
const NEW_THREADS: usize = 32;

/// Puts an allocation into the ring with its stack, if it is part of the sample.
#[inline(always)]
pub fn sample(tid: u32, block: u64, size: u64, flags: u16, registers: impl Fn() -> Registers) {
    let Some(config) = maps::CONFIG.get(0) else {
        return;
    };
    let mean_bytes = config.mean_bytes;
    if mean_bytes == 0 {
        return;
    }
    // SAFETY: the helper takes nothing.
    let random = unsafe { bpf_get_prandom_u32() };
    if may_be_sampled(random, size, mean_bytes) {
        take(&Taken {
            taker: Taker::allocation(tid, flags),
            addr: block,
            size,
            mean_bytes,
            random: random.into(),
            registers: registers(),
        });
    }
}

/// A candidate for the sample.
#[repr(C)]
pub struct Taken {
    pub taker: Taker,
    pub addr: u64,
    pub size: u64,
    pub mean_bytes: u64,
    pub random: u64,
    pub registers: Registers,
}

/// The sampled quantity and the thread, in one word.
#[derive(Copy, Clone)]
#[repr(transparent)]
pub struct Taker(u64);

impl Taker {
    #[inline(always)]
    fn allocation(tid: u32, flags: u16) -> Self {
        Self(u64::from(RawStack::KIND) << 48 | u64::from(flags) << 32 | u64::from(tid))
    }

    /// Growth of this kind.
    #[inline(always)]
    pub fn growth(kind: GrowthKind, tid: u32) -> Self {
        Self((kind as u64) << 48 | u64::from(tid))
    }

    #[inline(always)]
    fn is_of_growth(self) -> bool {
        (self.0 >> 48) as u16 != RawStack::KIND
    }

    #[inline(always)]
    fn tid(self) -> u32 {
        self.0 as u32
    }
}

/// A separate function in the object too, so that all its callers share the verifier's work and the
/// stack's 512 bytes.
#[inline(never)]
pub fn take(taken: &Taken) -> u32 {
    if !is_near(taken.random as u32, taken.size, taken.mean_bytes) {
        return 0;
    }
    // SAFETY: the helper takes nothing.
    let began = unsafe { bpf_ktime_get_ns() };
    count(SamplingCounter::Taken, 1);
    let native = copy_native(taken, began);
    let Some(mut entry) = maps::EVENTS.reserve::<RawStack>(0) else {
        count(SamplingCounter::Lost, 1);
        return 1;
    };
    let stack = entry.as_mut_ptr();
    let event = RawEvent {
        time_ns: began,
        addr: taken.addr,
        size: taken.size,
        tid: taken.taker.tid(),
        kind: (taken.taker.0 >> 48) as u16,
        flags: (taken.taker.0 >> 32) as u16,
    };
    // SAFETY: the reserved room is of this size and this program's alone.
    unsafe {
        (&raw mut (*stack).event).write(event);
        (&raw mut (*stack).mean_bytes).write(taken.mean_bytes);
        (&raw mut (*stack).native).write(native as u32);
        let (frames, end) = walk((&raw mut (*stack).frames).cast());
        (&raw mut (*stack).count).write(frames);
        (&raw mut (*stack).end).write(end as u32);
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    // SAFETY: the helper takes nothing.
    let ended = unsafe { bpf_ktime_get_ns() };
    count(SamplingCounter::Nanoseconds, ended - began);
    if taken.taker.is_of_growth() {
        count(SamplingCounter::GrowthTaken, 1);
        count(SamplingCounter::GrowthNanoseconds, ended - began);
    }
    0
}

/// Puts the top of the thread's native stack into the ring, if that is wanted. It comes before the
/// sample, so that it is there when the sample is taken in.
#[inline(always)]
fn copy_native(taken: &Taken, began: u64) -> NativeCopy {
    let is_wanted = maps::CONFIG
        .get(0)
        .is_some_and(|config| config.native_stacks != 0);
    if !is_wanted || taken.registers.instruction == 0 {
        return NativeCopy::None;
    }
    // The other half of the ring is for events: no event is lost for a copy.
    let filled = maps::EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
    if filled > maps::EVENTS.query(u64::from(BPF_RB_RING_SIZE)) / 2 {
        return NativeCopy::NoRoom;
    }
    let Some(mut entry) = maps::EVENTS.reserve::<RawNative>(0) else {
        return NativeCopy::NoRoom;
    };
    let native = entry.as_mut_ptr();
    // SAFETY: the reserved room is of this size and this program's alone.
    let pages = unsafe {
        (&raw mut (*native).event).write(RawEvent {
            time_ns: began,
            addr: 0,
            size: 0,
            tid: taken.taker.tid(),
            kind: RawNative::KIND,
            flags: 0,
        });
        (&raw mut (*native).registers).write(taken.registers);
        // An allocation is sampled when its function has returned.
        let (slot, address) = match taken.taker.is_of_growth() {
            true => call::returns_to(taken.taker.tid()),
            false => (0, 0),
        };
        (&raw mut (*native).return_slot).write(slot);
        (&raw mut (*native).return_address).write(address);
        let pages = copy_pages(taken.registers.stack, (&raw mut (*native).bytes).cast());
        (&raw mut (*native).pages).write(pages);
        pages
    };
    if pages == 0 {
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
        return NativeCopy::Unreadable;
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    NativeCopy::Copied
}

/// Copies what is above a stack pointer, up to where a page cannot be read, and gives how many pages were. Each
/// lies in the copy as it does in its page, so that an end of the stack is never within a piece.
///
/// # Safety
/// There is room for [`STACK_PAGES`].
#[inline(always)]
unsafe fn copy_pages(stack_pointer: u64, copy: *mut u8) -> u64 {
    const PAGE: u64 = PAGE_BYTES as u64;
    let above = stack_pointer & (PAGE - 1);
    let first = stack_pointer - above;
    // SAFETY: the room is larger than a page, and the helper checks the address.
    let read = unsafe {
        let to = copy.add(above as usize);
        read_user(to.cast(), (PAGE - above) as u32, stack_pointer as *const _)
    };
    if read != 0 {
        return 0;
    }
    let mut page = 1;
    while page < STACK_PAGES as u64 {
        let offset = page * PAGE;
        // SAFETY: as above.
        let read = unsafe {
            let to = copy.add(offset as usize);
            read_user(to.cast(), PAGE as u32, first.wrapping_add(offset) as *const _)
        };
        if read != 0 {
            break;
        }
        page += 1;
    }
    page
}

/// Adds to one of the sums.
#[inline(always)]
pub fn count(counter: SamplingCounter, by: u64) {
    if let Some(element) = maps::SAMPLING.get_ptr_mut(counter as u32) {
        // SAFETY: the map's element.
        unsafe { maps::add(element, by) };
    }
}

/// Writes the frames of this thread, the innermost first, and gives how many and why no more.
///
/// # Safety
/// There is room for [`MAX_FRAMES`].
#[inline(always)]
unsafe fn walk(frames: *mut RawFrame) -> (u32, StackEnd) {
    let Some(python) = maps::PYTHON.get(0) else {
        return (0, StackEnd::NoPython);
    };
    if python.thread_pointer == 0 {
        return (0, StackEnd::NoPython);
    }
    let Some(state) = thread_state(python) else {
        return (0, StackEnd::NoThreadState);
    };
    let Some(mut frame) = innermost(python, state) else {
        return (0, StackEnd::Unreadable);
    };
    let mut index = 0;
    while index < MAX_FRAMES {
        if frame == 0 {
            return (index as u32, StackEnd::Whole);
        }
        let read = (
            word(frame, python.frame_code),
            word(frame, python.frame_place),
            word(frame, python.frame_previous),
        );
        let (Some(code), Some(place), Some(previous)) = read else {
            return (index as u32, StackEnd::Unreadable);
        };
        let is_own = python.frame_owner != PythonFrames::NONE
            && word(frame, python.frame_owner)
                .is_some_and(|owner| owner as u8 >= python.own_frames as u8);
        let kind = if is_own {
            FrameKind::Skipped
        } else {
            FrameKind::Python
        };
        // SAFETY: the caller has room for it.
        unsafe {
            frames.add(index).write(RawFrame {
                code: code & !CODE_TAGS,
                place: place & python.place_mask,
                kind: kind as u32,
                unused: 0,
            });
        }
        frame = previous;
        index += 1;
    }
    let end = if frame == 0 {
        StackEnd::Whole
    } else {
        StackEnd::Cut
    };
    (MAX_FRAMES as u32, end)
}

/// The innermost frame of a thread; 0 if it runs no Python.
#[inline(always)]
fn innermost(python: &PythonFrames, state: u64) -> Option<u64> {
    let frame = word(state, python.thread_frame)?;
    if python.holder_frame == PythonFrames::NONE || frame == 0 {
        return Some(frame);
    }
    word(frame, python.holder_frame)
}

/// The state that Python keeps of this thread.
#[inline(always)]
fn thread_state(python: &PythonFrames) -> Option<u64> {
    // SAFETY: the helper takes nothing.
    let task = unsafe { bpf_get_current_task() };
    let at = task.wrapping_add(u64::from(python.thread_pointer));
    // SAFETY: the helper checks the address.
    let pointer: u64 = unsafe { bpf_probe_read_kernel(at as *const u64) }.ok()?;
    let id = pointer.wrapping_sub(python.thread_before.into());
    // SAFETY: a map's value, copied at once.
    let listed = unsafe { maps::THREADS.get(id) }.copied();
    if let Some(state) = listed
        && word(state, python.thread_id) == Some(id)
    {
        return Some(state);
    }
    let state = new_thread(python, id)?;
    let _no_room = maps::THREADS.insert(id, state, 0);
    Some(state)
}

/// The same for a thread that is not listed: the one that holds the GIL, or one of the first
/// interpreter's newest.
#[inline(always)]
fn new_thread(python: &PythonFrames, id: u64) -> Option<u64> {
    if python.current != 0
        && let Some(state) = word(python.current, 0)
        && word(state, python.thread_id) == Some(id)
    {
        return Some(state);
    }
    if python.head == 0 {
        return None;
    }
    let mut state = word(python.head, 0)?;
    let mut threads = 0;
    while threads < NEW_THREADS && state != 0 {
        if word(state, python.thread_id)? == id {
            return Some(state);
        }
        state = word(state, python.thread_next)?;
        threads += 1;
    }
    None
}

/// The word of the target at `offset` from `base`.
#[inline(always)]
fn word(base: u64, offset: u32) -> Option<u64> {
    let at = base.wrapping_add(u64::from(offset));
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(at as *const u64) }.ok()
}
