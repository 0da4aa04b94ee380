//! The probes of a plan in one process, attached and removed together.

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;

use profiler_common::Config;
use profiler_common::sampling::{PythonFrames, SamplingCounter};

use super::error::{ProbeError, attach_failure, attach_reason, remove_failure};
use super::leftover::Sites;
use super::links::Link;
use super::loaded::Loaded;
use super::traps::Traps;

/// The inode of the root PID namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const ROOT_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Whether processes have the numbers here that the kernel itself has for them.
pub(super) fn is_in_root_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == ROOT_PID_NAMESPACE)
}

/// Programs and maps, and the probes of one process that they drive.
pub(super) struct Armed {
    pub(super) loaded: Loaded,
    traps: Arc<Traps>,
    pid: NonZeroU32,
    sites: Sites,
    /// The busiest last.
    links: Vec<Link>,
    /// Why a probe cannot be attached, by probe of the plan.
    failed: Vec<Option<String>>,
    tgid: u32,
    /// Mean bytes between two points of the sample; 0 when none is taken.
    mean_bytes: u64,
    /// The mean bytes between two points of the growth sample.
    growth_mean_bytes: u64,
    native_stacks: bool,
    is_open: bool,
    lost_before: u64,
}

impl Armed {
    /// For process `pid`; nothing is attached yet.
    pub(super) fn new(
        pid: NonZeroU32,
        loaded: Loaded,
        traps: Arc<Traps>,
        probes: usize,
    ) -> Result<Self, ProbeError> {
        // The BPF side sees pids of the root namespace. In any other namespace the target's pid
        // there is unknown, so only the uprobes' own scope can select it; the scope of perf events
        // also lets in a vfork child.
        Ok(Self {
            lost_before: loaded.lost().map_err(map_trouble)?,
            sites: Sites::of(pid, &traps)?,
            loaded,
            traps,
            pid,
            links: Vec::new(),
            failed: vec![None; probes],
            tgid: if is_in_root_namespace() { pid.get() } else { 0 },
            mean_bytes: 0,
            growth_mean_bytes: 0,
            native_stacks: false,
            is_open: false,
        })
    }

    /// The process.
    pub(super) fn pid(&self) -> i32 {
        self.pid.get().cast_signed()
    }

    /// Events lost for lack of room in the ring before there was a probe.
    pub(super) fn lost_before(&self) -> u64 {
        self.lost_before
    }

    /// Why a probe cannot be attached, by probe of the plan.
    pub(super) fn failed(&self) -> &Vec<Option<String>> {
        &self.failed
    }

    /// Attaches all probes, with no window open yet. A probe that cannot be attached is left out
    /// entirely. `hits` are the hits so far, by trap.
    pub(super) fn attach(&mut self, hits: &[u64]) -> Result<(), ProbeError> {
        self.open(false)?;
        while !self.attach_all(hits)? {
            self.close()?;
        }
        if self.links.is_empty() {
            let failed = self.failed.iter().flatten().next().cloned();
            return Err(ProbeError::Attach(
                failed.unwrap_or_else(|| "none is planned".into()),
            ));
        }
        Ok(())
    }

