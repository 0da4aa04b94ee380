//! Kinds of recorded events: one vocabulary for the BPF programs and the preloaded recorder.

/// What happened, in an event of a recorder. `addr` and `size` are fields of
/// [`RawEvent`](crate::RawEvent) and of a slot of the preloaded recorder's ring.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u16)]
pub enum RecordKind {
    /// malloc or one of the calls with an alignment returned `addr` for `size` bytes.
    Alloc = 1,
    /// The same, from calloc.
    Calloc = 2,
    /// `addr` was given to free, or to a realloc to no bytes.
    Free = 3,
    /// `addr` was passed to realloc: [`Self::Reallocated`] or [`Self::Kept`] of the same thread follows.
    Realloc = 4,
    /// realloc returned `addr` for `size` bytes.
    Reallocated = 5,
    /// The realloc of `addr` failed: the block lives on.
    Kept = 6,
    /// The thread ended, unless more of its events follow.
    ThreadEnd = 7,
    /// A program began in this process: the first one, or another by exec. From the preloaded
    /// recorder `addr` is the pid of the parent process.
    Start = 8,
    /// The thread is about to fork; `size` says which of its forks this is.
    Forking = 9,
    /// The first event of a forked child; `addr` is the parent's thread in the upper half and its
    /// process in the lower, `size` that of the parent's [`Self::Forking`].
    Forked = 10,
    /// The program ended.
    Exit = 11,
    /// There was no room for `size` events before this one.
    Lost = 12,
    /// The program is about to end: its thread waits to be [let
    /// go](crate::ring::ReaderPage::answers), so that the process can be sampled in its last state.
    Ending = 13,
    /// The thread ends its process by `_exit`, unless a child that shares its memory (`vfork`) writes that in its name.
    Leaving = 14,
    /// Python's object allocator returned `addr` for `size` bytes.
    ObjectAlloc = 15,
    /// The same, cleared.
    ObjectCalloc = 16,
    /// `addr` was given back to Python's object allocator.
    ObjectFree = 17,
    /// Python's object allocator has resized `addr`: [`Self::ObjectReallocated`] of the same thread follows.
    ObjectRealloc = 18,
    /// To `addr`, with `size` bytes.
    ObjectReallocated = 19,
    /// `malloc_trim` has returned, which was asked to leave `size` bytes at the top.
    Trimmed = 20,
}

impl RecordKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 20] = [
        Self::Alloc,
        Self::Calloc,
        Self::Free,
        Self::Realloc,
        Self::Reallocated,
        Self::Kept,
        Self::ThreadEnd,
        Self::Start,
        Self::Forking,
        Self::Forked,
        Self::Exit,
        Self::Lost,
        Self::Ending,
        Self::Leaving,
        Self::ObjectAlloc,
        Self::ObjectCalloc,
        Self::ObjectFree,
        Self::ObjectRealloc,
        Self::ObjectReallocated,
        Self::Trimmed,
    ];

    /// The kind of this number, if there is one.
    pub fn of(number: u64) -> Option<Self> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        Self::ALL.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_number_and_no_other_number_a_kind() {
        for kind in RecordKind::ALL {
            assert_eq!(RecordKind::of(kind as u64), Some(kind));
        }
        for number in [0, RecordKind::ALL.len() as u64 + 1, u64::MAX] {
            assert_eq!(RecordKind::of(number), None);
        }
    }
}
