//! Containers that become longer and shorter in turn: what they have more at a second look is mostly no growth.

use super::counterparts::counterparts;
use super::passing::own;
use super::{Clock, HolderGrowth};
use crate::objects::census::{Census, Holder};
use crate::objects::lengths::Course;

/// Items by which a container differs at two looks, so that its bytes show what one of them takes.
const LEAST_ITEMS: u64 = 16;

/// The growth of a holder that becomes longer below a swing, by what stays in it: two looks meet it anywhere in the swing.
pub(super) fn without_swing(
    of: HolderGrowth,
    was: Option<&Holder>,
    now: &Holder,
    clock: Clock,
) -> HolderGrowth {
    let (Some(course), Some(pace)) = (of.course, of.pace) else {
        return of;
    };
    let is_rough = course == Course::RisesBelow || course == Course::Rises && pace.swing > 0.0;
    let Some(each) = bytes_of_one(&of, was, now, clock).filter(|_| is_rough) else {
        return of;
    };
    let bytes = pace.middle() * each;
    HolderGrowth {
        swing_bytes: of.bytes - bytes,
        bytes,
        items: of.items.map(|_| pace.middle()),
        has_more: true,
        ..of
    }
}

/// What one item takes with all below: by all that the container has, or, where the holder has other things as well, by what two
/// looks differ.
fn bytes_of_one(
    of: &HolderGrowth,
    was: Option<&Holder>,
    now: &Holder,
    clock: Clock,
) -> Option<f64> {
    // The path is that of one of several calls.
    if now.calls.count > 1 {
        return None;
    }
    let (bytes, path) = match of.branch {
        Some(branch) => {
            let branch = now.branches.get(branch)?;
            (branch.retained_bytes, &branch.path)
        }
        None => (now.retained_bytes, &now.path),
    };
    let length = path.last()?.length.filter(|length| *length > 0)?;
    // A name that refers to the container has nothing else; a table is enlarged at one of two looks.
    let is_all = of.branch.is_some() || path.len() == 1;
    let before = was
        .filter(|_| !is_all)
        .and_then(|was| was.path.last()?.length);
    let between = before.and_then(|before| {
        let items = length.abs_diff(before);
        let is_many = items >= LEAST_ITEMS && items >= length.max(before) / 8;
        let gained = clock.gained(before, length);
        is_many
            .then(|| of.bytes / gained)
            .filter(|each| *each > 0.0)
    });
    Some(between.unwrap_or(bytes as f64 / length as f64))
}

/// What a container loses at once, in bytes, by what one of its items takes.
pub(crate) fn swing_of(of: &HolderGrowth, now: &Holder) -> Option<f64> {
    let each = bytes_of_one(of, None, now, Clock { seconds: 1.0 })?;
    Some(of.pace?.swing * each)
}

/// Bytes that what becomes longer and shorter in turn has more in the later census than in the earlier one, without what
/// stays of it.
pub(super) fn swung(earlier: &Census, later: &Census, grown: &[HolderGrowth]) -> f64 {
    let seconds = later.taken_at_ns.saturating_sub(earlier.taken_at_ns) as f64 / 1e9;
    let before = counterparts(&earlier.holders, &later.holders);
    let swings = grown.iter().filter_map(|of| {
        let now = later.holders.get(of.holder)?;
        let is_all = of.course.is_some_and(Course::is_up_and_down);
        Some(match is_all {
            true => own(now) - before.get(of.holder)?.map_or(0.0, own),
            false => of.swing_bytes * seconds,
        })
    });
    swings.sum()
}
