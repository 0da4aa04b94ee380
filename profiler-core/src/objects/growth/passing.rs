//! Data held by running functions. It comes and goes with their calls, so a difference between two
//! observations of it is work in progress, not growth.

use super::HolderGrowth;
use super::counterparts::{counterparts, is_lasting};
use crate::objects::census::{Census, Holder};
use crate::objects::lengths::Course;
use crate::objects::names::Root;

/// Whether a holder is temporary data of a running function: without a name in the program, as on
/// the function's stack, or only in variables of functions.
pub(super) fn is_passing(holder: &Holder) -> bool {
    match holder.is_name {
        true => !holder.names_with_kinds().any(|(_, kind)| is_lasting(kind)),
        false => holder.name != Root::Tracing.name(),
    }
}

/// Whether it refers to the same object as before, by the address. For objects that are constantly
/// created and freed, another one may have that address by now.
pub(super) fn is_same(was: &Holder, now: &Holder) -> bool {
    now.object.is_some() && was.object == now.object
}

/// Bytes that running functions have in hand in the later census more than in the earlier one, but for what is known to stay
/// or to swing.
pub(super) fn gained(earlier: &Census, later: &Census, grown: &[HolderGrowth]) -> f64 {
    let is_known = |at: usize| {
        let mut grown = grown.iter();
        let of = grown.find(|of| of.holder == at);
        of.is_some_and(|of| of.counts(false) || of.course.is_some_and(Course::is_up_and_down))
    };
    let (earlier, later) = (&earlier.holders, &later.holders);
    let came = later.iter().zip(counterparts(earlier, later)).enumerate();
    let came = came.filter(|(at, (now, _))| is_passing(now) && !is_known(*at));
    let came: f64 = came
        .map(|(_, (now, was))| own(now) - was.map_or(0.0, own))
        .sum();
    let went = earlier.iter().zip(counterparts(later, earlier));
    let went = went.filter(|(was, now)| now.is_none() && is_passing(was));
    came - went.map(|(was, _)| own(was)).sum::<f64>()
}

/// What a holder has, but for that of other holders within it, which is theirs.
pub(super) fn own(of: &Holder) -> f64 {
    of.retained_bytes
        .saturating_sub(of.inner_bytes.unwrap_or(0)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::RemoteAddr;

    /// What is in hand more, where nothing was counted in between.
    fn gained(earlier: &[Holder], later: &[Holder]) -> f64 {
        let [earlier, later] = [earlier, later].map(|holders| Census {
            holders: holders.to_vec(),
            ..Census::default()
        });
        super::gained(&earlier, &later, &[])
    }

    fn holder(name: &str, object: u64, retained_bytes: u64) -> Holder {
        Holder {
            name: name.into(),
            is_name: !name.starts_with('('),
            object: Some(RemoteAddr::new(object)),
            retained_bytes,
            ..Holder::default()
        }
        .with_kinds()
    }

    #[test]
    fn what_has_no_name_that_lasts_is_in_hand() {
        let before = [
            holder("m.handle(): doc", 0x1000, 500),
            holder("m.main(): rows", 0x2000, 900),
        ];
        let now = [
            holder("m.handle(): doc", 0x3000, 700),
            holder("m.main(): rows", 0x2000, 950),
            holder("m.CACHE", 0x4000, 40),
            holder("(running frames)", 0, 60),
        ];
        let passing: Vec<bool> = now.iter().map(is_passing).collect();
        assert_eq!(passing, [true, true, false, true]);
        assert!(!is_same(&before[0], &now[0]));
        assert!(is_same(&before[1], &now[1]), "of a function that runs on");
        assert_eq!(gained(&before, &now), 200.0 + 50.0 + 60.0);
        assert_eq!(gained(&now, &before), -310.0);
        assert_eq!(gained(&before[..1], &[]), -500.0, "the call has returned");
    }

    #[test]
    fn what_lies_within_another_row_is_counted_once() {
        let outer = Holder {
            inner_bytes: Some(300),
            ..holder("m.handle(): doc", 0x1000, 500)
        };
        let inner = holder("m.parse(): part", 0x1100, 300);
        assert_eq!(gained(&[], &[outer, inner]), 500.0);
    }
}
