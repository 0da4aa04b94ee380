//! Findings about the process's memory as a whole: in use, outside the heap, or unexplained.

use super::{of_metric, serving, walk_confidence};
use crate::completeness::Confidence;
use crate::evidence::{Evidence, EvidenceId};
use crate::explain::prose::used;
use crate::explain::remedies;
use crate::mechanism::FindingBytes;
use crate::mechanism::Mechanism;
use crate::metrics::MetricId;
use crate::remedy::Remedy;
use crate::report::{Finding, FragReport};
use crate::tables::LedgerClass;
use crate::units::{bytes, percent};
use crate::worth::MUCH_FREE;

pub(super) fn mostly_live(report: &FragReport) -> Option<Finding> {
    let live = used(report);
    let utilisation = report.ratio(MetricId::Utilisation)?;
    let rss = report.kernel.rss_bytes;
    (utilisation >= 0.8 && live * 2 >= rss).then(|| Finding {
        mechanism: Mechanism::MostlyLive,
        claim: format!(
            "{} ({} of {}) are blocks that the program holds.",
            bytes(live),
            percent(live, rss),
            report.kernel.name()
        ),
        bytes: Some(live),
        held_bytes: live,
        evidence: vec![
            Evidence::whole(EvidenceId::LiveBytes, live),
            of_metric(report, MetricId::Utilisation),
        ],
        prediction: None,
        remedy: match report.objects {
            Some(_) => &remedies::OBJECTS_WERE_READ,
            None => Remedy::of(Mechanism::MostlyLive, serving(report)),
        },
        confidence: walk_confidence(report),
    })
}

pub(super) fn not_the_heap(report: &FragReport) -> Option<Finding> {
    let rss = report.kernel.rss_bytes;
    let heaps = report.heap_resident_bytes()? + report.resident_bytes(LedgerClass::PrivateHeap);
    let outside = rss.saturating_sub(heaps);
    let census = report.objects.as_deref();
    let mapper = census.and_then(|census| census.mapper(outside / 2));
    let whose = mapper
        .as_ref()
        .map_or_else(String::new, |(holder, mapped)| {
            let (titled, mapped) = (holder.titled(), bytes(*mapped));
            format!(" Of that {mapped} are mapped by mmap objects that {titled} holds.")
        });
    (outside > rss / 2).then(|| Finding {
        mechanism: Mechanism::NotTheHeap,
        claim: format!(
            "{} ({} of {}) are not in a walked heap: files {}, shared memory {}, other anonymous memory \
             {}.{whose}",
            bytes(outside),
            percent(outside, rss),
            report.kernel.name(),
            bytes(report.resident_bytes(LedgerClass::File)),
            bytes(report.resident_bytes(LedgerClass::SharedMemory)),
            bytes(report.resident_bytes(LedgerClass::OtherAnonymous)),
        ),
        bytes: Some(outside),
        held_bytes: outside,
        evidence: vec![of_metric(report, MetricId::HeapShareOfRss)],
        prediction: None,
        remedy: match mapper {
            Some(_) => &remedies::NAMED_MAPPING,
            None => Remedy::of(Mechanism::NotTheHeap, serving(report)),
        },
        confidence: walk_confidence(report),
    })
}

/// Fragmentation that no other finding speaks of.
pub(super) fn unexplained(report: &FragReport, others: &[Finding]) -> Option<Finding> {
    let free = report.amount(MetricId::FragmentationBytes)?;
    let rss = report.kernel.rss_bytes;
    let mut others = others.iter();
    let is_unexplained = others.all(|other| other.mechanism.subject() != FindingBytes::FreeHeap);
    let is_much = free as f64 > rss as f64 * MUCH_FREE;
    (is_unexplained && is_much).then(|| Finding {
        mechanism: Mechanism::Unexplained,
        claim: format!(
            "{} ({} of {}) are free but resident; the cause is not known.",
            bytes(free),
            percent(free, rss),
            report.kernel.name()
        ),
        bytes: None,
        held_bytes: free,
        evidence: vec![of_metric(report, MetricId::FragmentationBytes)],
        prediction: None,
        remedy: Remedy::of(Mechanism::Unexplained, serving(report)),
        confidence: Confidence::Low,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::{Allocator, HeapSnapshot};
    use crate::objects::{Census, Holder};

    const MIB: u64 = 1 << 20;

    #[test]
    fn who_maps_what_is_not_in_the_heap_is_named_with_its_own_remedy() {
        let sample = crate::sample::Sample {
            heaps: vec![HeapSnapshot::new(Allocator::Glibc, "2.36")],
            ..Default::default()
        };
        let mut report = FragReport::from_sample(&sample);
        report.kernel.rss_bytes = 100 * MIB;
        let of = |mapped| Holder {
            name: "app.SHM".into(),
            is_name: true,
            mapped_bytes: Some(mapped),
            ..Holder::default()
        };
        let mut found = |mapped: u64| {
            report.objects = Some(
                Census {
                    holders: vec![of(0), of(mapped)],
                    ..Census::default()
                }
                .into(),
            );
            not_the_heap(&report).expect("no heap has anything")
        };
        let named = found(90 * MIB);
        assert!(
            (named.claim)
                .ends_with(" Of that 90.0 MiB are mapped by mmap objects that `app.SHM` holds."),
            "{}",
            named.claim
        );
        assert!(named.remedy.prose().contains("close() of these objects"));
        for little in [0, 40 * MIB] {
            let found = found(little);
            assert!(!found.claim.contains("mmap"), "{}", found.claim);
            assert!(found.remedy.prose().contains("look at the libraries"));
        }
    }
}
