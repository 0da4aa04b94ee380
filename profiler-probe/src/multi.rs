//! Many sites attached by one link (`uprobe_multi`, Linux 6.6): they are set and removed together,
//! where perf events go one after the other, each waiting for the kernel by itself.
//!
//! aya has no such links yet. It makes the maps; the programs are loaded and linked here by bpf(2).

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::sys::SyscallError;
use aya_obj::Object;
use aya_obj::generated::bpf_attach_type::BPF_TRACE_UPROBE_MULTI;
use aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_KPROBE;
use aya_obj::generated::{BPF_F_UPROBE_MULTI_RETURN, bpf_attr, bpf_cmd};

/// A program that is loaded for such links.
pub(super) struct MultiProgram {
    fd: OwnedFd,
    /// Whether it runs when the function returns.
    at_return: bool,
}

/// The parsed object, its instructions naming maps that exist.
pub(super) struct Relocated(Object);

impl Relocated {
    /// Parses `object`. `maps` are the names and descriptors of its maps.
    pub(super) fn new(object: &[u8], maps: &[(&str, RawFd)]) -> Option<Self> {
        let mut parsed = Object::parse(object).ok()?;
        let text: HashSet<usize> = parsed.functions.keys().map(|(index, _)| *index).collect();
        let described = parsed.maps.clone();
        let known = maps
            .iter()
            .filter_map(|(name, fd)| Some((*name, *fd, described.get(*name)?)));
        parsed.relocate_maps(known, &text).ok()?;
        parsed.relocate_calls(&text).ok()?;
        Some(Self(parsed))
    }

    /// Loads the program of this name; `None` when it is not there or the kernel does not take it.
    pub(super) fn load(&self, name: &str, at_return: bool) -> Option<MultiProgram> {
        let program = self.0.programs.get(name)?;
        let instructions = &self.0.functions.get(&program.function_key())?.instructions;
        let mut attr = zeroed();
        // SAFETY: all bytes of the union are zero, which this member may be.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = BPF_PROG_TYPE_KPROBE as u32;
        load.expected_attach_type = BPF_TRACE_UPROBE_MULTI as u32;
        load.insns = instructions.as_ptr() as u64;
        load.insn_cnt = instructions.len() as u32;
        load.license = self.0.license.as_ptr() as u64;
        // SAFETY: `attr` points at instructions and a licence that outlive the call.
        let fd = unsafe { bpf_descriptor(bpf_cmd::BPF_PROG_LOAD, &mut attr) }.ok()?;
        Some(MultiProgram { fd, at_return })
    }
}

impl MultiProgram {
    /// Its descriptor.
    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Whether this kernel makes such links and scopes them by process. Before Linux 6.10, unless
    /// mended since, they were scoped by thread, and no process number was refused as invalid.
    pub(super) fn is_usable(&self) -> bool {
        let asked = |pid| {
            let refused = self.link(Path::new("/"), pid, &[(0, 0)]).err();
            refused.and_then(|error| error.io_error.raw_os_error())
        };
        // A folder has no instructions: that is refused last.
        asked(0) == Some(libc::EBADF) && asked(u32::MAX) == Some(libc::EINVAL)
    }

    /// Attaches the program in process `pid` at all `points`, offsets in the file at `path` with
    /// their cookies, or at none of them. They are gone when the descriptor is closed.
    pub(super) fn link(
        &self,
        path: &Path,
        pid: u32,
        points: &[(u64, u64)],
    ) -> Result<OwnedFd, SyscallError> {
        let failed = |io_error| SyscallError {
            call: "bpf_link_create",
            io_error,
        };
        let path = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        let (offsets, cookies): (Vec<u64>, Vec<u64>) = points.iter().copied().unzip();
        let mut attr = zeroed();
        attr.link_create.__bindgen_anon_1.prog_fd = self.fd.as_raw_fd().cast_unsigned();
        // SAFETY: all bytes of the union are zero, which this member may be.
        let link = unsafe { &mut attr.link_create };
        link.attach_type = BPF_TRACE_UPROBE_MULTI as u32;
        // SAFETY: as above.
        let multi = unsafe { &mut link.__bindgen_anon_3.uprobe_multi };
        multi.path = path.as_ptr() as u64;
        multi.offsets = offsets.as_ptr() as u64;
        multi.cookies = cookies.as_ptr() as u64;
        multi.cnt = points.len() as u32;
        multi.flags = match self.at_return {
            true => BPF_F_UPROBE_MULTI_RETURN,
            false => 0,
        };
        multi.pid = pid;
        // SAFETY: `attr` points at a path, offsets and cookies that outlive the call.
        unsafe { bpf_descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attr) }.map_err(failed)
    }
}

/// How often a command is given that a signal interrupts. Each signal is handled in between.
const MAX_TRIES: u32 = 1000;

/// A command's arguments, of which none is given.
pub(super) fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain numbers, for all of which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// A command that gives a new descriptor.
///
/// # Safety
/// What `attr` points at is as the command expects it.
unsafe fn bpf_descriptor(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel gave this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives a command to the kernel. The verifier gives up on a program when a signal is pending
/// (`do_check` in `kernel/bpf/verifier.c`): then it is asked again.
///
/// # Safety
/// What `attr` points at is as the command expects it.
pub(super) unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    for _ in 0..MAX_TRIES {
        let (attr, size) = (&raw mut *attr, size_of::<bpf_attr>());
        // SAFETY: `attr` is as long as said, and the caller vouches for what it points at.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command as u32, attr, size) };
        match i32::try_from(result) {
            Ok(result) if result >= 0 => return Ok(result),
            _ => {}
        }
        let error = io::Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) {
            return Err(error);
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}
