//! The memory of a made-up process, written word by word.
//!
//! An image is built with the offsets of one release of an allocator and without code of its
//! walker, so that the two check each other.

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::memory::{MemoryImage, ResidentMemory};
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};

/// Mappings with their resident content. Addresses outside make its methods panic.
#[derive(Clone, Debug, Default)]
pub struct HeapImage {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
struct Piece {
    mapping: Mapping,
    /// The content from the mapping's start; what is behind it was never touched.
    resident: Vec<u8>,
}

/// The `len` bytes from `start`.
pub fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::with_len(RemoteAddr::new(start), len).expect("a range")
}

/// A private mapping of `len` bytes at `start`, to read and write.
pub fn mapping(start: u64, len: u64, kind: MappingKind) -> Mapping {
    Mapping::private(range(start, len), kind)
}

impl HeapImage {
    /// Maps `len` bytes of zeros at `start`, to read and write, all of them resident.
    pub fn map(&mut self, start: u64, len: u64, kind: MappingKind) {
        self.map_partly(start, len, len, kind);
    }

    /// Maps `len` bytes at `start`, readable and writable, of which only the first `resident` are
    /// present.
    pub fn map_partly(&mut self, start: u64, len: u64, resident: u64, kind: MappingKind) {
        self.pieces.push(Piece {
            mapping: mapping(start, len, kind),
            resident: vec![0; resident as usize],
        });
    }

    /// Maps `len` bytes at `start`, readable and executable, of which nothing is resident.
    pub fn map_text(&mut self, start: u64, len: u64, kind: MappingKind) {
        self.pieces.push(Piece {
            mapping: Mapping {
                write: false,
                execute: true,
                ..mapping(start, len, kind)
            },
            resident: Vec::new(),
        });
    }

    /// The bytes from `addr` to the end of the resident content there.
    pub fn bytes(&self, addr: u64) -> &[u8] {
        let piece = self.pieces.iter().find(|piece| piece.holds(addr));
        let piece = piece.unwrap_or_else(|| panic!("{addr:#x} is not in the image"));
        &piece.resident[piece.offset(addr)..]
    }

    /// As [`Self::bytes`], to write to.
    pub fn bytes_mut(&mut self, addr: u64) -> &mut [u8] {
        let piece = self.pieces.iter_mut().find(|piece| piece.holds(addr));
        let piece = piece.unwrap_or_else(|| panic!("{addr:#x} is not in the image"));
        let offset = piece.offset(addr);
        &mut piece.resident[offset..]
    }

    /// Writes a word of 64 bits, little-endian as all others.
    pub fn put(&mut self, addr: u64, word: u64) {
        self.bytes_mut(addr)[..8].copy_from_slice(&word.to_le_bytes());
    }

    /// Writes a word of 32 bits.
    pub fn put_u32(&mut self, addr: u64, word: u32) {
        self.bytes_mut(addr)[..4].copy_from_slice(&word.to_le_bytes());
    }

    /// The word of 64 bits at `addr`.
    pub fn get(&self, addr: u64) -> u64 {
        let bytes = self.bytes(addr).first_chunk();
        u64::from_le_bytes(*bytes.expect("eight bytes"))
    }

    /// The word of 32 bits at `addr`.
    pub fn get_u32(&self, addr: u64) -> u32 {
        let bytes = self.bytes(addr).first_chunk();
        u32::from_le_bytes(*bytes.expect("four bytes"))
    }

    /// The resident content, mapping by mapping in ascending order.
    pub fn resident(&self) -> Vec<(AddrRange, &[u8])> {
        let of_piece = |piece: &'_ Piece| {
            let start = piece.mapping.range.start().get();
            range(start, piece.resident.len() as u64)
        };
        let mut all: Vec<_> = self
            .pieces
            .iter()
            .map(|piece| (of_piece(piece), &piece.resident[..]))
            .collect();
        all.sort_by_key(|(range, _)| range.start());
        all
    }

    /// Its bytes, for reading by address.
    pub fn memory(&self) -> MemoryImage {
        let mut memory = MemoryImage::default();
        for (range, bytes) in self.resident() {
            memory.insert(range.start(), bytes.to_vec());
        }
        memory
    }

    /// Its mappings, and which of their pages are present.
    pub fn residency(&self) -> ResidencyMap {
        let mut mappings: Vec<_> = self
            .pieces
            .iter()
            .map(|piece| piece.mapping.clone())
            .collect();
        mappings.sort_by_key(|mapping| mapping.range.start());
        let mut residency = ResidencyMap::new(mappings);
        for (range, bytes) in self.resident() {
            if !bytes.is_empty() {
                residency.push_run(PageRun {
                    range,
                    state: PageState::PRESENT,
                });
            }
        }
        residency
    }

    /// Walks it like a target, reading only what is resident.
    pub fn walk<R>(
        &self,
        walk: impl FnOnce(&ResidentMemory<'_, MemoryImage>, &ResidencyMap) -> R,
    ) -> R {
        let residency = self.residency();
        walk(&ResidentMemory::new(self.memory(), &residency), &residency)
    }
}

