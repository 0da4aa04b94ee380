//! The probes of a session: being attached during the first walk, attached, or unavailable.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use profiler_core::activity::Activity;
use profiler_core::sample::Sample;
use profiler_core::sites::Sites;
use profiler_probe::plan::ProbePlan;
use profiler_probe::{Budget, ProbeSession};
use profiler_target::{ErrorKind, Target};

use super::options::SiteOptions;
use crate::hints::Hint;

/// The state of a session's probes.
pub(crate) enum Probes {
    /// Not wanted.
    Off,
    /// They feed shadows, and report nothing else.
    ForWhatIf,
    /// Being planned and attached on a separate thread.
    Starting(JoinHandle<Result<ProbeSession, NoProbes>>),
    /// Attached.
    On(ProbeSession),
    /// Removed again, with what they saw.
    Over(Arc<Activity>, Arc<Sites>),
    /// Unavailable, and why.
    Unavailable(NoProbes),
}

/// Why there are no probes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NoProbes {
    /// In words.
    why: String,
    /// Of what kind that is.
    kind: ErrorKind,
}

impl NoProbes {
    fn of(why: impl ToString, kind: ErrorKind) -> Self {
        let why = why.to_string();
        Self { why, kind }
    }

    /// What the user must know: the session continues without probes, so there is no `fix:` line of
    /// a failed command.
    fn notice(&self) -> String {
        let hint = match self.kind {
            ErrorKind::NotPermitted { .. } | ErrorKind::HostNotProbeable => Some(Hint::ProbesNeed),
            ErrorKind::ObjectTooLarge => Some(Hint::LargerObject),
            _ => None,
        };
        let fix = hint.map_or_else(String::new, |hint| format!(" ({})", hint.words()));
        format!("no probes, walks only: {}{fix}", self.why)
    }
}

impl Probes {
    /// Begins to attach to `pid`, unless `ending` is set before that is done.
    pub(crate) fn start(
        pid: i32,
        budget: Budget,
        sites: SiteOptions,
        ending: Arc<AtomicBool>,
    ) -> Self {
        let attach = move || {
            let target = Target::open(pid).map_err(|error| NoProbes::of(&error, error.kind()))?;
            let plan = ProbePlan::for_target(&target);
            let mut plan = plan.map_err(|error| NoProbes::of(&error, error.kind()))?;
            plan.watches_growth = sites.growth;
            plan.native_stacks = sites.native;
            let attached = ProbeSession::attach_unless(&ending, pid, &plan, budget);
            // If the target is gone, the kernel's errors do not help.
            attached.map_err(|error| match target.check() {
                Err(gone) => NoProbes::of(gone, ErrorKind::TargetGone),
                Ok(()) => NoProbes::of(&error, error.kind()),
            })
        };
        match profiler_target::start_thread("attach", attach) {
            Ok(handle) => Self::Starting(handle),
            Err(error) => Self::Unavailable(NoProbes::of(
                format!("no thread for the probes: {error}"),
                ErrorKind::of_io(&error),
            )),
        }
    }

    /// Takes over the probes once they are attached, or the reason why they are not.
    pub(crate) fn poll(&mut self) {
        if matches!(self, Self::Starting(handle) if handle.is_finished()) {
            self.wait();
        }
    }

    /// Waits until attaching has succeeded or failed, so that nothing is attached after the
    /// session.
    pub(crate) fn wait(&mut self) {
        *self = match std::mem::replace(self, Self::Off) {
            Self::Starting(handle) => match handle.join() {
                Ok(Ok(session)) => Self::On(session),
                Ok(Err(reason)) => Self::Unavailable(reason),
                Err(_) => Self::Unavailable(NoProbes::of(
                    "attaching the probes panicked",
                    ErrorKind::Other,
                )),
            },
            settled => settled,
        };
    }

    /// Removes them permanently; what they saw is kept.
    pub(crate) fn end(&mut self) {
        self.wait();
        *self = match std::mem::replace(self, Self::Off) {
            Self::On(session) => {
                let (activity, sites) = session.detach_with_sites();
                Self::Over(Arc::new(activity), Arc::new(sites))
            }
            settled => settled,
        };
    }

    /// What they have seen so far.
    pub(crate) fn activity(&self) -> Option<Arc<Activity>> {
        match self {
            Self::On(session) => Some(Arc::new(session.activity())),
            Self::Over(activity, _) => Some(Arc::clone(activity)),
            _ => None,
        }
    }

    /// The call sites of allocations that they have seen so far.
    pub(crate) fn sites(&self) -> Option<Arc<Sites>> {
        match self {
            Self::On(session) => Some(Arc::new(session.sites())),
            Self::Over(_, sites) => Some(Arc::clone(sites)),
            _ => None,
        }
    }

    /// A walk is about to begin.
    pub(crate) fn walk_begins(&self) {
        if let Self::On(session) = self {
            session.walk_begins();
        }
    }

    /// Looks sampled blocks up in a walk that is of the moment `at_ns`, on the clock of the events.
    pub(crate) fn walked(&self, sample: &Sample, at_ns: u64) {
        if let Self::On(session) = self {
            session.walked(sample, at_ns);
        }
    }

    /// What the user must know about them, in addition to [`Activity::troubles`].
    pub(crate) fn notice(&self) -> Option<String> {
        match self {
            Self::Off => Some(Hint::ProbesOff.words().into()),
            Self::ForWhatIf => Some(Hint::RecordsAll.words().into()),
            Self::Starting(_) => Some("probes are being attached".into()),
            Self::On(session) => match session.ended()? {
                ErrorKind::BreakpointsLeft { .. } => Some(Hint::BreakpointsLeft.words().into()),
                _ => None,
            },
            Self::Over(..) => None,
            Self::Unavailable(none) => Some(none.notice()),
        }
    }
}
