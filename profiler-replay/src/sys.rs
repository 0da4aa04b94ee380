//! Declarations of the functions used from libc and libpthread.

use core::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

pub(crate) const PROT_NONE: c_int = 0;
pub(crate) const PROT_READ: c_int = 1;
pub(crate) const PROT_READ_WRITE: c_int = 3;
pub(crate) const MAP_SHARED: c_int = 0x01;
pub(crate) const MAP_SHARED_ANONYMOUS: c_int = 0x21;
pub(crate) const MAP_PRIVATE_ANONYMOUS: c_int = 0x22;
pub(crate) const MAP_NORESERVE: c_int = 0x4000;
pub(crate) const MADV_DONTNEED: c_int = 4;
pub(crate) const MADV_NOHUGEPAGE: c_int = 15;
pub(crate) const RTLD_NEXT: *mut c_void = -1isize as *mut c_void;
pub(crate) const RUSAGE_SELF: c_int = 0;
pub(crate) const WNOHANG: c_int = 1;
pub(crate) const PR_SET_SECCOMP: c_int = 22;
pub(crate) const SECCOMP_MODE_FILTER: c_ulong = 2;
/// `sysconf` names of the numbers of processors (`bits/confname.h`).
pub(crate) const SC_NPROCESSORS: [c_int; 2] = [83, 84];

#[derive(Copy, Clone)]
#[repr(C)]
pub struct Timespec {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: i64,
}

#[repr(C)]
pub struct Timeval {
    pub(crate) seconds: i64,
    pub(crate) microseconds: i64,
}

/// `struct pollfd`.
#[repr(C)]
pub(crate) struct Poll {
    pub(crate) fd: c_int,
    pub(crate) wanted: i16,
    pub(crate) found: i16,
}

/// `struct rusage`, the rest of which is not used.
#[repr(C)]
pub(crate) struct Usage {
    pub(crate) user: Timeval,
    pub(crate) system: Timeval,
    pub(crate) most_resident: c_long,
    pub(crate) unused: [c_long; 3],
    pub(crate) minor_faults: c_long,
    pub(crate) rest: [c_long; 16],
}

/// `struct sock_filter`.
#[repr(C)]
pub(crate) struct FilterStep {
    pub(crate) code: u16,
    pub(crate) if_true: u8,
    pub(crate) if_false: u8,
    pub(crate) value: u32,
}

/// `struct sock_fprog`.
#[repr(C)]
pub(crate) struct Filter {
    pub(crate) len: u16,
    pub(crate) steps: *const FilterStep,
}

/// `execve` and `execveat`.
#[cfg(target_arch = "x86_64")]
pub(crate) const SYS_EXECUTE: [u32; 2] = [59, 322];
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const SYS_EXECUTE: [u32; 2] = [221, 281];

unsafe extern "C" {
    #[cfg(feature = "player")]
    pub(crate) fn abort() -> !;
    pub(crate) fn _exit(code: c_int) -> !;
    pub(crate) fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    pub(crate) fn getenv(name: *const c_char) -> *const c_char;
    pub(crate) fn read(fd: c_int, bytes: *mut c_void, len: usize) -> isize;
    pub(crate) fn write(fd: c_int, bytes: *const c_void, len: usize) -> isize;
    pub(crate) fn mmap(
        addr: *mut c_void,
        len: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void;
    pub(crate) fn munmap(addr: *mut c_void, len: usize) -> c_int;
    pub(crate) fn mprotect(addr: *mut c_void, len: usize, protection: c_int) -> c_int;
    pub(crate) fn madvise(addr: *mut c_void, len: usize, advice: c_int) -> c_int;
    pub(crate) fn syscall(number: c_long, ...) -> c_long;
    pub(crate) fn prctl(option: c_int, ...) -> c_int;
    pub(crate) fn getpid() -> c_int;
    pub(crate) fn fork() -> c_int;
    pub(crate) fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    pub(crate) fn poll(all: *mut Poll, count: c_ulong, milliseconds: c_int) -> c_int;
    pub(crate) fn execve(
        path: *const c_char,
        arguments: *const *const c_char,
        environment: *const *const c_char,
    ) -> c_int;
    pub(crate) static environ: *const *const c_char;
    pub(crate) fn getrusage(who: c_int, usage: *mut Usage) -> c_int;
    pub(crate) fn malloc(size: usize) -> *mut c_void;
    pub(crate) fn calloc(count: usize, size: usize) -> *mut c_void;
    pub(crate) fn realloc(block: *mut c_void, size: usize) -> *mut c_void;
    pub(crate) fn free(block: *mut c_void);
    pub(crate) fn posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> c_int;
    pub(crate) fn pthread_create(
        thread: *mut c_ulong,
        attributes: *const Attributes,
        start: extern "C" fn(*mut c_void) -> *mut c_void,
        argument: *mut c_void,
    ) -> c_int;
    pub(crate) fn pthread_self() -> c_ulong;
    pub(crate) fn pthread_join(thread: c_ulong, result: *mut *mut c_void) -> c_int;
    pub(crate) fn pthread_attr_init(attributes: *mut Attributes) -> c_int;
    pub(crate) fn pthread_attr_setstack(
        attributes: *mut Attributes,
        stack: *mut c_void,
        len: usize,
    ) -> c_int;
    pub(crate) fn pthread_mutex_lock(mutex: *mut c_void) -> c_int;
    pub(crate) fn pthread_mutex_unlock(mutex: *mut c_void) -> c_int;
}

/// `pthread_attr_t` of glibc and musl, both at most 56 bytes on 64 bits.
#[repr(C, align(8))]
pub(crate) struct Attributes(pub(crate) [u8; 64]);

/// A libc function that is looked up on its first call, in its current version. A function linked
/// without a version gets the oldest one, which for conditions has another layout
/// (`nptl/old_pthread_cond_*.c`).
pub(crate) struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    /// The next object's function of this name.
    pub(crate) const fn named(name: &'static CStr) -> Self {
        Self {
            name,
            found: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Its address; null if there is none.
    pub(crate) fn get(&self) -> *mut c_void {
        let mut found = self.found.load(Ordering::Relaxed);
        if found.is_null() {
            // SAFETY: a zero-terminated name.
            found = unsafe { dlsym(RTLD_NEXT, self.name.as_ptr()) };
            self.found.store(found, Ordering::Relaxed);
        }
        found
    }
}

#[cfg(target_arch = "x86_64")]
const SYS_FUTEX: c_long = 202;
#[cfg(not(target_arch = "x86_64"))]
const SYS_FUTEX: c_long = 98;
const FUTEX_WAIT: c_int = 0;
const FUTEX_WAKE: c_int = 1;

/// Sleeps while `word` is `expected`, for at most `nanoseconds`; may also return spuriously.
pub(crate) fn wait_for(word: &core::sync::atomic::AtomicU32, expected: u32, nanoseconds: i64) {
    let most = Timespec {
        seconds: 0,
        nanoseconds,
    };
    // SAFETY: the word and the time limit live.
    unsafe {
        syscall(
            SYS_FUTEX,
            word.as_ptr(),
            FUTEX_WAIT,
            expected as c_uint,
            &raw const most,
        )
    };
}

/// Wakes threads that wait for `word`, also in other processes.
pub(crate) fn wake(word: &core::sync::atomic::AtomicU32) {
    // SAFETY: the word lives.
    unsafe { syscall(SYS_FUTEX, word.as_ptr(), FUTEX_WAKE, c_int::MAX) };
}
