//! What the children of an inspected process hold: the children of a prefork master do the work.

use profiler_core::units::bytes;
use profiler_target::{Listed, list};

use crate::hints::tree_of;

/// Processes that are listed at most.
const MOST_LISTED: usize = 65_536;

/// What those children of a process hold that run the same program, if it is more than the process
/// has itself, and the command that shows them.
pub(super) fn of(pid: i32) -> Option<String> {
    let processes = list(MOST_LISTED).ok()?.processes;
    let own = processes.iter().find(|one| one.id.pid == pid)?;
    let is_forked = |one: &&Listed| {
        one.parent == pid
            && one.id.program == own.id.program
            && one.id.began_ticks >= own.id.began_ticks
    };
    let children: Vec<u64> = processes
        .iter()
        .filter(is_forked)
        .filter_map(|one| Some(one.quick_memory()?.rss_bytes))
        .collect();
    let sum = children
        .iter()
        .fold(0, |sum: u64, rss| sum.saturating_add(*rss));
    let own = own.quick_memory()?.rss_bytes;
    sentence(pid, own, children.len(), sum)
}

fn sentence(pid: i32, own: u64, children: usize, sum: u64) -> Option<String> {
    let who = match children {
        0 => return None,
        1 => "1 child of its own program has".to_owned(),
        some => format!("{some} children of its own program have"),
    };
    (sum > own).then(|| {
        format!(
            "{who} an RSS of {} together, itself {}: {}",
            bytes(sum),
            bytes(own),
            tree_of(pid)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_that_hold_more_than_their_master_are_named_with_the_command() {
        let said = sentence(7, 10 << 20, 4, 80 << 20).expect("they hold more");
        assert_eq!(
            said,
            "4 children of its own program have an RSS of 80.0 MiB together, itself 10.0 MiB: fragscope attach --tree \
             --pid 7 shows them"
        );
        assert_eq!(sentence(7, 10 << 20, 1, 5 << 20), None);
        assert_eq!(sentence(7, 10 << 20, 0, 0), None);
    }
}
