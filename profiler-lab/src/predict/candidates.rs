//! The candidates of a prediction.

use std::path::Path;

use profiler_core::allocator::{
    Allocator, BuildId, Environment, GlibcSetting, ReturnTime, UnknownEnvironment,
};
use profiler_core::report::Mechanism;
use profiler_core::tuning::{self, Tuning};

use crate::allocators::PlayableAllocator;
use crate::candidates::Candidate;
use crate::failure::Failure;
use crate::recorded;
use crate::seed::WalkedHeap;

/// How to interpret the figures of a candidate's players: what the program would need besides what
/// they show.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Interpretation {
    /// It is the heap as it is: any of the histories shows whether that is reproduced.
    Baseline,
    /// All that decides is in the walk and the histories.
    Histories,
    /// When it returns freed memory depends on what the program does next (mimalloc): it was
    /// replayed once more with all of it returned, which is the lower end.
    Collected,
    /// It returns freed memory only when it is called (jemalloc without a background thread): it
    /// was replayed once more for a program that is idle, which is the upper end.
    Idle,
    /// It returns nothing: its need was decided at the peak (tcmalloc).
    Peak,
    /// The heap of another allocator, or of other settings, does not show what it would have kept:
    /// possibly as much as there was.
    UpToPeak,
}

impl Interpretation {
    /// For another allocator with its defaults.
    fn of(kind: Allocator) -> Self {
        match kind.row().return_time {
            ReturnTime::InCalls => Self::Idle,
            ReturnTime::WithLaterCalls => Self::Collected,
            ReturnTime::Never => Self::Peak,
            ReturnTime::ByPlace => Self::UpToPeak,
            ReturnTime::Unknown => Self::Histories,
        }
    }

    /// How often it is replayed.
    pub(super) fn runs(self, histories: usize) -> usize {
        match self {
            Self::Baseline => 1,
            Self::Collected | Self::Idle => histories + 1,
            Self::Histories | Self::Peak | Self::UpToPeak => histories,
        }
    }
}

/// A candidate for the heap of a walk.
pub(super) struct HeapCandidate {
    pub(super) candidate: Candidate,
    /// Its need, if that follows from the walk without a replay.
    pub(super) exact: Option<u64>,
    /// The mechanism for which it is the remedy.
    pub(super) undoes: Option<Mechanism>,
    pub(super) interpretation: Interpretation,
}

impl HeapCandidate {
    fn tuned(tuning: &Tuning, candidate: Candidate) -> Self {
        Self {
            candidate,
            exact: None,
            undoes: tuning.undoes,
            interpretation: Interpretation::Histories,
        }
    }

    /// Whether it is glibc with other settings.
    pub(super) fn is_glibc(&self) -> bool {
        let allocator = self.candidate.allocator.as_ref();
        allocator.is_ok_and(|allocator| allocator.identity.is(Allocator::Glibc))
    }

    /// Why it cannot be replayed.
    pub(super) fn failure(&self) -> Option<String> {
        let allocator = self.candidate.allocator.as_ref();
        allocator.err().map(|failure| failure.why.clone())
    }

    fn untuned(candidate: Candidate, interpretation: Interpretation) -> Self {
        Self {
            candidate,
            exact: None,
            undoes: None,
            interpretation,
        }
    }
}

