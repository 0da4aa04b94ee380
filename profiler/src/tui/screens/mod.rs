//! The screens.

pub(super) mod activity;
pub(super) mod arenas;
mod filter;
pub(super) mod help;
pub(super) mod objects;
pub(super) mod overview;
pub(super) mod pages;
pub(super) mod sites;
pub(super) mod sizes;
pub(super) mod why;

use std::ops::Range;

use ratatui::style::Style;
use ratatui::text::Line;

/// `part` of `whole` as a bar of at most `width` cells, to an eighth of a cell.
pub(super) fn bar(part: u64, whole: u64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if whole == 0 {
        return String::new();
    }
    let eighths = (part as f64 / whole as f64 * width as f64 * 8.0).round() as usize;
    // A non-empty part is visible, however small it is.
    let eighths = eighths.clamp(usize::from(part > 0), width * 8);
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// Paragraphs broken to `width`.
pub(super) fn wrapped(text: &str, width: u16, style: Style) -> Vec<Line<'static>> {
    let lines = textwrap::wrap(text, usize::from(width.max(20)));
    lines
        .into_iter()
        .map(|line| Line::styled(line.into_owned(), style))
        .collect()
}

/// The next value of all, cyclically.
fn after<T: Copy + PartialEq>(all: &[T], one: T) -> T {
    let at = all.iter().position(|other| *other == one).unwrap_or(0);
    all[(at + 1) % all.len()]
}

/// As many lines as there is space for, with those of the selected row in the middle if there are
/// others around them.
fn around(
    mut lines: Vec<Line<'static>>,
    of_selected: Range<usize>,
    room: usize,
) -> Vec<Line<'static>> {
    let middle = (of_selected.start + of_selected.end.min(of_selected.start + room)) / 2;
    let most = lines.len().saturating_sub(room);
    let from = middle.saturating_sub(room / 2).min(most);
    lines.drain(..from);
    lines.truncate(room);
    lines
}

/// A name cut to a width; its end is kept, because it is the most informative part.
fn cut(name: &str, width: usize) -> String {
    let len = name.chars().count();
    if len <= width {
        return name.to_owned();
    }
    let kept: String = name.chars().skip(len - width.saturating_sub(1)).collect();
    format!("…{kept}")
}
