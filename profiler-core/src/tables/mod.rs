//! The tables of a report and their rows: the ledger, heaps and arenas, size classes, occupancy,
//! the map, and the packing bound. The metrics and the explanations make them; the report holds
//! them.

mod ledger;

pub use self::ledger::{LedgerClass, LedgerPart, LedgerRow};
use crate::addr::AddrRange;
use crate::allocator::{Purging, SettingsInForce, UnknownEnvironment};
use crate::completeness::Confidence;
use crate::heap::{Allocator, Arena, CrossCheck, RequestedSetting};
use crate::residency::PageState;
use crate::size_class::SizeClass;
use crate::text::visible;
use crate::units;

/// One allocator's size class.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct SizeClassRow {
    /// Whose.
    pub allocator: Allocator,
    /// The size class; `class.upper_bytes()` is its largest size.
    pub class: SizeClass,
    /// Blocks in the program's hands.
    pub live_blocks: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Free and cached blocks.
    pub free_blocks: u64,
    /// Their bytes.
    pub free_bytes: u64,
    /// Free bytes on the resident pages of its live blocks, divided evenly among the live blocks of
    /// a page.
    pub pinned_free_bytes: u64,
}

/// Pages of one allocator's extents with `min_bytes..=max_bytes` live bytes.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct OccupancyRow {
    /// Whose pages.
    pub allocator: Allocator,
    /// Fewest live bytes.
    pub min_bytes: u32,
    /// Most live bytes.
    pub max_bytes: u32,
    /// Pages in memory.
    pub resident_pages: u64,
    /// Pages in swap.
    pub swapped_pages: u64,
}

/// How full the resident pages of one allocator are: a tenth of them hold at most `live_bytes[0]`
/// live bytes, half of them at most `live_bytes[4]`, nine tenths at most `live_bytes[8]`.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct OccupancyDeciles {
    /// Whose pages.
    pub allocator: Allocator,
    /// The nine deciles, in live bytes a page.
    pub live_bytes: [u32; 9],
}

/// Aligned ranges of 2 MiB with something of a heap resident, by the share of them that is live:
/// more than `max_percent` − 10 and up to `max_percent` (0: nothing live).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct HugeOccupancyRow {
    /// The allocator; that of the first page if several share a range.
    pub allocator: Allocator,
    /// Most live bytes, in percent of 2 MiB.
    pub max_percent: u32,
    /// How many ranges.
    pub ranges: u64,
    /// Bytes of their resident heap pages.
    pub resident_bytes: u64,
    /// Of those, backed by huge pages.
    pub huge_bytes: u64,
}

/// One page of the heap's map.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct MapPage {
    /// Live bytes on the page, 0 to 4096.
    pub live_bytes: u16,
    /// Bytes that are cached, top, metadata or retained.
    pub other_bytes: u16,
    /// The kernel's state of it.
    pub state: PageState,
}

/// The pages of one extent (or of neighbouring large blocks), for the map of the heap.
#[derive(Clone, Debug, PartialEq)]
pub struct MapExtent {
    /// Whose.
    pub allocator: Allocator,
    /// Which arena.
    pub arena: u32,
    /// Page-aligned addresses; `pages[i]` is the page at start + i × 4096.
    pub range: AddrRange,
    /// Its pages.
    pub pages: Vec<MapPage>,
}

/// A setting in force, or another value that the allocator keeps with its settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting {
    /// The allocator's name for it.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Its default in this release, if known.
    pub default: Option<String>,
    /// Whether it is an amount of bytes.
    pub is_bytes: bool,
    /// Whether it is a counter, which nobody sets.
    pub is_counter: bool,
}

impl Setting {
    /// Whether it is known to differ from the default.
    pub fn is_changed(&self) -> bool {
        self.default
            .as_ref()
            .is_some_and(|default| *default != self.value)
    }

    /// Name and value as text, bytes with their unit, with the default if it differs.
    pub fn text(&self) -> String {
        let value = self.value_text();
        match self.default.as_ref().filter(|_| self.is_changed()) {
            Some(default) => format!("{}={value} (default {})", self.name, self.in_unit(default)),
            None => format!("{}={value}", self.name),
        }
    }

    /// Its value as text.
    pub fn value_text(&self) -> String {
        self.in_unit(&self.value)
    }

    /// Its default as text, if known.
    pub fn default_text(&self) -> Option<String> {
        self.default.as_deref().map(|default| self.in_unit(default))
    }

    fn in_unit(&self, value: &str) -> String {
        match value.parse() {
            Ok(bytes) if self.is_bytes => units::bytes(bytes),
            _ => value.to_owned(),
        }
    }
}

/// One allocator's heap in figures.
#[derive(Clone, Debug, PartialEq)]
pub struct HeapReport {
    /// Whose.
    pub allocator: Allocator,
    /// Its version; empty if unknown.
    pub version: String,
    /// The path of the library that has it for itself; `None` for one that serves malloc or Python.
    pub library: Option<String>,
    /// Its arenas.
    pub arenas: Vec<ArenaReport>,
    /// Live bytes without the large mapped blocks.
    pub live_bytes: u64,
    /// Live blocks without the large mapped ones.
    pub live_blocks: u64,
    /// Free bytes without the top.
    pub free_bytes: u64,
    /// Cached bytes.
    pub cached_bytes: u64,
    /// Bytes of large mapped blocks (their mappings).
    pub mapped_large_bytes: u64,
    /// Their number.
    pub mapped_large_blocks: u64,
    /// The part of these mappings that is in memory.
    pub mapped_large_resident_bytes: u64,
    /// Bytes of all live blocks, including large ones, on pages that are neither in memory nor in
    /// swap: requested and never written to, or returned by the program itself. They take no
    /// memory. `None` if that is not known for all, as in a core file.
    pub untouched_bytes: Option<u64>,
    /// Settings in force.
    pub settings: Vec<Setting>,
    /// What the target's environment asked for, or why that is unknown.
    pub requested: Result<Vec<RequestedSetting>, UnknownEnvironment>,
    /// The walk against the allocator's own account.
    pub checks: Vec<CrossCheck>,
    /// How sure the layout is.
    pub confidence: Confidence,
}

