//! Lines of bounded length.

use std::io::{self, BufRead, Read};

/// No line of a recording is longer: what is longer is cut into several.
const LONGEST: u64 = 64 << 10;

/// Reads the next line into `line`, without its end. False at the end of the input, also when it
/// breaks off within what it is packed in.
pub(super) fn next(input: &mut dyn BufRead, line: &mut String) -> io::Result<bool> {
    line.clear();
    let mut bytes = Vec::new();
    let mut bounded = Read::take(&mut *input, LONGEST);
    match bounded.read_until(b'\n', &mut bytes) {
        Ok(0) => return Ok(false),
        Ok(_) => {}
        Err(error) if is_cut(&error) => return Ok(false),
        Err(error) => return Err(error),
    }
    line.push_str(String::from_utf8_lossy(&bytes).trim_end());
    Ok(true)
}

/// Whether an error says that the input ends too early or is damaged: what precedes was read.
pub(super) fn is_cut(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::Other
    )
}
