//! Whose turn it is to be walked.

use super::ProcessRow;

/// A process weighs as much as it will be resident after so many seconds of its growth.
const AHEAD_SECONDS: f64 = 600.0;
/// The least weight, in bytes: the smallest gets a turn, too.
const LEAST_WEIGHT: f64 = (1 << 20) as f64;

/// How urgent the walk of a process is: the largest is the next. Those that were never walked come first,
/// the fattest and the fastest growing of them before the others; then each in turn, by its weight and
/// by the time since its last walk. One that could not be walked waits behind those that were not tried.
pub(super) fn urgency(row: &ProcessRow, tried: bool) -> (bool, u64) {
    let growth = row.growth.unwrap_or(0.0).max(0.0);
    let weight = row.process.memory.rss_bytes as f64 + growth * AHEAD_SECONDS;
    let weight = weight.max(LEAST_WEIGHT);
    match row.walk_age_ns {
        None if !tried => (true, weight as u64),
        age => (false, (weight * age.unwrap_or(0) as f64 / 1e9) as u64),
    }
}
