//! The order of the table: sorted, filtered, as a tree that can be folded.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use super::columns::{COLUMNS, ProcessColumn, RSS, command, place_of};
use super::{ProcessId, ProcessRow};
use crate::columns::Datum;

/// At most this many generations are indented; deeper ones are drawn at the last level.
const MAX_GENERATIONS: usize = 16;

/// How the table is arranged.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrangement {
    /// The column that it is sorted by, as an index into [`COLUMNS`].
    pub sort: usize,
    /// The other way round: numbers ascending, text descending.
    pub reversed: bool,
    /// Whether children are placed under their parents.
    pub tree: bool,
    /// Processes whose children are folded away.
    pub folded: BTreeSet<ProcessId>,
    /// Only processes with this text in their pid, command, group, allocator or verdict are shown,
    /// and their ancestors.
    pub filter: String,
}

impl Arrangement {
    /// Whether a row has the text of the filter, by what is known of it now: an allocator and a
    /// verdict are known once the process was walked.
    pub fn has_text(&self, row: &ProcessRow) -> bool {
        matches(row, &self.filter)
    }
}

impl Default for Arrangement {
    fn default() -> Self {
        Self {
            sort: place_of(&RSS),
            reversed: false,
            tree: true,
            folded: BTreeSet::new(),
            filter: String::new(),
        }
    }
}

/// A line of the table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// The process, as an index into the rows.
    pub row: usize,
    /// What is drawn before its command: its position in the tree.
    pub guide: String,
    /// The number of its descendants.
    pub descendants: usize,
    /// Whether they are folded away.
    pub is_folded: bool,
}

/// The lines of the table.
pub fn lines(rows: &[ProcessRow], arrangement: &Arrangement) -> Vec<Line> {
    let column = &COLUMNS[arrangement.sort.min(COLUMNS.len() - 1)];
    let order = |a: usize, b: usize| compare(column, arrangement.reversed, &rows[a], &rows[b]);
    let passes: Vec<bool> = rows
        .iter()
        .map(|row| matches(row, &arrangement.filter))
        .collect();
    if !arrangement.tree {
        let mut all: Vec<usize> = (0..rows.len()).filter(|&at| passes[at]).collect();
        all.sort_by(|&a, &b| order(a, b));
        return all.into_iter().map(Line::flat).collect();
    }
    let mut tree = Tree::of(rows);
    tree.sort(&order);
    let mut out = Vec::new();
    for root in std::mem::take(&mut tree.roots) {
        tree.draw(root, "", "", 0, &passes, rows, arrangement, &mut out);
    }
    out
}

impl Line {
    fn flat(row: usize) -> Self {
        Self {
            row,
            guide: String::new(),
            descendants: 0,
            is_folded: false,
        }
    }
}

/// The master of each process's tree, as indices into the rows.
pub(super) fn masters(rows: &[ProcessRow]) -> Vec<usize> {
    let tree = Tree::of(rows);
    let mut masters: Vec<usize> = (0..rows.len()).collect();
    for &root in &tree.roots {
        for one in tree.descendants(root) {
            masters[one] = root;
        }
    }
    masters
}

/// Children under their parents.
struct Tree {
    roots: Vec<usize>,
    children: Vec<Vec<usize>>,
}

impl Tree {
    /// A master is a process whose parent is not among the rows.
    fn of(rows: &[ProcessRow]) -> Self {
        let by_pid: HashMap<i32, usize> = rows
            .iter()
            .enumerate()
            .map(|(at, row)| (row.process.id.pid, at))
            .collect();
        let mut tree = Self {
            roots: Vec::new(),
            children: vec![Vec::new(); rows.len()],
        };
        for (at, row) in rows.iter().enumerate() {
            let parent = by_pid.get(&row.process.parent).copied();
            // A parent that began later has only reused the parent's pid. Ordering by age, then by
            // pid, also prevents cycles.
            let age = |at: usize| (rows[at].process.id.began_ticks, rows[at].process.id.pid);
            match parent.filter(|&parent| is_older(age(parent), age(at))) {
                Some(parent) => tree.children[parent].push(at),
                None => tree.roots.push(at),
            }
        }
        tree
    }

