//! The columns of the tables shared by text, screen, CSV and JSON. Each is declared here once: its
//! key in files, its title for people, its unit, and how to get its value from a row.

mod activity;
mod heaps;
mod needs;
mod objects;
mod process;
mod sites;
mod text_column;

pub use self::text_column::TextColumn;
use crate::text::visible;
use crate::units::{Unit, Value};

/// A row's value in a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    /// A figure.
    Number(Value),
    /// Text, which may be untrusted.
    Text(String),
}

/// One column.
#[derive(Debug)]
pub struct Column<Row> {
    /// Its key in JSON, and its field in CSV; a point separates an object from its key.
    pub key: &'static str,
    /// Its unit.
    pub unit: Unit,
    get: Get<Row>,
    /// Its title in text and on the screen; empty if it is only in files.
    pub title: &'static str,
    /// Its width there, in characters.
    pub width: usize,
    /// An explanation, if it has a title.
    pub help: &'static str,
    /// When a table is too wide, the column with the highest rank is dropped first.
    pub rank: u8,
    is_short: bool,
    write: Option<fn(&Row) -> String>,
}

/// How a column's value is got from a row.
#[derive(Debug)]
enum Get<Row> {
    Known(fn(&Row) -> u64),
    Maybe(fn(&Row) -> Option<u64>),
    Fraction(fn(&Row) -> Option<f64>),
    Words(fn(&Row) -> Option<String>),
}

impl<Row> Column<Row> {
    const fn new(key: &'static str, unit: Unit, get: Get<Row>) -> Self {
        Self {
            key,
            unit,
            get,
            title: "",
            width: 0,
            help: "",
            rank: 0,
            is_short: false,
            write: None,
        }
    }

    /// A column whose value is always known.
    pub const fn of(key: &'static str, unit: Unit, get: fn(&Row) -> u64) -> Self {
        Self::new(key, unit, Get::Known(get))
    }

    /// A column whose value may be unknown.
    pub const fn maybe(key: &'static str, unit: Unit, get: fn(&Row) -> Option<u64>) -> Self {
        Self::new(key, unit, Get::Maybe(get))
    }

    /// A column whose values have fractions, and may be unknown.
    pub const fn fraction(key: &'static str, unit: Unit, get: fn(&Row) -> Option<f64>) -> Self {
        Self::new(key, unit, Get::Fraction(get))
    }

    /// A column of words, which may be unknown.
    pub const fn words(key: &'static str, get: fn(&Row) -> Option<String>) -> Self {
        Self::new(key, Unit::Name, Get::Words(get))
    }

    /// The same, shown to people under a title, with an explanation of the figure.
    pub const fn titled(mut self, title: &'static str, width: usize, help: &'static str) -> Self {
        self.title = title;
        self.width = width;
        self.help = help;
        self
    }

    /// The same in a table with many columns: its figures are short, and it is dropped before
    /// columns of lower rank when there is not enough space.
    pub(crate) const fn short(mut self, rank: u8) -> Self {
        self.rank = rank;
        self.is_short = true;
        self
    }

    /// The same, formatted by its own function instead of by its unit if its value is known.
    pub const fn written(mut self, write: fn(&Row) -> String) -> Self {
        self.write = Some(write);
        self
    }

    /// The row's value; `None` means unknown.
    pub fn datum(&self, row: &Row) -> Option<Datum> {
        match self.get {
            Get::Known(get) => Some(Datum::Number(Value::Whole(get(row)))),
            Get::Maybe(get) => get(row).map(|value| Datum::Number(Value::Whole(value))),
            Get::Fraction(get) => get(row).map(|value| Datum::Number(Value::Fraction(value))),
            Get::Words(get) => get(row).map(Datum::Text),
        }
    }

    /// The row's figure; `None` means unknown.
    pub fn value(&self, row: &Row) -> Option<Value> {
        match self.datum(row)? {
            Datum::Number(value) => Some(value),
            Datum::Text(_) => None,
        }
    }

    /// The row's figure if it is an integer.
    pub fn amount(&self, row: &Row) -> Option<u64> {
        match self.value(row)? {
            Value::Whole(value) => Some(value),
            Value::Fraction(_) => None,
        }
    }

