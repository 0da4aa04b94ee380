//! Attaches many sites with one link (`uprobe_multi`, Linux 6.6). They are attached and removed
//! together, whereas perf events are attached one after another, each waiting for the kernel.
//!
//! aya does not support such links yet. It makes the maps; the programs are loaded and linked here
//! with bpf(2), and so are the programs with a built-in cookie (`by_site.rs`) on perf events.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::sys::SyscallError;
use aya_obj::Object;
use aya_obj::generated::bpf_attach_type::BPF_TRACE_UPROBE_MULTI;
use aya_obj::generated::bpf_func_id::BPF_FUNC_probe_read_kernel;
use aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_KPROBE;
use aya_obj::generated::{BPF_ALU64, BPF_CALL, BPF_EXIT, BPF_JMP, BPF_K, BPF_MOV};
use aya_obj::generated::{
    BPF_F_UPROBE_MULTI_RETURN, PERF_FLAG_FD_CLOEXEC, bpf_attr, bpf_cmd, bpf_insn, perf_event_attr,
};

/// A program that is loaded for multi-links.
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

    /// The same for a kernel whose memory BPF programs may not read: each attempt fails instead.
    pub(super) fn without_kernel_reads(mut self) -> Self {
        const CALL: u8 = (BPF_JMP | BPF_CALL) as u8;
        const MOVE: u8 = (BPF_ALU64 | BPF_MOV | BPF_K) as u8;
        let functions = self.0.functions.values_mut();
        for one in functions.flat_map(|function| &mut function.instructions) {
            let is_helper = one.code == CALL && one.src_reg() == 0;
            if is_helper && one.imm == BPF_FUNC_probe_read_kernel as i32 {
                *one = instruction(MOVE, 0, -libc::EPERM);
            }
        }
        self
    }

    /// Loads the program of this name; `None` if there is none or the kernel rejects it.
    pub(super) fn load(&self, name: &str, at_return: bool) -> Option<MultiProgram> {
        let instructions = self.instructions(name)?;
        let fd = load(instructions, &self.0.license, BPF_TRACE_UPROBE_MULTI as u32);
        Some(MultiProgram {
            fd: fd.ok()?,
            at_return,
        })
    }

    /// The instructions of the program of this name, including the functions that it calls.
    pub(super) fn instructions(&self, name: &str) -> Option<&[bpf_insn]> {
        let program = self.0.programs.get(name)?;
        let function = self.0.functions.get(&program.function_key())?;
        Some(&function.instructions)
    }

    /// Loads these instructions, to be attached as a perf event's program.
    pub(super) fn load_for_event(&self, instructions: &[bpf_insn]) -> io::Result<OwnedFd> {
        load(instructions, &self.0.license, 0)
    }
}

/// Whether the kernel has such links, tested with a program that does nothing.
pub(super) fn is_supported() -> bool {
    let nothing = [
        instruction((BPF_ALU64 | BPF_MOV | BPF_K) as u8, 0, 0),
        instruction((BPF_JMP | BPF_EXIT) as u8, 0, 0),
    ];
    let fd = load(&nothing, c"GPL", BPF_TRACE_UPROBE_MULTI as u32);
    let program = fd.map(|fd| MultiProgram {
        fd,
        at_return: false,
    });
    program.is_ok_and(|program| program.is_usable())
}

/// Loads instructions of a program for probes.
fn load(instructions: &[bpf_insn], license: &CStr, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: all bytes of the union are zero, which this member may be.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = BPF_PROG_TYPE_KPROBE as u32;
    load.expected_attach_type = attach_type;
    load.insns = instructions.as_ptr() as u64;
    load.insn_cnt = instructions.len() as u32;
    load.license = license.as_ptr() as u64;
    // SAFETY: `attr` points at instructions and a licence that outlive the call.
    unsafe { bpf_descriptor(bpf_cmd::BPF_PROG_LOAD, &mut attr) }
}

