//! `doctor`: what this host and this target allow, and how to fix what they do not.

mod breakpoints;
mod target;

use profiler_core::machine::Machine;
use profiler_probe::support::{self, ProbeLinks};
use profiler_target::host::{self, Capability, Lockdown};
use profiler_target::{Action, Denial, ErrorKind, OpenError, PageSource};

/// How well something that fragscope wants is there.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Works, with less to see or at a higher price.
    Limited,
    /// Missing: whatever needs it does not work.
    Missing,
}

/// One check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// Its grade.
    pub ok: Grade,
    /// What was found, in a few words.
    pub found: String,
    /// The fix; `None` if nothing needs to be fixed.
    pub fix: Option<Fix>,
}

/// A fix, by kind; the command line puts it into words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fix {
    /// The advice for an error of this kind.
    Of(ErrorKind),
    /// A host of the architecture that fragscope knows.
    KnownArchitecture,
    /// A kernel whose BPF is good for probes, or no probes.
    NewerKernelForProbes,
    /// A kernel that was built with something.
    KernelBuiltWith(KernelOption),
    /// A kernel that attaches all sites by one link.
    KernelWithMultiLinks,
    /// A kernel with `PAGEMAP_SCAN`.
    KernelWithPagemapScan,
    /// A boot without lockdown.
    NoLockdown,
    /// The host's PID namespace.
    HostPidNamespace,
    /// A `/proc` that shows the processes of all users.
    VisibleProcesses,
    /// Another process.
    OtherProcess,
    /// Walks without stops.
    NoStops {
        /// The process that cannot be stopped.
        pid: i32,
    },
    /// A program with its allocator in a shared object.
    DynamicAllocator,
    /// A program with its C library in a shared object.
    DynamicLibc,
    /// The settings in effect, which are read where the environment is unknown.
    SettingsInEffect,
    /// A fragscope that knows this C library.
    NewerFragscope,
    /// A report of this C library's version.
    ReportLibc,
    /// Mapped files were not read completely, which may not matter.
    UnreadFiles {
        /// Whether a higher limit lets more be read.
        is_over_limit: bool,
    },
    /// Breakpoints to be removed.
    Repair {
        /// The process that contains them in its code.
        pid: i32,
    },
    /// Processes to be continued that hold probes.
    Continue(Vec<i32>),
    /// The end of the tool that holds breakpoints.
    EndOfTool,
    /// None, if the program changes its own code.
    OwnCode,
    /// Root, and a target that runs without a debugger.
    RootAndFreeTarget,
}

/// A kernel build option.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum KernelOption {
    /// Type information.
    Btf,
    /// Uprobes.
    UprobeEvents,
    /// Perf events.
    PerfEvents,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            ok: Grade::Ok,
            found: found.into(),
            fix: None,
        }
    }

    fn bad(name: &'static str, ok: Grade, found: impl Into<String>, fix: Fix) -> Self {
        Self {
            name,
            ok,
            found: found.into(),
            fix: Some(fix),
        }
    }

    /// That something is not there, by the kind of error that this means.
    fn kind(name: &'static str, ok: Grade, found: impl Into<String>, kind: ErrorKind) -> Self {
        Self::bad(name, ok, found, Fix::Of(kind))
    }
}

/// That looking is denied.
fn inspection_denied(denial: Denial) -> ErrorKind {
    ErrorKind::NotPermitted {
        action: Action::Inspect,
        denial,
    }
}

/// Checks the host, and a target if one is given.
pub fn run(pid: Option<i32>) -> Vec<Check> {
    let mut checks = vec![
        machine(),
        privilege(),
        kernel(),
        bpf(),
        btf(),
        uprobes(),
        perf_events(),
    ];
    checks.extend(probe_links());
    checks.extend([ptrace(), pages(), lockdown(), container()]);
    if let Some(pid) = pid {
        checks.extend(target::checks(pid));
    }
    checks
}

/// Removes breakpoints that no running tool holds from a target's code, and checks the host and the
/// target as [`run`] does.
///
/// # Errors
/// When the target cannot be opened.
pub fn repair(pid: i32) -> Result<Vec<Check>, OpenError> {
    let repaired = target::repair(pid)?;
    let mut checks = run(Some(pid));
    checks.retain(|check| check.name != repaired.name);
    checks.push(repaired);
    Ok(checks)
}

