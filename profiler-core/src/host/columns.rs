//! The columns of the table of processes, each declared once for text, screen and JSON.

use super::groups::container_of;
use super::{ProcessRow, ProcessSample, WalkFigures};
use crate::columns::Column;
use crate::text::visible;
use crate::units::Unit;

/// A column of that table. Its title in lower case is the word to sort by.
pub type ProcessColumn = Column<ProcessRow>;

fn walked(row: &ProcessRow, of: fn(&WalkFigures) -> Option<u64>) -> Option<u64> {
    row.walk.as_ref().and_then(of)
}

/// Its pid.
pub const PID: ProcessColumn = Column::of("pid", Unit::Name, |row: &ProcessRow| {
    row.process.id.pid.max(0) as u64
})
.titled("PID", 7, "the number of the process")
.short(0);
/// Resident memory of a process: the default sort key.
pub const RSS: ProcessColumn = Column::of("rss_bytes", Unit::Bytes, |row: &ProcessRow| {
    row.process.memory.rss_bytes
})
.titled(
    "RSS",
    5,
    "resident set; pages that processes share count in each of them",
)
.short(0);
const PSS: ProcessColumn = Column::maybe("pss_bytes", Unit::Bytes, |row: &ProcessRow| {
    row.process.memory.pss_bytes
})
.titled(
    "PSS",
    5,
    "proportional set size: shared pages count in parts, so that sums are right",
)
.short(2);
const USS: ProcessColumn = Column::maybe("uss_bytes", Unit::Bytes, |row: &ProcessRow| {
    row.process.memory.uss_bytes
})
.titled(
    "USS",
    5,
    "unique set size: what would be free if this process alone ended",
)
.short(4);
const SWAP: ProcessColumn = Column::maybe("swap_bytes", Unit::Bytes, |row: &ProcessRow| {
    row.process.memory.swap_bytes
})
.titled("SWAP", 5, "in swap")
.short(5);
const LIVE: ProcessColumn =
    Column::maybe("live_resident_bytes", Unit::Bytes, |row: &ProcessRow| {
        walked(row, |walk| walk.live_resident_bytes)
    })
    .titled(
        "LIVE",
        5,
        "of RSS, blocks in use in all heaps, at the last walk",
    )
    .short(1);
const FRAG: ProcessColumn =
    Column::fraction("fragmentation_share", Unit::Share, |row: &ProcessRow| {
        let walk = row.walk.as_ref()?;
        walk.fragmentation_bytes?;
        Some(walk.verdict.fragmentation)
    })
    .titled(
        "FRAG",
        4,
        "resident heap bytes that hold nothing live, as a share of RSS, at the last walk",
    )
    .short(1);
/// Free but resident memory in its heaps.
pub const FREE: ProcessColumn = Column::maybe(
    "metrics.fragmentation_bytes",
    Unit::Bytes,
    |row: &ProcessRow| walked(row, |walk| walk.fragmentation_bytes),
)
.titled(
    "FREE",
    5,
    "resident heap bytes that hold nothing live, at the last walk",
)
.short(4);
const COPIED: ProcessColumn = Column::maybe(
    "metrics.fork_copied_bytes",
    Unit::Bytes,
    |row: &ProcessRow| Some(row.walk.as_ref()?.fork?.copied_bytes),
)
.titled(
    "COPIED",
    6,
    "what a write has copied since the fork, or both have mapped since, at most, at the last walk",
)
.short(3);
const TRIM: ProcessColumn = Column::maybe(
    "metrics.trim_returnable_bytes",
    Unit::Bytes,
    |row: &ProcessRow| walked(row, |walk| walk.trim_returnable_bytes),
)
.titled(
    "TRIM",
    5,
    "what a trim or purge would return, at the last walk",
)
.short(1);
/// How fast RSS grows.
pub const GROWTH: ProcessColumn = Column::fraction(
    "growth_bytes_per_second",
    Unit::BytesPerSecond,
    |row: &ProcessRow| row.growth,
)
.titled(
    "GROWTH",
    8,
    "growth of RSS since top began to watch the process",
)
.short(2);
const LIMIT: ProcessColumn = Column::maybe("cgroup.max_bytes", Unit::Bytes, |row: &ProcessRow| {
    row.process.group.as_ref()?.max_bytes
})
.titled(
    "LIMIT",
    5,
    "the lowest memory limit of its control group and those above; - is none",
)
.short(6);
const MALLOC: ProcessColumn = Column::words("target.malloc", |row: &ProcessRow| {
    Some(row.walk.as_ref()?.malloc.as_ref()?.to_string())
})
.titled("MALLOC", 14, "the allocator that serves malloc")
.short(7);
const CGROUP: ProcessColumn = Column::words("cgroup.path", |row: &ProcessRow| {
    Some(row.process.group.as_ref()?.path.clone())
})
.titled("CGROUP", 20, "its control group; of a container its name")
.written(|row: &ProcessRow| {
    let path = row.process.group.as_ref().map(|group| &group.path);
    let path = path.map_or("-", String::as_str);
    container_of(path).unwrap_or_else(|| path.to_owned())
})
.short(8);
const WALKED: ProcessColumn =
    Column::maybe("walk_age_ns", Unit::Nanoseconds, |row: &ProcessRow| {
        row.walk_age_ns
    })
    .titled("WALKED", 6, "how long ago its heap was walked")
    .short(3);
