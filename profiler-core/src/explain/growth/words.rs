//! Phrases shared by several sentences about growth.

use crate::explain::prose::fragmentation;
use crate::objects::{Branch, Course, Growth, Holder, HolderGrowth, Rate};
use crate::report::FragReport;
use crate::units::{bytes, count, percent};
use crate::worth::MUCH_FREE;

/// Possible reasons why a name gains.
pub(crate) const LEAK: &str = "a leak, or a cache without a bound or not yet full";

/// How much of a fragmented process is fragmentation.
pub(super) fn fragmented(report: &FragReport) -> Option<String> {
    let (free, rss) = (fragmentation(report), report.kernel.rss_bytes);
    (free as f64 > rss as f64 * MUCH_FREE).then(|| {
        let name = report.kernel.name();
        format!("{} ({} of {name})", bytes(free), percent(free, rss))
    })
}

/// The place at which a holder grows.
pub(super) struct Place<'a> {
    pub(super) item_type: Option<&'a str>,
    /// The branch, if that is not what the holder's path leads to.
    branch: Option<&'a Branch>,
}

impl<'a> Place<'a> {
    pub(super) fn of(of: &HolderGrowth, holder: &'a Holder, growth: &Growth) -> Self {
        let branch = growth.branch_of(of.holder, holder);
        let item_type = branch.map_or(&holder.item_type, |branch| &branch.item_type);
        Self {
            item_type: item_type.as_deref(),
            branch,
        }
    }

    /// The container on a branch.
    fn container(&self) -> String {
        let last = self.branch.and_then(|branch| branch.path.last());
        last.map_or_else(String::new, |last| format!(" in {}", last.text()))
    }
}

/// A holder's gain per second, and the container that gains if it is not the largest. Bytes are
/// limited to `most`, the total gain: a block that was being copied during an observation is not
/// growth of its holder.
pub(super) fn gains(of: &HolderGrowth, holder: &Holder, growth: &Growth, most: f64) -> String {
    let place = Place::of(of, holder, growth);
    let item = place.item_type;
    let objects = of.items.or_else(|| {
        let Rate { blocks, .. } = growth.of_type(item?);
        Some(blocks)
    });
    let is_drawn = of.course.is_some_and(Course::rises) && holder.calls.count == 1;
    let pace = of.pace.filter(|_| is_drawn);
    let below = pace.filter(|_| of.course == Some(Course::RisesBelow));
    let below = below.map_or_else(String::new, |pace| {
        format!(" below a swing of {}", whole(pace.swing))
    });
    match (objects.filter(|objects| *objects >= 1.0), item) {
        (Some(objects), Some(item)) => {
            let many = match pace.filter(|pace| !pace.is_one()) {
                Some(pace) => format!("between {} and {}", whole(pace.least), whole(pace.most)),
                None => whole(objects),
            };
            format!("{many} `{item}` a second{}{below}", place.container())
        }
        _ => format!("{} a second{}", rate(of.bytes.min(most)), place.container()),
    }
}

fn whole(items: f64) -> String {
    count(items.max(0.0).round() as u64)
}

pub(super) fn rate(of: f64) -> String {
    bytes(of.max(0.0).round() as u64)
}
