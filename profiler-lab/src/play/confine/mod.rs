//! Confinement: a player may replay and do nothing else.
//!
//! A player loads allocators that fragscope did not write and calls them as an untrusted trace
//! says. So between `fork` and `exec` it drops its user, its capabilities, its files and most
//! system calls. What the host offers is determined once, beforehand. If the host then refuses
//! something it offers, the player is not started, so that none ever runs unconfined unnoticed.

mod syscalls;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use profiler_target::{drop_capabilities, host, kernel_text};
use seccompiler::BpfProgram;

/// User IDs that neither a distribution nor systemd assigns (systemd, `docs/UIDS-GIDS.md`:
/// 1879048192 to 2147483647 are unused). fragscope's pid is added, so that the players of two
/// fragscopes cannot reach each other.
const UNUSED_USERS: u32 = 1_879_048_192;
/// `nobody`: exists even in a user namespace that maps few users.
const NOBODY: u32 = 65_534;
/// The most descriptors that a player may have open: its loader opens one at a time.
const OPEN_FILES: u64 = 64;
/// The most threads of all players together, per processor, if they have their own user.
const THREADS: u64 = 4096;
/// The program interpreter, which the kernel executes with the player.
#[cfg(target_arch = "x86_64")]
pub(super) const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
#[cfg(target_arch = "aarch64")]
pub(super) const LOADER: &str = "/lib/ld-linux-aarch64.so.1";

/// Capabilities without which root cannot look at, or end, another user's process
/// (`include/uapi/linux/capability.h`).
const OTHER_USER: [(u32, &str); 4] = [
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (19, "CAP_SYS_PTRACE"),
];

/// What confines players on this host.
#[derive(Debug)]
pub(crate) struct Confinement {
    /// The user that players become; `None` if they stay fragscope's user.
    user: Option<u32>,
    /// Landlock's rules.
    files: Option<OwnedFd>,
    /// seccomp's filters, in the order in which they are installed.
    calls: Vec<BpfProgram>,
    lacks: Vec<String>,
}

/// Additional settings for one player.
#[derive(Debug, Default)]
pub(crate) struct PlayerGrants {
    /// Descriptors that it inherits, by their numbers in this process.
    pub(crate) kept: Vec<OwnedFd>,
    /// The processor that it plays on.
    pub(crate) core: Option<usize>,
}

impl Confinement {
    /// What this host offers to this fragscope.
    pub(crate) fn of_host() -> &'static Self {
        static FOUND: OnceLock<Confinement> = OnceLock::new();
        FOUND.get_or_init(Self::find)
    }

    fn find() -> Self {
        let mut lacks = Vec::new();
        let user = user().unwrap_or_else(|why| {
            lacks.push(format!("players run as root, without capabilities: {why}"));
            None
        });
        let version = landlock_version();
        lacks.extend(lack_of_landlock(version));
        let files = rules().unwrap_or_else(|error| {
            lacks.push(format!(
                "Landlock's rules cannot be made ({error}): file permissions and seccomp alone keep \
                 players from files"
            ));
            None
        });
        let calls = if host::has_seccomp() {
            syscalls::filters()
        } else {
            lacks.push(
                "this kernel has no seccomp filters (CONFIG_SECCOMP_FILTER): kernel calls of \
                 players are not restricted"
                    .to_owned(),
            );
            Vec::new()
        };
        Self {
            user,
            files,
            calls,
            lacks,
        }
    }

    /// What this kernel or fragscope's privileges do not allow, in sentences without a full stop.
    pub(crate) fn lacks(&self) -> &[String] {
        &self.lacks
    }

    /// Whether players run as another user than fragscope, who cannot open its files.
    pub(crate) fn is_other_user(&self) -> bool {
        self.user.is_some()
    }

    /// Confines the process that `command` will start.
    pub(crate) fn apply(&'static self, command: &mut Command, given: PlayerGrants) {
        let mut core = None;
        if let Some(number) = given.core {
            let mut only = CpuSet::new();
            // If the core does not exist, it plays on any.
            core = only.set(number).is_ok().then_some(only);
        }
        let mut step = Steps {
            confinement: self,
            kept: given.kept,
            core,
            threads: THREADS * super::cores() as u64,
            fragscope: std::process::id() as libc::pid_t,
            calls: self.calls.clone(),
        };
        // SAFETY: what runs between fork and exec makes kernel calls only, and allocates nothing.
        unsafe { command.pre_exec(move || step.take()) };
    }
}

