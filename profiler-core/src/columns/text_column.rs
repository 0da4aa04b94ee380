//! Columns that exist only in output for people.

/// A column of text that is made where it is shown and is not in any file: its title and layout.
/// Width and alignment are declared here, so that heading, rows and lines indented below them
/// agree.
#[derive(Copy, Clone, Debug)]
pub struct TextColumn {
    /// Its title; may be empty.
    pub title: &'static str,
    /// Its width in characters.
    pub width: usize,
    is_right: bool,
}

impl TextColumn {
    /// A column of text, left-aligned.
    pub const fn left(title: &'static str, width: usize) -> Self {
        Self {
            title,
            width,
            is_right: false,
        }
    }

    /// A column of figures, right-aligned.
    pub const fn right(title: &'static str, width: usize) -> Self {
        Self {
            title,
            width,
            is_right: true,
        }
    }

    /// Its title, aligned.
    pub fn heading(&self) -> String {
        self.cell(self.title)
    }

    /// Its title followed by a mark, aligned.
    pub fn marked(&self, mark: &str) -> String {
        self.cell(&format!("{}{mark}", self.title))
    }

    /// Words, aligned; longer ones are not cut.
    pub fn cell(&self, words: &str) -> String {
        let width = self.width;
        match self.is_right {
            true => format!("{words:>width$}"),
            false => format!("{words:<width$}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TextColumn;

    #[test]
    fn words_stand_to_the_left_and_figures_to_the_right() {
        let name = TextColumn::left("name", 6);
        let bytes = TextColumn::right("bytes", 7);
        assert_eq!(name.heading() + &bytes.marked("↓"), "name   bytes↓");
        assert_eq!(name.cell("a") + &bytes.cell("12 B"), "a        12 B");
        assert_eq!(bytes.cell("123 456 B"), "123 456 B");
    }
}
