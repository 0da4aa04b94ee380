//! The first pass over all live blocks: which blocks hold objects, and what storage those have.

mod claims;

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use hashbrown::HashMap;

use self::claims::{ALL, Claim, Moved, Owner};
pub(super) use self::claims::{MAX_VALUES_HEAD, Words};
use super::blocks::BlockIndex;
use super::kinds::{Content, Kind, PackedKind};
use super::layout::{DictTable, Layout, SIZE, StrLayout};
use super::types::{Flags, Role, TypeFacts, TypeTable};
use super::words::{Window, read_word, word};
use crate::addr::{AddrRange, HEAP_END, RemoteAddr};
use crate::memory::TargetMemory;
use crate::parallel;

/// Bytes of a block that are examined: the head of an object and its first fields.
pub(super) const EXAMINED_BYTES: u64 = 160;
/// In 2.7 numbers are made in blocks of malloc's, of a link and then as many of them as there is room for in
/// 1000 bytes (`PyIntBlock` and `PyFloatBlock`, `Objects/intobject.c` and `floatobject.c`).
const NUMBER_BLOCK: u64 = 992;
/// The link, and the bytes of a number.
const NUMBERS: (u64, u64) = (8, 24);
/// The size of a thread's caches of types, and of addresses known to have no type.
const KEPT_TYPES: usize = 1 << 15;
/// One block in this many is read twice, to check whether its contents changed.
pub(super) const COMPARED: u32 = 16;
/// Larger storage, in bytes, is read together with its owner: it moves when it grows, and an owner
/// read much earlier or later would no longer refer to it.
pub(super) const LARGE: u64 = 64 << 10;
/// A block whose size differs from the outgrown size by a larger factor was not the container's.
const MAX_RATIO: f64 = 2.0;
/// The most items counted in one container.
const MAX_ENTRIES: u64 = 1 << 36;
/// Bytes that the hooks of `PYTHONMALLOC=debug` put before each block (`Objects/obmalloc.c`).
pub(super) const DEBUG_HEAD: u64 = 16;

/// An object that is examined later.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Noted {
    pub(super) block: u32,
    pub(super) role: Role,
    /// Its address.
    pub(super) object: u64,
}

/// What the first pass found.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// The kind of each block.
    pub(super) kinds: Vec<PackedKind>,
    /// Blocks in which only these words are references, ascending.
    pub(super) limits: Vec<(u32, Words)>,
    /// Containers with the large storage that each had, and deques with their blocks, ascending.
    pub(super) storage: Vec<(u32, u32)>,
    /// Modules, frames and similar objects, ascending by block.
    pub(super) noted: Vec<Noted>,
    /// The counts of each type.
    pub(super) counts: Vec<Counts>,
    /// Fingerprints of some immutable objects, ascending by block.
    pub(super) prints: Vec<(u32, u64)>,
    /// What `mmap` objects say that they map, ascending by block.
    pub(super) mapped: Vec<(u32, AddrRange)>,
}

/// Counts of a type's objects besides their bytes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    /// Objects that the garbage collector tracks.
    pub(super) tracked: u64,
    /// The total number of their items.
    pub(super) entries: u64,
}

/// Data shared by all threads of a pass.
pub(super) struct Source<'a, M> {
    pub(super) memory: &'a M,
    pub(super) layout: &'a Layout,
    pub(super) index: &'a BlockIndex,
    /// Bytes that may precede the requested part of a block: none, or the debug hooks' header.
    pub(super) leads: &'a [u64],
}

