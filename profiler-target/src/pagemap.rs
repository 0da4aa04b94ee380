//! The two interfaces of `/proc/PID/pagemap`: its 64-bit entries, and the `PAGEMAP_SCAN` ioctl
//! (`Documentation/admin-guide/mm/pagemap.rst`, `include/uapi/linux/fs.h`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use profiler_core::addr::{AddrRange, PageSize, RemoteAddr, USER_END};
use profiler_core::memory::ReadError;
use zerocopy::FromZeros;

use super::page_size::page_size;

/// Bit 56 of an entry: mapped by this process alone (since 4.2).
const EXCLUSIVE: u64 = 1 << 56;
/// Bit 58: a guard region, which has no page (since 6.15, 0 before).
const GUARD: u64 = 1 << 58;
/// Bit 61: page cache or shared memory.
const FILE: u64 = 1 << 61;
/// Bit 62: swapped, or being migrated.
const SWAPPED: u64 = 1 << 62;
/// Bit 63: present.
const PRESENT: u64 = 1 << 63;
/// Bits 0 to 54: the page frame's number, 0 without `CAP_SYS_ADMIN`.
const FRAME: u64 = (1 << 55) - 1;

/// One page's entry.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Entry(u64);

impl Entry {
    pub(super) fn new(word: u64) -> Self {
        Self(word)
    }

    pub(super) fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// In swap. A guard region has the bit set too, and holds nothing.
    pub(super) fn is_swapped(self) -> bool {
        self.0 & (SWAPPED | GUARD) == SWAPPED
    }

    pub(super) fn is_file(self) -> bool {
        self.0 & FILE != 0
    }

    pub(super) fn is_exclusive(self) -> bool {
        self.0 & EXCLUSIVE != 0
    }

    /// The page frame number, if the kernel shows it.
    pub(super) fn frame(self) -> Option<u64> {
        let frame = self.0 & FRAME;
        (self.is_present() && frame != 0).then_some(frame)
    }
}

/// Entries read by one call: 64 KiB.
const ENTRIES: usize = 8192;

/// `/proc/PID/pagemap`, with the one bounded buffer into which all its entries are read.
pub(super) struct Pagemap {
    file: File,
    words: Vec<u64>,
    page_size: PageSize,
}

impl Pagemap {
    pub(super) fn new(file: File) -> Self {
        let words = vec![0; ENTRIES];
        Self {
            file,
            words,
            page_size: page_size(),
        }
    }

    /// Calls `each` with the entry of every page of `range`, in order.
    pub(super) fn for_each_entry(
        &mut self,
        range: AddrRange,
        mut each: impl FnMut(RemoteAddr, Entry),
    ) -> io::Result<()> {
        let page_bytes = self.page_size.bytes();
        let mut page = range.start().get() / page_bytes;
        let end = range.end().get() / page_bytes;
        while page < end {
            let wanted = ((end - page) as usize).min(ENTRIES);
            let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut self.words[..wanted]);
            let entries = self.file.read_at(bytes, page * 8)? / 8;
            if entries == 0 {
                // Beyond the end of user addresses, or the address space is gone.
                return Ok(());
            }
            for &word in &self.words[..entries] {
                each(RemoteAddr::new(page * page_bytes), Entry(word));
                page += 1;
            }
        }
        Ok(())
    }
}

/// Entries that are looked up at a time.
const FEW: usize = 64;

/// Calls `each` with the entry of every page that overlaps `range`, in order, until it returns an
/// error.
pub(super) fn for_pages(
    pagemap: &File,
    range: AddrRange,
    mut each: impl FnMut(RemoteAddr, Entry) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let page_bytes = page_size().bytes();
    let mut page = range.start().get() / page_bytes;
    let end = range.end().get().div_ceil(page_bytes);
    let mut words = [0_u64; FEW];
    while page < end {
        let at = RemoteAddr::new(page * page_bytes);
        let wanted = ((end - page) as usize).min(FEW);
        let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut words[..wanted]);
        let entries = match pagemap.read_at(bytes, page * 8) {
            // The address space is gone, or the address is none of user space's.
            Ok(read) if read < 8 => {
                return Err(match range.end() <= USER_END {
                    true => ReadError::Gone,
                    false => ReadError::Unmapped(at),
                });
            }
            Ok(read) => read / 8,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
            Err(_) => return Err(ReadError::Failed(at)),
        };
        for &word in &words[..entries] {
            each(RemoteAddr::new(page * page_bytes), Entry(word))?;
            page += 1;
        }
    }
    Ok(())
}

