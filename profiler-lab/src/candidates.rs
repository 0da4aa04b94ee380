//! The candidates: allocators and settings, each changing one thing about the program's own
//! configuration.

use std::time::Duration;

use profiler_core::allocator::{
    Allocator, AllocatorTitle, BuildId, Environment, GlibcSetting, PRELOAD, reader_of,
};
use profiler_core::candidate::{CandidateName, PYTHON_MALLOC};
use profiler_core::machine::HugePageMode;
use profiler_core::text::visible;
use profiler_core::tuning::{self, Tuning};
use profiler_trace::trace::TraceDescription;

use super::allocators::{PlayableAllocator, kind_named};
use super::failure::Failure;
use super::recorded::{self, Recorded};

/// The price of an allocator that the C library does not bring.
const INSTALLATION: &str = "a library to install";
/// The price of calling malloc for each object.
const NO_OBJECT_ALLOCATOR: &str = "more time";
/// Why a setting that the program had is not tried.
const IS_SET: &str = "the program had this setting";
/// The interval between trims of a running program, if the recording is long enough.
const TRIM_EVERY: Duration = Duration::from_secs(10);

/// When `malloc_trim(0)` is called.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Trim {
    /// Not at all.
    #[default]
    Never,
    /// At this interval of the program's time.
    Every(Duration),
    /// Before each checkpoint is measured.
    AtCheckpoints,
}

/// One thing to try.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name: a build's name stands for its defaults.
    pub name: CandidateName,
    /// The allocator, or why it is not available.
    pub allocator: Result<PlayableAllocator, Failure>,
    /// All that allocators read of the environment, without `LD_PRELOAD`.
    pub env: Environment,
    /// Whether Python has no object allocator of its own: `PYTHONMALLOC=malloc`.
    pub objects: bool,
    /// When `malloc_trim(0)` is called.
    pub trim: Trim,
    /// What must be done besides setting variables.
    pub step: Option<String>,
    /// What it costs, in words.
    pub price: &'static str,
    /// Whether each run ends differently.
    pub random: bool,
    /// Why it cannot differ from what the program has; it is then not replayed.
    pub same_as_now: Option<String>,
}

/// What decides about the candidates.
#[derive(Debug)]
pub struct Facts<'a> {
    /// What the trace says about the program.
    pub description: &'a TraceDescription,
    /// Its threads.
    pub threads: u32,
    /// How long was recorded.
    pub duration: Duration,
    /// The variables that it had, as far as they are accepted ([`recorded::environment`]).
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
        let of_glibc = &Allocator::Glibc.row().settings;
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

    /// The playable allocator that reads it; `None` if no known one does.
    fn reader(&self) -> Option<Allocator> {
        if !is_variable(&self.name) {
            return Some(Allocator::Glibc);
        }
        reader_of(&self.name).filter(|kind| !kind.row().builds.is_empty())
    }

    /// Whether an allocator reads it: a variable that no known allocator reads goes to all of them.
    fn is_read_by(&self, allocator: Option<Allocator>) -> bool {
        self.reader().is_none_or(|reader| allocator == Some(reader))
    }

    fn set(&self, env: &mut Environment) {
        let Self { name, value } = self;
        if is_variable(name) {
            return env.set(name, value);
        }
        let prefix = Allocator::Glibc.row().settings.prefix;
        let short = name.strip_prefix(prefix).unwrap_or(name);
        env.set_setting(Allocator::Glibc, short, value);
    }
}

impl Candidate {
    /// A build with its defaults.
    pub(crate) fn default_of(
        build: BuildId,
        allocator: Result<PlayableAllocator, Failure>,
        env: Environment,
    ) -> Self {
        Self::with(CandidateName::Build(build), allocator, env)
    }

    /// An allocator with settings, in addition to those in `env`.
    pub(crate) fn tuned(
        tuning: &'static Tuning,
        allocator: Result<PlayableAllocator, Failure>,
        mut env: Environment,
    ) -> Self {
        env.assign(tuning.allocator, tuning.sets);
        env.assign(tuning.allocator, tuning.holds);
        Self::with(CandidateName::Tuning(tuning), allocator, env).price(tuning.price)
    }

    fn glibc(name: &str, env: Environment) -> Self {
        Self::called(name, Ok(PlayableAllocator::glibc()), env)
    }

    pub(crate) fn called(
        name: &str,
        allocator: Result<PlayableAllocator, Failure>,
        env: Environment,
    ) -> Self {
        Self::with(CandidateName::Other(name.to_owned()), allocator, env)
    }

