//! Flags and commands, and their conversion to options.

mod black_box;
mod check;
mod files;
mod once;
mod push;
mod serve;
mod top;
mod values;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use profiler_core::host::{Arrangement, FREE, place_of};
use profiler_sampling::{LONGEST_SLICE, LONGEST_WHOLE_STOP, SamplingOptions};

use self::black_box::BlackBoxArgs;
pub(super) use self::check::CheckArgs;
pub(super) use self::files::{
    Export, ExportArgs, ReplayArgs, ReportArgs, ViewArgs, session_formats,
};
pub(super) use self::once::{DiffArgs, ExplainArgs, SnapshotArgs};
use self::push::PushArgs;
pub(super) use self::serve::ServeArgs;
pub(super) use self::top::TopArgs;
use self::values::{budget, duration, interval, max_stop, max_walk, output, size};
use super::exit::Exit;
use crate::export::line_help;
use crate::session::options::{AttachOptions, Budget, SiteOptions};
use crate::session::outputs::files_among;
use crate::session::record::{RecordOptions, Recorded};
use crate::session::top::TopOptions;
use crate::session::what_if::WhatIfOptions;

/// Shows where the memory of a live Python worker is, why it is fragmented, and what would help.
#[derive(Debug, Parser)]
#[command(name = "fragscope", version, after_long_help = Exit::help(), max_term_width = 100)]
pub(super) struct Line {
    #[command(subcommand)]
    pub(super) command: Command,
    /// Read at most this much of each mapped file when looking for allocators and Python
    #[arg(long, global = true, display_order = 900, value_name = "SIZE", default_value = "128M", value_parser = size)]
    pub(super) file_limit: u64,
}

const ATTACH_EXAMPLES: &str = "\
Examples:
  sudo fragscope attach --pid 4711
  sudo fragscope attach --pid 4711 --headless --duration 30s -o worker.json -o worker.csv
  sudo fragscope attach --pid 4711 --json --no-probes | jq .rss_bytes";

