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

/// The most frames of one stack.
pub const MAX_FRAMES: usize = 128;

/// The largest mean distance between points of the sample, in bytes.
pub const MAX_MEAN_BYTES: u64 = 1 << 26;

/// An allocation of this many mean distances is always sampled: the probability to miss it would be 10^-14.
const CERTAIN: u64 = 32;
/// Binary digits of the logarithm.
const DIGITS: u32 = 30;
/// The natural logarithm of 2, with [`DIGITS`] binary digits.
const LN_2: u64 = 744_261_118;

/// Whether an allocation of `size` bytes is taken into a sample with `mean` bytes between its
/// points, up to [`MAX_MEAN_BYTES`]. `random` must be uniformly distributed over all its values.
#[inline(always)]
pub fn is_sampled(random: u32, size: u64, mean: u64) -> bool {
    may_be_sampled(random, size, mean) && is_near(random, size, mean)
}

/// Whether [`is_near`] must be called; nearly always not, which needs no logarithm.
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
    // Neither product overflows: the distance is at most 2^35, a quarter of it times less than 2^30
    // is at most 2^63, and 2^35 times the mean is at most 2^61.
    let nats = ((distance >> 2) * LN_2) >> (DIGITS - 2);
    (nats * mean) >> DIGITS < size
}

/// A number from 1 to 2^32.
#[inline(always)]
fn draw(random: u32) -> u64 {
    random as u64 + 1
}

/// The base-2 logarithm of a number from 1 to 2^32, with [`DIGITS`] binary digits. Without
/// branches, because the kernel's verifier would follow every combination of them.
#[inline(always)]
fn log2(number: u64) -> u64 {
    let mut whole = 0;
    let mut rest = number;
    let mut half = 32;
    while half > 0 {
        // Shift by `half` places if a bit above them is set, else by none.
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

/// The kind of a stack frame: a number in [`RawFrame::kind`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum FrameKind {
    /// No function: a frame of the interpreter's own, between two runs of its loop.
    Skipped = 0,
    /// A Python function: `code` is its code object, `place` the position in it.
    Python = 1,
}

/// One frame of a stack, as found in the thread's own structures.
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct RawFrame {
    /// The executed code, depending on [`Self::kind`].
    pub code: u64,
    /// The position in it, depending on [`Self::kind`]: for Python the value of `f_lasti`, `prev_instr` or `instr_ptr`.
    pub place: u64,
    /// The number of a [`FrameKind`].
    pub kind: u32,
    /// 0.
    pub unused: u32,
}

/// Why a stack ends: a number in [`RawStack::end`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum StackEnd {
    /// It is complete.
    Whole = 0,
    /// It has more than [`MAX_FRAMES`].
    Cut = 1,
    /// What follows could not be read.
    Unreadable = 2,
    /// The thread has no state in Python, or none that was found.
    NoThreadState = 3,
    /// Python's frame layout is unknown.
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
    /// Mean bytes between two points of the sample to which it belongs.
    pub mean_bytes: u64,
    /// How many of `frames` belong to this stack; the content of the others is meaningless.
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

/// What is available of the thread's native stack: a number in [`RawStack::native`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum NativeCopy {
    /// No copy was wanted, or the thread's registers are not known here.
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

/// The most pages of a thread's stack that are copied: the one of its stack pointer, and those above.
pub const STACK_PAGES: usize = 4;

/// The top of a thread's native stack, from which its functions can be found: it comes before the
/// [`RawStack`] of the same thread and time.
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[derive(Copy, Clone, Debug)]
#[repr(C)]
pub struct RawNative {
    /// Its thread and its time, of the kind [`Self::KIND`].
    pub event: RawEvent,
    /// The thread's registers.
    pub registers: Registers,
    /// Where the probed function that the thread is in has its return address, and that address:
    /// the kernel replaces it with one of its own while the return is probed. 0 if none is known.
    pub return_slot: u64,
    /// See `return_slot`.
    pub return_address: u64,
    /// How many of the pages belong to this stack; the content of the others is meaningless, and so
    /// is what is below the stack pointer.
    pub pages: u64,
    /// The pages from the stack pointer's page on.
    pub bytes: [u8; STACK_PAGES * PAGE_BYTES],
}

impl RawNative {
    /// The kind of the event: none of a [`RecordKind`](crate::RecordKind)'s numbers.
    pub const KIND: u16 = 104;
}

/// The registers of a thread from which its callers can be found.
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
    /// The return address, if it is in a register and not known to be lost (`x30` on aarch64); else 0.
    pub link: u64,
}

impl RawStack {
    /// The kind of the event: none of a [`RecordKind`](crate::RecordKind)'s numbers, so that a
    /// sample is never mistaken for an event.
    pub const KIND: u16 = 100;
}

/// Where a CPython keeps its threads and their frames, the only element of the map `PYTHON`.
/// Offsets are in bytes.
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct PythonFrames {
    /// Where the first interpreter has the address of its newest thread's state; 0 if unknown.
    pub head: u64,
    /// Where Python has the address of the state of the thread that holds the GIL; 0 if unknown.
    pub current: u64,
    /// The bits of the word at `frame_place` that count.
    pub place_mask: u64,
    /// In a thread's state: the next one.
    pub thread_next: u32,
    /// In a thread's state: what `pthread_self` gives there.
    pub thread_id: u32,
    /// In a thread's state: its innermost frame, or the structure that holds it.
    pub thread_frame: u32,
    /// In the structure that holds the innermost frame: that frame; [`Self::NONE`] if the state itself has it.
    pub holder_frame: u32,
    /// In a frame: the code object.
    pub frame_code: u32,
    /// In a frame: its caller.
    pub frame_previous: u32,
    /// In a frame: the position in its code.
    pub frame_place: u32,
    /// In a frame: a byte that gives its owner; [`Self::NONE`] if there is none.
    pub frame_owner: u32,
    /// The least value of that byte in frames of the interpreter's own.
    pub own_frames: u32,
    /// In the kernel's `task_struct`: the thread pointer; 0 when Python's frames are not known.
    pub thread_pointer: u32,
    /// How many bytes before the thread pointer the value of `pthread_self` is: none on x86-64, and
    /// the size of the C library's thread structure on aarch64.
    pub thread_before: u32,
    /// Nothing.
    pub unused: u32,
}

/// Bits of a frame's reference to its code that do not belong to the address: since 3.14 they say
/// whether the frame counts as one of its references (`Include/internal/pycore_stackref.h`).
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
    /// Samples lost for lack of room in the ring.
    Lost = 1,
    /// Nanoseconds that taking them took.
    Nanoseconds = 2,
    /// Bytes that the target got from the kernel ([`GrowthKind::Grown`](crate::growth::GrowthKind)).
    GrownBytes = 3,
    /// Bytes that it returned.
    ReturnedBytes = 4,
    /// Bytes of pages that it touched for the first time.
    TouchedBytes = 5,
    /// System calls and page faults of the target's, whether they are of those or not.
    GrowthEvents = 6,
    /// The samples of growth among those taken.
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

    /// The exact probability with which an allocation is taken: `is_sampled` is true for all
    /// numbers from a certain one on.
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
                // A draw has 32 binary digits, and the logarithm nearly as many.
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
