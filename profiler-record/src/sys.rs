//! System calls, and declarations of the functions used from libc and libpthread.

use core::ffi::{c_char, c_int, c_uint, c_void};
use core::ptr;

pub(crate) const O_RDONLY: c_int = 0;
pub(crate) const O_RDWR: c_int = 2;
pub(crate) const O_CLOEXEC: c_int = 0o2_000_000;
pub(crate) const O_PATH: c_int = 0o10_000_000;
pub(crate) const AT_FDCWD: c_int = -100;
pub(crate) const AT_EMPTY_PATH: c_int = 0x1000;
pub(crate) const AT_STATX_DONT_SYNC: c_int = 0x4000;
pub(crate) const STATX_BASIC_STATS: c_uint = 0x7ff;
pub(crate) const S_IFMT: u32 = 0o170_000;
pub(crate) const S_IFREG: u32 = 0o100_000;
pub(crate) const PROT_READ: c_int = 1;
pub(crate) const PROT_READ_WRITE: c_int = 3;
const MAP_SHARED: c_int = 1;
const MAP_PRIVATE_ANONYMOUS: c_int = 0x22;
/// For `madvise(2)`: the child of a fork finds zeros there; and no core dump contains it.
pub(crate) const MADV_WIPEONFORK: c_int = 18;
pub(crate) const MADV_DONTDUMP: c_int = 16;
/// The process has reached its limit of descriptors.
pub(crate) const EMFILE: c_int = 24;
pub(crate) const O_NONBLOCK: c_int = 0o4000;
pub(crate) const CLOCK_MONOTONIC: c_int = 1;
/// `RTLD_NEXT`: the next object after this one in the order of lookup.
pub(crate) const RTLD_NEXT: *mut c_void = -1isize as *mut c_void;
/// `RTLD_DEFAULT`: the first object that has the symbol.
pub(crate) const RTLD_DEFAULT: *mut c_void = ptr::null_mut();
/// For `prctl(2)`: what forbids system calls, and what makes reading the time stamp counter a
/// fault.
pub(crate) const PR_SET_SECCOMP: usize = 22;
/// Of `prctl(2)`: has calls that are not made from one range of addresses intercepted by the program.
pub(crate) const PR_SET_SYSCALL_USER_DISPATCH: usize = 59;
pub(crate) const PR_SYS_DISPATCH_OFF: usize = 0;
pub(crate) const SECCOMP_MODE_STRICT: usize = 1;
pub(crate) const PR_SET_TSC: usize = 26;
pub(crate) const PR_TSC_SIGSEGV: usize = 2;
/// Of `seccomp(2)`.
pub(crate) const SECCOMP_SET_MODE_STRICT: usize = 0;
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

/// The requested facts about a file.
pub(crate) struct About {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) user: u32,
    pub(crate) mode: u32,
    pub(crate) bytes: u64,
}

/// `struct stat` (`arch/x86/include/uapi/asm/stat.h`).
#[cfg(target_arch = "x86_64")]
#[derive(Default)]
#[repr(C)]
pub(crate) struct Stat {
    device: u64,
    inode: u64,
    links: u64,
    mode: u32,
    user: u32,
    group: u32,
    pad: u32,
    own_device: u64,
    bytes: u64,
    rest: [u64; 11],
}

/// `struct stat` (`include/uapi/asm-generic/stat.h`).
#[cfg(target_arch = "aarch64")]
#[derive(Default)]
#[repr(C)]
pub(crate) struct Stat {
    device: u64,
    inode: u64,
    mode: u32,
    links: u32,
    user: u32,
    group: u32,
    own_device: u64,
    pad: u64,
    bytes: u64,
    rest: [u64; 9],
}

impl Stat {
    pub(crate) fn about(&self) -> About {
        About {
            device: self.device,
            inode: self.inode,
            user: self.user,
            mode: self.mode,
            bytes: self.bytes,
        }
    }
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
    /// The file's device, in the format of `st_dev` (`gnu_dev_makedev`).
    pub(crate) fn device(&self) -> u64 {
        let (major, minor) = (u64::from(self.device_major), u64::from(self.device_minor));
        (major & 0xffff_f000) << 32
            | (major & 0xfff) << 8
            | (minor & 0xffff_ff00) << 12
            | minor & 0xff
    }
}

/// A raw system call: an error is returned as its negative number.
///
/// No function of the C library is involved: a program may have its own function of that name, it
/// may be a cancellation point, and it changes errno.
///
/// # Safety
/// As for the kernel's call with these arguments.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let result;
    // SAFETY: the kernel's convention (`arch/x86/entry/entry_64.S`): it changes only rax, rcx and
    // r11.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// As above.
