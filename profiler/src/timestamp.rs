//! Times as written in files and for people. All are UTC.

use std::time::Duration;

use jiff::Timestamp;

/// A moment, or the epoch if it is beyond the year 9999.
fn timestamp(time_ns: u64) -> Timestamp {
    Timestamp::UNIX_EPOCH
        .checked_add(Duration::from_nanos(time_ns))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Nanoseconds since 1970 as RFC 3339 in UTC, to the millisecond.
pub(crate) fn rfc3339(time_ns: u64) -> String {
    format!("{:.3}", timestamp(time_ns))
}

/// Nanoseconds since 1970 for people: `2026-09-10 03:04:05 UTC`.
pub(crate) fn date_and_time(time_ns: u64) -> String {
    timestamp(time_ns)
        .strftime("%Y-%m-%d %H:%M:%S UTC")
        .to_string()
}

/// The time of a day: `03:04:05`.
pub(crate) fn time_of_day(time_ns: u64) -> String {
    timestamp(time_ns).strftime("%H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_its_date() {
        let ns = 1_789_009_445_678_000_000;
        assert_eq!(rfc3339(ns), "2026-09-10T03:04:05.678Z");
        assert_eq!(date_and_time(ns), "2026-09-10 03:04:05 UTC");
        assert_eq!(date_and_time(u64::MAX), "2554-07-21 23:34:33 UTC");
    }
}
