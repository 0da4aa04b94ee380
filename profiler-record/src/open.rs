//! Finds the ring of `fragscope record` and maps it.

use core::ffi::{c_char, c_void};

use profiler_common::ring::{
    Header, Leaves, READER_BYTES, READER_MAGIC, RING_BYTES, RING_MAGIC, RING_NAME, ReaderPage,
    SLOTS_AT,
};

use crate::environment::Environment;
use crate::ring::Ring;
use crate::status::Status;
use crate::{filter, next, root, sys};

/// The environment's description of the ring.
pub(crate) struct Named {
    ring: Place,
    reader: Place,
    /// How many filters of system calls the reader runs behind itself: a container's filter is fragscope's as well.
    pub(crate) filters: u32,
}

impl Named {
    /// The description, if there is one.
    ///
    /// # Safety
    /// The environment is not changed at the same moment: called from the object's constructor.
    pub(crate) unsafe fn by(environment: Environment) -> Option<Self> {
        // SAFETY: as the caller promises.
        let named = unsafe { environment.get(RING_NAME) }?;
        let mut words = named.to_bytes().split(|&byte| byte == b' ');
        let (ring, reader) = (Place::parse(&mut words)?, Place::parse(&mut words)?);
        let filters = u32::try_from(decimal(words.next()?)?).ok()?;
        let named = Self {
            ring,
            reader,
            filters,
        };
        words.next().is_none().then_some(named)
    }

    /// Maps the ring, if it is there and is that ring. If not, the program runs unrecorded and is
    /// not bothered: fragscope may be gone, and the path may belong to another.
    pub(crate) fn map(&self, status: &Status) -> Option<Ring> {
        let user = status.user;
        let page = self
            .reader
            .map(READER_BYTES, READER_BYTES, Access::Read, READER_MAGIC, user)?;
        let map_ring = |bytes| {
            let ring = &self.ring;
            ring.map(RING_BYTES, bytes, Access::Write, RING_MAGIC, user)
        };
        let Some(header) = map_ring(RING_BYTES) else {
            if let Some(head) = map_ring(SLOTS_AT) {
                // SAFETY: the mapping made just now, which contains the header; it is atomic.
                let shared = unsafe { &*head.cast::<Header>() };
                // SAFETY: the mapping of the page, made above.
                let page = unsafe { &*page.cast::<ReaderPage>() };
                Ring::new(shared, page).left(Leaves::NoAddresses);
                // SAFETY: the mapping made just now, of this length, to which nothing refers any
                // more.
                unsafe { sys::unmap(head, SLOTS_AT) };
            }
            // SAFETY: the mapping made above, of this length.
            unsafe { sys::unmap(page, READER_BYTES) };
            return None;
        };
        // SAFETY: the mapping made above, of this form, which stays unless this gives none; all shared fields are atomic.
        let shared = unsafe { &*header.cast::<Header>() };
        // SAFETY: as above.
        let ring = Ring::new(shared, unsafe { &*page.cast::<ReaderPage>() });
        // It was found in the same `/proc` as the status.
        if !status.is_numbered_here {
            ring.left(Leaves::Namespace);
            // SAFETY: the mapping made above, of this length; the ring is not used any more.
            unsafe { sys::unmap(header, RING_BYTES) };
            // SAFETY: as above.
            unsafe { sys::unmap(page, READER_BYTES) };
            return None;
        }
        // Of a crash of the program the core is to have the program's own memory.
        let _ = filter::unless_filtered(|| {
            // SAFETY: the mapping made above, of this length, whose content is unchanged by this.
            unsafe { sys::advise(header, RING_BYTES, sys::MADV_DONTDUMP) };
        });
        Some(ring)
    }
}

/// How a file is mapped.
#[derive(Copy, Clone)]
enum Access {
    Read,
    Write,
}

impl Access {
    /// The flag of `open(2)` and the protection of `mmap(2)`.
    fn flags(self) -> (i32, i32) {
        match self {
            Self::Read => (sys::O_RDONLY, sys::PROT_READ),
            Self::Write => (sys::O_RDWR, sys::PROT_READ_WRITE),
        }
    }
}

/// Maps `bytes` bytes of a file that begins with `magic`.
fn map(fd: i32, bytes: usize, protection: i32, magic: u64) -> Option<*mut c_void> {
    let at = sys::map_shared(bytes, protection, fd)?;
    // SAFETY: the file is as long as the mapping and cannot be made shorter; both were checked.
    if unsafe { at.cast::<u64>().read() } == magic {
        return Some(at);
    }
    // SAFETY: the mapping made above, of this length.
    unsafe { sys::unmap(at, bytes) };
    None
}

