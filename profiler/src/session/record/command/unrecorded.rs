//! A command that goes on without being recorded.

use std::process::Child;
use std::time::Duration;

use super::child::{ask_to_end, end_of, exit_code, reached_command};
use crate::say;
use crate::session::Ending;
use crate::session::record::{RecordEnding, RecordError};
use crate::session::signals::Signals;

/// The exit code if the command succeeded but was not recorded to its end.
const NOT_RECORDED: u8 = 1;
/// Between two checks whether a command that is not recorded has ended.
const UNRECORDED_SLEEP: Duration = Duration::from_millis(20);

/// Waits for a command that can no longer be recorded: the caller who started fragscope in its
/// place waits for it, and needs its exit code.
pub(super) async fn run_unrecorded(
    why: RecordError,
    mut child: Child,
    signals: &mut Signals,
) -> Result<RecordEnding, RecordError> {
    if !matches!(end_of(&mut child), Ok(None)) {
        return Err(why);
    }
    say::line(format_args!(
        "fragscope: {why}; the command (process {}) goes on without being recorded, and is waited for",
        child.id()
    ));
    let mut is_signalled = false;
    loop {
        if let Some(status) = end_of(&mut child)? {
            return Ok(RecordEnding::Command(match exit_code(status) {
                0 => NOT_RECORDED,
                own => own,
            }));
        }
        tokio::select! {
            name = signals.next() => {
                if is_signalled {
                    return Ok(RecordEnding::Session(Ending::Interrupted(name)));
                }
                is_signalled = true;
                if !reached_command(name, signals) {
                    ask_to_end(&child);
                }
            }
            () = tokio::time::sleep(UNRECORDED_SLEEP) => {}
        }
    }
}
