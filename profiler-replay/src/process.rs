//! Processes of the program: forks, and new ones with an empty heap.

use core::ffi::{CStr, c_char, c_int};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use profiler_common::program::{IDENTITY_VARIABLE, MAX_PROCESSES, PlayerMessage, failure};

use crate::sys::{self, Filter, FilterStep, Usage};
use crate::{clock, memory, play, thread};

/// Ends the player, after it has reported why.
pub(crate) fn fail(why: u32, detail: u64) -> ! {
    let control = memory::control();
    control.detail.store(detail, Ordering::Relaxed);
    control.failure.store(why, Ordering::Release);
    send(PlayerMessage::Failure);
    // SAFETY: nothing of this process is needed any more.
    unsafe { sys::_exit(1) }
}

/// Sends fragscope a message, and waits for its answer.
pub(crate) fn send_and_wait(message: PlayerMessage) {
    send(message);
    let mut answer = 0u8;
    // SAFETY: a place for one byte.
    let read = unsafe { sys::read(0, (&raw mut answer).cast(), 1) };
    if read != 1 {
        // fragscope is gone.
        // SAFETY: nothing of this process is needed any more.
        unsafe { sys::_exit(2) }
    }
}

fn send(message: PlayerMessage) {
    let byte = message as u8;
    // SAFETY: one byte.
    unsafe { sys::write(1, (&raw const byte).cast(), 1) };
}

/// Ends if fragscope has ended: nobody reads any more.
pub(crate) fn end_if_alone() {
    let mut said = sys::Poll {
        fd: 1,
        wanted: 0,
        found: 0,
    };
    // SAFETY: one descriptor to look at, without waiting.
    if unsafe { sys::poll(&mut said, 1, 0) } != 0 {
        // SAFETY: nothing of this process is needed any more.
        unsafe { sys::_exit(2) }
    }
}

/// Gives up executing programs, for good: this process and those that it forks do not need it. This
/// adds to what fragscope restricts; where the kernel has no filters, fragscope has already said
/// so.
pub(crate) fn never_execute() {
    // `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K` and `BPF_RET | BPF_K`
    // (`linux/bpf_common.h`); the call's number is the first field of `struct seccomp_data`.
    let step = |code, if_true, value| FilterStep {
        code,
        if_true,
        if_false: 0,
        value,
    };
    /// `SECCOMP_RET_ERRNO` with `EPERM`, and `SECCOMP_RET_ALLOW`.
    const REFUSE: u32 = 0x0005_0001;
    const ALLOW: u32 = 0x7fff_0000;
    let steps = [
        step(0x20, 0, 0),
        step(0x15, 2, sys::SYS_EXECUTE[0]),
        step(0x15, 1, sys::SYS_EXECUTE[1]),
        step(0x06, 0, ALLOW),
        step(0x06, 0, REFUSE),
    ];
    let filter = Filter {
        len: steps.len() as u16,
        steps: steps.as_ptr(),
    };
    // SAFETY: a filter of this many steps, which the kernel copies.
    unsafe {
        sys::prctl(
            sys::PR_SET_SECCOMP,
            sys::SECCOMP_MODE_FILTER,
            &raw const filter,
        )
    };
}

/// Decimal numbers separated by spaces, as fragscope and players pass them in variables; 0 for
/// missing ones.
pub(crate) fn numbers<const N: usize>(text: &[u8]) -> [u32; N] {
    let mut numbers = [0u32; N];
    for (number, word) in numbers.iter_mut().zip(text.split(|byte| *byte == b' ')) {
        for digit in word {
            let digit = u32::from(digit.wrapping_sub(b'0'));
            *number = number.wrapping_mul(10).wrapping_add(digit);
        }
    }
    numbers
}

/// The identity of a process in the program.
#[derive(Copy, Clone)]
pub(crate) struct Identity {
    /// The process's number.
    pub(crate) process: u32,
    /// The number of its first thread.
    pub(crate) thread: u32,
    /// Whether it waits for its turn, while another process waits for it to do so.
    pub(crate) is_new: bool,
}

/// Variables of the environment at most.
const ENVIRONMENT: usize = 512;
/// The length of [`IDENTITY_VARIABLE`] with its value: three numbers of at most ten digits.
const TEXT: usize = 64;

