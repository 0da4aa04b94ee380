//! The descendants of this process.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use procfs::process::LimitValue;

use super::attributes::file_behind;
use super::kernel_file::{each_line, kernel_text};
use super::maps;
use super::proc_dir::PidFd;
use super::stat::{Stat, time_of_ticks};

/// At most this many generations are followed.
const MAX_GENERATIONS: usize = 1024;

/// All descendants of this process. A process whose parent ends becomes a child of this process
/// instead of the host's first process, so that a daemon remains in the tree.
#[derive(Debug)]
pub struct ProcessTree {
    own: i32,
    /// Children that this process had before, with their start times: the program that executed
    /// fragscope left them, and neither they nor their descendants belong to the command.
    strangers: Vec<(i32, u64)>,
    /// The inode of the ring that recorded programs map.
    ring: u64,
    /// The child that was started to be recorded.
    command: Option<i32>,
}

/// A process of the tree: this one, and not a later one with the same pid.
#[derive(Clone, Debug)]
pub struct Member {
    pid: u32,
    pidfd: PidFd,
}

impl Member {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has not exited. Until it has, its pid belongs to it.
    pub fn is_alive(&self) -> bool {
        self.pidfd.is_alive()
    }
}

impl ProcessTree {
    /// Begins to adopt descendants, until this process ends.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn adopt() -> io::Result<Self> {
        prctl::set_child_subreaper(true)?;
        let own = std::process::id() as i32;
        Ok(Self {
            own,
            strangers: children(own)?,
            ring: 0,
            command: None,
        })
    }

    /// Adds this child to the tree, whatever program it runs; it records into the ring with this
    /// inode. Other children that run this process's own program are its helpers and are not part
    /// of the tree.
    pub fn add_command(&mut self, pid: u32, ring: u64) {
        self.command = i32::try_from(pid).ok();
        self.ring = ring;
    }

    /// Whether this is the number of the child that was started to be recorded.
    pub fn is_command(&self, pid: u32) -> bool {
        self.command == i32::try_from(pid).ok()
    }

    /// The descendant with this pid; `None` if there is none, or if it has its own PID namespace
    /// and so other pids.
    pub fn member(&self, pid: u32) -> Option<Member> {
        let member = self.descendant(pid)?;
        is_of_our_namespace(member.pid as i32).then_some(member)
    }

    /// The descendant with this pid, whatever its PID namespace.
    pub fn descendant(&self, pid: u32) -> Option<Member> {
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 1)?;
        let mut line = Vec::new();
        let mut at = pid;
        while at != self.own {
            if at <= 1 || line.len() >= MAX_GENERATIONS {
                return None;
            }
            let pidfd = PidFd::open(at).ok()?;
            // Read after the process is held: then its parent is the process that has this pid now.
            let parent = Stat::of(at)?.parent;
            line.push((at, parent, pidfd));
            at = parent;
        }
        let holds = line
            .iter()
            .all(|(pid, parent, _)| Stat::of(*pid).is_some_and(|stat| stat.parent == *parent));
        let (child, _, _) = line.last()?;
        let is_command = Some(*child) == self.command;
        let is_other = may_be_own_program(*child) || self.is_strange(*child, pid);
        if !holds || is_other && !is_command {
            return None;
        }
        // None ended meanwhile, so that no pid was reused and all that were examined existed.
        if !line.iter().all(|(_, _, pidfd)| pidfd.is_alive()) {
            return None;
        }
        let (_, _, pidfd) = line.into_iter().next()?;
        Some(Member {
            pid: pid as u32,
            pidfd,
        })
    }

    /// Whether the child, or its descendant, does not belong to the command. Processes started by
    /// earlier children become children of this process when their parents end: while there were
    /// such children, only processes that map the ring belong to the command.
    fn is_strange(&self, child: i32, pid: i32) -> bool {
        let began = |child| Stat::of(child).map(|stat| stat.began_ticks);
        let is_from_before = |(stranger, then): &(i32, u64)| {
            *stranger == child && began(child).is_none_or(|now| now == *then)
        };
        self.strangers.iter().any(is_from_before)
            || !self.strangers.is_empty() && has_ring(pid, self.ring) != Some(true)
    }

    /// Whether a descendant has this thread and already had it `ago` before now.
    pub fn has_thread(&self, tid: u32, ago: Duration) -> bool {
        let Ok(tid) = i32::try_from(tid) else {
            return false;
        };
        let Some(stat) = Stat::of(tid).filter(|stat| !matches!(stat.state, 'Z' | 'X')) else {
            return false;
        };
        let then = since_boot().map(|now| now.saturating_sub(ago));
        let began_later = then.is_some_and(|then| time_of_ticks(stat.began_ticks) > then);
        let process = process_of(tid);
        !began_later && process.is_some_and(|pid| self.member(pid).is_some())
    }

    /// Collects the ends of adopted processes, so that none stays a zombie. `child` was started by
    /// this process, and its end is left to the code that started it.
    pub fn reap(&self, child: u32) {
        reap_adopted(|pid| pid == child as i32);
    }
}

