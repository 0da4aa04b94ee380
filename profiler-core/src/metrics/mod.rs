//! Metrics of a sample: the ledger, page occupancy, size classes, the map of the heap, figures.
//!
//! `docs/metrics.md` defines each with its formula. All of them get the heaps from `pages`: one
//! sweep over spans and page runs together.

mod figures;
mod heaps;
mod huge;
mod id;
mod ledger;
mod malloc_resident;
mod map;
mod occupancy;
#[cfg(test)]
mod page_sizes;
pub(crate) mod pages;
mod pins;
mod size_classes;

pub(crate) use figures::{MetricInputs, PageTotals};
pub(crate) use heaps::{ArenaResidency, heaps};
pub(crate) use huge::HugeRanges;
pub use id::{Metric, MetricId};
pub(crate) use ledger::Ledger;
pub use malloc_resident::{MallocResident, malloc_resident, malloc_resident_but};
pub(crate) use map::HeapMap;
pub(crate) use occupancy::Occupancy;
pub(crate) use pins::Pins;
pub(crate) use size_classes::size_classes;