    /// Attaches all probes that have not failed; false when one more has.
    fn attach_all(&mut self, hits: &[u64]) -> Result<bool, ProbeError> {
        let traps = self.traps.clone();
        let mut groups = self.groups();
        // The busiest last: they cost from the moment that they are attached.
        groups.sort_by_key(|group| group.iter().map(|index| hits[*index]).sum::<u64>());
        for group in &groups {
            match traps.attach(group, &mut self.loaded) {
                Ok(link) => self.links.push(link),
                Err(error) => {
                    if let Some(error) = attach_failure(self.pid(), &error) {
                        return Err(self.after(error));
                    }
                    self.find_failed(group, &error)?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The traps, in groups that one link each can hold, without those of failed probes. No group
    /// is empty.
    fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups = self.traps.groups(self.loaded.is_multi());
        for group in &mut groups {
            group.retain(|index| self.failed[self.traps.placed[*index].probe].is_none());
        }
        groups.retain(|group| !group.is_empty());
        groups
    }

    /// Notes which probes make a group impossible to attach: those that also fail alone, or all.
    ///
    /// # Errors
    /// If none can be attached any more, for example because the guard was ended meanwhile.
    fn find_failed(&mut self, group: &[usize], error: &io::Error) -> Result<(), ProbeError> {
        let traps = self.traps.clone();
        let mut failed = Vec::new();
        for index in group {
            match traps.attach(&[*index], &mut self.loaded) {
                Ok(link) => self.links.push(link),
                Err(error) => match attach_failure(self.pid(), &error) {
                    // The site is not at fault.
                    Some(error) => return Err(self.after(error)),
                    None => failed.push((*index, attach_reason(&error))),
                },
            }
        }
        self.close()?;
        if failed.is_empty() {
            failed.extend(group.iter().map(|index| (*index, attach_reason(error))));
        }
        for (index, why) in failed {
            self.failed[traps.placed[index].probe] = Some(why);
        }
        Ok(())
    }

    /// Removes the probes, the busiest first, and waits until they are gone.
    pub(super) fn close(&mut self) -> Result<(), ProbeError> {
        let links: Vec<Link> = self.links.drain(..).rev().collect();
        if links.is_empty() {
            return Ok(());
        }
        let removed = self.loaded.remove(&links);
        removed.map_err(|error| self.after(remove_failure(error)))?;
        self.sites.wait_until_clear();
        Ok(())
    }

    /// Checks whether somebody ended the guard, and if so removes what it left.
    ///
    /// # Errors
    /// If the guard was ended.
    pub(super) fn check_guard(&mut self) -> Result<(), ProbeError> {
        match self.loaded.is_held() {
            true => Ok(()),
            false => Err(self.after(ProbeError::GuardLost)),
        }
    }

    /// Removes the probes for good. If breakpoints are still in the target afterwards, because the
    /// process that held them was ended or the kernel failed, they are removed once more.
    pub(super) fn end(&mut self) -> Result<(), ProbeError> {
        let closed = self.close();
        if self.has_left_breakpoints() {
            self.set_and_remove()?;
        }
        closed
    }

    /// Whether there are breakpoints where the probes were: left over, or from another tool's
    /// probes.
    fn has_left_breakpoints(&self) -> bool {
        self.sites.are_set()
    }

    /// Cleans up after `error`. An ended guard may have left breakpoints; a live one still holds
    /// its own, and nobody else can remove them.
    fn after(&mut self, error: ProbeError) -> ProbeError {
        if !matches!(error, ProbeError::GuardLost) {
            return error;
        }
        self.links.clear();
        // All that counts is whether they are gone.
        let _ = self
            .loaded
            .restart_guard()
            .and_then(|()| self.set_and_remove());
        match self.sites.are_set() {
            true => ProbeError::BreakpointsLeft(self.pid()),
            false => error,
        }
    }

    /// Sets all probes and removes them again, which also removes what others left at their sites.
    fn set_and_remove(&mut self) -> Result<(), ProbeError> {
        let traps = self.traps.clone();
        for group in self.groups() {
            let set = traps.attach(&group, &mut self.loaded);
            // What could not be set before cannot be set now.
            self.links.extend(set);
        }
        let links: Vec<Link> = self.links.drain(..).collect();
        self.loaded.remove(&links).map_err(remove_failure)?;
        self.sites.wait_until_clear();
        Ok(())
    }

    /// Opens a window, during which there are events, or closes it.
    pub(super) fn open(&mut self, open: bool) -> Result<(), ProbeError> {
        self.is_open = open;
        self.configure()
    }

    /// Sets where the target's Python has its frames, and which threads it has.
    pub(super) fn set_python(
        &mut self,
        frames: PythonFrames,
        threads: &[(u64, u64)],
    ) -> Result<(), ProbeError> {
        let set = self.loaded.set_python(frames, threads);
        set.map_err(map_trouble)
    }

    /// What sampling has cost and yielded so far, by [`SamplingCounter`].
    pub(super) fn sampling(&self) -> Result<[u64; SamplingCounter::COUNT as usize], ProbeError> {
        self.loaded.sampling().map_err(map_trouble)
    }

    /// Sets the mean bytes between two points of the sample of allocations; 0 for none.
    pub(super) fn sample(&mut self, mean_bytes: u64) -> Result<(), ProbeError> {
        self.mean_bytes = mean_bytes;
        self.configure()
    }

    /// Watches growth from now on, whether or not probes are attached. `heap_end` is where the heap
    /// of `brk` ends. Returns what cannot be watched, and why.
    pub(super) fn watch_growth(&mut self, heap_end: u64) -> Result<Vec<String>, ProbeError> {
        if self.tgid == 0 {
            let why = "fragscope runs in a PID namespace of its own, where the kernel's calls cannot be distinguished \
                       by process";
            return Ok(vec![why.to_owned()]);
        }
        self.loaded.watch_growth(heap_end).map_err(map_trouble)
    }

    /// Stops watching growth.
    pub(super) fn end_growth(&mut self) {
        self.loaded.end_growth();
    }

    /// Sets the mean bytes between two points of the sample of growth; 0 for none.
    pub(super) fn sample_growth(&mut self, mean_bytes: u64) -> Result<(), ProbeError> {
        self.growth_mean_bytes = mean_bytes;
        self.configure()
    }

    /// Has samples come with the tops of native stacks, or without.
    pub(super) fn copy_native_stacks(&mut self, native_stacks: bool) -> Result<(), ProbeError> {
        self.native_stacks = native_stacks;
        self.configure()
    }

    fn configure(&mut self) -> Result<(), ProbeError> {
        let config = Config {
            tgid: self.tgid,
            open: self.is_open.into(),
            mean_bytes: self.mean_bytes,
            growth_mean_bytes: self.growth_mean_bytes,
            native_stacks: self.native_stacks.into(),
        };
        self.loaded.configure(config).map_err(map_trouble)
    }

    /// Hits so far by trap, and events lost for lack of room in the ring.
    pub(super) fn counts(&self) -> Result<(Vec<u64>, u64), ProbeError> {
        let hits = (0..self.traps.placed.len() as u32).map(|site| self.loaded.hits(site));
        let hits: Result<Vec<u64>, _> = hits.collect();
        let lost = self.loaded.lost().map_err(map_trouble)?;
        Ok((hits.map_err(map_trouble)?, lost - self.lost_before))
    }
}

fn map_trouble(source: std::io::Error) -> ProbeError {
    ProbeError::Host {
        what: "use a BPF map",
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::{Pid, geteuid};
    use profiler_target::Target;

    use super::*;
    use crate::plan::ProbePlan;

    /// The guard of this process.
    fn guard() -> Pid {
        let tasks = std::fs::read_dir("/proc/self/task").expect("its threads");
        let children = tasks.flat_map(|task| {
            let path = task.expect("a thread").path().join("children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            let pids = children.split_whitespace().map(str::to_owned);
            pids.collect::<Vec<_>>()
        });
        let is_guard = |pid: &String| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name == "probe-guard\n")
        };
        let found = children.into_iter().find(is_guard).expect("it runs");
        Pid::from_raw(found.parse().expect("a number"))
    }

    #[test]
    fn a_guard_that_dies_while_a_bad_site_is_sought_is_no_fault_of_a_site() {
        assert!(geteuid().is_root(), "it sets probes, which takes root");
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let (input, output) = (child.stdin.as_mut(), child.stdout.as_mut());
        input.expect("piped").write_all(b"?").expect("it reads");
        // The guard answers, so it runs, with its libc.
        output
            .expect("piped")
            .read_exact(&mut [0])
            .expect("it answers");
        let target = Target::open(child.id().cast_signed()).expect("our own child");
        let plan = ProbePlan::for_target(&target).expect("a plan");
        let pid = NonZeroU32::new(child.id()).expect("a number");
        let traps = Arc::new(Traps::new(&plan, pid));
        let loaded = Loaded::new(4096).expect("we are root");
        let probes = plan.probes.len();
        let mut armed = Armed::new(pid, loaded, Arc::clone(&traps), probes).expect("armed");
        armed.attach(&vec![0; traps.placed.len()]).expect("all");
        armed.close().expect("removed");
        kill(guard(), Signal::SIGKILL).expect("ours");
        let all: Vec<usize> = (0..traps.placed.len()).collect();
        let refused = io::Error::from_raw_os_error(libc::EINVAL);
        let ended = armed.find_failed(&all, &refused);
        assert!(matches!(ended, Err(ProbeError::GuardLost)), "{ended:?}");
        assert_eq!(armed.failed, vec![None; probes]);
        // Another guard has taken its place and removed what was left.
        assert!(armed.loaded.is_held() && !armed.sites.are_set());
        child.kill().expect("ours");
        child.wait().expect("ours");
    }
}
