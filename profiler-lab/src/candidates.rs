//! What is tried: allocators and settings, each changing one thing against what the program had.

use std::time::Duration;

use profiler_core::allocator::{Allocator as Kind, reader_of};
use profiler_core::text::visible;
use profiler_trace::trace::TraceDescription;

use super::allocators::{Allocator, kind_named};
use super::environment::Environment;
use super::recorded::{self, Recorded};
use super::report::Failure;

/// Above this block size glibc maps blocks of their own, as long as it is fixed.
const FIXED_THRESHOLD: &str = "131072";
/// As high as the threshold gets: setting it keeps it from moving, and changes nothing else.
const HIGHEST_THRESHOLD: &str = "33554432";
/// Trims of a running program are so far apart, if the recording is long enough.
const TRIM_EVERY: Duration = Duration::from_secs(10);

/// When `malloc_trim(0)` is called.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Trim {
    /// Not at all.
    #[default]
    Never,
    /// So often, in the program's time.
    Every(Duration),
    /// Before each checkpoint is measured.
    AtCheckpoints,
}

/// One thing to try.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// How it is called.
    pub name: String,
    /// The allocator, or why it cannot be had.
    pub allocator: Result<Allocator, Failure>,
    /// All that allocators read of the environment, without `LD_PRELOAD`.
    pub env: Environment,
    /// When `malloc_trim(0)` is called.
    pub trim: Trim,
    /// What has to be done besides setting variables.
    pub step: Option<String>,
    /// What it costs, in words.
    pub price: &'static str,
    /// Whether each run ends differently.
    pub random: bool,
    /// Why it cannot differ from what the program has; it is not played then.
    pub same_as_now: Option<String>,
}

/// What decides about the candidates.
#[derive(Debug)]
pub struct Facts<'a> {
    /// What the trace says of the program.
    pub description: &'a TraceDescription,
    /// Its threads.
    pub threads: u32,
    /// How long was recorded.
    pub duration: Duration,
    /// The variables that it had, as far as they are taken ([`recorded::environment`]).
    pub env: Environment,
    /// Whether the object that the trace names as the allocator may be loaded.
    pub allow_recorded: bool,
}