    /// Sorts siblings, and sorts trees by their first line: the worst process of a tree determines
    /// its position.
    fn sort(&mut self, order: &impl Fn(usize, usize) -> Ordering) {
        let count = self.children.len();
        // For each process, the first of itself and its descendants, from the leaves up.
        let mut best: Vec<usize> = (0..count).collect();
        for at in self.leaves_first() {
            for &child in &self.children[at] {
                if order(best[child], best[at]) == Ordering::Less {
                    best[at] = best[child];
                }
            }
        }
        let by_best = |a: &usize, b: &usize| order(best[*a], best[*b]);
        self.roots.sort_by(by_best);
        for children in &mut self.children {
            children.sort_by(by_best);
        }
    }

    /// All of them, each after its descendants.
    fn leaves_first(&self) -> Vec<usize> {
        let mut all = self.roots.clone();
        let mut at = 0;
        while let Some(&one) = all.get(at) {
            all.extend(&self.children[one]);
            at += 1;
        }
        all.reverse();
        all
    }

    fn descendants(&self, of: usize) -> Vec<usize> {
        let mut all = self.children[of].clone();
        let mut at = 0;
        while let Some(&one) = all.get(at) {
            all.extend(&self.children[one]);
            at += 1;
        }
        all
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "where it stands, and what all have in common"
    )]
    fn draw(
        &self,
        at: usize,
        own: &str,
        below: &str,
        depth: usize,
        passes: &[bool],
        rows: &[ProcessRow],
        arrangement: &Arrangement,
        out: &mut Vec<Line>,
    ) {
        let descendants = self.descendants(at);
        if !passes[at] && !descendants.iter().any(|&one| passes[one]) {
            return;
        }
        let is_folded =
            arrangement.folded.contains(&rows[at].process.id) && !descendants.is_empty();
        out.push(Line {
            row: at,
            guide: own.to_owned(),
            descendants: descendants.len(),
            is_folded,
        });
        if is_folded {
            return;
        }
        // Processes deeper than the screen is wide are drawn flat, so that the depth of a chain of
        // forks is bounded.
        if depth >= MAX_GENERATIONS {
            let shown = descendants.into_iter().filter(|&one| passes[one]);
            out.extend(shown.map(|row| Line {
                guide: own.to_owned(),
                ..Line::flat(row)
            }));
            return;
        }
        let shown: Vec<usize> = self.children[at]
            .iter()
            .copied()
            .filter(|&child| passes[child] || self.descendants(child).iter().any(|&d| passes[d]))
            .collect();
        for (number, &child) in shown.iter().enumerate() {
            let is_last = number + 1 == shown.len();
            let (branch, rest) = if is_last {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            let (own, below) = (format!("{below}{branch}"), format!("{below}{rest}"));
            self.draw(
                child,
                &own,
                &below,
                depth + 1,
                passes,
                rows,
                arrangement,
                out,
            );
        }
    }
}

/// Whether the first began before the second; within one tick by pid, which seldom wraps around.
fn is_older(first: (u64, i32), second: (u64, i32)) -> bool {
    first < second
}

/// Numbers descend, text ascends, unknown values come last in both cases.
fn compare(column: &ProcessColumn, reversed: bool, a: &ProcessRow, b: &ProcessRow) -> Ordering {
    let order = match (column.datum(a), column.datum(b)) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => return Ordering::Greater,
        (Some(_), None) => return Ordering::Less,
        (Some(Datum::Number(a)), Some(Datum::Number(b))) => b.as_f64().total_cmp(&a.as_f64()),
        (Some(Datum::Text(a)), Some(Datum::Text(b))) => a.cmp(&b),
        // A column has one kind.
        _ => Ordering::Equal,
    };
    let order = if reversed { order.reverse() } else { order };
    order.then(a.process.id.pid.cmp(&b.process.id.pid))
}

fn matches(row: &ProcessRow, filter: &str) -> bool {
    let wanted = filter.to_lowercase();
    let has = |text: &str| text.to_lowercase().contains(&wanted);
    let group = row
        .process
        .group
        .as_deref()
        .map(|group| group.path.as_str());
    let malloc = row.walk.as_ref().and_then(|walk| walk.malloc.as_ref());
    let malloc = malloc.map(ToString::to_string);
    wanted.is_empty()
        || row.process.id.pid.to_string() == wanted
        || has(&command(&row.process))
        || has(&row.process.comm)
        || [group, malloc.as_deref(), row.verdict().as_deref()]
            .into_iter()
            .flatten()
            .any(has)
}