impl Piece {
    fn offset(&self, addr: u64) -> usize {
        (addr - self.mapping.range.start().get()) as usize
    }

    fn holds(&self, addr: u64) -> bool {
        addr >= self.mapping.range.start().get() && self.offset(addr) < self.resident.len()
    }
}

/// The places in an image where damage has the most effect, and the values for it: any walker's
/// first check rejects random bytes in random places.
#[derive(Clone, Debug)]
pub struct WeakPoints {
    /// The words that a walk reads. Each of these is damaged as often as every other.
    pub words: Vec<Words>,
    /// Values that are nearly right, in addition to zeros, ones, and random ones.
    pub values: Vec<Values>,
}

/// Words of an image: those in `bytes` bytes at each of `count` places.
#[derive(Copy, Clone, Debug)]
pub struct Words {
    start: u64,
    bytes: u64,
    count: u64,
    step: u64,
}

impl Words {
    /// The words in the `bytes` bytes from `start`.
    pub const fn of(start: u64, bytes: u64) -> Self {
        Self::of_each(start, bytes, 1, 0)
    }

    /// The words in the first `bytes` bytes of each of `count` items that are `step` bytes apart.
    pub const fn of_each(start: u64, bytes: u64, count: u64, step: u64) -> Self {
        Self {
            start,
            bytes,
            count,
            step,
        }
    }

    fn choose(self, number: u64) -> u64 {
        let (place, word) = (number % self.count, number / self.count);
        self.start + place * self.step + word % (self.bytes / 8) * 8
    }
}

/// Values that an allocator could have written.
#[derive(Copy, Clone, Debug)]
pub enum Values {
    /// Base, count, step: addresses of the image itself.
    Addresses(u64, u64, u64),
    /// Fields of a word: the bit where each begins, and its limit; with bits that are always set.
    Fields(&'static [(u32, u64)], u64),
}

impl Values {
    fn choose(self, mut number: u64) -> u64 {
        match self {
            Self::Addresses(base, count, step) => base + number % count * step,
            Self::Fields(fields, always) => fields.iter().fold(always, |word, (bit, limit)| {
                let field = number % limit;
                number /= limit;
                word | field << bit
            }),
        }
    }
}

/// One damage, in numbers that a property test or a fuzzer chooses.
#[derive(Copy, Clone, Debug)]
pub struct Damage {
    /// Which word.
    pub place: u32,
    /// The kind of value, and how it changes the previous one.
    pub kind: u8,
    /// Which value of that kind.
    pub value: u64,
}

impl Damage {
    /// Bytes of a damage in a fuzzer's input.
    const BYTES: usize = 13;

    /// The damages that a fuzzer's input describes.
    pub fn all_of(input: &[u8]) -> impl Iterator<Item = Self> + '_ {
        let (all, _) = input.as_chunks::<{ Self::BYTES }>();
        all.iter().map(|&[kind, a, b, c, d, ref value @ ..]| Self {
            place: u32::from_le_bytes([a, b, c, d]),
            kind,
            value: u64::from_le_bytes(*value),
        })
    }

    /// Damages the image.
    pub fn apply(self, image: &mut HeapImage, weak: &WeakPoints) {
        let (place, kinds) = (self.place as usize, weak.words.len());
        let addr = weak.words[place % kinds].choose((place / kinds) as u64);
        let place = image.bytes_mut(addr);
        let choices = 5 + weak.values.len();
        let (how, kind) = (
            usize::from(self.kind) / choices % 8,
            usize::from(self.kind) % choices,
        );
        let value = match kind {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => self.value % 0x5000,
            4 => self.value,
            of_image => weak.values[of_image - 5].choose(self.value),
        };
        let width = if how == 7 { 1 } else { 8 };
        for (byte, value) in place[..width].iter_mut().zip(value.to_le_bytes()) {
            // Small changes keep their surroundings plausible.
            *byte = if how == 6 { *byte ^ value } else { value };
        }
    }
}
