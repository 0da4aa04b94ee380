//! Flags of `check`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use profiler_core::thresholds::{MostFragmentation, Thresholds};

use super::SamplingArgs;
use super::files::LimitArgs;
use super::values::{duration, fragmentation, rate, size};
use crate::session::check::{CheckOptions, Checkable};

pub(super) const USAGE: &str = "fragscope check [OPTIONS] <--pid <PID>|FILE> <--max-...>...";

pub(super) const HELP: &str = "\
Examples:
  sudo fragscope check --pid 4711 --max-fragmentation 40%
  sudo fragscope check --pid 4711 --max-rss 2G --max-growth 1MiB/s --over 1m
  fragscope check worker.fragsnap --max-fragmentation 500M | jq -e '.exceeded == []'

Prints one line of JSON (schema fragscope.check/1), and on stderr a sentence for each threshold that
is exceeded. Exit code 3 when one is, 1 when a value is not known. docs/check.md has recipes that
recycle workers of gunicorn and Celery.";

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("subject").args(["pid", "saved"]).required(true)))]
#[command(group(ArgGroup::new("threshold").args(["max_rss", "max_fragmentation", "max_growth"])
    .required(true).multiple(true)))]
pub(in crate::cli) struct CheckArgs {
    /// A saved session; its last walk is checked, and its growth from the first moment to the last
    #[arg(id = "saved", value_name = "FILE", conflicts_with_all = ["no_stop", "swap_in", "over"])]
    file: Option<PathBuf>,
    /// The process to check
    #[arg(short, long, value_name = "PID", allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(1..))]
    pub(in crate::cli) pid: Option<i32>,
    /// Maximum RSS, e.g. 2G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_rss: Option<u64>,
    /// Resident heap bytes that hold nothing live, at most: a share of RSS, e.g. 40%, or bytes, e.g. 500M
    #[arg(long, value_name = "SHARE|SIZE", value_parser = fragmentation)]
    max_fragmentation: Option<MostFragmentation>,
    /// Maximum growth of RSS, e.g. 1MiB/s, 50M/h
    #[arg(long, value_name = "RATE", value_parser = rate)]
    max_growth: Option<f64>,
    /// Time between the two readings of RSS that give the growth of a process
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, requires = "max_growth")]
    over: Duration,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

impl CheckArgs {
    /// The files that are read.
    pub(in crate::cli) fn inputs(&self) -> Vec<PathBuf> {
        self.file.iter().cloned().collect()
    }

    pub(in crate::cli) fn options(&self) -> CheckOptions {
        CheckOptions {
            subject: match (&self.file, self.pid) {
                (Some(file), _) => Checkable::Saved(self.limits.saved(file, None)),
                // One of the two is required.
                (None, pid) => Checkable::Process {
                    pid: pid.unwrap_or(0),
                    sampling: self.sampling.options(),
                    over: self.max_growth.map(|_| self.over),
                },
            },
            thresholds: Thresholds {
                rss_bytes: self.max_rss,
                fragmentation: self.max_fragmentation,
                growth_bytes_per_second: self.max_growth,
            },
        }
    }
}
