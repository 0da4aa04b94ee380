//! A signal that ends what has no loop of its own: a flag that is looked at.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::signals::Signals;

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
    thread::spawn(move || {
        runtime.block_on(signals.next());
        set.store(true, Ordering::Relaxed);
    });
    Ok(interrupted)
}
