//! The columns of the table of processes, each declared once for text, screen and JSON.

use super::{ProcessRow, ProcessSample, WalkFigures};
use crate::text::visible;
use crate::units::{Unit, Value, short_bytes};

/// What a column has of a process.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    /// A figure.
    Number(Value),
    /// Words, which may be somebody else's.
    Text(String),
}

/// One column.
#[derive(Debug)]
pub struct Column {
    /// Its key in JSON; a point separates an object from its key.
    pub key: &'static str,
    /// Its title, and in lower case the word that it is sorted by.
    pub title: &'static str,
    /// The unit of its figures; `None` for words.
    pub unit: Option<Unit>,
    /// Characters that it takes.
    pub width: usize,
    /// One line for the help.
    pub help: &'static str,
    /// What gives way first on a narrow terminal has the highest rank.
    rank: u8,
    get: fn(&ProcessRow) -> Option<Datum>,
}

fn whole(value: u64) -> Datum {
    Datum::Number(Value::Whole(value))
}

fn walked(row: &ProcessRow, of: fn(&WalkFigures) -> Option<u64>) -> Option<Datum> {
    row.walk.as_ref().and_then(of).map(whole)
}

/// All columns, in their order. The command stands behind them, as wide as it gets.
pub const COLUMNS: [Column; 15] = [
    Column {
        key: "pid",
        title: "PID",
        unit: None,
        width: 7,
        help: "the number of the process",
        rank: 0,
        get: |row| {
            Some(Datum::Number(
                Value::Whole(row.process.id.pid.max(0) as u64),
            ))
        },
    },
    Column {
        key: "rss_bytes",
        title: "RSS",
        unit: Some(Unit::Bytes),
        width: 5,
        help: "resident set; pages that processes share count in each of them",
        rank: 0,
        get: |row| Some(whole(row.process.memory.rss_bytes)),
    },
    Column {
        key: "pss_bytes",
        title: "PSS",
        unit: Some(Unit::Bytes),
        width: 5,
        help: "proportional set size: shared pages count in parts, so that sums are right",
        rank: 2,
        get: |row| row.process.memory.pss_bytes.map(whole),
    },
    Column {
        key: "uss_bytes",
        title: "USS",
        unit: Some(Unit::Bytes),
        width: 5,
        help: "unique set size: what would be free if this process alone ended",
        rank: 4,
        get: |row| row.process.memory.uss_bytes.map(whole),
    },
    Column {
        key: "swap_bytes",
        title: "SWAP",
        unit: Some(Unit::Bytes),
        width: 5,
        help: "in swap",
        rank: 5,
        get: |row| row.process.memory.swap_bytes.map(whole),
    },
    Column {
        key: "live_bytes",
        title: "LIVE",
        unit: Some(Unit::Bytes),
        width: 5,
        help: "blocks in use in all heaps, at the last walk",
        rank: 1,
        get: |row| walked(row, |walk| walk.live_bytes),
    },
    Column {
        key: "fragmentation_share",
        title: "FRAG",
        unit: Some(Unit::Share),
        width: 4,
        help: "resident heap bytes that hold nothing live, as a share of RSS, at the last walk",
        rank: 1,
        get: |row| {
            let walk = row
                .walk
                .as_ref()
                .filter(|walk| walk.fragmentation_bytes.is_some())?;
            Some(Datum::Number(Value::Fraction(walk.verdict.fragmentation)))
        },
    },
    Column {
        key: "metrics.fragmentation_bytes",
        title: "FREE",
        unit: Some(Unit::Bytes),
        width: 5,
        help: "resident heap bytes that hold nothing live, at the last walk",
        rank: 4,
        get: |row| walked(row, |walk| walk.fragmentation_bytes),
    },
    Column {
        key: "metrics.trim_returnable_bytes",
        title: "TRIM",
        unit: Some(Unit::Bytes),
        width: 5,
        help: "what a trim or purge would return, at the last walk",
        rank: 1,
        get: |row| walked(row, |walk| walk.trim_returnable_bytes),
    },
    Column {
        key: "growth_bytes_per_second",
        title: "GROWTH",
        unit: Some(Unit::BytesPerSecond),
        width: 8,
        help: "growth of RSS since top began to watch the process",
        rank: 2,
        get: |row| row.growth.map(|rate| Datum::Number(Value::Fraction(rate))),
    },
    Column {
        key: "cgroup.max_bytes",
        title: "LIMIT",
        unit: Some(Unit::Bytes),
        width: 5,
        help: "the lowest memory limit of its control group and those above; - is none",
        rank: 6,
        get: |row| row.process.group.as_ref()?.max_bytes.map(whole),
    },
    Column {
        key: "target.malloc",
        title: "MALLOC",
        unit: None,
        width: 14,
        help: "the allocator that serves malloc",
        rank: 7,
        get: |row| Some(Datum::Text(row.walk.as_ref()?.malloc.as_ref()?.to_string())),
    },
    Column {
        key: "cgroup.path",
        title: "CGROUP",
        unit: None,
        width: 20,
        help: "its control group",
        rank: 8,
        get: |row| Some(Datum::Text(row.process.group.as_ref()?.path.clone())),
    },
    Column {
        key: "walk_age_ns",
        title: "WALKED",
        unit: Some(Unit::Nanoseconds),
        width: 6,
        help: "how long ago its heap was walked",
        rank: 3,
        get: |row| row.walk_age_ns.map(whole),
    },
    Column {
        key: "short_verdict",
        title: "VERDICT",
        unit: None,
        width: 20,
        help: "the result of the last walk, in three words",
        rank: 1,
        get: |row| row.verdict().map(Datum::Text),
    },
];

