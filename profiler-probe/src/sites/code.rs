//! The machine code of an object, by the addresses in its file.

use iced_x86::{Decoder, DecoderOptions, Instruction};
use profiler_core::machine::Machine;

/// The longest x86 instruction, in bytes.
const LONGEST: usize = 15;

/// One executable segment.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// Address in the file's own address space (`p_vaddr`).
    pub address: u64,
    /// Offset in the file, in bytes.
    pub file_offset: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// All executable segments of one object.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    machine: Machine,
    segments: Vec<Segment>,
}

impl Code {
    pub(crate) fn new(machine: Machine, segments: Vec<Segment>) -> Self {
        Self { machine, segments }
    }

    /// The machine that the code is for.
    pub(super) fn machine(&self) -> Machine {
        self.machine
    }

    /// All its 4-byte words, with their addresses.
    pub(super) fn words(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.segments.iter().flat_map(|segment| {
            let (words, _) = segment.bytes.as_chunks::<4>();
            (0u64..).zip(words).map(|(number, word)| {
                let address = segment.address.wrapping_add(4 * number);
                (address, u32::from_le_bytes(*word))
            })
        })
    }

    /// The bytes from `address` to the end of its segment.
    pub(crate) fn bytes_at(&self, address: u64) -> Option<&[u8]> {
        self.segments.iter().find_map(|s| {
            let offset = usize::try_from(address.checked_sub(s.address)?).ok()?;
            s.bytes.get(offset..).filter(|rest| !rest.is_empty())
        })
    }

    /// The instruction at `address`; `None` if there is none or its bytes are no instruction.
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

    /// The file offset of the byte at `address`.
    pub(super) fn file_offset(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|s| {
            let offset = address.checked_sub(s.address)?;
            (offset < s.bytes.len() as u64).then(|| s.file_offset.wrapping_add(offset))
        })
    }

    /// The targets within `into` of everything that looks like a near `call`, `jmp`, `jcc` or `lea`
    /// with a 32-bit displacement, within `from`. Bytes that only look like one may be among them:
    /// one in some millions for a target of a thousand bytes.
    pub(super) fn references(
        &self,
        into: impl Fn(u64) -> bool,
        from: impl Fn(u64) -> bool,
    ) -> Vec<u64> {
        let mut found = Vec::new();
        for segment in &self.segments {
            for (i, window) in segment.bytes.windows(7).enumerate() {
                let skip = match window {
                    [0xe8 | 0xe9, ..] => 1,
                    [0x0f, 0x80..=0x8f, ..] => 2,
                    // `lea` relative to `rip`: REX.W, and ModRM with mod 0 and r/m 5.
                    [0x48 | 0x4c, 0x8d, modrm, ..] if modrm & 0xc7 == 5 => 3,
                    _ => continue,
                };
                let at = segment.address.wrapping_add(i as u64);
                let mut displacement = [0; 4];
                displacement.copy_from_slice(&window[skip..skip + 4]);
                let target = at
                    .wrapping_add(skip as u64 + 4)
                    .wrapping_add_signed(i32::from_le_bytes(displacement).into());
                if into(target) && from(at) {
                    found.push(target);
                }
            }
        }
        found
    }
}