/// What is tried: first the heap as it is, then what users request most. A process that `is_forked`
/// has only its own threads: jemalloc's background thread, started in its parent, would not be
/// there.
pub(super) fn candidates(
    heap: &WalkedHeap<'_>,
    measured: u64,
    is_forked: bool,
    root: Option<&Path>,
) -> Vec<HeapCandidate> {
    let own = heap.allocator();
    let installed = |build| PlayableAllocator::to_preload(build, root).map_err(Failure::from);
    let (as_it_is, env) = match own {
        Allocator::Glibc => (Ok(PlayableAllocator::glibc()), settings_of(heap)),
        _ => as_the_worker_has(heap, is_forked, root),
    };
    let baseline = Candidate::called("baseline", as_it_is, env.clone());
    let plain = |build: BuildId| {
        let candidate = Candidate::default_of(build, installed(build), Environment::default());
        HeapCandidate::untuned(candidate, Interpretation::of(build.kind()))
    };
    let purging = match is_forked {
        true => &tuning::JEMALLOC_NO_DECAY,
        false => &tuning::JEMALLOC_BACKGROUND,
    };
    let jemalloc = installed(BuildId::Jemalloc);
    let others = [
        HeapCandidate::tuned(
            purging,
            Candidate::tuned(purging, jemalloc, Environment::default()),
        ),
        plain(BuildId::Jemalloc),
        plain(BuildId::Mimalloc2),
        plain(BuildId::Mimalloc3),
        plain(BuildId::Tcmalloc),
    ];
    let is_own = |other: &HeapCandidate| {
        let allocator = other.candidate.allocator.as_ref();
        allocator.is_ok_and(|allocator| allocator.identity.is(own))
    };
    let mut all = vec![HeapCandidate::untuned(baseline, Interpretation::Baseline)];
    all.extend(others.into_iter().filter(|other| !is_own(other)));
    match own {
        Allocator::Glibc => all.extend(of_glibc(heap, measured, &env)),
        _ => {
            let glibc = Ok(PlayableAllocator::glibc());
            let glibc = Candidate::default_of(BuildId::Glibc, glibc, Environment::default());
            let interpretation = Interpretation::of(Allocator::Glibc);
            all.push(HeapCandidate::untuned(glibc, interpretation));
        }
    }
    all
}

/// Settings and calls of glibc's own, for a heap of glibc's.
fn of_glibc(heap: &WalkedHeap<'_>, measured: u64, env: &Environment) -> Vec<HeapCandidate> {
    let tuned = |tuning: &'static Tuning| {
        let candidate = Candidate::tuned(tuning, Ok(PlayableAllocator::glibc()), env.clone());
        HeapCandidate::tuned(tuning, candidate)
    };
    let mut trimmed = tuned(&tuning::TRIM);
    let call = tuning::TRIM.calls;
    trimmed.candidate.step = call.map(|call| call.step("after peaks"));
    trimmed.exact = Some(measured.saturating_sub(heap.trimmable_bytes()));
    let mut early = tuned(&tuning::TRIM_THRESHOLD);
    // If the mmap threshold has grown, or may have, the first large blocks were mapped. It is
    // replayed with that threshold at its highest, so that they are in the heap from the start: the
    // walk does not show how much of that it would have kept.
    let threshold = GlibcSetting::MmapThreshold;
    if heap.setting(threshold).is_none() || heap.changed_setting(threshold).is_some() {
        early.interpretation = Interpretation::UpToPeak;
    }
    let mut all = vec![tuned(&tuning::MMAP_THRESHOLD), early, trimmed];
    if heap.arenas().len() > 1 {
        all.extend([tuned(&tuning::TWO_ARENAS), tuned(&tuning::ONE_ARENA)]);
    }
    // What the process has already is the baseline.
    all.retain(|one| one.exact.is_some() || one.candidate.env != *env);
    all
}

/// The allocator of a worker that has another than glibc, with its settings, where these can be played as they are. What
/// the walk read from the allocator itself counts: the program may have set it while it ran, or have it linked in. The
/// environment says the rest. Where that is unknown, the rest has the defaults, and [`defaults_assumed`] says so.
fn as_the_worker_has(
    heap: &WalkedHeap<'_>,
    is_forked: bool,
    root: Option<&Path>,
) -> (Result<PlayableAllocator, Failure>, Environment) {
    let own = heap.allocator();
    let found = of_version(own, heap.version(), root);
    let requested = heap.requested().into_iter().flatten();
    let requested = requested.filter_map(|entry| entry.split_once('='));
    let (mut env, not_taken) = recorded::taken(requested);
    if let Some(setting) = not_taken.first() {
        let why = format!("players do not get {setting}, which the process has");
        return (Err(why.into()), env);
    }
    for (name, value) in heap.settings_in_force().iter() {
        env.set_setting(own, name, value);
    }
    // What is compared is the heap once it has purged, and the program is played until that is over.
    for name in DECAYS {
        let decay = env.setting(Allocator::Jemalloc, name);
        let decay = decay.and_then(|value| value.parse().ok());
        if decay.is_some_and(|ms: i64| !(0..=MOST_DECAY_MS).contains(&ms)) {
            env.set_setting(Allocator::Jemalloc, name, &MOST_DECAY_MS.to_string());
        }
    }
    // A thread that purges stays with the parent.
    let background = tuning::JEMALLOC_BACKGROUND.sets.iter();
    for set in background.filter(|_| is_forked) {
        if env.setting(Allocator::Jemalloc, set.name).is_some() {
            env.set_setting(Allocator::Jemalloc, set.name, "false");
        }
    }
    (found, env)
}