impl HeapReport {
    /// The settings that its own structures show in force, under the names by which an environment sets them.
    pub fn settings_in_force(&self) -> SettingsInForce {
        let listed = self.settings.iter();
        SettingsInForce::of(
            self.allocator,
            listed.map(|setting| (&*setting.name, &*setting.value)),
        )
    }

    /// When it purges what was freed, if that is jemalloc's; `is_forked` if its threads stayed with the parent.
    pub fn purging(&self, is_forked: bool) -> Option<Purging> {
        let in_force = self.settings_in_force();
        let is_jemalloc = self.allocator == Allocator::Jemalloc;
        is_jemalloc.then(|| {
            let version = Some(&*self.version).filter(|version| !version.is_empty());
            Purging::of(version, is_forked, |name| in_force.get(name))
        })
    }

    /// The allocator with its version and, if it is inside a library, the library, e.g. `mimalloc
    /// 3.4.1 in libarrow.so.2400`.
    pub fn title(&self) -> String {
        let mut title = self.allocator.name().to_owned();
        if !self.version.is_empty() {
            title.push_str(&format!(" {}", self.version));
        }
        if let Some(library) = self.library_name() {
            title.push_str(&format!(" in {}", visible(library)));
        }
        title
    }

    /// The file name of its library.
    pub fn library_name(&self) -> Option<&str> {
        self.library.as_deref()?.rsplit('/').next()
    }

    /// Whether it serves malloc calls.
    pub fn serves_malloc(&self) -> bool {
        self.allocator.serves_malloc(self.library.as_deref())
    }

    /// All its arenas except the main one, if it is glibc's.
    pub fn thread_arenas(&self) -> impl Iterator<Item = &ArenaReport> {
        self.arenas.iter().filter(|of| of.arena.id != 0)
    }

    /// Bytes of all its live blocks in memory, including large mapped ones.
    pub fn live_resident_bytes(&self) -> u64 {
        let arenas = self.arenas.iter().map(|of| of.live_resident_bytes);
        arenas.fold(self.mapped_large_resident_bytes, u64::saturating_add)
    }

    /// Bytes of its arenas in memory.
    pub fn resident_bytes(&self) -> u64 {
        self.arenas.iter().map(|of| of.resident_bytes).sum()
    }

    /// Bytes of its extents in memory or in swap.
    pub fn present_bytes(&self) -> u64 {
        let swapped: u64 = self.arenas.iter().map(|of| of.swapped_bytes).sum();
        self.resident_bytes().saturating_add(swapped)
    }
}

/// One arena with its residency.
#[derive(Clone, Debug, PartialEq)]
pub struct ArenaReport {
    /// The walk's totals.
    pub arena: Arena,
    /// Bytes of its extents in memory.
    pub resident_bytes: u64,
    /// Bytes of its extents in swap.
    pub swapped_bytes: u64,
    /// Bytes of its live blocks in memory: requested memory may never have been written to.
    pub live_resident_bytes: u64,
    /// Bytes that a trim would return from it.
    pub trimmable_bytes: u64,
    /// Free bytes on resident pages that something not free keeps.
    pub pinned_free_bytes: u64,
    /// Free bytes on resident pages up to the page of the highest live block, in heaps that grow
    /// upwards (brk and glibc's thread heaps).
    pub below_highest_live_bytes: u64,
    /// Whole free resident pages that would join the top if it were not for a page's worth of
    /// blocks above them.
    pub top_pinned_bytes: u64,
}

impl ArenaReport {
    /// Resident bytes that are not live.
    pub fn idle_bytes(&self) -> u64 {
        self.resident_bytes.saturating_sub(self.live_resident_bytes)
    }
}

impl Packing {
    /// Whose size classes and slabs they are.
    pub const ALLOCATOR: Allocator = Allocator::Jemalloc;
}

/// The live blocks packed into jemalloc's size classes and slabs: a lower bound on what they would
/// take there, not a prediction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Packing {
    /// Pages that slabs filled to the brim would take, and the touched pages of blocks of more than
    /// a page, in bytes.
    pub packed_bytes: u64,
    /// Resident and swapped bytes of the pages that contain them now, including all free and cached
    /// memory around them; bytes of unknown use are left out.
    pub present_bytes: u64,
    /// Live blocks packed.
    pub blocks: u64,
    /// Their bytes, without headers.
    pub live_bytes: u64,
    /// Loss from rounding blocks of up to a page up to size classes, in bytes, and of larger ones up
    /// to pages.
    pub rounding_bytes: u64,
    /// Per jemalloc size class: size, live blocks, pages of full slabs.
    pub classes: Vec<PackedClass>,
}

/// One size class of a [`Packing`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct PackedClass {
    /// jemalloc's size class, in bytes.
    pub size: u64,
    /// Live blocks in it.
    pub blocks: u64,
    /// Bytes of slabs they fill, or of the pages they touch.
    pub bytes: u64,
}
