//! The thread that arms the probes, takes in events, and keeps the budget.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::park_timeout;
use std::time::Duration;

use aya::programs::ProgramError;
use profiler_common::Config;

use super::budget::{Account, Budget};
use super::decode::decode;
use super::error::{ProbeError, attach_failure, attach_reason};
use super::loaded::{Link, Loaded, remove};
use super::session::Shared;
use super::traps::Traps;

/// Between two looks at the ring. It holds 200 ms of the fastest stream that traps can make.
const POLL: Duration = Duration::from_millis(3);
/// Between two looks at whether what was spent is earned.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two looks at the BPF side's counters when nothing depends on them, and at whether the
/// target is still there, in ns.
const SLOW_NS: u64 = 100_000_000;
/// Events taken in under one lock, so that a reader waits for less than a millisecond.
const BATCH: usize = 8192;

/// The inode of the root PID namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const ROOT_PID_NAMESPACE: &str = "pid:[4026531836]";

pub(super) struct Worker {
    pid: i32,
    stat: File,
    loaded: Loaded,
    traps: Arc<Traps>,
    /// The busiest last.
    links: Vec<Link>,
    shared: Arc<Shared>,
    account: Option<Account>,
    tgid: u32,
    /// Lost while calibrating.
    lost_before: u64,
    slow_at_ns: u64,
    gone: bool,
}

impl Worker {
    pub(super) fn new(
        pid: i32,
        loaded: Loaded,
        traps: Arc<Traps>,
        shared: Arc<Shared>,
        budget: Budget,
    ) -> Result<Self, ProbeError> {
        let stat = File::open(format!("/proc/{pid}/stat")).map_err(|_| ProbeError::Gone(pid))?;
        // The BPF side sees numbers of the root namespace. Elsewhere the target's is not known,
        // and the uprobes' own scope must do: that of perf events lets in a vfork child besides.
        let in_root = std::fs::read_link("/proc/self/ns/pid")
            .is_ok_and(|link| link.as_os_str() == ROOT_PID_NAMESPACE);
        let lost_before = loaded.lost().map_err(map_trouble)?;
        Ok(Self {
            pid,
            stat,
            lost_before,
            loaded,
            traps,
            links: Vec::new(),
            shared,
            account: budget.share().map(|share| Account::new(share, now_ns())),
            tgid: if in_root { pid.cast_unsigned() } else { 0 },
            slow_at_ns: 0,
            gone: false,
        })
    }

    /// Attaches all probes, with no window open yet. One that cannot be attached is left out whole.
    pub(super) fn attach(&mut self) -> Result<(), ProbeError> {
        self.open(false)?;
        while !self.attach_all()? {
            self.close();
        }
        if self.links.is_empty() {
            let failed = self.shared.state().failed.iter().flatten().next().cloned();
            return Err(ProbeError::Attach(
                failed.unwrap_or_else(|| "none is planned".into()),
            ));
        }
        Ok(())
    }

