//! The BPF programs, which turn hits of the probed instructions into events.
//!
//! Four programs serve all functions; the cookie of each attached site says which function it is
//! and how to read its arguments. An allocator's functions call each other (realloc calls malloc
//! and free), so a function whose entry is probed leaves a record for its thread, and nested calls
//! of that thread are not counted meanwhile.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod call;
mod event;
mod growth;
mod maps;
mod registers;
mod stack;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::{bpf_get_attach_cookie, bpf_get_current_pid_tgid, bpf_probe_read_user};
use aya_ebpf::macros::{raw_tracepoint, tracepoint, uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext, RetProbeContext, TracePointContext};
use profiler_common::{Arguments, Call, Cookie, RecordKind};

use crate::event::{allocated, emit, takes_old};
use crate::registers::Probed;

/// One hit, counted, in an open window, of the process that is profiled.
struct Hit {
    cookie: Cookie,
    tid: u32,
}

impl Hit {
    #[inline(always)]
    fn count(context: *mut core::ffi::c_void) -> Option<Self> {
        // SAFETY: `context` is the context that the kernel gave to this program.
        let cookie = Cookie(unsafe { bpf_get_attach_cookie(context) });
        let config = maps::CONFIG.get(0)?;
        let id = bpf_get_current_pid_tgid();
        if config.tgid != 0 && config.tgid != (id >> 32) as u32 {
            return None;
        }
        if let Some(hits) = maps::HITS.get_ptr_mut(cookie.site()) {
            // SAFETY: the map's element.
            unsafe { maps::add_one(hits) };
        }
        (config.open != 0).then_some(Self {
            cookie,
            tid: id as u32,
        })
    }
}

/// Entry of `free`.
#[uprobe]
pub fn on_free(context: ProbeContext) -> u32 {
    if let Some(hit) = Hit::count(context.as_ptr()) {
        // SAFETY: the registers of the interrupted thread, valid while the program runs.
        let registers = unsafe { &*context.regs };
        let (block, _, _) = registers.arguments();
        if block != 0 && !call::is_nested(hit.tid, registers.stack_pointer()) {
            emit(hit.tid, RecordKind::Free, block, 0, 0);
        }
    }
    0
}

/// Entry of any other function: its arguments are kept until its return.
#[uprobe]
pub fn on_entry(context: ProbeContext) -> u32 {
    if let Some(hit) = Hit::count(context.as_ptr()) {
        // SAFETY: the registers of the interrupted thread, valid while the program runs.
        let registers = unsafe { &*context.regs };
        if !call::is_nested(hit.tid, registers.stack_pointer()) {
            entered(&hit, registers);
        } else if hit.cookie.has(Arguments::OldSize) {
            call::set_size(hit.tid, registers.arguments().1);
        }
    }
    0
}

#[inline(always)]
fn entered(hit: &Hit, registers: &pt_regs) {
    let (first, second, third) = registers.arguments();
    let cookie = hit.cookie;
    let size = if cookie.has(Arguments::Size) {
        first
    } else if cookie.has(Arguments::CountSize) {
        product(first, second)
    } else if cookie.has(Arguments::OldCountSize) && cookie.chunk_header() {
        // Only the old block is certain to be in its register still. An overflowing product fails
        // at once, and any other reaches realloc, which has the size.
        u64::MAX
    } else if cookie.has(Arguments::OldCountSize) {
        product(second, third)
    } else if cookie.has(Arguments::ResultAlignmentSize) {
        third
    } else {
        second
    };
    let align = if cookie.chunk_header() {
        0
    } else if cookie.has(Arguments::AlignmentSize) {
        log2(first)
    } else if cookie.has(Arguments::ResultAlignmentSize) {
        log2(second)
    } else {
        0
    };
    call::enter(
        hit.tid,
        &Call {
            stack_pointer: registers.stack_pointer(),
            size,
            pointer: first,
            probe: cookie.probe(),
            leaf: cookie.leaf().into(),
            align,
            return_address: return_address(registers),
        },
    );
    if takes_old(cookie) && first != 0 {
        // A realloc to 0 bytes is a free, unless it returns a block, which is then a new one.
        let kind = if size == 0 {
            RecordKind::Free
        } else {
            RecordKind::Realloc
        };
        emit(hit.tid, kind, first, 0, 0);
    }
}

/// The return address of the function whose entry this is, if the stacks of growth inside it are
/// wanted: they have another address there once its return is probed.
#[inline(always)]
fn return_address(registers: &pt_regs) -> u64 {
    let is_wanted = maps::CONFIG
        .get(0)
        .is_some_and(|config| config.native_stacks != 0 && config.growth_mean_bytes != 0);
    if !is_wanted {
        return 0;
    }
    registers::return_address(registers)
}

