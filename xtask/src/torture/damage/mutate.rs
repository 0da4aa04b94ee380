//! Damage: bits, lengths, blocks that are missing, doubled or another file's.

use std::io::Write;

use anyhow::{Context, Result};

use super::files::{Input, Packing};

/// Numbers that tend to break readers.
const NUMBERS: [u64; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
    1 << 40,
];
/// The longest block that is moved, doubled or removed.
const LONGEST: usize = 1 << 12;
/// The first bytes of a block of a trace or of a saved session (docs/trace-format.md).
const MARK: &[u8] = b"FSBK";
/// Those before the first block.
const HEAD: usize = 8;

/// A damaged copy of a file; `other` is another whole file.
pub(super) fn damaged(random: &mut fastrand::Rng, input: &Input, other: &[u8]) -> Result<Vec<u8>> {
    // Half of the damage is done below the packing, where no checksum finds it.
    if input.packing == Packing::Plain || random.bool() {
        let mut bytes = input.bytes.clone();
        hurt(random, &mut bytes, other);
        return Ok(bytes);
    }
    match input.packing {
        Packing::Blocks => in_blocks(random, &input.bytes, other),
        packing => {
            let mut content = packing.unpack(&input.bytes)?;
            hurt(random, &mut content, other);
            // Both are read unpacked as well.
            if packing == Packing::Zstd && random.bool() {
                return packed(&content);
            }
            Ok(content)
        }
    }
}

/// One to four injuries.
fn hurt(random: &mut fastrand::Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..random.usize(1..=4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.usize(..bytes.len());
        let end = bytes.len().min(at + random.usize(1..LONGEST));
        match random.u8(..8) {
            0 | 1 => bytes[at] ^= 1 << random.u8(..8),
            2 => bytes[at] = random.u8(..),
            3 => {
                let number = NUMBERS[random.usize(..NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.usize(..4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..end)),
            6 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ if !other.is_empty() => {
                let from = random.usize(..other.len());
                let to = other.len().min(from + random.usize(1..LONGEST));
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            _ => {}
        }
    }
}

/// Damages the content of one block of a trace, and packs it again.
fn in_blocks(random: &mut fastrand::Rng, trace: &[u8], other: &[u8]) -> Result<Vec<u8>> {
    let blocks = blocks(trace).context("a trace of ours is not as docs/trace-format.md has it")?;
    let chosen = random.usize(..blocks.len());
    let mut file = trace[..HEAD].to_vec();
    for (number, block) in blocks.iter().enumerate() {
        let mut content = zstd::decode_all(*block)?;
        if number == chosen {
            hurt(random, &mut content, other);
        }
        let packed = packed(&content)?;
        file.extend(MARK);
        file.extend((packed.len() as u32).to_le_bytes());
        file.extend((content.len() as u32).to_le_bytes());
        file.extend(packed);
    }
    Ok(file)
}

/// The packed contents of a trace's blocks.
fn blocks(trace: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = trace.get(HEAD..)?;
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let packed = u32::from_le_bytes(rest.strip_prefix(MARK)?.get(..4)?.try_into().ok()?);
        let content = rest.get(12..)?;
        let (block, after) = content.split_at_checked(packed as usize)?;
        blocks.push(block);
        rest = after;
    }
    Some(blocks).filter(|blocks| !blocks.is_empty())
}

/// A zstd frame as traces have it.
fn packed(content: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1)?;
    encoder.include_checksum(true)?;
    encoder.write_all(content)?;
    Ok(encoder.finish()?)
}