fn machine() -> Check {
    let name = "machine";
    match std::env::consts::ARCH {
        arch if arch == Machine::OWN.name() => Check::ok(name, arch),
        arch => Check::bad(
            name,
            Grade::Missing,
            format!("{arch}; layouts and registers are known for x86-64 and aarch64 only"),
            Fix::KnownArchitecture,
        ),
    }
}

fn privilege() -> Check {
    let name = "privilege";
    let user = host::user();
    let wanted = [
        Capability::SysPtrace,
        Capability::Bpf,
        Capability::Perfmon,
        Capability::SysAdmin,
    ];
    if !host::is_real_root_namespace() {
        let found = format!("user {user} of a user namespace: {}", Denial::UserNamespace);
        return Check::kind(
            name,
            Grade::Limited,
            found,
            inspection_denied(Denial::UserNamespace),
        );
    }
    let mut lacking: Vec<_> = wanted.into_iter().filter(|one| !one.is_held()).collect();
    lacking.extend(host::lacking(&[Capability::DacReadSearch]));
    if lacking.is_empty() {
        return Check::ok(name, format!("user {user} with all capabilities needed"));
    }
    let names: Vec<_> = lacking.iter().map(|one| one.name()).collect();
    let mut found = format!("user {user} without {}", names.join(", "));
    if user != 0 && !Capability::SysPtrace.is_held() {
        found += &match host::withheld() {
            None => ": own processes only, and no probes".to_owned(),
            Some(why) => format!(": {why}"),
        };
    }
    let kind = inspection_denied(Denial::missing(lacking));
    Check::kind(name, Grade::Limited, found, kind)
}

fn kernel() -> Check {
    let name = "kernel";
    let release = host::host().kernel;
    match host::kernel_version() {
        Some(version) if version >= (5, 8) => Check::ok(name, release),
        Some(version) if version >= (5, 3) => Check::bad(
            name,
            Grade::Limited,
            format!("{release}: walks work, probes need the BPF ring buffer of 5.8"),
            Fix::NewerKernelForProbes,
        ),
        _ => Check::bad(
            name,
            Grade::Missing,
            format!("{release}: older than 5.3"),
            Fix::Of(ErrorKind::UnsupportedKernel),
        ),
    }
}

fn bpf() -> Check {
    let name = "BPF";
    let Err(error) = support::try_bpf() else {
        return Check::ok(name, "maps and programs are allowed");
    };
    let (kind, found) = (error.kind(), error.to_string());
    match kind {
        ErrorKind::NotPermitted { .. } => Check::kind(name, Grade::Missing, found, kind),
        _ => Check::bad(name, Grade::Missing, found, Fix::NewerKernelForProbes),
    }
}

fn btf() -> Check {
    let name = "BTF";
    if host::has_btf() {
        Check::ok(name, "/sys/kernel/btf/vmlinux")
    } else if !host::has_sysfs() {
        no_sysfs(name, Grade::Limited)
    } else {
        Check::bad(
            name,
            Grade::Limited,
            "no /sys/kernel/btf/vmlinux: call sites have no Python functions",
            Fix::KernelBuiltWith(KernelOption::Btf),
        )
    }
}

fn uprobes() -> Check {
    let name = "uprobes";
    if host::has_uprobes() {
        Check::ok(name, "the kernel has them")
    } else if host::has_sysfs() {
        Check::bad(
            name,
            Grade::Missing,
            "the kernel has none: walks only",
            Fix::KernelBuiltWith(KernelOption::UprobeEvents),
        )
    } else {
        no_sysfs(name, Grade::Missing)
    }
}

fn no_sysfs(name: &'static str, grade: Grade) -> Check {
    Check::kind(name, grade, "/sys is not mounted", ErrorKind::NoSysfs)
}

fn perf_events() -> Check {
    let name = "perf events";
    let Some(paranoid) = host::perf_event_paranoid() else {
        return Check::bad(
            name,
            Grade::Missing,
            "the kernel has none: walks only",
            Fix::KernelBuiltWith(KernelOption::PerfEvents),
        );
    };
    let found = format!("kernel.perf_event_paranoid = {paranoid}");
    // `perf_uprobe_event_init` in `kernel/events/core.c` asks for the capability at any setting.
    let denial = match host::is_real_root_namespace() {
        true if Capability::Perfmon.is_granted() => return Check::ok(name, found),
        true => Denial::missing(vec![Capability::Perfmon]),
        false => Denial::UserNamespace,
    };
    let found = format!("{found}, and {denial}");
    let kind = ErrorKind::NotPermitted {
        action: Action::Probe,
        denial,
    };
    Check::kind(name, Grade::Missing, found, kind)
}

