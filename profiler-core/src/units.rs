//! Formats numbers for people: the one place that decides how bytes, counts and times look and what
//! unit a figure has.

use std::fmt::{self, Display};

/// The unit of a figure.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Pages of 4096 bytes.
    Pages,
    /// Blocks of an allocator.
    Blocks,
    /// Objects of Python, or items of one.
    Objects,
    /// Arenas of an allocator.
    Arenas,
    /// Aligned ranges of 2 MiB.
    Ranges,
    /// Threads.
    Threads,
    /// Calls of a function.
    Calls,
    /// Events of probes.
    Events,
    /// Hits of probes.
    Hits,
    /// Defects that a walk found.
    Defects,
    /// Things that are counted and have no other unit here.
    Count,
    /// Nanoseconds.
    Nanoseconds,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Per second.
    PerSecond,
    /// Bytes a second.
    BytesPerSecond,
    /// A part of a whole: 0 to 1.
    Share,
    /// One amount divided by another that does not contain it.
    Ratio,
    /// Yes (1) or no (0).
    Flag,
    /// Text, or a number that is an identifier and not an amount.
    Name,
}

/// Nanoseconds as milliseconds.
pub fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}

impl Unit {
    /// Its name, as in `docs/metrics.md`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Pages => "pages",
            Self::Blocks => "blocks",
            Self::Objects => "objects",
            Self::Arenas => "arenas",
            Self::Ranges => "ranges",
            Self::Threads => "threads",
            Self::Calls => "calls",
            Self::Events => "events",
            Self::Hits => "hits",
            Self::Defects => "defects",
            Self::Count => "count",
            Self::Nanoseconds => "ns",
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::PerSecond => "1/s",
            Self::BytesPerSecond => "bytes/s",
            Self::Share => "share",
            Self::Ratio => "ratio",
            Self::Flag => "flag",
            Self::Name => "name",
        }
    }

    /// Its symbol in tables: its name, or nothing if the figure has no dimension.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Count | Self::Share | Self::Ratio | Self::Flag | Self::Name => "",
            _ => self.name(),
        }
    }

    /// Whether figures in it are integers.
    pub const fn is_whole(self) -> bool {
        !matches!(
            self,
            Self::Seconds
                | Self::Milliseconds
                | Self::PerSecond
                | Self::BytesPerSecond
                | Self::Share
                | Self::Ratio
        )
    }

    /// A value in this unit as a table cell: bytes and times scaled by their size, shares in
    /// percent, ratios with two decimals.
    pub fn text(self, value: Value) -> String {
        let whole = value.rounded();
        match self {
            Self::Bytes => bytes(whole),
            Self::BytesPerSecond => format!("{}/s", bytes(whole)),
            Self::Nanoseconds => nanoseconds(whole),
            Self::Seconds => format!("{:.1} s", value.as_f64()),
            Self::Milliseconds => format!("{:.1} ms", value.as_f64()),
            Self::Share => format!("{:.1} %", value.as_f64() * 100.0),
            Self::Ratio => format!("{:.2}", value.as_f64()),
            Self::Name => value.to_string(),
            _ => count(whole),
        }
    }

    /// The same in as few characters as possible: amounts in three digits, changes with a sign,
    /// ages in the largest unit.
    pub fn short_text(self, value: Value) -> String {
        let number = value.as_f64();
        match self {
            Self::Bytes => short_bytes(number as u64),
            Self::BytesPerSecond => {
                let sign = if number < 0.0 { "-" } else { "+" };
                match number.abs().round() as u64 {
                    0 => "0".into(),
                    amount => format!("{sign}{}/s", short_bytes(amount)),
                }
            }
            Self::Share => format!("{:.0}%", number * 100.0),
            Self::Nanoseconds => age(number as u64 / 1_000_000_000),
            _ => value.to_string(),
        }
    }
}

/// A time in whole seconds, minutes or hours.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

/// The value of a figure. Whole numbers stay whole: they are exact up to the largest.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Value {
    /// An amount or a number.
    Whole(u64),
    /// A share, a ratio, a rate or a time in parts.
    Fraction(f64),
}

