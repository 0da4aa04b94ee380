//! The thread that arms the probes, takes in events, and enforces the budget.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use profiler_common::sampling::SamplingCounter;
use profiler_core::event::AllocEvent;
use profiler_core::residency::MappingKind;
use profiler_target::{ErrorKind, Process, Stat, Target};

use super::armed::Armed;
use super::budget::{Account, Budget};
use super::decode::decode;
use super::error::ProbeError;
use super::growth::{self, GrowthRate};
use super::shared::{Ended, Shared, State};
use super::stacks::{Spent, Stacks};

/// The time between two looks at the ring. It holds 200 ms of the fastest stream that traps can
/// make.
const POLL: Duration = Duration::from_millis(3);
/// The time between two checks whether what was spent is earned.
const PAUSE: Duration = Duration::from_millis(20);
/// Finding native functions takes at most this long while events wait.
const MAX_FINDING: Duration = Duration::from_millis(100);
/// The time between two looks at the BPF side's counters when nothing depends on them, and two
/// checks whether the target is still there, in ns.
const SLOW_NS: u64 = 100_000_000;
/// The time between two looks at the threads and the code objects, in ns.
const REFRESH_NS: u64 = 1_000_000_000;
/// Events taken in under one lock, so that a reader waits less than a millisecond.
const EVENTS_PER_LOCK: usize = 8192;

pub(super) struct Worker {
    stat: File,
    armed: Armed,
    stacks: Stacks,
    shared: Arc<Shared>,
    budget: Budget,
    account: Option<Account>,
    slow_at_ns: u64,
    adjust_at_ns: u64,
    adjust_growth_at_ns: u64,
    refresh_at_ns: u64,
    gone: bool,
}

impl Worker {
    pub(super) fn new(
        armed: Armed,
        stacks: Stacks,
        shared: Arc<Shared>,
        budget: Budget,
    ) -> Result<Self, ProbeError> {
        let pid = armed.pid();
        let stat = File::open(format!("/proc/{pid}/stat")).map_err(|_| ProbeError::Gone(pid))?;
        Ok(Self {
            stat,
            armed,
            stacks,
            shared,
            budget,
            account: budget.share().map(|share| Account::new(share, now_ns())),
            slow_at_ns: 0,
            adjust_at_ns: 0,
            adjust_growth_at_ns: 0,
            refresh_at_ns: 0,
            gone: false,
        })
    }

    /// Begins to watch growth, which continues whether or not a window is open.
    pub(super) fn watch_growth(&mut self, target: &Target) -> Result<(), ProbeError> {
        let mappings = target.mappings();
        let heap = mappings.as_deref().unwrap_or_default().iter();
        let heap = heap.rev().find(|of| of.kind == MappingKind::Brk);
        let heap_end = heap.map_or(0, |heap| heap.range.end().get());
        let mut missing = self.armed.watch_growth(heap_end)?;
        if let Err(error) = mappings {
            missing.push(format!(
                "where the heap of brk ends could not be read, so that its first growth is not counted: {error}"
            ));
        }
        if target.may_get_huge_pages() {
            missing.push(
                "huge pages that are touched, beyond 4 KiB of each (transparent_hugepage is `always` on this host)"
                    .into(),
            );
        }
        let now_ns = now_ns();
        self.refresh(now_ns)?;
        let rate = GrowthRate::new(now_ns, missing);
        self.armed.sample_growth(rate.mean_bytes())?;
        self.shared.state().growth = rate;
        Ok(())
    }

    /// Adjusts how seldom growth is sampled, and has the BPF programs know new threads.
    fn adjust_growth(&mut self, now_ns: u64) -> Result<(), ProbeError> {
        if now_ns < self.adjust_growth_at_ns {
            return Ok(());
        }
        self.adjust_growth_at_ns = now_ns + SLOW_NS;
        self.count()?;
        if now_ns >= self.refresh_at_ns {
            self.refresh(now_ns)?;
        }
        let (mean_bytes, must_end) = {
            let mut state = self.shared.state();
            let counts = state.sampling;
            let budget = self.budget.share();
            let changed = state.growth.adjust(now_ns, &counts, budget);
            let must_end = state.growth.must_end(now_ns, &counts, budget);
            (changed.then(|| state.growth.mean_bytes()), must_end)
        };
        if must_end {
            self.armed.end_growth();
        }
        match mean_bytes {
            Some(mean_bytes) => self.armed.sample_growth(mean_bytes),
            None => Ok(()),
        }
    }

