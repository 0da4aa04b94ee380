//! A master and its descendants as one unit, in which shared pages count once.

use std::collections::BTreeMap;

use super::{HostView, ProcessRow, ProcessSample, Totals, TreeHistory, TreeObjects, command};
use crate::units::bytes;
use crate::worth;

/// First findings that are named at most.
const MAX_NAMED: usize = 4;

/// The criterion by which a process is the worst of its tree.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Worst {
    Fragmentation,
    Growth,
    Copies,
}

/// A tree and what can be said about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TreeView {
    /// The master's pid.
    pub master: i32,
    /// Its processes, and the cost of observing them.
    pub processes: HostView,
    /// Data about Python objects; `None` if that was not requested.
    pub objects: Option<TreeObjects>,
}

/// Sums of a tree, in bytes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct TreeSums {
    /// The kernel's figures.
    pub totals: Totals,
    /// Resident heap bytes that hold nothing live. For a child only those on pages of its own: what
    /// it shares counts in the master. `None` if nothing was walked.
    pub fragmentation_bytes: Option<u64>,
    /// The PSS of processes whose heaps were not walked, which [`Self::fragmentation_bytes`] does
    /// not include.
    pub not_walked_bytes: u64,
    /// What children have copied since they were forked, at most; `None` if no child could be
    /// compared with its parent.
    pub copied_bytes: Option<u64>,
    /// The most that one child still shares with its parent.
    pub most_shared_bytes: u64,
}

impl TreeView {
    /// Its sums.
    pub fn sums(&self) -> TreeSums {
        let walked = || {
            self.processes
                .rows
                .iter()
                .filter_map(|row| row.walk.as_ref())
        };
        let forks = || walked().filter_map(|walk| walk.fork);
        let free = self.processes.rows.iter();
        let (_, not_walked): (Vec<_>, Vec<_>) = self
            .processes
            .rows
            .iter()
            .partition(|row| self.own_fragmentation(row).is_some());
        TreeSums {
            totals: Totals::of(self.processes.rows.iter()),
            fragmentation_bytes: free
                .filter_map(|row| self.own_fragmentation(row))
                .reduce(u64::saturating_add),
            not_walked_bytes: Totals::of(not_walked.into_iter()).pss_bytes,
            copied_bytes: forks()
                .map(|fork| fork.copied_bytes)
                .reduce(u64::saturating_add),
            most_shared_bytes: forks().map(|fork| fork.shared_bytes).max().unwrap_or(0),
        }
    }

    /// The process with the most fragmentation on its own pages; if that is small in all of them,
    /// the one that grows fastest, or else the one with the most copies, if these are more. Among
    /// several the largest.
    pub fn worst(&self) -> Option<&ProcessRow> {
        self.worst_by().map(|(row, ..)| row)
    }

    /// The same, with its bytes and the criterion.
    fn worst_by(&self) -> Option<(&ProcessRow, u64, Worst)> {
        let most = |bytes: &dyn Fn(&ProcessRow) -> Option<u64>| {
            let rows = self.processes.rows.iter();
            let known = rows.filter_map(|row| Some((bytes(row)?, row)));
            known.max_by_key(|(bytes, row)| (*bytes, row.process.memory.rss_bytes))
        };
        let (free, worst) = most(&|row| self.own_fragmentation(row))?;
        let is_little = |of: u64, row: &ProcessRow| {
            (of as f64) < row.process.memory.rss_bytes as f64 * worth::OF_RSS.share()
        };
        if is_little(free, worst) {
            let fastest = self.objects.as_ref().and_then(TreeObjects::fastest);
            let row = fastest.and_then(|(id, rate)| {
                let mut rows = self.processes.rows.iter();
                Some((rows.find(|row| row.process.id == id)?, rate))
            });
            if let Some((row, rate)) = row.or_else(|| self.fastest()) {
                return Some((row, rate as u64, Worst::Growth));
            }
            let copied = most(&|row| Some(row.walk.as_ref()?.fork?.copied_bytes));
            if let Some((copied, row)) = copied.filter(|(copied, row)| !is_little(*copied, row)) {
                return Some((row, copied, Worst::Copies));
            }
        }
        Some((worst, free, Worst::Fragmentation))
    }

