//! Programs that change their root directory. There the recorder's path leads nowhere, or to a file
//! placed by somebody else. So the path is removed from the environment that they pass on to
//! programs they execute.

use core::ffi::{CStr, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::sys::About;
use crate::{filter, next, sys};

/// Which file the recorder was loaded from.
static DEVICE: AtomicU64 = AtomicU64::new(0);
static INODE: AtomicU64 = AtomicU64::new(0);

/// Remembers which file this is. Called from the object's constructor.
pub(crate) fn begin() {
    let own = filter::unless_filtered(|| own_path().and_then(file)).flatten();
    if let Some((device, inode)) = own {
        DEVICE.store(device, Ordering::Relaxed);
        INODE.store(inode, Ordering::Relaxed);
    }
}

/// The root directory was changed: programs executed from now on must not load the recorder, unless
/// its path still leads to it.
///
/// # Safety
/// As for C's `getenv`: the environment is not changed at the same moment.
pub(crate) unsafe fn changed() {
    let Some(own) = own_path() else {
        return;
    };
    let known = (
        DEVICE.load(Ordering::Relaxed),
        INODE.load(Ordering::Relaxed),
    );
    // If that cannot be checked, it is removed from the list.
    if filter::unless_filtered(|| file(own)).flatten() == Some(known) {
        return;
    }
    // SAFETY: a constant, zero-terminated name.
    let list = unsafe { next::getenv(c"LD_PRELOAD".as_ptr()) };
    if list.is_null() {
        return;
    }
    // SAFETY: getenv returned a zero-terminated string.
    let bytes = unsafe { CStr::from_ptr(list) }.to_bytes_with_nul();
    let Some(rest) = bytes.strip_prefix(own.to_bytes()) else {
        return;
    };
    let rest = match rest {
        [b':' | b' ', others @ ..] => others,
        [0] => rest,
        // The path of another file with the same beginning.
        _ => return,
    };
    // SAFETY: a shorter string over its own beginning, in memory that contains fragscope's value:
    // an environment is writable.
    unsafe { ptr::copy(rest.as_ptr(), list.cast_mut().cast(), rest.len()) };
}

/// The path by which the loader found this object.
fn own_path() -> Option<&'static CStr> {
    let mut found = sys::DlInfo {
        path: ptr::null(),
        base: ptr::null_mut(),
        symbol: ptr::null(),
        address: ptr::null_mut(),
    };
    let inside = ptr::from_ref(&DEVICE).cast::<c_void>();
    // SAFETY: an address of this object, and a place for the answer.
    let known = unsafe { sys::dladdr(inside, &mut found) };
    if known == 0 || found.path.is_null() {
        return None;
    }
    // SAFETY: the loader keeps the name for as long as the object is loaded.
    Some(unsafe { CStr::from_ptr::<'static>(found.path) })
}

/// The file to which a path leads: its device and inode.
fn file(path: &CStr) -> Option<(u64, u64)> {
    about(sys::AT_FDCWD, path, 0).map(|found| (found.device, found.inode))
}

/// What is known of a file without asking whoever serves it.
pub(crate) fn about(folder: c_int, path: &CStr, flags: c_int) -> Option<About> {
    let mut found = sys::Statx::default();
    let flags = flags | sys::AT_STATX_DONT_SYNC;
    // SAFETY: a zero-terminated path, and a place for the answer.
    let error = unsafe {
        sys::statx(
            folder,
            path.as_ptr(),
            flags,
            sys::STATX_BASIC_STATS,
            &mut found,
        )
    };
    (error == 0).then(|| About {
        device: found.device(),
        inode: found.inode,
        user: found.user,
        mode: found.mode.into(),
        bytes: found.size,
    })
}
