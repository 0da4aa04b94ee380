//! What the live blocks of a process are and who holds them, as a value: rows by names, which another
//! census of the same process can be compared with.

use crate::addr::RemoteAddr;
use crate::allocator::Allocator;
use crate::size_class::SizeClass;
use crate::units::{bytes, count, nanoseconds, percent};

use super::growth::Growth;
pub use super::layout::LayoutBasis;
pub use super::page_owners::PageOwner;
pub use super::pins::{Copied, Dropped};

/// A number of blocks and their bytes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Amount {
    /// How many.
    pub blocks: u64,
    /// Their bytes, as the allocator counts them, without its headers.
    pub bytes: u64,
}

/// Holders that reports have: the largest.
pub(super) const SHOWN: usize = 100;
/// Of the others those that grow most, if there are two censuses.
const SHOWN_GROWING: usize = 20;

/// A process of which a larger share of the objects was replaced between two looks turns over faster than it is
/// read.
const UNSTEADY_SHARE: f64 = 0.03;
/// Objects that are replaced in any program, of those that are looked at twice.
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
    /// The type with its module, `app.models.Order`; without one where it is built in. Foreign text.
    pub name: String,
    /// Objects in memory, and the bytes of their blocks.
    pub objects: Amount,
    /// Blocks that they have besides: items, tables, values, buffers.
    pub storage: Amount,
    /// Objects that the garbage collector tracks: those that `gc.get_objects()` gives.
    pub tracked: u64,
    /// Items of all of them together, where they are containers: entries, or bytes of a `bytearray`.
    pub entries: u64,
    /// Free bytes on the resident pages where its blocks lie, divided evenly among the live blocks of a
    /// page.
    pub pinned_free_bytes: u64,
    /// Of a forked process: its share of the pages of which a write has made a copy since, divided evenly
    /// among the live blocks of a page.
    pub copied_bytes: u64,
    /// Blocks of its objects, and of what belongs to them, that no root was found for.
    pub unreached: Amount,
}

/// Native blocks of one size class.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct NativeRow {
    /// Whose.
    pub allocator: Allocator,
    /// Of which sizes.
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

/// What an object is to the function that has it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Via {
    /// Its default arguments.
    Defaults,
    /// Variables of the functions around it.
    Closure,
}

impl Via {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Defaults, Self::Closure];

    /// Its name, for people and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Defaults => "default arguments",
            Self::Closure => "closure",
        }
    }
}

/// One step on the way from a name to what is held.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PathStep {
    /// What the step before has it as, where that is no plain item.
    pub via: Option<Via>,
    /// The attribute that the step before has it as, where that is an instance. Foreign text.
    pub attribute: Option<String>,
    /// The type.
    pub type_name: String,
    /// How many items it has, for containers.
    pub length: Option<u64>,
    /// Whether that is a number of bytes.
    pub length_is_bytes: bool,
    /// How many objects of the type follow one another in this way, as in a linked list.
    pub times: u64,
    /// The function whose results it has, of an `lru_cache`; the file that it maps, of an `mmap` object. Foreign text.
    pub subject: Option<String>,
}

impl PathStep {
    /// As people read it: `closure: dict of 412.0k (3 in a row)`, `mmap.mmap of 1.0 MiB [orders.bin]`.
    pub fn text(&self) -> String {
        let via = self.via;
        let via = via.map_or_else(String::new, |via| format!("{}: ", via.name()));
        let attribute = self.attribute.as_ref();
        let attribute = attribute.map_or_else(String::new, |name| format!(".{name}: "));
        let length = self.length;
        let words = |length: u64| match self.length_is_bytes {
            true => bytes(length),
            false => count(length),
        };
        let length = length.map_or_else(String::new, |length| format!(" of {}", words(length)));
        let times = match self.times {
            0 | 1 => String::new(),
            times => format!(" ({} in a row)", count(times)),
        };
        let subject = self.subject.as_ref();
        let subject = subject.map_or_else(String::new, |name| format!(" [{name}]"));
        format!("{via}{attribute}{}{length}{subject}{times}", self.type_name)
    }
}

/// Branches of one holder that are kept.
pub(super) const MAX_BRANCHES: usize = 6;

