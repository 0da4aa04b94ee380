//! `cargo xtask torture`: what fragscope must survive, and what must survive fragscope.
//!
//! Each row does one kind of harm for many rounds and checks what is left. A round is identified by
//! its seed: `--seed S --rounds 1 --only ROW` repeats it, as far as timing can be repeated.

mod aftermath;
mod attacks;
mod cgroup;
mod damage;
mod eintr;
mod events;
mod kernel_log;
mod kill;
mod memory;
mod processes;
mod running;
mod signals;
mod stage;
mod text;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use profiler_core::columns::TextColumn;

use self::stage::Stage;
use self::worker::{SMALL, Worker};

/// How long to wait for anything that has no limit of its own: on a busy host loading the BPF
/// programs takes seconds.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// Instants lie within this from the start of what ends by itself.
const BRIEF_WINDOW: Duration = Duration::from_millis(300);

/// Columns for the action; the row takes the remaining width.
const COLUMNS: [TextColumn; 4] = [
    TextColumn::left("rounds", 9),
    TextColumn::left("failures", 8),
    TextColumn::left("seed", 10),
    TextColumn::right("time", 7),
];
const GAP: &str = "  ";

fn table_row(cells: [&str; COLUMNS.len()], what: &str) -> String {
    let cells = COLUMNS.iter().zip(cells);
    let cells: String = cells
        .map(|(column, cell)| column.cell(cell) + GAP)
        .collect();
    cells + what
}

/// One row of the table.
struct Row {
    name: &'static str,
    /// The action, as shown in the table.
    what: &'static str,
    /// Rounds by default: all rows together take minutes.
    quick: u64,
    /// Rounds of `--rounds full`.
    full: u64,
    run: fn(&Stage, &mut Tally) -> Result<()>,
}

const ROWS: [Row; 7] = [
    Row {
        name: "kill",
        what: "kill -9 at random and at aimed instants, all modes",
        quick: 64,
        full: 1000,
        run: kill::run,
    },
    Row {
        name: "signals",
        what: "STOP, CONT, TERM, INT, HUP, QUIT, closed terminal, closed pipe",
        quick: 48,
        full: 300,
        run: signals::run,
    },
    Row {
        name: "target",
        what: "target exits, execs, is killed, stopped, frozen, forks, traced by another",
        quick: 42,
        full: 300,
        run: events::run,
    },
    Row {
        name: "attacks",
        what: "ring attacks, forged traces, hostile ELF, bombs, links, devices, names",
        quick: 1,
        full: 1,
        run: attacks::run,
    },
    Row {
        name: "damage",
        what: "damaged traces, cores, samples, other tools' files",
        quick: 3000,
        full: 10_000,
        run: damage::run,
    },
    Row {
        name: "memory",
        what: "a real kill by a memory cgroup's limit, target or fragscope",
        quick: 12,
        full: 50,
        run: memory::run,
    },
    Row {
        name: "eintr",
        what: "stops and blocking calls: which return EINTR",
        quick: 1,
        full: 1,
        run: eintr::run,
    },
];

/// What `--rounds` asks for.
#[derive(Copy, Clone, Debug)]
enum Rounds {
    Quick,
    Full,
    Each(u64),
}

struct Options {
    rounds: Rounds,
    only: Option<String>,
    fragscope: Option<PathBuf>,
    seed: u64,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self {
            rounds: Rounds::Quick,
            only: None,
            fragscope: None,
            // Other instants each time; a failure prints its own.
            seed: u64::from(fastrand::u32(..)),
        };
        let mut arguments = arguments.iter();
        while let Some(&name) = arguments.next() {
            let value = *arguments
                .next()
                .with_context(|| format!("{name} needs a value"))?;
            match name {
                "--rounds" if value == "full" => options.rounds = Rounds::Full,
                "--rounds" => {
                    options.rounds = Rounds::Each(value.parse().context("--rounds")?);
                }
                "--only" => options.only = Some(value.to_owned()),
                "--fragscope" => options.fragscope = Some(PathBuf::from(value)),
                "--seed" => options.seed = value.parse().context("--seed")?,
                _ => bail!("no option {name}"),
            }
        }
        Ok(options)
    }

    /// The rows to run.
    fn rows(&self) -> Result<Vec<&'static Row>> {
        let wanted = |row: &&Row| self.only.as_ref().is_none_or(|only| row.name == only);
        let rows: Vec<_> = ROWS.iter().filter(wanted).collect();
        let names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        ensure!(!rows.is_empty(), "--only is one of {}", names.join(", "));
        Ok(rows)
    }

    fn rounds(&self, row: &Row) -> u64 {
        match self.rounds {
            Rounds::Quick => row.quick,
            Rounds::Full => row.full,
            // The complete list is one round of it.
            Rounds::Each(_) if row.full == 1 => 1,
            Rounds::Each(rounds) => rounds,
        }
    }
}

