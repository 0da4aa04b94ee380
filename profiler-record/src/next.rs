//! The functions that the program would call without the recorder.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::sys;

/// In place of the address of a function that no object has.
const MISSING: *mut c_void = ptr::without_provenance_mut(1);

/// A function that is looked up on its first call.
pub(crate) struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    const fn named(name: &'static CStr) -> Self {
        Self {
            name,
            found: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Its address, null if no object after this one has it.
    fn get(&self) -> *mut c_void {
        let mut found = self.found.load(Ordering::Relaxed);
        if found.is_null() {
            found = self.look_up();
        }
        if found == MISSING {
            return ptr::null_mut();
        }
        found
    }

    /// Its address, or [`MISSING`].
    #[cold]
    fn look_up(&self) -> *mut c_void {
        let found = find(sys::RTLD_NEXT, self.name);
        // A missing function is not looked up again.
        let kept = if found.is_null() { MISSING } else { found };
        self.found.store(kept, Ordering::Relaxed);
        kept
    }
}

/// The function of this name in the first object that has it; null if none has.
pub(crate) fn first(name: &CStr) -> *mut c_void {
    find(sys::RTLD_DEFAULT, name)
}

fn find(among: *mut c_void, name: &CStr) -> *mut c_void {
    let lookup = Lookup::begin();
    // SAFETY: a zero-terminated name.
    let found = unsafe { sys::dlsym(among, name.as_ptr()) };
    lookup.end();
    found
}

/// A word from the auxiliary vector (`getauxval(3)`); 0 if there is none, or no such function.
pub(crate) fn auxiliary(what: usize) -> usize {
    let found = first(c"getauxval");
    if found.is_null() {
        return 0;
    }
    // SAFETY: the C library's function of this name has this form.
    let getauxval: unsafe extern "C" fn(usize) -> usize = unsafe { mem::transmute(found) };
    // SAFETY: any number is a valid argument.
    unsafe { getauxval(what) }
}

/// Bytes of a page of the kernel's.
pub(crate) fn page_bytes() -> usize {
    /// `AT_PAGESZ`.
    const PAGE_SIZE: usize = 6;
    static FOUND: AtomicUsize = AtomicUsize::new(0);
    let found = FOUND.load(Ordering::Relaxed);
    if found != 0 {
        return found;
    }
    let found = match auxiliary(PAGE_SIZE) {
        said if said.is_power_of_two() => said,
        _ => profiler_common::PAGE_BYTES,
    };
    FOUND.store(found, Ordering::Relaxed);
    found
}

/// The result of the C library's own function for an open file: it makes the call that its loader
/// makes for each library.
pub(crate) fn about(fd: c_int) -> Option<sys::About> {
    let mut found = sys::Stat::default();
    let (fstat, older) = (first(c"fstat"), first(c"__fxstat"));
    let error = if !fstat.is_null() {
        // SAFETY: the C library's function of this name has this form.
        let fstat: unsafe extern "C" fn(c_int, *mut sys::Stat) -> c_int =
            unsafe { mem::transmute(fstat) };
        // SAFETY: a place for the answer.
        unsafe { fstat(fd, &mut found) }
    } else if !older.is_null() {
        // SAFETY: glibc's function of this name has this form (until 2.33, which has no other).
        let older: unsafe extern "C" fn(c_int, c_int, *mut sys::Stat) -> c_int =
            unsafe { mem::transmute(older) };
        // SAFETY: the kernel's form of the answer, and a place for it.
        unsafe { older(STAT_VERSION, fd, &mut found) }
    } else {
        return None;
    };
    (error == 0).then(|| found.about())
}

/// `_STAT_VER` of the machine (`bits/stat.h`).
const STAT_VERSION: c_int = if cfg!(target_arch = "x86_64") { 1 } else { 0 };

/// How many lookups are under way.
static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
/// The threads that are looking something up, by their pointers; 0 is nobody.
static LOOKING: [AtomicUsize; 16] = [const { AtomicUsize::new(0) }; 16];

/// A lookup by this thread: dlsym may allocate, before there is anything to allocate from.
struct Lookup(&'static AtomicUsize);

impl Lookup {
    fn begin() -> Self {
        let own = sys::thread_pointer();
        LOOKUPS.fetch_add(1, Ordering::Relaxed);
        loop {
            for place in &LOOKING {
                if place
                    .compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
                {
                    return Self(place);
                }
            }
            // It takes microseconds, and there are other threads only if a library's constructor
            // has started some.
            core::hint::spin_loop();
        }
    }

    fn end(self) {
        self.0.store(0, Ordering::Relaxed);
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether memory must come from [`early`]: this thread is looking something up. Others do so for
/// themselves.
pub(crate) fn is_resolving() -> bool {
    LOOKUPS.load(Ordering::Relaxed) != 0 && is_looking()
}

#[cold]
fn is_looking() -> bool {
    let own = sys::thread_pointer();
    let mut threads = LOOKING.iter().map(|place| place.load(Ordering::Relaxed));
    threads.any(|thread| thread == own)
}

const EARLY_BYTES: usize = 16 << 10;

#[repr(align(16))]
struct Early(core::cell::UnsafeCell<[u8; EARLY_BYTES]>);

// SAFETY: an atomic counter hands out each part of it once.
unsafe impl Sync for Early {}

static EARLY: Early = Early(core::cell::UnsafeCell::new([0; EARLY_BYTES]));
static EARLY_USED: AtomicUsize = AtomicUsize::new(0);

/// Zeroed memory for the allocations of dlsym; never freed. Null when it is used up.
pub(crate) fn early(bytes: usize) -> *mut c_void {
    let bytes = bytes.saturating_add(15) & !15;
    let at = EARLY_USED.fetch_add(bytes, Ordering::Relaxed);
    if bytes > EARLY_BYTES || at > EARLY_BYTES - bytes {
        return ptr::null_mut();
    }
    // SAFETY: the part is within the array.
    unsafe { EARLY.0.get().cast::<u8>().add(at).cast() }
}

/// Whether memory came from [`early`].
pub(crate) fn is_early(at: *mut c_void) -> bool {
    let from = EARLY.0.get().addr();
    (from..from + EARLY_BYTES).contains(&at.addr())
}

/// How many bytes of the array follow an early block's address: the block is not longer than that.
pub(crate) fn early_after(at: *mut c_void) -> usize {
    EARLY.0.get().addr() + EARLY_BYTES - at.addr()
}

macro_rules! next {
    ($($static:ident $name:ident($($arg:ident: $type:ty),*) -> $result:ty, $c_name:literal, $missing:expr;)*) => {$(
        static $static: Next = Next::named($c_name);

        /// The next object's function of this name.
        ///
        /// # Safety
        /// As the C function's.
        pub(crate) unsafe fn $name($($arg: $type),*) -> $result {
            let found = $static.get();
            if found.is_null() {
                return $missing;
            }
            type Function = unsafe extern "C" fn($($type),*) -> $result;
            // SAFETY: the C library's or the allocator's function of this name has this form.
            let function: Function = unsafe { mem::transmute(found) };
            // SAFETY: as the caller promises.
            unsafe { function($($arg),*) }
        }
    )*

        /// Looks all of them up, before there are other threads.
        pub(crate) fn look_up() {
            $($static.get();)*
        }
    };
}

/// The address of the `malloc_trim` that the program would have called; null without any.
pub(crate) fn trim() -> *mut c_void {
    MALLOC_TRIM.get()
}

const ENOMEM: c_int = 12;

next! {
    MALLOC malloc(size: usize) -> *mut c_void, c"malloc", ptr::null_mut();
    CALLOC calloc(count: usize, size: usize) -> *mut c_void, c"calloc", ptr::null_mut();
    REALLOC realloc(block: *mut c_void, size: usize) -> *mut c_void, c"realloc", ptr::null_mut();
    FREE free(block: *mut c_void) -> (), c"free", Default::default();
    MEMALIGN memalign(align: usize, size: usize) -> *mut c_void, c"memalign", ptr::null_mut();
    ALIGNED_ALLOC aligned_alloc(align: usize, size: usize) -> *mut c_void, c"aligned_alloc", ptr::null_mut();
    POSIX_MEMALIGN posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> c_int, c"posix_memalign", ENOMEM;
    VALLOC valloc(size: usize) -> *mut c_void, c"valloc", ptr::null_mut();
    GETENV getenv(name: *const c_char) -> *const c_char, c"getenv", ptr::null();
    PRCTL prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int, c"prctl", -1;
    CHROOT chroot(path: *const c_char) -> c_int, c"chroot", -1;
    SIGACTION sigaction(signal: c_int, action: *const c_void, before: *mut c_void) -> c_int, c"sigaction", -1;
    SYSCALL syscall(number: usize, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> isize, c"syscall", -1;
    EXIT exit(code: c_int) -> (), c"_exit", Default::default();
    MALLOC_TRIM malloc_trim(pad: usize) -> c_int, c"malloc_trim", 0;
    PVALLOC pvalloc(size: usize) -> *mut c_void, c"pvalloc", ptr::null_mut();
}
