//! The native functions of sampled threads. The BPF programs copy the threads' stacks; the callers
//! are found here with the tables of the target's own files.
//!
//! The files are found and read like all files of the target, when a place in them is first met.
//! Their tables are kept for the session.

mod files;
mod mapped;
mod names;
mod tables;
mod unwind;

use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashMap;
use nix::time::{ClockId, clock_gettime};
use profiler_common::PAGE_BYTES;
use profiler_common::sampling::{NativeCopy, RawNative, RawStack, Registers, STACK_PAGES};
use profiler_core::allocator::is_c_library_name;
use profiler_core::machine::Machine;
use profiler_core::sites::{
    Frame, NativeEnd, NativeFrame, NativeRole, NativeSampling, with_native,
};
use profiler_core::text::visible;
use profiler_target::{Process, Target};

use self::mapped::MappedCode;
use self::unwind::{StackCopy, Step, Unwinder};
use super::plan::{Function, MallocObject};

/// The most native functions of a stack.
const MAX_FRAMES: usize = 256;
/// Places whose names are remembered.
const MAX_PLACES: usize = 1 << 16;
/// The name for the code that a signal handler returns to.
const SIGNAL: &str = "(signal handler called)";
/// Copies whose sample has not come: one thread has one at a time.
const MAX_PENDING: usize = 256;

/// Finds the native functions of one target's samples.
pub(super) struct NativeStacks {
    code: MappedCode,
    unwinder: Unwinder,
    malloc: Malloc,
    places: HashMap<(u32, u64), Place>,
    /// The copy that belongs to the thread's next sample, by thread.
    pending: HashMap<u32, Box<RawNative>>,
    sampling: NativeSampling,
    /// Until when functions are looked up.
    until: Option<Instant>,
}

/// The file that serves malloc.
struct Malloc {
    path: String,
    /// Whether it does nothing else.
    is_dedicated: bool,
}

/// A place in a file's code.
#[derive(Clone)]
struct Place {
    function: NativeFrame,
    outwards: Outwards,
}

/// What lies outwards of a place.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Outwards {
    /// What called the function.
    Caller,
    /// A signal handler returns to the place, and the file says what it interrupted.
    Interrupted,
    /// The same, but the file says nothing about it.
    Unknown,
}

/// Whether the registers are those of a place to which a function returns whose caller is known
/// otherwise: the kernel has put that place where the function has its return address.
fn is_probed_return(copy: &RawNative, registers: &Registers) -> bool {
    // On aarch64 it is in a register, and the stack pointer is the one at the entry.
    let slot = match Machine::OWN {
        Machine::X86_64 => registers.stack.wrapping_sub(size_of::<u64>() as u64),
        Machine::Aarch64 => registers.stack,
    };
    copy.return_address != 0
        && copy.return_slot == slot
        && copy.return_address != registers.instruction
}

impl NativeStacks {
    /// The native stacks of a target whose malloc is served by this object.
    pub(super) fn of(target: Target, object: &MallocObject) -> Self {
        let path = object.target_path().to_owned();
        let has_others =
            is_c_library_name(&path) || object.identity.in_python || target.is_program(&path);
        Self {
            malloc: Malloc {
                is_dedicated: object.identity.kind.is_some() && !has_others,
                path,
            },
            code: MappedCode::of(target),
            unwinder: Unwinder::new(Machine::OWN),
            places: HashMap::new(),
            pending: HashMap::new(),
            sampling: NativeSampling::default(),
            until: None,
        }
    }

    /// The state of native sampling so far.
    pub(super) fn sampling(&self) -> NativeSampling {
        NativeSampling {
            unread_files: self.code.unread().to_vec(),
            ..self.sampling.clone()
        }
    }

    /// The target's mappings may differ from now on.
    pub(super) fn look_again(&mut self) {
        self.code.look_again();
    }

    /// Keeps a copy until its sample comes.
    pub(super) fn keep(&mut self, copy: &RawNative) {
        // Some of threads whose sample was lost.
        if self.pending.len() >= MAX_PENDING {
            self.pending.clear();
        }
        self.pending.insert(copy.event.tid, Box::new(*copy));
    }

