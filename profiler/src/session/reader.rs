//! Whether somebody reads what a session prints.

use std::fs::File;
use std::future::pending;

use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

use crate::say;

/// Completes when stdout is a pipe that nobody reads any more; never for anything else.
pub(crate) async fn reader_gone() {
    // It is only waited for: whether it blocks is as it was for those who write.
    let waited =
        say::second_stdout().and_then(|stdout| Sender::from_file_unchecked(File::from(stdout)));
    // The kernel does not let a regular file be waited for.
    let Ok(stdout) = waited else {
        return pending().await;
    };
    if stdout.ready(Interest::ERROR).await.is_err() {
        pending().await
    }
}