/// A fingerprint of the contents of an immutable object: if it differs later, another object is
/// there. Hashes and other encodings are left out, because they are computed on demand.
pub(super) fn print_of(layout: &Layout, facts: &TypeFacts, fields: &[u8]) -> Option<u64> {
    let places: &[u64] = match (facts.role, layout.str) {
        (Role::Leaf, _) if facts.flags.has(Flags::BYTES) => &[SIZE, 40, 48],
        (Role::Leaf, _) => &[16, 24],
        (Role::Str, StrLayout::Compact { ascii, .. }) => match word(fields, 32)? >> 5 & 3 {
            // Compact and ASCII: its characters follow.
            3 if ascii == 40 => &[SIZE, 40, 48],
            3 => &[SIZE, 48, 56],
            _ => &[SIZE],
        },
        (Role::Tuple, _) if !facts.flags.has(Flags::HEAP) => &[SIZE, 24, 32, 40],
        _ => return None,
    };
    let first = word(fields, 8)?;
    let words = places.iter().map(|&at| word(fields, at).unwrap_or(0));
    // Fowler, Noll and Vo's.
    Some(words.fold(first, |print, word| {
        (print ^ word)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23)
    }))
}

/// The number of blocks from which on a separate thread is worthwhile.
const BLOCKS_A_THREAD: usize = 1 << 16;

/// Numbers of blocks in parts, one for each thread.
pub(super) fn parts(index: &BlockIndex) -> impl Iterator<Item = Range<u32>> {
    let parts = parallel::parts(index.len(), BLOCKS_A_THREAD);
    parts.map(|part| part.start as u32..part.end as u32)
}

/// Reads the beginning of every block.
pub(super) fn scan<M: TargetMemory + Sync>(
    source: &Source<'_, M>,
    types: &Mutex<TypeTable<&M>>,
) -> Scanned {
    let mut kinds = vec![PackedKind::default(); source.index.len()];
    let mut rest = kinds.as_mut_slice();
    let parts = parts(source.index).map(|blocks| {
        let (part, behind) = std::mem::take(&mut rest).split_at_mut(blocks.len());
        rest = behind;
        (blocks, part)
    });
    let found = parallel::each(parts, |(blocks, kinds)| {
        Scan::new(source, types).run(blocks, kinds)
    });
    let mut scanned = Scanned {
        kinds,
        ..Scanned::default()
    };
    let mut moved = Vec::new();
    for part in found {
        scanned.noted.extend(part.noted);
        scanned.prints.extend(part.prints);
        scanned.mapped.extend(part.mapped);
        moved.extend(part.moved);
        let types = part.counts.len().max(scanned.counts.len());
        scanned.counts.resize(types, Counts::default());
        for (all, more) in scanned.counts.iter_mut().zip(&part.counts) {
            all.tracked += more.tracked;
            all.entries = all.entries.saturating_add(more.entries);
        }
        for claim in part.claims {
            let kind = &mut scanned.kinds[claim.block as usize];
            // A block that contains an object is not storage; the first owner gets it. What looks
            // like a freed object may be old data: deques and lists do not clear their blocks.
            if kind.is_native() || kind.get() == Kind::Spare {
                let (of, content) = (claim.owner.of, claim.content);
                *kind = PackedKind::of(Kind::Storage { of, content });
                let is_large = source.index.bytes(claim.block) >= LARGE;
                if content == Content::DequeItems || content.is_of_container() && is_large {
                    scanned.storage.push((claim.owner.block, claim.block));
                }
                if claim.words != ALL {
                    scanned.limits.push((claim.block, claim.words));
                }
            }
        }
    }
    scanned.limits.sort_unstable_by_key(|(block, _)| *block);
    scanned.give_former(moved, source.index);
    scanned.storage.sort_unstable();
    scanned
}