fn attach_help() -> String {
    let columns = line_help();
    format!("{ATTACH_EXAMPLES}\n\nColumns of --headless, `-` being unknown:\n{columns}")
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Watch a live process: heap, pages and allocations, on a screen or line by line
    #[command(after_long_help = attach_help())]
    Attach(AttachArgs),
    /// Show every Python process of the host: memory, fragmentation, growth, as a tree
    #[command(after_long_help = top::HELP)]
    Top(TopArgs),
    /// Serve metrics of every Python process of the host, by group, to Prometheus over HTTP
    #[command(after_long_help = serve::HELP)]
    Serve(ServeArgs),
    /// Walk the heap once, without probes, and print a report
    #[command(after_long_help = "\
Examples:
  sudo fragscope snapshot --pid 4711
  sudo fragscope snapshot --pid 4711 --json | jq '.ledger[] | select(.resident_bytes > 0)'
  sudo fragscope snapshot --pid 4711 -o worker.fragsnap
  fragscope snapshot --core core.4711 --exe ./worker")]
    Snapshot(SnapshotArgs),
    /// Print the verdict in prose: of one snapshot, or of a saved session
    #[command(after_long_help = "\
Examples:
  sudo fragscope explain --pid 4711
  sudo fragscope explain --pid 4711 --growth 30s
  fragscope explain --core core.4711
  fragscope explain worker.fragsnap --at 3")]
    Explain(ExplainArgs),
    /// Compare two saved sessions, or a saved session with a running process
    #[command(after_long_help = "\
Examples:
  fragscope diff glibc.fragsnap jemalloc.fragsnap
  sudo fragscope diff yesterday.fragsnap --pid 4711
  fragscope diff worker.fragsnap worker.fragsnap --before-at 1 --json | jq .sentence

Compares the last walk of each session. The change that explains that of RSS comes first; then the
changes of the ledger, the metrics, size classes and settings, and of Python's objects where both
sides have read them (--objects), the largest first.")]
    Diff(DiffArgs),
    /// Exit with 3 when a process or a saved session exceeds a threshold: for cron and CI
    #[command(after_long_help = check::HELP, override_usage = check::USAGE)]
    Check(CheckArgs),
    /// Show a session that was saved with -o FILE.fragsnap, walk by walk
    #[command(after_long_help = "\
Examples:
  sudo fragscope attach --pid 4711 --headless --duration 1m -o worker.fragsnap
  fragscope view worker.fragsnap

Shows every screen of `attach`, beginning with the last walk. [ and ] go to the previous and the
next walk, { and } to the first and the last; so do the arrows, Home and End, except on Pages. ?
shows help.")]
    View(ViewArgs),
    /// Record a program's calls of malloc and free, to replay them under other allocators
    #[command(after_long_help = "\
Examples:
  fragscope record -o worker.fragtrace -- python3 worker.py
  fragscope record -o worker.fragtrace --duration 60s -- celery -A tasks worker
  sudo fragscope record --pid 4711 --duration 60s -o worker.fragtrace

The program is started with a small recorder preloaded, which its children inherit. Ctrl-C ends the
program as usual, and the recording with it; a second one leaves the program running. SIGUSR1 takes
a checkpoint at once. Every allocation costs about 100 ns.

With --objects replay can also play PYTHONMALLOC=malloc: the program is slowed down by some 0.1 us for
each object that Python makes.

With --pid a running process is recorded through probes, beginning with its present heap. The
probes stay active, and each allocation costs microseconds. Its children are not recorded.")]
    Record(RecordArgs),
    /// Replay a recording under other allocators and settings: what each would need
    #[command(after_long_help = "\
Examples:
  fragscope replay worker.fragtrace
  fragscope replay worker.fragtrace --allocator jemalloc --allocator ./libmine.so
  fragscope replay worker.fragtrace --tunable arena_max=2 --tunable tcache_count=0
  fragscope replay worker.fragtrace --tunable MALLOC_CONF=narenas:1 --runs 20 --json

The baseline, which is what the program had, is replayed first and compared with what was
recorded. Where it is off by more than 5 %, no verdict is given. docs/lab.md explains every column.")]
    Replay(ReplayArgs),
    /// Write a recording, or a walk of a saved session, in another format
    #[command(after_long_help = "\
Examples:
  fragscope export worker.fragsnap --format json | jq .verdict
  fragscope export worker.fragsnap --at 3 -o third.csv
  fragscope export worker.fragsnap -o sites.pb.gz
  fragscope export worker.fragtrace --format logalloc -o worker.txt
  fragscope export memray-worker.py.4711.bin --format logalloc | head

The kind of FILE is detected from its first bytes, not its name. A recording can be written as
logalloc, a saved session in every other format, as `attach` and `snapshot` write them.")]
    Export(ExportArgs),
    /// Write one walk of a saved session as an HTML page
    #[command(after_long_help = "\
Examples:
  fragscope report worker.fragsnap -o worker.html
  fragscope report worker.fragsnap --at 3 --no-predict -o third.html

The page has the verdict, RSS and live bytes over time, the ledger, the findings, what other
allocators would need, a map of the heap, Python's objects where they were read, and how reliable
all that is. It loads nothing from elsewhere, so that it can be sent around; `attach` and `snapshot`
write it with -o FILE.html.")]
    Report(ReportArgs),
    /// Check what this host and a target allow, and print the fix for what is missing
    #[command(after_long_help = "\
Examples:
  fragscope doctor
  sudo fragscope doctor --pid 4711 --json | jq '.checks[] | select(.fix)'

Exit code 1 when anything is missing, 0 when everything is there or only limited.")]
    Doctor(DoctorArgs),
    /// Start a bundled Python worker that fragments its heap, and attach to it
    #[command(after_long_help = "\
Examples:
  sudo fragscope demo
  sudo fragscope demo --headless --duration 10s -o demo.json

Needs python3 on the PATH, and root for the probes. The worker ends with fragscope.")]
    Demo(WatchArgs),
    /// Print the script that completes this command line in a shell
    #[command(after_long_help = "\
Examples:
  fragscope completions bash | sudo tee /usr/share/bash-completion/completions/fragscope > /dev/null
  fragscope completions zsh > ~/.zfunc/_fragscope")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page of fragscope, or of a subcommand
    #[command(after_long_help = "\
Examples:
  fragscope man | man -l -
  fragscope man attach > fragscope-attach.1")]
    Man {
        /// The subcommand
        subcommand: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Pid {
    /// The process to profile
    #[arg(short, long, value_name = "PID", allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    #[command(flatten)]
    pid: Pid,
    /// Watch the process and all its descendants as a group: totals, then processes by size, and those that ended
    ///
    /// As `top`, without probes; heaps are walked in turn. Enter attaches to one of them, and `q` there comes back.
    #[arg(long, conflicts_with_all = ["outputs", "what_if", "growth_sites", "black_box", "push_profiles"])]
    tree: bool,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Print one line per interval instead of drawing a screen
    #[arg(long)]
    headless: bool,
    /// Print one JSON object per interval (implies --headless)
    #[arg(long)]
    json: bool,
    /// Time between two measurements, e.g. 500ms, 1s, 1m; at least 100ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// End after this long, e.g. 30s; else at Ctrl-C or when the target ends
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Share of one core's time that probes and stops may take from the target, or `unlimited`
    ///
    /// Probes are active in short windows so that their traps stay below four fifths of the share, and
    /// walks are spaced so that stops stay below the remaining fifth. `unlimited` keeps the probes active and
    /// walks every interval: nothing is missed, and a busy worker is slowed several times.
    #[arg(long, value_name = "SHARE", default_value = "5%", value_parser = budget)]
    budget: Budget,
    /// Do not probe malloc and free; BPF is then not needed
    #[arg(long)]
    no_probes: bool,
    /// Also watch which functions get memory from the kernel, give it back, and touch it first
    ///
    /// Each system call of every process of the host takes some 0.1 us longer meanwhile.
    #[arg(long, conflicts_with = "no_probes")]
    growth_sites: bool,
    /// Also show the native functions by which Python's functions allocate: those of C, C++ and Rust
    ///
    /// The top of the thread's stack is copied with each sample, and fragscope unwinds it.
    #[arg(long, conflicts_with = "no_probes")]
    native: bool,
    /// Do not predict what other allocators would need by replaying its heap in them
    ///
    /// The replays run in processes of the lowest priority, which need as much memory as the heap takes.
    #[arg(long)]
    no_predict: bool,
    /// Do not read Python's objects: no types, no holders, no growth of them
    ///
    /// They are read in the background, at the lowest priority and as often as --budget allows.
    #[arg(long)]
    no_objects: bool,
    /// Replay its allocations under other allocators while it runs, e.g. jemalloc,mimalloc,glibc
    ///
    /// Each runs in a process of the lowest priority: glibc, jemalloc, mimalloc, tcmalloc, or the
    /// path of a shared object. The probes stay active for it, whatever the budget: every call costs
    /// the worker 2 to 7 microseconds.
    #[arg(
        long,
        value_name = "NAME,...",
        value_delimiter = ',',
        conflicts_with = "no_probes"
    )]
    what_if: Vec<String>,
    /// End a process of --what-if that uses more memory than this, e.g. 2G
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = size, requires = "what_if")]
    what_if_memory: u64,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    black_box: BlackBoxArgs,
    #[command(flatten)]
    push: PushArgs,
    /// File to write at the end; its extension chooses the format: .html, .json, .csv or .hlog, call
    /// sites as .folded, .speedscope.json or .pb.gz (pprof), or .fragsnap, which is written walk by
    /// walk; may be given several times
    #[arg(short, long = "output", value_name = "FILE", value_parser = output())]
    outputs: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct SamplingArgs {
    /// Do not stop the target while its heap is walked; inconsistencies are reported
    #[arg(long)]
    no_stop: bool,
    /// Bring swapped pages back into memory to read them; by default they are left in swap
    #[arg(long)]
    swap_in: bool,
    /// Stop the target for at most this long, and read the rest while it runs [default: 2s] or, in slices, in further
    /// stops [default: 20ms]
    #[arg(long, value_name = "TIME", value_parser = max_stop)]
    max_stop: Option<Duration>,
    /// End a walk that takes longer than this, and reading objects, too: what was read is kept
    /// [default: 10s more than --max-stop, and 2s for each GiB that is resident; five times as long in slices; for
    /// objects 60s, and 60s for each GiB]
    #[arg(long, value_name = "TIME", value_parser = max_walk)]
    max_walk: Option<Duration>,
    /// Walk in slices: many short stops, between which the target runs for four times as long; changes during the walk
    /// are reported. The default where many processes are watched (top, serve, attach --tree)
    #[arg(long, conflicts_with = "no_stop")]
    slices: bool,
    /// Walk in one stop, which makes the walk exact; the default where one process is watched
    #[arg(long, conflicts_with_all = ["no_stop", "slices"])]
    one_stop: bool,
}