/// jemalloc's times until dirty and muzzy pages are purged, in milliseconds.
const DECAYS: [&str; 2] = ["dirty_decay_ms", "muzzy_decay_ms"];
/// The longest of each that is over when a player ends: both together take less than the 25 s that it goes on.
const MOST_DECAY_MS: i64 = 10_000;

/// Why the heap is played with settings that may not be its own: those of glibc are read from its heap, and of other
/// allocators those that a walk shows; the rest stands in the environment.
pub(super) fn defaults_assumed(heap: &WalkedHeap<'_>) -> Option<UnknownEnvironment> {
    match heap.allocator() {
        Allocator::Glibc => None,
        _ => heap.requested().err(),
    }
}

/// The build of an allocator that has this version.
fn of_version(
    kind: Allocator,
    version: &str,
    root: Option<&Path>,
) -> Result<PlayableAllocator, Failure> {
    let mut others = Vec::new();
    for build in kind.row().builds {
        let found = PlayableAllocator::to_preload(*build, root)?;
        match found.identity.version.as_deref() {
            Some(found_version) if found_version == version => return Ok(found),
            other => others.push(other.unwrap_or("an unknown one").to_owned()),
        }
    }
    let others = others.join(" and ");
    Err(format!("the process has version {version}, and {others} can be played here").into())
}

