//! The thread that arms the probes, takes in events, and keeps the budget.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::park_timeout;
use std::time::Duration;

use aya::programs::uprobe::UProbeLink;
use profiler_common::Config;

use super::budget::{Account, Budget};
use super::decode::decode;
use super::error::{ProbeError, attach_failure, attach_reason};
use super::loaded::Loaded;
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
    /// With the index of the trap.
    links: Vec<(usize, UProbeLink)>,
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
        // and the uprobes' own scope must do: it lets in a vfork child besides.
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
        let mut failed: Vec<Option<String>> = self.shared.state().failed.clone();
        let traps = self.traps.clone();
        // The busiest last: they cost from the moment that they are attached.
        let mut order: Vec<usize> = (0..traps.placed.len()).collect();
        order.sort_by_key(|index| self.shared.state().meter.hits()[*index]);
        for index in order {
            let placed = &traps.placed[index];
            let attached = self.links.iter().any(|(trap, _)| *trap == index);
            if attached || failed[placed.probe].is_some() {
                continue;
            }
            match traps.attach(index, self.loaded.program(placed.program)?) {
                Ok(link) => self.links.push((index, link)),
                Err(error) => {
                    if let Some(error) = attach_failure(self.pid, &error) {
                        return Err(error);
                    }
                    failed[placed.probe] = Some(attach_reason(&error));
                }
            }
        }
        self.links
            .retain(|(index, _)| failed[traps.placed[*index].probe].is_none());
        if self.links.is_empty() {
            let why = failed.iter().flatten().next().cloned();
            return Err(ProbeError::Attach(
                why.unwrap_or_else(|| "none is planned".into()),
            ));
        }
        self.shared.state().failed = failed;
        Ok(())
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
        self.links.clear();
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
            self.pause()?;
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

    /// Takes in events until the window must close, and removes the probes that cost.
    fn watch_window(&mut self) -> Result<(), ProbeError> {
        let opened = now_ns();
        let spent_before = self.shared.state().meter.spent_by_trap();
        while !self.is_over() && !self.must_close()? {
            park_timeout(POLL);
            self.take_events();
        }
        self.open(false)?;
        let closed = now_ns();
        self.take_events();
        self.shared.state().tracker.window_closed(closed);
        self.count().map_err(map_trouble)?;
        let spent = self.shared.state().meter.spent_by_trap();
        let length = closed.saturating_sub(opened).max(1) as f64;
        let pairs = spent.iter().zip(&spent_before);
        let shares: Vec<f64> = pairs.map(|(now, then)| (now - then) / length).collect();
        self.detach(&shares);
        self.take_events();
        self.count().map_err(map_trouble)?;
        if let Some(account) = &mut self.account {
            account.closing_cost(self.shared.state().meter.spent_ns() - spent.iter().sum::<f64>());
        }
        Ok(())
    }

    /// Waits until what was spent is earned. Probes that were left behind, and turn out to cost
    /// after all, are removed.
    fn pause(&mut self) -> Result<(), ProbeError> {
        let (began, spent_before) = (now_ns(), self.spent_ns());
        while !self.is_over() && !self.may_open() {
            park_timeout(PAUSE);
            self.count().map_err(map_trouble)?;
            let paused = now_ns().saturating_sub(began).max(SLOW_NS) as f64;
            if self.spent_ns() - spent_before > self.left_behind() * paused {
                self.links.clear();
            }
        }
        Ok(())
    }

    /// Removes probes, the busiest first: the kernel takes tens of milliseconds over each. `shares`
    /// are what each trap took of the window; those that hardly take any stay for the next.
    fn detach(&mut self, shares: &[f64]) {
        self.links
            .sort_by(|(a, _), (b, _)| shares[*a].total_cmp(&shares[*b]));
        let (mut kept, mut left_behind) = (0, 0.0);
        if self.account.is_some() && !self.is_over() {
            for (index, _) in &self.links {
                left_behind += shares[*index];
                if left_behind > self.left_behind() / 2.0 {
                    break;
                }
                kept += 1;
            }
        }
        while self.links.len() > kept {
            self.links.pop();
        }
    }

    /// The share that probes may take while no window is open.
    fn left_behind(&self) -> f64 {
        self.account
            .as_ref()
            .map_or(0.0, |account| account.share() / 5.0)
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