impl SamplingArgs {
    /// How one process is sampled.
    fn options(&self) -> SamplingOptions {
        self.options_with(self.slices)
    }

    /// How many processes are sampled, of which none is to stand still for long.
    fn options_of_many(&self) -> SamplingOptions {
        // What comes back from a slow disk is read in one stop.
        self.options_with(self.slices || !(self.one_stop || self.no_stop || self.swap_in))
    }

    fn options_with(&self, slices: bool) -> SamplingOptions {
        SamplingOptions {
            stop: !self.no_stop,
            swap_in: self.swap_in,
            max_stop: self.max_stop.unwrap_or(match slices {
                true => LONGEST_SLICE,
                false => LONGEST_WHOLE_STOP,
            }),
            slices,
            max_walk: self.max_walk,
        }
    }
}

impl Command {
    /// Whether it inspects no process, only files named by the caller.
    pub(super) fn reads_files_alone(&self) -> bool {
        match self {
            Self::View(_) | Self::Replay(_) | Self::Export(_) | Self::Report(_) => true,
            Self::Diff(args) => args.pid.is_none(),
            Self::Check(args) => args.pid.is_none(),
            Self::Snapshot(args) => args.source.pid.is_none(),
            Self::Explain(args) => args.source.pid.is_none(),
            _ => false,
        }
    }

