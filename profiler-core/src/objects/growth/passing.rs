//! What running functions have in hand: it comes and goes with their calls, so that two looks at it show two moments of
//! work, and no growth.

use super::counterparts::{counterparts, is_lasting};
use crate::objects::census::Holder;
use crate::objects::names::Root;

/// Whether a holder is what a running function has in hand: without a name in the program, as on its stacks, or in a variable
/// that refers to another object than it did before, if it was there before. A variable that still refers to the same object, as of a function that
/// runs for as long as the program, is a name like any other.
pub(super) fn is_passing(was: Option<&Holder>, now: &Holder) -> bool {
    if !now.is_name {
        return now.name != Root::Tracing.name();
    }
    let is_variable = !now.names().into_iter().any(is_lasting);
    // Of files of before objects were recorded nothing is known.
    let is_known = now.object.is_some() && was.is_none_or(|was| was.object.is_some());
    is_variable && is_known && was.is_none_or(|was| was.object != now.object)
}

/// Bytes that running functions have in hand in the later census more than in the earlier one.
pub(super) fn gained(earlier: &[Holder], later: &[Holder]) -> f64 {
    // What other holders within it have is theirs.
    let own = |of: &Holder| {
        of.retained_bytes
            .saturating_sub(of.inner_bytes.unwrap_or(0)) as f64
    };
    let came = later.iter().zip(counterparts(earlier, later));
    let came = came.filter(|(now, was)| is_passing(*was, now));
    let came: f64 = came.map(|(now, was)| own(now) - was.map_or(0.0, own)).sum();
    let went = earlier.iter().zip(counterparts(later, earlier));
    let went = went.filter(|(was, now)| now.is_none() && is_passing(None, was));
    came - went.map(|(was, _)| own(was)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::RemoteAddr;

    fn holder(name: &str, object: u64, retained_bytes: u64) -> Holder {
        Holder {
            name: name.into(),
            is_name: !name.starts_with('('),
            object: Some(RemoteAddr::new(object)),
            retained_bytes,
            ..Holder::default()
        }
    }

    #[test]
    fn variables_of_calls_pass_and_those_of_a_function_that_runs_on_do_not() {
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
        assert!(is_passing(Some(&before[0]), &now[0]));
        assert!(!is_passing(Some(&before[1]), &now[1]));
        assert!(!is_passing(None, &now[2]), "a name that lasts");
        assert!(is_passing(None, &now[3]));
        assert_eq!(gained(&before, &now), 200.0 + 60.0);
        assert_eq!(gained(&now, &before), -260.0);
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

    #[test]
    fn of_files_without_objects_nothing_passes() {
        let unknown = Holder {
            object: None,
            ..holder("m.handle(): doc", 0, 500)
        };
        assert!(!is_passing(None, &unknown));
        assert!(!is_passing(
            Some(&unknown),
            &holder("m.handle(): doc", 0x1000, 500)
        ));
    }
}