/// A setting that a user gave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tunable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Tunable {
    /// From `NAME=VALUE`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .ok_or("write NAME=VALUE")?;
        let of_glibc = &Kind::Glibc.row().settings;
        let short = name.strip_prefix(of_glibc.prefix).unwrap_or(name);
        if !is_variable(name) && !of_glibc.names.contains(&short) {
            return Err(format!(
                "glibc's malloc has no tunable {}; it has {}; variables of other allocators \
                 are written in capitals, such as MALLOC_CONF=narenas:1",
                visible(short),
                of_glibc.names.join(", ")
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }

    /// The allocator that reads it, of those that can be played; `None` where no known one does.
    fn reader(&self) -> Option<Kind> {
        if !is_variable(&self.name) {
            return Some(Kind::Glibc);
        }
        reader_of(&self.name).filter(|kind| !kind.row().builds.is_empty())
    }

    /// Whether an allocator reads it: what no known one reads goes to all.
    fn is_read_by(&self, allocator: Option<Kind>) -> bool {
        self.reader().is_none_or(|reader| allocator == Some(reader))
    }

    fn set(&self, env: &mut Environment) {
        let Self { name, value } = self;
        if is_variable(name) {
            return env.set(name, value);
        }
        let prefix = Kind::Glibc.row().settings.prefix;
        let short = name.strip_prefix(prefix).unwrap_or(name);
        env.set_setting(Kind::Glibc, short, value);
    }
}

impl Candidate {
    fn new(name: &str, build: &str, env: Environment) -> Self {
        let found = Allocator::find(build).map_err(Failure::from);
        Self::with(name, found, env)
    }

    fn glibc(name: &str, env: Environment) -> Self {
        Self::with(name, Ok(Allocator::glibc()), env)
    }

    pub(crate) fn with(
        name: &str,
        allocator: Result<Allocator, Failure>,
        env: Environment,
    ) -> Self {
        let is_glibc = |found: &Allocator| found.identity.is(Kind::Glibc);
        Self {
            name: name.to_owned(),
            random: !allocator.as_ref().is_ok_and(is_glibc),
            allocator,
            env,
            trim: Trim::Never,
            step: None,
            price: "",
            same_as_now: None,
        }
    }

    fn price(mut self, price: &'static str) -> Self {
        self.price = price;
        self
    }

    fn same_if(mut self, why: Option<String>) -> Self {
        self.same_as_now = why;
        self
    }

    /// The variables to set for it, and those to unset, where `now` differs.
    pub fn changes(&self, now: &Self) -> (Vec<(String, String)>, Vec<String>) {
        let (wanted, had) = (self.variables(), now.variables());
        let set = wanted.iter().filter(|one| !had.contains(one)).cloned();
        let unset = had
            .iter()
            .filter(|(name, _)| !wanted.iter().any(|(n, _)| n == name))
            .map(|(name, _)| name.clone());
        (set.collect(), unset.collect())
    }

    /// All its variables, as a user sets them.
    pub fn variables(&self) -> Vec<(String, String)> {
        let allocator = self.allocator.as_ref().ok();
        let listed = allocator.and_then(|a| a.listed.clone());
        let preload = listed.map(|listed| ("LD_PRELOAD".to_owned(), listed));
        let others = self.env.variables().iter().cloned();
        preload.into_iter().chain(others).collect()
    }
}

impl Facts<'_> {
    /// The environment that the program had, as far as allocators read it.
    fn env(&self) -> Environment {
        self.env.clone()
    }

    /// The allocator that the program had with its version, where that was recorded.
    fn malloc(&self) -> Option<&str> {
        let malloc = self.description.malloc.as_deref();
        malloc.filter(|title| !title.is_empty())
    }

    /// Whether the program had glibc's malloc, as is assumed where that was not recorded.
    pub fn is_glibc(&self) -> bool {
        let malloc = self.malloc();
        malloc.is_none_or(|title| Kind::of_title(title) == Some(Kind::Glibc))
    }

    fn trim_every(&self) -> Duration {
        let tenth = (self.duration / 10).as_secs().max(1);
        TRIM_EVERY.min(Duration::from_secs(tenth))
    }
}

/// The allocator and the settings that the program had, and why its allocator is not the very object
/// that the trace names, if that is so, or that it is not known.
pub fn now(facts: &Facts<'_>) -> (Candidate, Option<Failure>) {
    let env = facts.env();
    let Some(title) = facts.malloc() else {
        let note = "which allocator its program had is not in it, and glibc is assumed";
        let candidate = Candidate::glibc("baseline: glibc (assumed)", env);
        return (candidate, Some(note.to_owned().into()));
    };
    let name = format!("baseline: {title}");
    if facts.is_glibc() {
        return (Candidate::glibc(&name, env), None);
    }
    let path = facts.description.malloc_path.as_deref().unwrap_or_default();
    let without_version = title.split(' ').next().unwrap_or(title);
    let Recorded { allocator, note } =
        recorded::allocator(without_version, path, facts.allow_recorded);
    (Candidate::with(&name, allocator, env), note)
}

/// The default field, without [`now`].
pub fn field(facts: &Facts<'_>) -> Vec<Candidate> {
    let mut all = glibc_field(facts);
    all.extend(other_field(facts));
    all
}

