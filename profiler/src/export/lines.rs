//! One aligned line per interval, for `attach --headless`.

use profiler_core::columns::{Column, TextColumn};
use profiler_core::view::View;

use super::latest::Latest;
use super::names::GAPS;

/// Characters of a column's title in the help.
const TITLE: TextColumn = TextColumn::left("", 10);
/// Characters of a word of the last column there.
const WORD: TextColumn = TextColumn::left("", 12);

fn aligned<'a>(cell: impl Fn(&Column<Latest<'a>>) -> String) -> String {
    let cells: Vec<String> = Latest::SHOWN.iter().map(cell).collect();
    cells.join(" ")
}

/// The titles of [`line()`]'s columns.
pub fn line_heading() -> String {
    aligned(|column| column.heading(""))
}

/// A view on one line: the kernel's latest counts, the heap at the last walk, and what the probes
/// saw; `-` means unknown. The last column is `ok`, or what is missing.
pub fn line(view: &View) -> String {
    let latest = Latest::of(view);
    aligned(|column| column.cell(&latest))
}

/// The meaning of each column, and of each word in the last one, one line each. Columns with the
/// same meaning share a line.
pub fn line_help() -> String {
    let mut lines = Vec::new();
    let explained = Latest::SHOWN
        .iter()
        .filter(|column| !column.help.is_empty());
    let explained: Vec<_> = explained.collect();
    for same in explained.chunk_by(|one, next| one.help == next.help) {
        let titles: Vec<_> = same.iter().map(|column| column.title).collect();
        lines.push(format!(
            "  {}  {}",
            TITLE.cell(&titles.join(", ")),
            same[0].help
        ));
    }
    let indent = " ".repeat(TITLE.width + 4);
    let words = GAPS.iter().map(|gap| (gap.word, gap.help));
    lines.extend(words.map(|(word, help)| format!("{indent}{}  {help}", WORD.cell(word))));
    lines.join("\n")
}