/// The path of one of the files, and what distinguishes it from anything else that may be there.
struct Place {
    path: [u8; 64],
    device: u64,
    inode: u64,
}

impl Place {
    fn parse<'w>(words: &mut impl Iterator<Item = &'w [u8]>) -> Option<Self> {
        let (path, device, inode) = (words.next()?, words.next()?, words.next()?);
        let mut place = Self {
            path: [0; 64],
            device: decimal(device)?,
            inode: decimal(inode)?,
        };
        // With a terminating zero.
        if path.is_empty() || path.len() >= place.path.len() {
            return None;
        }
        for (to, from) in place.path.iter_mut().zip(path) {
            *to = *from;
        }
        Some(place)
    }

    fn path(&self) -> *const c_char {
        self.path.as_ptr().cast()
    }

    /// Maps the first `bytes` of the file there, if it is the one that fragscope made, with the
    /// size `all`.
    fn map(
        &self,
        all: usize,
        bytes: usize,
        access: Access,
        magic: u64,
        user: u32,
    ) -> Option<*mut c_void> {
        let (flags, protection) = access.flags();
        // A handle that touches nothing: whatever is at the path now is neither read nor woken up.
        // SAFETY: a zero-terminated path.
        let handle = unsafe { sys::open(self.path(), sys::O_PATH | sys::O_CLOEXEC) };
        if handle < 0 {
            return None;
        }
        let mut mapped = None;
        let mut lacks_descriptors = false;
        if self.is_it(handle, all, user) {
            let path = Numbered::descriptor(handle);
            // SAFETY: a zero-terminated path.
            let fd = unsafe { sys::open(path.path(), flags | sys::O_CLOEXEC) };
            if fd >= 0 {
                mapped = map(fd, bytes, protection, magic);
                sys::close(fd);
            }
            lacks_descriptors = fd == -sys::EMFILE;
        }
        sys::close(handle);
        if lacks_descriptors {
            // The loader itself needs a descriptor, so one is available. What was there a moment
            // ago is the file.
            let flags = flags | sys::O_CLOEXEC | sys::O_NONBLOCK;
            // SAFETY: a zero-terminated path.
            let fd = unsafe { sys::open(self.path(), flags) };
            if fd >= 0 {
                if self.is_it(fd, all, user) {
                    mapped = map(fd, bytes, protection, magic);
                }
                sys::close(fd);
            }
        }
        mapped
    }

    /// Whether the handle refers to the very file that fragscope made: the kernel uses the numbers
    /// of its files in memory only once, and nobody but root creates a file that belongs to root.
    fn is_it(&self, handle: i32, bytes: usize, user: u32) -> bool {
        let found = match filter::is_filtered() {
            // Known without asking whoever serves the file: it may be another's, who makes us wait.
            false => root::about(handle, c"", sys::AT_EMPTY_PATH),
            // The call that the loader makes for each library that it loads.
            true => next::about(handle),
        };
        found.is_some_and(|found| {
            found.device == self.device
                && found.inode == self.inode
                && (found.user == 0 || found.user == user)
                && found.mode & sys::S_IFMT == sys::S_IFREG
                && found.bytes == bytes as u64
        })
    }
}

/// A number of digits and nothing else.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    let mut number = (!digits.is_empty()).then_some(0u64)?;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(number)
}

/// A zero-terminated path that ends in a number.
struct Numbered([u8; 32]);

impl Numbered {
    /// One of this process's descriptors.
    fn descriptor(fd: i32) -> Self {
        Self::of(b"/proc/self/fd/", fd.unsigned_abs())
    }

    /// Nothing here can panic: there is no standard library to do so.
    fn of(before: &[u8], number: u32) -> Self {
        const DIGITS: [u32; 10] = [
            1_000_000_000,
            100_000_000,
            10_000_000,
            1_000_000,
            100_000,
            10_000,
            1_000,
            100,
            10,
            1,
        ];
        let digits = DIGITS.iter().filter(|unit| number >= **unit || **unit == 1);
        let digits = digits.map(|unit| b'0' + (number.checked_div(*unit).unwrap_or(0) % 10) as u8);
        let mut path = [0; 32];
        for (to, from) in path.iter_mut().zip(before.iter().copied().chain(digits)) {
            *to = from;
        }
        Self(path)
    }

    fn path(&self) -> *const c_char {
        self.0.as_ptr().cast()
    }
}
