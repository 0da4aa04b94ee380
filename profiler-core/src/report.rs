//! The report: everything that screens, files and explanations show, as a pure function of a
//! [`Sample`](crate::sample::Sample).

mod rows;

use std::sync::Arc;

pub use self::rows::{
    HugeOccupancyRow, LedgerClass, LedgerPart, LedgerRow, MapExtent, MapPage, OccupancyDeciles,
    OccupancyRow, SizeClassRow,
};
use crate::addr::PAGE_SIZE;
use crate::completeness::{Completeness, Confidence};
pub use crate::explain::{Remedy, ShortVerdict, Step};
use crate::explain::{answer, explanation, findings, verdict};
use crate::fork::ForkSharing;
use crate::heap::{Allocator, Arena, CrossCheck, RequestedSetting};
pub use crate::mechanism::Mechanism;
use crate::metrics::{Metric, MetricId};
use crate::objects::{Census, Growth};
use crate::prediction::Predictions;
use crate::sample::{Host, KernelCount, Target};
use crate::text::visible;
use crate::trend::Trend;
use crate::units::{self, Value};

/// A setting in force, or something else that the allocator keeps beside its settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting {
    /// As the allocator names it.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What it is in this release when nobody changes it, where that is known.
    pub default: Option<String>,
    /// Whether it is an amount of bytes.
    pub is_bytes: bool,
    /// Whether nobody set it: it was counted.
    pub is_counter: bool,
}

impl Setting {
    /// Whether it is known to differ from the default.
    pub fn is_changed(&self) -> bool {
        self.default
            .as_ref()
            .is_some_and(|default| *default != self.value)
    }

    /// Name and value as people read them, bytes by their unit, with the default when it differs.
    pub fn text(&self) -> String {
        let value = self.value_text();
        match self.default.as_ref().filter(|_| self.is_changed()) {
            Some(default) => format!("{}={value} (default {})", self.name, self.in_unit(default)),
            None => format!("{}={value}", self.name),
        }
    }

    /// Its value as people read it.
    pub fn value_text(&self) -> String {
        self.in_unit(&self.value)
    }

    /// Its default as people read it, where that is known.
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
    /// Its version; empty when not known.
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
    /// Settings in force.
    pub settings: Vec<Setting>,
    /// What the target's environment asked for.
    pub requested: Vec<RequestedSetting>,
    /// The walk against the allocator's own account.
    pub checks: Vec<CrossCheck>,
    /// How sure the layout is.
    pub confidence: Confidence,
}

impl HeapReport {
    /// The allocator with its version, and the library that it is inside of, e.g. `mimalloc 3.4.1 in
    /// libarrow.so.2400`.
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

    /// The file's name of its library.
    pub fn library_name(&self) -> Option<&str> {
        self.library.as_deref()?.rsplit('/').next()
    }

    /// Whether it serves malloc calls.
    pub fn serves_malloc(&self) -> bool {
        self.allocator.serves_malloc(self.library.as_deref())
    }

    /// Its arenas but the main one, where it is glibc's.
    pub fn thread_arenas(&self) -> impl Iterator<Item = &ArenaReport> {
        self.arenas.iter().filter(|of| of.arena.id != 0)
    }

    /// Bytes of its arenas in memory.
    pub fn resident_bytes(&self) -> u64 {
        self.arenas.iter().map(|of| of.resident_bytes).sum()
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
    /// Bytes that a trim would return from it.
    pub trimmable_bytes: u64,
    /// Free bytes on resident pages that something not free keeps.
    pub pinned_free_bytes: u64,
    /// Free bytes on resident pages up to the one of the highest live block, in heaps that grow
    /// upwards (brk and glibc's thread heaps).
    pub below_highest_live_bytes: u64,
    /// Whole free resident pages that would join the top, were it not for a page's worth of
    /// blocks above them.
    pub top_pinned_bytes: u64,
}

impl ArenaReport {
    /// Resident bytes that are not live.
    pub fn idle_bytes(&self) -> u64 {
        self.resident_bytes.saturating_sub(self.arena.live_bytes)
    }
}

/// A figure that carries a claim.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Its key in JSON.
    pub key: &'static str,
    /// `None` is unknown.
    pub value: Option<Value>,
}

