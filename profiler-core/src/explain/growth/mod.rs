//! Answers the first question about a process that has become large: does it grow, and what makes
//! it grow?

mod cause;
mod gains;
mod growing;
mod grows;
mod lately;
mod memory;
mod other_memory;
mod steady;
mod words;

use self::growing::Growing;
pub use self::growing::GrowsBy;
pub(super) use self::growing::grows_by;
use self::grows::{live_grows, rest_grows};
use self::lately::lately;
pub(super) use self::memory::memory_between;
use self::other_memory::twice;
use self::steady::still;
pub(crate) use self::words::LEAK;
use self::words::rate;
use crate::report::FragReport;
use crate::sample::Halted;

/// The first sentences of the verdict, if two censuses were taken.
pub(crate) fn answer(report: &FragReport) -> Option<String> {
    let lately = || lately(report, report.trend.as_ref()?);
    let (Some(census), Some(growth)) = (report.objects.as_deref(), &report.growth) else {
        return lately();
    };
    let memory = report.memory_growth.as_ref();
    let growing = Growing::of(growth, memory, census);
    // What does not run cannot grow, and would be said not to.
    if let Some(halted) = report.target.halted
        && growing.live == 0.0
        && growing.rest == 0.0
    {
        return Some(stands(halted));
    }
    let Some(memory) = memory else {
        return Some(match growing.live > 0.0 {
            true => live_grows(report, census, growth, &growing),
            false => lately().unwrap_or_else(|| still(report, census, growth, &growing)),
        });
    };
    let mut answer = if growing.rest > 0.0 {
        rest_grows(report, census, growth, &growing, memory)
    } else if growing.live > 0.0 {
        live_grows(report, census, growth, &growing)
    } else if growing.unclear > 0.0 {
        String::new()
    } else {
        // What two walks show covers the same time as a single observation; a session has continued
        // since.
        let since = lately().filter(|_| memory.classes.is_empty());
        since.unwrap_or_else(|| still(report, census, growth, &growing))
    };
    if growing.unclear > 0.0 {
        let between = if answer.is_empty() { "" } else { " " };
        answer += between;
        answer += &twice(growth, &growing, memory);
    }
    if memory.swapped_in_bytes >= memory.least_bytes {
        let back = rate(memory.swapped_in_bytes);
        answer += &format!(" {back} came back from swap meanwhile, which is no growth.");
    }
    Some(answer)
}

/// Of a process none of whose threads runs.
fn stands(halted: Halted) -> String {
    format!(
        "{}: none of its threads runs, so that whether it grows cannot be told. {} and look again.",
        halted.words(),
        halted.remedy()
    )
}

#[cfg(test)]
mod tests;
