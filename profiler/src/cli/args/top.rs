//! Flags of `top`.

use std::time::Duration;

use clap::Args;
use profiler_core::host::{Arrangement, COLUMNS, column_of};

use super::SamplingArgs;
use super::values::{budget, duration, interval};
use crate::session::options::{AttachOptions, Budget, SiteOptions};
use crate::session::top::TopOptions;

pub(super) const HELP: &str = "\
Examples:
  sudo fragscope top
  sudo fragscope top --once
  sudo fragscope top --once --json | jq '.processes | max_by(.rss_bytes) | .pid'
  sudo fragscope top --once --sort trim --filter celery

No probes are used. The kernel's counts of every process are read at every interval; heaps are
walked in turn, the largest and the fastest growing first, and a walk stops its process briefly.
--once walks each heap once. `-` stands for a figure that is not known yet. On the screen: Enter
attaches, Space folds, s sorts, / filters, ? explains the columns.";

#[derive(Debug, Args)]
pub(in crate::cli) struct TopArgs {
    /// Show every process, not only Python's; the others are walked only when you press `w`
    #[arg(long)]
    all: bool,
    /// Print one table and exit
    #[arg(long)]
    pub(in crate::cli) once: bool,
    /// Print JSON (schema fragscope.top/1): one document with --once, else a line per interval
    #[arg(long)]
    pub(in crate::cli) json: bool,
    /// Time between two measurements, e.g. 500ms, 2s, 1m; at least 100ms
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// End after this long, e.g. 30s; with --once: begin no walk after this long (default 30s)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Share of one core that fragscope may take for the whole host, or `unlimited`
    ///
    /// It also bounds stops: all processes together are stopped for at most this share of the time, and
    /// each of them for at most a fifth of that. Walks are delayed to stay within it.
    #[arg(long, value_name = "SHARE", default_value = "5%", value_parser = budget)]
    budget: Budget,
    /// Do not walk heaps; no process is stopped
    #[arg(long)]
    no_walks: bool,
    /// Column to sort by, e.g. rss, uss, trim, growth
    #[arg(long, value_name = "COLUMN", default_value = "rss", value_parser = column)]
    sort: usize,
    /// Show a list instead of a tree
    #[arg(long)]
    flat: bool,
    /// Show only processes with this text in their command, group, allocator or verdict
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    filter: String,
    #[command(flatten)]
    sampling: SamplingArgs,
}

fn column(title: &str) -> Result<usize, String> {
    column_of(title).ok_or_else(|| {
        let titles: Vec<_> = COLUMNS
            .iter()
            .map(|column| column.title.to_lowercase())
            .collect();
        format!("name a column: {}", titles.join(", "))
    })
}

impl TopArgs {
    pub(in crate::cli) fn options(&self) -> TopOptions {
        TopOptions {
            all: self.all,
            tree_of: None,
            headless: self.json,
            json: self.json,
            interval: self.interval,
            duration: self.duration,
            budget: self.budget,
            walks: !self.no_walks,
            sampling: self.sampling.options_of_many(),
            arrangement: Arrangement {
                sort: self.sort,
                tree: !self.flat,
                filter: self.filter.clone(),
                ..Arrangement::default()
            },
            attach: AttachOptions {
                pid: 0,
                headless: false,
                json: false,
                interval: Duration::from_secs(1),
                duration: None,
                budget: self.budget,
                probes: true,
                sites: SiteOptions::default(),
                predict: true,
                objects: true,
                what_if: None,
                sampling: self.sampling.options(),
                black_box: None,
                push: None,
                outputs: Vec::new(),
            },
        }
    }
}
