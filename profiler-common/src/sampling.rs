//! Which allocations are sampled, and what a sample contains.
//!
//! Each allocated byte is a sample point with the same small probability, so an allocation of
//! `size` bytes is sampled with the probability `1 - exp(-size / mean)`, independent of earlier
//! ones. This is the sample that exponentially distributed distances in bytes give, redrawn at each
//! allocation, because the exponential distribution is memoryless. So no state is kept between
//! allocations that a thread could lose when it moves to another CPU.

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{PAGE_BYTES, RawEvent};

/// Frames of one stack at the most.
pub const MAX_FRAMES: usize = 128;

/// The largest mean distance between points of the sample, in bytes.
pub const MAX_MEAN_BYTES: u64 = 1 << 26;

/// An allocation of this many mean distances is always sampled: the probability to miss it would be
/// 10^-14.
const CERTAIN: u64 = 32;
/// Binary digits of the logarithm.
const DIGITS: u32 = 30;
/// The natural logarithm of 2, with [`DIGITS`] binary digits.
const LN_2: u64 = 744_261_118;

/// Whether an allocation of `size` bytes is taken into a sample with `mean` bytes between its points,
/// up to [`MAX_MEAN_BYTES`]. `random` is equally distributed over all its values.
#[inline(always)]
pub fn is_sampled(random: u32, size: u64, mean: u64) -> bool {
    may_be_sampled(random, size, mean) && is_near(random, size, mean)
}

/// Whether [`is_near`] is to be asked; nearly always not, which takes no logarithm to know.
#[inline(always)]
pub fn may_be_sampled(random: u32, size: u64, mean: u64) -> bool {
    if size == 0 || mean == 0 || mean > MAX_MEAN_BYTES {
        return false;
    }
    // With u the share that `draw` is of 2^32, the distance to the next point is -ln(u) · mean, which is
    // no less than (1 - u) · mean.
    size >= CERTAIN * mean || ((1 << 32) - draw(random)) * mean < size << 32
}

/// Whether the distance to the next point, as `random` gives it, is less than `size`, where it may be.
#[inline(always)]
pub fn is_near(random: u32, size: u64, mean: u64) -> bool {
    if size >= CERTAIN * mean {
        return true;
    }
    let distance = (32 << DIGITS) - log2(draw(random));
    // Neither product overflows: the distance is at most 2^35, a quarter of it times less than 2^30 at
    // most 2^63, and 2^35 times the mean at most 2^61.
    let nats = ((distance >> 2) * LN_2) >> (DIGITS - 2);
    (nats * mean) >> DIGITS < size
}

/// A number from 1 to 2^32.
#[inline(always)]
fn draw(random: u32) -> u64 {
    random as u64 + 1
}

/// The logarithm to base 2 of a number from 1 to 2^32, with [`DIGITS`] binary digits. Without branches,
/// of which the kernel's verifier would follow every combination.
#[inline(always)]
fn log2(number: u64) -> u64 {
    let mut whole = 0;
    let mut rest = number;
    let mut half = 32;
    while half > 0 {
        // As many places as half, or none where nothing is above them.
        let places = (0u64.wrapping_sub(rest >> half) >> 63) * half;
        rest >>= places;
        whole += places;
        half /= 2;
    }
    // The number over its highest power of two, from 1 to 2, with 31 binary digits.
    let mut part = (number << (32 - whole)) >> 1;
    let mut result = whole;
    let mut digit = 0;
    while digit < DIGITS {
        part = (part * part) >> 31;
        let two = part >> 32;
        part >>= two;
        result = (result << 1) | two;
        digit += 1;
    }
    result
}

/// What a frame of a stack is: a number in [`RawFrame::kind`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum FrameKind {
    /// None: a frame of the interpreter's own, between two runs of its loop.
    Skipped = 0,
    /// A Python function: `code` is its code object, `place` where it is in that.
    Python = 1,
}

/// One frame of a stack, as it was found in the thread's own structures.
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct RawFrame {
    /// What is executed, by [`Self::kind`].
    pub code: u64,
    /// Where in it, by [`Self::kind`]: for Python what `f_lasti`, `prev_instr` or `instr_ptr` holds.
    pub place: u64,
    /// The number of a [`FrameKind`].
    pub kind: u32,
    /// 0.
    pub unused: u32,
}