/// The verdict in three words.
pub const VERDICT: ProcessColumn = Column::words("short_verdict", ProcessRow::verdict)
    .titled("VERDICT", 20, "the result of the last walk, in three words")
    .short(1);
const LIVE_BYTES: ProcessColumn = Column::maybe("live_bytes", Unit::Bytes, |row: &ProcessRow| {
    walked(row, |walk| walk.live_bytes)
});
const PYTHON: ProcessColumn = Column::words("target.python", |row: &ProcessRow| {
    row.process.python.clone()
});
const FORK_SHARED: ProcessColumn = Column::maybe(
    "metrics.fork_shared_bytes",
    Unit::Bytes,
    |row: &ProcessRow| Some(row.walk.as_ref()?.fork?.shared_bytes),
);
const GROUP_CURRENT: ProcessColumn =
    Column::maybe("cgroup.current_bytes", Unit::Bytes, |row: &ProcessRow| {
        row.process.group.as_ref()?.current_bytes
    });

/// All columns of the table, in order. The command follows, using the remaining width.
pub const COLUMNS: [ProcessColumn; 16] = [
    PID, RSS, PSS, USS, SWAP, LIVE, FRAG, FREE, COPIED, TRIM, GROWTH, LIMIT, MALLOC, CGROUP,
    WALKED, VERDICT,
];

/// Columns that are only in files, after those of the table.
pub const IN_FILES_ALONE: [ProcessColumn; 4] = [LIVE_BYTES, PYTHON, FORK_SHARED, GROUP_CURRENT];

/// The command behind the columns has at least this part of the width.
const COMMAND_PART: usize = 6;

/// The subject of a table of processes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum TableOf {
    /// All of a host.
    #[default]
    Host,
    /// A master with its descendants: they have one control group and share pages.
    Tree,
}

impl TableOf {
    /// Whether it has a column.
    fn has(self, column: &ProcessColumn) -> bool {
        match self {
            Self::Host => column.key != COPIED.key,
            Self::Tree => [LIMIT, CGROUP, MALLOC]
                .iter()
                .all(|of| of.key != column.key),
        }
    }
}

/// The columns that fit into a terminal of this width, next to the command.
pub fn fitting(width: usize, of: TableOf) -> Vec<&'static ProcessColumn> {
    let mut shown: Vec<&ProcessColumn> = COLUMNS.iter().filter(|column| of.has(column)).collect();
    let taken =
        |shown: &[&ProcessColumn]| shown.iter().map(|column| column.width + 1).sum::<usize>();
    while taken(&shown) + width / COMMAND_PART > width && shown.len() > 1 {
        let last = shown
            .iter()
            .enumerate()
            .max_by_key(|(_, column)| column.rank);
        let Some((at, _)) = last else { break };
        shown.remove(at);
    }
    shown
}

/// The index of a column of the table, to sort by it.
pub fn place_of(column: &ProcessColumn) -> usize {
    let place = COLUMNS.iter().position(|of| of.key == column.key);
    place.expect("it is one of the table's")
}

/// The place of the column with this title, in any case.
pub fn column_of(title: &str) -> Option<usize> {
    COLUMNS
        .iter()
        .position(|column| column.title.eq_ignore_ascii_case(title))
}

/// A process's command in one harmless line: without the directory of its program and, for a
/// Python, without the interpreter, which is the same for all of them. If it has no command line,
/// the kernel's name in brackets.
pub fn command(process: &ProcessSample) -> String {
    let words = words(process);
    if words.is_empty() {
        return format!("[{}]", visible(&process.comm));
    }
    visible(words.join(" ").trim_end()).to_string()
}

/// The words of a command line without the directory of its program and, for a Python, without the
/// interpreter; empty if it has no command line.
pub(super) fn words(process: &ProcessSample) -> Vec<&str> {
    let mut words = process.cmdline.iter().map(String::as_str).peekable();
    if words.peek().is_none_or(|program| program.is_empty()) {
        return Vec::new();
    }
    let is_interpreter = |word: &&str| short(word).starts_with("python");
    if process.cmdline.len() > 1 && words.next_if(is_interpreter).is_some() {
        words.next_if(|word| *word == "-m");
    }
    let program = words.next().map(short);
    program.into_iter().chain(words).collect()
}