/// Runs the harness with the arguments after its name.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let rows = options.rows()?;
    ensure!(
        !ignores_signals()?,
        "signals that this was started to ignore are ignored by fragscope, too: start it with \
         `env --default-signal=HUP,INT,QUIT,TERM`"
    );
    let target = crate::root().join("target");
    let binary = match &options.fragscope {
        Some(binary) => binary.clone(),
        None => build(&target)?,
    };
    let stage = Stage::set_up(&binary, &target)?;
    println!("fragscope: {}", binary.display());
    println!("{}", table_row(COLUMNS.map(|column| column.title), "row"));
    let mut failures = 0;
    for row in rows {
        let mut tally = Tally::new(options.rounds(row), options.seed);
        let began = Instant::now();
        let ended = (row.run)(&stage, &mut tally);
        let done = if tally.done == tally.rounds {
            format!("{}", tally.done)
        } else {
            format!("{} of {}", tally.done, tally.rounds)
        };
        let cells = [
            &*done,
            &tally.failures.to_string(),
            &tally.seed.to_string(),
            &format!("{:.0} s", began.elapsed().as_secs_f64()),
        ];
        let what = format!("{}: {}", row.name, row.what);
        println!("{}", table_row(cells, &what));
        for note in tally.notes() {
            println!("{}{GAP}{note}", COLUMNS[0].cell(""));
        }
        failures += tally.failures;
        ended.with_context(|| format!("the row {}", row.name))?;
    }
    ensure!(failures == 0, "{failures} rounds failed");
    Ok(())
}

/// Whether SIGHUP, SIGINT, SIGQUIT or SIGTERM is ignored, as in a background job of a script.
fn ignores_signals() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.context("no SigIgn")?.trim(), 16)?;
    Ok([1, 2, 3, 15]
        .iter()
        .any(|signal| ignored >> (signal - 1) & 1 == 1))
}

fn build(target: &std::path::Path) -> Result<PathBuf> {
    let arguments = ["build", "--quiet", "--release", "--package", "fragscope"];
    crate::run(Command::new("cargo").args(arguments))?;
    Ok(target.join("release/fragscope"))
}

/// The results of the rounds of one row.
pub(super) struct Tally {
    rounds: u64,
    done: u64,
    failures: u64,
    seed: u64,
    /// Failed rounds by what was wrong.
    faults: BTreeMap<&'static str, u64>,
    /// Failed and all rounds by kind.
    counts: BTreeMap<String, (u64, u64)>,
    figures: BTreeMap<&'static str, Vec<f64>>,
    lines: Vec<String>,
    orphans: usize,
}

impl Tally {
    fn new(rounds: u64, seed: u64) -> Self {
        Self {
            rounds,
            done: 0,
            failures: 0,
            seed,
            faults: BTreeMap::new(),
            counts: BTreeMap::new(),
            figures: BTreeMap::new(),
            lines: Vec::new(),
            orphans: 0,
        }
    }

    /// Does all rounds. An error of `round` is one of the harness, and ends the row.
    pub(super) fn each(&mut self, mut round: impl FnMut(&mut Round) -> Result<()>) -> Result<()> {
        for number in 0..self.rounds {
            let mut one = Round::new(self.seed.wrapping_add(number));
            let done = round(&mut one);
            self.add(one);
            done?;
        }
        Ok(())
    }

    /// Counts a round, and prints what was wrong in it.
    pub(super) fn add(&mut self, round: Round) {
        self.done += 1;
        self.orphans += round.orphans;
        let failed = !round.faults.is_empty();
        self.failures += u64::from(failed);
        let faults: BTreeSet<_> = round.faults.iter().map(|(what, _)| *what).collect();
        for fault in faults {
            *self.faults.entry(fault).or_default() += 1;
        }
        for kind in round.kinds {
            let count = self.counts.entry(kind).or_default();
            count.0 += u64::from(failed);
            count.1 += 1;
        }
        for (name, value) in round.figures {
            self.figures.entry(name).or_default().push(value);
        }
        if failed {
            let mut text = format!("FAILED  seed {}: {}\n", round.seed, round.what);
            for (what, detail) in &round.faults {
                // A String takes everything.
                let _ = writeln!(text, "        {what}: {detail}");
            }
            for line in round
                .said
                .lines()
                .rev()
                .take(6)
                .collect::<Vec<_>>()
                .iter()
                .rev()
            {
                let _ = writeln!(text, "        stderr: {}", line.escape_debug());
            }
            eprint!("{text}");
        }
    }

    /// The rounds are wrong as a whole.
    pub(super) fn fault(&mut self, what: String) {
        self.failures += 1;
        eprintln!("FAILED  {what}");
        self.lines.push(what);
    }