/// Another place below a holder where bytes spread out than that which its path leads to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Branch {
    /// The object in which it leaves the path: by it, the same branch is found in another census.
    pub object: RemoteAddr,
    /// Bytes of blocks that would be freed with it.
    pub retained_bytes: u64,
    /// From what the name refers to down to there.
    pub path: Vec<PathStep>,
    /// The type of most of what is there.
    pub item_type: Option<String>,
    /// How many of that type are right there.
    pub items: u64,
}

/// A name, or several that share what they hold, and what would go if they went.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holder {
    /// The name: `app.tasks.SESSIONS`, `app.tasks.run(): rows`. Foreign text.
    pub name: String,
    /// Other names that hold the same; what is shared is retained by none of them alone.
    pub shared_with: Vec<String>,
    /// Whether it is a name in the program, rather than a place where references were found.
    pub is_name: bool,
    /// Type of what it refers to; of [`Self::name`] where several names share something.
    pub type_name: Option<String>,
    /// Items of it, for containers.
    pub length: Option<u64>,
    /// The object that it refers to, of [`Self::name`] where several names share something: by it, a variable is known to
    /// refer to what it did in another census. `None` where that was not recorded.
    pub object: Option<RemoteAddr>,
    /// Bytes of blocks that would be freed with it.
    pub retained_bytes: u64,
    /// Blocks that would be freed with it.
    pub retained_blocks: u64,
    /// From what it refers to down to the container in which the bytes spread out.
    pub path: Vec<PathStep>,
    /// The type of most of what is there.
    pub item_type: Option<String>,
    /// How many of that type are right there, of those that were live at the walk.
    pub items: u64,
    /// Free bytes on the resident pages where its blocks lie, divided evenly among the live blocks of a
    /// page.
    pub pinned_free_bytes: u64,
    /// What freeing it and trimming the allocator would return to the system; `None` where an allocator
    /// serves whose rules are not known.
    pub dropped: Option<Dropped>,
    /// Other places where its bytes spread out, the largest first.
    pub branches: Vec<Branch>,
    /// Of the bytes that would be freed with it, those on pages that another process maps as well, as a forked worker
    /// has them with its parent; `None` where that was not recorded.
    pub shared_bytes: Option<u64>,
    /// Of the bytes that would be freed with it, those of other holders within it, which have rows of their own; `None`
    /// where that was not recorded.
    pub inner_bytes: Option<u64>,
    /// Beside the bytes of blocks, resident ones that its `mmap` objects map, of files and of anonymous memory, outside of
    /// all heaps; `None` where that was not recorded.
    pub mapped_bytes: Option<u64>,
    /// Of these, those on pages that are mapped elsewhere as well; `None` where that was not recorded.
    pub mapped_shared_bytes: Option<u64>,
    /// Of these, those on pages that may stay in memory when the objects go: of files, of shared mappings, and those that
    /// are mapped elsewhere as well; `None` where that was not recorded.
    pub mapped_kept_bytes: Option<u64>,
}

impl Branch {
    /// The steps from the name to where bytes spread out, and what is there: `dict of 412.0k`, `app.Session`.
    pub fn steps(&self) -> Vec<String> {
        steps(&self.path, self.item_type.as_ref())
    }
}

fn steps(path: &[PathStep], item_type: Option<&String>) -> Vec<String> {
    let path = path.iter().map(PathStep::text);
    path.chain(item_type.cloned()).collect()
}

