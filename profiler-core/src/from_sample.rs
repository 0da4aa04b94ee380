//! Builds a report from a sample: one sweep over the pages, then figures, then explanations.

use crate::completeness::Defect;
use crate::explain::{packing, serving};
use crate::heap::Allocator;
use crate::metrics::{
    ArenaResidency, HeapMap, HugeRanges, Ledger, MetricInputs, Occupancy, PageTotals, Pins, heaps,
    pages, size_classes,
};
use crate::report::{FragReport, ToCome};
use crate::sample::Sample;

impl FragReport {
    /// The report of a sample. Nothing else influences it. The sample is not validated: ranges that
    /// overlap or are outside all mappings count once, or not at all.
    pub fn from_sample(sample: &Sample) -> Self {
        let mut ledger = Ledger::new(sample);
        let mut occupancy = Occupancy::default();
        let mut map = HeapMap::default();
        let mut figures = PageTotals::default();
        let mut huge = HugeRanges::default();
        let mut pins = Pins::default();
        let mut arenas = ArenaResidency::new(sample);
        pages::visit(sample, |slice| {
            let trimmable = ledger.page(slice);
            map.page(slice);
            if slice.owner.is_private {
                return arenas.page(slice, trimmable);
            }
            occupancy.page(slice);
            figures.page(slice);
            huge.page(slice);
            pins.page(slice, trimmable);
            arenas.page(slice, trimmable);
        });
        let pins = pins.finish();
        let malloc = sample.heaps.iter().zip(&ledger.trimmable);
        let malloc = malloc.filter(|(heap, _)| heap.library.is_none());
        let trimmable = malloc.map(|(_, bytes)| bytes).sum();
        let (ledger, complaint) = ledger.finish();
        let mut completeness = sample.completeness.clone();
        completeness.defects.extend(complaint.map(Defect::of_all));
        let huge_occupancy = huge.finish();
        let heaps = heaps(sample, &arenas, &pins);
        let account = MetricInputs {
            sample,
            figures: &figures,
            ledger: &ledger,
            heaps: &heaps,
            huge: &huge_occupancy,
            trimmable,
        };
        let metrics = account.metrics();
        let mut report = Self {
            taken_at_ns: sample.taken_at_ns,
            host: sample.host.clone(),
            target: sample.target.clone(),
            kernel: sample.kernel,
            fork: sample.fork,
            group: sample.group.clone(),
            ledger,
            heaps,
            size_classes: size_classes(sample, &pins),
            page_occupancy: occupancy.rows(),
            occupancy_deciles: occupancy.deciles(),
            huge_occupancy,
            heap_live_bytes: figures.live_bytes(),
            map: map.finish(),
            metrics,
            packing: None,
            predictions: None,
            objects: None,
            objects_before: None,
            growth: None,
            to_come: ToCome::Nothing,
            trend: None,
            memory_growth: None,
            findings: Vec::new(),
            verdict: String::new(),
            explanation: String::new(),
            completeness,
        };
        let is_jemalloc = serving(&report) == Some(Allocator::Jemalloc);
        if !is_jemalloc && report.malloc_not_walked().is_none() {
            report.packing = packing::pack(sample, figures.malloc_bytes());
        }
        report.conclude();
        report
    }
}