    /// The process whose RSS grows fastest, and its growth in bytes per second.
    fn fastest(&self) -> Option<(&ProcessRow, f64)> {
        let growing = self.growing();
        growing.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The processes whose RSS grows, with their bytes a second.
    fn growing(&self) -> impl Iterator<Item = (&ProcessRow, f64)> {
        let growing = self.processes.rows.iter().filter(|row| row.is_growing);
        growing.filter_map(|row| Some((row, row.growth?)))
    }

    /// The growth of RSS, if objects were not read to see what holds it.
    fn rss_growth_sentence(&self) -> Option<String> {
        let (row, most) = self.fastest()?;
        let sum: f64 = self.growing().map(|(_, rate)| rate).sum();
        Some(format!(
            "Growing {}/s by RSS, in {} of {} processes; fastest process {}, by {}/s.",
            bytes(sum as u64),
            self.growing().count(),
            self.processes.rows.len(),
            row.process.id.pid,
            bytes(most as u64)
        ))
    }

    /// What a process contributes to [`TreeSums::fragmentation_bytes`].
    pub fn own_fragmentation(&self, row: &ProcessRow) -> Option<u64> {
        own_fragmentation(row, row.process.id.pid == self.master)
    }

    /// The conclusions, one sentence each; the first is the verdict.
    pub fn verdict(&self) -> Vec<String> {
        let sums = self.sums();
        let growth = self
            .growth_sentence()
            .or_else(|| self.rss_growth_sentence());
        let mut all: Vec<String> = growth.into_iter().collect();
        all.push(self.headline(&sums));
        all.extend(self.held_sentences());
        if let Some(copied) = sums.copied_bytes {
            all.push(format!(
                "The children have pages of their own for {} that they had in common with their parents or \
                 mapped since, and one still shares up to {}.",
                bytes(copied),
                bytes(sums.most_shared_bytes)
            ));
        }
        let findings = self.first_findings();
        if !findings.is_empty() {
            all.push(format!("What stands out first: {}.", findings.join(", ")));
        }
        let not_walked = self
            .processes
            .rows
            .iter()
            .filter_map(|row| row.not_walked.as_ref());
        let count = not_walked.clone().count();
        if let Some(why) = not_walked.clone().next() {
            all.push(match count {
                1 => format!("1 process was not walked: {why}."),
                count => format!("{count} processes were not walked; the first: {why}."),
            });
        }
        all.extend(self.about_reading());
        let history = self.processes.history.as_ref();
        all.extend(history.and_then(TreeHistory::sentence));
        if let Some((row, of, by)) = self.worst_by() {
            let (pid, command, of) = (row.process.id.pid, brief(&row.process), bytes(of));
            all.push(match by {
                Worst::Fragmentation => {
                    format!("The worst is process {pid} ({command}), with {of} of it.")
                }
                Worst::Growth => format!(
                    "The worst is process {pid} ({command}): little is free in any of them, and it grows fastest, by \
                     {of}/s."
                ),
                Worst::Copies => format!(
                    "The worst is process {pid} ({command}): little is free in any of them, and it has most pages of \
                     its own that it had in common with its parent or mapped since, {of}."
                ),
            });
        }
        all
    }

    fn headline(&self, sums: &TreeSums) -> String {
        let memory = bytes(sums.totals.pss_bytes);
        if self
            .processes
            .rows
            .iter()
            .all(|row| row.process.python.is_none())
        {
            return format!("{memory}: none of the processes runs Python.");
        }
        let Some(free) = sums.fragmentation_bytes else {
            return format!("{memory}: none of the processes was walked.");
        };
        let walked = sums.totals.pss_bytes.saturating_sub(sums.not_walked_bytes);
        let share = free as f64 / walked.max(1) as f64;
        let (free, percent) = (bytes(free), share * 100.0);
        let (not_walked, walked) = (bytes(sums.not_walked_bytes), bytes(walked));
        let before = format!("{not_walked} of {memory} were not walked.");
        let are_free = "are free in the heaps but resident";
        match (share >= worth::MUCH_FREE, sums.not_walked_bytes == 0) {
            (true, true) => format!("{free} of {memory} ({percent:.0} %) {are_free}."),
            (true, false) => {
                format!("{before} {free} of the other {walked} ({percent:.0} %) {are_free}.")
            }
            (false, true) => {
                format!("{memory}: the memory is in use; {free} ({percent:.0} %) {are_free}.")
            }
            (false, false) => format!(
                "{before} The other {walked} are in use; {free} ({percent:.0} %) {are_free}."
            ),
        }
    }

    /// The processes' first findings and how many have each, the most frequent first.
    fn first_findings(&self) -> Vec<String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for walk in self
            .processes
            .rows
            .iter()
            .filter_map(|row| row.walk.as_ref())
        {
            *counts.entry(walk.verdict.about()).or_default() += 1;
        }
        let mut all: Vec<_> = counts.into_iter().collect();
        all.sort_by_key(|(what, count)| (std::cmp::Reverse(*count), *what));
        let named = all.into_iter().take(MAX_NAMED);
        named
            .map(|(what, count)| format!("{what} in {count}"))
            .collect()
    }
}

