//! Reasons why probing cannot start.

use std::error::Error;
use std::io;
use std::path::Path;

use aya::programs::ProgramError;
use profiler_target::{Action, Denial, ErrorKind};

/// Why the probes cannot be attached. Walks and residency do not need them.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel refuses for lack of privilege.
    #[error("not permitted to {what}: {denial}")]
    NotPermitted {
        /// What was tried.
        what: &'static str,
        /// What prevents it.
        denial: Denial,
    },
    /// The kernel was built without uprobes, or hides them.
    #[error("this kernel has no uprobes (CONFIG_UPROBE_EVENTS)")]
    NoUprobes,
    /// There is no `/sys`.
    #[error("/sys is not mounted, which probes need")]
    NoSysfs,
    /// The kernel did not take the BPF programs.
    #[error("the kernel did not take the BPF programs: {0}")]
    Load(String),
    /// The target has exited.
    #[error("process {0} has exited")]
    Gone(i32),
    /// Not one probe could be attached.
    #[error("no probe could be attached: {0}")]
    Attach(String),
    /// The guard was killed.
    #[error(
        "the process that holds the probes was ended by somebody; they are gone from the target"
    )]
    GuardLost,
    /// The guard was killed, and breakpoints are still there.
    #[error(
        "the process that holds the probes was ended by somebody, and there are breakpoints at their \
         places in process {0}: another tool's, or left behind"
    )]
    BreakpointsLeft(i32),
    /// The guard lives, and may not be killed.
    #[error(
        "the process that holds the probes does not answer: somebody suspended or froze it, or the \
         kernel is busy with it; the breakpoints stay in the target until it goes on"
    )]
    GuardSilent,
    /// The session ended before they were attached.
    #[error("the session ended before the probes were attached")]
    Cancelled,
    /// The share is not one.
    #[error("a budget is a share above 0 % and up to 100 %, not {0}; or `unlimited`")]
    Budget(f64),
    /// Something else of this host failed.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl ProbeError {
    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotPermitted { denial, .. } => ErrorKind::NotPermitted {
                action: Action::Probe,
                denial: denial.clone(),
            },
            Self::NoSysfs => ErrorKind::NoSysfs,
            Self::NoUprobes | Self::Load(_) | Self::Attach(_) => ErrorKind::HostNotProbeable,
            Self::Gone(_) => ErrorKind::TargetGone,
            Self::Cancelled => ErrorKind::Interrupted,
            Self::Host { source, .. } => match ErrorKind::of_io(source) {
                ErrorKind::Other => ErrorKind::HostNotProbeable,
                kind => kind,
            },
            Self::BreakpointsLeft(pid) => ErrorKind::BreakpointsLeft { pid: *pid },
            Self::GuardLost | Self::GuardSilent | Self::Budget(_) => ErrorKind::Other,
        }
    }

    /// That the kernel refuses something for lack of privilege.
    fn not_permitted(what: &'static str) -> Self {
        Self::NotPermitted {
            what,
            denial: Denial::of_probes(),
        }
    }

    /// The error of loading programs or making maps.
    pub(super) fn of_load(error: &(dyn Error + 'static)) -> Self {
        match os_error(error) {
            Some(libc::EPERM | libc::EACCES) if !is_verifier(error) => {
                Self::not_permitted("load BPF programs")
            }
            Some(number @ (libc::EMFILE | libc::ENFILE)) => Self::Host {
                what: "load BPF programs",
                source: io::Error::from_raw_os_error(number),
            },
            _ => Self::Load(chain(error)),
        }
    }
}

/// The kernel rejected a site's own program, a step before attaching it.
#[derive(Debug, thiserror::Error)]
#[error("the kernel did not take the BPF program of this place: {0}")]
pub(super) struct NotLoaded(io::Error);

impl NotLoaded {
    /// As an error of whoever asked for the site.
    pub(super) fn error(source: io::Error) -> io::Error {
        io::Error::new(source.kind(), Self(source))
    }

    /// Whether that is among the causes of an error.
    pub(super) fn is_in(error: &(dyn Error + 'static)) -> bool {
        let of = |error: &&(dyn Error + 'static)| {
            let whole = error.downcast_ref::<io::Error>();
            whole.is_some_and(|error| Self::of(error).is_some())
        };
        causes(error).any(|error| of(&error))
    }

    /// The kernel's error about a program, if that is what failed.
    fn of(error: &io::Error) -> Option<&io::Error> {
        let failed = error.get_ref()?.downcast_ref::<Self>()?;
        Some(&failed.0)
    }
}

/// The error of attaching one site, for people.
pub(super) fn attach_reason(error: &io::Error) -> String {
    if NotLoaded::of(error).is_some() {
        return error.to_string();
    }
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "not permitted by the kernel".to_string(),
        // ENOTSUPP has no constant in userspace.
        Some(524 | libc::EINVAL) => "the kernel refuses this instruction".to_string(),
        _ => error.to_string(),
    }
}

/// The guard failure that an error from a request to it stands for, if any.
fn guard_failure(error: &io::Error) -> Option<ProbeError> {
    if guard_was_ended(error) {
        return Some(ProbeError::GuardLost);
    }
    guard_is_silent(error).then_some(ProbeError::GuardSilent)
}

/// The error of removing probes.
pub(super) fn remove_failure(source: io::Error) -> ProbeError {
    guard_failure(&source).unwrap_or(ProbeError::Host {
        what: "remove the probes",
        source,
    })
}

