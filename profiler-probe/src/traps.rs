//! The plan as a list of single traps: which program at which instruction with which cookie.

use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use profiler_common::{Arguments, Cookie, MAX_SITES};
use profiler_core::activity::{ProbeState, ProbeStatus};

use super::links::Link;
use super::loaded::Loaded;
use super::plan::{Function, PlannedProbe, ProbePlan, ResultSite, Site, Sizes};
use super::program::BpfProgram;

/// Sites of the map `HITS` that are kept for [`super::calibrate`].
pub(super) const CALIBRATION_SITES: u32 = 4;

/// How a hit reaches the program, which determines its cost.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Trap {
    /// The kernel emulates the instruction.
    Emulated,
    /// The kernel single-steps a copy of it.
    Stepped,
    /// A return probe, set where there is another trap anyway.
    Return,
    /// A return probe with a trap of its own at the entry.
    ReturnAlone {
        /// Whether the kernel emulates the instruction there.
        emulated: bool,
    },
}

/// One thing to attach.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// Index of the probe in the plan.
    pub(super) probe: usize,
    pub(super) program: BpfProgram,
    pub(super) trap: Trap,
    offset: u64,
    cookie: Cookie,
}

/// All traps of a plan, with the file and the process they are set in.
#[derive(Debug)]
pub(super) struct Traps {
    pub(super) placed: Vec<Placed>,
    path: PathBuf,
    pid: NonZeroU32,
}

impl Traps {
    pub(super) fn new(plan: &ProbePlan, pid: NonZeroU32) -> Self {
        let mut placed = Vec::new();
        for (index, probe) in plan.probes.iter().enumerate() {
            place(index, probe, plan, &mut placed);
        }
        placed.truncate((MAX_SITES - CALIBRATION_SITES) as usize);
        Self {
            placed,
            path: plan.object.host_path.clone(),
            pid,
        }
    }

    /// The traps that one link can hold together, by index. A group may be empty.
    pub(super) fn groups(&self, multi: bool) -> Vec<Vec<usize>> {
        let all = 0..self.placed.len();
        if !multi {
            return all.map(|index| vec![index]).collect();
        }
        let of = |program| move |index: &usize| self.placed[*index].program == program;
        BpfProgram::ALL
            .map(|program| all.clone().filter(of(program)).collect())
            .into()
    }

    /// The file that they are set in.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file offsets.
    pub(super) fn offsets(&self) -> impl Iterator<Item = u64> {
        self.placed.iter().map(|placed| placed.offset)
    }

    /// Attaches the traps of one group, or some of them.
    pub(super) fn attach(&self, group: &[usize], loaded: &mut Loaded) -> io::Result<Link> {
        let placed = |index: &usize| &self.placed[*index];
        let program = placed(&group[0]).program;
        let points: Vec<(u64, u64)> = group
            .iter()
            .map(placed)
            .map(|placed| (placed.offset, placed.cookie.0))
            .collect();
        loaded.attach(program, &self.path, self.pid, &points)
    }
}

fn place(index: usize, probe: &PlannedProbe, plan: &ProbePlan, placed: &mut Vec<Placed>) {
    let glibc = plan.object.chunk_header();
    let mut add = |program, trap, site: &Site, entry_probed| {
        let cookie = Cookie::new(placed.len() as u16, index as u16, arguments(probe.function))
            .with_chunk_header(glibc && plan.sizes == Sizes::Given)
            .with_leaf(glibc && probe.function.is_leaf_of_glibc())
            .with_entry_probed(entry_probed);
        placed.push(Placed {
            probe: index,
            program,
            trap,
            offset: site.file_offset,
            cookie,
        });
    };
    let has_entry = probe.entry.is_some();
    if let Some(site) = &probe.entry {
        let program = match probe.function {
            Function::Free => BpfProgram::Free,
            _ => BpfProgram::Entry,
        };
        add(program, step(site), site, has_entry);
    }
    match &probe.result {
        ResultSite::None => {}
        ResultSite::Jumps(sites) => {
            for site in sites {
                add(BpfProgram::Result, step(site), site, has_entry);
            }
        }
        ResultSite::Return(site) => {
            let shared = probe
                .entry
                .as_ref()
                .is_some_and(|e| e.file_offset == site.file_offset);
            let trap = match shared {
                true => Trap::Return,
                false => Trap::ReturnAlone {
                    emulated: site.emulated,
                },
            };
            add(BpfProgram::Return, trap, site, has_entry);
        }
    }
}

fn step(site: &Site) -> Trap {
    match site.emulated {
        true => Trap::Emulated,
        false => Trap::Stepped,
    }
}

fn arguments(function: Function) -> Arguments {
    match function {
        Function::Malloc | Function::Valloc | Function::Free => Arguments::Size,
        Function::Calloc => Arguments::CountSize,
        Function::Realloc => Arguments::OldSize,
        Function::Reallocarray => Arguments::OldCountSize,
        Function::Memalign | Function::AlignedAlloc => Arguments::AlignmentSize,
        Function::PosixMemalign => Arguments::ResultAlignmentSize,
    }
}

/// The state of each probe of the plan, and of each function that is not probed. `hits` are by
/// trap; `failed` says why a probe is not attached.
pub(super) fn statuses(
    plan: &ProbePlan,
    traps: &Traps,
    hits: &[u64],
    failed: &[Option<String>],
) -> Vec<ProbeStatus> {
    let status = |function: String, site: String, hits, state| ProbeStatus {
        function,
        object: plan.object.target_path().to_owned(),
        site,
        hits,
        state,
    };
    let probed = plan.probes.iter().enumerate().map(|(index, probe)| {
        let own = || {
            let all = traps.placed.iter().zip(hits);
            all.filter(move |(placed, _)| placed.probe == index)
        };
        let total: u64 = own().map(|(_, hits)| hits).sum();
        let seen = |program| own().any(|(p, hits)| p.program == program && *hits > 0);
        let state = match failed.get(index).cloned().flatten() {
            Some(why) => ProbeState::Failed(why),
            None if total == 0 => ProbeState::Silent,
            None if probe.entry.is_none()
                || probe.result == ResultSite::None
                || seen(BpfProgram::Result)
                || seen(BpfProgram::Return)
                || total < ENTRIES_WITHOUT_RESULT =>
            {
                ProbeState::Firing
            }
            None => ProbeState::Failed("its calls are seen, and no result of them".to_string()),
        };
        status(names(probe), describe(probe), total, state)
    });
    let skipped = plan.skipped.iter().map(|(function, why)| {
        let state = ProbeState::Failed(why.clone());
        status(function.to_string(), String::new(), 0, state)
    });
    probed.chain(skipped).collect()
}

/// This many calls without a single result are no coincidence (threads inside their first call).
const ENTRIES_WITHOUT_RESULT: u64 = 1000;

fn names(probe: &PlannedProbe) -> String {
    let all = std::iter::once(&probe.function).chain(&probe.aliases);
    let all: Vec<&str> = all.map(|function| function.name()).collect();
    all.join(", ")
}

fn describe(probe: &PlannedProbe) -> String {
    let mut parts: Vec<String> = probe.entry.iter().map(ToString::to_string).collect();
    match &probe.result {
        ResultSite::None => {}
        ResultSite::Jumps(sites) => parts.extend(sites.iter().map(ToString::to_string)),
        ResultSite::Return(_) if probe.entry.is_some() => {
            parts.push("return probe".to_string());
        }
        ResultSite::Return(site) => parts.push(format!("return probe at {site}")),
    }
    parts.join("; ")
}
