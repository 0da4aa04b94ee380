//! The machine code of an object, by the addresses in its file.

use iced_x86::{Decoder, DecoderOptions, Instruction};

/// The longest x86 instruction, in bytes.
const LONGEST: usize = 15;

/// One executable segment.
#[derive(Clone, Debug)]
pub(in crate::probe) struct Segment {
    /// Address in the file's own address space (`p_vaddr`).
    pub address: u64,
    /// Offset in the file, in bytes.
    pub file_offset: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// All executable segments of one object.
#[derive(Clone, Debug, Default)]
pub(in crate::probe) struct Code {
    segments: Vec<Segment>,
}

impl Code {
    pub(in crate::probe) fn new(segments: Vec<Segment>) -> Self {
        Self { segments }
    }

    /// The bytes from `address` to the end of its segment.
    pub(in crate::probe) fn bytes_at(&self, address: u64) -> Option<&[u8]> {
        self.segments.iter().find_map(|s| {
            let offset = usize::try_from(address.checked_sub(s.address)?).ok()?;
            s.bytes.get(offset..).filter(|rest| !rest.is_empty())
        })
    }

    /// The instruction at `address`; `None` where there is none or its bytes are no instruction.
    pub(super) fn decode(&self, address: u64) -> Option<Instruction> {
        let bytes = self.bytes_at(address)?;
        let bytes = &bytes[..bytes.len().min(LONGEST)];
        let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// The bytes of `instruction`, which must come from [`Self::decode`].
    pub(super) fn bytes_of(&self, instruction: &Instruction) -> &[u8] {
        self.bytes_at(instruction.ip())
            .and_then(|bytes| bytes.get(..instruction.len()))
            .unwrap_or_default()
    }

    /// Where in the file the byte at `address` is.
    pub(super) fn file_offset(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|s| {
            let offset = address.checked_sub(s.address)?;
            (offset < s.bytes.len() as u64).then(|| s.file_offset.wrapping_add(offset))
        })
    }

    /// Every place outside `except` whose bytes look like a near `call`, `jmp` or `jcc` with a
    /// 32-bit displacement into `into`, as target addresses. A byte pattern that only looks like
    /// one may be among them: one in some millions of bytes for a function of a thousand.
    pub(super) fn far_branches_into(
        &self,
        into: std::ops::Range<u64>,
        except: std::ops::Range<u64>,
    ) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        for segment in &self.segments {
            for (i, window) in segment.bytes.windows(6).enumerate() {
                let (at, skip) = match window {
                    [0xe8 | 0xe9, ..] => (segment.address.wrapping_add(i as u64), 1),
                    [0x0f, 0x80..=0x8f, ..] => (segment.address.wrapping_add(i as u64), 2),
                    _ => continue,
                };
                let mut displacement = [0; 4];
                displacement.copy_from_slice(&window[skip..skip + 4]);
                let target = at
                    .wrapping_add(skip as u64 + 4)
                    .wrapping_add_signed(i32::from_le_bytes(displacement).into());
                if into.contains(&target) && !except.contains(&at) {
                    found.push((at, target));
                }
            }
        }
        found
    }
}
