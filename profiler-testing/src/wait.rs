//! Waits for a state, never for a time.

use std::time::{Duration, Instant};

/// Anything that takes longer than this hangs. It is not a measurement.
pub const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// Waits until `ready` gives something.
pub fn eventually<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    wait(what, ready, || {
        std::thread::sleep(Duration::from_millis(5));
    })
}

/// Like [`eventually`], without a pause between two checks: for a state that soon passes, or whose
/// first instant is what the test is about.
pub fn promptly<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    wait(what, ready, std::thread::yield_now)
}

fn wait<T>(what: &str, mut ready: impl FnMut() -> Option<T>, pause: impl Fn()) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(began.elapsed() < WAIT_LIMIT, "waited in vain for {what}");
        pause();
    }
}
