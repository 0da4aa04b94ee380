//! Converts a position in a code object to a line number.

use crate::objects::layout::LineTable;

/// Bytes of an instruction from 3.6 on.
const INSTRUCTION: u64 = 2;

/// The line of the instruction at `offset`, in bytes from the first one; `None` if it has no line.
pub(super) fn line_of(table: LineTable, bytes: &[u8], first: u32, offset: u64) -> Option<u32> {
    match table {
        LineTable::Increments => increments(bytes, first, offset),
        LineTable::Ranges => ranges(bytes, first, offset),
        LineTable::Locations => locations(bytes, first, offset),
    }
}

/// Pairs of how many bytes and how many lines further (`Objects/lnotab_notes.txt`).
fn increments(bytes: &[u8], first: u32, offset: u64) -> Option<u32> {
    let (mut at, mut line) = (0, i64::from(first));
    for [bytes, lines] in bytes.as_chunks::<2>().0 {
        at += u64::from(*bytes);
        if at > offset {
            break;
        }
        line += i64::from(lines.cast_signed());
    }
    u32::try_from(line).ok()
}

/// Ranges of bytes, each with its line increment; -128 marks a range without a line.
fn ranges(bytes: &[u8], first: u32, offset: u64) -> Option<u32> {
    let (mut end, mut line) = (0, i64::from(first));
    for [bytes, lines] in bytes.as_chunks::<2>().0 {
        end += u64::from(*bytes);
        let lines = lines.cast_signed();
        if lines != i8::MIN {
            line += i64::from(lines);
        }
        if offset < end {
            return u32::try_from(line).ok().filter(|_| lines != i8::MIN);
        }
    }
    None
}

/// Ranges of instructions, each with a code for the format of its line (`Objects/locations.md`).
fn locations(bytes: &[u8], first: u32, offset: u64) -> Option<u32> {
    let (mut end, mut line) = (0, i64::from(first));
    let mut rest = bytes.iter().copied().peekable();
    while let Some(head) = rest.next() {
        end += (u64::from(head & 7) + 1) * INSTRUCTION;
        let form = head >> 3 & 15;
        line += match form {
            10..=12 => i64::from(form - 10),
            13 | 14 => signed(&mut rest)?,
            _ => 0,
        };
        if offset < end {
            return u32::try_from(line).ok().filter(|_| form != 15);
        }
        // The remaining bytes of an entry: only its first has the highest bit set.
        while rest.next_if(|byte| byte & 0x80 == 0).is_some() {}
    }
    None
}

/// A number in groups of six bits, the lowest first, whose lowest bit is its sign.
fn signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes.next()?;
        value |= u64::from(byte & 63) << shift;
        shift += 6;
        if byte & 64 == 0 {
            break;
        }
        if shift > 36 {
            return None;
        }
    }
    let size = (value >> 1).cast_signed();
    Some(if value & 1 == 1 { -size } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_each_kind_give_the_lines_that_they_were_made_of() {
        // Lines 10, 12 and 9 at 0, 6 and 10.
        let table = [6, 2, 4, 0xfd];
        let line = |offset| line_of(LineTable::Increments, &table, 10, offset);
        assert_eq!(
            [0, 5, 6, 9, 10, 99].map(line),
            [10, 10, 12, 12, 9, 9].map(Some)
        );
        // Two lines further up to 4, none up to 8, one back up to 10.
        let table = [4, 2, 4, 0x80, 2, 0xff];
        let line = |offset| line_of(LineTable::Ranges, &table, 10, offset);
        assert_eq!([0, 3].map(line), [Some(12); 2]);
        assert_eq!([4, 7, 10].map(line), [None; 3]);
        assert_eq!(line(8), Some(11));
        // Short, one line further, a long one 3 lines back, none, and without columns 40 further.
        let table = [
            0x80, 0x11, 0xd9, 1, 2, 0xf0, 7, 0, 1, 1, 0xf8, 0xe8, 0x50, 1,
        ];
        let line = |offset| line_of(LineTable::Locations, &table, 10, offset);
        assert_eq!(line(0), Some(10));
        assert_eq!([2, 5].map(line), [Some(11); 2]);
        assert_eq!(line(6), Some(8));
        assert_eq!(line(8), None);
        assert_eq!(line(10), Some(8 + 40));
        assert_eq!(line(12), None);
    }

    #[test]
    fn damaged_tables_end() {
        for table in [
            LineTable::Increments,
            LineTable::Ranges,
            LineTable::Locations,
        ] {
            for byte in 0..=255 {
                for length in 0..9 {
                    let _any = line_of(table, &vec![byte; length], u32::MAX, u64::MAX);
                }
            }
        }
    }
}