    /// Attaches all probes, with no window open yet. A probe that cannot be attached is left out
    /// entirely.
    pub(super) fn attach(&mut self) -> Result<(), ProbeError> {
        let hits = {
            let mut state = self.shared.state();
            // All is earned now. The cost of the probes while they are attached belongs to the
            // window that they open.
            state.meter.window_begins(now_ns());
            state.meter.hits().to_vec()
        };
        let attached = self.armed.attach(&hits);
        self.shared.state().failed.clone_from(self.armed.failed());
        attached
    }

    /// Opens a window: from now on there are events.
    pub(super) fn open_window(&mut self) -> Result<(), ProbeError> {
        self.armed.loaded.forget_calls();
        self.count()?;
        self.refresh(now_ns())?;
        {
            let mut state = self.shared.state();
            state.windows += 1;
            state.tracker.window_opened(now_ns());
        }
        self.armed.open(true)
    }

    /// Has the BPF programs know the target's threads as they are now.
    fn refresh(&mut self, now_ns: u64) -> Result<(), ProbeError> {
        self.refresh_at_ns = now_ns + REFRESH_NS;
        self.stacks.arm(&mut self.armed)?;
        let mut state = self.shared.state();
        state.mean_bytes = self.stacks.mean_bytes();
        state.no_stacks = self.stacks.missing().map(str::to_owned);
        Ok(())
    }

    /// Adjusts how rarely allocations are sampled to what is seen in the window.
    fn adjust(&mut self, now_ns: u64) -> Result<(), ProbeError> {
        if now_ns < self.adjust_at_ns {
            return Ok(());
        }
        self.adjust_at_ns = now_ns + SLOW_NS;
        let spent = {
            let state = self.shared.state();
            let (armed_ns, bytes) = state.tracker.seen(now_ns);
            let count = |of: SamplingCounter| state.sampling[of as usize];
            let of_allocations = |all, of_growth| count(all).saturating_sub(count(of_growth));
            Spent {
                armed_ns,
                bytes,
                traps_ns: state.meter.traps_ns(),
                samples: of_allocations(SamplingCounter::Taken, SamplingCounter::GrowthTaken),
                samples_ns: of_allocations(
                    SamplingCounter::Nanoseconds,
                    SamplingCounter::GrowthNanoseconds,
                ),
            }
        };
        self.stacks.adjust(&mut self.armed, spent)
    }

    /// Runs window after window, the first of which is open, until it is told to stop or the target
    /// is gone. Returns why it ended, unless it was told to.
    pub(super) fn run(mut self) -> Option<Ended> {
        let ended = self.windows();
        // Growth continues in a pause.
        self.take_events();
        let ended = ended.and(self.count());
        let ended = ended.and(self.armed.end());
        match ended {
            Ok(()) if self.gone => Some(Ended {
                why: "the target has exited".to_owned(),
                kind: ErrorKind::TargetGone,
            }),
            Ok(()) => None,
            Err(error) => Some(Ended {
                why: error.to_string(),
                kind: error.kind(),
            }),
        }
    }