/// What the new process does before it executes the player. Everything was allocated before.
struct Steps {
    confinement: &'static Confinement,
    kept: Vec<OwnedFd>,
    core: Option<CpuSet>,
    threads: u64,
    fragscope: libc::pid_t,
    calls: Vec<BpfProgram>,
}

impl Steps {
    fn take(&mut self) -> io::Result<()> {
        for fd in &self.kept {
            // SAFETY: a descriptor that is open, and no flag.
            done(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) })?;
        }
        offer_to_oom_killer();
        // The processes that a player forks are reaped automatically, while it plays on.
        // SAFETY: takes a number, and no handler.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        if let Some(core) = &self.core {
            // If it may not use the core, it plays on any.
            let _ = sched_setaffinity(Pid::from_raw(0), core);
        }
        // Nothing is dumped, and no file grows.
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        setrlimit(Resource::RLIMIT_FSIZE, 0, 0)?;
        limit(Resource::RLIMIT_NOFILE, OPEN_FILES)?;
        if let Some(user) = self.confinement.user {
            limit(Resource::RLIMIT_NPROC, self.threads)?;
            become_user(user)?;
        }
        drop_capabilities()?;
        self.die_with_fragscope()?;
        // SAFETY: an option and numbers.
        done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
        if let Some(rules) = &self.confinement.files {
            let (rules, no_flags) = (rules.as_raw_fd(), 0);
            // SAFETY: Landlock's own descriptor, and no flag.
            let restricted =
                unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules, no_flags) };
            done(restricted as libc::c_int)?;
        }
        // SAFETY: no arguments.
        let own = unsafe { libc::getpid() };
        for filter in &mut self.calls {
            syscalls::put_own_number(filter, own as u32);
            seccompiler::apply_filter(filter).map_err(|error| match error {
                seccompiler::Error::Prctl(why) | seccompiler::Error::Seccomp(why) => why,
                _ => io::ErrorKind::InvalidInput.into(),
            })?;
        }
        Ok(())
    }
}