    /// The median of a figure if there are at least `least` values: few values only describe single
    /// rounds.
    pub(super) fn median(&self, name: &str, least: usize) -> Option<f64> {
        let mut values = self.figures.get(name)?.clone();
        if values.len() < least {
            return None;
        }
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// How many rounds were counted under this.
    pub(super) fn rounds_of(&self, kind: &str) -> u64 {
        self.counts.get(kind).map_or(0, |(_, all)| *all)
    }

    /// Adds a line to what is printed at the end.
    pub(super) fn note(&mut self, line: String) {
        self.lines.push(line);
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let counts = self.counts.iter();
        let counts = counts.map(|(kind, (failed, all))| format!("{kind} {failed}/{all}"));
        let counts: Vec<_> = counts.collect();
        if !counts.is_empty() {
            notes.push(format!("failed of all: {}", counts.join(", ")));
        }
        let faults = self.faults.iter();
        notes.extend(faults.map(|(what, rounds)| format!("{rounds} rounds: {what}")));
        for (name, values) in &self.figures {
            let mut values = values.clone();
            values.sort_by(f64::total_cmp);
            let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
            notes.push(format!(
                "{name}: median {:.3}, 95th percentile {:.3}, largest {:.3}, of {}",
                at(0.5),
                at(0.95),
                at(1.0),
                values.len()
            ));
        }
        if self.orphans > 0 {
            notes.push(format!(
                "{} orphans, which a killed fragscope cannot wait for",
                self.orphans
            ));
        }
        notes.extend(self.lines.iter().cloned());
        notes
    }
}

/// One round.
pub(super) struct Round {
    /// The seed with which it can be repeated.
    pub(super) seed: u64,
    pub(super) random: fastrand::Rng,
    /// What is done in it, for the report of a failure.
    pub(super) what: String,
    /// The kinds under which it is counted.
    kinds: Vec<String>,
    figures: Vec<(&'static str, f64)>,
    faults: Vec<(&'static str, String)>,
    /// What fragscope said on stderr.
    said: String,
    orphans: usize,
}

impl Round {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            random: fastrand::Rng::with_seed(seed),
            what: String::new(),
            kinds: Vec::new(),
            figures: Vec::new(),
            faults: Vec::new(),
            said: String::new(),
            orphans: 0,
        }
    }

    /// One of several, in turn as seeds increase.
    pub(super) fn turn<T: Copy>(&self, all: &[T]) -> T {
        all[(self.seed % all.len() as u64) as usize]
    }

    /// A time up to `most`.
    pub(super) fn instant(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.random.f64())
    }

    /// Counts the round under this.
    pub(super) fn kind(&mut self, kind: impl Into<String>) {
        self.kinds.push(kind.into());
    }

    /// A number of this round; the row prints their distribution.
    pub(super) fn figure(&mut self, name: &'static str, value: f64) {
        self.figures.push((name, value));
    }

    /// Something is wrong.
    pub(super) fn fault(&mut self, what: &'static str, detail: impl Into<String>) {
        self.faults.push((what, detail.into()));
    }

    pub(super) fn has_failed(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Keeps fragscope's output, and checks it for what it must never say.
    pub(super) fn hear(&mut self, said: String) {
        if said.contains("panicked at") {
            self.fault("a panic", "");
        }
        self.said = said;
    }
}

/// Records a small program, for `replay` and `export`, and puts another one's saved session and
/// core beside that.
fn small_trace(stage: &Stage) -> Result<PathBuf> {
    let trace = stage.fresh("small.fragtrace");
    let recorded = Command::new(&stage.fragscope)
        .args(["record", "-o"])
        .arg(&trace)
        .arg("--")
        .arg(&stage.python)
        .args([
            "-S",
            "-c",
            "kept = [bytes(700 + i % 900) for i in range(20000)]",
        ])
        .output()
        .context("fragscope")?;
    ensure!(
        recorded.status.success() && fs::metadata(&trace).is_ok_and(|trace| trace.len() > 0),
        "recording a small program failed: {}",
        String::from_utf8_lossy(&recorded.stderr)
    );
    let worker = Worker::start(stage, SMALL)?;
    let pid = worker.pid.to_string();
    let saved = Command::new(&stage.fragscope)
        .args(["snapshot", "--pid", &pid, "-o"])
        .arg(trace.with_extension(running::SESSION))
        .output()
        .context("fragscope")?;
    ensure!(saved.status.success(), "saving a session failed");
    let dumped = Command::new("gcore")
        .arg("-o")
        .arg(trace.with_extension(""))
        .arg(&pid)
        .output()
        .context("gcore, of gdb")?;
    ensure!(dumped.status.success(), "taking a core failed");
    let dumped = trace.with_extension(&pid);
    fs::rename(dumped, trace.with_extension(running::CORE)).context("a core")?;
    Ok(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_few_figures_is_none() {
        const NAME: &str = "seconds";
        let mut tally = Tally::new(3, 0);
        assert_eq!(tally.median(NAME, 3), None);
        for value in [0.4, 0.1] {
            tally.figures.entry(NAME).or_default().push(value);
            assert_eq!(tally.median(NAME, 3), None);
        }
        tally.figures.entry(NAME).or_default().push(0.2);
        assert_eq!(tally.median(NAME, 3), Some(0.2));
    }
}
