//! Work that may take long, on a thread of its own: whoever waits for it can answer signals meanwhile.

use std::io;
use std::thread;

use tokio::sync::oneshot;

/// What `work` gives, done on a thread of this name. A caller that waits no longer leaves the thread to end
/// by itself.
///
/// # Errors
/// When the thread cannot be started, or panicked.
pub(crate) async fn aside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (report, done) = oneshot::channel();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Whoever left does not want it any more.
            let _ = report.send(work());
        })?;
    done.await
        .map_err(|_| io::Error::other("a thread of fragscope panicked"))
}
