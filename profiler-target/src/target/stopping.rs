//! Stopping a process.

use std::time::Duration;

use super::Target;
use crate::cgroup::is_frozen;
use crate::proc_dir::field;
use crate::stop::{self, LONGEST_STOP, STOP_DEADLINE, StopError, Stopped};

impl Target {
    /// Stops all its threads until the guard is dropped, for at most [`LONGEST_STOP`].
    ///
    /// # Errors
    /// When another tracer holds it, when a thread does not stop within [`STOP_DEADLINE`], or when
    /// the kernel does not permit it. In every case it runs on.
    pub fn stop(&self) -> Result<Stopped, StopError> {
        self.stop_for(LONGEST_STOP)
    }

    /// The same for at most `longest`: then the target is resumed, which the guard reports.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub fn stop_for(&self, longest: Duration) -> Result<Stopped, StopError> {
        stop::stop(&self.dir, &self.stop_guards, STOP_DEADLINE, longest)
    }

    /// [`Self::stop`] with a deadline of the caller's choice for coming to a stop.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub fn stop_within(&self, limit: Duration) -> Result<Stopped, StopError> {
        stop::stop(&self.dir, &self.stop_guards, limit, LONGEST_STOP)
    }

    /// Why it cannot be stopped at present: it is frozen, or another tracer holds one of its
    /// threads.
    pub fn unstoppable(&self) -> Option<StopError> {
        match is_frozen(&self.dir) {
            true => Some(StopError::Frozen),
            false => self.traced(),
        }
    }

    /// Why it cannot be stopped at present, if another tracer holds one of its threads.
    pub fn traced(&self) -> Option<StopError> {
        let tracer_of = |tid: i32| {
            let status = self.dir.text(&format!("task/{tid}/status")).ok()?;
            let tracer = field(&status, "TracerPid").filter(|tracer| *tracer != 0)?;
            Some(stop::already_traced(tracer, tid))
        };
        self.dir.tids().ok()?.into_iter().find_map(tracer_of)
    }
}
