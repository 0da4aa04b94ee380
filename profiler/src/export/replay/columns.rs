//! The figures of candidates: each is declared here once, for the table in text and for JSON. A new
//! one is a constant, and its place in [`SHOWN`], [`IN_JSON`] or both.

use profiler_core::columns::{self, Column};
use profiler_core::units::Unit;
use profiler_lab::figures::PeakAndFinal;
use profiler_lab::report::{CandidateReport, Measured};

/// Bytes of a MiB.
pub(super) const MIB: f64 = (1 << 20) as f64;

/// A candidate's measurement, compared with the baseline's.
pub(super) struct Compared {
    own: Option<Measured>,
    rank: Option<PeakAndFinal<usize>>,
    /// `None` if unknown.
    now: Option<Measured>,
    /// Whether it is the baseline.
    is_baseline: bool,
}

const FINAL: Column<Compared> = Column::maybe("rest_bytes", Unit::Bytes, |of: &Compared| {
    Some(of.own?.memory.at_end.bytes)
})
.titled("final", 7, "what malloc's memory came to at the end")
.written(|of| mib(of, |m| m.memory.at_end.bytes));
const FINAL_LOW: Column<Compared> = Column::maybe("low_bytes", Unit::Bytes, |of: &Compared| {
    Some(of.own?.memory.at_end.low_bytes)
});
const FINAL_HIGH: Column<Compared> = Column::maybe("high_bytes", Unit::Bytes, |of: &Compared| {
    Some(of.own?.memory.at_end.high_bytes)
});
const RANGE: Column<Compared> = Column::maybe("", Unit::Bytes, |of: &Compared| {
    Some(of.own?.memory.at_end.low_bytes)
})
.titled("range", 13, "the least and the most of it")
.written(|of| {
    let low = mib(of, |m| m.memory.at_end.low_bytes);
    let high = mib(of, |m| m.memory.at_end.high_bytes);
    match low == high {
        true => String::new(),
        false => format!("{low}-{high}"),
    }
});
const FINAL_SAVES: Column<Compared> = Column::maybe("", Unit::Bytes, |of: &Compared| {
    Some(of.own?.memory.at_end.bytes)
})
.titled("saves", 7, "how much less that is than the baseline")
.written(|of| of.saves(|m| m.memory.at_end.bytes));
const FINAL_RANK: Column<Compared> = Column::maybe("rest_rank", Unit::Name, |of: &Compared| {
    Some(of.rank?.at_end as u64)
});
const PEAK: Column<Compared> = Column::maybe("peak_bytes", Unit::Bytes, |of: &Compared| {
    Some(of.own_peak()?.memory.peak.bytes)
})
.titled("peak", 7, "the most that malloc's memory came to")
.written(|of| mib(of, |m| m.memory.peak.bytes));
const PEAK_LOW: Column<Compared> = Column::maybe("peak_low_bytes", Unit::Bytes, |of: &Compared| {
    Some(of.own?.memory.peak.low_bytes)
});
const PEAK_HIGH: Column<Compared> =
    Column::maybe("peak_high_bytes", Unit::Bytes, |of: &Compared| {
        Some(of.own?.memory.peak.high_bytes)
    });
const PEAK_SAVES: Column<Compared> = Column::maybe("", Unit::Bytes, |of: &Compared| {
    Some(of.own?.memory.peak.bytes)
})
.titled("saves", 7, "how much less that is than the baseline")
.written(|of| match of.own_peak().and(of.now.filter(has_peak)) {
    Some(_) => of.saves(|m| m.memory.peak.bytes),
    None => String::new(),
});
const PEAK_RANK: Column<Compared> = Column::maybe("peak_rank", Unit::Name, |of: &Compared| {
    of.own_peak()?;
    Some(of.rank?.peak as u64)
});
const RUNS: Column<Compared> = Column::of("runs", Unit::Count, |of: &Compared| {
    of.own.map_or(0, |m| m.runs.into())
});
const CPU: Column<Compared> = Column::fraction("cpu_seconds", Unit::Seconds, |of: &Compared| {
    Some(of.own?.cpu_seconds)
})
.titled("cpu", 5, "processor time, as a multiple of the baseline's")
.written(|of| {
    let now = of.now.filter(|now| now.cpu_seconds > 0.0);
    let times = of
        .own
        .zip(now)
        .map(|(own, now)| own.cpu_seconds / now.cpu_seconds);
    times.map_or_else(|| "-".to_owned(), |times| format!("x{times:.1}"))
});
const FAULTS: Column<Compared> =
    Column::maybe("faults", Unit::Count, |of: &Compared| Some(of.own?.faults)).titled(
        "faults",
        7,
        "page faults",
    );
const KERNEL_CALLS: Column<Compared> =
    Column::maybe("kernel_calls", Unit::Calls, |of: &Compared| {
        of.own?.kernel_calls
    });

/// The columns of the text table after a candidate's name.
const SHOWN: [Column<Compared>; 7] = [FINAL, RANGE, FINAL_SAVES, PEAK, PEAK_SAVES, CPU, FAULTS];

/// What JSON holds of a candidate.
pub(super) const IN_JSON: [Column<Compared>; 12] = [
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
pub(super) const WIDTH: usize = columns::width_of(&SHOWN);

/// The titles of the table in text, each after a gap.
pub(super) fn headings() -> String {
    columns::headings(&SHOWN, " ")
}

/// A candidate's row of the table.
pub(super) fn cells(of: &Compared) -> String {
    columns::cells(&SHOWN, of, " ")
}

impl Compared {
    /// A candidate compared with the baseline.
    pub(super) fn of(row: &CandidateReport, now: Option<Measured>) -> Self {
        Self {
            own: row.measured,
            rank: row.rank,
            now,
            is_baseline: row.is_baseline,
        }
    }

    /// The measurement, if its peak is known.
    fn own_peak(&self) -> Option<Measured> {
        self.own.filter(has_peak)
    }

    /// How much less it takes than the baseline.
    fn saves(&self, part: fn(&Measured) -> u64) -> String {
        let now = self.now.filter(|_| !self.is_baseline);
        let Some((own, now)) = self.own.zip(now) else {
            return String::new();
        };
        // What shows as nothing has no sign.
        let mib = (part(&now) as f64 - part(&own) as f64) / MIB;
        if mib.abs() < 0.05 {
            "0.0".to_owned()
        } else {
            format!("{mib:+.1}")
        }
    }
}

fn has_peak(of: &Measured) -> bool {
    !of.peak_is_unknown
}

fn mib(of: &Compared, part: fn(&Measured) -> u64) -> String {
    let amount = of.own.map(|own| part(&own) as f64 / MIB);
    amount.map_or_else(String::new, |amount| format!("{amount:.1}"))
}