impl Identity {
    /// The process that fragscope starts.
    pub(crate) const FIRST: Self = Self {
        process: 0,
        thread: 0,
        is_new: false,
    };

    /// As a zero-terminated environment variable.
    fn text(self) -> [u8; TEXT] {
        let mut text = [0; TEXT];
        let name = IDENTITY_VARIABLE.to_bytes();
        let mut at = name.len();
        text[..at].copy_from_slice(name);
        for (before, number) in [
            (b'=', self.process),
            (b' ', self.thread),
            (b' ', u32::from(self.is_new)),
        ] {
            text[at] = before;
            let mut unit = 1_000_000_000;
            for digit in &mut text[at + 1..at + 11] {
                *digit = b'0' + (number / unit % 10) as u8;
                unit /= 10;
            }
            at += 11;
        }
        text
    }

    /// From the value of the variable.
    pub(crate) fn from_text(text: &[u8]) -> Self {
        let [process, thread, is_new] = numbers(text);
        Self {
            process,
            thread,
            is_new: is_new != 0,
        }
    }
}

/// The number of this process in the program.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Registers this process and its first thread under their numbers in the program: fragscope looks
/// at it by its pid.
fn enter(number: u32, thread: u32) {
    NUMBER.store(number, Ordering::Relaxed);
    // SAFETY: no arguments.
    let pid = unsafe { sys::getpid() };
    let (control, place) = (memory::control(), (number % MAX_PROCESSES) as usize);
    control.stacks[place].store(memory::stacks().addr() as u64, Ordering::Relaxed);
    control.mains[place].store(thread, Ordering::Relaxed);
    control.pids[place].store(pid as u32, Ordering::Release);
    let (cpu_ns, faults) = used();
    BEGAN_CPU.store(cpu_ns as i64, Ordering::Relaxed);
    BEGAN_FAULTS.store(faults as i64, Ordering::Relaxed);
}

/// Deregisters this process: fragscope has nothing to look at any more.
pub(crate) fn leave() {
    let number = NUMBER.load(Ordering::Relaxed);
    memory::control().pids[(number % MAX_PROCESSES) as usize].store(0, Ordering::Release);
}

/// Has all other processes of the program trim: each would have its own timer for it.
pub(crate) fn have_others_trim() {
    let own = (NUMBER.load(Ordering::Relaxed) % MAX_PROCESSES) as usize;
    let control = memory::control();
    for (place, (pid, main)) in control.pids.iter().zip(&control.mains).enumerate() {
        if place != own && pid.load(Ordering::Acquire) != 0 {
            thread::have_trim(main.load(Ordering::Relaxed));
        }
    }
}

/// The processor time that the process had used when it began to play.
static BEGAN_CPU: AtomicI64 = AtomicI64::new(0);
static BEGAN_FAULTS: AtomicI64 = AtomicI64::new(0);

/// Reports what the process has used since it began to play.
pub(crate) fn account() {
    let (cpu_ns, faults) = used();
    let control = memory::control();
    let since =
        |now: u64, began: &AtomicI64| now.saturating_sub(began.load(Ordering::Relaxed) as u64);
    control
        .cpu_ns
        .store(since(cpu_ns, &BEGAN_CPU), Ordering::Relaxed);
    control
        .faults
        .store(since(faults, &BEGAN_FAULTS), Ordering::Relaxed);
}

/// Nanoseconds of processor time and page faults without reading, of this process.
fn used() -> (u64, u64) {
    let mut usage = MaybeUninit::<Usage>::zeroed();
    // SAFETY: a place for the answer.
    unsafe { sys::getrusage(sys::RUSAGE_SELF, usage.as_mut_ptr()) };
    // SAFETY: filled, or zeros, which are a valid value too.
    let usage = unsafe { usage.assume_init() };
    let ns =
        |time: &sys::Timeval| time.seconds as u64 * 1_000_000_000 + time.microseconds as u64 * 1000;
    let cpu_ns = ns(&usage.user) + ns(&usage.system);
    (cpu_ns, usage.minor_faults as u64)
}

/// The most slots that this process has used.
static SLOTS_USED: AtomicU32 = AtomicU32::new(0);