fn glibc_field(facts: &Facts<'_>) -> Vec<Candidate> {
    let env = facts.env();
    let with = |name: &str, settings: &[(&str, &str)]| {
        let mut changed = env.clone();
        for (tunable, value) in settings {
            changed.set_setting(Kind::Glibc, tunable, value);
        }
        let is_so = facts.is_glibc() && changed == env;
        let same = is_so.then(|| "the program had it so".to_owned());
        Candidate::glibc(name, changed).same_if(same)
    };
    let one_thread = (facts.is_glibc() && facts.threads <= 1)
        .then(|| "the program has one thread, so one arena".to_owned());
    let or_one_thread = |candidate: Candidate| match &candidate.same_as_now {
        Some(_) => candidate,
        None => candidate.same_if(one_thread.clone()),
    };
    let mut all = Vec::new();
    if !facts.is_glibc() {
        all.push(with("glibc", &[]));
    }
    all.push(
        with(
            "mmap_threshold=128K",
            &[("mmap_threshold", FIXED_THRESHOLD)],
        )
        .price("a system call and page faults for each block of 128 KiB and more"),
    );
    let trim = [
        ("trim_threshold", FIXED_THRESHOLD),
        ("mmap_threshold", HIGHEST_THRESHOLD),
    ];
    all.push(with("trim_threshold=128K", &trim).price("more system calls as the heap shrinks"));
    for arenas in ["1", "2"] {
        let name = format!("arena_max={arenas}");
        let candidate =
            with(&name, &[("arena_max", arenas)]).price("threads wait for each other's locks");
        all.push(or_one_thread(candidate));
    }
    all.push(with("tcache_count=0", &[("tcache_count", "0")]).price("slower malloc and free"));
    all.push(huge(facts, with("hugetlb=1", &[("hugetlb", "1")]), &env));
    all.push(huge(facts, with("hugetlb=0", &[("hugetlb", "0")]), &env));
    let every = facts.trim_every();
    let mut trimmed = with(&format!("malloc_trim each {}s", every.as_secs()), &[]);
    trimmed.trim = Trim::Every(every);
    trimmed.same_as_now = None;
    trimmed.step = Some(format!(
        "call malloc_trim(0) every {} s: ctypes.CDLL(None).malloc_trim(0)",
        every.as_secs()
    ));
    all.push(trimmed.price("a walk over the free memory each time, and page faults after it"));
    all
}

/// Whether huge pages by glibc's advice can differ from what the program had.
fn huge(facts: &Facts<'_>, candidate: Candidate, env: &Environment) -> Candidate {
    let advised = |env: &Environment| {
        let asked = env.setting(Kind::Glibc, "hugetlb");
        asked.is_some_and(|value| value != "0")
    };
    let same = match facts.description.thp.as_deref() {
        _ if candidate.same_as_now.is_some() => return candidate,
        Some("madvise") | None if facts.is_glibc() && advised(&candidate.env) == advised(env) => {
            Some("the program had it so".to_owned())
        }
        Some("madvise") | None => None,
        Some(mode) => Some(format!(
            "transparent huge pages are {mode}: advice changes nothing"
        )),
    };
    candidate
        .same_if(same)
        .price("huge pages fill with less than a page of use")
}

fn other_field(facts: &Facts<'_>) -> Vec<Candidate> {
    let mut all = Vec::new();
    let without = |kind: Kind| facts.env().without(kind);
    let with = |name: &str, kind: Kind, settings: &[(&str, &str)]| {
        let mut env = without(kind);
        for (setting, value) in settings {
            env.set_setting(kind, setting, value);
        }
        Candidate::new(name, kind.name(), env)
    };
    let jemalloc = |name: &str, settings: &[(&str, &str)]| with(name, Kind::Jemalloc, settings);
    all.push(jemalloc("jemalloc", &[]).price("a library to install"));
    all.push(
        jemalloc("jemalloc background", &[("background_thread", "true")])
            .price("threads that purge; forked children lose them"),
    );
    let short_decay = [("dirty_decay_ms", "1000"), ("muzzy_decay_ms", "0")];
    all.push(
        jemalloc("jemalloc short decay", &short_decay).price("more system calls and page faults"),
    );
    if facts.threads > 1 {
        let two = [("narenas", "2")];
        all.push(jemalloc("jemalloc narenas:2", &two).price("threads wait for each other's locks"));
    }
    all.push(with("mimalloc", Kind::Mimalloc, &[]).price("a library to install"));
    let short_purge = [("PURGE_DELAY", "0")];
    all.push(
        with("mimalloc short purge", Kind::Mimalloc, &short_purge)
            .price("more system calls and page faults"),
    );
    let mimalloc2 = Candidate::new("mimalloc2", "mimalloc2", without(Kind::Mimalloc));
    all.push(mimalloc2.price("a library to install"));
    all.push(with("tcmalloc", Kind::Tcmalloc, &[]).price("a library to install"));
    all
}