    fn windows(&mut self) -> Result<(), ProbeError> {
        loop {
            self.watch_window()?;
            self.pause()?;
            if self.is_over()? {
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

    /// Takes in events until the window must close, then removes the probes.
    fn watch_window(&mut self) -> Result<(), ProbeError> {
        while !self.is_over()? && !self.must_close()? {
            park_timeout(POLL);
            self.take_events();
            self.adjust(now_ns())?;
            self.adjust_growth(now_ns())?;
        }
        self.armed.open(false)?;
        let closed = now_ns();
        self.take_events();
        self.shared.state().tracker.window_closed(closed);
        self.count()?;
        let spent = self.spent_ns();
        self.armed.close()?;
        self.take_events();
        self.count()?;
        let closing = self.spent_ns() - spent;
        if let Some(account) = &mut self.account {
            account.closing_cost(closing);
        }
        Ok(())
    }

    /// Waits until what was spent is earned.
    fn pause(&mut self) -> Result<(), ProbeError> {
        while !self.is_over()? && !self.is_earned(now_ns()) {
            park_timeout(PAUSE);
            self.take_events();
            self.adjust_growth(now_ns())?;
        }
        Ok(())
    }

    fn is_over(&mut self) -> Result<bool, ProbeError> {
        let now = now_ns();
        if now >= self.slow_at_ns {
            self.slow_at_ns = now + SLOW_NS;
            self.gone |= !is_alive(&self.stat);
            self.armed.check_guard()?;
        }
        Ok(self.gone || self.shared.must_stop())
    }

    fn is_earned(&mut self, now_ns: u64) -> bool {
        let spent = self.spent_ns();
        let account = self.account.as_mut();
        account.is_none_or(|account| account.is_earned(now_ns, spent))
    }

    fn must_close(&mut self) -> Result<bool, ProbeError> {
        self.count()?;
        let now = now_ns();
        if self.is_earned(now) {
            self.shared.state().meter.window_goes_on(now);
        }
        let spent = self.spent_ns();
        let account = self.account.as_mut();
        Ok(account.is_some_and(|account| account.must_close(now, spent)))
    }

    fn spent_ns(&self) -> f64 {
        self.shared.state().meter.spent_ns()
    }

    /// Takes in the BPF side's counters.
    fn count(&mut self) -> Result<(), ProbeError> {
        let (hits, lost) = self.armed.counts()?;
        let sampling = self.armed.sampling()?;
        let mut state = self.shared.state();
        state.sampling = sampling;
        let ns = sampling[SamplingCounter::Nanoseconds as usize] as f64;
        let spent = ns + growth::spent_ns(&sampling);
        state.meter.count_sampling(spent);
        for (index, hits) in hits.into_iter().enumerate() {
            state.meter.count(index, hits);
        }
        state.lost = lost;
        Ok(())
    }

    /// Empties the ring. The probes do not wait for native functions for longer than a moment: stacks are cut then.
    fn take_events(&mut self) {
        self.stacks.find_native_until(Instant::now() + MAX_FINDING);
        let mut has_sampled = false;
        loop {
            let mut state = self.shared.state();
            let began = now_ns();
            for _ in 0..EVENTS_PER_LOCK {
                let Some(record) = self.armed.loaded.events.next() else {
                    state.taken_until_ns = began;
                    if has_sampled {
                        state.native = self.stacks.native();
                    }
                    return;
                };
                if let Some(event) = decode(&record) {
                    take_event(&mut state, &event);
                    continue;
                }
                // Finding functions may require reading files, and nobody should have to wait for
                // that.
                drop(state);
                let sampled = self.stacks.resolve(&record);
                has_sampled = true;
                state = self.shared.state();
                if let Some(sampled) = sampled {
                    sampled.add(&mut state.sites);
                }
            }
        }
    }
}

/// A sampled block is gone when its address is freed, and also when it is allocated again: then it
/// was freed unseen.
fn take_event(state: &mut State, event: &AllocEvent) {
    state.tracker.push(event);
    state.sites.gone(event.addr, event.time_ns);
}

/// Whether the process of this `/proc/PID/stat`, opened when it lived, still runs; a later process
/// with the same pid is another.
fn is_alive(stat: &File) -> bool {
    // At most 52 fields of 20 digits.
    let mut buffer = [0; 2048];
    let Ok(length) = stat.read_at(&mut buffer, 0) else {
        return false;
    };
    Stat::parse(&buffer[..length]).is_some_and(|stat| !stat.has_ended())
}

/// Now, on the clock of the events (`CLOCK_MONOTONIC`), in ns.
pub(super) fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .expect("Linux always has this clock");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}
