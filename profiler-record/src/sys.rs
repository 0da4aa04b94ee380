//! What is used of libc and libpthread.

use core::ffi::{c_char, c_int, c_long, c_uint, c_void};
use core::ptr;

pub(crate) const O_RDONLY: c_int = 0;
pub(crate) const O_RDWR: c_int = 2;
pub(crate) const O_CLOEXEC: c_int = 0o2_000_000;
pub(crate) const O_PATH: c_int = 0o10_000_000;
pub(crate) const AT_FDCWD: c_int = -100;
pub(crate) const AT_EMPTY_PATH: c_int = 0x1000;
pub(crate) const AT_STATX_DONT_SYNC: c_int = 0x4000;
pub(crate) const STATX_BASIC_STATS: c_uint = 0x7ff;
pub(crate) const S_IFMT: u16 = 0o170_000;
pub(crate) const S_IFREG: u16 = 0o100_000;
pub(crate) const PROT_READ: c_int = 1;
pub(crate) const PROT_READ_WRITE: c_int = 3;
pub(crate) const MAP_SHARED: c_int = 1;
pub(crate) const CLOCK_MONOTONIC: c_int = 1;
/// `RTLD_NEXT`: the next object after this one in the order of lookup.
pub(crate) const RTLD_NEXT: *mut c_void = -1isize as *mut c_void;
/// `RTLD_DEFAULT`: the first object that has it.
pub(crate) const RTLD_DEFAULT: *mut c_void = ptr::null_mut();
/// The action of `sigaction(2)` that is the default.
pub(crate) const SIG_DFL: usize = 0;

#[repr(C)]
pub(crate) struct Timespec {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: i64,
}

/// `Dl_info` of `dladdr(3)`.
#[repr(C)]
pub(crate) struct DlInfo {
    pub(crate) path: *const c_char,
    pub(crate) base: *mut c_void,
    pub(crate) symbol: *const c_char,
    pub(crate) address: *mut c_void,
}

/// `struct statx` (`include/uapi/linux/stat.h`): the same on every machine, unlike `struct stat`.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Statx {
    mask: u32,
    block_size: u32,
    attributes: u64,
    links: u32,
    pub(crate) user: u32,
    group: u32,
    pub(crate) mode: u16,
    spare: u16,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    blocks: u64,
    attributes_mask: u64,
    times: [u64; 8],
    /// Of a device file itself.
    own_device: [u32; 2],
    device_major: u32,
    device_minor: u32,
    rest: [u64; 14],
}

impl Statx {
    /// Where the file lies, as `st_dev` has it (`gnu_dev_makedev`).
    pub(crate) fn device(&self) -> u64 {
        let (major, minor) = (u64::from(self.device_major), u64::from(self.device_minor));
        (major & 0xffff_f000) << 32
            | (major & 0xfff) << 8
            | (minor & 0xffff_ff00) << 12
            | minor & 0xff
    }
}

/// `statx(2)`, which old C libraries have no function for.
///
/// # Safety
/// `path` is a string with its zero.
pub(crate) unsafe fn statx(
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    wanted: c_uint,
    found: &mut Statx,
) -> c_long {
    // SAFETY: as the caller promises, and a place for the answer.
    unsafe { syscall(SYS_STATX, folder, path, flags, wanted, ptr::from_mut(found)) }
}

/// Sleeps for so many nanoseconds, below a second, or until a signal comes. malloc and free must be no
/// points at which a thread is cancelled, and keep errno: C's `nanosleep` is the one and changes the other.
pub(crate) fn nap(nanoseconds: i64) {
    let time = Timespec {
        seconds: 0,
        nanoseconds,
    };
    // SAFETY: C's place for this thread's errno.
    let errno = unsafe { __errno_location() };
    // SAFETY: as above.
    let before = unsafe { errno.read() };
    // SAFETY: a clock, a time to sleep, and no place for the rest of it.
    unsafe {
        syscall(
            SYS_CLOCK_NANOSLEEP,
            c_long::from(CLOCK_MONOTONIC),
            0 as c_long,
            ptr::from_ref(&time),
            ptr::null_mut::<Timespec>(),
        )
    };
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

/// Ends the process, whatever its C library lacks.
pub(crate) fn end(code: c_int) -> ! {
    loop {
        // SAFETY: a number, and nothing is left to be done.
        unsafe { syscall(SYS_EXIT_GROUP, code) };
    }
}

unsafe extern "C" {
    #[cfg(feature = "recorder")]
    pub(crate) fn abort() -> !;
    pub(crate) fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    pub(crate) fn dladdr(address: *const c_void, found: *mut DlInfo) -> c_int;
    pub(crate) fn getenv(name: *const c_char) -> *const c_char;
    pub(crate) fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    pub(crate) fn close(fd: c_int) -> c_int;
    pub(crate) fn read(fd: c_int, to: *mut c_void, most: usize) -> isize;
    pub(crate) fn mmap(
        addr: *mut c_void,
        len: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void;
    pub(crate) fn munmap(addr: *mut c_void, len: usize) -> c_int;
    pub(crate) fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int;
    pub(crate) fn sched_yield() -> c_int;
    pub(crate) fn geteuid() -> c_uint;
    pub(crate) fn getpid() -> c_int;
    pub(crate) fn getppid() -> c_int;
    pub(crate) fn syscall(number: c_long, ...) -> c_long;
    fn __errno_location() -> *mut c_int;
    pub(crate) fn pthread_key_create(
        key: *mut c_uint,
        destructor: Option<unsafe extern "C" fn(*mut c_void)>,
    ) -> c_int;
    pub(crate) fn pthread_getspecific(key: c_uint) -> *mut c_void;
    pub(crate) fn pthread_setspecific(key: c_uint, value: *const c_void) -> c_int;
    pub(crate) fn pthread_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
    ) -> c_int;
}

/// `gettid` (x86-64 and aarch64 differ).
#[cfg(target_arch = "x86_64")]
pub(crate) const SYS_GETTID: c_long = 186;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const SYS_GETTID: c_long = 178;
/// `clock_nanosleep`.
#[cfg(target_arch = "x86_64")]
const SYS_CLOCK_NANOSLEEP: c_long = 230;
#[cfg(not(target_arch = "x86_64"))]
const SYS_CLOCK_NANOSLEEP: c_long = 115;
/// `exit_group`.
#[cfg(target_arch = "x86_64")]
pub(crate) const SYS_EXIT_GROUP: c_long = 231;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const SYS_EXIT_GROUP: c_long = 94;
/// `statx`.
#[cfg(target_arch = "x86_64")]
const SYS_STATX: c_long = 332;
#[cfg(not(target_arch = "x86_64"))]
const SYS_STATX: c_long = 291;
