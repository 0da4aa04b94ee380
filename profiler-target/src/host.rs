//! Properties and limits of the host, from `/proc` and `/sys`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::time::{ClockId, clock_gettime};
use profiler_core::machine::HugePageMode;
use profiler_core::sample::Host;
use profiler_core::text::visible;

use super::cgroup;
use super::kernel_file::{each_line, kernel_text};
use super::page_size::page_size;
use super::proc_dir::field;

/// The host that fragscope runs on.
pub fn host() -> Host {
    let online = |line: &&str| {
        line.strip_prefix("cpu")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    Host {
        kernel: word("/proc/sys/kernel/osrelease").unwrap_or_default(),
        arch: std::env::consts::ARCH.to_owned(),
        cpus: text("/proc/stat").lines().filter(online).count() as u32,
        memory_bytes: field(&text("/proc/meminfo"), "MemTotal").unwrap_or(0) << 10,
        page_size: page_size(),
    }
}

/// Bytes that can be allocated now without swapping, by the kernel's estimate, and within the limits
/// of our control groups.
pub fn available_bytes() -> u64 {
    let of_host = field(&text("/proc/meminfo"), "MemAvailable").unwrap_or(0) << 10;
    cgroup::memory_left().map_or(of_host, |left| left.min(of_host))
}

/// The processor time of this process so far, over all its threads.
pub fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID);
    time.map_or(Duration::ZERO, Duration::from)
}

/// The resident set of fragscope, in bytes.
pub fn own_resident() -> Option<u64> {
    let counts = kernel_text("/proc/self/statm").ok()?;
    let pages: u64 = counts.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(procfs::page_size())
}

/// Gives the calling thread, and threads that it starts, the lowest priority: everything else that
/// wants a processor comes first.
pub fn give_way() {
    const LOWEST: libc::c_int = 19;
    // SAFETY: takes numbers. On Linux 0 is the calling thread, and lowering is always permitted.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST) };
}

/// Makes the kernel kill fragscope rather than its larger target when memory runs out, on the host
/// or in a control group that they share: the process with the largest score is chosen
/// (`oom_badness`, mm/oom_kill.c). Processes started from now on inherit the score.
pub fn offer_to_oom_killer() {
    if let Ok(before) = kernel_text(OOM_SCORE) {
        // Keeps the original score.
        let _ = SCORE_BEFORE.set(before);
    }
    // Raising the score is always permitted; if /proc is not writable, sizes decide.
    let _ = std::fs::write(OOM_SCORE, "1000");
}

/// The OOM score adjustment of the process that reads or writes it.
pub(super) const OOM_SCORE: &str = "/proc/self/oom_score_adj";
/// fragscope's score before it was raised.
static SCORE_BEFORE: OnceLock<String> = OnceLock::new();

/// The score with which fragscope was started, if it has changed.
pub(super) fn score_before() -> Option<&'static str> {
    SCORE_BEFORE.get().map(|score| score.trim())
}

/// Whether fragscope can open hardly any more files, by its own limit or the host's.
pub fn is_short_of_files() -> bool {
    let open = |_| File::open("/dev/null");
    let error = (0..FEW_FILES)
        .map(open)
        .collect::<io::Result<Vec<File>>>()
        .err();
    let number = error.and_then(|error| error.raw_os_error());
    matches!(number, Some(libc::EMFILE | libc::ENFILE))
}

/// The number of files needed to inspect a process: its handles, its memory, and files read on the
/// way.
const FEW_FILES: u32 = 8;

/// The capabilities that fragscope has a use for (`include/uapi/linux/capability.h`).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Capability {
    /// Reading files of other users, including `/proc/PID/mem`; so does the next.
    DacOverride = 1,
    /// Reading files of other users.
    DacReadSearch = 2,
    /// Reading and stopping processes of other users.
    SysPtrace = 19,
    /// Includes the two below on kernels before 5.8; shows page frame numbers.
    SysAdmin = 21,
    /// Uprobes and perf events.
    Perfmon = 38,
    /// BPF maps and programs.
    Bpf = 39,
}

