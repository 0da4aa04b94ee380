//! Matches a holder with the same holder in an earlier census.
//!
//! Names of variables come and go with the functions that run, so a thing shared by several names
//! is shared by other names the next time. A holder that has at least one name in common is still
//! the same holder, not a new one.

use hashbrown::HashMap;

use crate::objects::census::{Holder, NameKind};

/// For each holder, the same holder in the earlier census, if it was there.
pub(super) fn counterparts<'a>(earlier: &'a [Holder], later: &[Holder]) -> Vec<Option<&'a Holder>> {
    // Variables of a function that runs in several threads have one name: the largest with the largest.
    let mut before: HashMap<Vec<&str>, Vec<usize>> = HashMap::new();
    for (at, holder) in earlier.iter().enumerate().rev() {
        before.entry(holder.names()).or_default().push(at);
    }
    let mut left: Vec<Option<&Holder>> = earlier.iter().map(Some).collect();
    let mut found: Vec<Option<&Holder>> = later
        .iter()
        .map(|holder| {
            let at = before.get_mut(&holder.names()).and_then(Vec::pop)?;
            left[at].take()
        })
        .collect();
    // A permanent name in the program is stronger evidence than a variable, which may refer to
    // something else by now.
    for is_sign in [is_lasting, |_: NameKind| true] {
        for (holder, found) in later.iter().zip(&mut found) {
            if found.is_none() {
                *found = take_nearest(&mut left, holder, is_sign);
            }
        }
    }
    found
}

/// Whether a name is not a variable of a function.
pub(super) fn is_lasting(kind: NameKind) -> bool {
    kind != NameKind::Variable
}

/// Of the remaining holders with one of its names, the one whose size is closest.
fn take_nearest<'a>(
    left: &mut [Option<&'a Holder>],
    holder: &Holder,
    is_sign: fn(NameKind) -> bool,
) -> Option<&'a Holder> {
    let names = holder.names();
    let is_same = |other: &Holder| {
        let mut others = other.names_with_kinds();
        others.any(|(name, kind)| is_sign(kind) && names.binary_search(&name).is_ok())
    };
    let distance = |other: &Holder| other.retained_bytes.abs_diff(holder.retained_bytes);
    let same = left.iter_mut().filter(|one| one.is_some_and(is_same));
    same.min_by_key(|one| one.map(distance))?.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(names: &[&str], retained_bytes: u64) -> Holder {
        let (name, shared_with) = names.split_first().expect("a name");
        Holder {
            name: (*name).into(),
            shared_with: shared_with.iter().map(|name| (*name).into()).collect(),
            retained_bytes,
            ..Holder::default()
        }
        .with_kinds()
    }

    fn bytes(earlier: &[Holder], later: &[Holder]) -> Vec<Option<u64>> {
        let all = counterparts(earlier, later).into_iter();
        all.map(|was| was.map(|was| was.retained_bytes)).collect()
    }

    #[test]
    fn what_running_functions_refer_to_as_well_is_what_it_was() {
        let earlier = [
            holder(&["m.CACHE", "m.handle(): store"], 900),
            holder(&["m.LEAK"], 40),
            holder(&["m.serve(): hub"], 30),
        ];
        let later = [
            holder(&["m.CACHE", "m.lookup(): cache"], 900),
            holder(&["m.LEAK", "m.handle(): all"], 60),
            holder(&["m.Hub.feed(): self", "m.serve(): hub"], 31),
            holder(&["m.NEW"], 20),
        ];
        assert_eq!(
            bytes(&earlier, &later),
            [Some(900), Some(40), Some(30), None]
        );
        assert_eq!(bytes(&later, &earlier), [Some(900), Some(60), Some(31)]);
    }

    #[test]
    fn a_variable_that_refers_to_something_else_now_is_no_better_sign_than_a_name_that_lasts() {
        let earlier = [holder(&["m.A", "m.run(): all"], 500), holder(&["m.B"], 100)];
        let later = [holder(&["m.B", "m.run(): all"], 510), holder(&["m.A"], 90)];
        assert_eq!(bytes(&earlier, &later), [Some(100), Some(500)]);
    }

    #[test]
    fn of_variables_of_one_name_the_largest_is_the_largest() {
        let name: &[&str] = &["m.run(): rows"];
        let earlier = [holder(name, 70), holder(name, 50)];
        let later = [holder(name, 80), holder(name, 55), holder(name, 9)];
        assert_eq!(bytes(&earlier, &later), [Some(70), Some(50), None]);
    }
}
