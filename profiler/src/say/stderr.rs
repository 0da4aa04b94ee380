//! Stderr, written by a thread of its own: a terminal that was stopped (Ctrl-S) or a pipe that nobody
//! reads takes nothing in, and whoever waits for it can neither answer a signal nor take in what a
//! recorded program does.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// Messages that wait for their reader at the most; those that come then are dropped.
const MOST_WAITING: usize = 64;
/// How long a message is waited for, so that it comes before what is printed on stdout next. It is
/// waited for once: as long as the thread is behind, nobody waits.
const PATIENCE: Duration = Duration::from_millis(50);

/// The way to the thread.
struct Writer {
    messages: SyncSender<String>,
    /// Messages that were sent and not written yet.
    behind: Arc<(Mutex<usize>, Condvar)>,
}

static WRITER: OnceLock<Option<Writer>> = OnceLock::new();

/// Writes a message, and waits until that is done, or seems to take long.
pub(super) fn write(message: String) {
    match WRITER.get_or_init(Writer::start) {
        Some(writer) => writer.write(message),
        // No thread can be had. What cannot be written is of no use to anybody.
        None => drop(io::stderr().write_all(message.as_bytes())),
    }
}

impl Writer {
    fn start() -> Option<Self> {
        let (messages, to_write) = sync_channel(MOST_WAITING);
        let behind = Arc::default();
        let for_thread = Arc::clone(&behind);
        thread::Builder::new()
            .name("stderr".into())
            .spawn(move || run(&to_write, &for_thread))
            .ok()?;
        Some(Self { messages, behind })
    }

    fn write(&self, message: String) {
        let (count, done) = &*self.behind;
        // Nothing that holds the lock panics.
        let mut behind = count.lock().unwrap_or_else(PoisonError::into_inner);
        let was_idle = *behind == 0;
        if self.messages.try_send(message).is_err() {
            return;
        }
        *behind += 1;
        if was_idle {
            // Whether it came or not, there is nothing else to do about it.
            let _ = done.wait_timeout_while(behind, PATIENCE, |behind| *behind > 0);
        }
    }
}

fn run(messages: &Receiver<String>, behind: &(Mutex<usize>, Condvar)) {
    let (count, done) = behind;
    for message in messages {
        // Whoever closed stderr does not want to know.
        let _ = io::stderr().write_all(message.as_bytes());
        *count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        done.notify_all();
    }
}
