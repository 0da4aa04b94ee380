//! The census: what the live blocks of a process are and who holds them, as rows with names, so
//! that it can be compared with another census of the same process.

use crate::addr::RemoteAddr;
use crate::allocator::Allocator;
use crate::size_class::SizeClass;
use crate::units::{bytes, nanoseconds, percent};

use super::growth::Growth;
pub use super::holder::{Branch, Calls, Holder, NameKind, PathStep, Via};
pub use super::layout::LayoutBasis;
pub use super::page_owners::PageOwner;
pub use super::pins::{Copied, Dropped};

/// A number of blocks and their bytes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Amount {
    /// How many.
    pub blocks: u64,
    /// Their bytes as counted by the allocator, without headers.
    pub bytes: u64,
}

/// Holders that reports have: the largest.
pub(super) const SHOWN: usize = 100;
/// Of the others those that grow most, if there are two censuses.
const SHOWN_GROWING: usize = 20;

/// If a larger share of a process's objects was replaced between two reads, the process changes
/// faster than it can be read.
const UNSTEADY_SHARE: f64 = 0.03;
/// Replaced objects, of those read twice, that are normal in any program.
const LEAST_REPLACED: u64 = 16;

impl Amount {
    pub(super) fn add(&mut self, bytes: u64) {
        self.blocks += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// All objects of one type.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TypeRow {
    /// The type with its module, `app.models.Order`; without a module if it is built in. Untrusted
    /// text.
    pub name: String,
    /// Objects in memory, and the bytes of their blocks.
    pub objects: Amount,
    /// Their other blocks: items, tables, values, buffers.
    pub storage: Amount,
    /// Objects tracked by the garbage collector: those that `gc.get_objects()` returns.
    pub tracked: u64,
    /// The total number of items if they are containers: entries, or bytes of a `bytearray`.
    pub entries: u64,
    /// Free bytes on the resident pages of its blocks, divided evenly among the live blocks of a
    /// page.
    pub pinned_free_bytes: u64,
    /// For a forked process: its share of the pages copied by writes since, divided evenly among
    /// the live blocks of a page.
    pub copied_bytes: u64,
    /// Blocks of its objects, and of what belongs to them, without a known root.
    pub unreached: Amount,
}

/// Native blocks of one size class.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct NativeRow {
    /// Whose.
    pub allocator: Allocator,
    /// Their sizes.
    pub class: SizeClass,
    /// The blocks that no object of Python's owns.
    pub native: Amount,
}

/// How much of an allocator's live blocks is named.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct AllocatorShare {
    /// Whose.
    pub allocator: Allocator,
    /// All its live blocks.
    pub live: Amount,
    /// Of those, objects and their storage, and what Python keeps of freed ones.
    pub named: Amount,
}

/// What a package's modules hold besides what is in a holder's row: code, functions, classes,
/// constants.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PackageRow {
    /// The first component of its modules' names. Untrusted text.
    pub name: String,
    /// That.
    pub unlisted: Amount,
}

/// A name of the program, and the object that it is bound to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Binding {
    /// The name. Foreign text.
    pub name: String,
    /// The type of the object.
    pub type_name: String,
    /// The word that refers to it.
    pub place: RemoteAddr,
    /// How often the name was seen bound to another object since the census before.
    pub rebound: u64,
}

/// What the live blocks are, and who holds them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Census {
    /// When the walk was that gave the blocks, in nanoseconds since 1970-01-01 UTC.
    pub taken_at_ns: u64,
    /// Python's major and minor version.
    pub python: (u8, u8),
    /// Whose layout was used.
    pub layout: LayoutBasis,
    /// Whether the target stood still.
    pub exact: bool,
    /// All live blocks.
    pub live: Amount,
    /// Types, the most bytes first.
    pub types: Vec<TypeRow>,
    /// Blocks that no object owns, the most bytes first.
    pub native: Vec<NativeRow>,
    /// Freed objects that Python keeps for reuse.
    pub spare: Amount,
    /// Blocks that could not be read.
    pub unreadable: Amount,
    /// By allocator.
    pub shares: Vec<AllocatorShare>,
    /// Objects that were others, or gone, when they were read a second time.
    pub changed: u64,
    /// Objects of immutable types (numbers, strings, tuples) that were read twice: one block in
    /// sixteen.
    pub compared: u64,
    /// Those of them in whose place there was something else the second time.
    pub replaced: u64,
    /// Native blocks that `tracemalloc` uses itself; `None` if unknown.
    pub tracing: Option<Amount>,
    /// `mmap` objects, and the resident bytes that they map. These are outside the heaps, so they
    /// are not part of [`Self::live`].
    pub mapped: Amount,
    /// Holders, the most bytes first: more than reports have, see [`Self::shown`].
    pub holders: Vec<Holder>,
    /// When the walk of the census before was since which items of containers were counted ([`Holder::course`]), in ns since
    /// 1970-01-01 UTC; `None` where they were not.
    pub counted_since_ns: Option<u64>,
    /// Names of the program itself, as many as are kept; of a census whose containers were counted, those that were bound to new
    /// objects meanwhile.
    pub bindings: Vec<Binding>,
    /// What lies on the pages of which a write has made a copy since the process was forked; `None` where
    /// there are none.
    pub copied: Option<Copied>,
    /// All that names in the program hold.
    pub held_by_names: Amount,
    /// The part of that held by none of the holders in reports: by many names, little by each, or
    /// by modules and classes themselves.
    pub unlisted: Amount,
    /// Whose that is, the most bytes first.
    pub packages: Vec<PackageRow>,
    /// Blocks without a known root.
    pub unreached: Amount,
    /// Of that, objects that refer to each other, as often as their reference counts say, with what only they
    /// hold: cycles that the garbage collector has not freed.
    pub cycles: Amount,
    /// The part of that in objects with higher reference counts, and what these hold: they are held
    /// by native code, or by something created before they were read.
    pub held_unseen: Amount,
    /// The holder with the most live bytes on each page, by address; pages without one are left
    /// out.
    pub page_owners: Vec<PageOwner>,
    /// References that were followed.
    pub references: u64,
    /// How long reading took, in ns.
    pub took_ns: u64,
    /// What bounds left out, a sentence each.
    pub gaps: Vec<String>,
}