impl Holder {
    /// Its names, in an order of their own: which of those who share something comes first may change from one census
    /// to the next.
    pub fn names(&self) -> Vec<&str> {
        let others = self.shared_with.iter();
        let mut names: Vec<&str> = others.chain([&self.name]).map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Its names as they are shown, the first of them before the others.
    pub fn names_as_shown(&self) -> Vec<String> {
        let names = std::iter::once(&self.name).chain(&self.shared_with);
        names.cloned().collect()
    }

    /// The steps from the name to where most of its bytes spread out, as [`Branch::steps`] has them.
    pub fn steps(&self) -> Vec<String> {
        steps(&self.path, self.item_type.as_ref())
    }

    /// What freeing it would return to the system, in a sentence; `None` where that is not known, and for
    /// what no program can free.
    pub fn if_freed(&self) -> Option<String> {
        let unmapped = self.if_unmapped();
        match (self.blocks_if_freed(), unmapped) {
            // Of next to no blocks there is nothing to say.
            (_, Some(unmapped)) if self.retained_bytes < self.held_bytes() / 10 => Some(unmapped),
            (Some(of_blocks), Some(unmapped)) => Some(format!("{unmapped} {of_blocks}")),
            (of_blocks, unmapped) => of_blocks.or(unmapped),
        }
    }

    /// The first of its names and what it is: `app.tasks.SESSIONS` (dict).
    pub fn titled(&self) -> String {
        match &self.type_name {
            Some(of) => format!("`{}` ({of})", self.name),
            None => format!("`{}`", self.name),
        }
    }

    /// Bytes of blocks, and resident ones that `mmap` objects map: what tables are ordered by.
    pub fn held_bytes(&self) -> u64 {
        let mapped = self.mapped_bytes.unwrap_or(0);
        self.retained_bytes.saturating_add(mapped)
    }

    /// What goes, or may stay, of what its `mmap` objects map; `None` where that is nothing, and for what no program can
    /// free.
    fn if_unmapped(&self) -> Option<String> {
        let mapped = self.mapped_bytes.filter(|_| self.is_name)?;
        let kept = self.mapped_kept_bytes.map(|kept| kept.min(mapped));
        let own = match kept {
            Some(kept) => mapped - kept,
            None => 0,
        };
        let own = (own > 0).then(|| {
            format!(
                "{} of it are pages of private memory that its mmap objects map, and are freed with these.",
                bytes(own)
            )
        });
        let kept = kept.unwrap_or(mapped);
        let kept = (kept > 0).then(|| {
            format!(
                "{} of it are pages that its mmap objects map and that are unmapped with these: the pages stay while the \
                 file or another process has them.",
                bytes(kept)
            )
        });
        let both: Vec<String> = [own, kept].into_iter().flatten().collect();
        (!both.is_empty()).then(|| both.join(" "))
    }

    /// What freeing its blocks would return.
    fn blocks_if_freed(&self) -> Option<String> {
        let retained = self.retained_bytes;
        let freeing = match retained == self.held_bytes() {
            true => "Freeing it",
            false => "Freeing its blocks",
        };
        let Dropped {
            live_bytes: live,
            unpinned_bytes: unpinned,
            untouched,
        } = self.dropped.filter(|_| self.is_name)?;
        let untouched = untouched.bytes;
        // A tenth of what it is said to hold is worth a sentence.
        let is_untouched = untouched > 0 && untouched >= retained / 10;
        let sentence = match (live, is_untouched) {
            (0, false) => {
                format!(
                    "{freeing} would return nothing to the system: its pages hold other blocks too, or are not resident."
                )
            }
            (0, true) => format!("{freeing} would return nothing to the system."),
            _ => format!(
                "{freeing} would return {} to the system: {} of its own and {} of free memory and headers beside them.",
                bytes(live.saturating_add(unpinned)),
                bytes(live),
                bytes(unpinned)
            ),
        };
        Some(match is_untouched {
            true => format!(
                "{sentence} {} of it was asked for and never written to, and takes no memory.",
                bytes(untouched)
            ),
            false => sentence,
        })
    }
}

/// What a package's modules have besides what is in the row of a holder: code, functions, classes, constants.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PackageRow {
    /// The first part of its modules' names. Foreign text.
    pub name: String,
    /// That.
    pub unlisted: Amount,
}