/// A path without its directories. Text that a program wrote over its command line is a sentence
/// and not a path.
pub(super) fn short(word: &str) -> &str {
    match word.contains(' ') {
        true => word,
        false => word.rsplit('/').next().unwrap_or(word),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::model::tests::process;
    use super::*;

    #[test]
    fn a_figure_that_was_not_taken_is_a_dash_and_never_zero() {
        let row = ProcessRow {
            process: process(7, 1, 3 << 20),
            ..ProcessRow::default()
        };
        for column in &COLUMNS {
            let cell = column.cell(&row);
            let known = matches!(column.title, "PID" | "RSS");
            assert_eq!(cell.trim() == "-", !known, "{}", column.title);
            assert_eq!(cell.chars().count(), column.width, "{}", column.title);
        }
    }

    #[test]
    fn keys_are_unique_and_narrow_terminals_have_what_matters() {
        let all = || COLUMNS.iter().chain(&IN_FILES_ALONE);
        let keys: BTreeSet<_> = all().map(|column| column.key).collect();
        assert_eq!(keys.len(), all().count());
        assert!(
            [RSS, FREE, GROWTH, VERDICT]
                .iter()
                .all(|of| COLUMNS[place_of(of)].key == of.key)
        );
        let titles = |width| {
            fitting(width, TableOf::Host)
                .iter()
                .map(|c| c.title)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(titles(80), "PID RSS PSS LIVE FRAG TRIM GROWTH VERDICT");
        assert_eq!(
            titles(120),
            "PID RSS PSS USS SWAP LIVE FRAG FREE TRIM GROWTH LIMIT WALKED VERDICT"
        );
        assert_eq!(titles(0), "PID");
        assert_eq!(fitting(200, TableOf::Host).len(), COLUMNS.len() - 1);
        let of_tree = fitting(120, TableOf::Tree);
        assert!(of_tree.iter().any(|column| column.title == "COPIED"));
    }

    #[test]
    fn what_is_a_metric_of_a_snapshot_has_its_key() {
        let metrics = COLUMNS
            .iter()
            .chain(&IN_FILES_ALONE)
            .filter_map(|of| of.key.strip_prefix("metrics."));
        let metrics: Vec<_> = metrics.collect();
        assert_eq!(metrics.len(), 4);
        for key in metrics {
            assert!(
                crate::metrics::MetricId::ALL
                    .iter()
                    .any(|id| id.key() == key),
                "{key}"
            );
        }
    }

    #[test]
    fn words_of_others_are_harmless_and_cut() {
        let mut row = ProcessRow {
            process: process(7, 1, 0),
            ..ProcessRow::default()
        };
        row.process.group = Some(std::sync::Arc::new(super::super::MemoryGroup {
            path: "/kubepods/\x1b[2J/pod-with-a-long-name".into(),
            ..Default::default()
        }));
        let cell = CGROUP.cell(&row);
        assert_eq!(cell, "…od-with-a-long-name");
        // A container by the part of its id that its engine shows.
        row.process.group = Some(std::sync::Arc::new(super::super::MemoryGroup {
            path: format!("/libpod_parent/libpod-{}", "0123456789abcdef".repeat(4)),
            ..Default::default()
        }));
        let cell = CGROUP.cell(&row);
        assert_eq!(cell.trim_end(), "libpod-0123456789ab");
        row.process.cmdline = vec!["/bin/py\nthon".into(), "\x1b[31m".into()];
        assert_eq!(command(&row.process), "py\\nthon \\x1b[31m");
        row.process.cmdline = ["/venv/bin/python3", "-m", "celery", "worker"]
            .map(Into::into)
            .into();
        assert_eq!(command(&row.process), "celery worker");
        row.process.cmdline = ["python", "/srv/bin/gunicorn", "a/b"]
            .map(Into::into)
            .into();
        assert_eq!(command(&row.process), "gunicorn a/b");
        row.process.cmdline = vec!["[celeryd: celery@h/1:MainProcess] -active- (a)".into()];
        assert_eq!(
            command(&row.process),
            "[celeryd: celery@h/1:MainProcess] -active- (a)"
        );
        row.process.cmdline = vec![];
        row.process.comm = "a\tb".into();
        assert_eq!(command(&row.process), "[a\\tb]");
    }

    #[test]
    fn growth_has_a_sign_and_an_age_a_unit() {
        let mut row = ProcessRow {
            process: process(7, 1, 0),
            ..ProcessRow::default()
        };
        row.growth = Some(-3.2 * f64::from(1 << 20));
        row.walk_age_ns = Some(130_000_000_000);
        assert_eq!(GROWTH.cell(&row), " -3.2M/s");
        assert_eq!(WALKED.cell(&row), "    2m");
    }
}
