//! Recent growth, by the kernel's counts and the walks, before Python's objects were read twice.

use super::words::rate;
use crate::report::{FragReport, ToCome};
use crate::trend::{Grows, Trend};

/// Growth by the kernel's counts and the walks, before its holder is known; `None` if nothing
/// grows.
pub(super) fn lately(report: &FragReport, trend: &Trend) -> Option<String> {
    let grows = trend.grows?;
    let speed = format!("Growing {}/s", rate(trend.rss.bytes_per_second));
    let whose = match (report.target.is_python(), report.to_come, &report.objects) {
        (false, ..) => "`fragscope attach`, screen Sites, shows who asks for it",
        (true, ToCome::Objects, None) => {
            "what holds it will be known once its objects have been read twice"
        }
        (true, ToCome::Objects, Some(_)) => {
            "what holds it will be known once its objects have been read again"
        }
        (true, _, _) if report.growth.is_some() => "its objects do not show what holds it",
        (true, _, _) => "what holds it is not known, because its objects were not read twice",
    };
    Some(match grows {
        Grows::InUse => format!("{speed}: memory in use grows; {whose}."),
        Grows::Elsewhere => format!(
            "{speed}. Live blocks in the walked heaps account for {}/s of that; the rest is free memory in these \
             heaps, or memory outside of them.",
            rate(trend.live_bytes_per_second.unwrap_or(0.0))
        ),
        Grows::NotKnown if report.to_come == ToCome::Nothing => {
            format!("{speed}. One walk cannot show whether that is memory in use.")
        }
        Grows::NotKnown => {
            format!("{speed}. Whether that is memory in use will be known after the next walk.")
        }
    })
}
