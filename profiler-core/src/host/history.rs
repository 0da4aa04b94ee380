//! Processes of a tree that came and ended while it was watched. What they had when they ended
//! shows whether recycling workers helps.

use std::collections::VecDeque;

use crate::units::{age, bytes};

/// Ended processes that are kept: the last.
const KEPT: usize = 256;

/// A process that has ended, as last observed.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct EndedProcess {
    /// Its pid.
    pub pid: i32,
    /// Whether it ran Python.
    pub is_python: bool,
    /// Its resident set.
    pub rss_bytes: u64,
    /// Its unshared memory (USS), if known.
    pub uss_bytes: Option<u64>,
    /// Resident heap bytes that held nothing live, if it was walked.
    pub fragmentation_bytes: Option<u64>,
    /// Its running time, in ns.
    pub age_ns: Option<u64>,
}

/// The fate of a tree's processes since watching began.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TreeHistory {
    /// Processes that were not there at first.
    pub came: u64,
    /// Processes that have ended.
    pub ended: u64,
    /// Those that ended last, the last of them at the end.
    pub last: VecDeque<EndedProcess>,
}

impl TreeHistory {
    /// Records an end.
    pub(super) fn end(&mut self, process: EndedProcess) {
        self.ended += 1;
        if self.last.len() >= KEPT {
            self.last.pop_front();
        }
        self.last.push_back(process);
    }

    /// A sentence about what the Python processes had when they ended; `None` before one has
    /// started or ended.
    pub fn sentence(&self) -> Option<String> {
        if self.came == 0 && self.ended == 0 {
            return None;
        }
        let counts = format!(
            "Since it is watched {} came and {} ended",
            self.came, self.ended
        );
        let workers = self.last.iter().filter(|of| of.is_python);
        let mut rss: Vec<u64> = workers.clone().map(|of| of.rss_bytes).collect();
        let mut ages: Vec<u64> = workers.filter_map(|of| of.age_ns).collect();
        rss.sort_unstable();
        ages.sort_unstable();
        let words = |all: &[u64], text: &dyn Fn(u64) -> String| {
            let middle = text(*all.get(all.len() / 2)?);
            let (least, most) = (text(*all.first()?), text(*all.last()?));
            Some(match least == most {
                true => middle,
                false => format!("{middle} (from {least} to {most})"),
            })
        };
        let Some(had) = words(&rss, &bytes) else {
            return Some(format!("{counts}."));
        };
        let after = words(&ages, &|ns| age(ns / 1_000_000_000));
        let after = after.map_or_else(String::new, |after| format!(", after {after}"));
        let which = match self.ended as usize > self.last.len() {
            true => format!("the last {} of them that ran Python", rss.len()),
            false => "those that ran Python".to_owned(),
        };
        Some(format!(
            "{counts}: {which} had an RSS of {had} when last seen{after}."
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_had_when_they_ended_is_said_and_only_the_last_are_kept() {
        let mut history = TreeHistory::default();
        assert_eq!(history.sentence(), None);
        history.came = 3;
        assert_eq!(
            history.sentence().as_deref(),
            Some("Since it is watched 3 came and 0 ended.")
        );
        let end = |mib: u64, minutes: u64| EndedProcess {
            pid: 7,
            is_python: true,
            rss_bytes: mib << 20,
            age_ns: Some(minutes * 60_000_000_000),
            ..EndedProcess::default()
        };
        for (mib, minutes) in [(184, 41), (178, 38), (180, 40)] {
            history.end(end(mib, minutes));
        }
        assert_eq!(
            history.sentence().as_deref(),
            Some(
                "Since it is watched 3 came and 3 ended: those that ran Python had an RSS of 180.0 MiB (from \
                 178.0 MiB to 184.0 MiB) when last seen, after 40m (from 38m to 41m)."
            )
        );
        for _ in 0..2 * KEPT {
            history.end(end(10, 1));
        }
        assert_eq!(
            (history.last.len(), history.ended),
            (KEPT, 2 * KEPT as u64 + 3)
        );
        let said = history.sentence().expect("some ended");
        assert!(
            said.contains("the last 256 of them")
                && said.contains("of 10.0 MiB when last seen, after 60s"),
            "{said}"
        );
    }
}
