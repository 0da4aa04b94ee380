//! The report: everything that screens, files and explanations show, as a pure function of a
//! [`Sample`](crate::sample::Sample).

use std::sync::Arc;

use crate::allocator::{Purging, ReturnTime, serving};
use crate::completeness::{Completeness, Confidence};
use crate::evidence::{Evidence, EvidenceId};
use crate::fork::ForkSharing;
use crate::group_account::GroupAccount;
pub use crate::mechanism::Mechanism;
use crate::memory_growth::MemoryGrowth;
use crate::metrics::{Metric, MetricId};
use crate::objects::{Census, Growth};
use crate::prediction::{Needs, Predictions};
pub use crate::remedy::{Remedy, Step};
use crate::sample::{Host, KernelCount, Target};
pub use crate::tables::{
    ArenaReport, HeapReport, HugeOccupancyRow, LedgerClass, LedgerPart, LedgerRow, MapExtent,
    MapPage, OccupancyDeciles, OccupancyRow, PackedClass, Packing, Setting, SizeClassRow,
};
use crate::trend::Trend;
use crate::units::{self, Value};
use crate::worth;

/// The prediction for a finding's remedy.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct PlayedRemedy {
    /// What malloc's heap would take with it.
    pub needs: Needs,
    /// What that took at the walk that the prediction is of, in bytes.
    pub baseline_bytes: u64,
}

/// A conclusion of the report: a claim with its evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Which mechanism.
    pub mechanism: Mechanism,
    /// One sentence.
    pub claim: String,
    /// Bytes that its remedy returns, if that was predicted, else its own bytes; `None` if they
    /// cannot be predicted.
    pub bytes: Option<u64>,
    /// Bytes that it holds, whether or not anything returns them.
    pub held_bytes: u64,
    /// The figures of the walk that carry the claim.
    pub evidence: Vec<Evidence>,
    /// The prediction for its remedy, if there is one.
    pub prediction: Option<PlayedRemedy>,
    /// What to do about it.
    pub remedy: &'static Remedy,
    /// How sure.
    pub confidence: Confidence,
}

impl Finding {
    /// What to do about it, as sentences, including that the effect was not predicted, if nothing
    /// else says so.
    pub fn advice(&self) -> String {
        let remedy = self.remedy.prose();
        match self.is_assumed() {
            true => format!("What that would return was not predicted: {remedy}"),
            false => remedy,
        }
    }

    /// Whether it is only assumed that its remedy returns any of it.
    pub(crate) fn is_assumed(&self) -> bool {
        self.mechanism.is_assumed() && self.prediction.is_none()
    }

    /// Whether its remedy was replayed and is sure to return something.
    pub(crate) fn is_proven(&self) -> bool {
        self.prediction.is_some() && self.bytes.is_some_and(|bytes| bytes > 0)
    }

    /// All figures that support the claim, those of the prediction last.
    pub fn all_evidence(&self) -> impl Iterator<Item = Evidence> {
        let predicted = self.prediction.map(|played| {
            let PlayedRemedy {
                needs,
                baseline_bytes,
            } = played;
            [
                Evidence::whole(EvidenceId::PredictedBytes, needs.bytes),
                Evidence::whole(EvidenceId::PredictedLowBytes, needs.low_bytes),
                Evidence::whole(EvidenceId::PredictedHighBytes, needs.high_bytes),
                Evidence::whole(EvidenceId::BaselineBytes, baseline_bytes),
            ]
        });
        let of_walk = self.evidence.iter().copied();
        of_walk.chain(predicted.into_iter().flatten())
    }

    /// Its topic: how much memory, and how much of that its remedy returns.
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

/// What a session will still do: nothing is promised beyond that.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum ToCome {
    /// Nothing: it was a single observation, it has ended, or it was saved.
    #[default]
    Nothing,
    /// Walks of the heap.
    Walks,
    /// Walks and Python's objects.
    Objects,
}