    fn with(
        name: CandidateName,
        allocator: Result<PlayableAllocator, Failure>,
        env: Environment,
    ) -> Self {
        let is_glibc = |found: &PlayableAllocator| found.identity.is(Allocator::Glibc);
        Self {
            name,
            random: !allocator.as_ref().is_ok_and(is_glibc),
            allocator,
            env,
            objects: false,
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

    /// The variables to set for it, and those to unset, where `baseline` differs.
    pub fn changes(&self, baseline: &Self) -> (Vec<(String, String)>, Vec<String>) {
        let (wanted, had) = (self.variables(), baseline.variables());
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
        let preload = listed.map(|listed| (PRELOAD.to_owned(), listed));
        let others = self.env.variables().iter().cloned();
        preload.into_iter().chain(others).collect()
    }
}

impl Facts<'_> {
    /// The program's environment, as far as allocators read it.
    fn env(&self) -> Environment {
        self.env.clone()
    }

    /// The program's allocator with its version, if that was recorded.
    fn malloc(&self) -> Option<&AllocatorTitle> {
        let malloc = self.description.malloc.as_ref();
        malloc.filter(|title| !title.name().is_empty())
    }

    /// Whether the program had glibc's malloc, which is assumed if that was not recorded.
    pub fn is_glibc(&self) -> bool {
        self.description.is_glibc()
    }

    fn trim_every(&self) -> Duration {
        let tenth = (self.duration / 10).as_secs().max(1);
        TRIM_EVERY.min(Duration::from_secs(tenth))
    }
}

/// The allocator and the settings that the program had, and, if its allocator is not the very
/// object that the trace names or is unknown, why.
pub fn baseline(facts: &Facts<'_>) -> (Candidate, Option<Failure>) {
    let env = facts.env();
    let Some(title) = facts.malloc() else {
        let note = "the recording does not say which allocator the program had: glibc is assumed";
        let candidate = Candidate::glibc("baseline: glibc (assumed)", env);
        return (candidate, Some(note.to_owned().into()));
    };
    let name = format!("baseline: {title}");
    if facts.is_glibc() {
        return (Candidate::glibc(&name, env), None);
    }
    let path = facts.description.malloc_path.as_deref().unwrap_or_default();
    let Recorded { allocator, note } =
        recorded::allocator(title.name(), path, facts.allow_recorded);
    (Candidate::called(&name, allocator, env), note)
}

/// What is tried by default, without the [`baseline`].
pub fn default_candidates(facts: &Facts<'_>) -> Vec<Candidate> {
    let mut all = of_glibc(facts);
    all.extend(of_others(facts));
    all
}

fn of_glibc(facts: &Facts<'_>) -> Vec<Candidate> {
    let env = facts.env();
    let tuned = |tuning: &'static Tuning| {
        let candidate = Candidate::tuned(tuning, Ok(PlayableAllocator::glibc()), env.clone());
        let is_set = facts.is_glibc() && candidate.env == env;
        candidate.same_if(is_set.then(|| IS_SET.to_owned()))
    };
    let one_thread = (facts.is_glibc() && facts.threads <= 1)
        .then(|| "the program has one thread, so one arena".to_owned());
    let of_arenas = |tuning: &'static Tuning| {
        let candidate = tuned(tuning);
        match &candidate.same_as_now {
            Some(_) => candidate,
            None => candidate.same_if(one_thread.clone()),
        }
    };
    let mut all = Vec::new();
    if !facts.is_glibc() {
        all.push(Candidate::default_of(
            BuildId::Glibc,
            Ok(PlayableAllocator::glibc()),
            env.clone(),
        ));
    }
    all.extend([
        tuned(&tuning::MMAP_THRESHOLD),
        tuned(&tuning::TRIM_THRESHOLD),
        of_arenas(&tuning::ONE_ARENA),
        of_arenas(&tuning::TWO_ARENAS),
        tuned(&tuning::NO_TCACHE),
        of_huge_pages(facts, tuned(&tuning::HUGE_PAGES), &env),
        of_huge_pages(facts, tuned(&tuning::NO_HUGE_PAGES), &env),
    ]);
    let every = facts.trim_every();
    let seconds = every.as_secs();
    let mut trimmed = Candidate::tuned(&tuning::TRIM, Ok(PlayableAllocator::glibc()), env);
    trimmed.name = CandidateName::Other(format!("{} each {seconds}s", tuning::TRIM.name()));
    trimmed.trim = Trim::Every(every);
    let call = tuning::TRIM.calls;
    trimmed.step = call.map(|call| call.step(&format!("every {seconds} s")));
    all.push(trimmed);
    all
}

/// Whether huge pages through glibc's advice can differ from what the program had.
fn of_huge_pages(facts: &Facts<'_>, candidate: Candidate, env: &Environment) -> Candidate {
    let advised = |env: &Environment| {
        let requested = env.glibc_setting(GlibcSetting::Hugetlb);
        requested.is_some_and(|value| value != "0")
    };
    let same = match facts.description.thp {
        _ if candidate.same_as_now.is_some() => return candidate,
        Some(HugePageMode::Madvise) | None
            if facts.description.environment_unknown.is_none()
                && facts.is_glibc()
                && advised(&candidate.env) == advised(env) =>
        {
            Some(IS_SET.to_owned())
        }
        Some(HugePageMode::Madvise) | None => None,
        Some(mode) => Some(format!(
            "transparent huge pages are {}: advice changes nothing",
            mode.name()
        )),
    };
    candidate.same_if(same)
}