/// `None` if it cannot be determined; the row of BPF says why.
fn probe_links() -> Option<Check> {
    let name = "probe links";
    support::try_bpf().ok()?;
    let found = match ProbeLinks::of_this_kernel() {
        ProbeLinks::OneForAll => return Some(Check::ok(name, "one for all sites")),
        ProbeLinks::OneForEach => "one perf event for each site",
        ProbeLinks::ProgramForEach => "one perf event and one program for each site",
    };
    let found =
        format!("{found}: setting and removing all takes a second or two, and windows are shorter");
    Some(Check::bad(
        name,
        Grade::Limited,
        found,
        Fix::KernelWithMultiLinks,
    ))
}

fn ptrace() -> Check {
    let name = "ptrace";
    let privileged = Capability::SysPtrace.is_held();
    match host::ptrace_scope() {
        None => Check::ok(name, "no Yama"),
        Some(scope @ 0) => Check::ok(name, format!("kernel.yama.ptrace_scope = {scope}")),
        Some(scope @ 1..=2) if privileged => Check::ok(
            name,
            format!("kernel.yama.ptrace_scope = {scope}, and CAP_SYS_PTRACE"),
        ),
        Some(scope) => {
            let (grade, what) = match scope {
                1 => (Grade::Limited, "children of fragscope only"),
                2 => (Grade::Missing, "for CAP_SYS_PTRACE only"),
                _ => (
                    Grade::Missing,
                    "no process may attach to another or read its memory",
                ),
            };
            let found = format!("kernel.yama.ptrace_scope = {scope}: {what}");
            Check::kind(
                name,
                grade,
                found,
                inspection_denied(Denial::PtraceScope(scope)),
            )
        }
    }
}

fn pages() -> Check {
    let name = "page states";
    match (PageSource::of_this_kernel(), Capability::SysAdmin.is_held()) {
        (PageSource::Scan, _) => Check::ok(name, "PAGEMAP_SCAN and pagemap"),
        (PageSource::Pagemap, true) => Check::bad(
            name,
            Grade::Limited,
            "pagemap alone: huge pages are not recognised",
            Fix::KernelWithPagemapScan,
        ),
        (PageSource::Pagemap, false) => Check::kind(
            name,
            Grade::Limited,
            "pagemap alone and without page frame numbers: pages shared with a forked process are counted as zero pages",
            inspection_denied(Denial::missing(vec![Capability::SysAdmin])),
        ),
    }
}

fn lockdown() -> Check {
    let name = "lockdown";
    match host::lockdown() {
        None => Check::ok(name, "none"),
        Some(mode @ Lockdown::Confidentiality) => Check::bad(
            name,
            Grade::Limited,
            format!(
                "{}: BPF programs may not read kernel memory, so call sites have no Python functions, and growth is not watched",
                mode.name()
            ),
            Fix::NoLockdown,
        ),
        Some(mode) => Check::ok(name, mode.name()),
    }
}

fn container() -> Check {
    let name = "processes";
    if !host::is_real_root_namespace() {
        let found = "inside a user namespace: its root is not the host's, probes are refused";
        return Check::kind(
            name,
            Grade::Limited,
            found,
            inspection_denied(Denial::UserNamespace),
        );
    }
    if !host::sees_all_processes() {
        return Check::bad(
            name,
            Grade::Limited,
            "inside a PID namespace: only this container's processes are visible",
            Fix::HostPidNamespace,
        );
    }
    if host::hides_processes() && host::user() != 0 {
        return Check::bad(
            name,
            Grade::Limited,
            "/proc is mounted with hidepid: processes of other users are hidden",
            Fix::VisibleProcesses,
        );
    }
    Check::ok(name, "all of the host's are visible")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_that_is_not_ok_has_a_fix_and_every_name_is_there_once() {
        let checks = run(Some(std::process::id() as i32));
        for check in &checks {
            assert_eq!(check.ok == Grade::Ok, check.fix.is_none(), "{check:?}");
            assert!(!check.found.is_empty(), "{check:?}");
        }
        let mut names: Vec<_> = checks.iter().map(|check| check.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), checks.len());
        assert_eq!(names.iter().filter(|name| **name == "C library").count(), 1);
    }

    #[test]
    fn a_target_that_is_not_there_is_missing() {
        let checks = run(Some(-1));
        let target = checks.iter().find(|check| check.name == "target");
        assert_eq!(target.map(|check| check.ok), Some(Grade::Missing));
    }
}