/// Whether no process with this number runs, waited for or not.
pub fn has_exited(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else {
        return true;
    };
    match PidFd::open(pid) {
        Ok(pidfd) => !pidfd.is_alive(),
        Err(error) => error.raw_os_error() == Some(Errno::ESRCH as i32),
    }
}

/// What a thread of a process is doing at this moment.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum ThreadState {
    /// It runs, or is stopped.
    Runs,
    /// It waits in the kernel, for a child of `vfork` or anything else.
    Waits,
    /// It is ending, or there is no such thread.
    Ends,
}

impl ThreadState {
    /// The state of this thread of a process.
    pub fn of(pid: u32, tid: u32) -> Self {
        /// `include/linux/sched.h`.
        const PF_EXITING: u32 = 4;
        let Some(stat) = Stat::read(&format!("/proc/{pid}/task/{tid}/stat")) else {
            return Self::Ends;
        };
        match stat.state {
            _ if stat.flags & PF_EXITING != 0 => Self::Ends,
            'Z' | 'X' => Self::Ends,
            'R' | 't' | 'T' => Self::Runs,
            _ => Self::Waits,
        }
    }
}

/// The process that has this thread, or had it a moment ago.
pub fn process_of(tid: i32) -> Option<u32> {
    status_number(tid, "Tgid")
}

/// Collects the ends of children that this process adopted but did not start, whichever group they
/// are in, so that none stays a zombie. `is_own` says which children other code here waits for.
pub fn reap_adopted(is_own: impl Fn(i32) -> bool) {
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // Bounded: more of them are there the next time.
    for _ in 0..MAX_CHILDREN {
        let pid = match waitid(Id::All, ended) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => pid,
            Err(Errno::EINTR) => continue,
            _ => return,
        };
        if is_own(pid.as_raw()) {
            // The kernel reports this one as long as nobody waits for it, and none after it.
            let all = children_of(std::process::id()).into_iter();
            let adopted = all.map(|pid| pid as i32).filter(|pid| !is_own(*pid));
            return adopted.filter(|pid| has_ended(*pid)).for_each(|pid| {
                let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            });
        }
        // Other code may have waited for it meanwhile.
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    }
}

/// Whether a child of this process has ended, so that waiting for it does not block. Any other way
/// of waiting may mistake a stop for an end if a thread of this process traces the child: the
/// kernel reports a tracee's stops to all threads of its tracer, whatever they wait for
/// (`wait_consider_task`, kernel/exit.c), and the thread that stopped it waits in vain. A child
/// that was already waited for counts as ended.
pub fn has_ended(child: i32) -> bool {
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(Pid::from_raw(child)), ended) {
        Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => true,
        Ok(_) | Err(_) => false,
    }
}

/// A program that a process executes.
#[derive(Clone, Debug)]
pub struct Executed {
    pid: i32,
    began_ticks: u64,
    /// The start address of its stack, which differs for each executed program.
    stack: u64,
    name: String,
}

impl PartialEq for Executed {
    /// Whether it is the same execution; a name can be changed.
    fn eq(&self, other: &Self) -> bool {
        let one = |of: &Self| (of.pid, of.began_ticks, of.stack);
        one(self) == one(other)
    }
}

impl Executed {
    /// The execution of the process with this pid; `None` if it has ended.
    pub fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        let stat = Stat::of(pid).filter(|stat| !matches!(stat.state, 'Z' | 'X'))?;
        Some(Self {
            pid,
            began_ticks: stat.began_ticks,
            stack: stat.stack,
            name: stat.name,
        })
    }

    /// Its name according to the kernel; untrusted text.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it maps the ring with this inode; `None` if it is ending.
    pub fn maps(&self, ring: u64) -> Option<bool> {
        let maps = has_ring(self.pid, ring)?;
        let is_same = Self::of(self.pid as u32).is_some_and(|now| now == *self);
        is_same.then_some(maps)
    }

    /// Whether its address space is limited (`ulimit -v`), as far as known.
    pub fn has_limit_of_addresses(&self) -> bool {
        let limits = procfs::process::Process::new(self.pid).and_then(|process| process.limits());
        limits
            .is_ok_and(|limits| matches!(limits.max_address_space.soft_limit, LimitValue::Value(_)))
    }
}