/// What probing needs in addition to permission to inspect the target.
pub const TO_PROBE: &[Capability] = &[Capability::Bpf, Capability::Perfmon];

impl Capability {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DacOverride => "CAP_DAC_OVERRIDE",
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }

    /// Whether it is in our effective set.
    pub fn is_held(self) -> bool {
        self.is_in("CapEff")
    }

    /// Whether we may do what it permits, also through another capability that includes it.
    pub fn is_granted(self) -> bool {
        let wider = match self {
            Self::DacReadSearch => Some(Self::DacOverride),
            Self::Perfmon | Self::Bpf => Some(Self::SysAdmin),
            _ => None,
        };
        self.is_held() || wider.is_some_and(Self::is_held)
    }

    fn is_in(self, set: &str) -> bool {
        let status = text("/proc/self/status");
        let mut sets = status.lines().filter_map(|line| line.split_once(':'));
        sets.find(|(name, _)| *name == set)
            .and_then(|(_, hex)| u64::from_str_radix(hex.trim(), 16).ok())
            .is_some_and(|set| set >> self as u32 & 1 == 1)
    }
}

/// Whether files of other users can be read.
pub fn reads_files_of_others() -> bool {
    Capability::DacReadSearch.is_granted()
}

/// The capabilities that we lack, without any that includes them.
pub fn lacking(needed: &[Capability]) -> Vec<Capability> {
    let all = needed.iter().copied();
    all.filter(|one| !one.is_granted()).collect()
}

/// Those capabilities of use that we have.
pub fn held() -> Vec<Capability> {
    let all = [
        Capability::DacReadSearch,
        Capability::SysPtrace,
        Capability::SysAdmin,
        Capability::Perfmon,
        Capability::Bpf,
    ];
    all.into_iter().filter(|one| one.is_held()).collect()
}

/// Why capabilities given to fragscope's file (`setcap`) are not in effect, if that is the case.
pub fn withheld() -> Option<&'static str> {
    if Capability::SysPtrace.is_held() {
        return None;
    }
    if Capability::SysPtrace.is_in("CapPrm") {
        return Some(
            "its file permits CAP_SYS_PTRACE but does not put it into effect: give it by `setcap` \
             with +ep",
        );
    }
    has_file_capabilities().then_some(
        "its file has capabilities (see `getcap`), and CAP_SYS_PTRACE is not among those granted: a \
         file system mounted nosuid grants none, nor does no_new_privs (systemd's \
         NoNewPrivileges=, Kubernetes' allowPrivilegeEscalation: false)",
    )
}

/// Whether our own file has capabilities (`capabilities(7)`, "File capabilities").
fn has_file_capabilities() -> bool {
    let (file, name) = (c"/proc/self/exe", c"security.capability");
    // SAFETY: both are strings that end with NUL; with a size of 0 nothing is written.
    let bytes = unsafe { libc::getxattr(file.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) };
    bytes > 0
}

/// Whether `/proc` is there at all.
pub fn has_proc() -> bool {
    Path::new("/proc/self/status").exists()
}

/// Whether `/proc` belongs to another PID namespace than ours: then its entry for a pid is about
/// another process.
pub fn has_foreign_proc() -> bool {
    // It is the reader's pid in the namespace of the mount.
    let own = fs::read_link("/proc/self");
    own.is_ok_and(|own| own.as_os_str() != std::process::id().to_string().as_str())
}

/// With fewer left than this the limit counts as reached: the processes that failed to start may
/// have needed them.
const FEW_PROCESSES: u64 = 64;

