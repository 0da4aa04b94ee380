//! Tables of the columns that are declared once.

use maud::{Markup, html};
use profiler_core::columns::Column;

/// A row: its name, the text below that, its share of the whole (0 to 1), and its figures.
pub(super) struct Row<'a, T> {
    pub(super) name: String,
    pub(super) below: Vec<String>,
    pub(super) share: f64,
    pub(super) of: &'a T,
}

impl<'a, T> Row<'a, T> {
    /// A row with `part` of `whole` drawn as a bar.
    pub(super) fn new(name: impl Into<String>, part: u64, whole: u64, of: &'a T) -> Self {
        Self {
            name: name.into(),
            below: Vec::new(),
            share: share(part, whole),
            of,
        }
    }
}

/// `part` as a share of `whole`, 0 to 1.
pub(super) fn share(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        _ => (part as f64 / whole as f64).min(1.0),
    }
}

/// A heading with its definition.
pub(super) fn heading(title: &str, help: &str) -> Markup {
    html! {
        th scope="col" title=[(!help.is_empty()).then_some(help)] { (title) }
    }
}

/// A table whose first column is `title` and whose other columns are figures.
pub(super) fn table<T>(title: &str, columns: &[&Column<T>], rows: &[Row<'_, T>]) -> Markup {
    html! {
        div.wide {
            table {
                thead {
                    tr {
                        th scope="col" { (title) }
                        th { }
                        @for column in columns {
                            (heading(column.title, column.help))
                        }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" {
                                (row.name)
                                @for line in &row.below {
                                    div.below { (line) }
                                }
                            }
                            td.bar aria-hidden="true" { (bar(row.share)) }
                            @for column in columns {
                                td { (column.text(row.of).unwrap_or_else(|| "unknown".to_owned())) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A share as a bar.
fn bar(share: f64) -> Markup {
    html! {
        @if share > 0.0 {
            span style=(format!("width:{:.2}%", share * 100.0)) { }
        }
    }
}

/// How many entries of a shortened list are not shown.
pub(super) fn rest(all: usize, shown: usize, what: &str) -> Markup {
    html! {
        @if all > shown {
            p.quiet { "and " (all - shown) " more " (what) " (all of them in the JSON of " code { "export" } ")" }
        }
    }
}