    /// Whether it should survive when memory runs out: it starts a program, which would inherit its
    /// score, or its task is to report processes killed by the kernel.
    pub(super) fn outlives_want_of_memory(&self) -> bool {
        match self {
            Self::Record(args) => !args.command.is_empty(),
            Self::Demo(_) => true,
            Self::Attach(args) => args.watch.black_box.is_kept(),
            Self::Serve(args) => args.keeps_black_box(),
            _ => false,
        }
    }

    /// The files that it reads.
    pub(super) fn inputs(&self) -> Vec<PathBuf> {
        let owned = |files: Vec<&Path>| files.into_iter().map(Path::to_owned).collect();
        match self {
            Self::Attach(args) => owned(args.options().inputs()),
            Self::Demo(args) => owned(args.options().inputs()),
            Self::Snapshot(args) => args.source.inputs(),
            Self::Explain(args) => args.inputs(),
            Self::Diff(args) => args.inputs(),
            Self::Check(args) => args.inputs(),
            Self::View(args) => vec![args.options().file],
            Self::Export(args) => vec![args.file().to_owned()],
            Self::Report(args) => args.inputs(),
            Self::Replay(args) => {
                let options = args.options();
                let mut files = owned(files_among(&options.allocators));
                files.push(options.trace);
                files
            }
            Self::Top(_)
            | Self::Serve(_)
            | Self::Record(_)
            | Self::Doctor(_)
            | Self::Completions { .. }
            | Self::Man { .. } => Vec::new(),
        }
    }
}

// A recording begins from what one moment had.
#[derive(Debug, Args)]
#[command(mut_arg("slices", |slices| slices.hide(true).conflicts_with("output")), mut_arg("one_stop", |arg| arg.hide(true)))]
pub(super) struct RecordArgs {
    /// File to write
    #[arg(short, long, value_name = "FILE", value_parser = output())]
    pub(super) output: PathBuf,
    /// End after this long, e.g. 30s: a command is asked to end (SIGTERM), a process goes on
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Record this running process, through probes
    #[arg(short, long, value_name = "PID", required_unless_present = "command",
        allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(1..))]
    pub(super) pid: Option<i32>,
    /// With --pid: end when the probes take more than this share of one core's time
    #[arg(long, value_name = "SHARE", requires = "pid", default_value = "unlimited",
        value_parser = budget)]
    budget: Budget,
    /// Also record what Python asks of its object allocator, so that replay can play PYTHONMALLOC=malloc
    #[arg(long, conflicts_with = "pid")]
    objects: bool,
    /// The program to start and record, with its arguments
    #[arg(
        last = true,
        required_unless_present = "pid",
        conflicts_with = "pid",
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,
}