impl Scanned {
    /// Assigns the old blocks to containers whose storage has moved since the walk. Nothing says
    /// which blocks those were: each container gets the block that has become unreadable and whose
    /// size is nearest to the outgrown size.
    fn give_former(&mut self, mut moved: Vec<Moved>, index: &BlockIndex) {
        if moved.is_empty() {
            return;
        }
        let unreadable = (0..index.len() as u32)
            .filter(|&block| index.bytes(block) >= LARGE)
            .filter(|&block| self.kinds[block as usize].get() == Kind::Unreadable);
        let mut gone: Vec<(u64, u32)> = unreadable
            .map(|block| (index.bytes(block), block))
            .collect();
        moved.sort_unstable_by_key(|moved| (Reverse(moved.outgrown), moved.owner.block));
        for moved in moved {
            let ratio = |bytes: u64| {
                let (low, high) = (bytes.min(moved.outgrown), bytes.max(moved.outgrown));
                high as f64 / low as f64
            };
            let nearest = (gone.iter().enumerate())
                .min_by(|(_, a), (_, b)| ratio(a.0).total_cmp(&ratio(b.0)))
                .filter(|(_, (bytes, _))| ratio(*bytes) < MAX_RATIO);
            let Some((at, _)) = nearest else {
                continue;
            };
            let (_, block) = gone.swap_remove(at);
            let (of, content) = (moved.owner.of, Content::Bytes);
            self.kinds[block as usize] = PackedKind::of(Kind::Storage { of, content });
            self.storage.push((moved.owner.block, block));
        }
    }
}

/// What one thread found.
#[derive(Default)]
struct Part {
    claims: Vec<Claim>,
    moved: Vec<Moved>,
    noted: Vec<Noted>,
    counts: Vec<Counts>,
    prints: Vec<(u32, u64)>,
    mapped: Vec<(u32, AddrRange)>,
}

/// One thread's pass.
struct Scan<'a, 'm, M> {
    source: &'a Source<'a, M>,
    types: &'a Mutex<TypeTable<&'m M>>,
    known: HashMap<u64, Option<TypeFacts>>,
    /// Of the numpy types last met, whether their elements are objects.
    object_descr: HashMap<u64, bool>,
    part: Part,
}

impl<'a, 'm, M: TargetMemory + Sync> Scan<'a, 'm, M> {
    fn new(source: &'a Source<'a, M>, types: &'a Mutex<TypeTable<&'m M>>) -> Self {
        Self {
            source,
            types,
            known: HashMap::new(),
            object_descr: HashMap::new(),
            part: Part::default(),
        }
    }

    fn run(mut self, blocks: Range<u32>, kinds: &mut [PackedKind]) -> Part {
        let index = self.source.index;
        let mut window = Window::new(self.source.memory);
        let last = blocks.end.checked_sub(1);
        let end = last.map_or(RemoteAddr::default(), |last| index.range(last).end());
        for ((block, range), kind) in index.ranges(blocks).zip(kinds) {
            let len = range.len().min(match self.may_have_numbers(range) {
                true => NUMBER_BLOCK,
                false => EXAMINED_BYTES,
            });
            let Some(looked_at) = AddrRange::with_len(range.start(), len) else {
                continue;
            };
            *kind = PackedKind::of(match window.bytes(looked_at, end) {
                Ok(bytes) => self.classify(block, range, bytes),
                Err(_) => Kind::Unreadable,
            });
        }
        self.part
    }

    fn classify(&mut self, block: u32, range: AddrRange, bytes: &[u8]) -> Kind {
        for &lead in self.source.leads {
            for &offset in self.source.layout.heads() {
                let head = lead + offset;
                let (Some(count), Some(of)) = (word(bytes, head), word(bytes, head + 8)) else {
                    continue;
                };
                let count = self.source.layout.reference_count(count);
                let Some(count) = count.filter(|count| !self.is_object(*count)) else {
                    continue;
                };
                let Some(facts) = self.type_at(of) else {
                    continue;
                };
                if facts.head != offset || head + facts.least_size > range.len() {
                    continue;
                }
                if count == 0 {
                    return Kind::Spare;
                }
                self.take(block, range, bytes, head, &facts);
                return Kind::Object { of: facts.id, head };
            }
        }
        let numbers = self.may_have_numbers(range).then(|| self.numbers(bytes));
        match numbers.flatten() {
            Some(of) => Kind::Storage {
                of,
                content: Content::Bytes,
            },
            None => Kind::Native,
        }
    }

    /// Whether a word that may be a reference count is the address of an object: addresses of a
    /// program that is not relocated, and of its `brk`, are small.
    fn is_object(&mut self, word: u64) -> bool {
        const SMALL_ADDRESSES: Range<u64> = 0x1_0000..1 << 30;
        SMALL_ADDRESSES.contains(&word)
            && word.is_multiple_of(8)
            && read_word(self.source.memory, word + 8).is_some_and(|of| self.type_at(of).is_some())
    }