impl Census {
    /// Bytes of objects and their storage.
    pub fn typed_bytes(&self) -> u64 {
        let rows = self.types.iter();
        rows.map(|row| row.objects.bytes.saturating_add(row.storage.bytes))
            .fold(0, u64::saturating_add)
    }

    /// The holders that a report has, with their places: the largest, and of the others those that grow most.
    pub fn shown(&self, growth: Option<&Growth>) -> Vec<(usize, &Holder)> {
        let mut all: Vec<(usize, &Holder)> = self.holders.iter().enumerate().take(SHOWN).collect();
        let grown = growth.map_or(&[][..], |growth| &growth.holders);
        let grown = grown
            .iter()
            .filter(|of| of.holder >= SHOWN && of.bytes > 0.0);
        all.extend(
            grown
                .filter_map(|of| Some((of.holder, self.holders.get(of.holder)?)))
                .take(SHOWN_GROWING),
        );
        all
    }

    /// The program's name whose `mmap` objects map most, and the number of bytes; `None` if that is
    /// less than `least`.
    pub fn mapper(&self, least: u64) -> Option<(&Holder, u64)> {
        let names = self.holders.iter().filter(|holder| holder.is_name);
        let mapped = names.filter_map(|holder| Some((holder, holder.mapped_bytes?)));
        let most = mapped.max_by_key(|(_, mapped)| *mapped)?;
        (most.1 > 0 && most.1 >= least).then_some(most)
    }

    /// Whether so much was replaced during the reading that holders' sizes are too small.
    pub fn is_unsteady(&self) -> bool {
        let share = self.compared as f64 * UNSTEADY_SHARE;
        self.replaced >= LEAST_REPLACED && self.replaced as f64 > share
    }

    /// What that means, in two sentences; `None` if hardly anything was replaced.
    pub fn unsteadiness(&self) -> Option<String> {
        self.is_unsteady().then(|| {
            format!(
                "{} of the objects were replaced while they were read, so who holds how much is given too \
                 small. While the target stands still they are read exactly.",
                percent(self.replaced, self.compared)
            )
        })
    }

    /// Bytes of all other live blocks.
    pub fn untyped_bytes(&self) -> u64 {
        self.live.bytes.saturating_sub(self.typed_bytes())
    }
}

/// Why there is no census.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoCensus {
    /// No Python runs in the target.
    #[error("the target is not a Python process")]
    NotPython,
    /// Objects of this version are not known.
    #[error("objects of CPython {0}.{1} are not known: of 2.7 and of 3.6 and later they are")]
    UnknownVersion(u8, u8),
    /// The type of all types was not found.
    #[error(
        "the type of all types was not found: a free-threaded build, one with Py_TRACE_REFS, or \
         another Python than CPython"
    )]
    NoTypes,
    /// No heap was walked.
    #[error("no heap was walked, so there are no blocks to look at")]
    NoBlocks,
    /// The walk was given up before all blocks were known.
    #[error("the time for the walk was over before all blocks were known")]
    PartOfBlocks,
    /// The mappings, or the states of pages, could not be read.
    #[error("the target's mappings or pages could not be read: {0}")]
    Unreadable(String),
    /// The time for reading them was over before all were read.
    #[error("reading them was given up after {}", nanoseconds(*after_ns))]
    OutOfTime {
        /// The time taken until then, in ns.
        after_ns: u64,
    },
    /// There is not enough memory for it.
    #[error(
        "reading them would take {} of memory, and this host or its control group can spare {}",
        bytes(*needs_bytes),
        bytes(*spare_bytes)
    )]
    NoRoom {
        /// The memory that it needs, in bytes.
        needs_bytes: u64,
        /// The memory that can be allocated without swapping, in bytes.
        spare_bytes: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_replaced_while_it_is_read_is_said_with_the_remedy() {
        let steady = Census {
            compared: 20_000,
            replaced: 470,
            ..Census::default()
        };
        assert_eq!(steady.unsteadiness(), None);
        let unsteady = Census {
            replaced: 15_000,
            ..steady
        };
        let sentence = unsteady.unsteadiness().expect("a sentence");
        assert!(sentence.starts_with("75.0 % of the objects"), "{sentence}");
        assert!(sentence.ends_with("they are read exactly."), "{sentence}");
        assert!(!sentence.contains("--"), "{sentence}");
    }
}