/// Whether attaching failed for a reason that concerns all probes alike.
pub(super) fn attach_failure(pid: i32, error: &io::Error) -> Option<ProbeError> {
    if let Some(failure) = guard_failure(error) {
        return Some(failure);
    }
    if let Some(why) = NotLoaded::of(error) {
        return for_lack("load BPF programs", why.raw_os_error()?);
    }
    if !Path::new("/sys/bus/event_source/devices/uprobe/type").exists() {
        return Some(ProbeError::NoUprobes);
    }
    match error.raw_os_error()? {
        libc::ESRCH => Some(ProbeError::Gone(pid)),
        number => for_lack("attach uprobes", number),
    }
}

/// The error if something fails for lack of privilege or of descriptors, so that everything else
/// would fail too.
fn for_lack(what: &'static str, number: i32) -> Option<ProbeError> {
    match number {
        libc::EPERM | libc::EACCES => Some(ProbeError::not_permitted(what)),
        libc::EMFILE | libc::ENFILE => Some(ProbeError::Host {
            what,
            source: io::Error::from_raw_os_error(number),
        }),
        _ => None,
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let cause = |e: &&'a (dyn Error + 'static)| -> Option<&'a (dyn Error + 'static)> {
        match e.downcast_ref::<ProgramError>() {
            // Its own source is the source of what it contains.
            Some(ProgramError::IOError(inner)) => Some(inner),
            _ => (*e).source(),
        }
    };
    std::iter::successors(Some(error), cause)
}

/// The system's error number, if the error comes from the system.
pub(super) fn os_error(error: &(dyn Error + 'static)) -> Option<i32> {
    let number = |error: &io::Error| error.raw_os_error();
    causes(error)
        .filter_map(|e| e.downcast_ref::<io::Error>())
        .find_map(|error| number(error).or_else(|| NotLoaded::of(error).and_then(number)))
}

/// Whether an error from a request to the guard says that the guard was ended.
pub(super) fn guard_was_ended(error: &io::Error) -> bool {
    // The kernel's errors have a number.
    error.kind() == io::ErrorKind::BrokenPipe && error.raw_os_error().is_none()
}

/// Whether an error from a request to the guard says that it is alive but does not answer.
pub(super) fn guard_is_silent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none()
}

/// A program that the verifier rejects fails with EACCES too, but then there is its log.
fn is_verifier(error: &(dyn Error + 'static)) -> bool {
    causes(error)
        .filter_map(|e| e.downcast_ref::<ProgramError>())
        .any(|e| {
            matches!(e, ProgramError::LoadError { verifier_log, .. }
                if !verifier_log.to_string().trim().is_empty())
        })
}

/// The innermost cause.
pub(super) fn deepest(error: &(dyn Error + 'static)) -> String {
    causes(error)
        .last()
        .map_or_else(String::new, |e| e.to_string())
}

/// The whole chain, the cause last.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let all = causes(error).map(|e| match e.downcast_ref::<ProgramError>() {
        // Its own message contains all of the verifier's output, which may be thousands of lines.
        Some(ProgramError::LoadError { verifier_log, .. }) => {
            let log = verifier_log.to_string();
            format!("its verifier refuses one: {}", last_words(&log))
        }
        _ => e.to_string(),
    });
    all.collect::<Vec<_>>().join(": ")
}

/// Why the verifier rejects a program: the last line before the statistics at the end of its log.
fn last_words(log: &str) -> &str {
    const COUNTS: [&str; 3] = ["processed ", "verification time ", "stack depth "];
    let is_count = |line: &&str| COUNTS.iter().any(|count| line.starts_with(count));
    let mut lines = log.lines().map(str::trim).rev();
    let last = lines.find(|line| !line.is_empty() && !is_count(line));
    last.unwrap_or("without a word")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_taken_is_not_said_to_be_a_site_that_is_refused() {
        let of = |number| io::Error::from_raw_os_error(number);
        assert_eq!(
            attach_reason(&of(libc::EINVAL)),
            "the kernel refuses this instruction"
        );
        let not_loaded = NotLoaded::error(of(libc::EINVAL));
        let said = attach_reason(&not_loaded);
        let wanted = "the kernel did not take the BPF program of this place: Invalid argument";
        assert!(said.starts_with(wanted), "{said}");
        assert!(attach_failure(1, &not_loaded).is_none());
        let in_guard = ProgramError::IOError(NotLoaded::error(of(libc::EPERM)));
        assert!(NotLoaded::is_in(&in_guard));
        assert_eq!(os_error(&in_guard), Some(libc::EPERM));
        let denied = attach_failure(1, &NotLoaded::error(of(libc::EPERM))).expect("all fail");
        let said = denied.to_string();
        assert!(
            said.starts_with("not permitted to load BPF programs"),
            "{said}"
        );
        let full = attach_failure(1, &NotLoaded::error(of(libc::EMFILE))).expect("all fail");
        assert!(
            full.to_string().starts_with("cannot load BPF programs"),
            "{full}"
        );
    }

    #[test]
    fn of_what_the_verifier_wrote_the_reason_is_shown() {
        let log = "0: (bf) r7 = r1\n1: (85) call unknown#174\ninvalid func unknown#174\n\
                   verification time 238 usec\nstack depth 0\nprocessed 2 insns (limit 1000000)\n\n";
        assert_eq!(last_words(log), "invalid func unknown#174");
        assert_eq!(last_words("\n"), "without a word");
    }
}