impl Value {
    /// The nearest floating-point number.
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Whole(value) => value as f64,
            Self::Fraction(value) => value,
        }
    }

    fn rounded(self) -> u64 {
        match self {
            Self::Whole(value) => value,
            Self::Fraction(value) => value.round() as u64,
        }
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Fraction(value)
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => value.fmt(f),
            Self::Fraction(value) => value.fmt(f),
        }
    }
}

/// A gain or loss per second as text: `+3.2 MiB/s`; empty if nothing changes.
pub fn growth(bytes_per_second: f64) -> String {
    let amount = bytes(bytes_per_second.abs().round() as u64);
    match bytes_per_second {
        gained if gained > 0.0 => format!("+{amount}/s"),
        lost if lost < 0.0 => format!("-{amount}/s"),
        _ => String::new(),
    }
}

/// Bytes in binary units with one decimal: `512 B`, `4.0 KiB`, `1.3 GiB`.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = 0;
    // At most nine characters, so that columns of ten stay apart.
    while scaled >= 999.95 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// Bytes in binary units in five characters at most, for tables that have no room: `512`, `4.0K`, `252M`,
/// `38.8G`.
pub fn short_bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["K", "M", "G", "T", "P"];
    if value < 1000 {
        return value.to_string();
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    // MiB and below have noise behind the point, GiB have not.
    let decimals = usize::from(scaled < 9.95 || unit >= 2 && scaled < 99.95);
    format!("{scaled:.decimals$}{}", UNITS[unit])
}

/// A count with one decimal from ten thousand on: `9999`, `12.3k`, `4.5M`.
pub fn count(value: u64) -> String {
    match value {
        0..10_000 => value.to_string(),
        10_000..999_950 => format!("{:.1}k", value as f64 / 1e3),
        999_950..999_950_000 => format!("{:.1}M", value as f64 / 1e6),
        _ => format!("{:.1}G", value as f64 / 1e9),
    }
}

/// A time: `870 ns`, `12.3 µs`, `4.5 ms`, `1.2 s`, `3.4 min`, `2.1 h`.
pub fn nanoseconds(value: u64) -> String {
    let ns = value as f64;
    match value {
        0..1_000 => format!("{value} ns"),
        1_000..999_950 => format!("{:.1} µs", ns / 1e3),
        999_950..999_950_000 => format!("{:.1} ms", ns / 1e6),
        999_950_000..120_000_000_000 => format!("{:.1} s", ns / 1e9),
        120_000_000_000..7_200_000_000_000 => format!("{:.1} min", ns / 60e9),
        _ => format!("{:.1} h", ns / 3_600e9),
    }
}

/// Nanoseconds since 1970 as the time of day in UTC: `03:04:05`.
pub fn time_of_day(time_ns: u64) -> String {
    let seconds = time_ns / 1_000_000_000;
    let (minutes, hours) = (seconds / 60 % 60, seconds / 3600 % 24);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

/// A count with its noun: `1 event`, `12.3k events`.
pub fn counted(value: u64, one: &str) -> String {
    match value {
        1 => format!("1 {one}"),
        _ => format!("{} {one}s", count(value)),
    }
}

/// `part` of `whole` in percent with one decimal; `-` if the whole is 0.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".into();
    }
    format!("{:.1} %", part as f64 * 100.0 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!(counted(1, "event"), "1 event");
        assert_eq!(counted(0, "event"), "0 events");
        assert_eq!(counted(12_300, "event"), "12.3k events");
    }

    #[test]
    fn numbers_change_unit_before_they_grow_wide() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        for (value, shown) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.0K"),
            (1 << 20, "1.0M"),
            (252 << 20, "252M"),
            (1023 << 20, "1.0G"),
            ((38 << 30) + (820 << 20), "38.8G"),
            (500 << 30, "500G"),
            (u64::MAX, "16384P"),
        ] {
            assert_eq!(short_bytes(value), shown);
        }
        assert_eq!(count(9_999), "9999");
        assert_eq!(count(999_949), "999.9k");
        assert_eq!(count(999_950), "1.0M");
        assert_eq!(nanoseconds(999), "999 ns");
        assert_eq!(nanoseconds(1_500_000), "1.5 ms");
        assert_eq!(time_of_day(1_767_323_045_678_000_000), "03:04:05");
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(1, 0), "-");
    }
}
