//! A signal that ends what has no loop of its own: a flag that is looked at.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::emulate_default_handler;

use super::signals::Signals;
use crate::say;

/// Between two looks whether what is printed is stuck.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A flag that is set when the user wants it to end.
///
/// # Errors
/// When signals cannot be waited for.
pub(super) fn flag() -> io::Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut signals = {
        let _within = runtime.enter();
        Signals::new()?
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&interrupted);
    let wait = async move {
        let first = signals.next().await;
        set.store(true, Ordering::Relaxed);
        // The flag is looked at by all that works; but what it came to may be printed on a terminal
        // that was stopped, or into a pipe that nobody reads. And who asks twice will not wait.
        let last = tokio::select! {
            again = signals.next() => again,
            () = stuck() => first,
        };
        let signal = Signal::from_str(last).map_or(SIGTERM, |signal| signal as i32);
        // It ends this process, where it can be ended at all.
        let _ = emulate_default_handler(signal);
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || runtime.block_on(wait))?;
    Ok(interrupted)
}

/// Comes when what is printed is not taken in.
async fn stuck() {
    while !say::is_stuck() {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
