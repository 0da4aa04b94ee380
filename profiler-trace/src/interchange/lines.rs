//! Lines of bounded length.

use std::io::{self, BufRead, Read};

use super::Input;

/// The longest line of a recording: a longer one is cut into several.
const LONGEST: u64 = 64 << 10;

/// The lines of a recording.
pub(super) struct Lines {
    input: Input,
    line: String,
    cut: bool,
}

impl Lines {
    pub(super) fn new(input: Input) -> Self {
        Self {
            input,
            line: String::new(),
            cut: false,
        }
    }

    /// Reads the next line. False at the end of the input, also if its compressed data breaks off.
    pub(super) fn advance(&mut self) -> io::Result<bool> {
        self.line.clear();
        let mut bytes = Vec::new();
        let mut bounded = Read::take(&mut self.input, LONGEST);
        match bounded.read_until(b'\n', &mut bytes) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(error) if is_cut(&error) => {
                self.cut = true;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        // Each line has an end, also the last.
        self.cut = bytes.last() != Some(&b'\n');
        self.line
            .push_str(String::from_utf8_lossy(&bytes).trim_end());
        Ok(true)
    }

    /// The last line read, without its end; [`Self::give_back`] avoids allocating a new one.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.line)
    }

    /// A line to be used again.
    pub(super) fn give_back(&mut self, line: String) {
        self.line = line;
    }

    /// Whether the input broke off, within a line or its compressed data.
    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }
}

/// Whether an error says that the input ends too early or is damaged: what precedes was read.
pub(super) fn is_cut(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::Other
    )
}
