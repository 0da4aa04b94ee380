//! Flags of the commands that read a file.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use profiler_lab::allocators;
use profiler_lab::candidates::Tunable;
use profiler_lab::replay::ReplayOptions;

use super::values::{output, size};
use crate::export::{ExportError, Format};
use crate::session::convert::ConvertOptions;
use crate::session::saved::{SavedExport, SavedOptions};

#[derive(Debug, Args)]
pub(in crate::cli) struct ViewArgs {
    /// The saved session
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    limits: LimitArgs,
}

impl ViewArgs {
    pub(in crate::cli) fn options(&self) -> SavedOptions {
        self.limits.saved(&self.file, None)
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ReportArgs {
    /// The saved session; its last walk is reported
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// File to write
    #[arg(short, long, value_name = "FILE", value_parser = output())]
    output: PathBuf,
    /// Report walk N instead of the last; the first is 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    at: Option<u64>,
    /// Show which objects grew since this earlier saved session of the same process
    #[arg(long, value_name = "EARLIER")]
    since: Option<PathBuf>,
    /// Do not predict what other allocators would need by replaying its heap in them
    #[arg(long)]
    no_predict: bool,
    #[command(flatten)]
    limits: LimitArgs,
}

impl ReportArgs {
    /// The input files.
    pub(in crate::cli) fn inputs(&self) -> Vec<PathBuf> {
        std::iter::once(&self.file)
            .chain(&self.since)
            .cloned()
            .collect()
    }

    pub(in crate::cli) fn options(&self) -> SavedExport {
        SavedExport {
            saved: SavedOptions {
                since: self.since.clone(),
                ..self.limits.saved(&self.file, self.at)
            },
            format: Format::Html,
            is_predicted: !self.no_predict,
            output: Some(self.output.clone()),
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// A recording of fragscope, heaptrack, memray or logalloc, or a saved session
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The format to write; by default the one that the ending of -o names
    #[arg(long, value_enum, required_unless_present = "output")]
    format: Option<ExportFormat>,
    /// Export walk N of a saved session instead of the last; the first is 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    at: Option<u64>,
    /// File to write instead of printing
    #[arg(short, long, value_name = "FILE", value_parser = output())]
    output: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// What to export.
pub(in crate::cli) enum Export {
    /// A recording.
    Recording(ConvertOptions),
    /// A walk of a saved session.
    Session(SavedExport),
}

impl ExportArgs {
    /// The input file.
    pub(in crate::cli) fn file(&self) -> &Path {
        &self.file
    }

    /// # Errors
    /// When no format is named, nor by the ending of a file to write.
    pub(in crate::cli) fn options(&self) -> Result<Export, ExportError> {
        let format = match (self.format, &self.output) {
            (Some(format), _) => format.of_session(),
            (None, Some(output)) => Some(Format::of(output)?),
            (None, None) => Some(Format::Text),
        };
        let Some(format) = format else {
            return Ok(Export::Recording(ConvertOptions {
                recording: self.file.clone(),
                output: self.output.clone(),
                max_size: self.limits.max_size,
                max_memory: self.limits.max_memory,
            }));
        };
        Ok(Export::Session(SavedExport {
            saved: self.limits.saved(&self.file, self.at),
            format,
            is_predicted: false,
            output: self.output.clone(),
        }))
    }
}

/// Limits of reading a file.
#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// Read at most this much content of the file, uncompressed, e.g. 100G; by default 64G, or for a
    /// small file 512M plus 200 times its size
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<u64>,
    /// Use at most this much memory to read the file, e.g. 16G; by default the least of 4G, half of
    /// this host's available memory, and 512M plus 200 times the file's size
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_memory: Option<u64>,
}

impl LimitArgs {
    pub(super) fn saved(&self, file: &Path, at: Option<u64>) -> SavedOptions {
        SavedOptions {
            file: file.to_owned(),
            at,
            since: None,
            max_size: self.max_size,
            max_memory: self.max_memory,
        }
    }
}

/// Formats that files can be written in.
#[derive(Copy, Clone, Debug, Eq, PartialEq, ValueEnum)]
enum ExportFormat {
    /// A recording, as Firefox's logalloc: one line of text per call
    Logalloc,
    /// A saved session, as JSON: schema fragscope.snapshot/1
    Json,
    /// A saved session, one figure per row
    Csv,
    /// A saved session's histograms, as an HdrHistogram log
    Hlog,
    /// A saved session, as the page of `report`
    Html,
    /// A saved session, as the report that `snapshot` prints
    Text,
    /// A saved session's call sites, as folded stacks
    Folded,
    /// A saved session's call sites, as a file of speedscope
    Speedscope,
    /// A saved session's call sites, as a profile of pprof
    Pprof,
}

/// The names of the formats that a saved session can be written in, for people.
pub(in crate::cli) fn session_formats() -> String {
    let formats = ExportFormat::value_variants().iter();
    let formats = formats.filter(|format| format.of_session().is_some());
    let names =
        formats.filter_map(|format| Some(format.to_possible_value()?.get_name().to_owned()));
    let mut names: Vec<String> = names.collect();
    let last = names.pop().unwrap_or_default();
    format!("{} or {last}", names.join(", "))
}

impl ExportFormat {
    /// The format of a saved session's export; `None` for one of a recording.
    fn of_session(self) -> Option<Format> {
        Some(match self {
            Self::Logalloc => return None,
            Self::Json => Format::Json,
            Self::Csv => Format::Csv,
            Self::Hlog => Format::Hlog,
            Self::Html => Format::Html,
            Self::Text => Format::Text,
            Self::Folded => Format::Folded,
            Self::Speedscope => Format::Speedscope,
            Self::Pprof => Format::Pprof,
        })
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ReplayArgs {
    /// The recording
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
    #[arg(long = "allocator", value_name = "NAME|PATH", help = allocators_help())]
    allocators: Vec<String>,
    /// A setting to try instead of the default candidates, with the allocator that reads it: a tunable
    /// of glibc's malloc, or a variable such as MALLOC_CONF; several are set together
    #[arg(long = "tunable", value_name = "NAME=VALUE", value_parser = Tunable::parse)]
    tunables: Vec<Tunable>,
    /// Runs of each candidate whose result varies; by default 3 to 15, as time allows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// Load the allocator's file that the recording names, if root or you own it and nobody else could
    /// have changed it; by default fragscope's own or this host's allocator of the same name is used
    #[arg(long)]
    allow_recorded_allocator: bool,
    #[command(flatten)]
    limits: LimitArgs,
    /// Print JSON (schema fragscope.replay/1) instead of text
    #[arg(long)]
    pub(in crate::cli) json: bool,
    /// File to which the JSON is written as well
    #[arg(short, long, value_name = "FILE", value_parser = output())]
    pub(in crate::cli) output: Option<PathBuf>,
}

fn allocators_help() -> String {
    format!(
        "An allocator to try instead of the default candidates: {}, or the path of a shared object; may \
         be given several times",
        allocators::names()
    )
}

impl ReplayArgs {
    /// Whether the candidates were named, and are not the default ones.
    pub(in crate::cli) fn chooses(&self) -> bool {
        !(self.allocators.is_empty() && self.tunables.is_empty())
    }

    pub(in crate::cli) fn options(&self) -> ReplayOptions {
        ReplayOptions {
            trace: self.trace.clone(),
            allocators: self.allocators.clone(),
            tunables: self.tunables.clone(),
            runs: self.runs,
            allow_recorded: self.allow_recorded_allocator,
            max_size: self.limits.max_size,
            max_memory: self.limits.max_memory,
        }
    }
}
