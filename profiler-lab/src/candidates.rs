//! What is tried: allocators and settings, each changing one thing against what the program had.

use std::time::Duration;

use profiler_core::heap::Allocator as Kind;
use profiler_trace::trace::Description;

use super::allocators::Allocator;
use super::environment::Environment;
use super::recorded::{self, Recorded};

/// Above this block size glibc maps blocks of their own, as long as it is fixed.
const FIXED_THRESHOLD: &str = "131072";
/// As high as the threshold gets: setting it keeps it from moving, and changes nothing else.
const HIGHEST_THRESHOLD: &str = "33554432";
/// Trims of a running program are so far apart, if the recording is long enough.
const TRIM_EVERY: Duration = Duration::from_secs(10);

/// What the names of the tunables of glibc's malloc begin with.
const TUNABLE: &str = "glibc.malloc.";
/// The tunables of glibc's malloc (glibc, `elf/dl-tunables.list`).
const GLIBC_TUNABLES: [&str; 13] = [
    "mmap_threshold",
    "trim_threshold",
    "top_pad",
    "mmap_max",
    "arena_max",
    "arena_test",
    "tcache_count",
    "tcache_max",
    "tcache_unsorted_limit",
    "mxfast",
    "hugetlb",
    "perturb",
    "check",
];

/// When `malloc_trim(0)` is called.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Trim {
    /// Not at all.
    #[default]
    Never,
    /// So often, in the program's time.
    Every(Duration),
    /// Before each checkpoint is looked at.
    AtCheckpoints,
}

/// One thing to try.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// How it is called.
    pub name: String,
    /// The allocator, or why it cannot be had.
    pub allocator: Result<Allocator, String>,
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
    pub description: &'a Description,
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

