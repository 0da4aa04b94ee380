//! Stderr, written by a separate thread: a stopped terminal (Ctrl-S), or a pipe that nobody reads,
//! accepts nothing, and a thread blocked on it can neither answer a signal nor take in what a
//! recorded program does.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;

/// The most messages that wait for their reader; further ones are dropped.
const MAX_WAITING: usize = 64;
/// A write that takes longer is waiting for a reader, which may never come.
const STUCK: Duration = Duration::from_millis(50);
/// How long the thread may take to get to a message on a busy host.
const WRITER_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to the thread.
struct Writer {
    messages: SyncSender<String>,
    progress: Arc<Progress>,
}

/// How far the thread is.
#[derive(Default)]
struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Messages that were sent and not written yet.
    behind: usize,
    /// Since when one is being written.
    writing_since: Option<Instant>,
}

static WRITER: OnceLock<Option<Writer>> = OnceLock::new();

/// Writes a message and waits until that is done, so that it precedes what is printed on stdout
/// next. While the thread is behind, it does not wait.
pub(super) fn write(message: String) {
    match WRITER.get_or_init(Writer::start) {
        Some(writer) => writer.write(message),
        // No thread can be had. What cannot be written is of no use to anybody.
        None => drop(io::stderr().write_all(message.as_bytes())),
    }
}

/// Waits until everything is written, or the current write takes too long.
pub(super) fn finish() {
    if let Some(Some(writer)) = WRITER.get() {
        writer.progress.wait(writer.progress.state());
    }
}

impl Writer {
    fn start() -> Option<Self> {
        let (messages, to_write) = sync_channel(MAX_WAITING);
        let progress = Arc::new(Progress::default());
        let for_thread = Arc::clone(&progress);
        thread::Builder::new()
            .name("stderr".into())
            .spawn(move || {
                // They are for the thread that puts their handlers in place.
                let _ = SigSet::all().thread_block();
                run(&to_write, &for_thread)
            })
            .ok()?;
        Some(Self { messages, progress })
    }

    fn write(&self, message: String) {
        let mut state = self.progress.state();
        let was_idle = state.behind == 0;
        if self.messages.try_send(message).is_err() {
            return;
        }
        state.behind += 1;
        if was_idle {
            self.progress.wait(state);
        }
    }
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing is pending, a write is blocked, or it is late.
    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        let until = Instant::now() + WRITER_TIMEOUT;
        let is_stuck = |state: &State| {
            let since = state.writing_since;
            since.is_some_and(|since| since.elapsed() > STUCK)
        };
        while state.behind > 0 && !is_stuck(&state) && Instant::now() < until {
            let waited = self.changed.wait_timeout(state, STUCK / 5);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn run(messages: &Receiver<String>, progress: &Progress) {
    for message in messages {
        progress.state().writing_since = Some(Instant::now());
        // Stderr may be closed.
        let _ = io::stderr().write_all(message.as_bytes());
        let mut state = progress.state();
        state.writing_since = None;
        state.behind -= 1;
        drop(state);
        progress.changed.notify_all();
    }
}