    /// The row's value as text for people; `None` means unknown.
    pub fn text(&self, row: &Row) -> Option<String> {
        Some(match (self.datum(row)?, self.write) {
            (Datum::Number(_), Some(write)) => write(row),
            (Datum::Text(_), Some(write)) => end_of(&write(row), self.width),
            (Datum::Number(value), None) if self.is_short => self.unit.short_text(value),
            (Datum::Number(value), None) => self.unit.text(value),
            (Datum::Text(words), None) => end_of(&words, self.width),
        })
    }

    /// Its title, aligned, followed by a mark.
    pub fn heading(&self, mark: &str) -> String {
        self.aligned(&format!("{}{mark}", self.title))
    }

    /// The row's value as aligned text for people; `-` means unknown.
    pub fn cell(&self, row: &Row) -> String {
        self.aligned(self.text(row).as_deref().unwrap_or("-"))
    }

    /// Figures are right-aligned, words left-aligned.
    fn aligned(&self, text: &str) -> String {
        let column = match self.get {
            Get::Words(_) => TextColumn::left(self.title, self.width),
            Get::Known(_) | Get::Maybe(_) | Get::Fraction(_) => {
                TextColumn::right(self.title, self.width)
            }
        };
        column.cell(text)
    }
}

/// Untrusted text made harmless and cut to `width`: of a path, the end says more.
fn end_of(words: &str, width: usize) -> String {
    let words = visible(words).to_string();
    let count = words.chars().count();
    if count <= width {
        return words;
    }
    let rest = words.chars().skip(count + 1 - width);
    "…".chars().chain(rest).collect()
}

/// The label of a size class's row: its largest size.
const fn up_to<Row>(width: usize, upper_bytes: fn(&Row) -> u64) -> Column<Row> {
    Column::of("upper_bytes", Unit::Bytes, upper_bytes).titled(
        "up to",
        width,
        "the largest size of the class",
    )
}

/// Characters that columns take, each after a gap of one.
pub const fn width_of<Row>(columns: &[Column<Row>]) -> usize {
    let (mut width, mut at) = (0, 0);
    while at < columns.len() {
        width += 1 + columns[at].width;
        at += 1;
    }
    width
}

/// The titles of columns, each after a gap.
pub fn headings<Row>(columns: &[Column<Row>], gap: &str) -> String {
    columns
        .iter()
        .map(|column| format!("{gap}{}", column.heading("")))
        .collect()
}

/// The cells of a row, each after a gap.
pub fn cells<Row>(columns: &[Column<Row>], row: &Row, gap: &str) -> String {
    columns
        .iter()
        .map(|column| format!("{gap}{}", column.cell(row)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activity::ClassActivity;
    use crate::size_class::SizeClass;
    use crate::tables::{LedgerClass, LedgerRow};

    #[test]
    fn a_column_is_as_wide_as_it_says_and_marks_are_aligned_with_its_title() {
        let row = LedgerRow {
            class: LedgerClass::Top,
            resident_bytes: 4096,
            shared_bytes: 0,
            swapped_bytes: 12,
        };
        let shown = cells(&LedgerRow::COLUMNS, &row, " ");
        assert_eq!(shown, "    4.0 KiB        0 B       12 B");
        let heading = headings(&LedgerRow::COLUMNS, " ");
        assert_eq!(heading, "   resident     shared    swapped");
        assert_eq!(LedgerRow::COLUMNS[0].heading("*"), " resident*");
    }

    #[test]
    fn lifetimes_of_which_none_was_seen_are_unknown() {
        let class = ClassActivity {
            class: SizeClass::of(64),
            allocs: 1,
            frees: 0,
            alloc_bytes: 64,
            lifetime_p50_ns: 0,
            lifetime_p90_ns: 0,
            lifetime_p99_ns: 0,
        };
        let [.., last] = ClassActivity::COLUMNS;
        assert_eq!(last.value(&class), None);
        assert_eq!(last.cell(&class).trim(), "-");
    }
}
