//! The figures of candidates: each is declared here once, for the table in text and for JSON. A new
//! one is a constant, and its place in [`SHOWN`], [`IN_JSON`] or both.

use profiler_core::units::{Value, count};

use profiler_lab::report::{Measured, Row};

/// Bytes of a MiB.
pub(super) const MIB: f64 = (1 << 20) as f64;

/// What was measured of a candidate, beside the same of what the program had.
pub(super) struct Compared<'a> {
    pub(super) own: &'a Measured,
    /// `None` where that is not known.
    pub(super) now: Option<&'a Measured>,
    /// Whether it is what the program had.
    pub(super) is_now: bool,
}

/// One figure of a candidate.
pub(super) struct Column {
    /// Its key in JSON, none where it is only shown.
    pub(super) key: &'static str,
    /// Its value there; `None` is unknown.
    pub(super) value: fn(&Row) -> Option<Value>,
    /// Its title in text, none where it is only in files.
    title: &'static str,
    /// Characters that it takes there.
    width: usize,
    cell: fn(&Compared<'_>) -> String,
}

impl Column {
    const fn filed(key: &'static str, value: fn(&Row) -> Option<Value>) -> Self {
        Self {
            key,
            value,
            title: "",
            width: 0,
            cell: |_| String::new(),
        }
    }

    const fn with_cell(
        mut self,
        title: &'static str,
        width: usize,
        cell: fn(&Compared<'_>) -> String,
    ) -> Self {
        self.title = title;
        self.width = width;
        self.cell = cell;
        self
    }

    /// A column of text alone, which follows from others.
    const fn derived(title: &'static str, width: usize, cell: fn(&Compared<'_>) -> String) -> Self {
        Self::filed("", |_| None).with_cell(title, width, cell)
    }
}

const FINAL: Column = Column::filed("rest_bytes", |row| whole(row, |m| m.memory.at_end.bytes))
    .with_cell("final", 7, |of| mib(of.own.memory.at_end.bytes));
const FINAL_LOW: Column =
    Column::filed("low_bytes", |row| whole(row, |m| m.memory.at_end.low_bytes));
const FINAL_HIGH: Column = Column::filed("high_bytes", |row| {
    whole(row, |m| m.memory.at_end.high_bytes)
});
const RANGE: Column = Column::derived("range", 13, |of| {
    let (low, high) = (
        mib(of.own.memory.at_end.low_bytes),
        mib(of.own.memory.at_end.high_bytes),
    );
    if low == high {
        String::new()
    } else {
        format!("{low}-{high}")
    }
});
const FINAL_SAVES: Column = Column::derived("saves", 7, |of| of.saves(|m| m.memory.at_end.bytes));
const FINAL_RANK: Column = Column::filed("rest_rank", |row| Some((row.rank?.at_end as u64).into()));
const PEAK: Column = Column::filed("peak_bytes", |row| whole(row, |m| m.memory.peak.bytes))
    .with_cell("peak", 7, |of| mib(of.own.memory.peak.bytes));
const PEAK_LOW: Column = Column::filed("peak_low_bytes", |row| {
    whole(row, |m| m.memory.peak.low_bytes)
});
const PEAK_HIGH: Column = Column::filed("peak_high_bytes", |row| {
    whole(row, |m| m.memory.peak.high_bytes)
});
const PEAK_SAVES: Column = Column::derived("saves", 7, |of| of.saves(|m| m.memory.peak.bytes));
const PEAK_RANK: Column = Column::filed("peak_rank", |row| Some((row.rank?.peak as u64).into()));
const RUNS: Column = Column::filed("runs", |row| {
    Some(u64::from(row.measured.map_or(0, |m| m.runs)).into())
});
const CPU: Column = Column::filed("cpu_seconds", |row| Some(row.measured?.cpu_seconds.into()))
    .with_cell("cpu", 5, |of| match of.now {
        Some(now) if now.cpu_seconds > 0.0 => {
            format!("x{:.1}", of.own.cpu_seconds / now.cpu_seconds)
        }
        _ => "-".to_owned(),
    });
const FAULTS: Column =
    Column::filed("faults", |row| whole(row, |m| m.faults))
        .with_cell("faults", 7, |of| count(of.own.faults));
const KERNEL_CALLS: Column = Column::filed("kernel_calls", |row| {
    Some(row.measured?.kernel_calls?.into())
});

/// What the table in text shows after a candidate's name.
const SHOWN: [Column; 7] = [FINAL, RANGE, FINAL_SAVES, PEAK, PEAK_SAVES, CPU, FAULTS];

/// What JSON holds of a candidate.
pub(super) const IN_JSON: [Column; 12] = [
    PEAK,
    PEAK_LOW,
    PEAK_HIGH,
    PEAK_RANK,
    FINAL,
    FINAL_LOW,
    FINAL_HIGH,
    FINAL_RANK,
    RUNS,
    CPU,
    FAULTS,
    KERNEL_CALLS,
];

/// Characters that all columns of text take, with the gap before each.
pub(super) const WIDTH: usize = {
    let (mut width, mut at) = (0, 0);
    while at < SHOWN.len() {
        width += 1 + SHOWN[at].width;
        at += 1;
    }
    width
};

/// The titles of the table in text, each after a gap.
pub(super) fn headings() -> String {
    let titles = SHOWN
        .iter()
        .map(|column| format!(" {:>1$}", column.title, column.width));
    titles.collect()
}

/// A candidate's row of it.
pub(super) fn cells(of: &Compared<'_>) -> String {
    let cells = SHOWN
        .iter()
        .map(|column| format!(" {:>1$}", (column.cell)(of), column.width));
    cells.collect()
}

fn whole(row: &Row, of: fn(&Measured) -> u64) -> Option<Value> {
    row.measured.as_ref().map(|measured| of(measured).into())
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / MIB)
}

impl Compared<'_> {
    /// How much less it has than what the program had.
    fn saves(&self, part: fn(&Measured) -> u64) -> String {
        let Some(now) = self.now.filter(|_| !self.is_now) else {
            return String::new();
        };
        // What shows as nothing has no sign.
        let mib = (part(now) as f64 - part(self.own) as f64) / MIB;
        if mib.abs() < 0.05 {
            "0.0".to_owned()
        } else {
            format!("{mib:+.1}")
        }
    }
}
