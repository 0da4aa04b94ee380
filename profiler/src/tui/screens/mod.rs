//! The screens.

pub(super) mod activity;
pub(super) mod arenas;
pub(super) mod help;
pub(super) mod objects;
pub(super) mod overview;
pub(super) mod pages;
pub(super) mod sizes;
pub(super) mod why;

use ratatui::style::Style;
use ratatui::text::Line;

/// `part` of `whole` as a bar of at most `width` cells, to an eighth of a cell.
pub(super) fn bar(part: u64, whole: u64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if whole == 0 {
        return String::new();
    }
    let eighths = (part as f64 / whole as f64 * width as f64 * 8.0).round() as usize;
    // What is there is seen, however little it is.
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