///
/// # Safety
/// As above.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let result;
    // SAFETY: the kernel's convention (`arch/arm64/kernel/entry.S`): it changes only x0.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack)
        );
    }
    result
}

/// The calls' numbers (`arch/x86/entry/syscalls/syscall_64.tbl`).
#[cfg(target_arch = "x86_64")]
pub(crate) mod number {
    pub(super) const READ: usize = 0;
    pub(super) const CLOSE: usize = 3;
    pub(super) const MMAP: usize = 9;
    pub(super) const MPROTECT: usize = 10;
    pub(super) const MUNMAP: usize = 11;
    pub(super) const SCHED_YIELD: usize = 24;
    pub(super) const MADVISE: usize = 28;
    pub(super) const GETPID: usize = 39;
    pub(super) const GETPPID: usize = 110;
    pub(super) const GETTID: usize = 186;
    pub(super) const CLOCK_GETTIME: usize = 228;
    pub(super) const CLOCK_NANOSLEEP: usize = 230;
    pub(super) const EXIT_GROUP: usize = 231;
    pub(super) const OPENAT: usize = 257;
    pub(crate) const PRCTL: usize = 157;
    pub(crate) const SECCOMP: usize = 317;
    pub(super) const STATX: usize = 332;
}

/// The calls' numbers (`include/uapi/asm-generic/unistd.h`).
#[cfg(target_arch = "aarch64")]
pub(crate) mod number {
    pub(super) const OPENAT: usize = 56;
    pub(super) const CLOSE: usize = 57;
    pub(super) const READ: usize = 63;
    pub(super) const EXIT_GROUP: usize = 94;
    pub(super) const CLOCK_GETTIME: usize = 113;
    pub(super) const CLOCK_NANOSLEEP: usize = 115;
    pub(super) const SCHED_YIELD: usize = 124;
    pub(super) const GETPID: usize = 172;
    pub(super) const GETPPID: usize = 173;
    pub(super) const GETTID: usize = 178;
    pub(super) const MUNMAP: usize = 215;
    pub(super) const MPROTECT: usize = 226;
    pub(super) const MMAP: usize = 222;
    pub(super) const MADVISE: usize = 233;
    pub(crate) const PRCTL: usize = 167;
    pub(crate) const SECCOMP: usize = 277;
    pub(super) const STATX: usize = 291;
}

/// `statx(2)`: 0, or an error.
///
/// # Safety
/// `path` is a zero-terminated string.
pub(crate) unsafe fn statx(
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    wanted: c_uint,
    found: &mut Statx,
) -> isize {
    let found = ptr::from_mut(found).expose_provenance();
    let arguments = [
        folder as usize,
        path.expose_provenance(),
        flags as usize,
        wanted as usize,
        found,
        0,
    ];
    // SAFETY: as the caller promises, and a place for the answer.
    unsafe { call(number::STATX, arguments) }
}

/// `open(2)`: a descriptor, or an error below 0.
///
/// # Safety
/// `path` is a zero-terminated string.
pub(crate) unsafe fn open(path: *const c_char, flags: c_int) -> c_int {
    let arguments = [
        AT_FDCWD as usize,
        path.expose_provenance(),
        flags as usize,
        0,
        0,
        0,
    ];
    // SAFETY: as the caller promises.
    unsafe { call(number::OPENAT, arguments) as c_int }
}

/// Closes a descriptor that is ours.
pub(crate) fn close(fd: c_int) {
    // SAFETY: no memory is touched.
    unsafe { call(number::CLOSE, [fd as usize, 0, 0, 0, 0, 0]) };
}

/// Reads into this; how many bytes, none after an error.
pub(crate) fn read(fd: c_int, into: &mut [u8]) -> usize {
    let (at, bytes) = (into.as_mut_ptr().expose_provenance(), into.len());
    // SAFETY: the kernel writes at most `bytes` bytes.
    let read = unsafe { call(number::READ, [fd as usize, at, bytes, 0, 0, 0]) };
    usize::try_from(read).unwrap_or(0)
}

/// Gives the kernel advice for these bytes; returns whether it accepted.
///
/// # Safety
/// They are a mapping of ours, for which the advice is right.
pub(crate) unsafe fn advise(at: *mut c_void, bytes: usize, advice: c_int) -> bool {
    let arguments = [at.expose_provenance(), bytes, advice as usize, 0, 0, 0];
    // SAFETY: as the caller promises.
    unsafe { call(number::MADVISE, arguments) == 0 }
}

