//! The radix tree that maps pages to extents (`rtree.h`): `extents_rtree` up to 5.2,
//! `arena_emap_global` in 5.3. Each extent is in it under its first and last page, a slab under all
//! of its pages.

use super::bytes::{Bytes, word, word_at};
use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::TargetMemory;
use crate::residency::ResidencyMap;

/// Words of data that are tried as elements of the root.
const MAX_TRIES: usize = 1 << 22;
/// Bytes of leaves read at a time.
const PART: u64 = 1 << 20;

/// The shape of the tree. It follows from the number of virtual address bits of the machine on
/// which jemalloc was configured (`LG_VADDR`).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Shape {
    /// Bits of the page number that each level takes, from the root.
    levels: &'static [u32],
    /// Bytes of one element of a leaf.
    element: u64,
    /// Whether an element is one word with flags next to the pointer (`RTREE_LEAF_COMPACT`).
    compact: bool,
}

/// 48 bits, and 57 bits, as a machine with five levels of page tables has.
const SHAPES: [Shape; 2] = [
    Shape {
        levels: &[18, 18],
        element: 8,
        compact: true,
    },
    Shape {
        levels: &[15, 15, 15],
        element: 16,
        compact: false,
    },
];

const LG_PAGE: u32 = 12;

impl Shape {
    /// The indices of a page, from the root.
    fn keys(&self, addr: u64) -> impl Iterator<Item = u64> {
        let mut rest: u32 = self.levels.iter().sum();
        self.levels.iter().map(move |&bits| {
            rest -= bits;
            (addr >> (LG_PAGE + rest)) & ((1 << bits) - 1)
        })
    }

    /// The extent that an element of a leaf points to.
    fn extent(&self, element: u64) -> u64 {
        if self.compact {
            ((element << 16) as i64 >> 16) as u64 & !63
        } else {
            element
        }
    }
}

/// The tree, found.
pub(super) struct Tree {
    shape: Shape,
    root: Vec<u8>,
}

/// Finds the tree by one extent that must be in it: `extent` is the address of its structure,
/// `addr` that of its memory.
pub(super) fn find<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    data: &[Bytes],
    extent: u64,
    addr: u64,
) -> Option<Tree> {
    let mut tries = 0;
    for shape in SHAPES {
        let keys: Vec<u64> = shape.keys(addr).collect();
        let (&first, inner) = keys.split_first()?;
        let root_bytes = 8 << shape.levels[0];
        for piece in data {
            let Some(end) = (piece.bytes.len() as u64).checked_sub(root_bytes) else {
                continue;
            };
            for start in (0..=end).step_by(8) {
                let child = piece.word(start + 8 * first);
                if child == 0
                    || child % 64 != 0
                    || child >> 56 != 0
                    || residency.mapping_at(RemoteAddr::new(child)).is_none()
                {
                    continue;
                }
                tries += 1;
                if tries > MAX_TRIES {
                    return None;
                }
                if leads_to(memory, shape, child, inner, extent) {
                    let root = piece
                        .bytes
                        .get(start as usize..(start + root_bytes) as usize)?;
                    return Some(Tree {
                        shape,
                        root: root.to_vec(),
                    });
                }
            }
        }
    }
    None
}

fn leads_to<M: TargetMemory>(
    memory: &M,
    shape: Shape,
    child: u64,
    keys: &[u64],
    extent: u64,
) -> bool {
    let mut at = child;
    for (depth, key) in keys.iter().enumerate() {
        let step = if depth + 1 == keys.len() {
            shape.element
        } else {
            8
        };
        let Some(next) = at.checked_add(key * step).and_then(|a| word_at(memory, a)) else {
            return false;
        };
        at = next;
    }
    shape.extent(at) == extent
}

/// What the leaves point to.
#[derive(Default)]
pub(super) struct Leaves {
    /// Addresses of extents' structures, ascending, each once.
    pub(super) extents: Vec<u64>,
    /// Memory of the tree below its root.
    pub(super) nodes: Vec<AddrRange>,
    /// Bytes of leaves that could not be read.
    pub(super) unreadable: u64,
}

impl Tree {
    /// Visits all leaves. `most` bounds the number of extents: no valid tree has more.
    pub(super) fn extents<M: TargetMemory>(
        &self,
        memory: &M,
        residency: &ResidencyMap,
        most: usize,
    ) -> Leaves {
        let mut found = Leaves::default();
        let mut nodes = vec![children(&self.root)];
        let inner = &self.shape.levels[1..];
        for (depth, bits) in inner.iter().enumerate() {
            let is_leaf = depth + 1 == inner.len();
            let len = if is_leaf { self.shape.element } else { 8 } << bits;
            let mut next = Vec::new();
            let mut level = nodes.pop().unwrap_or_default();
            level.sort_unstable();
            let mut end = RemoteAddr::default();
            for node in level {
                let range = AddrRange::with_len(RemoteAddr::new(node), len);
                // Nodes do not overlap, so that no byte is read twice, whatever the words contain.
                let Some(range) = range.filter(|range| range.start() >= end) else {
                    continue;
                };
                end = range.end();
                found.nodes.push(range);
                self.node(memory, residency, range, is_leaf, &mut next, &mut found);
                if found.extents.len() > most {
                    break;
                }
            }
            nodes.push(next);
        }
        found.extents.sort_unstable();
        found.extents.dedup();
        found
    }

    /// Reads one node: the children of an inner one into `next`, the extents of a leaf into
    /// `found`. Pages that were never touched hold none.
    fn node<M: TargetMemory>(
        &self,
        memory: &M,
        residency: &ResidencyMap,
        range: AddrRange,
        is_leaf: bool,
        next: &mut Vec<u64>,
        found: &mut Leaves,
    ) {
        let mut last = 0;
        let mut buffer = Vec::new();
        for run in residency.runs_in(range) {
            if run.state.is_zero() {
                continue;
            }
            let mut at = run.range.start().get();
            while at < run.range.end().get() {
                let len = (run.range.end().get() - at).min(PART);
                buffer.resize(len as usize, 0);
                if memory.read(RemoteAddr::new(at), &mut buffer).is_err() {
                    found.unreadable += len;
                } else if is_leaf {
                    for element in buffer.chunks_exact(self.shape.element as usize) {
                        let extent = self.shape.extent(word(element, 0));
                        if extent != last && extent != 0 {
                            last = extent;
                            found.extents.push(extent);
                        }
                    }
                } else {
                    next.extend(children(&buffer));
                }
                at += len;
            }
        }
    }
}

fn children(node: &[u8]) -> Vec<u64> {
    let (words, _) = node.as_chunks::<8>();
    let pointers = words.iter().map(|bytes| u64::from_le_bytes(*bytes));
    pointers.filter(|&p| p != 0 && p % 64 == 0).collect()
}