impl MultiProgram {
    /// Its descriptor.
    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Whether this kernel creates such links and scopes them by process. Before Linux 6.10, unless
    /// fixed by a backport, they were scoped by thread, and no pid was rejected as invalid.
    pub(super) fn is_usable(&self) -> bool {
        let asked = |pid| {
            let refused = self.link(Path::new("/"), pid, &[(0, 0)]).err();
            refused.and_then(|error| error.io_error.raw_os_error())
        };
        // A directory has no instructions: that is rejected last.
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

/// The files in which the kernel gives the type number of uprobes, and the bit for return probes.
const UPROBE_TYPE: &str = "/sys/bus/event_source/devices/uprobe/type";
const UPROBE_RETURN_BIT: &str = "/sys/bus/event_source/devices/uprobe/format/retprobe";

/// Attaches a program in process `pid` at `offset` of the file at `path`, with a perf event alone:
/// without a link and so without a cookie. The probe is gone when the descriptor is closed.
pub(super) fn attach_event(
    program: &OwnedFd,
    path: &Path,
    pid: u32,
    offset: u64,
    at_return: bool,
) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: plain numbers, for all of which zero is a valid value.
    let mut asked: perf_event_attr = unsafe { std::mem::zeroed() };
    asked.type_ = number_in(UPROBE_TYPE)?;
    asked.size = size_of::<perf_event_attr>() as u32;
    asked.config = match at_return {
        true => 1 << number_in(UPROBE_RETURN_BIT)?,
        false => 0,
    };
    asked.__bindgen_anon_3.config1 = path.as_ptr() as u64;
    asked.__bindgen_anon_4.config2 = offset;
    let (any_cpu, no_group) = (-1, -1);
    let close_on_exec = PERF_FLAG_FD_CLOEXEC;
    // SAFETY: `asked` is as long as it says, and points to a path that outlives the call.
    let fd = unsafe {
        let asked = &raw const asked;
        libc::syscall(
            libc::SYS_perf_event_open,
            asked,
            pid,
            any_cpu,
            no_group,
            close_on_exec,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else owns the descriptor that the kernel returned.
    let event = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    event_control(&event, PERF_EVENT_IOC_SET_BPF, program.as_raw_fd())?;
    event_control(&event, PERF_EVENT_IOC_ENABLE, 0)?;
    Ok(event)
}

/// Commands on perf events (`include/uapi/linux/perf_event.h`).
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = nix::request_code_none!(b'$', 0);
const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = nix::request_code_write!(b'$', 8, size_of::<u32>());

fn event_control(event: &OwnedFd, command: libc::c_ulong, argument: RawFd) -> io::Result<()> {
    // SAFETY: a descriptor of our own, and a command that takes a number.
    match unsafe { libc::ioctl(event.as_raw_fd(), command, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The number in a file of the kernel's, as `6` or `config:0`.
fn number_in(path: &str) -> io::Result<u32> {
    let text = profiler_target::kernel_text(path)?;
    let number = text
        .trim()
        .rsplit(':')
        .next()
        .and_then(|number| number.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// How often a command is given that a signal interrupts. Each signal is handled in between.
const MAX_TRIES: u32 = 1000;

/// An instruction on the register of results, without an offset.
pub(super) fn instruction(code: u8, source: u8, immediate: i32) -> bpf_insn {
    // SAFETY: plain numbers, for all of which zero is a valid value.
    let mut made: bpf_insn = unsafe { std::mem::zeroed() };
    made.code = code;
    made.set_src_reg(source);
    made.imm = immediate;
    made
}

/// The arguments of a command, all zero.
pub(super) fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain numbers, for all of which zero is a valid value.
    unsafe { std::mem::zeroed() }
}

/// A command that returns a new descriptor.
///
/// # Safety
/// What `attr` points to is as the command expects it.
unsafe fn bpf_descriptor(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: nobody else owns the descriptor that the kernel returned.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs a bpf command. The verifier gives up on a program if a signal is pending (`do_check` in
/// `kernel/bpf/verifier.c`): then the command is repeated.
///
/// # Safety
/// What `attr` points to is as the command expects it.
pub(super) unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    for _ in 0..MAX_TRIES {
        let (attr, size) = (&raw mut *attr, size_of::<bpf_attr>());
        // SAFETY: `attr` is as long as said, and the caller vouches for what it points to.
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