/// Why a stack ends where it does: a number in [`RawStack::end`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum StackEnd {
    /// It is whole.
    Whole = 0,
    /// It has more than [`MAX_FRAMES`].
    Cut = 1,
    /// What follows could not be read.
    Unreadable = 2,
    /// The thread has no state in Python, or none that was found.
    NoThreadState = 3,
    /// How Python keeps its frames is not known.
    NoPython = 4,
}

impl StackEnd {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Whole,
        Self::Cut,
        Self::Unreadable,
        Self::NoThreadState,
        Self::NoPython,
    ];
}

/// A sampled allocation with its stack, the innermost frame first.
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[derive(Copy, Clone, Debug)]
#[repr(C)]
pub struct RawStack {
    /// The allocation once more, of the kind [`Self::KIND`].
    pub event: RawEvent,
    /// Mean bytes between two points of the sample it is one of.
    pub mean_bytes: u64,
    /// How many of `frames` are of this stack; what the others hold means nothing.
    pub count: u32,
    /// The number of a [`StackEnd`].
    pub end: u32,
    /// The number of a [`NativeCopy`].
    pub native: u32,
    /// 0.
    pub unused: u32,
    /// The frames.
    pub frames: [RawFrame; MAX_FRAMES],
}

/// What there is of the thread's native stack: a number in [`RawStack::native`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum NativeCopy {
    /// None was to be copied, or the thread's registers are not known here.
    None = 0,
    /// A [`RawNative`] of the same thread and time came before.
    Copied = 1,
    /// The ring buffer was too full for one.
    NoRoom = 2,
    /// The stack could not be read.
    Unreadable = 3,
}

impl NativeCopy {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::None, Self::Copied, Self::NoRoom, Self::Unreadable];
}

/// Pages of a thread's stack that are copied at the most: the one that its stack pointer is on, and those above.
pub const STACK_PAGES: usize = 4;

/// The top of a thread's native stack, of which its functions can be found: it comes before the [`RawStack`] of
/// the same thread and time.
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[derive(Copy, Clone, Debug)]
#[repr(C)]
pub struct RawNative {
    /// Its thread and its time, of the kind [`Self::KIND`].
    pub event: RawEvent,
    /// Where the thread was.
    pub registers: Registers,
    /// Where the probed function that it is inside of has its return address, and that address: the kernel puts one of
    /// its own in its place while the return is probed. 0 where none is known.
    pub return_slot: u64,
    /// See `return_slot`.
    pub return_address: u64,
    /// How many of the pages are of this stack; what the others hold means nothing, nor what is below the stack
    /// pointer.
    pub pages: u64,
    /// The pages from that of the stack pointer on.
    pub bytes: [u8; STACK_PAGES * PAGE_BYTES],
}

impl RawNative {
    /// What the event's kind is: none of a [`RecordKind`](crate::RecordKind)'s numbers.
    pub const KIND: u16 = 104;
}

/// The registers of a thread that its callers can be found by.
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Registers {
    /// The next instruction; 0 when the registers are not known.
    pub instruction: u64,
    /// `rsp`, `sp`.
    pub stack: u64,
    /// `rbp`, `x29`.
    pub frame: u64,
    /// The return address, where it is in a register and not known to be lost (`x30` of aarch64); else 0.
    pub link: u64,
}

impl RawStack {
    /// What the event's kind is: none of a [`RecordKind`](crate::RecordKind)'s numbers, so that nobody
    /// takes a sample for an event.
    pub const KIND: u16 = 100;
}

