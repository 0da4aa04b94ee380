//! Decides which process is walked next.

/// A process weighs as much as its growth would make resident after this many seconds.
const AHEAD_SECONDS: f64 = 600.0;
/// The least weight, in bytes: the smallest gets a turn, too.
const LEAST_WEIGHT: f64 = (1 << 20) as f64;
/// A process whose memory control group is near its limit weighs this many times as much: its
/// memory must be known before the kernel kills it.
const NEAR_LIMIT: f64 = 8.0;

/// The weight of a process, in bytes, from its resident bytes and their growth in bytes per second.
pub(super) fn weight(rss_bytes: u64, growth: Option<f64>) -> f64 {
    rss_bytes as f64 + growth.unwrap_or(0.0).max(0.0) * AHEAD_SECONDS
}

/// How urgent the walk of a process is: the largest value is next. Processes that were never walked
/// come first, the largest and fastest growing before the others. Then each gets its turn by its
/// weight and the time since its last walk. A process that could not be walked comes after those
/// that were not tried.
pub(super) fn urgency(turn: &Turn) -> (bool, u64) {
    let weight = weight(turn.rss_bytes, turn.growth);
    let weight = weight.max(LEAST_WEIGHT) * if turn.is_near_limit { NEAR_LIMIT } else { 1.0 };
    match turn.walk_age_ns {
        None if !turn.was_tried => (true, weight as u64),
        age => (false, (weight * age.unwrap_or(0) as f64 / 1e9) as u64),
    }
}

/// What decides a process's turn.
pub(super) struct Turn {
    pub(super) rss_bytes: u64,
    /// In bytes a second.
    pub(super) growth: Option<f64>,
    /// Time since its last walk; `None` if it was not walked yet.
    pub(super) walk_age_ns: Option<u64>,
    /// Whether its memory control group is near its limit.
    pub(super) is_near_limit: bool,
    /// Whether a walk has been tried and failed since.
    pub(super) was_tried: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_near_a_limit_is_walked_sooner_and_the_others_all_the_same() {
        let at = |rss_bytes: u64, walk_age_ns: Option<u64>, is_near_limit| {
            let (growth, was_tried) = (None, false);
            urgency(&Turn {
                rss_bytes,
                growth,
                walk_age_ns,
                is_near_limit,
                was_tried,
            })
        };
        let minute = Some(60_000_000_000);
        let far = at(100 << 20, minute, false);
        assert!(at(100 << 20, minute, true) > far);
        assert!(at(20 << 20, minute, true) > far);
        assert!(at(5 << 20, minute, true) < far);
        // After a while, the others get their turn.
        assert!(
            at(100 << 20, Some(10_000_000_000), true) < at(100 << 20, Some(90_000_000_000), false)
        );
        // A process that was never walked still comes first.
        assert!(at(1 << 20, None, false) > at(1 << 30, minute, true));
    }
}
