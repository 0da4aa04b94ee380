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
    /// Being planned and attached on a thread of their own.
    Starting(JoinHandle<Result<ProbeSession, NoProbes>>),
    /// Attached.
    On(ProbeSession),
    /// Off again, with what they saw.
    Over(Arc<Activity>, Arc<Sites>),
    /// Not to be had, and why.
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

    /// What the user must know: a session goes on without probes, so there is no `fix:` of a command's end.
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
            // Where the target is gone, the kernel's answers are of no help.
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

    /// Waits until attaching has ended either way, so that nothing is attached after the session.
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

    /// Takes them off the target for good; what they saw is kept.
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

    /// What they saw so far.
    pub(crate) fn activity(&self) -> Option<Arc<Activity>> {
        match self {
            Self::On(session) => Some(Arc::new(session.activity())),
            Self::Over(activity, _) => Some(Arc::clone(activity)),
            _ => None,
        }
    }

    /// Where the allocations come from that they saw so far.
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

    /// What the user must know of them, besides what is in [`Activity::troubles`].
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
