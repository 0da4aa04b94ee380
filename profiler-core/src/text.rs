//! Makes untrusted text safe to show: names, command lines, paths, settings, and anything else
//! chosen by a target, a trace, a core file or another user.
//!
//! Such text may contain escape sequences that drive a terminal, newlines that forge a line of our
//! output, and characters that reorder or hide the text around them.

use std::fmt::{self, Display, Write};

/// Untrusted text as one harmless piece of a line: characters that could drive a terminal, end the
/// line, or hide or reorder text are written as `\n`, `\x1b` or `\u{202e}`.
pub fn visible<T: Display>(foreign: T) -> Visible<T> {
    Visible {
        foreign,
        keeps_lines: false,
    }
}

/// The same for our own text with several lines, as the last step before it is shown. Untrusted
/// text inside must have gone through [`visible`] before, or its newlines would pass.
pub fn visible_lines<T: Display>(text: T) -> Visible<T> {
    Visible {
        foreign: text,
        keeps_lines: true,
    }
}

/// Shows text with its harmful characters escaped; made by [`visible`].
#[derive(Copy, Clone, Debug)]
pub struct Visible<T> {
    foreign: T,
    keeps_lines: bool,
}

impl<T: Display> Display for Visible<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut escaped = Escaped {
            to: f,
            keeps_lines: self.keeps_lines,
        };
        write!(escaped, "{}", self.foreign)
    }
}

struct Escaped<'a, 'b> {
    to: &'a mut fmt::Formatter<'b>,
    keeps_lines: bool,
}

impl Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        let harmful = |c| is_harmful(c) && !(self.keeps_lines && c == '\n');
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| harmful(*c)) {
            self.to.write_str(&rest[..at])?;
            match c {
                '\n' => self.to.write_str("\\n")?,
                '\r' => self.to.write_str("\\r")?,
                '\t' => self.to.write_str("\\t")?,
                c if u32::from(c) < 0x100 => write!(self.to, "\\x{:02x}", u32::from(c))?,
                c => write!(self.to, "\\u{{{:x}}}", u32::from(c))?,
            }
            rest = &rest[at + c.len_utf8()..];
        }
        self.to.write_str(rest)
    }
}

/// Whether a character can drive a terminal (C0, DEL, C1), end a line, change the direction of the
/// text around it, or take no space (Unicode's bidirectional controls, format characters and
/// fillers).
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drives_a_terminal_or_forges_a_line_is_escaped_and_the_rest_is_as_it_was() {
        for (foreign, shown) in [
            ("python3 -c 'ä → 漢字'", "python3 -c 'ä → 漢字'"),
            ("\x1b[2J\x07\x7f", "\\x1b[2J\\x07\\x7f"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{9b}31m\u{85}", "\\x9b31m\\x85"),
            (
                "a\u{202e}b\u{2066}\u{200b}",
                "a\\u{202e}b\\u{2066}\\u{200b}",
            ),
            ("\u{2028}\u{2029}\u{feff}", "\\u{2028}\\u{2029}\\u{feff}"),
            ("", ""),
        ] {
            assert_eq!(visible(foreign).to_string(), shown);
        }
        assert_eq!(visible_lines("a\n\x1bb").to_string(), "a\n\\x1bb");
    }
}
