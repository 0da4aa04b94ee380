//! The processes of a host as a table for people.

use std::borrow::Cow;

use profiler_core::columns::TextColumn;
use profiler_core::host::{
    Arrangement, FREE, HostView, TableOf, Totals, TreeView, command, fitting, lines, place_of,
};
use profiler_core::text::visible;
use profiler_core::units::{bytes, growth};

use super::names::cut;
use super::sentences::sharing_names;
use crate::hints::Hint;
use crate::timestamp::time_of_day;

/// The table in the full width: sums, the processes as a tree, and what is not shown.
pub fn text(view: &HostView, arrangement: &Arrangement, width: usize) -> String {
    let what = if view.rows.iter().all(|row| row.process.python.is_some()) {
        "Python "
    } else {
        ""
    };
    let totals = Totals::of(view.rows.iter()).phrases(what).join(", ");
    let cost = view.cost.phrases().join(", ");
    let head = [wrapped(&totals, width), wrapped(&cost, width)].concat();
    table(view, head, arrangement, TableOf::Host, width)
}

/// A tree as one unit: its verdict, then its processes, the worst first.
pub fn tree(tree: &TreeView, width: usize) -> String {
    let view = &tree.processes;
    let totals = Totals::of(view.rows.iter()).phrases("").join(", ");
    let mut head = wrapped(&format!("process {}: {totals}", tree.master), width);
    head.extend(wrapped(&view.cost.phrases().join(", "), width));
    head.push(String::new());
    for sentence in tree.verdict() {
        head.extend(wrapped(&sentence, width));
    }
    head.extend(holders(tree, width));
    let arrangement = Arrangement {
        sort: place_of(&FREE),
        ..Arrangement::default()
    };
    table(view, head, &arrangement, TableOf::Tree, width)
}

/// Columns of a tree at one moment, a line each.
const LINE: [TextColumn; 9] = [
    TextColumn::right("time", 8),
    TextColumn::right("processes", 9),
    TextColumn::right("PSS", 10),
    TextColumn::right("USS", 10),
    TextColumn::right("free", 10),
    TextColumn::right("copied", 10),
    TextColumn::right("walked", 6),
    TextColumn::right("came", 6),
    TextColumn::right("ended", 6),
];

/// The heading of [`tree_row`].
pub fn tree_heading() -> String {
    let titles = LINE.iter().map(TextColumn::heading);
    let titles: Vec<String> = titles.collect();
    format!("{}  worst", titles.join("  "))
}

/// A tree at one moment: its sums, and its worst process.
pub fn tree_row(tree: &TreeView) -> String {
    let (sums, history) = (tree.sums(), tree.processes.history.as_ref());
    let unknown = || "-".to_owned();
    let or = |figure: Option<u64>| figure.map_or_else(unknown, bytes);
    let event = |count: Option<u64>| count.map_or_else(unknown, |count| count.to_string());
    let cells = [
        time_of_day(tree.processes.taken_at_ns),
        sums.totals.processes.to_string(),
        bytes(sums.totals.pss_bytes),
        bytes(sums.totals.uss_bytes),
        or(sums.fragmentation_bytes),
        or(sums.copied_bytes),
        sums.totals.walked.to_string(),
        event(history.map(|of| of.came)),
        event(history.map(|of| of.ended)),
    ];
    let cells = LINE
        .iter()
        .zip(cells)
        .map(|(column, cell)| column.cell(&cell));
    let cells: Vec<String> = cells.collect();
    let worst = tree.worst().map_or_else(unknown, |row| {
        format!("{} ({})", row.process.id.pid, command(&row.process))
    });
    cut(&format!("{}  {worst}", cells.join("  ")), LONGEST_ROW)
}

/// Columns of a row at most.
const LONGEST_ROW: usize = 160;

/// Names that are shown of those that hold the memory of a tree.
const TOP_HOLDERS: usize = 8;
const IN_ALL: TextColumn = TextColumn::right("in all", 10);
const RATE: TextColumn = TextColumn::right("growth", 13);
const CHILDREN: TextColumn = TextColumn::right("children", 8);
const EACH: TextColumn = TextColumn::left("in each child", 28);
const MASTER: TextColumn = TextColumn::right("master", 10);