/// Whether this is the whole name of a tunable of glibc's malloc.
pub(super) fn is_tunable(name: &str) -> bool {
    let short = name.strip_prefix(TUNABLE);
    short.is_some_and(|short| GLIBC_TUNABLES.contains(&short))
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
        let short = name.strip_prefix(TUNABLE).unwrap_or(name);
        if !is_variable(name) && !GLIBC_TUNABLES.contains(&short) {
            return Err(format!(
                "glibc's malloc has no tunable {short}; it has {}; variables of other allocators \
                 are written in capitals, such as MALLOC_CONF=narenas:1",
                GLIBC_TUNABLES.join(", ")
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }
}

impl Candidate {
    fn new(name: &str, allocator: &str, env: Environment) -> Self {
        let found = Allocator::find(allocator).map_err(|error| error.to_string());
        Self {
            random: allocator != "glibc",
            ..Self::with(name, found, env)
        }
    }

    fn with(name: &str, allocator: Result<Allocator, String>, env: Environment) -> Self {
        Self {
            name: name.to_owned(),
            allocator,
            env,
            trim: Trim::Never,
            step: None,
            price: "",
            random: true,
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

    /// The allocator that the program had, by the name before its version.
    fn malloc(&self) -> &str {
        let malloc = self.description.get("malloc").unwrap_or("glibc");
        malloc.split(' ').next().unwrap_or("glibc")
    }

    /// Whether the program had the C library's own malloc.
    pub fn is_glibc(&self) -> bool {
        matches!(self.malloc(), "glibc" | "")
    }

    fn trim_every(&self) -> Duration {
        let tenth = (self.duration / 10).as_secs().max(1);
        TRIM_EVERY.min(Duration::from_secs(tenth))
    }
}

/// The allocator and the settings that the program had, and why its allocator is not the very object
/// that the trace names, if that is so.
pub fn now(facts: &Facts<'_>) -> (Candidate, Option<String>) {
    let env = facts.env();
    let title = facts.description.get("malloc").unwrap_or("glibc");
    let name = format!("baseline: {title}");
    if facts.is_glibc() {
        return (Candidate::new(&name, "glibc", env), None);
    }
    let path = facts.description.get("malloc_path").unwrap_or_default();
    let Recorded { allocator, note } =
        recorded::allocator(facts.malloc(), path, facts.allow_recorded);
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
            changed.set_glibc(tunable, value);
        }
        let is_so = facts.is_glibc() && changed == env;
        let same = is_so.then(|| "the program had it so".to_owned());
        Candidate::new(name, "glibc", changed).same_if(same)
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
    let advised = |env: &Environment| env.glibc("hugetlb").is_some_and(|value| value != "0");
    let same = match facts.description.get("thp") {
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
    let plain = facts.env().without("MALLOC_CONF");
    let jemalloc = |name: &str, conf: &str| {
        let mut env = plain.clone();
        if !conf.is_empty() {
            env.set("MALLOC_CONF", conf);
        }
        Candidate::new(name, "jemalloc", env)
    };
    all.push(jemalloc("jemalloc", "").price("a library to install"));
    all.push(
        jemalloc("jemalloc background", "background_thread:true")
            .price("threads that purge; forked children lose them"),
    );
    all.push(
        jemalloc(
            "jemalloc short decay",
            "dirty_decay_ms:1000,muzzy_decay_ms:0",
        )
        .price("more system calls and page faults"),
    );
    if facts.threads > 1 {
        all.push(
            jemalloc("jemalloc narenas:2", "narenas:2")
                .price("threads wait for each other's locks"),
        );
    }
    let plain = facts.env().without("MIMALLOC_");
    all.push(Candidate::new("mimalloc", "mimalloc", plain.clone()).price("a library to install"));
    let mut short = plain.clone();
    short.set("MIMALLOC_PURGE_DELAY", "0");
    all.push(
        Candidate::new("mimalloc short purge", "mimalloc", short)
            .price("more system calls and page faults"),
    );
    all.push(Candidate::new("mimalloc2", "mimalloc2", plain).price("a library to install"));
    let plain = facts.env().without("TCMALLOC_");
    all.push(Candidate::new("tcmalloc", "tcmalloc", plain).price("a library to install"));
    all
}

/// A field of the user's own: each allocator with the settings that are its own; settings of an
/// allocator that was not named bring it in.
pub fn own_field(facts: &Facts<'_>, allocators: &[String], tunables: &[Tunable]) -> Vec<Candidate> {
    let mut names: Vec<String> = allocators.to_vec();
    for tunable in tunables {
        let family = family(&tunable.name);
        if !names.iter().any(|name| is_of(name, family)) {
            names.push(if family.is_empty() { "glibc" } else { family }.to_owned());
        }
    }
    names.dedup();
    let made = names.iter().map(|name| {
        let mut env = facts.env();
        let mut title = vec![short(name)];
        for tunable in tunables.iter().filter(|t| is_of(name, family(&t.name))) {
            let Tunable { name, value } = tunable;
            match name.strip_prefix(TUNABLE).unwrap_or(name) {
                variable if is_variable(variable) => env.set(variable, value),
                tunable => env.set_glibc(tunable, value),
            }
            title.push(format!("{name}={value}"));
        }
        Candidate::new(&title.join(" "), name, env)
    });
    made.collect()
}

/// The allocator that reads a setting.
fn family(setting: &str) -> &'static str {
    match setting {
        "MALLOC_CONF" => "jemalloc",
        _ if setting.starts_with("MIMALLOC_") => "mimalloc",
        _ if setting.starts_with("TCMALLOC_") => "tcmalloc",
        _ if is_variable(setting) && !is_glibcs(setting) => "",
        _ => "glibc",
    }
}

fn is_glibcs(variable: &str) -> bool {
    variable.starts_with("MALLOC_") || variable == "GLIBC_TUNABLES"
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
}

/// Whether an allocator of this name or path reads settings of a family; variables of no known
/// allocator go to all.
fn is_of(allocator: &str, family: &str) -> bool {
    let file = allocator.rsplit('/').next().unwrap_or(allocator);
    file.contains(family)
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
            env.set_glibc(tunable, value);
        }
        let mut candidate = Candidate::new(mechanism.name(), "glibc", env.clone());
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
    undecayed.set("MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0");
    let name = Mechanism::Unexplained.name();
    all.push((
        Mechanism::Unexplained,
        Candidate::new(name, "jemalloc", undecayed),
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

/// Whether a candidate's allocator is jemalloc as it comes.
pub fn is_plain_jemalloc(candidate: &Candidate) -> bool {
    let kind = candidate.allocator.as_ref().ok().and_then(|a| a.kind);
    kind == Some(Kind::Jemalloc) && candidate.env.get("MALLOC_CONF").is_none()
}

#[cfg(test)]
#[path = "candidates_tests.rs"]
mod tests;