/// Changes the protection of these bytes; returns whether the kernel did.
///
/// # Safety
/// They are whole pages, and whoever uses them can do with that.
pub(crate) unsafe fn protect(at: *mut c_void, bytes: usize, protection: c_int) -> bool {
    let arguments = [at.expose_provenance(), bytes, protection as usize, 0, 0, 0];
    // SAFETY: as the caller promises.
    unsafe { call(number::MPROTECT, arguments) == 0 }
}

/// Maps `bytes` zero bytes at an address that the kernel chooses.
pub(crate) fn map_zeros(bytes: usize) -> Option<*mut c_void> {
    map(bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1)
}

/// Maps `bytes` bytes of a file, shared, at an address that the kernel chooses.
pub(crate) fn map_shared(bytes: usize, protection: c_int, fd: c_int) -> Option<*mut c_void> {
    map(bytes, protection, MAP_SHARED, fd)
}

fn map(bytes: usize, protection: c_int, flags: c_int, fd: c_int) -> Option<*mut c_void> {
    let arguments = [
        0,
        bytes,
        protection as usize,
        flags as usize,
        fd as usize,
        0,
    ];
    // SAFETY: a new mapping, placed by the kernel.
    let at = unsafe { call(number::MMAP, arguments) };
    (at > 0).then(|| ptr::with_exposed_provenance_mut(at as usize))
}

/// Removes a mapping.
///
/// # Safety
/// The mapping has `bytes` bytes, and nothing refers to it any more.
pub(crate) unsafe fn unmap(at: *mut c_void, bytes: usize) {
    // SAFETY: as the caller promises.
    unsafe { call(number::MUNMAP, [at.expose_provenance(), bytes, 0, 0, 0, 0]) };
}

/// A call without arguments that cannot fail.
fn plain(number: usize) -> u32 {
    // SAFETY: no memory is touched.
    unsafe { call(number, [0; 6]) as u32 }
}

/// Where the C library keeps its data of this thread: a different place for each.
pub(crate) fn thread_pointer() -> usize {
    let at;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the first word there is its own address (`tcbhead_t`, sysdeps/x86_64/nptl/tls.h; the
    // ABI's section 3.4.6).
    unsafe {
        core::arch::asm!("mov {}, fs:0", out(reg) at, options(nostack, readonly, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: only a register is read.
    unsafe {
        core::arch::asm!("mrs {}, tpidr_el0", out(reg) at, options(nostack, nomem, preserves_flags));
    }
    at
}

/// The pid of the process, in its own namespace.
pub(crate) fn process() -> u32 {
    plain(number::GETPID)
}

/// The process's parent.
pub(crate) fn parent() -> u32 {
    plain(number::GETPPID)
}

/// The thread.
pub(crate) fn thread() -> u32 {
    plain(number::GETTID)
}

/// Lets others run.
pub(crate) fn give_way() {
    plain(number::SCHED_YIELD);
}

/// The time on the monotonic clock.
pub(crate) fn clock_gettime(time: &mut Timespec) {
    let time = ptr::from_mut(time).expose_provenance();
    let arguments = [CLOCK_MONOTONIC as usize, time, 0, 0, 0, 0];
    // SAFETY: a clock, and a place for the answer.
    unsafe { call(number::CLOCK_GETTIME, arguments) };
}

/// Sleeps for `nanoseconds`, less than a second, or until a signal arrives.
pub(crate) fn nap(nanoseconds: i64) {
    let time = Timespec {
        seconds: 0,
        nanoseconds,
    };
    let time = ptr::from_ref(&time).expose_provenance();
    let arguments = [CLOCK_MONOTONIC as usize, 0, time, 0, 0, 0];
    // SAFETY: a clock, a time to sleep, and no place for the rest of it.
    unsafe { call(number::CLOCK_NANOSLEEP, arguments) };
}

/// Ends the process, whatever its C library lacks.
pub(crate) fn end(code: c_int) -> ! {
    loop {
        // SAFETY: a number, and nothing is left to be done.
        unsafe { call(number::EXIT_GROUP, [code as usize, 0, 0, 0, 0, 0]) };
    }
}

unsafe extern "C" {
    #[cfg(feature = "recorder")]
    pub(crate) fn abort() -> !;
    pub(crate) fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    pub(crate) fn dladdr(address: *const c_void, found: *mut DlInfo) -> c_int;
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