/// The holders of memory in the processes whose objects were read, one line each, with the path
/// below.
fn holders(tree: &TreeView, width: usize) -> Vec<String> {
    let all = tree.holders();
    if all.is_empty() {
        return Vec::new();
    }
    let has_growth = all.iter().any(|holder| holder.growth.is_some());
    let rate = |cell: String| match has_growth {
        true => format!(" {cell}"),
        false => String::new(),
    };
    let mut lines = vec![
        String::new(),
        format!(
            "{}{} {} {} {} name",
            IN_ALL.heading(),
            rate(RATE.heading()),
            MASTER.heading(),
            CHILDREN.heading(),
            EACH.heading()
        ),
    ];
    let unknown = || "-".to_owned();
    for holder in all.iter().take(TOP_HOLDERS) {
        let children = match holder.children {
            0 => unknown(),
            some => some.to_string(),
        };
        let figures = format!(
            "{}{} {} {} {} ",
            IN_ALL.cell(&bytes(holder.bytes)),
            rate(RATE.cell(&holder.growth.map_or_else(unknown, growth))),
            MASTER.cell(&holder.master_bytes.map_or_else(unknown, bytes)),
            CHILDREN.cell(&children),
            EACH.cell(&holder.each())
        );
        let (name, others) = holder
            .names
            .split_first()
            .map_or(("", &[][..]), |(name, others)| (name.as_str(), others));
        let names = sharing_names(name, others);
        lines.push(format!("{figures}{}", visible(&names)));
        let indent = " ".repeat(figures.chars().count());
        let way = holder.steps.join(" → ");
        let room = width.saturating_sub(indent.len()).max(LEAST_WAY);
        lines.extend(
            wrapped(&way, room)
                .into_iter()
                .map(|line| format!("{indent}{line}")),
        );
    }
    if let Some(rest) = all.len().checked_sub(TOP_HOLDERS + 1) {
        lines.push(format!(
            "and {} more names ({})",
            rest + 1,
            Hint::AllRows.words()
        ));
    }
    lines
}

/// The smallest width, in columns, of the path to what is held.
const LEAST_WAY: usize = 20;

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let text = visible(text).to_string();
    let lines = textwrap::wrap(&text, width);
    lines.into_iter().map(Cow::into_owned).collect()
}

fn table(
    view: &HostView,
    mut all: Vec<String>,
    arrangement: &Arrangement,
    of: TableOf,
    width: usize,
) -> String {
    let columns = fitting(width, of);
    let cells = |cell: &dyn Fn(&profiler_core::host::ProcessColumn) -> String| {
        columns
            .iter()
            .map(|column| format!("{} ", cell(column)))
            .collect::<String>()
    };
    all.push(String::new());
    all.push(format!("{}COMMAND", cells(&|column| column.heading(""))));
    for line in lines(&view.rows, arrangement) {
        let row = &view.rows[line.row];
        let name = format!("{}{}", line.guide, command(&row.process));
        all.push(format!("{}{name}", cells(&|column| column.cell(row))));
    }
    let mut text: String = all
        .iter()
        .map(|line| format!("{}\n", cut(line, width)))
        .collect();
    for notice in &view.notices {
        text += &format!("\n{}\n", wrapped(notice, width).join("\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use profiler_core::host::{Memory, ProcessId, ProcessRow, ProcessSample};

    use super::*;

    fn view(count: i32) -> HostView {
        let row = |pid: i32| ProcessRow {
            process: ProcessSample {
                id: ProcessId {
                    pid,
                    began_ticks: pid as u64,
                    program: (1, 1),
                },
                parent: if pid == 1 { 0 } else { 1 },
                comm: "celery".into(),
                cmdline: vec![
                    "/venv/bin/python3".into(),
                    "-m".into(),
                    "celery\x1b[2J".repeat(9),
                ],
                python: Some("CPython 3.11.2".into()),
                memory: Memory {
                    rss_bytes: 300 << 20,
                    ..Memory::default()
                },
                group: None,
                age_ns: None,
            },
            growth: Some(-1.5e6),
            ..ProcessRow::default()
        };
        HostView {
            rows: (1..=count).map(row).collect(),
            notices: vec!["3 processes\ncannot be read".into()],
            ..HostView::default()
        }
    }

    #[test]
    fn lines_are_no_wider_than_asked_for_and_hold_nothing_that_drives_a_terminal() {
        for width in [40, 80, 120, 200] {
            let text = text(&view(5), &Arrangement::default(), width);
            let table = text.lines().take(9);
            assert!(
                table.into_iter().all(|line| line.chars().count() <= width),
                "{text}"
            );
            assert!(!text.contains('\x1b'), "{text}");
            assert!(text.contains("3 processes\\ncannot"), "{text}");
        }
    }

    #[test]
    fn what_was_not_taken_is_a_dash() {
        let text = text(&view(1), &Arrangement::default(), 80);
        let row = text.lines().nth(4).expect("a row");
        assert!(
            row.starts_with("      1  300M     -     -    -     -  -1.4M/s -   "),
            "{row}"
        );
    }
}