/// Where a CPython keeps its threads and their frames, the one element of the map `PYTHON`. Offsets
/// are in bytes.
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct PythonFrames {
    /// Where the first interpreter has the address of its newest thread's state; 0 when not known.
    pub head: u64,
    /// Where Python has the address of the state of the thread that holds the GIL; 0 when not known.
    pub current: u64,
    /// The bits of the word at `frame_place` that count.
    pub place_mask: u64,
    /// In a thread's state: the next one.
    pub thread_next: u32,
    /// In a thread's state: what `pthread_self` gives there.
    pub thread_id: u32,
    /// In a thread's state: its innermost frame, or what holds it.
    pub thread_frame: u32,
    /// In what holds the innermost frame: that; [`Self::NONE`] where the state itself has it.
    pub holder_frame: u32,
    /// In a frame: the code object.
    pub frame_code: u32,
    /// In a frame: the one that called it.
    pub frame_previous: u32,
    /// In a frame: where it is in its code.
    pub frame_place: u32,
    /// In a frame: a byte that says whose it is; [`Self::NONE`] where there is none.
    pub frame_owner: u32,
    /// The least value of that byte in frames of the interpreter's own.
    pub own_frames: u32,
    /// In the kernel's `task_struct`: the thread pointer; 0 when Python's frames are not known.
    pub thread_pointer: u32,
    /// How many bytes before the thread pointer that is what `pthread_self` gives: none on x86-64, and what the C library
    /// keeps of a thread on aarch64.
    pub thread_before: u32,
    /// Nothing.
    pub unused: u32,
}

/// Bits of a frame's reference to its code that are not of the address: since 3.14 they say whether the frame counts
/// among those who refer to it (`Include/internal/pycore_stackref.h`).
pub const CODE_TAGS: u64 = 3;

impl PythonFrames {
    /// There is no such field.
    pub const NONE: u32 = u32::MAX;
}

/// Elements of the per-CPU map `SAMPLING`.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum SamplingCounter {
    /// Samples taken.
    Taken = 0,
    /// Samples for which the ring had no room.
    Lost = 1,
    /// Nanoseconds that taking them took.
    Nanoseconds = 2,
    /// Bytes that the target got from the kernel ([`GrowthKind::Grown`](crate::growth::GrowthKind)).
    GrownBytes = 3,
    /// Bytes that it gave back.
    ReturnedBytes = 4,
    /// Bytes of pages that it touched first.
    TouchedBytes = 5,
    /// System calls and page faults of the target's, whether they are of those or not.
    GrowthEvents = 6,
    /// Of the samples taken those of growth.
    GrowthTaken = 7,
    /// Nanoseconds that taking those took.
    GrowthNanoseconds = 8,
}

impl SamplingCounter {
    /// How many there are.
    pub const COUNT: u32 = 9;
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    /// The probability with which an allocation is taken: exactly, as `is_sampled` holds for all
    /// numbers from some one on.
    fn probability(size: u64, mean: u64) -> f64 {
        let (mut low, mut high) = (0u64, 1 << 32);
        while low < high {
            let middle = (low + high) / 2;
            match is_sampled(middle as u32, size, mean) {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        ((1u64 << 32) - low) as f64 / 4_294_967_296.0
    }

    #[test]
    fn an_allocation_is_taken_as_often_as_exponential_distances_take_it() {
        for mean in [1, 100, 4096, 512 << 10, MAX_MEAN_BYTES] {
            for size in [1, 16, 24, 1000, 4096, 100_000, 1 << 20, 1 << 24, 1 << 30] {
                let expected = -(-(size as f64) / mean as f64).exp_m1();
                let found = probability(size, mean);
                // A draw has 32 binary digits, and so has the logarithm, nearly.
                let error = (found - expected).abs();
                assert!(error < 3e-9, "{size} of {mean}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn nothing_is_taken_of_nothing() {
        for random in [0, 1, u32::MAX] {
            assert!(!is_sampled(random, 0, 512));
            assert!(!is_sampled(random, 512, 0));
            assert!(is_sampled(random, u64::MAX, 512));
            assert!(!is_sampled(random, u64::MAX, MAX_MEAN_BYTES + 1));
        }
    }

    #[test]
    fn the_numbers_are_those_of_the_enumerations() {
        for (number, end) in StackEnd::ALL.into_iter().enumerate() {
            assert_eq!(end as usize, number);
        }
        assert_eq!(
            SamplingCounter::GrowthNanoseconds as u32 + 1,
            SamplingCounter::COUNT
        );
        assert_eq!(
            size_of::<RawStack>(),
            size_of::<RawEvent>() + 24 + MAX_FRAMES * 24
        );
        for (number, copy) in NativeCopy::ALL.into_iter().enumerate() {
            assert_eq!(copy as usize, number);
        }
        assert_eq!(
            size_of::<RawNative>(),
            size_of::<RawEvent>() + size_of::<Registers>() + 24 + STACK_PAGES * PAGE_BYTES
        );
    }
}