/// A field of the user's own: each allocator with the settings that are its own; settings of an
/// allocator that was not named bring it in.
pub fn own_field(facts: &Facts<'_>, allocators: &[String], tunables: &[Tunable]) -> Vec<Candidate> {
    let mut names: Vec<String> = allocators.to_vec();
    names.dedup();
    let mut all: Vec<Named> = names.into_iter().map(Named::find).collect();
    for tunable in tunables {
        if !all.iter().any(|named| tunable.is_read_by(named.kind)) {
            let reader = tunable.reader().unwrap_or(Kind::Glibc);
            all.push(Named::find(reader.name().to_owned()));
        }
    }
    let made = all.into_iter().map(|named| {
        let mut env = facts.env();
        let mut title = vec![short(&named.name)];
        for tunable in tunables.iter().filter(|t| t.is_read_by(named.kind)) {
            tunable.set(&mut env);
            title.push(format!("{}={}", tunable.name, tunable.value));
        }
        Candidate::with(&title.join(" "), named.found, env)
    });
    made.collect()
}

/// An allocator that a user named.
struct Named {
    name: String,
    found: Result<Allocator, Failure>,
    /// Which one it is, or, when it is not to be had, is by its name.
    kind: Option<Kind>,
}

impl Named {
    fn find(name: String) -> Self {
        let found = Allocator::find(&name).map_err(Failure::from);
        let kind = match &found {
            Ok(allocator) => allocator.identity.kind,
            Err(_) => kind_named(&name),
        };
        Self { name, found, kind }
    }
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
}

/// A path by its last part.
fn short(name: &str) -> String {
    name.rsplit('/').next().unwrap_or(name).to_owned()
}

/// The steps from glibc as it is to glibc with all remedies, each adding one to those before, and
/// jemalloc without decay: what each changes is a mechanism's share.
pub fn steps(facts: &Facts<'_>) -> Vec<(Mechanism, Candidate)> {
    let mut env = facts.env();
    let mut all = Vec::new();
    let mut step = |mechanism: Mechanism, settings: &[(&str, &str)], trim| {
        for (tunable, value) in settings {
            env.set_setting(Kind::Glibc, tunable, value);
        }
        let mut candidate = Candidate::glibc(mechanism.name(), env.clone());
        candidate.trim = trim;
        all.push((mechanism, candidate));
    };
    step(
        Mechanism::DynamicThreshold,
        &[("mmap_threshold", FIXED_THRESHOLD)],
        Trim::Never,
    );
    step(
        Mechanism::ThreadCaches,
        &[("tcache_count", "0")],
        Trim::Never,
    );
    if facts.threads > 1 {
        step(Mechanism::Arenas, &[("arena_max", "1")], Trim::Never);
    }
    step(Mechanism::Untrimmed, &[], Trim::AtCheckpoints);
    let mut undecayed = Environment::default();
    for setting in ["dirty_decay_ms", "muzzy_decay_ms"] {
        undecayed.set_setting(Kind::Jemalloc, setting, "0");
    }
    let name = Mechanism::Unexplained.name();
    all.push((
        Mechanism::Unexplained,
        Candidate::new(name, Kind::Jemalloc.name(), undecayed),
    ));
    all
}

/// What makes a program need more under glibc than under jemalloc.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Mechanism {
    /// glibc raises its mmap threshold when a mapped block is freed: large blocks come to lie on
    /// the heap.
    DynamicThreshold,
    /// Cached chunks, and what they keep from being merged and trimmed.
    ThreadCaches,
    /// Each thread's arena has free memory of its own.
    Arenas,
    /// Whole free pages that glibc does not give back by itself.
    Untrimmed,
    /// What is left between glibc with all of that undone and jemalloc without decay.
    Unexplained,
    /// Free pages that jemalloc keeps for a while: less than nothing where it keeps some.
    Decay,
}

impl Mechanism {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DynamicThreshold => "dynamic_mmap_threshold",
            Self::ThreadCaches => "thread_caches",
            Self::Arenas => "arenas",
            Self::Untrimmed => "untrimmed_free_memory",
            Self::Unexplained => "unexplained",
            Self::Decay => "jemalloc_decay",
        }
    }
}

#[cfg(test)]
#[path = "candidates_tests.rs"]
mod tests;