#[cfg(test)]
mod tests {
    use super::super::columns::GROWTH;
    use super::super::model::tests::process;
    use super::*;

    fn rows(of: &[(i32, i32, u64)]) -> Vec<ProcessRow> {
        let row = |&(pid, parent, rss)| ProcessRow {
            process: process(pid, parent, rss),
            ..ProcessRow::default()
        };
        of.iter().map(row).collect()
    }

    fn shown(rows: &[ProcessRow], arrangement: &Arrangement) -> Vec<String> {
        let lines = lines(rows, arrangement);
        let text = |line: &Line| format!("{}{}", line.guide, rows[line.row].process.id.pid);
        lines.iter().map(text).collect()
    }

    #[test]
    fn children_stand_under_their_master_and_the_tree_with_the_worst_comes_first() {
        let rows = rows(&[
            (10, 1, 5),
            (11, 10, 7),
            (12, 10, 90),
            (20, 1, 50),
            (121, 12, 3),
        ]);
        let found = shown(&rows, &Arrangement::default());
        assert_eq!(found, ["10", "├─ 12", "│  └─ 121", "└─ 11", "20"]);
        let flat = Arrangement {
            tree: false,
            ..Arrangement::default()
        };
        assert_eq!(shown(&rows, &flat), ["12", "20", "11", "10", "121"]);
        let up = Arrangement {
            reversed: true,
            ..flat
        };
        assert_eq!(shown(&rows, &up), ["121", "10", "11", "20", "12"]);
    }

    #[test]
    fn a_folded_master_stands_for_its_tree() {
        let rows = rows(&[(10, 1, 5), (11, 10, 7), (12, 11, 90), (20, 1, 50)]);
        let mut folded = Arrangement::default();
        folded.folded.insert(rows[0].process.id);
        let found = lines(&rows, &folded);
        assert_eq!(found.len(), 2);
        assert!(found[0].is_folded && found[0].descendants == 2);
    }

    #[test]
    fn a_filter_keeps_what_has_the_text_and_its_ancestors() {
        let rows = rows(&[(10, 1, 5), (11, 10, 7), (12, 10, 90), (20, 1, 50)]);
        let filter = |text: &str| Arrangement {
            filter: text.into(),
            ..Arrangement::default()
        };
        assert_eq!(shown(&rows, &filter("JOB11")), ["10", "└─ 11"]);
        assert_eq!(shown(&rows, &filter("20")), ["20"]);
        let has_text: Vec<bool> = rows
            .iter()
            .map(|row| filter("JOB11").has_text(row))
            .collect();
        assert_eq!(
            has_text.iter().filter(|has| **has).count(),
            1,
            "not its ancestors"
        );
        assert_eq!(shown(&rows, &filter("nothing")), Vec::<String>::new());
    }

    #[test]
    fn a_parent_whose_number_was_given_anew_is_none_and_circles_are_none() {
        let mut rows = rows(&[(10, 11, 5), (11, 10, 7)]);
        rows[0].process.id.began_ticks = 900;
        rows[1].process.id.began_ticks = 900;
        assert_eq!(shown(&rows, &Arrangement::default()), ["10", "└─ 11"]);
        rows[1].process.id.began_ticks = 800;
        rows[0].process.parent = 1;
        assert_eq!(shown(&rows, &Arrangement::default()), ["11", "10"]);
    }

    #[test]
    fn a_chain_of_many_forks_is_drawn_to_a_bounded_depth() {
        let chain: Vec<_> = (1..2000).map(|pid| (pid, pid - 1, 1)).collect();
        let found = lines(&rows(&chain), &Arrangement::default());
        assert_eq!(found.len(), 1999);
        assert!(
            found
                .iter()
                .all(|line| line.guide.chars().count() <= 3 * MAX_GENERATIONS)
        );
    }

    #[test]
    fn what_is_not_known_comes_last_either_way() {
        let mut rows = rows(&[(1, 0, 5), (2, 0, 7), (3, 0, 9)]);
        rows[1].growth = Some(-4.0);
        rows[2].growth = Some(2.0);
        let by = |reversed| Arrangement {
            sort: place_of(&GROWTH),
            reversed,
            ..Arrangement::default()
        };
        assert_eq!(shown(&rows, &by(false)), ["3", "2", "1"]);
        assert_eq!(shown(&rows, &by(true)), ["2", "3", "1"]);
    }
}
