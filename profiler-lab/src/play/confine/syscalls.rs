//! The system calls that players may make: those needed by object loading, memory, threads, clocks
//! and the player itself. All others fail with EPERM.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Allowed with any arguments.
const ALLOWED: &[c_long] = &[
    // Reading, and writing to what is already open: pipes to fragscope.
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_dup,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_pkey_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_mbind,
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    libc::SYS_membarrier,
    // Its own threads and processes. The other filter handles `clone3`.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_getcpu,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    // Landlock decides which file; and the player gives it up if its program does not need it.
    libc::SYS_execve,
    // Its own signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Clocks and sleep.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    // Information about itself and the host.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_getrlimit,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getrandom,
    libc::SYS_openat2,
];

/// Those that only this architecture has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_time,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

/// Calls whose arguments are in memory, where no filter sees them: without these, the C library
/// uses older ones.
const UNKNOWN: [c_long; 2] = [libc::SYS_clone3, libc::SYS_openat2];

/// Options of `prctl` that a player and allocators use: names, huge pages, and giving up more. It
/// must not change that it dies with fragscope.
const OPTIONS: [u64; 7] = [
    libc::PR_GET_DUMPABLE as u64,
    libc::PR_SET_NAME as u64,
    libc::PR_GET_NAME as u64,
    libc::PR_SET_SECCOMP as u64,
    libc::PR_SET_NO_NEW_PRIVS as u64,
    libc::PR_SET_THP_DISABLE as u64,
    libc::PR_SET_VMA as u64,
];

/// Commands of `fcntl` that concern a descriptor only.
const COMMANDS: [u64; 5] = [
    libc::F_DUPFD as u64,
    libc::F_GETFD as u64,
    libc::F_SETFD as u64,
    libc::F_GETFL as u64,
    libc::F_DUPFD_CLOEXEC as u64,
];

/// Flags of `clone` that create namespaces, or children that are not the player's own but
/// fragscope's, which nobody would wait for.
const NOT_OWN: u64 = (libc::CLONE_PARENT
    | libc::CLONE_PTRACE
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;
/// Flags of `open` for writing or creating.
const WRITING: u64 = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;

/// Stands for the player's own pid, which is not known before it has one.
const OWN_NUMBER: u32 = 0x5eed_f00d;

/// The filters, in the order in which they are installed: the second forbids setting one of another
/// kind.
pub(super) fn filters() -> Vec<BpfProgram> {
    let unknown = UNKNOWN.iter().map(|&call| (call, Vec::new())).collect();
    let no_such_call = SeccompAction::Errno(libc::ENOSYS as u32);
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let allowed = SeccompAction::Allow;
    [
        filter(unknown, allowed.clone(), no_such_call),
        filter(rules(), refused, allowed),
    ]
    .into_iter()
    .collect::<Result<_, _>>()
    .expect("the rules are those above, and the tests make them")
}

/// Puts the pid of the process that installs it into a filter.
pub(super) fn put_own_number(filter: &mut BpfProgram, own: u32) {
    for step in filter.iter_mut().filter(|step| step.k == OWN_NUMBER) {
        step.k = own;
    }
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn filter(
    rules: Rules,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, others, these, arch)?.try_into()
}

fn rules() -> Rules {
    let plain = ALLOWED.iter().chain(ALLOWED_HERE);
    let mut rules: Rules = plain.map(|&call| (call, Vec::new())).collect();
    let one_of = |argument, values: &[u64]| values.iter().map(|&v| is(argument, v)).collect();
    let own = u64::from(OWN_NUMBER);
    let mut put = |call, conditions: Vec<SeccompCondition>| {
        let rules: &mut Vec<SeccompRule> = rules.entry(call).or_default();
        rules.extend(conditions.into_iter().map(alone));
    };
    #[cfg(target_arch = "x86_64")]
    put(libc::SYS_open, vec![has_none(1, WRITING)]);
    put(libc::SYS_openat, vec![has_none(2, WRITING)]);
    put(libc::SYS_clone, vec![has_none(0, NOT_OWN)]);
    put(libc::SYS_prctl, one_of(0, &OPTIONS));
    put(libc::SYS_fcntl, one_of(1, &COMMANDS));
    // `isatty`.
    put(libc::SYS_ioctl, vec![is(1, libc::TCGETS)]);
    // Only its own limits and processors; and an abort, which is a signal to itself.
    put(libc::SYS_prlimit64, one_of(0, &[0, own]));
    put(libc::SYS_sched_setaffinity, one_of(0, &[0, own]));
    put(libc::SYS_tgkill, vec![is(0, own)]);
    rules
}

fn is(argument: u8, value: u64) -> SeccompCondition {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn has_none(argument: u8, flags: u64) -> SeccompCondition {
    condition(argument, SeccompCmpOp::MaskedEq(flags), 0)
}

fn condition(argument: u8, compare: SeccompCmpOp, value: u64) -> SeccompCondition {
    // The kernel looks at the lower half of all of these.
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value)
        .expect("calls have six arguments at most")
}

fn alone(condition: SeccompCondition) -> SeccompRule {
    SeccompRule::new(vec![condition]).expect("a rule has a condition")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_are_made_and_take_the_players_number() {
        let mut all = filters();
        let count = |all: &[BpfProgram], number| {
            let steps = all.iter().flatten();
            steps.filter(|step| step.k == number).count()
        };
        assert_eq!(count(&all, OWN_NUMBER), 3);
        for filter in &mut all {
            put_own_number(filter, 4711);
        }
        assert_eq!((count(&all, OWN_NUMBER), count(&all, 4711)), (0, 3));
    }
}