/// What keeps more threads and processes from running, in words.
pub fn limit_of_processes() -> String {
    if let Some((folder, most, left)) = cgroup::processes()
        && left < FEW_PROCESSES
    {
        let folder = folder.join("pids.max");
        return format!(
            "no more than {most} threads and processes may run in this control group ({})",
            visible(folder.display())
        );
    }
    match getrlimit(Resource::RLIMIT_NPROC) {
        Ok((most, _)) if most != RLIM_INFINITY && user() != 0 => {
            format!("no more than {most} threads and processes of this user may run (ulimit -u)")
        }
        _ => "the host runs as many threads and processes as it may (kernel.threads-max, kernel.pid_max)"
            .to_owned(),
    }
}

/// How many files we may have open at a time (`RLIMIT_NOFILE`).
///
/// # Errors
/// The kernel's error.
pub fn most_open_files() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

/// How many more files this process can open, at most `wanted`.
pub fn files_left(wanted: usize) -> usize {
    let opened: Vec<_> = (0..wanted).map_while(|_| File::open("/").ok()).collect();
    opened.len()
}

/// Our effective user id.
pub fn user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// `kernel.yama.ptrace_scope`; `None` without Yama.
pub fn ptrace_scope() -> Option<u32> {
    number("/proc/sys/kernel/yama/ptrace_scope")
}

/// The names of this kernel's security modules that may forbid one process to inspect another;
/// `None` if they cannot be determined.
pub fn security_modules() -> Option<Vec<String>> {
    // Denial checks the rules common to all kernels, and Yama's setting.
    let others = |name: &str| !matches!(name, "" | "capability" | "yama");
    let listed = word("/sys/kernel/security/lsm").unwrap_or_default();
    let mut all: Vec<String> = listed.split(',').map(str::to_owned).collect();
    if listed.is_empty() {
        all = loaded_modules().into_iter().map(str::to_owned).collect();
    }
    all.retain(|name| others(name));
    (!all.is_empty()).then_some(all)
}

/// The same with `lsm_list_modules(2)`, since Linux 6.8, in case no securityfs is mounted.
fn loaded_modules() -> Vec<&'static str> {
    /// `include/uapi/linux/lsm.h`: the first is 100.
    const NAMES: [&str; 14] = [
        "capability",
        "selinux",
        "smack",
        "tomoyo",
        "apparmor",
        "yama",
        "loadpin",
        "safesetid",
        "lockdown",
        "bpf",
        "landlock",
        "ima",
        "evm",
        "ipe",
    ];
    let mut numbers = [0u64; 32];
    let mut bytes = size_of_val(&numbers) as u32;
    // SAFETY: a place for as many bytes, and no flag.
    let count = unsafe {
        libc::syscall(
            SYS_LSM_LIST_MODULES,
            numbers.as_mut_ptr(),
            &raw mut bytes,
            0,
        )
    };
    let count = usize::try_from(count).unwrap_or(0).min(numbers.len());
    let name = |number: &u64| NAMES.get(usize::try_from(number.checked_sub(100)?).ok()?);
    numbers[..count].iter().filter_map(name).copied().collect()
}

/// The same number on all architectures (`include/uapi/asm-generic/unistd.h`).
const SYS_LSM_LIST_MODULES: libc::c_long = 461;

/// `kernel.perf_event_paranoid`, which some distributions raise above 2.
pub fn perf_event_paranoid() -> Option<i32> {
    number("/proc/sys/kernel/perf_event_paranoid")
}

/// Whether the kernel describes its own types, in `/sys/kernel/btf/vmlinux`.
pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Whether the kernel has uprobes, which appear as a perf event source.
pub fn has_uprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/uprobe/type").exists()
}

/// Whether `/sys` is mounted, which it is not in some containers.
pub fn has_sysfs() -> bool {
    Path::new("/sys/bus").exists()
}

/// What a kernel's lockdown module forbids, root included (kernel_lockdown(7)).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Lockdown {
    /// Nothing.
    None,
    /// Changing the kernel.
    Integrity,
    /// Reading the kernel's memory as well.
    Confidentiality,
}

impl Lockdown {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Integrity, Self::Confidentiality];

    /// The kernel's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        }
    }
}