/// The product of calloc's arguments; for one that may overflow, and is too large in any case, the
/// largest number.
#[inline(always)]
fn product(count: u64, size: u64) -> u64 {
    if log2(count) + log2(size) >= 63 {
        return u64::MAX;
    }
    count.wrapping_mul(size)
}

/// The position of the highest bit; for powers of two their logarithm.
#[inline(always)]
fn log2(mut value: u64) -> u16 {
    let mut place = 0;
    for half in [32, 16, 8, 4, 2, 1] {
        if value >> half != 0 {
            value >>= half;
            place += half;
        }
    }
    place as u16
}

/// A place in a function's body at which the result register contains the function's own result.
#[uprobe]
pub fn on_result(context: ProbeContext) -> u32 {
    if let Some(hit) = Hit::count(context.as_ptr()) {
        // SAFETY: the registers of the interrupted thread, valid while the program runs.
        let registers = unsafe { &*context.regs };
        if hit.cookie.entry_probed() {
            returned(&hit, registers);
        } else if registers.result() != 0
            && !call::is_nested(hit.tid, registers.stack_pointer())
        {
            allocated(hit.tid, hit.cookie, registers.result(), None, registers);
        }
    }
    0
}

/// Return of a function.
#[uretprobe]
pub fn on_return(context: RetProbeContext) -> u32 {
    if let Some(hit) = Hit::count(context.as_ptr()) {
        // SAFETY: the registers of the interrupted thread, valid while the program runs.
        let registers = unsafe { &*context.regs };
        if hit.cookie.entry_probed() {
            returned(&hit, registers);
        } else if registers.result() != 0
            && !call::is_nested(hit.tid, registers.stack_pointer())
        {
            allocated(hit.tid, hit.cookie, registers.result(), None, registers);
        }
    }
    0
}

#[inline(always)]
fn returned(hit: &Hit, registers: &pt_regs) {
    let (cookie, result) = (hit.cookie, registers.result());
    let Some(call) = call::leave(hit.tid, cookie.probe()) else {
        return;
    };
    let block = if !cookie.has(Arguments::ResultAlignmentSize) {
        result
    } else if result as u32 == 0 {
        // SAFETY: the helper checks the address, which is the target's.
        unsafe { bpf_probe_read_user(call.pointer as *const u64) }.unwrap_or(0)
    } else {
        0
    };
    if block != 0 {
        allocated(hit.tid, cookie, block, Some(&call), registers);
    } else if takes_old(cookie) && call.pointer != 0 && call.size != 0 {
        event::kept(hit.tid, cookie, call.pointer);
    }
}

/// A thread ends: after its last call.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn on_thread_end(_: RawTracePointContext) -> i32 {
    emit_of_thread(RecordKind::ThreadEnd);
    0
}

/// A process becomes another program.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn on_exec(_: RawTracePointContext) -> i32 {
    emit_of_thread(RecordKind::Start);
    0
}

#[inline(always)]
fn emit_of_thread(kind: RecordKind) {
    let Some(config) = maps::CONFIG.get(0) else {
        return;
    };
    let id = bpf_get_current_pid_tgid();
    // Every process of the host passes here: without a pid that identifies the target, none counts.
    if config.open != 0 && config.tgid != 0 && config.tgid == (id >> 32) as u32 {
        emit(id as u32, kind, 0, 0, 0);
    }
}

/// A system call ends.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn on_call_end(context: RawTracePointContext) -> i32 {
    growth::called(&context);
    0
}

/// A page that is not present and that the target, or the kernel on its behalf, needs.
#[raw_tracepoint(tracepoint = "page_fault_user")]
pub fn on_page_fault(context: RawTracePointContext) -> i32 {
    growth::faulted(&context);
    0
}

/// The offset of the pid in `mark_victim`, in every version (`include/trace/events/oom.h`): its
/// other fields, and the arguments of the raw tracepoint, changed with Linux 6.9.
const VICTIM: usize = 8;

/// The kernel's OOM killer has chosen a process, which it ends.
#[tracepoint(category = "oom", name = "mark_victim")]
pub fn on_oom_victim(context: TracePointContext) -> u32 {
    // SAFETY: the field is there, and the helper checks the address.
    if let Ok(pid) = unsafe { context.read_at::<i32>(VICTIM) } {
        // Of more than a page of them at once the rest is not known one by one.
        let _full = maps::VICTIMS.output::<i32>(&pid, 0);
    }
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel gives some helpers, `bpf_probe_read_user` among them, only to programs under a
/// licence that is compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