impl Steps {
    /// The player ends with the thread that started it. This is set before anything is loaded, and
    /// nothing loaded can change it. A change of user or capabilities undoes it (`commit_creds`,
    /// kernel/cred.c): those come before.
    fn die_with_fragscope(&self) -> io::Result<()> {
        // SAFETY: an option with a number.
        done(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // SAFETY: no arguments.
        match unsafe { libc::getppid() } == self.fragscope {
            true => Ok(()),
            // It has already ended.
            false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }
}

/// Limits a resource, unless its limit is already lower: not everybody may raise a limit, and a
/// container's are low.
fn limit(resource: Resource, at_most: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    let at_most = at_most.min(hard);
    Ok(setrlimit(resource, at_most, at_most)?)
}

/// The result of a kernel call.
fn done(result: libc::c_int) -> io::Result<()> {
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// When memory runs out, the kernel ends a player first. If that cannot be set, the limit that
/// fragscope watches is all there is.
fn offer_to_oom_killer() {
    const FIRST: &[u8] = b"1000";
    let (path, flags) = (
        c"/proc/self/oom_score_adj",
        libc::O_WRONLY | libc::O_CLOEXEC,
    );
    // SAFETY: a path with its terminating zero.
    let fd = unsafe { libc::open(path.as_ptr(), flags) };
    if fd >= 0 {
        // SAFETY: bytes of this length.
        unsafe { libc::write(fd, FIRST.as_ptr().cast(), FIRST.len()) };
        // SAFETY: opened above.
        unsafe { libc::close(fd) };
    }
}

fn become_user(user: u32) -> io::Result<()> {
    // SAFETY: no groups, so none are read.
    done(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: takes numbers.
    done(unsafe { libc::setresgid(user, user, user) })?;
    // SAFETY: takes numbers.
    done(unsafe { libc::setresuid(user, user, user) })
}

/// The user that players become, or why root's stay root; an ordinary user's stay his.
fn user() -> Result<Option<u32>, String> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    let status = kernel_text("/proc/self/status").map_err(|error| error.to_string())?;
    let held = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let missing = OTHER_USER.iter().find(|(bit, _)| held >> bit & 1 == 0);
    if let Some((_, name)) = missing {
        return Err(format!("fragscope lacks {name}"));
    }
    if kernel_text("/proc/self/setgroups").is_ok_and(|word| word.trim() == "deny") {
        return Err("this user namespace forbids setgroups".to_owned());
    }
    let own = UNUSED_USERS + std::process::id();
    let maps = |user| is_mapped("uid_map", user) && is_mapped("gid_map", user);
    let found = [own, NOBODY].into_iter().find(|&user| maps(user));
    found
        .map(Some)
        .ok_or_else(|| "this user namespace has no other user".to_owned())
}

/// Whether our user namespace has this user or group.
fn is_mapped(file: &str, id: u32) -> bool {
    let map = kernel_text(format!("/proc/self/{file}")).unwrap_or_default();
    map.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(first), Some(_), Some(count)) = (number(), number(), number()) else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

/// The version of Landlock's interface that this kernel has; 0 is none.
fn landlock_version() -> u32 {
    const VERSION: libc::c_uint = 1;
    let (no_rules, no_bytes) = (std::ptr::null::<libc::c_void>(), 0usize);
    // SAFETY: with this flag, which asks for the version, no rules are passed.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            no_rules,
            no_bytes,
            VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// What Landlock of this version does not forbid of what [`rules`] forbids
/// (`Documentation/userspace-api/landlock.rst`, "Previous limitations").
fn lack_of_landlock(version: u32) -> Option<String> {
    let lacks = match version {
        0 => {
            return Some(
                "this kernel has no Landlock (Linux 5.13, CONFIG_SECURITY_LANDLOCK, and `landlock` \
                 among `lsm=`): file permissions and seccomp alone keep players from files"
                    .to_owned(),
            );
        }
        1 | 2 => "truncating files, TCP ports, devices' ioctl, and signals and sockets to outside",
        3 => "TCP ports, devices' ioctl, and signals and sockets to outside",
        4 => "devices' ioctl, and signals and sockets to outside",
        5 => "signals and sockets to outside",
        _ => return None,
    };
    Some(format!(
        "Landlock of this kernel is version {version} of 6: of {lacks}, seccomp and file \
         permissions alone keep players"
    ))
}

/// Landlock's rules: no file may be written, created or removed, none but the loader executed, no
/// port bound or connected to, no process outside signalled. The player itself is a file in memory,
/// to which Landlock does not apply. `None` on a kernel without Landlock; older kernels know fewer
/// of the rules.
fn rules() -> Result<Option<OwnedFd>, RulesetError> {
    let created = Ruleset::default()
        .handle_access(AccessFs::from_write(ABI::V5) | AccessFs::Execute)?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?;
    let with_loader = match PathFd::new(LOADER) {
        Ok(loader) => created.add_rule(PathBeneath::new(loader, AccessFs::Execute))?,
        // Without it no player starts, and that error says why.
        Err(_) => created,
    };
    Ok(with_loader.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_host_lacks_is_said_and_all_else_is_used() {
        let found = Confinement::of_host();
        let lacks = |word: &str| found.lacks().iter().any(|lack| lack.contains(word));
        // Based on what the kernel itself says, not on what was derived from it.
        let release = nix::sys::utsname::uname().expect("a kernel");
        let release = release.release().to_string_lossy().into_owned();
        let mut numbers = release
            .split(['.', '-'])
            .map(|word| word.parse().unwrap_or(0));
        let release: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if release < (5, 13) {
            assert!(lacks("no Landlock"), "{:?}", found.lacks());
        }
        let has_landlock = landlock_version() > 0;
        assert_eq!(lacks("no Landlock"), !has_landlock, "{:?}", found.lacks());
        assert_eq!(found.files.is_some(), has_landlock, "{:?}", found.lacks());
        assert!(!lacks("rules cannot be made"), "{:?}", found.lacks());
        let actions = "/proc/sys/kernel/seccomp/actions_avail";
        let has_filters = std::fs::read_to_string(actions).is_ok_and(|all| all.contains("errno"));
        assert_eq!(!found.calls.is_empty(), has_filters, "{:?}", found.lacks());
        assert_eq!(lacks("no seccomp filters"), !has_filters);
        let is_root = nix::unistd::geteuid().is_root();
        assert_eq!(found.is_other_user(), is_root && !lacks("run as root"));
    }

    #[test]
    fn an_older_landlock_is_named_with_what_it_does_not_forbid() {
        let said = |version| lack_of_landlock(version).unwrap_or_default();
        assert!(said(0).contains("no Landlock"));
        for version in 1..6 {
            assert!(said(version).contains(&format!("version {version} of 6")));
            assert!(!said(version).contains("no Landlock"));
            assert_eq!(said(version).contains("truncating"), version < 3);
            assert_eq!(said(version).contains("TCP"), version < 4);
        }
        assert_eq!(lack_of_landlock(6), None);
        assert_eq!(lack_of_landlock(9), None);
    }
}
