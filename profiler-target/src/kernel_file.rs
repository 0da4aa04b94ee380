//! The text of files of `/proc` and `/sys`.
//!
//! Others choose much of it: names of processes and threads, mount points, control groups, mapped files. Such names are
//! bytes, and need not be UTF-8. So these files are read as bytes, up to a limit; `read_to_string` of the standard
//! library would fail for all of a file because of one name (`cargo xtask check-layers` refuses it).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

/// The longest file that is read whole, in bytes: far more than any of those has of which all is needed.
const MAX_BYTES: u64 = 1 << 20;
/// The kernel gives a page at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// The first bytes of a file, at most `most`.
///
/// # Errors
/// When it cannot be opened or read.
pub(super) fn bytes(path: impl AsRef<Path>, most: u64) -> io::Result<Vec<u8>> {
    first_bytes(File::open(path)?, most)
}

/// The same of a file that is open.
pub(super) fn first_bytes(file: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Bytes as text; what is not UTF-8 is replaced.
pub(super) fn lossy(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}

/// The text of a file of the kernel's, of at most a mebibyte. What is not UTF-8 is replaced: others may choose names in it.
///
/// # Errors
/// When it cannot be opened or read.
pub fn kernel_text(path: impl AsRef<Path>) -> io::Result<String> {
    Ok(lossy(bytes(path, MAX_BYTES)?))
}

/// How far a file was read line by line.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Lines {
    /// As far as was wanted.
    Read,
    /// To a limit of bytes or time: more lines follow.
    Cut,
}

/// Gives each line of a file without its end, until `each` breaks; at most `most` bytes, and no further line after
/// `deadline`. A line that the limit of bytes cuts is not given.
///
/// # Errors
/// When it cannot be read.
pub(super) fn each_line(
    file: impl Read,
    most: u64,
    deadline: Option<Instant>,
    mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<Lines> {
    let mut lines = BufReader::with_capacity(BUFFER_BYTES, file.take(most));
    let (mut line, mut left) = (Vec::new(), most);
    loop {
        line.clear();
        left -= lines.read_until(b'\n', &mut line)? as u64;
        match line.strip_suffix(b"\n") {
            _ if line.is_empty() => {
                return Ok(if left == 0 { Lines::Cut } else { Lines::Read });
            }
            None if left == 0 => return Ok(Lines::Cut),
            whole => {
                if each(whole.unwrap_or(&line)).is_break() {
                    return Ok(Lines::Read);
                }
            }
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(Lines::Cut);
        }
    }
}

/// A name as it is, from a file in which the kernel writes some characters as a backslash and three octal digits
/// (`mangle_path` in `fs/seq_file.c`).
pub(super) fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut rest = name;
    let mut bytes = Vec::with_capacity(name.len());
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.first_chunk::<3>().filter(|_| first == b'\\');
        let octal = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lines(text: &[u8], most: u64, deadline: Option<Instant>) -> (Vec<Vec<u8>>, Lines) {
        let mut all = Vec::new();
        let read = each_line(text, most, deadline, |line| {
            all.push(line.to_owned());
            match line {
                b"end" => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        (all, read.expect("bytes"))
    }

    #[test]
    fn lines_are_bytes_and_a_cut_is_known() {
        let own = |all: &[&[u8]]| all.iter().map(|line| line.to_vec()).collect::<Vec<_>>();
        let text = b"a \xff\n\nb";
        let all = own(&[b"a \xff", b"", b"b"]);
        assert_eq!(lines(text, 100, None), (all, Lines::Read));
        assert_eq!(lines(b"", 100, None), (vec![], Lines::Read));
        assert_eq!(lines(b"a\nend\nb\n", 100, None).1, Lines::Read);
        // In the midst of a line, and after a whole one.
        assert_eq!(lines(b"ab\ncd\n", 5, None), (own(&[b"ab"]), Lines::Cut));
        assert_eq!(lines(b"ab\ncd\n", 3, None), (own(&[b"ab"]), Lines::Cut));
        let now = Instant::now();
        assert_eq!(
            lines(b"ab\ncd\n", 100, Some(now)),
            (own(&[b"ab"]), Lines::Cut)
        );
        let later = now + Duration::from_secs(600);
        assert_eq!(lines(b"ab\ncd\n", 100, Some(later)).1, Lines::Read);
    }

    #[test]
    fn escapes_of_the_kernel_are_undone_and_nothing_else() {
        assert_eq!(unescaped(b"/a\\040b\\134\xff"), b"/a b\\\xff");
        for as_it_is in [&b"/a\\"[..], b"\\9", b"\\04", b"\\999", b""] {
            assert_eq!(unescaped(as_it_is), as_it_is);
        }
    }

    #[test]
    fn text_that_is_not_utf_8_is_read_all_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("status");
        std::fs::write(&path, b"Name:\t\xff\nUid:\t1000\n").expect("ours");
        let text = kernel_text(&path).expect("there");
        assert_eq!(text, "Name:\t\u{fffd}\nUid:\t1000\n");
    }
}
