//! Processes that report that they continued without the recording.

use profiler_common::ring::Leaves;

use super::super::TraceWriteError;
use super::super::output::Output;
use super::PreloadedRecording;
use crate::hints::Hint;

impl PreloadedRecording {
    /// Reports processes that continued without the recording; it is unknown how much of what they
    /// did since is lost.
    pub(super) fn report_left(&mut self) -> Result<(), TraceWriteError> {
        for why in Leaves::ALL {
            let processes = u64::from(self.ring.left(why));
            if processes == 0 {
                continue;
            }
            self.recorder.sink_mut().say(&left_sentence(why, processes));
            // What others did in there never was of this recording.
            if why != Leaves::Namespace {
                self.recorder.lost(processes)?;
            }
        }
        Ok(())
    }
}

/// A message that `processes` processes continued without the recording.
fn left_sentence(why: Leaves, processes: u64) -> String {
    let in_namespace = format!(
        "began in a PID namespace (of a container, or a sandbox), which is not recorded, nor is what was forked \
         there. {}",
        Hint::RecordInNamespace.words()
    );
    let what = match why {
        Leaves::NoRoom => {
            "got no room in the full ring (for 60 s in all, or for 0.1 s behind a filter of system calls), and went on \
             without being recorded: the file lacks what came then"
        }
        Leaves::Namespace => &in_namespace,
        Leaves::Copy => "began by a system call (clone) instead of fork, and is not recorded",
        Leaves::Clock => {
            "made reading the clock a fault (PR_SET_TSC, or strict seccomp), and went on without being recorded: the file lacks \
             what came then"
        }
        Leaves::NoAddresses => {
            "began without room for the ring of 48 MiB that recorded programs share, and is not recorded: its limit of \
             addresses is too low (`ulimit -v`)"
        }
    };
    match processes {
        1 => format!("a process {what}"),
        _ => format!("{processes} times a process {what}"),
    }
}
