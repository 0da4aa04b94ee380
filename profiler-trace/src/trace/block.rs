//! Blocks: a header, and a zstd frame that carries a checksum of its content.

use std::io::{self, Read, Write};

use crate::limits::Meter;

/// Begins each block.
const MARK: [u8; 4] = *b"FSBK";
/// Bytes of a block's header: mark, bytes packed, bytes unpacked.
const HEADER: usize = 12;
/// No block unpacks to more, so that a damaged one cannot fill the memory.
pub(super) const MAX_UNPACKED: usize = 4 << 20;
/// zstd's fastest ordinary level: recording must keep up with the program.
const LEVEL: i32 = 1;

/// What a block holds: its first byte unpacked, so that the checksum covers it too.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Names and values of the [`super::Description`].
    Description = 1,
    /// The heap as it was when the recording began.
    Seed = 2,
    /// Events.
    Events = 3,
    /// A [`super::Checkpoint`].
    Checkpoint = 4,
    /// The end: nothing follows.
    End = 5,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [
            Self::Description,
            Self::Seed,
            Self::Events,
            Self::Checkpoint,
            Self::End,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// Writes a block; `content` is shorter than [`MAX_UNPACKED`] bytes. Gives the bytes written.
pub(super) fn write(out: &mut impl Write, kind: Kind, content: &[u8]) -> io::Result<u64> {
    debug_assert!(content.len() < MAX_UNPACKED, "a block is bounded");
    let mut packer = zstd::Encoder::new(Vec::with_capacity(content.len() / 2), LEVEL)?;
    packer.include_checksum(true)?;
    packer.write_all(&[kind as u8])?;
    packer.write_all(content)?;
    let packed = packer.finish()?;
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MARK);
    header[4..8].copy_from_slice(&(packed.len() as u32).to_le_bytes());
    header[8..].copy_from_slice(&(content.len() as u32 + 1).to_le_bytes());
    out.write_all(&header)?;
    out.write_all(&packed)?;
    Ok((HEADER + packed.len()) as u64)
}

/// Reads the next block into `content`, whose first byte is then its kind. `Ok(None)` where the file
/// ends, also in the midst of a block; an error of kind `InvalidData` where it is damaged.
pub(super) fn read(
    input: &mut impl Read,
    content: &mut Vec<u8>,
    meter: &Meter,
) -> io::Result<Option<Kind>> {
    let mut header = [0; HEADER];
    if fill(input, &mut header)? < HEADER {
        return Ok(None);
    }
    let word = |at: usize| {
        let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        u32::from_le_bytes(bytes) as usize
    };
    let (packed_len, unpacked_len) = (word(4), word(8));
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if header[..4] != MARK {
        return Err(damaged("no block begins where one should"));
    }
    // What does not shrink grows by a little only.
    if unpacked_len > MAX_UNPACKED || packed_len > MAX_UNPACKED + (64 << 10) {
        return Err(damaged("a block that is too long"));
    }
    let mut packed = vec![0; packed_len];
    if fill(input, &mut packed)? < packed_len {
        return Ok(None);
    }
    meter.content(unpacked_len as u64)?;
    content.clear();
    content.reserve(unpacked_len);
    let unpacker = zstd::Decoder::new(packed.as_slice())?;
    let taken = unpacker
        .take(unpacked_len as u64 + 1)
        .read_to_end(content)
        .map_err(|_| damaged("a block that cannot be decompressed"))?;
    if taken != unpacked_len {
        return Err(damaged("a block unpacks to another length than it says"));
    }
    let kind = content.first().copied().and_then(Kind::of);
    kind.map(Some)
        .ok_or_else(|| damaged("a block of no known kind"))
}

/// Reads until `buf` is full or the input ends; gives how much was read.
fn fill(input: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match input.read(&mut buf[done..]) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