/// What the report concludes: a claim with what carries it.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Which mechanism.
    pub mechanism: Mechanism,
    /// One sentence.
    pub claim: String,
    /// Bytes that its remedy returns, where that was predicted, else those that it takes; `None` where
    /// it cannot be predicted.
    pub bytes: Option<u64>,
    /// Bytes that it takes, whether or not anything returns them.
    pub held_bytes: u64,
    /// The figures that carry the claim.
    pub evidence: Vec<Evidence>,
    /// What to do about it.
    pub remedy: &'static Remedy,
    /// How sure.
    pub confidence: Confidence,
}

/// The key of the evidence that a remedy was predicted to help.
pub(crate) const PREDICTED_BYTES: &str = "predicted_bytes";
/// That of what it is compared with.
pub(crate) const BASELINE_BYTES: &str = "baseline_bytes";

impl Finding {
    /// What to do about it, in sentences; that it was not predicted what this would return, where nothing else
    /// says that.
    pub fn advice(&self) -> String {
        let remedy = self.remedy.prose();
        match self.is_assumed() {
            true => format!("What that would return was not predicted: {remedy}"),
            false => remedy,
        }
    }

    /// Whether it is only assumed that its remedy returns anything of it.
    pub(crate) fn is_assumed(&self) -> bool {
        let mut evidence = self.evidence.iter();
        self.mechanism.is_assumed() && !evidence.any(|one| one.key == PREDICTED_BYTES)
    }

    /// What it is about: how much memory, and how much of that its remedy returns.
    pub fn heading(&self) -> String {
        let (label, held) = (self.mechanism.label(), units::bytes(self.held_bytes));
        match self.bytes {
            None if self.held_bytes == 0 => label.to_owned(),
            None => format!("{label}: {held}; what its remedy returns is not known"),
            Some(bytes) if bytes == self.held_bytes => format!("{label}: {held}"),
            Some(bytes) => {
                let returned = units::bytes(bytes);
                format!("{label}: {held}, of which its remedy returns {returned}")
            }
        }
    }
}

impl Packing {
    /// Whose size classes and slabs they are.
    pub const ALLOCATOR: Allocator = Allocator::Jemalloc;
}

/// The live blocks packed into jemalloc's size classes and slabs: a lower bound on what they
/// would take there, not a prediction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Packing {
    /// Pages that slabs filled to the brim would take, and the touched pages of blocks of more than
    /// a page, in bytes.
    pub packed_bytes: u64,
    /// Resident and swapped bytes of the pages where they lie now, with all free and cached memory
    /// around; bytes whose use could not be determined are left out.
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

/// Everything known at one moment, ready to be shown.
#[derive(Clone, Debug, PartialEq)]
pub struct FragReport {
    /// Nanoseconds since 1970-01-01 UTC.
    pub taken_at_ns: u64,
    /// Where.
    pub host: Host,
    /// The process.
    pub target: Target,
    /// The kernel's account.
    pub kernel: KernelCount,
    /// What it still shares with the process that it was forked from, where that is known.
    pub fork: Option<ForkSharing>,
    /// Resident and swapped bytes by class, in the order of [`LedgerClass::ALL`], all 17 rows.
    pub ledger: Vec<LedgerRow>,
    /// Each walked heap.
    pub heaps: Vec<HeapReport>,
    /// Size classes in use, by allocator, then size.
    pub size_classes: Vec<SizeClassRow>,
    /// Pages by live bytes, by allocator, then bytes.
    pub page_occupancy: Vec<OccupancyRow>,
    /// How full the resident pages are, by allocator.
    pub occupancy_deciles: Vec<OccupancyDeciles>,
    /// Ranges of 2 MiB by their live share, by allocator, then share.
    pub huge_occupancy: Vec<HugeOccupancyRow>,
    /// Live bytes on the resident pages that walked heaps claim a byte of; `None` without any.
    pub heap_live_bytes: Option<u64>,
    /// The map of the heap, by address.
    pub map: Vec<MapExtent>,
    /// Metrics, the most telling first.
    pub metrics: Vec<Metric>,
    /// The bound for jemalloc; `None` when no malloc heap was walked.
    pub packing: Option<Packing>,
    /// What malloc's heap would need elsewhere; `None` until it was requested.
    pub predictions: Option<Predictions>,
    /// What the live blocks are and who holds them; `None` until that was asked for.
    pub objects: Option<Arc<Census>>,
    /// The census before that one.
    pub objects_before: Option<Arc<Census>>,
    /// What grew between the two; `None` where there are no two.
    pub growth: Option<Growth>,
    /// How it has grown lately; `None` where it was not watched.
    pub trend: Option<Trend>,
    /// What follows, the most bytes first.
    pub findings: Vec<Finding>,
    /// One line: the verdict.
    pub verdict: String,
    /// A paragraph or two: why.
    pub explanation: String,
    /// How sure all this is.
    pub completeness: Completeness,
}