/// Notes that slots below `end` are in use.
pub(crate) fn note_slots(end: u32) {
    SLOTS_USED.fetch_max(end, Ordering::Relaxed);
}

/// Forks: the child is process `number`, and plays as `child` when its turn comes.
pub(crate) fn fork(number: u32, child: u32) {
    let before = memory::control().ready.load(Ordering::Acquire);
    // SAFETY: like in any program that forks; the child continues in the same code.
    match unsafe { sys::fork() } {
        0 => {
            clock::forget_sleepers();
            if !memory::own_slots(SLOTS_USED.load(Ordering::Relaxed)) {
                fail(failure::NO_MAPPING, 0);
            }
            run_as(Identity {
                process: number,
                thread: child,
                is_new: true,
            });
        }
        pid if pid < 0 => fail(failure::NO_THREAD, 0),
        // The child reads this process's slots.
        child => wait_until_ready(child, before, number),
    }
}

/// How often a process that waits for its child checks whether that still runs, in ns.
const POLL_NS: i64 = 50_000_000;

/// Waits until process `number`, which was just started, is ready: others count up from `before` then.
fn wait_until_ready(child: c_int, before: u32, number: u32) {
    let ready = &memory::control().ready;
    while ready.load(Ordering::Acquire) == before {
        sys::wait_for(ready, before, POLL_NS);
        // SAFETY: a child, and no place for its exit status.
        let ended = unsafe { sys::waitpid(child, ptr::null_mut(), sys::WNOHANG) } != 0;
        if ended && ready.load(Ordering::Acquire) == before {
            // A process that failed reported why.
            if memory::control().failure.load(Ordering::Acquire) == 0 {
                fail(failure::CHILD_ENDED, u64::from(number));
            }
            // SAFETY: nothing of this process is needed any more.
            unsafe { sys::_exit(1) }
        }
    }
}

/// Plays as the first thread of a process, and never returns. A new process waits for its turn.
pub(crate) fn run_as(identity: Identity) -> ! {
    enter(identity.process, identity.thread);
    if identity.is_new {
        let ready = &memory::control().ready;
        ready.fetch_add(1, Ordering::Release);
        sys::wake(ready);
        thread::wait_for_turn(identity.thread);
    }
    play::play(identity.thread);
    // Its main thread has ended; the others continue.
    loop {
        thread::wait_for_turn(identity.thread);
    }
}

/// Starts process `number` with an empty heap, to play as `child` when its turn comes.
pub(crate) fn start(number: u32, child: u32) {
    let before = memory::control().ready.load(Ordering::Acquire);
    // SAFETY: the child does nothing but execute.
    match unsafe { sys::fork() } {
        0 => execute(Identity {
            process: number,
            thread: child,
            is_new: true,
        }),
        pid if pid < 0 => fail(failure::NO_THREAD, 0),
        child => wait_until_ready(child, before, number),
    }
}

/// Starts over as another program, with the turn.
pub(crate) fn exec(child: u32) -> ! {
    execute(Identity {
        process: NUMBER.load(Ordering::Relaxed),
        thread: child,
        is_new: false,
    })
}

/// Executes the player itself: all of its allocator's state is gone.
fn execute(identity: Identity) -> ! {
    let text = identity.text();
    let mut environment = [ptr::null::<c_char>(); ENVIRONMENT];
    let mut count = 0;
    // SAFETY: libc's variable, which nobody changes.
    let mut from = unsafe { sys::environ };
    let name = IDENTITY_VARIABLE.to_bytes();
    loop {
        // SAFETY: the list ends with a null.
        let variable = unsafe { from.read() };
        if variable.is_null() || count + 2 >= ENVIRONMENT {
            break;
        }
        // SAFETY: a zero-terminated string.
        let bytes = unsafe { CStr::from_ptr(variable) }.to_bytes();
        if !bytes.starts_with(name) {
            environment[count] = variable;
            count += 1;
        }
        // SAFETY: the list continues.
        from = unsafe { from.add(1) };
    }
    environment[count] = text.as_ptr().cast();
    let arguments = [c"player".as_ptr(), ptr::null()];
    // SAFETY: lists that end with a null, of strings with their zeros.
    unsafe {
        sys::execve(
            c"/proc/self/exe".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    fail(failure::NO_THREAD, 1)
}