/// Everything known at one moment, ready to be shown.
#[derive(Clone, Debug, PartialEq)]
pub struct FragReport {
    /// Nanoseconds since 1970-01-01 UTC.
    pub taken_at_ns: u64,
    /// The host.
    pub host: Host,
    /// The process.
    pub target: Target,
    /// The kernel's account.
    pub kernel: KernelCount,
    /// Memory still shared with the process that it was forked from, if known.
    pub fork: Option<ForkSharing>,
    /// The account of the memory control group that limits it, if known.
    pub group: Option<GroupAccount>,
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
    /// What malloc's heap would need with other allocators and settings; `None` until requested.
    pub predictions: Option<Predictions>,
    /// What the live blocks are and who holds them; `None` until requested.
    pub objects: Option<Arc<Census>>,
    /// The census before that one.
    pub objects_before: Option<Arc<Census>>,
    /// What grew between the two; `None` unless there are two.
    pub growth: Option<Growth>,
    /// What is still to come in its session.
    pub to_come: ToCome,
    /// Its recent growth; `None` if it was not watched.
    pub trend: Option<Trend>,
    /// How its memory changed meanwhile, including memory outside its heaps' live blocks; `None` if
    /// unknown.
    pub memory_growth: Option<MemoryGrowth>,
    /// The conclusions, the most bytes first.
    pub findings: Vec<Finding>,
    /// One line: the verdict.
    pub verdict: String,
    /// A paragraph or two: why.
    pub explanation: String,
    /// How sure all this is.
    pub completeness: Completeness,
}

/// Objects that were read at least this much earlier than the walk belong to another moment.
const LEAST_AGE_NS: u64 = 1_000_000_000;

impl FragReport {
    /// How much older its objects are than its walk, in ns; `None` if they are from the same
    /// moment, or were not read.
    pub fn objects_age_ns(&self) -> Option<u64> {
        let read_ns = self.objects.as_ref()?.taken_at_ns;
        let age_ns = self.taken_at_ns.checked_sub(read_ns)?;
        Some(age_ns).filter(|age_ns| *age_ns >= LEAST_AGE_NS)
    }

    /// The same as text: `as read 40 s before`.
    pub fn objects_age(&self) -> Option<String> {
        let seconds = self.objects_age_ns()? as f64 / 1e9;
        Some(match seconds {
            seconds if seconds < 600.0 => format!("as read {seconds:.0} s before"),
            seconds => format!("as read {:.0} min before", seconds / 60.0),
        })
    }

    /// Whether the size of malloc's heap with which predictions are compared excludes pages that
    /// its allocator has not purged yet; for an earlier walk, whether it has any such pages.
    pub fn counts_as_purged(&self) -> bool {
        let Some(predictions) = &self.predictions else {
            return false;
        };
        let is_earlier = predictions.walk_ns != self.taken_at_ns;
        let now = predictions.now().unwrap_or(0);
        let most = now.saturating_add(worth::OF_MALLOC.least(now));
        let mut mallocs = self.heaps.iter().filter(|heap| heap.serves_malloc());
        mallocs.any(|heap| {
            heap.allocator.row().return_time == ReturnTime::InCalls
                && (is_earlier || heap.present_bytes() > most)
        })
    }

    /// The label, among predictions, of the row of the measured heap: when it was measured.
    pub fn measured_when(&self, predictions: &Predictions) -> String {
        match predictions.before(self.taken_at_ns) {
            None if self.counts_as_purged() => match self.is_ever_purged() {
                true => "now, after purging".to_owned(),
                false => "now, if purged".to_owned(),
            },
            None => "measured now".to_owned(),
            Some(before) => format!("measured {before} earlier"),
        }
    }

