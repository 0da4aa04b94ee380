//! Blocks, the units of traces and saved sessions: a header, and a zstd frame with a checksum of
//! its content.

use std::io::{self, Read, Write};

use crate::limits::Meter;

/// Begins each block.
pub(crate) const MARK: [u8; 4] = *b"FSBK";
/// Bytes of a block's header: mark, bytes packed, bytes unpacked.
const HEADER: usize = 12;
/// The most bytes to which a block unpacks, so that a damaged one cannot fill the memory.
pub(crate) const MAX_UNPACKED: usize = 4 << 20;

/// Writes a block with `head`, then `content`: together at most [`MAX_UNPACKED`] bytes. The head
/// says what the block is, and is covered by the checksum too. Returns the number of bytes written.
pub(crate) fn write(
    out: &mut impl Write,
    level: i32,
    head: &[u8],
    content: &[u8],
) -> io::Result<u64> {
    let unpacked = head.len() + content.len();
    debug_assert!(unpacked <= MAX_UNPACKED, "a block is bounded");
    let mut packer = zstd::Encoder::new(Vec::with_capacity(unpacked / 2), level)?;
    packer.include_checksum(true)?;
    packer.write_all(head)?;
    packer.write_all(content)?;
    let block = self::packed(&packer.finish()?, unpacked);
    out.write_all(&block)?;
    Ok(block.len() as u64)
}

/// A block with the compressed bytes `packed`, which were `unpacked` bytes before compression.
pub(crate) fn packed(packed: &[u8], unpacked: usize) -> Vec<u8> {
    let mut block = Vec::with_capacity(HEADER + packed.len());
    block.extend_from_slice(&MARK);
    block.extend_from_slice(&(packed.len() as u32).to_le_bytes());
    block.extend_from_slice(&(unpacked as u32).to_le_bytes());
    block.extend_from_slice(packed);
    block
}

/// What was found where a block should begin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum NextBlock {
    /// A whole block.
    Block,
    /// None, or one that does not unpack, and why. The bytes after it may be intact.
    Damaged(&'static str),
    /// The end of the file, at the end of a block or in the midst of one.
    End,
}

/// Reads the next block into `content`, by way of `packed`.
pub(crate) fn read(
    input: &mut impl Read,
    packed: &mut Vec<u8>,
    content: &mut Vec<u8>,
    meter: &Meter,
) -> io::Result<NextBlock> {
    let mut header = [0; HEADER];
    if fill(input, &mut header)? < HEADER {
        return Ok(NextBlock::End);
    }
    let word = |at: usize| {
        let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        u32::from_le_bytes(bytes) as usize
    };
    let (packed_len, unpacked_len) = (word(4), word(8));
    if header[..4] != MARK {
        return Ok(NextBlock::Damaged("no block begins where one should"));
    }
    // Incompressible data grows only a little.
    if unpacked_len > MAX_UNPACKED || packed_len > MAX_UNPACKED + (64 << 10) {
        return Ok(NextBlock::Damaged("a block that is too long"));
    }
    packed.resize(packed_len, 0);
    if fill(input, packed)? < packed_len {
        return Ok(NextBlock::End);
    }
    meter.content(unpacked_len as u64)?;
    content.clear();
    content.reserve(unpacked_len);
    let unpacker = zstd::Decoder::new(packed.as_slice())?;
    let taken = unpacker.take(unpacked_len as u64 + 1).read_to_end(content);
    Ok(match taken {
        Ok(taken) if taken == unpacked_len => NextBlock::Block,
        Ok(_) => NextBlock::Damaged("a block unpacks to another length than its header has"),
        Err(_) => NextBlock::Damaged("a block cannot be decompressed"),
    })
}

/// Reads until `buf` is full or the input ends; gives how much was read.
pub(crate) fn fill(input: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
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