    /// The functions of a sample whose Python functions are known.
    pub(super) fn add(&mut self, sample: &RawStack, python: Vec<Frame>) -> Vec<Frame> {
        let copy = NativeCopy::ALL.get(sample.native as usize).copied();
        let copied = match copy.unwrap_or(NativeCopy::None) {
            NativeCopy::None => return python,
            NativeCopy::Copied => self.pending.remove(&sample.event.tid),
            NativeCopy::NoRoom => return self.without(NativeEnd::NoRoom, python),
            NativeCopy::Unreadable => return self.without(NativeEnd::Unreadable, python),
        };
        let time_ns = sample.event.time_ns;
        let Some(copy) = copied.filter(|copy| copy.event.time_ns == time_ns) else {
            return self.without(NativeEnd::Unreadable, python);
        };
        self.sampling.copied += 1;
        let began = processor_ns();
        let (native, end) = self.functions(&copy, !python.is_empty());
        let took = processor_ns().saturating_sub(began);
        self.sampling.unwinding_ns += took;
        with_native(native, end, python)
    }

    fn without(&mut self, end: NativeEnd, python: Vec<Frame>) -> Vec<Frame> {
        self.sampling.not_copied += 1;
        with_native(Vec::new(), end, python)
    }

    /// Stacks are cut from then on.
    pub(super) fn find_until(&mut self, until: Instant) {
        self.until = Some(until);
    }

    /// The native functions from the innermost one on, up to one that runs Python functions if
    /// there are any, and why there are no more.
    fn functions(&mut self, copy: &RawNative, has_python: bool) -> (Vec<NativeFrame>, NativeEnd) {
        let mut registers = copy.registers;
        let above = registers.stack as usize % PAGE_BYTES;
        let pages = STACK_PAGES.min(copy.pages as usize);
        let stack = StackCopy {
            start: registers.stack,
            bytes: copy
                .bytes
                .get(above..pages * PAGE_BYTES)
                .unwrap_or_default(),
        };
        let mut found = Vec::new();
        // A caller is known by the return address of its call, which may be the next function's
        // first instruction.
        let mut into = 0;
        while found.len() < MAX_FRAMES && self.until.is_none_or(|until| Instant::now() < until) {
            let place = registers.instruction.wrapping_sub(into);
            let (file, address) = match self.code.locate(place, copy.event.time_ns, self.until) {
                Ok(located) => located,
                Err(NativeEnd::NoFile | NativeEnd::ProbedReturn)
                    if is_probed_return(copy, &registers) =>
                {
                    registers.instruction = copy.return_address;
                    continue;
                }
                Err(end) => return (found, end),
            };
            let place = self.place((file, address), registers.instruction);
            let is_boundary = matches!(
                place.function.role,
                NativeRole::RunsPython | NativeRole::CallsPython
            );
            found.push(place.function);
            if has_python && is_boundary {
                return (found, NativeEnd::Whole);
            }
            if place.outwards == Outwards::Unknown {
                return (found, NativeEnd::Signal);
            }
            let code = (file, self.code.file(file));
            let end = match self.unwinder.step(code, address, &mut registers, &stack) {
                Step::Caller => {
                    into = 1;
                    continue;
                }
                // It is exactly there, perhaps at a function's first instruction.
                Step::Interrupted => {
                    into = 0;
                    continue;
                }
                Step::Outermost => NativeEnd::Whole,
                // The handler has its own stack, and no other is copied.
                _ if place.outwards == Outwards::Interrupted => NativeEnd::Signal,
                Step::Beyond => NativeEnd::Cut,
                Step::NoTable => NativeEnd::NoTable,
                Step::Damaged => NativeEnd::Damaged,
            };
            return (found, end);
        }
        (found, NativeEnd::Cut)
    }