    /// The words after the size of malloc's heap, if it counts as purged.
    pub(crate) fn purged_words(&self) -> &'static str {
        match self.counts_as_purged() {
            true if self.is_ever_purged() => " after purging",
            true => " if it were purged, which its decay options prevent",
            false => "",
        }
    }

    /// When the jemalloc that serves malloc purges; `None` of another allocator.
    pub(crate) fn purging(&self) -> Option<Purging> {
        self.serving()?.purging(self.fork.is_some())
    }

    /// Whether what the allocator has not purged yet ever is, by its options.
    fn is_ever_purged(&self) -> bool {
        self.purging()
            .is_none_or(|purging| purging.within_ms.is_some())
    }

    /// The size of malloc's heap with which predictions are compared, in half a sentence that
    /// follows them.
    pub(crate) fn baseline(&self) -> Option<String> {
        let predictions = self.predictions.as_ref()?;
        predictions.baseline(self.taken_at_ns, self.purged_words())
    }

    /// The allocator that serves malloc, if its heap was not walked: then nothing can be said about
    /// fragmentation.
    pub fn malloc_not_walked(&self) -> Option<&str> {
        let malloc = self.target.malloc.as_ref()?;
        self.serving().is_none().then(|| malloc.name())
    }

    /// The heap that serves malloc; `None` if it was not walked.
    pub fn serving(&self) -> Option<&HeapReport> {
        serving(
            self.target.malloc.as_ref(),
            self.heaps.iter(),
            |heap| heap.serves_malloc().then_some(heap.allocator),
            |heap| {
                let arenas = heap.resident_bytes();
                arenas.saturating_add(heap.mapped_large_resident_bytes)
            },
        )
    }

    /// Whether more of the heap is in swap, where it was not read, than was read: then the figures
    /// do not describe the process.
    pub fn is_heap_in_swap(&self) -> bool {
        let swapped = |class| self.ledger_row(class).map_or(0, |row| row.swapped_bytes);
        let of_malloc = match self.malloc_not_walked() {
            Some(_) => swapped(LedgerClass::OtherAnonymous),
            None if self.heaps.is_empty() => swapped(LedgerClass::OtherAnonymous),
            None => 0,
        };
        let not_read = swapped(LedgerClass::Unknown).saturating_add(of_malloc);
        not_read > self.heap_resident_bytes().unwrap_or(0)
    }

    /// Bytes of live blocks in memory, in all walked heaps, for comparison with RSS; `None` if none
    /// was walked.
    pub fn live_resident_bytes(&self) -> Option<u64> {
        let live = self.heaps.iter().map(HeapReport::live_resident_bytes);
        (!self.heaps.is_empty()).then(|| live.fold(0, u64::saturating_add))
    }

    /// Bytes of live blocks that take neither RSS nor swap; `None` if that is not known for all.
    pub fn untouched_bytes(&self) -> Option<u64> {
        let mut untouched = self.heaps.iter().map(|heap| heap.untouched_bytes);
        untouched.try_fold(0u64, |sum, of| Some(sum.saturating_add(of?)))
    }

    /// Bytes of live blocks as requested, in all walked heaps; `None` if none was walked.
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
        (!self.heaps.is_empty()).then_some(pages * self.host.page_size.bytes())
    }

    /// The ledger's rows shown to people: those that are not empty, and always the unknown.
    pub fn shown_ledger(&self) -> impl Iterator<Item = &LedgerRow> + Clone {
        let holds = |row: &&LedgerRow| row.resident_bytes > 0 || row.swapped_bytes > 0;
        let rows = self.ledger.iter();
        rows.filter(move |row| holds(row) || row.class == LedgerClass::Unknown)
    }

    /// All rows of the ledger together.
    pub fn ledger_sum(&self) -> LedgerRow {
        let mut sum = LedgerRow::empty(LedgerClass::Unknown);
        for row in &self.ledger {
            sum.resident_bytes = sum.resident_bytes.saturating_add(row.resident_bytes);
            sum.shared_bytes = sum.shared_bytes.saturating_add(row.shared_bytes);
            sum.swapped_bytes = sum.swapped_bytes.saturating_add(row.swapped_bytes);
        }
        sum
    }

    /// The ledger's row of a class.
    pub fn ledger_row(&self, class: LedgerClass) -> Option<&LedgerRow> {
        self.ledger.iter().find(|row| row.class == class)
    }

    /// Resident bytes of a class; 0 if the ledger has no row for it.
    pub fn resident_bytes(&self, class: LedgerClass) -> u64 {
        self.ledger_row(class).map_or(0, |row| row.resident_bytes)
    }
}
