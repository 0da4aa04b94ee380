//! Which object of the target contains a mimalloc: the one whose writable data holds its secret.

use crate::addr::{AddrRange, RemoteAddr};
use crate::heap::Allocator;
use crate::memory::TargetMemory;
use crate::object::AllocatorObject;
use crate::residency::ResidencyMap;

/// Calls `see` with every word of the resident parts of `data`, until it returns true.
pub(super) fn any_word<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    data: &[AddrRange],
    mut see: impl FnMut(RemoteAddr, u64) -> bool,
) -> bool {
    let mut bytes = Vec::new();
    for range in data {
        for run in residency
            .runs_in(*range)
            .filter(|run| run.state.is_resident())
        {
            bytes.resize(run.range.len() as usize, 0);
            if memory.read(run.range.start(), &mut bytes).is_err() {
                continue;
            }
            let (words, _) = bytes.as_chunks::<8>();
            for (i, word) in (0u64..).zip(words) {
                let at = RemoteAddr::new(run.range.start().get() + 8 * i);
                if see(at, u64::from_le_bytes(*word)) {
                    return true;
                }
            }
        }
    }
    false
}

/// The object whose data holds `secret`.
pub(super) fn of_secret<'a, M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    objects: &'a [AllocatorObject],
    secret: u64,
) -> Option<&'a AllocatorObject> {
    objects
        .iter()
        .filter(|object| object.identity.is(Allocator::Mimalloc))
        .find(|object| any_word(memory, residency, &object.data, |_, word| word == secret))
}
