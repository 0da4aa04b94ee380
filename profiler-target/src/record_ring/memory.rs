//! The memory of a ring and of its reader's page, as mapped by fragscope.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::fcntl::{FcntlArg, SealFlag, fcntl, posix_fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use profiler_common::ring::{Header, ReaderPage, SLOTS, SLOTS_AT, Slot, Turn};

/// `F_SEAL_FUTURE_WRITE` (`include/uapi/linux/fcntl.h`, since 5.1): existing mappings can still
/// write, new ones cannot.
pub(super) const NOBODY_ELSE_WRITES: SealFlag = SealFlag::from_bits_retain(0x0010);

/// Creates an in-memory file of `bytes` bytes that begins with `magic`, maps it, and seals it.
pub(super) fn shared(
    name: &CStr,
    bytes: usize,
    magic: u64,
    seals: SealFlag,
) -> io::Result<(File, Arc<Memory>)> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(name, flags)?);
    // Allocates all of it now. Otherwise the first writer of a page is charged for it: the recorded
    // program, possibly in a control group with its own limit. Lack of memory is also noticed here,
    // before anything begins.
    posix_fallocate(&file, 0, bytes as libc::off_t)?;
    file.write_all_at(&magic.to_ne_bytes(), 0)?;
    let memory = Arc::new(Memory::of(&file, bytes)?);
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok((file, memory))
}

/// The mapping.
#[derive(Debug)]
pub(super) struct Memory {
    at: NonNull<libc::c_void>,
    bytes: usize,
}

// SAFETY: after its creation everything read and written through it is atomic.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn of(file: &File, bytes: usize) -> io::Result<Self> {
        let len = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping, placed by the kernel.
        let at = unsafe {
            mmap(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                file,
                0,
            )
        }?;
        Ok(Self { at, bytes })
    }

    pub(super) fn header(&self) -> &Header {
        // SAFETY: the mapping contains a header and lives as long as self; fields written by others
        // are atomics.
        unsafe { self.at.cast().as_ref() }
    }

    pub(super) fn reader_page(&self) -> &ReaderPage {
        // SAFETY: the mapping contains a reader's page and lives as long as self; fields read by
        // others are atomics.
        unsafe { self.at.cast().as_ref() }
    }

    pub(super) fn slot(&self, number: u64) -> &Slot {
        let index = (number % SLOTS) as usize;
        // SAFETY: the mapping holds all slots behind the header, and the index is below their
        // number.
        let slot = unsafe { self.at.byte_add(SLOTS_AT + index * size_of::<Slot>()) };
        // SAFETY: as above; a slot has only atomics.
        unsafe { slot.cast().as_ref() }
    }

    /// Whose turn the slot of this event is.
    pub(super) fn turn(&self, number: u64) -> Turn {
        Turn(self.slot(number).turn.load(Ordering::Acquire))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping made above, to which no reference is left.
        let unmapped = unsafe { munmap(self.at, self.bytes) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