    /// Attaches all probes that have not failed; false when one more has.
    fn attach_all(&mut self) -> Result<bool, ProbeError> {
        let traps = self.traps.clone();
        let mut groups = traps.groups(self.loaded.is_multi());
        {
            let state = self.shared.state();
            for group in &mut groups {
                group.retain(|index| state.failed[traps.placed[*index].probe].is_none());
            }
            // The busiest last: they cost from the moment that they are attached.
            let hits = state.meter.hits();
            groups.sort_by_key(|group| group.iter().map(|index| hits[*index]).sum::<u64>());
        }
        for group in groups.iter().filter(|group| !group.is_empty()) {
            match traps.attach(group, &mut self.loaded) {
                Ok(link) => self.links.push(link),
                Err(error) => {
                    if let Some(error) = attach_failure(self.pid, &error) {
                        return Err(error);
                    }
                    self.find_failed(group, &error);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Notes which probes are why a group cannot be attached: those that fail alone, or all.
    fn find_failed(&mut self, group: &[usize], error: &ProgramError) {
        let traps = self.traps.clone();
        let alone = group.iter().filter_map(|index| {
            let error = traps.attach(&[*index], &mut self.loaded).err()?;
            Some((*index, attach_reason(&error)))
        });
        let mut failed: Vec<(usize, String)> = alone.collect();
        if failed.is_empty() {
            failed.extend(group.iter().map(|index| (*index, attach_reason(error))));
        }
        let mut state = self.shared.state();
        for (index, why) in failed {
            state.failed[traps.placed[index].probe] = Some(why);
        }
    }

    /// Removes the probes, the busiest first.
    fn close(&mut self) {
        remove(self.links.drain(..).rev());
    }

    /// Opens a window: from now on events come.
    pub(super) fn open_window(&mut self) -> Result<(), ProbeError> {
        self.loaded.forget_calls();
        self.count().map_err(map_trouble)?;
        let opened = now_ns();
        {
            let mut state = self.shared.state();
            state.meter.window_opened(opened);
            state.tracker.window_opened(opened);
        }
        self.open(true)
    }

    /// Window after window, the first of which is open, until told to stop or the target is gone.
    pub(super) fn run(mut self) {
        let ended = self.windows();
        self.close();
        let ended = match ended {
            Ok(()) if self.gone => Some("the target has exited".to_string()),
            Ok(()) => None,
            Err(error) => Some(error.to_string()),
        };
        self.shared.state().ended = ended;
    }

    fn windows(&mut self) -> Result<(), ProbeError> {
        loop {
            self.watch_window()?;
            self.pause();
            if self.is_over() {
                return Ok(());
            }
            match self.attach() {
                Err(ProbeError::Gone(_)) => {
                    self.gone = true;
                    return Ok(());
                }
                attached => attached?,
            }
            self.open_window()?;
        }
    }

    /// Takes in events until the window must close, and removes the probes.
    fn watch_window(&mut self) -> Result<(), ProbeError> {
        while !self.is_over() && !self.must_close()? {
            park_timeout(POLL);
            self.take_events();
        }
        self.open(false)?;
        let closed = now_ns();
        self.take_events();
        self.shared.state().tracker.window_closed(closed);
        self.count().map_err(map_trouble)?;
        let spent = self.spent_ns();
        self.close();
        self.take_events();
        self.count().map_err(map_trouble)?;
        let closing = self.spent_ns() - spent;
        if let Some(account) = &mut self.account {
            account.closing_cost(closing);
        }
        Ok(())
    }

    /// Waits until what was spent is earned.
    fn pause(&mut self) {
        while !self.is_over() && !self.may_open() {
            park_timeout(PAUSE);
        }
    }

    fn open(&mut self, open: bool) -> Result<(), ProbeError> {
        let config = Config {
            tgid: self.tgid,
            open: open.into(),
        };
        self.loaded.configure(config).map_err(map_trouble)
    }

    fn is_over(&mut self) -> bool {
        let now = now_ns();
        if now >= self.slow_at_ns {
            self.slow_at_ns = now + SLOW_NS;
            self.gone |= !is_alive(&self.stat);
        }
        self.gone || self.shared.must_stop()
    }

    fn may_open(&mut self) -> bool {
        let spent = self.spent_ns();
        let account = self.account.as_mut();
        account.is_none_or(|account| account.may_open(now_ns(), spent))
    }

    fn must_close(&mut self) -> Result<bool, ProbeError> {
        self.count().map_err(map_trouble)?;
        let now = now_ns();
        self.shared.state().meter.window_goes_on(now);
        let spent = self.spent_ns();
        let account = self.account.as_mut();
        Ok(account.is_some_and(|account| account.must_close(now, spent)))
    }

    fn spent_ns(&self) -> f64 {
        self.shared.state().meter.spent_ns()
    }

    /// Takes in the BPF side's counters.
    fn count(&mut self) -> io::Result<()> {
        let counts = (0..self.traps.placed.len() as u32).map(|site| self.loaded.hits(site));
        let counts: Vec<u64> = counts.collect::<io::Result<_>>()?;
        let lost = self.loaded.lost()? - self.lost_before;
        let mut state = self.shared.state();
        for (index, hits) in counts.into_iter().enumerate() {
            state.meter.count(index, hits);
        }
        state.lost = lost;
        Ok(())
    }

    /// Empties the ring.
    fn take_events(&mut self) {
        loop {
            let mut state = self.shared.state();
            for _ in 0..BATCH {
                let Some(record) = self.loaded.events.next() else {
                    return;
                };
                if let Some(event) = decode(&record) {
                    state.tracker.push(&event);
                }
            }
        }
    }
}

fn map_trouble(error: impl Into<io::Error>) -> ProbeError {
    ProbeError::Host {
        what: "use a BPF map",
        source: error.into(),
    }
}

/// Whether the process of this `/proc/PID/stat`, opened when it lived, still runs; a later process
/// of the same number is another.
fn is_alive(stat: &File) -> bool {
    let mut buffer = [0; 512];
    let Ok(length) = stat.read_at(&mut buffer, 0) else {
        return false;
    };
    let text = String::from_utf8_lossy(&buffer[..length]);
    // The name in brackets may hold anything (proc_pid_stat(5)).
    let state = text.rsplit(')').next().unwrap_or_default().trim_start();
    !matches!(state.chars().next(), Some('Z' | 'X') | None)
}

/// Now, on the clock of the events (`CLOCK_MONOTONIC`), in ns.
pub(super) fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("Linux always has this clock");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}