/// `PAGE_IS_FILE`.
pub(super) const SCAN_FILE: u64 = 1 << 2;
/// `PAGE_IS_PRESENT`.
pub(super) const SCAN_PRESENT: u64 = 1 << 3;
/// `PAGE_IS_SWAPPED`.
pub(super) const SCAN_SWAPPED: u64 = 1 << 4;
/// `PAGE_IS_PFNZERO`.
pub(super) const SCAN_ZERO: u64 = 1 << 5;
/// `PAGE_IS_HUGE`.
pub(super) const SCAN_HUGE: u64 = 1 << 6;

/// `struct page_region`: pages in the same categories.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromZeros)]
#[repr(C)]
pub(super) struct Region {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) categories: u64,
}

/// `struct pm_scan_arg`.
#[derive(Default)]
#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `PAGEMAP_SCAN`, `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = nix::request_code_readwrite!(b'f', 16, size_of::<ScanArg>());

/// Regions returned by one call: 192 KiB.
const REGIONS: usize = 8192;

/// Calls `each` with every region of `range` that has present or swapped pages, in order; pages
/// never populated cost nothing. `Err` with `ENOTTY` if the kernel lacks this ioctl (before 6.7).
pub(super) fn scan(
    pagemap: &File,
    range: AddrRange,
    mut each: impl FnMut(Region) -> io::Result<()>,
) -> io::Result<()> {
    let mut regions = vec![Region::default(); REGIONS];
    let mut start = range.start().get();
    let end = range.end().get();
    while start < end {
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            start,
            end,
            vec: regions.as_mut_ptr().expose_provenance() as u64,
            vec_len: regions.len() as u64,
            category_anyof_mask: SCAN_PRESENT | SCAN_SWAPPED,
            return_mask: SCAN_FILE | SCAN_PRESENT | SCAN_SWAPPED | SCAN_ZERO | SCAN_HUGE,
            ..ScanArg::default()
        };
        // SAFETY: `arg` has the layout and size that it states, and `vec` points to `vec_len`
        // regions that live across the call. PM_SCAN_WP_MATCHING is not set, so nothing is changed.
        let found = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) };
        if found < 0 {
            return Err(io::Error::last_os_error());
        }
        for region in regions.iter().take(found as usize) {
            each(*region)?;
        }
        if arg.walk_end <= start {
            return Ok(());
        }
        start = arg.walk_end;
    }
    Ok(())
}

/// A page of our own that was read and never written: the kernel maps its zero page there.
pub(super) struct ZeroPage {
    /// The mapping that contains it.
    mapped: *mut libc::c_void,
    mapped_bytes: usize,
    /// The page, within that.
    page: *mut libc::c_void,
}

impl ZeroPage {
    /// A small one.
    pub(super) fn map() -> Option<Self> {
        let zero = Self::reserve(page_size().bytes() as usize)?;
        // SAFETY: the page is mapped readable; a volatile read is not optimised away.
        unsafe { zero.page.cast::<u8>().read_volatile() };
        Some(zero)
    }

    /// A huge one, if the kernel gives huge pages on request.
    pub(super) fn map_huge() -> Option<Self> {
        let huge = page_size().huge_bytes() as usize;
        let mut zero = Self::reserve(2 * huge)?;
        let start = zero.mapped.addr();
        zero.page = zero.mapped.map_addr(|_| start.next_multiple_of(huge));
        // SAFETY: the huge page is inside the mapping, which is twice as large.
        unsafe { libc::madvise(zero.page, huge, libc::MADV_HUGEPAGE) };
        // SAFETY: as above; it is readable, and a volatile read is not optimised away.
        unsafe { zero.page.cast::<u8>().read_volatile() };
        Some(zero)
    }

    fn reserve(bytes: usize) -> Option<Self> {
        // SAFETY: a new private anonymous mapping at an address of the kernel's choice.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        (mapped != libc::MAP_FAILED).then_some(Self {
            mapped,
            mapped_bytes: bytes,
            page: mapped,
        })
    }

    /// Its first kernel page.
    pub(super) fn range(&self) -> Option<AddrRange> {
        AddrRange::with_len(
            RemoteAddr::new(self.page.addr() as u64),
            page_size().bytes(),
        )
    }
}

impl Drop for ZeroPage {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `reserve` made, and nothing refers to it any more.
        unsafe { libc::munmap(self.mapped, self.mapped_bytes) };
    }
}
