//! `malloc_trim` for programs that look it up in the C library itself, as Python's
//! `ctypes.CDLL("libc.so.6").malloc_trim(0)` does, which bypasses preloaded objects. The symbol's
//! entry in the C library's table is redirected to the recorder; from then on this process has its
//! own copy of that page.

use core::ffi::{CStr, c_int, c_void};
use core::mem;
use core::ptr;

use crate::{next, sys};

/// `RTLD_DL_SYMENT` of `dladdr1(3)`: where the symbol's entry is.
const SYMBOL_ENTRY: c_int = 1;
/// The C library with glibc's malloc.
const LIBRARY: &[u8] = b"/libc.so.6";
const LOADED: u32 = 1;
const READABLE_ALONE: u32 = 4;
const FUNCTION: u8 = 2;

/// `Elf64_Sym`.
#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: usize,
    size: u64,
}

/// The needed part of `Elf64_Ehdr`.
#[repr(C)]
struct Header {
    magic: [u8; 32],
    segments_at: usize,
    sections_at: usize,
    flags: u32,
    size: u16,
    segment_size: u16,
    segments: u16,
}

/// The needed part of `Elf64_Phdr`.
#[repr(C)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: usize,
    at: usize,
    physical: usize,
    file_bytes: usize,
    bytes: usize,
    align: usize,
}

/// Redirects the entry to the function at `own`, if the C library is one in which that is possible.
///
/// # Safety
/// There is no other thread, and the loader is not looking anything up. `own` can be called like
/// `malloc_trim`.
pub(crate) unsafe fn begin(own: usize) {
    let found = next::trim();
    let Some((library, entry)) = entry_of(found) else {
        return;
    };
    // SAFETY: the loader found the entry in the library's table.
    let symbol = unsafe { &*entry };
    let at = library.addr().wrapping_add(symbol.value);
    let is_it = symbol.info & 0xf == FUNCTION && at == found.addr();
    if !is_it || !lies_in_plain_data(library, entry.addr()) {
        return;
    }
    let page_bytes = next::page_bytes();
    let page = entry.map_addr(|at| (at + mem::offset_of!(Symbol, value)) & !(page_bytes - 1));
    // SAFETY: a page of a table that nobody reads now, and whose other entries stay unchanged.
    if unsafe { sys::protect(page.cast(), page_bytes, sys::PROT_READ_WRITE) } {
        // SAFETY: it is writable now, and nobody else looks at it.
        unsafe { (*entry).value = own.wrapping_sub(library.addr()) };
        // SAFETY: restores its former protection.
        unsafe { sys::protect(page.cast(), page_bytes, sys::PROT_READ) };
    }
}

/// The load address of the C library that has this function, and the function's entry in its table.
fn entry_of(function: *mut c_void) -> Option<(*mut c_void, *mut Symbol)> {
    type Dladdr1 =
        unsafe extern "C" fn(*const c_void, *mut sys::DlInfo, *mut *mut Symbol, c_int) -> c_int;
    let dladdr1 = next::first(c"dladdr1");
    if function.is_null() || dladdr1.is_null() {
        return None;
    }
    // SAFETY: glibc's function of this name has this form.
    let dladdr1: Dladdr1 = unsafe { mem::transmute(dladdr1) };
    let mut about = sys::DlInfo {
        path: ptr::null(),
        base: ptr::null_mut(),
        symbol: ptr::null(),
        address: ptr::null_mut(),
    };
    let mut entry = ptr::null_mut();
    // SAFETY: an address, and places for the answers.
    let known = unsafe { dladdr1(function, &mut about, &mut entry, SYMBOL_ENTRY) };
    if known == 0 || entry.is_null() || about.path.is_null() || about.symbol.is_null() {
        return None;
    }
    // SAFETY: the loader keeps the name for as long as the object is loaded.
    let path = unsafe { CStr::from_ptr::<'static>(about.path) };
    // SAFETY: as above.
    let name = unsafe { CStr::from_ptr::<'static>(about.symbol) };
    let is_it = path.to_bytes().ends_with(LIBRARY) && name == c"malloc_trim";
    is_it.then_some((about.base, entry))
}

/// Whether an address is in a read-only segment of a loaded object: an executable one has
/// instructions beside it.
fn lies_in_plain_data(object: *mut c_void, at: usize) -> bool {
    let header = object.cast::<Header>();
    // SAFETY: an object begins with its header.
    let header = unsafe { &*header };
    if usize::from(header.segment_size) != mem::size_of::<Segment>() {
        return false;
    }
    let first = object.wrapping_byte_add(header.segments_at);
    (0..usize::from(header.segments)).any(|number| {
        // SAFETY: `header.segments` headers follow one another within the object's first segment.
        let segment = unsafe { &*first.cast::<Segment>().wrapping_add(number) };
        let from = object.addr().wrapping_add(segment.at);
        segment.kind == LOADED
            && segment.flags == READABLE_ALONE
            && (from..from.wrapping_add(segment.bytes)).contains(&at)
    })
}
