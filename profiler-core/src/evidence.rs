//! The figures that back a finding's claim: metrics, and figures that only findings have.

use crate::metrics::MetricId;
use crate::units::{Unit, Value};

/// Declares [`EvidenceId`]: the figures that are not metrics, each with its key, unit and meaning.
macro_rules! figures {
    ($($id:ident, $key:literal, $unit:ident, $help:literal;)*) => {
        /// A figure that supports a claim. `docs/metrics.md` lists those that are not metrics.
        #[derive(Copy, Clone, Debug, Eq, PartialEq)]
        pub enum EvidenceId {
            /// A metric, unchanged.
            Metric(MetricId),
            $(#[doc = $help] $id,)*
        }

        impl EvidenceId {
            /// The figures that are not metrics.
            pub const OWN: &'static [Self] = &[$(Self::$id,)*];

            /// Its key in JSON.
            pub const fn key(self) -> &'static str {
                match self {
                    Self::Metric(id) => id.key(),
                    $(Self::$id => $key,)*
                }
            }

            /// Its unit.
            pub const fn unit(self) -> Unit {
                match self {
                    Self::Metric(id) => id.unit(),
                    $(Self::$id => Unit::$unit,)*
                }
            }

            /// Its meaning, in half a sentence.
            pub const fn help(self) -> &'static str {
                match self {
                    Self::Metric(id) => id.help(),
                    $(Self::$id => $help,)*
                }
            }
        }
    };
}

figures! {
    PinnedByLiveBytes, "pinned_by_live_bytes", Bytes,
        "free on pages that live blocks of malloc keep; those that only cached blocks or the top keep are not in it";
    TopBytes, "top_bytes", Bytes, "resident in the ends of arenas";
    PymallocFreeBytes, "pymalloc_free_bytes", Bytes, "resident and free in Python's pools and arenas";
    ResidentBytes, "resident_bytes", Bytes, "resident in the heap that the finding is about";
    LiveBytes, "live_bytes", Bytes, "live blocks of malloc, or of the heap that the finding is about";
    LiveResidentBytes, "live_resident_bytes", Bytes, "the part of these that is resident";
    TrimmableBytes, "trimmable_bytes", Bytes, "what the allocator's own purge would return of that heap";
    LazyFreeBytes, "lazy_free_bytes", Bytes, "given back with `MADV_FREE`, and not taken by the kernel yet";
    ThreadArenas, "thread_arenas", Arenas, "arenas of threads";
    IdleBytes, "idle_bytes", Bytes, "resident and not live in these";
    MmapThreshold, "mmap_threshold", Bytes, "what glibc's mmap threshold has grown to";
    TrimThreshold, "trim_threshold", Bytes, "what glibc's trim threshold has grown to";
    PredictedBytes, "predicted_bytes", Bytes, "what malloc's heap would take with the remedy";
    PredictedLowBytes, "predicted_low_bytes", Bytes, "the lower end of that";
    PredictedHighBytes, "predicted_high_bytes", Bytes, "its upper end";
    BaselineBytes, "baseline_bytes", Bytes, "what it took at the walk that the prediction is of";
}

/// A figure that carries a claim.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Which one.
    pub id: EvidenceId,
    /// `None` is unknown.
    pub value: Option<Value>,
}

impl Evidence {
    /// A figure that is known.
    pub(crate) fn whole(id: EvidenceId, value: u64) -> Self {
        Self {
            id,
            value: Some(Value::Whole(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_each_figure_that_is_no_metric_with_its_unit() {
        let document = include_str!("../../docs/metrics.md");
        for id in EvidenceId::OWN {
            let row = format!("| `{}` | {} | {} |", id.key(), id.unit().name(), id.help());
            assert!(document.contains(&row), "{row}");
        }
    }

    #[test]
    fn no_two_figures_have_one_key() {
        let own = EvidenceId::OWN.iter().map(|id| id.key());
        let metrics = MetricId::ALL.iter().map(|id| id.key());
        let mut keys: Vec<_> = own.chain(metrics).collect();
        keys.sort_unstable();
        let all = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), all, "{keys:?}");
    }
}
