//! The processes that descend from one.

use std::collections::{BTreeMap, BTreeSet};

use profiler_core::host::ProcessId;
use profiler_target::Listed;

/// The process with this number and those that descend from it. One that is older than its parent descends
/// from an earlier process of that number.
pub(super) fn tree_of(master: i32, mut processes: Vec<Listed>) -> Vec<Listed> {
    let family = processes.iter().map(|one| (one.id, one.parent));
    let tree = descendants(master, family);
    processes.retain(|one| tree.contains(&one.id.pid));
    processes.sort_by_key(|one| one.id.pid);
    processes
}

/// The numbers in the tree below this one, itself included, among processes with their parents in any order:
/// neither numbers, which begin anew, nor the clock, which has 100 ticks a second, order parents before children.
fn descendants(master: i32, family: impl Iterator<Item = (ProcessId, i32)>) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<ProcessId>> = BTreeMap::new();
    let mut began_ticks = 0;
    for (id, parent) in family {
        if id.pid == master {
            began_ticks = id.began_ticks;
        }
        children.entry(parent).or_default().push(id);
    }
    let mut tree = BTreeSet::from([master]);
    let mut to_look_below = vec![(master, began_ticks)];
    while let Some((parent, began_ticks)) = to_look_below.pop() {
        let below = children.remove(&parent).unwrap_or_default().into_iter();
        for child in below.filter(|child| child.began_ticks >= began_ticks) {
            if tree.insert(child.pid) {
                to_look_below.push((child.pid, child.began_ticks));
            }
        }
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_of_the_same_tick_belongs_to_its_parent_whichever_number_it_has() {
        let id = |pid, began_ticks| ProcessId {
            pid,
            began_ticks,
            ..ProcessId::default()
        };
        // The numbers began anew within the tick 70: 40, 30 and 20 are the child, grandchild and so on of 50.
        let mut family = vec![
            (id(1, 0), 0),
            (id(20, 70), 30),
            (id(30, 70), 40),
            (id(40, 70), 50),
            (id(50, 70), 1),
            (id(60, 71), 20),
            // Of an earlier process that was 50, and of none of the tree.
            (id(5, 69), 50),
            (id(6, 80), 5),
            (id(7, 90), 1),
        ];
        let tree = BTreeSet::from([20, 30, 40, 50, 60]);
        assert_eq!(descendants(50, family.iter().copied()), tree);
        family.reverse();
        assert_eq!(descendants(50, family.into_iter()), tree);
    }
}