/// The command behind the columns has at least this part of the width.
const COMMAND_PART: usize = 6;

/// The columns that a terminal of this width has room for, beside the command.
pub fn fitting(width: usize) -> Vec<&'static Column> {
    let mut shown: Vec<&Column> = COLUMNS.iter().collect();
    let taken = |shown: &[&Column]| shown.iter().map(|column| column.width + 1).sum::<usize>();
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

/// The place of the column with this title, in any case.
pub fn column_of(title: &str) -> Option<usize> {
    COLUMNS
        .iter()
        .position(|column| column.title.eq_ignore_ascii_case(title))
}

impl Column {
    /// What it has of a process; `None` is not known yet.
    pub fn get(&self, row: &ProcessRow) -> Option<Datum> {
        (self.get)(row)
    }

    /// Its title, aligned.
    pub fn heading(&self) -> String {
        self.aligned(self.title.to_owned())
    }

    /// What it has of a process as people read it, aligned; `-` is not known yet.
    pub fn cell(&self, row: &ProcessRow) -> String {
        let text = match self.get(row) {
            None => "-".to_owned(),
            Some(Datum::Text(text)) => self.cut(&text),
            Some(Datum::Number(value)) => self.figure(value),
        };
        self.aligned(text)
    }

    fn figure(&self, value: Value) -> String {
        let number = value.as_f64();
        match self.unit {
            Some(Unit::Bytes) => short_bytes(number as u64),
            Some(Unit::BytesPerSecond) => {
                let sign = if number < 0.0 { "-" } else { "+" };
                match number.abs().round() as u64 {
                    0 => "0".into(),
                    amount => format!("{sign}{}/s", short_bytes(amount)),
                }
            }
            Some(Unit::Share) => format!("{:.0}%", number * 100.0),
            Some(Unit::Nanoseconds) => age(number as u64 / 1_000_000_000),
            _ => value.to_string(),
        }
    }

    /// Figures and what has no unit but is a number stand to the right, words to the left.
    fn aligned(&self, text: String) -> String {
        let width = self.width;
        match self.is_text() {
            true => format!("{text:<width$}"),
            false => format!("{text:>width$}"),
        }
    }

    fn is_text(&self) -> bool {
        matches!(self.title, "MALLOC" | "CGROUP" | "VERDICT")
    }

    /// Foreign words made harmless, and no longer than the column: of a path the end says more.
    fn cut(&self, text: &str) -> String {
        let text = visible(text).to_string();
        let count = text.chars().count();
        if count <= self.width {
            return text;
        }
        let rest = text.chars().skip(count + 1 - self.width);
        "…".chars().chain(rest).collect()
    }
}

/// A time in whole seconds, minutes or hours.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

/// What a process was started as, in one harmless line: without the folder of its program, and of a
/// Python without the interpreter, which all of them have; in brackets the kernel's name where it has no
/// command line.
pub fn command(process: &ProcessSample) -> String {
    let mut words = process.cmdline.iter().map(String::as_str).peekable();
    if words.peek().is_none_or(|program| program.is_empty()) {
        return format!("[{}]", visible(&process.comm));
    }
    let is_interpreter = |word: &&str| short(word).starts_with("python");
    if process.cmdline.len() > 1 && words.next_if(is_interpreter).is_some() {
        words.next_if(|word| *word == "-m");
    }
    let program = words.next().map(short);
    let words: Vec<&str> = program.into_iter().chain(words).collect();
    visible(words.join(" ").trim_end()).to_string()
}

/// A path without its folders. What a program has written over its command line is a sentence, and no
/// path.
fn short(word: &str) -> &str {
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
        let keys: BTreeSet<_> = COLUMNS.iter().map(|column| column.key).collect();
        assert_eq!(keys.len(), COLUMNS.len());
        let titles = |width| {
            fitting(width)
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
        assert_eq!(fitting(200).len(), COLUMNS.len());
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
        let cell = COLUMNS[column_of("cgroup").expect("a column")].cell(&row);
        assert_eq!(cell, "…od-with-a-long-name");
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
        let cell = |title| COLUMNS[column_of(title).expect("a column")].cell(&row);
        assert_eq!(cell("growth"), " -3.2M/s");
        assert_eq!(cell("walked"), "    2m");
    }
}