/// What the live blocks are, and who holds them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
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
    /// Objects that never change (numbers, strings, tuples) and were looked at twice: one block of sixteen.
    pub compared: u64,
    /// Of those, the ones in whose place there was something else the second time.
    pub replaced: u64,
    /// What `tracemalloc` has for itself: of the native blocks. `None` where that is not known.
    pub tracing: Option<Amount>,
    /// `mmap` objects, and the resident bytes that they map: outside of the heaps, so they are no part of [`Self::live`].
    pub mapped: Amount,
    /// Who holds what, the most bytes first: more than reports have, see [`Self::shown`].
    pub holders: Vec<Holder>,
    /// What lies on the pages of which a write has made a copy since the process was forked; `None` where
    /// there are none.
    pub copied: Option<Copied>,
    /// All that names in the program hold.
    pub held_by_names: Amount,
    /// Of that, what is held by none of the holders that reports have: by many names, little by each, or by
    /// modules and classes themselves.
    pub unlisted: Amount,
    /// Whose that is, the most bytes first.
    pub packages: Vec<PackageRow>,
    /// What no root was found for.
    pub unreached: Amount,
    /// Of that, objects that refer to each other, as often as their reference counts say, with what only they
    /// hold: cycles that the garbage collector has not freed.
    pub cycles: Amount,
    /// Of that, objects with higher reference counts, and what these hold: native code holds them, or what was made
    /// anew before they were read.
    pub held_unseen: Amount,
    /// Which of the holders has most of what lives on each page, by address; pages are left out where that is none.
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

    /// The name of the program whose `mmap` objects map most, and how much that is; `None` where it is less than `least`.
    pub fn mapper(&self, least: u64) -> Option<(&Holder, u64)> {
        let names = self.holders.iter().filter(|holder| holder.is_name);
        let mapped = names.filter_map(|holder| Some((holder, holder.mapped_bytes?)));
        let most = mapped.max_by_key(|(_, mapped)| *mapped)?;
        (most.1 > 0 && most.1 >= least).then_some(most)
    }

    /// Whether so much was replaced while it was read that what is held by whom is given too small.
    pub fn is_unsteady(&self) -> bool {
        let share = self.compared as f64 * UNSTEADY_SHARE;
        self.replaced >= LEAST_REPLACED && self.replaced as f64 > share
    }

    /// What that means, in two sentences; `None` where hardly anything was replaced.
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
    /// The walk was given up before it had come to all blocks.
    #[error("the time for the walk was over before all blocks were known")]
    PartOfBlocks,
    /// What is mapped, or which pages are in memory, could not be read.
    #[error("the target's mappings or pages could not be read: {0}")]
    Unreadable(String),
    /// The time for reading them was over before all were read.
    #[error("reading them was given up after {}", nanoseconds(*after_ns))]
    OutOfTime {
        /// How long it took by then, in ns.
        after_ns: u64,
    },
    /// There is no room for it beside all else.
    #[error(
        "reading them would take {} of memory, and this host or its control group can spare {}",
        bytes(*needs_bytes),
        bytes(*spare_bytes)
    )]
    NoRoom {
        /// What it takes, in bytes.
        needs_bytes: u64,
        /// What can be allocated without swapping, in bytes.
        spare_bytes: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::residency::NeverWritten;

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

    #[test]
    fn pages_that_are_mapped_are_not_said_to_be_freed_where_they_may_stay() {
        let of = |mapped, kept| Holder {
            is_name: true,
            mapped_bytes: Some(mapped),
            mapped_kept_bytes: kept,
            ..Holder::default()
        };
        let stay = "30.0 MiB of it are pages that its mmap objects map and that are unmapped with these: the pages stay \
                    while the file or another process has them.";
        for kept in [Some(30 << 20), None] {
            assert_eq!(of(30 << 20, kept).if_freed().as_deref(), Some(stay));
        }
        let private = "2.0 MiB of it are pages of private memory that its mmap objects map, and are freed with these.";
        let both = format!("{private} {stay}");
        assert_eq!(of(32 << 20, Some(30 << 20)).if_freed(), Some(both));
        assert_eq!(of(0, Some(0)).if_freed(), None);
    }

    #[test]
    fn the_length_of_what_has_bytes_is_given_as_bytes() {
        let mut step = PathStep {
            type_name: "mmap.mmap".into(),
            length: Some(200 << 20),
            length_is_bytes: true,
            ..PathStep::default()
        };
        assert_eq!(step.text(), "mmap.mmap of 200.0 MiB");
        (step.length, step.length_is_bytes) = (Some(412_000), false);
        assert_eq!(step.text(), "mmap.mmap of 412.0k");
    }

    #[test]
    fn only_a_name_can_be_dropped_and_nothing_that_goes_back_has_its_reason() {
        let mut holder = Holder {
            is_name: true,
            dropped: Some(Dropped::default()),
            ..Holder::default()
        };
        let sentence = holder.if_freed().expect("a sentence");
        assert!(
            sentence.contains("would return nothing to the system: its pages"),
            "{sentence}"
        );
        holder.retained_bytes = 2 << 30;
        holder.dropped = Some(Dropped {
            untouched: NeverWritten {
                bytes: 2 << 30,
                unknown_bytes: 0,
            },
            ..Dropped::default()
        });
        assert_eq!(
            holder.if_freed().as_deref(),
            Some(
                "Freeing it would return nothing to the system. 2.0 GiB of it was asked for and never written to, and \
                 takes no memory."
            )
        );
        holder.is_name = false;
        assert_eq!(holder.if_freed(), None);
    }
}