fn of_others(facts: &Facts<'_>) -> Vec<Candidate> {
    let find = |build| PlayableAllocator::to_preload(build, None).map_err(Failure::from);
    let plain = |build: BuildId| {
        let env = facts.env().without(build.kind());
        Candidate::default_of(build, find(build), env).price(INSTALLATION)
    };
    let tuned = |tuning: &'static Tuning, build: BuildId| {
        Candidate::tuned(tuning, find(build), facts.env().without(tuning.allocator))
    };
    let mut all = vec![
        plain(BuildId::Jemalloc),
        tuned(&tuning::JEMALLOC_BACKGROUND, BuildId::Jemalloc),
        tuned(&tuning::JEMALLOC_SHORT_DECAY, BuildId::Jemalloc),
    ];
    if facts.threads > 1 {
        all.push(tuned(&tuning::JEMALLOC_TWO_ARENAS, BuildId::Jemalloc));
    }
    all.extend([
        plain(BuildId::Mimalloc3),
        tuned(&tuning::MIMALLOC_SHORT_PURGE, BuildId::Mimalloc3),
        plain(BuildId::Mimalloc2),
        plain(BuildId::Tcmalloc),
    ]);
    all
}

/// Each of these candidates that is replayed, the baseline first, once more for a Python that calls
/// malloc for its objects: for recordings that contain the requests to Python's object allocator.
pub fn without_object_allocator(all: &[Candidate]) -> Vec<Candidate> {
    let (name, value) = PYTHON_MALLOC;
    let is_played = |one: &&Candidate| one.same_as_now.is_none() && one.allocator.is_ok();
    let played = all.iter().enumerate().filter(|(_, one)| is_played(one));
    let again = played.map(|(number, one)| {
        let of = (number > 0).then(|| Box::new(one.name.clone()));
        let price = match one.price {
            "" => NO_OBJECT_ALLOCATOR,
            own => own,
        };
        let mut env = one.env.clone();
        env.set(name, value);
        Candidate {
            name: CandidateName::WithoutObjectAllocator(of),
            objects: true,
            env,
            price,
            ..one.clone()
        }
    });
    again.collect()
}

/// The user's choice: each allocator with its own settings; settings of an allocator that was not
/// named add it, and settings that no known allocator reads add the program's own.
pub fn chosen_candidates(
    facts: &Facts<'_>,
    allocators: &[String],
    tunables: &[Tunable],
) -> Vec<Candidate> {
    let mut names: Vec<String> = allocators.to_vec();
    names.dedup();
    let mut all: Vec<Named> = names.into_iter().map(Named::find).collect();
    for tunable in tunables {
        if !all.iter().any(|named| tunable.is_read_by(named.kind)) {
            let reader = tunable.reader();
            all.push(reader.map_or_else(
                || Named::of_program(facts),
                |reader| Named::find(reader.name().to_owned()),
            ));
        }
    }
    let made = all.into_iter().map(|named| {
        let mut env = facts.env();
        let mut title = vec![short(&named.name)];
        for tunable in tunables.iter().filter(|t| t.is_read_by(named.kind)) {
            tunable.set(&mut env);
            title.push(format!("{}={}", tunable.name, tunable.value));
        }
        match (&*title, BuildId::named(&named.name)) {
            ([_], Some(build)) => Candidate::default_of(build, named.found, env),
            _ => Candidate::called(&title.join(" "), named.found, env),
        }
    });
    made.collect()
}

/// An allocator that a user named.
struct Named {
    name: String,
    found: Result<PlayableAllocator, Failure>,
    /// Which one it is; if it is not available, judged by its name.
    kind: Option<Allocator>,
}

impl Named {
    fn find(name: String) -> Self {
        let found = PlayableAllocator::find(&name).map_err(Failure::from);
        let kind = match &found {
            Ok(allocator) => allocator.identity.kind,
            Err(_) => kind_named(&name),
        };
        Self { name, found, kind }
    }

    /// The program's allocator.
    fn of_program(facts: &Facts<'_>) -> Self {
        let found = baseline(facts).0.allocator;
        let title = facts.malloc();
        let name = match (&found, title) {
            (Ok(allocator), _) => allocator.name.clone(),
            (Err(_), title) => title.map_or_else(String::new, |title| title.name().to_owned()),
        };
        let kind = match title {
            Some(title) => title.kind(),
            None => found.as_ref().ok().and_then(|own| own.identity.kind),
        };
        Self { name, found, kind }
    }
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
}

/// The last part of a path.
fn short(name: &str) -> String {
    name.rsplit('/').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests;
