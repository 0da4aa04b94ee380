//! Work that may take long, on a thread of its own, so that the caller can answer signals meanwhile.

use std::io;

use tokio::sync::oneshot;

/// The result of `work`, done on a thread with this name that is started at once. If the caller
/// stops waiting, the thread ends by itself, or with the process.
///
/// # Errors
/// When the thread cannot be started, or panicked.
pub(crate) fn aside<T, W>(name: &str, work: W) -> impl Future<Output = io::Result<T>> + use<T, W>
where
    T: Send + 'static,
    W: FnOnce() -> T + Send + 'static,
{
    let (report, done) = oneshot::channel();
    let started = profiler_target::start_thread(name, move || {
        // The caller may have ended already.
        let _ = report.send(work());
    });
    async move {
        started?;
        done.await
            .map_err(|_| io::Error::other("a thread of fragscope panicked"))
    }
}