/// glibc's settings in force, as far as they were changed and a variable sets them.
fn settings_of(heap: &WalkedHeap<'_>) -> Environment {
    let mut env = Environment::default();
    let is_fixed = heap.setting(GlibcSetting::NoDynThreshold) == Some(1);
    for setting in [
        GlibcSetting::ArenaMax,
        GlibcSetting::TopPad,
        GlibcSetting::TcacheCount,
        GlibcSetting::MmapMax,
        GlibcSetting::MmapThreshold,
        GlibcSetting::TrimThreshold,
    ] {
        let is_threshold = matches!(
            setting,
            GlibcSetting::MmapThreshold | GlibcSetting::TrimThreshold
        );
        let adapts = is_threshold && !is_fixed;
        let changed = heap.changed_setting(setting).filter(|_| !adapts);
        if let Some(value) = changed {
            env.set_glibc_setting(setting, &value.to_string());
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use profiler_core::heap::{HeapSnapshot, RequestedSetting};
    use profiler_core::sample::Sample;

    use super::*;

    /// A heap of the first build of an allocator, as carried, that these settings were asked for, or of which they are
    /// unknown, and whose walk lists some.
    fn sample(
        allocator: Allocator,
        requested: Result<&[&str], UnknownEnvironment>,
        listed: &[(&str, &str)],
    ) -> Sample {
        let build = allocator.row().builds[0];
        let build = PlayableAllocator::to_preload(build, None).expect("carried");
        let version = build.identity.version.expect("known");
        let mut heap = HeapSnapshot::new(allocator, version);
        let as_requested = |entry: &&str| RequestedSetting {
            request: (*entry).to_owned(),
            in_force: None,
            note: String::new(),
        };
        match requested {
            Ok(requested) => heap.requested = requested.iter().map(as_requested).collect(),
            Err(reason) => heap.environment_unknown = Some(reason),
        }
        let listed = listed.iter();
        heap.settings = listed
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Sample {
            heaps: vec![heap],
            ..Sample::default()
        }
    }

    /// What is played for such a heap: why not, the environment, and why that is assumed.
    fn played(
        sample: &Sample,
        is_forked: bool,
    ) -> (Option<String>, String, Option<UnknownEnvironment>) {
        let heap = WalkedHeap::of(sample).expect("it serves malloc");
        let (allocator, env) = as_the_worker_has(&heap, is_forked, None);
        let failure = allocator.err().map(|failure| failure.why);
        (failure, env.to_string(), defaults_assumed(&heap))
    }

    #[test]
    fn another_allocators_heap_is_played_with_what_its_environment_asked_for() {
        let played = |requested: Result<&[&str], UnknownEnvironment>, is_forked| {
            played(&sample(Allocator::Jemalloc, requested, &[]), is_forked)
        };
        let nothing = (None, String::new(), None);
        assert_eq!(played(Ok(&[]), false), nothing);
        let conf = ["MALLOC_CONF=narenas:2,background_thread:true"];
        let of_parent = (None, conf[0].to_owned(), None);
        assert_eq!(played(Ok(&conf), false), of_parent);
        let (_, of_child, _) = played(Ok(&conf), true);
        assert_eq!(of_child, "MALLOC_CONF=narenas:2,background_thread:false");
        let (failure, _, _) = played(Ok(&["MALLOC_CONF=prof:true"]), false);
        let why = "players do not get MALLOC_CONF=prof:true, which the process has";
        assert_eq!(failure.as_deref(), Some(why));
        let reason = UnknownEnvironment::Overwritten;
        let assumed = (None, String::new(), Some(reason));
        assert_eq!(played(Err(reason), false), assumed);
    }

    #[test]
    fn what_the_walk_read_counts_and_the_environment_says_the_rest() {
        let conf = ["MALLOC_CONF=narenas:2,percpu_arena:percpu,dirty_decay_ms:60000"];
        // The program has other options linked in, and has changed one while it ran.
        let listed = [
            ("opt.narenas", "4"),
            ("opt.background_thread", "true"),
            ("opt.dirty_decay_ms", "60000"),
            ("opt.thp", "never"),
            ("dirty_decay_ms", "0"),
        ];
        let (_, env, _) = played(&sample(Allocator::Jemalloc, Ok(&conf), &listed), false);
        let expected = "MALLOC_CONF=percpu_arena:percpu,narenas:4,background_thread:true,dirty_decay_ms:0,thp:never";
        assert_eq!(env, expected);
        // Where the environment is unknown, the walk still knows these.
        let reason = UnknownEnvironment::Overwritten;
        let unknown = sample(Allocator::Jemalloc, Err(reason), &listed);
        let (_, env, assumed) = played(&unknown, true);
        let expected = "MALLOC_CONF=narenas:4,dirty_decay_ms:0,thp:never,background_thread:false";
        assert_eq!((env.as_str(), assumed), (expected, Some(reason)));
        // A player ends before a longer decay does.
        for longer in ["-1", "60000"] {
            let listed = [("dirty_decay_ms", longer)];
            let (_, env, _) = played(&sample(Allocator::Jemalloc, Ok(&[]), &listed), false);
            assert_eq!(env, "MALLOC_CONF=dirty_decay_ms:10000");
        }
        let listed = [("purge_delay", "-1"), ("arena_reserve", "65536")];
        let requested = ["MIMALLOC_PURGE_DELAY=0", "MIMALLOC_ALLOW_THP=0"];
        let (_, env, _) = played(&sample(Allocator::Mimalloc, Ok(&requested), &listed), false);
        let expected = "MIMALLOC_PURGE_DELAY=-1 MIMALLOC_ALLOW_THP=0 MIMALLOC_ARENA_RESERVE=65536K";
        assert_eq!(env, expected);
    }

    #[test]
    fn a_worker_has_the_build_of_its_version_and_no_other() {
        for build in BuildId::ALL {
            // An allocator that is not installed here cannot be the one that is found.
            let Ok(here) = PlayableAllocator::to_preload(build, None) else {
                continue;
            };
            let Some(version) = here.identity.version.clone() else {
                continue;
            };
            let found = of_version(build.kind(), &version, None).expect("it is here");
            assert_eq!(found, here, "{build:?}");
        }
        let refused = of_version(Allocator::Mimalloc, "2.0.1", None).expect_err("nobody has it");
        let begins = "the process has version 2.0.1, and 3.";
        assert!(refused.why.starts_with(begins), "{}", refused.why);
    }
}
