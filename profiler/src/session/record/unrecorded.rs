//! Programs executed by recorded processes that record nothing themselves: they run as another
//! user, who may not open the ring, or are statically linked, or do not have the recorder in their
//! environment.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use profiler_core::text::visible;
use profiler_target::{Executed, ProcessTree};

use super::monotonic_ns;
use crate::hints::Hint;

/// A program that does not map the ring counts as being loaded for at most this long.
pub(super) const LONGEST_LOADING: Duration = Duration::from_secs(2);
/// Programs that seem not to be recorded, at most, until all that was written is known.
const MAX_SUSPECTED: usize = 1024;
/// The most processes whose executed program is remembered.
const MAX_KNOWN: usize = 16 << 10;
/// Ended programs are looked for at most this often.
const CLEAR_INTERVAL: Duration = Duration::from_secs(1);
/// At most this many are named.
const MAX_NAMED: usize = 8;

/// What recorded processes execute.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    /// The file number of the ring.
    ring: u64,
    known: HashMap<u32, Known>,
    cleared_at: Option<Instant>,
    /// Programs that were executed and did not map the ring until they were gone or the time limit.
    suspected: Vec<Suspected>,
    found: Found,
    /// Those with a limited address space.
    limited: Found,
}

/// A program that may have recorded something after it was seen without the ring: its events are
/// read later.
#[derive(Debug)]
struct Suspected {
    pid: u32,
    name: String,
    is_limited: bool,
    /// When it was first seen without the ring, and when it was last seen or its successor was
    /// seen, on the monotonic clock.
    since_ns: u64,
    until_ns: u64,
}

/// Programs that were not recorded.
#[derive(Debug, Default)]
struct Found {
    /// The first of them.
    named: Vec<(u32, String)>,
    count: usize,
}

impl Found {
    fn add(&mut self, pid: u32, name: String) {
        self.count += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push((pid, name));
        }
    }

    /// Leaves out `count` of them.
    fn leave_out(&mut self, count: usize) {
        self.named.drain(..self.named.len().min(count));
        self.count = self.count.saturating_sub(count);
    }
}

#[derive(Debug)]
struct Known {
    program: Executed,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It is recorded, was found not to be, or does not belong to us.
    Settled,
    /// It did not map the ring at this time.
    Suspected {
        since: Instant,
        since_ns: u64,
        name: String,
        is_limited: bool,
    },
}

impl Unrecorded {
    /// Of a recording with the ring of this file number.
    pub(super) fn new(ring: u64) -> Self {
        Self {
            ring,
            ..Self::default()
        }
    }

    /// Checks what this process executes now.
    pub(super) fn check(&mut self, pid: u32, tree: &ProcessTree) {
        // Whatever it writes from now on is written after this.
        let now_ns = monotonic_ns().unwrap_or(u64::MAX);
        let Some(program) = Executed::of(pid) else {
            return;
        };
        if !self.known.contains_key(&pid) && !self.has_room() {
            return;
        }
        let before = self.known.get(&pid).filter(|one| one.program == program);
        let since = match before.map(|one| &one.state) {
            Some(State::Settled) => return,
            Some(State::Suspected { since, .. }) => Some(*since),
            None => None,
        };
        // A program may claim any process to belong to the recording: processes of others are not
        // read.
        let is_ours = since.is_some() || tree.descendant(pid).is_some();
        let maps = match is_ours {
            true => program.maps(self.ring),
            false => Some(true),
        };
        let Some(maps) = maps else {
            return;
        };
        let state = match since {
            Some(since) if !maps && since.elapsed() < LONGEST_LOADING => return,
            None if !maps => State::Suspected {
                since: Instant::now(),
                since_ns: now_ns,
                name: program.name().to_owned(),
                is_limited: program.has_limit_of_addresses(),
            },
            _ => State::Settled,
        };
        // The time limit for this program has passed; or it executed yet another, or its pid was
        // reused.
        if !maps || since.is_none() {
            self.suspect(pid);
        }
        self.known.insert(pid, Known { program, state });
    }

    /// The program that is known of this process was without the ring up to now.
    fn suspect(&mut self, pid: u32) {
        let Some(known) = self.known.remove(&pid) else {
            return;
        };
        if let State::Suspected {
            since_ns,
            name,
            is_limited,
            ..
        } = known.state
        {
            self.suspected.push(Suspected {
                pid,
                name,
                is_limited,
                since_ns,
                until_ns: monotonic_ns().unwrap_or(u64::MAX),
            });
        }
        if self.suspected.len() > MAX_SUSPECTED {
            // Its events were read long ago.
            let oldest = self.suspected.remove(0);
            self.find(oldest.pid, oldest.name, oldest.is_limited);
        }
    }

    /// A program of this process recorded its beginning at this time, on the monotonic clock.
    pub(super) fn began(&mut self, pid: u32, time_ns: u64) {
        if let Some(known) = self.known.get_mut(&pid)
            && let State::Suspected { since_ns, .. } = known.state
            && time_ns >= since_ns
        {
            known.state = State::Settled;
        }
        self.suspected
            .retain(|one| one.pid != pid || !(one.since_ns..=one.until_ns).contains(&time_ns));
    }

    /// Whether another process may be remembered; ended ones are dropped.
    fn has_room(&mut self) -> bool {
        if self.known.len() >= MAX_KNOWN
            && self
                .cleared_at
                .is_none_or(|at| at.elapsed() >= CLEAR_INTERVAL)
        {
            self.cleared_at = Some(Instant::now());
            let ended = |(pid, known): (&u32, &Known)| {
                let now = Executed::of(*pid);
                now.is_none_or(|now| now != known.program).then_some(*pid)
            };
            let ended: Vec<_> = self.known.iter().filter_map(ended).collect();
            for pid in ended {
                self.suspect(pid);
            }
        }
        self.known.len() < MAX_KNOWN
    }

    fn find(&mut self, pid: u32, name: String, is_limited: bool) {
        match is_limited {
            true => self.limited.add(pid, name),
            false => self.found.add(pid, name),
        }
    }

    /// The message at the end, when everything written is known. `without_room` programs have
    /// already reported that the ring did not fit below their address limit and are not reported
    /// again.
    pub(super) fn sentence(&mut self, without_room: u32) -> Option<String> {
        for one in std::mem::take(&mut self.suspected) {
            self.find(one.pid, one.name, one.is_limited);
        }
        let known = std::mem::take(&mut self.known);
        for (pid, known) in known {
            let State::Suspected {
                name, is_limited, ..
            } = known.state
            else {
                continue;
            };
            // It was still being loaded.
            let is_same = Executed::of(pid).is_some_and(|now| now == known.program);
            if !is_same || known.program.maps(self.ring) != Some(true) {
                self.find(pid, name, is_limited);
            }
        }
        self.limited.leave_out(without_room as usize);
        let all = [&self.found, &self.limited];
        let count: usize = all.iter().map(|found| found.count).sum();
        if count == 0 {
            return None;
        }
        let named = all.iter().flat_map(|found| &found.named).take(MAX_NAMED);
        let named: Vec<_> = named
            .map(|(pid, name)| format!("{} (process {pid})", visible(name)))
            .collect();
        let others = match count - named.len() {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        Some(format!(
            "not recorded, though recorded processes executed it: {}{others}. A program that runs \
             as another user, is set-user-ID or linked statically, starts without LD_PRELOAD \
             and FRAGSCOPE_RECORD_RING, or sees another /proc (in a PID namespace) \
             writes nothing. {}",
            named.join(", "),
            Hint::RecordAsUser.words()
        ))
    }
}