impl RecordArgs {
    pub(super) fn options(&self) -> RecordOptions {
        RecordOptions {
            subject: match self.pid {
                Some(pid) => Recorded::Process {
                    pid,
                    budget: match self.budget {
                        Budget::Share(share) => Some(share),
                        Budget::Unlimited => None,
                    },
                },
                None => Recorded::Command {
                    command: self.command.clone(),
                    objects: self.objects,
                },
            },
            output: self.output.clone(),
            duration: self.duration,
            sampling: self.sampling.options(),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Check this process too
    #[arg(short, long, value_name = "PID", allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(1..))]
    pub(super) pid: Option<i32>,
    /// Remove breakpoints that a killed profiler left in its code
    #[arg(long, requires = "pid")]
    pub(super) repair: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl AttachArgs {
    /// The master of a tree and how to watch it, if --tree was given.
    pub(super) fn tree(&self) -> Option<(i32, TopOptions)> {
        let watch = self.watch.options();
        let master = self.tree.then_some(self.pid.pid)?;
        let options = TopOptions {
            all: true,
            tree_of: Some(master),
            headless: watch.headless,
            json: watch.json,
            interval: watch.interval,
            duration: watch.duration,
            budget: watch.budget,
            walks: true,
            sampling: self.watch.sampling.options_of_many(),
            arrangement: Arrangement {
                sort: place_of(&FREE),
                ..Arrangement::default()
            },
            attach: AttachOptions {
                headless: false,
                json: false,
                duration: None,
                ..watch
            },
        };
        Some((master, options))
    }

    pub(super) fn options(&self) -> AttachOptions {
        AttachOptions {
            pid: self.pid.pid,
            ..self.watch.options()
        }
    }
}

impl WatchArgs {
    /// The options, with no pid yet.
    pub(super) fn options(&self) -> AttachOptions {
        AttachOptions {
            pid: 0,
            headless: self.headless || self.json,
            json: self.json,
            interval: self.interval,
            duration: self.duration,
            budget: self.budget,
            probes: !self.no_probes,
            sites: SiteOptions {
                growth: self.growth_sites,
                native: self.native,
            },
            predict: !self.no_predict,
            objects: !self.no_objects,
            what_if: (!self.what_if.is_empty()).then(|| WhatIfOptions {
                allocators: self.what_if.clone(),
                memory_limit: self.what_if_memory,
            }),
            sampling: self.sampling.options(),
            black_box: self.black_box.options(),
            push: self.push.options(),
            outputs: self.outputs.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach(flags: &[&str]) -> Result<AttachOptions, clap::Error> {
        let line = Line::try_parse_from(["fragscope", "attach"].iter().chain(flags))?;
        match line.command {
            Command::Attach(args) => Ok(args.options()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_is_well_formed() {
        use clap::CommandFactory;
        Line::command().debug_assert();
    }

    #[test]
    fn attach_has_the_defaults_that_help_names() {
        let options = attach(&["--pid", "7"]).expect("parses");
        assert_eq!(options.pid, 7);
        assert_eq!(options.budget, Budget::Share(0.05));
        assert_eq!(options.interval, Duration::from_secs(1));
        assert!(options.probes && options.sampling.stop && !options.headless);
    }

    #[test]
    fn wrong_values_are_refused() {
        for bad in [
            &["--pid", "0"][..],
            &["--pid", "-3"],
            &["--pid", "seven"],
            &["--pid", "7", "--budget", "0"],
            &["--pid", "7", "--budget", "101%"],
            &["--pid", "7", "--budget", "nan"],
            &["--pid", "7", "--interval", "1ms"],
            &["--pid", "7", "--duration", "soon"],
            &[],
        ] {
            assert!(attach(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            attach(&["--pid", "7", "--budget", "unlimited"])
                .expect("parses")
                .budget,
            Budget::Unlimited
        );
    }
}