    /// What is at one of a file's own addresses, to which the target returns by its own address.
    fn place(&mut self, (file, address): (u32, u64), returns_to: u64) -> Place {
        if let Some(known) = self.places.get(&(file, address)) {
            return known.clone();
        }
        let mut function = self.find_function(file, address);
        let is_of_signal = self.code.file(file).is_of_signal(address);
        let returns_from_signal = is_of_signal || self.code.returns_from_signal(returns_to);
        if returns_from_signal {
            // What a symbol says there, or the function before it.
            function.frame.function = SIGNAL.into();
            (function.role, function.is_named) = (NativeRole::Other, true);
        }
        let place = Place {
            function,
            outwards: match (returns_from_signal, is_of_signal) {
                (false, _) => Outwards::Caller,
                (true, true) => Outwards::Interrupted,
                (true, false) => Outwards::Unknown,
            },
        };
        if self.places.len() >= MAX_PLACES {
            self.places.clear();
        }
        self.places.insert((file, address), place.clone());
        place
    }

    fn find_function(&mut self, file: u32, address: u64) -> NativeFrame {
        let path = Arc::clone(self.code.path(file));
        let is_malloc = *path == *self.malloc.path;
        let is_dedicated = self.malloc.is_dedicated;
        let symbol = self.code.symbol(file, address);
        let role = match symbol {
            _ if is_malloc && is_dedicated => NativeRole::Allocates,
            Some(symbol) if is_malloc && is_of_malloc(symbol) => NativeRole::Allocates,
            Some(symbol) if is_c_library_name(&path) && is_system_call(symbol) => {
                NativeRole::Allocates
            }
            // Of glibc's, all that malloc calls is hidden.
            None if is_malloc && is_c_library_name(&path) => NativeRole::Allocates,
            Some(symbol) => NativeRole::of_symbol(symbol),
            None => NativeRole::Other,
        };
        let is_named = symbol.is_some();
        let function = match symbol {
            Some(symbol) => names::shown(symbol),
            None => {
                let file = path.rsplit('/').next().unwrap_or_default();
                format!("{file}+{address:#x}")
            }
        };
        NativeFrame {
            frame: Frame::native(visible(&function).to_string().into(), self.code.shown(file)),
            role,
            is_named,
        }
    }
}

/// Whether a symbol of a C library is of malloc's family, or of what that calls.
fn is_of_malloc(symbol: &str) -> bool {
    const INNER: [&str; 7] = [
        "default_morecore",
        "glibc_morecore",
        "sysmalloc",
        "sysmalloc_mmap",
        "tcache_init",
        "malloc_impl",
        "malloc_hook_ini",
    ];
    let name = symbol.split('.').next().unwrap_or_default();
    let name = name.trim_start_matches('_');
    let inner = ["libc_", "int_", "mid_"].iter();
    let name = inner.fold(name, |name, begin| name.strip_prefix(begin).unwrap_or(name));
    INNER.contains(&name) || Function::ALL.iter().any(|function| function.name() == name)
}

/// Whether a symbol of a C library is a function that asks the kernel for memory, or returns it:
/// growth is shown at its caller.
fn is_system_call(symbol: &str) -> bool {
    const CALLS: [&str; 8] = [
        "mmap", "mmap64", "munmap", "mprotect", "madvise", "mremap", "brk", "sbrk",
    ];
    CALLS.contains(&symbol.trim_start_matches('_'))
}

/// This thread's processor time so far, in ns.
fn processor_ns() -> u64 {
    ns_of(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// The reading of a clock, in ns.
fn ns_of(clock: ClockId) -> u64 {
    let now = clock_gettime(clock).expect("Linux always has this clock");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_malloc_calls_to_grow_is_of_malloc() {
        // Exported by glibc, between sbrk and functions without a name.
        for name in [
            "malloc",
            "__libc_realloc",
            "_int_malloc",
            "sysmalloc.part.0",
            "__default_morecore",
        ] {
            assert!(is_of_malloc(name), "{name}");
        }
        for name in [
            "strdup",
            "__fopen_internal",
            "morecore",
            "malloc_stats_of_mine",
        ] {
            assert!(!is_of_malloc(name), "{name}");
        }
    }
}
