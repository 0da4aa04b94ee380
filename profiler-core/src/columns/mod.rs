//! The columns of the tables that text, screen, CSV and JSON share: each is declared here once, with
//! its key in files, its title for people, its unit, and how to get it from a row.

mod activity;
mod heaps;
mod needs;
mod objects;
mod process;

use crate::units::{Unit, Value};

/// One column of figures.
#[derive(Debug)]
pub struct Column<Row> {
    /// Its key in JSON, and its field in CSV.
    pub key: &'static str,
    /// Its unit.
    pub unit: Unit,
    get: Get<Row>,
    /// Its title in text and on the screen; none where it stands in files alone.
    pub title: &'static str,
    /// Characters that it takes there.
    pub width: usize,
    /// What the figure is, where it has a title.
    pub help: &'static str,
}

/// How a column's value is got from a row.
#[derive(Debug)]
enum Get<Row> {
    Known(fn(&Row) -> u64),
    Maybe(fn(&Row) -> Option<u64>),
    Fraction(fn(&Row) -> Option<f64>),
}

impl<Row> Column<Row> {
    /// A column whose value is always known.
    const fn of(key: &'static str, unit: Unit, get: fn(&Row) -> u64) -> Self {
        Self {
            key,
            unit,
            get: Get::Known(get),
            title: "",
            width: 0,
            help: "",
        }
    }

    /// A column whose value may be unknown.
    const fn maybe(key: &'static str, unit: Unit, get: fn(&Row) -> Option<u64>) -> Self {
        Self {
            key,
            unit,
            get: Get::Maybe(get),
            title: "",
            width: 0,
            help: "",
        }
    }

    /// A column whose values have fractions, and may be unknown.
    const fn fraction(key: &'static str, unit: Unit, get: fn(&Row) -> Option<f64>) -> Self {
        Self {
            key,
            unit,
            get: Get::Fraction(get),
            title: "",
            width: 0,
            help: "",
        }
    }

    /// The same, seen by people under a title, with what the figure is.
    const fn titled(mut self, title: &'static str, width: usize, help: &'static str) -> Self {
        self.title = title;
        self.width = width;
        self.help = help;
        self
    }

    /// Its value in a row; `None` is unknown.
    pub fn value(&self, row: &Row) -> Option<Value> {
        match self.get {
            Get::Known(get) => Some(Value::Whole(get(row))),
            Get::Maybe(get) => get(row).map(Value::Whole),
            Get::Fraction(get) => get(row).map(Value::Fraction),
        }
    }

    /// The same where it is a whole number.
    pub fn amount(&self, row: &Row) -> Option<u64> {
        match self.value(row)? {
            Value::Whole(value) => Some(value),
            Value::Fraction(_) => None,
        }
    }

    /// Its value in a row as people read it; `None` is unknown.
    pub fn text(&self, row: &Row) -> Option<String> {
        self.value(row).map(|value| self.unit.text(value))
    }

    /// Its title, aligned, with a mark behind it.
    pub fn heading(&self, mark: &str) -> String {
        let title = format!("{}{mark}", self.title);
        format!("{title:>0$}", self.width)
    }

    /// Its value in a row as people read it, aligned; `-` is unknown.
    pub fn cell(&self, row: &Row) -> String {
        let value = self.text(row).unwrap_or_else(|| "-".into());
        format!("{value:>0$}", self.width)
    }
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
    use crate::report::{LedgerClass, LedgerRow};
    use crate::size_class::SizeClass;

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