impl FragReport {
    /// The same report with what was predicted of its walk, and the conclusions from that.
    pub fn with_predictions(&self, predictions: Predictions) -> Self {
        let mut report = self.clone();
        report.predictions = Some(predictions);
        report.conclude();
        report
    }

    /// The same report with a census of its objects, and what grew since the one before.
    pub fn with_objects(mut self, census: Arc<Census>, before: Option<Arc<Census>>) -> Self {
        let growth = before
            .as_deref()
            .map(|before| Growth::between(before, &census));
        self.growth = growth.flatten();
        self.objects = Some(census);
        self.objects_before = before;
        self.conclude();
        self
    }

    /// The same report of a process that has grown so lately.
    pub fn with_trend(&self, trend: Trend) -> Self {
        let mut report = self.clone();
        report.trend = Some(trend);
        report.conclude();
        report
    }

    /// Draws the conclusions from what is known: findings, verdict and explanation are of the other figures.
    pub fn conclude(&mut self) {
        self.findings = findings(self);
        self.verdict = match answer(self) {
            Some(answer) => format!("{answer} {}", verdict(self)),
            None => verdict(self),
        };
        self.explanation = explanation(self);
    }

    /// The allocator that serves malloc, when its heap is not among those that were walked: then
    /// nothing can be said of fragmentation.
    pub fn malloc_not_walked(&self) -> Option<&str> {
        let serving = self.target.malloc.as_ref()?;
        let kind = serving.kind();
        let mut heaps = self.heaps.iter();
        let walked = heaps.any(|heap| heap.serves_malloc() && Some(heap.allocator) == kind);
        (!walked).then(|| serving.name())
    }

    /// The verdict in three words.
    pub fn short_verdict(&self) -> ShortVerdict {
        ShortVerdict::of(self)
    }

    /// Live bytes of all walked heaps; `None` when none was walked.
    pub fn live_bytes(&self) -> Option<u64> {
        let live = self
            .heaps
            .iter()
            .map(|heap| heap.live_bytes + heap.mapped_large_bytes);
        (!self.heaps.is_empty()).then(|| live.sum())
    }

    /// The value of a metric; `None` is unknown.
    pub fn metric(&self, id: MetricId) -> Option<Value> {
        self.metrics.iter().find(|m| m.id == id)?.value
    }

    /// The value of a metric whose unit has whole numbers only.
    pub fn amount(&self, id: MetricId) -> Option<u64> {
        debug_assert!(id.unit().is_whole(), "{id:?} is no amount");
        match self.metric(id)? {
            Value::Whole(value) => Some(value),
            Value::Fraction(_) => None,
        }
    }

    /// The value of a metric that is a share or a ratio.
    pub fn ratio(&self, id: MetricId) -> Option<f64> {
        debug_assert!(!id.unit().is_whole(), "{id:?} is no ratio");
        self.metric(id).map(Value::as_f64)
    }

    /// Fragmentation as a share of RSS, 0 to 1; `None` is unknown.
    pub fn fragmentation_share(&self) -> Option<f64> {
        let free = self.amount(MetricId::FragmentationBytes)?;
        Some(free as f64 / self.kernel.rss_bytes.max(1) as f64)
    }

    /// Resident bytes of the pages that walked heaps claim a byte of; `None` when none was walked.
    pub fn heap_resident_bytes(&self) -> Option<u64> {
        let pages: u64 = self.page_occupancy.iter().map(|r| r.resident_pages).sum();
        (!self.heaps.is_empty()).then_some(pages * PAGE_SIZE)
    }

    /// The ledger's row of a class.
    pub fn ledger_row(&self, class: LedgerClass) -> Option<&LedgerRow> {
        self.ledger.iter().find(|row| row.class == class)
    }

    /// Resident bytes of a class; 0 where the ledger has no row for it.
    pub fn resident_bytes(&self, class: LedgerClass) -> u64 {
        self.ledger_row(class).map_or(0, |row| row.resident_bytes)
    }
}