/// Characters of a command line in a sentence at most.
const LONGEST_COMMAND: usize = 60;

/// A command line that is not longer than a sentence bears.
fn brief(process: &ProcessSample) -> String {
    let command = command(process);
    match command.char_indices().nth(LONGEST_COMMAND) {
        Some((end, _)) => format!("{}…", &command[..end]),
        None => command,
    }
}

/// Free bytes that count once in a tree: all of the master's, and others' on pages of their own.
pub(super) fn own_fragmentation(row: &ProcessRow, is_master: bool) -> Option<u64> {
    let walk = row.walk.as_ref()?;
    let free = walk.fragmentation_bytes?;
    Some(match is_master {
        true => free,
        false => free.saturating_sub(walk.shared_fragmentation_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::super::WalkFigures;
    use super::super::model::tests::process;
    use super::*;
    use crate::fork::ForkSharing;
    use crate::host::Memory;
    use crate::report::FragReport;

    const MIB: u64 = 1 << 20;

    fn row(pid: i32, pss: u64, free: u64, shared: u64, fork: Option<ForkSharing>) -> ProcessRow {
        let mut process = process(pid, i32::from(pid != 1), pss * 2);
        process.memory = Memory {
            pss_bytes: Some(pss),
            ..process.memory
        };
        ProcessRow {
            process,
            walk: Some(WalkFigures {
                fragmentation_bytes: Some(free),
                shared_fragmentation_bytes: shared,
                fork,
                ..WalkFigures::of(&FragReport::from_sample(&Default::default()))
            }),
            ..ProcessRow::default()
        }
    }

    fn tree(rows: Vec<ProcessRow>) -> TreeView {
        TreeView {
            master: 1,
            processes: HostView {
                rows,
                ..HostView::default()
            },
            objects: None,
        }
    }

    #[test]
    fn what_a_child_shares_counts_once_and_the_worst_is_the_one_with_the_most_of_its_own() {
        let fork = ForkSharing {
            parent: 1,
            shared_bytes: 30 * MIB,
            copied_bytes: 4 * MIB,
            own_bytes: 0,
        };
        let tree = tree(vec![
            row(1, 40 * MIB, 10 * MIB, 9 * MIB, None),
            row(2, 20 * MIB, 12 * MIB, 10 * MIB, Some(fork)),
            row(3, 60 * MIB, 25 * MIB, 10 * MIB, Some(fork)),
        ]);
        let sums = tree.sums();
        assert_eq!(sums.fragmentation_bytes, Some(27 * MIB));
        assert_eq!(sums.copied_bytes, Some(8 * MIB));
        assert_eq!(sums.most_shared_bytes, 30 * MIB);
        assert_eq!(tree.worst().map(|row| row.process.id.pid), Some(3));
        let verdict = tree.verdict();
        assert_eq!(
            verdict[0],
            "27.0 MiB of 120.0 MiB (22 %) are free in the heaps but resident."
        );
        assert!(
            verdict.last().is_some_and(|last| last.contains("15.0 MiB")),
            "{verdict:?}"
        );
    }

    #[test]
    fn where_little_is_free_the_worst_is_the_one_that_has_copied_most() {
        let fork = |copied_bytes| {
            Some(ForkSharing {
                parent: 1,
                shared_bytes: 30 * MIB,
                copied_bytes,
                own_bytes: 0,
            })
        };
        let with = |free| {
            tree(vec![
                row(1, 40 * MIB, free, 0, None),
                row(2, 40 * MIB, 0, 0, fork(25 * MIB)),
                row(3, 40 * MIB, 0, 0, fork(20 * MIB)),
            ])
        };
        let live = with(258 << 10);
        assert_eq!(live.worst().map(|row| row.process.id.pid), Some(2));
        let verdict = live.verdict();
        let last = verdict.last().expect("some");
        assert!(
            last.starts_with("The worst is process 2 (") && last.ends_with("25.0 MiB."),
            "{last}"
        );
        let sparse = with(20 * MIB);
        assert_eq!(sparse.worst().map(|row| row.process.id.pid), Some(1));
    }

    #[test]
    fn growth_is_said_before_anybody_knows_who_holds_it() {
        let growing = |pid, rate: u64| ProcessRow {
            growth: Some(rate as f64),
            is_growing: true,
            ..row(pid, 100 * MIB, MIB, 0, None)
        };
        let master = row(1, 10 * MIB, MIB, 0, None);
        let grown = tree(vec![master, growing(2, MIB), growing(3, 3 * MIB)]);
        assert_eq!(
            grown.verdict()[0],
            "Growing 4.0 MiB/s by RSS, in 2 of 3 processes; fastest process 3, by 3.0 MiB/s."
        );
        assert_eq!(grown.worst().map(|row| row.process.id.pid), Some(3));
    }

    #[test]
    fn memory_that_nobody_walked_is_called_neither_used_nor_free() {
        let master = row(1, 10 * MIB, MIB, 0, None);
        let mut of_c = row(2, 290 * MIB, 0, 0, None);
        of_c.walk = None;
        of_c.process.python = None;
        let sparse = tree(vec![master.clone(), of_c.clone()]);
        assert_eq!(sparse.sums().not_walked_bytes, 290 * MIB);
        assert_eq!(
            sparse.verdict()[0],
            "290.0 MiB of 300.0 MiB were not walked. The other 10.0 MiB are in use; 1.0 MiB (10 %) \
             are free in the heaps but resident."
        );
        // One whose turn did not come, and one whose walk came to nothing.
        let mut waiting = row(3, 20 * MIB, 0, 0, None);
        waiting.walk = None;
        let mut failed = row(4, 30 * MIB, 0, 0, None);
        failed.walk.as_mut().expect("a walk").fragmentation_bytes = None;
        let much = row(5, 10 * MIB, 4 * MIB, 0, None);
        let late = tree(vec![master, much, waiting, failed]);
        assert_eq!(
            late.verdict()[0],
            "50.0 MiB of 70.0 MiB were not walked. 5.0 MiB of the other 20.0 MiB (25 %) are free in the heaps but \
             resident."
        );
    }

    #[test]
    fn what_was_not_walked_is_said_and_nothing_is_made_up() {
        let mut refused = row(2, 20 * MIB, 0, 0, None);
        refused.walk = None;
        refused.not_walked = Some("it is traced".into());
        let mut master = row(1, 40 * MIB, 0, 0, None);
        master.walk = None;
        let tree = tree(vec![master, refused]);
        assert_eq!(tree.sums().fragmentation_bytes, None);
        assert_eq!(tree.worst(), None);
        assert_eq!(
            tree.verdict(),
            [
                "60.0 MiB: none of the processes was walked.",
                "1 process was not walked: it is traced."
            ]
        );
    }
}