    /// Whether a block has the size of the blocks in which 2.7 keeps its numbers; malloc may add 16
    /// bytes.
    fn may_have_numbers(&self, range: AddrRange) -> bool {
        let sizes = NUMBER_BLOCK..=NUMBER_BLOCK + 24;
        self.source.layout.dict == DictTable::Open && sizes.contains(&range.len())
    }

    /// The type of the numbers in a block of 2.7's, of those that are in use.
    fn numbers(&mut self, bytes: &[u8]) -> Option<u32> {
        let (first, each) = NUMBERS;
        let mut places = (first..bytes.len() as u64).step_by(each as usize);
        places.find_map(|at| {
            let of = self.type_at(word(bytes, at + 8)?)?;
            let is_number = of.role == Role::Leaf && of.basic_size == each;
            is_number.then_some(of.id)
        })
    }

    #[inline]
    fn type_at(&mut self, addr: u64) -> Option<TypeFacts> {
        // Most words after a small one are not addresses.
        if !addr.is_multiple_of(8) || !(1 << 16..HEAP_END).contains(&addr) {
            return None;
        }
        if let Some(known) = self.known.get(&addr) {
            return *known;
        }
        if self.known.len() >= KEPT_TYPES {
            self.known.clear();
        }
        let mut types = self.types.lock().unwrap_or_else(PoisonError::into_inner);
        let found = types.at(addr);
        self.known.insert(addr, found);
        found
    }

    /// Processes an object: its storage, and whether it is examined later.
    fn take(&mut self, block: u32, range: AddrRange, bytes: &[u8], head: u64, facts: &TypeFacts) {
        let layout = self.source.layout;
        let object = range.start().get() + head;
        let fields = &bytes[head as usize..];
        if self.is_tracked(bytes, head, facts) {
            self.counts(facts.id).tracked += 1;
        }
        if matches!(
            facts.role,
            Role::Module | Role::Frame | Role::Generator | Role::LocalDummy | Role::Type
        ) {
            self.part.noted.push(Noted {
                block,
                role: facts.role,
                object,
            });
        }
        if block.is_multiple_of(COMPARED)
            && let Some(print) = print_of(layout, facts, fields)
        {
            self.part.prints.push((block, print));
        }
        if let Some(offset) = layout.length(facts.role) {
            let entries = word(fields, offset).unwrap_or(0).min(MAX_ENTRIES);
            let counts = self.counts(facts.id);
            counts.entries = counts.entries.saturating_add(entries);
        }
        let owner = Owner {
            block,
            of: facts.id,
        };
        self.claim_storage(owner, object..range.end().get(), fields, facts);
        if facts.flags.has(Flags::MANAGED_DICT) && head >= 32 {
            self.claim_managed_values(bytes, head, owner);
        }
    }

    /// Whether the collector tracks an object and reports it.
    fn is_tracked(&self, bytes: &[u8], head: u64, facts: &TypeFacts) -> bool {
        if !facts.flags.has(Flags::HAVE_GC) {
            return false;
        }
        let layout = self.source.layout;
        let gc = head.saturating_sub(layout.gc_head);
        let gc_head: [u64; 4] =
            std::array::from_fn(|at| word(bytes, gc + at as u64 * 8).unwrap_or(0));
        // The collector moves immortal objects to a generation that it does not report.
        let count = word(bytes, head).unwrap_or(0);
        let shown = layout.version < (3, 12) || count as i32 >= 0;
        shown && layout.is_tracked(&gc_head)
    }

    /// The counts of a type.
    #[inline]
    fn counts(&mut self, id: u32) -> &mut Counts {
        let id = id as usize;
        if self.part.counts.len() <= id {
            self.part.counts.resize(id + 1, Counts::default());
        }
        &mut self.part.counts[id]
    }
}