/// Whether the process maps the ring with this inode: false if its memory belongs to another user,
/// `None` if it no longer has any.
fn has_ring(pid: i32, ring: u64) -> Option<bool> {
    let file = match fs::File::open(format!("/proc/{pid}/maps")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Some(false),
        Err(_) => return None,
    };
    let ring = ring.to_string();
    let is_ring = |line: &[u8]| {
        // The inode is the fifth field (proc(5)); only in-memory files have such a name.
        let fields = line.split(u8::is_ascii_whitespace);
        let mut fields = fields.filter(|field| !field.is_empty()).skip(4);
        fields.next() == Some(ring.as_bytes())
            && fields
                .next()
                .is_some_and(|path| path.starts_with(b"/memfd:"))
    };
    let (mut has_any, mut has_it) = (false, false);
    let read = each_line(file, maps::MAX_BYTES, None, |line| {
        has_any = true;
        has_it = is_ring(line);
        match has_it {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    match read {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Some(false),
        Err(_) if !has_any => None,
        _ => has_any.then_some(has_it),
    }
}

/// The children of a process according to its threads (`/proc/PID/task/TID/children`, proc(5)):
/// empty if the kernel does not list them. Children of a `vfork` have not written anything of their
/// own.
pub fn children_of(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten().take(MAX_TASKS);
    let lists = tasks.filter_map(|task| kernel_text(task.path().join("children")).ok());
    let all = lists.flat_map(|list| {
        let numbers = list.split_whitespace();
        numbers
            .filter_map(|pid| pid.parse().ok())
            .collect::<Vec<_>>()
    });
    all.take(MAX_CHILDREN).collect()
}

/// The most threads of a process whose children are read, and the most children of a process.
const MAX_TASKS: usize = 1024;
const MAX_CHILDREN: usize = 256;

/// The children of this process, with their start times.
fn children(own: i32) -> io::Result<Vec<(i32, u64)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(stat) = Stat::of(pid).filter(|stat| stat.parent == own) {
            all.push((pid, stat.began_ticks));
        }
    }
    Ok(all)
}

/// Whether the process runs the same program file as this one, or one that is not visible: it is
/// exiting and no longer has a program, or it belongs to another user.
fn may_be_own_program(pid: i32) -> bool {
    let file = |of: &str| file_behind(format!("/proc/{of}/exe").as_ref()).ok();
    let theirs = file(&pid.to_string());
    theirs.is_none() || theirs == file("self")
}

/// Whether the pid is the one that the process itself sees.
fn is_of_our_namespace(pid: i32) -> bool {
    counts_as_here(pid as u32).unwrap_or(true)
}

/// Whether the process with this pid sees the same pid itself, and is in no PID namespace of its own;
/// `None` if it does not exist.
pub fn counts_as_here(pid: u32) -> Option<bool> {
    let status = kernel_text(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    // A kernel without PID namespaces has no such line.
    Some(numbers.is_none_or(|numbers| numbers.split_whitespace().count() == 1))
}

fn status_number(tid: i32, name: &str) -> Option<u32> {
    let status = kernel_text(format!("/proc/{tid}/status")).ok()?;
    let number = super::proc_dir::field(&status, name)?;
    u32::try_from(number).ok()
}

fn since_boot() -> Option<Duration> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    Some(Duration::from(now))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_what_descends_from_this_process_is_of_the_tree() {
        let mut tree = ProcessTree::adopt().expect("permitted");
        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep");
        // Children of other tests may have been there before.
        tree.add_command(child.id(), 0);
        let member = tree.member(child.id()).expect("our own child");
        assert!(member.is_alive() && member.pid() == child.id());
        assert!(tree.has_thread(child.id(), Duration::ZERO));
        // It was not there an hour ago.
        assert!(!tree.has_thread(child.id(), Duration::from_secs(3600)));
        assert!(tree.member(1).is_none() && tree.member(0).is_none());
        assert!(tree.member(u32::MAX).is_none());
        assert!(tree.member(std::os::unix::process::parent_id()).is_none());
        // Nor is this process, nor one that is only a copy of it.
        assert!(tree.member(std::process::id()).is_none());
        let mut copy = Command::new("/proc/self/exe");
        let copy = copy
            .arg("--list")
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        assert!(tree.member(copy.id()).is_none());
        copy.wait_with_output().expect("it ends");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        assert!(!member.is_alive() && tree.member(child.id()).is_none());
    }

    #[test]
    fn children_from_before_and_what_they_leave_behind_are_not_of_the_tree() {
        let before = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn();
        let mut before = before.expect("a shell");
        let mut line = String::new();
        let out = before.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("it speaks");
        let grandchild: u32 = line.trim().parse().expect("a number");
        let tree = ProcessTree::adopt().expect("permitted");
        assert!(tree.member(before.id()).is_none());
        assert!(tree.member(grandchild).is_none());
        before.kill().expect("it runs");
        before.wait().expect("it ends");
        // Now it is a child of this process.
        assert!(tree.member(grandchild).is_none());
        let pid = Pid::from_raw(grandchild as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
        waitpid(pid, None).expect("our own child now");
    }

    #[test]
    fn a_daemon_stays_in_the_tree_when_its_parent_ends() {
        let mut tree = ProcessTree::adopt().expect("permitted");
        let shell = Command::new("sh")
            .args(["-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"])
            .stdout(Stdio::piped())
            .output()
            .expect("a shell");
        let said = String::from_utf8_lossy(&shell.stdout);
        let daemon: u32 = said.trim().parse().expect("a number");
        // As above: it is not taken for what such a child left.
        tree.add_command(daemon, 0);
        let member = tree.member(daemon).expect("adopted");
        let pid = Pid::from_raw(daemon as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
        waitpid(pid, None).expect("our own child now");
        assert!(!member.is_alive());
    }
}
