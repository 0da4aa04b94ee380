//! Why fragscope is not permitted to inspect a process.

use std::borrow::Cow;
use std::fmt;

use super::host::{self, Capability, TO_PROBE};

/// The reason for a denial.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Denial {
    /// Another user's process.
    #[error(
        "it belongs to user {owner}, and fragscope runs as user {user}, not as root{}",
        and(withheld)
    )]
    NotRoot {
        /// The target's user id.
        owner: u64,
        /// Our own effective user id.
        user: u32,
        /// Why capabilities of our file are not in effect.
        withheld: Option<&'static str>,
    },
    /// Some capabilities are lacking, as in most containers.
    #[error("fragscope runs as {caller} but without {}", names(lacking))]
    MissingCapability {
        /// The user who runs fragscope.
        caller: Caller,
        /// The missing capabilities.
        lacking: Vec<Capability>,
    },
    /// Our capabilities hold in a user namespace only (`user_namespaces(7)`).
    #[error(
        "fragscope runs in a user namespace, where root and capabilities count for nothing \
         outside of it"
    )]
    UserNamespace,
    /// Yama.
    #[error("kernel.yama.ptrace_scope is {0}")]
    PtraceScope(u32),
    /// `/proc` is mounted with `hidepid`.
    #[error("/proc is mounted with hidepid, which hides processes of other users")]
    HiddenProc,
    /// Our own user's process, which has closed itself off (`prctl(PR_SET_DUMPABLE)`, a set-id
    /// program, an executable that cannot be read).
    #[error("it is not dumpable, so that only root may look at it")]
    NotDumpable,
    /// Everything known permits it, and still it is refused.
    #[error(
        "the kernel refuses it in spite of {}: a {forbids} forbids it",
        names(in_spite_of)
    )]
    Refused {
        /// What should have been enough.
        in_spite_of: &'static [Capability],
        /// The possible cause.
        forbids: Cow<'static, str>,
    },
}

/// The user who runs fragscope.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Caller {
    /// Root.
    Root,
    /// A user with some capabilities.
    WithCapabilities,
    /// A user without any.
    User(u32),
}

impl Caller {
    /// The current user.
    pub fn get() -> Self {
        match host::user() {
            0 => Self::Root,
            _ if !host::held().is_empty() => Self::WithCapabilities,
            user => Self::User(user),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::WithCapabilities => f.write_str("a user with capabilities"),
            Self::User(user) => write!(f, "user {user}"),
        }
    }
}

impl Denial {
    /// Why the kernel refuses probes.
    pub fn of_probes() -> Self {
        // `bpf_capable` and `perfmon_capable` ask for the capability in the first user namespace.
        if !host::is_real_root_namespace() {
            return Self::UserNamespace;
        }
        let lacking = host::lacking(TO_PROBE);
        match lacking.is_empty() {
            true => Self::Refused {
                in_spite_of: TO_PROBE,
                forbids: "seccomp profile, a security module or the kernel's lockdown".into(),
            },
            false => Self::missing(lacking),
        }
    }

    /// Why the kernel refuses an inspection although it should not.
    pub(super) fn of_inspection() -> Self {
        match host::is_real_root_namespace() {
            true => Self::Refused {
                in_spite_of: &[Capability::SysPtrace],
                forbids: host::security_modules().map_or_else(
                    || "security module".into(),
                    |all| format!("security module of this kernel ({})", all.join(", ")).into(),
                ),
            },
            false => Self::UserNamespace,
        }
    }

    /// That these are lacking.
    pub fn missing(lacking: Vec<Capability>) -> Self {
        Self::MissingCapability {
            caller: Caller::get(),
            lacking,
        }
    }
}

fn and(withheld: &Option<&'static str>) -> String {
    withheld.map_or_else(String::new, |why| format!("; {why}"))
}

/// Their names in a sentence.
fn names(capabilities: &[Capability]) -> String {
    let names: Vec<_> = capabilities.iter().map(|one| one.name()).collect();
    match &names[..] {
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        _ => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_may_have_refused_is_named_where_it_is_known() {
        let said = Denial::of_inspection().to_string();
        let known = host::security_modules().unwrap_or_default();
        for name in ["capability", "yama"] {
            assert!(!known.iter().any(|one| one == name), "{known:?}");
        }
        if host::is_real_root_namespace() {
            assert!(known.iter().all(|name| said.contains(name)), "{said}");
        }
    }

    #[test]
    fn what_is_lacking_is_listed_as_in_a_sentence() {
        use Capability::{Bpf, Perfmon, SysPtrace};
        assert_eq!(names(&[Bpf]), "CAP_BPF");
        assert_eq!(names(&[Bpf, Perfmon]), "CAP_BPF and CAP_PERFMON");
        let three = "CAP_SYS_PTRACE, CAP_BPF and CAP_PERFMON";
        assert_eq!(names(&[SysPtrace, Bpf, Perfmon]), three);
    }
}
