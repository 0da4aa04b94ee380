//! The verdict in at most three words, for a table row.

use crate::mechanism::FindingBytes;
use crate::mechanism::Mechanism;
use crate::report::FragReport;

/// The verdict of a report in at most three words, by its first finding.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct ShortVerdict {
    /// The mechanism of the first finding; `None` if nothing stands out.
    pub mechanism: Option<Mechanism>,
    /// Its bytes as a share of RSS, 0 to 1.
    pub share: f64,
    /// Fragmentation as a share of RSS, 0 to 1.
    pub fragmentation: f64,
    /// Whether most of the heap is in swap and was not read, so that the other figures cover only
    /// the rest.
    pub is_in_swap: bool,
}

/// The verdict on a process with most of its heap in swap.
const IN_SWAP: &str = "in swap";

impl ShortVerdict {
    /// Of a report.
    pub(crate) fn of(report: &FragReport) -> Self {
        let rss = report.kernel.rss_bytes.max(1) as f64;
        let first = report.findings.first();
        let bytes = first.map_or(0, |first| {
            first
                .bytes
                .filter(|bytes| *bytes > 0)
                .unwrap_or(first.held_bytes)
        });
        Self {
            mechanism: first.map(|first| first.mechanism),
            share: bytes as f64 / rss,
            fragmentation: report.fragmentation_share().unwrap_or(0.0),
            is_in_swap: report.is_heap_in_swap(),
        }
    }

    /// The verdict as words. Growth is mentioned if the memory is in use, which no allocator
    /// changes.
    pub fn words(&self, is_growing: bool) -> String {
        if self.is_in_swap {
            return IN_SWAP.into();
        }
        let mechanism = self.mechanism.unwrap_or(Mechanism::MostlyLive);
        match mechanism {
            Mechanism::MostlyLive if is_growing => "growing".into(),
            Mechanism::NotTheHeap if is_growing => "growing, not heap".into(),
            Mechanism::Untrimmed => format!("trim returns {:.0}%", self.share * 100.0),
            Mechanism::PinnedPages
            | Mechanism::PinnedTop
            | Mechanism::Caches
            | Mechanism::ArenaSprawl
            | Mechanism::SparsePools
            | Mechanism::DynamicMmapThreshold
            | Mechanism::KeptTop
            | Mechanism::StuckPages
            | Mechanism::HugePages
            | Mechanism::LazilyFreed
            | Mechanism::PrivateHeap
            | Mechanism::Unexplained
            | Mechanism::MostlyLive
            | Mechanism::NotTheHeap
            | Mechanism::NotSure => mechanism.short().into(),
        }
    }

    /// The topic of the first finding, without its size.
    pub fn about(&self) -> &'static str {
        match self.is_in_swap {
            true => IN_SWAP,
            false => self.mechanism.unwrap_or(Mechanism::MostlyLive).short(),
        }
    }

    /// Whether a remedy of fragmentation is named, rather than that memory is in use.
    pub fn is_fragmentation(&self) -> bool {
        let known = self.mechanism.filter(|_| !self.is_in_swap);
        let subject = known.map(Mechanism::subject);
        subject.is_some_and(|subject| subject != FindingBytes::NoWaste)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_words_say_what_the_first_finding_is_about() {
        let words = |mechanism, is_growing| {
            let verdict = ShortVerdict {
                mechanism,
                share: 0.617,
                fragmentation: 0.7,
                is_in_swap: false,
            };
            verdict.words(is_growing)
        };
        assert_eq!(words(None, false), "in use");
        assert_eq!(words(Some(Mechanism::MostlyLive), true), "growing");
        assert_eq!(words(Some(Mechanism::Untrimmed), true), "trim returns 62%");
        assert_eq!(
            words(Some(Mechanism::ArenaSprawl), false),
            "fragmented: arenas"
        );
        assert_eq!(words(Some(Mechanism::NotSure), true), "no verdict");
    }
    #[test]
    fn the_document_has_each_verdict_and_when_it_is_found() {
        let document = include_str!("../../../docs/top.md");
        let (_, chapter) = document
            .split_once("## The verdict in three words")
            .expect("a chapter");
        let (chapter, _) = chapter.split_once("\n## ").expect("another after it");
        let words = |mechanism, is_growing| {
            let verdict = ShortVerdict {
                mechanism,
                share: 0.62,
                fragmentation: 0.7,
                is_in_swap: false,
            };
            verdict.words(is_growing)
        };
        for mechanism in Mechanism::ALL {
            let row = format!(
                "| `{}` | {} |",
                words(Some(*mechanism), false),
                mechanism.help()
            );
            assert!(chapter.contains(&row), "{row}");
        }
        let growing =
            [Mechanism::MostlyLive, Mechanism::NotTheHeap].map(|one| words(Some(one), true));
        let swapped = ShortVerdict {
            mechanism: None,
            share: 0.0,
            fragmentation: 0.0,
            is_in_swap: true,
        };
        assert_eq!(swapped.words(true), IN_SWAP);
        assert!(chapter.contains(&format!("| `{IN_SWAP}` |")));
        for words in &growing {
            assert!(chapter.contains(&format!("| `{words}` |")), "{words}");
        }
        let rows = chapter.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(
            rows.count(),
            Mechanism::ALL.len() + growing.len() + 1,
            "and no other"
        );
    }
}
