//! The kernel's monotonic clock, read without calling the C library: an object that the program
//! preloads may replace that function with one that returns another time, or that allocates
//! (libfaketime).
//!
//! The clock is read through the vDSO, the object that the kernel maps into each program (vdso(7)),
//! which costs no system call; without a vDSO, by a system call.

use core::ffi::{CStr, c_int};
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::{next, sys};

/// The function's name there (vdso(7)).
#[cfg(target_arch = "x86_64")]
const NAME: &CStr = c"__vdso_clock_gettime";
#[cfg(target_arch = "aarch64")]
const NAME: &CStr = c"__kernel_clock_gettime";

/// `AT_SYSINFO_EHDR` of `getauxval(3)`.
const AT_SYSINFO_EHDR: usize = 33;

/// The function; null if there is none.
static FUNCTION: AtomicPtr<core::ffi::c_void> = AtomicPtr::new(ptr::null_mut());

/// Finds the function, before there are other threads.
pub(crate) fn look_up() {
    let base = next::auxiliary(AT_SYSINFO_EHDR);
    if let Some(at) = Vdso::at(base).and_then(|vdso| vdso.function(NAME)) {
        FUNCTION.store(ptr::with_exposed_provenance_mut(at), Ordering::Relaxed);
    }
}

/// Nanoseconds on the monotonic clock.
pub(crate) fn now_ns() -> u64 {
    let mut time = sys::Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
    let function = FUNCTION.load(Ordering::Relaxed);
    // SAFETY: null, or the function of this form that was found.
    let function: Option<unsafe extern "C" fn(c_int, *mut sys::Timespec) -> c_int> =
        unsafe { mem::transmute(function) };
    // SAFETY: a place for the answer.
    let error = function.map(|function| unsafe { function(sys::CLOCK_MONOTONIC, &mut time) });
    if error != Some(0) {
        sys::clock_gettime(&mut time);
    }
    time.seconds as u64 * 1_000_000_000 + time.nanoseconds as u64
}

/// An ELF object in memory. Nothing is read beyond the part that its headers say is loaded, and no
/// more than a fixed number of its headers, entries and symbols.
#[derive(Copy, Clone)]
struct Vdso {
    base: usize,
    bytes: usize,
    /// Where its dynamic entries are, relative to the base.
    dynamic: usize,
}

/// The kernel's has some kilobytes.
const MAX_BYTES: usize = 1 << 20;
const MAX_HEADERS: usize = 64;
const MAX_ENTRIES: usize = 256;
const MAX_SYMBOLS: usize = 1024;

/// Bytes of the header at the base (`Elf64_Ehdr`), which are always mapped.
const EHDR: usize = 64;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
/// Bytes of a symbol (`Elf64_Sym`).
const SYMBOL: usize = 24;
const STT_FUNC: u8 = 2;

impl Vdso {
    /// The object that begins here.
    fn at(base: usize) -> Option<Self> {
        let mut found = Self {
            base,
            bytes: EHDR,
            dynamic: 0,
        };
        if base == 0 || found.read::<[u8; 4]>(0)? != *b"\x7fELF" {
            return None;
        }
        let (headers, size) = (
            found.read::<u64>(32)? as usize,
            found.read::<u16>(54)?.into(),
        );
        let count: usize = found.read::<u16>(56)?.into();
        // They come right after the header, on the page that is there.
        found.bytes = profiler_common::PAGE_BYTES;
        let mut loaded = 0;
        for index in 0..count.min(MAX_HEADERS) {
            let header = headers.checked_add(usize::checked_mul(size, index)?)?;
            let (offset, bytes) = (
                found.read::<u64>(header.checked_add(8)?)? as usize,
                found.read::<u64>(header.checked_add(40)?)? as usize,
            );
            match found.read::<u32>(header)? {
                // Its addresses are relative to the base as well, if all of it is loaded at once.
                PT_LOAD if offset == 0 && found.read::<u64>(header.checked_add(16)?)? == 0 => {
                    loaded = bytes;
                }
                PT_DYNAMIC => found.dynamic = offset,
                _ => {}
            }
        }
        found.bytes = (1..=MAX_BYTES).contains(&loaded).then_some(loaded)?;
        (found.dynamic != 0).then_some(found)
    }

    /// The address of its function of this name.
    fn function(self, name: &CStr) -> Option<usize> {
        let (mut strings, mut symbols) = (0, 0);
        for index in 0..MAX_ENTRIES {
            let entry = self.dynamic.checked_add(16 * index)?;
            let value = self.read::<u64>(entry.checked_add(8)?)? as usize;
            match self.read::<u64>(entry)? {
                0 => break,
                DT_STRTAB => strings = value,
                DT_SYMTAB => symbols = value,
                _ => {}
            }
        }
        // Strings come right after symbols. (The tables for finding and counting the symbols have
        // one form or another.)
        let count = strings.checked_sub(symbols)?.checked_div(SYMBOL)?;
        for index in 1..count.min(MAX_SYMBOLS) {
            let symbol = symbols.checked_add(SYMBOL * index)?;
            let named = strings.checked_add(self.read::<u32>(symbol)? as usize)?;
            let kind = self.read::<u8>(symbol.checked_add(4)?)? & 0xf;
            if kind == STT_FUNC && self.is_named(named, name) {
                let value = self.read::<u64>(symbol.checked_add(8)?)? as usize;
                return (1..self.bytes)
                    .contains(&value)
                    .then(|| self.base.wrapping_add(value));
            }
        }
        None
    }

    /// Whether this zero-terminated string is there.
    fn is_named(self, at: usize, name: &CStr) -> bool {
        let mut wanted = name.to_bytes_with_nul().iter().enumerate();
        wanted.all(|(index, byte)| {
            let at = at.checked_add(index);
            at.and_then(|at| self.read::<u8>(at)) == Some(*byte)
        })
    }

    /// The value at this distance from its base.
    fn read<T: Plain>(self, from: usize) -> Option<T> {
        let end = from.checked_add(size_of::<T>())?;
        // SAFETY: within what is loaded of it.
        (end <= self.bytes).then(|| unsafe {
            ptr::with_exposed_provenance::<T>(self.base.wrapping_add(from)).read_unaligned()
        })
    }
}

/// A type for which any bytes are a valid value.
trait Plain {}

impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for [u8; 4] {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_is_found_in_the_kernels_object() {
        unsafe extern "C" {
            fn getauxval(what: usize) -> usize;
        }
        // SAFETY: any number is a valid argument.
        let base = unsafe { getauxval(AT_SYSINFO_EHDR) };
        let vdso = Vdso::at(base).expect("an object");
        assert!(vdso.function(NAME).is_some());
        assert!(vdso.function(c"__vdso_no_such_function").is_none());
    }

    #[test]
    fn a_damaged_object_is_read_no_further_than_it_is() {
        let mut page = Page([0; 4096]);
        let base = ptr::from_ref(&page).expose_provenance();
        assert!(Vdso::at(base).is_none());
        page.0[..4].copy_from_slice(b"\x7fELF");
        // Headers beyond it, of any size and number.
        page.0[32..64].fill(0xff);
        assert!(Vdso::at(base).is_none());
    }

    #[repr(align(4096))]
    struct Page([u8; 4096]);
}
