//! Keeping the target from standing still because fragscope does.
//!
//! ptrace resumes a target whose tracer dies, but not one whose tracer is suspended: Ctrl-Z or a
//! SIGSTOP at the wrong moment would freeze a worker until somebody notices. So while the target
//! is stopped, suspension by the terminal is put off, and a guard process of our own, in a session
//! of its own, wakes fragscope when something suspends it all the same. Both end with the stop.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, fork};

/// How often the guard looks at fragscope while the target is stopped, in ms.
const LOOK_MS: i32 = 10;
/// The signals by which a terminal suspends.
const SUSPENDING: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// Stops under way.
static STOPS: AtomicU32 = AtomicU32::new(0);
/// The signal that was put off, or 0.
static PUT_OFF: AtomicI32 = AtomicI32::new(0);

/// While this lives fragscope is not suspended, or not for long.
#[derive(Debug)]
pub(super) struct Hold(());

/// Begins to hold. What cannot be set up (no process may be started) is done without: a stop is
/// short, and the target's memory is not the price.
pub(super) fn hold() -> Hold {
    static HANDLERS: OnceLock<()> = OnceLock::new();
    HANDLERS.get_or_init(put_off_suspension);
    if STOPS.fetch_add(1, Ordering::SeqCst) == 0 {
        tell_guard(HOLDING);
    }
    Hold(())
}

impl Drop for Hold {
    fn drop(&mut self) {
        if STOPS.fetch_sub(1, Ordering::SeqCst) > 1 {
            return;
        }
        tell_guard(OVER);
        if PUT_OFF.swap(0, Ordering::SeqCst) != 0 {
            // What the user asked for, a moment later.
            let _ = nix::sys::signal::raise(Signal::SIGSTOP);
        }
    }
}

/// Takes the suspending signals over where nobody else has.
fn put_off_suspension() {
    let action = SigAction::new(
        SigHandler::Handler(suspend),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in SUSPENDING {
        // SAFETY: the handler does only what is safe in one: atomics and kill(2).
        if let Ok(before) = unsafe { sigaction(signal, &action) }
            && !matches!(before.handler(), SigHandler::SigDfl)
        {
            // SAFETY: the action that was there.
            let _ = unsafe { sigaction(signal, &before) };
        }
    }
}

extern "C" fn suspend(signal: libc::c_int) {
    if STOPS.load(Ordering::SeqCst) > 0 {
        PUT_OFF.store(signal, Ordering::SeqCst);
    } else {
        // SAFETY: both are safe in a signal handler.
        unsafe { libc::raise(libc::SIGSTOP) };
    }
}

const HOLDING: u8 = 1;
const OVER: u8 = 0;

/// Tells the guard, which is started the first time.
fn tell_guard(what: u8) {
    static GUARD: OnceLock<Option<PipeWriter>> = OnceLock::new();
    if let Some(mut pipe) = GUARD.get_or_init(|| start_guard().ok()).as_ref() {
        // A guard that somebody killed is done without.
        let _ = pipe.write_all(&[what]);
    }
}

/// Starts the guard, and gives the pipe on which it listens. It ends when the pipe does.
fn start_guard() -> io::Result<PipeWriter> {
    let (listen, tell) = io::pipe()?;
    let own_state = File::open("/proc/self/stat")?;
    let of = std::process::id() as i32;
    // SAFETY: the child calls nothing but system calls until it ends: it has one thread of
    // several, so that locks may be held for ever.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => Ok(tell),
        ForkResult::Child => guard(of, listen.as_raw_fd(), own_state.as_raw_fd()),
    }
}

/// The guard's whole life.
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "one list of system calls with one reason"
)]
fn guard(of: i32, listen: i32, state: i32) -> ! {
    const NAME: &CStr = c"fragscope-guard";
    // SAFETY: system calls on plain numbers and on buffers of this stack. Only the two descriptors
    // are kept: links to probes and the target's memory must end with fragscope.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
        // High enough that neither is overwritten by the other.
        let (listen, state) = (
            libc::fcntl(listen, libc::F_DUPFD, 64),
            libc::fcntl(state, libc::F_DUPFD, 64),
        );
        libc::dup2(listen, 0);
        libc::dup2(state, 1);
        libc::syscall(libc::SYS_close_range, 2, libc::c_uint::MAX, 0);
    }
    let (mut holding, mut woken) = (false, false);
    loop {
        let mut poll = libc::pollfd {
            fd: 0,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, if holding { LOOK_MS } else { -1 }) };
        if ready > 0 {
            let mut told = [0u8; 1];
            // SAFETY: a buffer of one byte.
            let read = unsafe { libc::read(0, told.as_mut_ptr().cast(), 1) };
            if read <= 0 {
                // SAFETY: ends at once, with no handler of fragscope's.
                unsafe { libc::_exit(0) };
            }
            holding = told[0] == HOLDING;
            if !holding && std::mem::take(&mut woken) {
                // SAFETY: a signal to the process that started this one and still holds the pipe.
                unsafe { libc::kill(of, libc::SIGSTOP) };
            }
        } else if ready == 0 && is_suspended() {
            woken = true;
            // SAFETY: as above.
            unsafe { libc::kill(of, libc::SIGCONT) };
        }
    }
}

/// Whether the process whose `stat` is open as descriptor 1 is suspended (`T`, proc(5)).
fn is_suspended() -> bool {
    let mut text = [0u8; 128];
    // SAFETY: a buffer of this length.
    let read = unsafe { libc::pread(1, text.as_mut_ptr().cast(), text.len(), 0) };
    let text = &text[..read.max(0) as usize];
    // The name in parentheses may hold any character, but no more than 15 of them.
    let state = text.iter().rposition(|&byte| byte == b')');
    state.and_then(|at| text.get(at + 2)) == Some(&b'T')
}