/// The lockdown mode in force. `None` without the module.
pub fn lockdown() -> Option<Lockdown> {
    let mode = bracketed(&text("/sys/kernel/security/lockdown"))?;
    Lockdown::ALL.into_iter().find(|one| one.name() == mode)
}

/// The active one of the choices listed by the kernel, such as `never [always]`.
fn bracketed(choices: &str) -> Option<String> {
    let (_, rest) = choices.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Whether we are in the host's initial pid namespace (`PROC_PID_INIT_INO` in
/// `include/linux/proc_ns.h`), in which all processes are visible.
pub fn sees_all_processes() -> bool {
    namespace("pid") == Some(0xEFFF_FFFC)
}

/// Whether we live in the host's first user namespace (`PROC_USER_INIT_INO`), whose root is root.
pub fn is_real_root_namespace() -> bool {
    namespace("user") == Some(0xEFFF_FFFD)
}

/// Whether `/proc` hides processes of other users.
pub fn hides_processes() -> bool {
    File::open("/proc/self/mounts").is_ok_and(hides_processes_in)
}

/// Bytes of the list of mounts that are read.
const MAX_MOUNTS: u64 = 128 << 20;

/// The same, by the list of mounts, in which other names are anybody's.
fn hides_processes_in(mounts: impl Read) -> bool {
    let mut hides = false;
    let read = each_line(mounts, MAX_MOUNTS, None, |line| {
        let line = String::from_utf8_lossy(line);
        let mut words = line.split(' ').skip(1);
        let is_proc = words.next() == Some("/proc") && words.next() == Some("proc");
        let mut options = words.next().unwrap_or_default().split(',');
        let is_set = |option: &str| {
            let value = option.strip_prefix("hidepid=");
            value.is_some_and(|value| value != "0" && value != "off")
        };
        hides |= is_proc && options.any(is_set);
        match hides {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    // What is beyond a limit, or cannot be read, is not known to hide any.
    read.is_ok() && hides
}

/// When the kernel makes huge pages of its own accord. `None` where it cannot, or has another mode.
pub fn transparent_huge_pages() -> Option<HugePageMode> {
    let mode = bracketed(&text("/sys/kernel/mm/transparent_hugepage/enabled"))?;
    HugePageMode::named(&mode)
}

/// The kernel's major and minor version.
pub fn kernel_version() -> Option<(u32, u32)> {
    let release = word("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether the kernel has seccomp filters (`CONFIG_SECCOMP_FILTER`).
pub fn has_seccomp() -> bool {
    seccomp_filters().is_some() || {
        let (mode, none) = (libc::SECCOMP_MODE_FILTER, 0);
        // SAFETY: a null filter: rejected as a bad address if filters are supported, else as
        // unknown.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, none) };
        nix::errno::Errno::result(set) == Err(nix::errno::Errno::EFAULT)
    }
}

/// The number of system call filters that apply to this process; before Linux 5.9, 1 if there are
/// any. `None` for a kernel without them (`fs/proc/array.c`).
pub fn seccomp_filters() -> Option<u64> {
    let status = text("/proc/self/status");
    let mode = || field(&status, "Seccomp");
    field(&status, "Seccomp_filters").or_else(|| mode().map(|mode| u64::from(mode == 2)))
}

fn namespace(kind: &str) -> Option<u64> {
    let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
    let link = link.to_string_lossy();
    link.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

fn text(path: &str) -> String {
    kernel_text(path).unwrap_or_default()
}

fn word(path: &str) -> Option<String> {
    Some(kernel_text(path).ok()?.trim().to_owned())
}

fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
    word(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_processes_are_known_beside_mounts_that_are_not_utf_8() {
        let hides = |option: &str| {
            let list = format!(" fuse rw 0 0\nproc /proc proc rw,{option} 0 0\n");
            hides_processes_in(&[b"x /home/m\xff", list.as_bytes()].concat()[..])
        };
        assert!(hides("hidepid=invisible") && hides("hidepid=2"));
        assert!(!hides("hidepid=0") && !hides("hidepid=off") && !hides("relatime"));
    }
}
