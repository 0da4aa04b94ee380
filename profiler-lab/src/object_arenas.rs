//! The memory of pymalloc's arenas while a program was recorded.

use std::collections::HashMap;

use profiler_trace::compile::{ObjectBytes, ProgramCheckpoint, Summary};

use super::figures::Endings;
use super::outcome::Run;

/// The size of those arenas at each checkpoint of a recording that contains the requests to them:
/// it is part of the comparison, because `PYTHONMALLOC=malloc` moves all of it to malloc. A lower
/// and an upper bound each.
#[derive(Debug)]
pub(super) struct ObjectArenas {
    least: Vec<u64>,
    most: Vec<u64>,
}

/// The least and the most that they may have had.
type Range = (u64, u64);
/// A time, in ns, and their size then.
type Known = (u64, u64);

impl ObjectArenas {
    /// `None` if nothing of it was recorded, Python had no such allocator, or the size is unknown
    /// for a process that continued after its last checkpoint and counts towards the final value.
    ///
    /// Between two checkpoints of a process the arenas are assumed to have changed evenly, and to
    /// have room for the live objects. A child has its parent's when it is forked: pages that both
    /// share count for both, as in everything recorded. After the last known size they stay as they
    /// were, unless more objects live than fit: then at least these, and at most as many more as
    /// were added.
    pub(super) fn of(summary: &Summary, checkpoints: &[ProgramCheckpoint]) -> Option<Self> {
        let arenas = Arenas::of(summary, checkpoints);
        let endings = Endings::of(checkpoints, &summary.ends);
        let ranges = checkpoints.iter().map(|at| {
            let (process, time_ns) = (at.checkpoint.process, at.checkpoint.time_ns);
            let is_vague = arenas.has_gone_on(process, time_ns);
            let is_final = || endings.counts_to_end(process, checkpoints.len());
            let range = arenas.at(process, time_ns, &at.objects);
            (!is_vague || !is_final()).then_some(range)
        });
        let (least, most): (Vec<u64>, Vec<u64>) =
            ranges.collect::<Option<Vec<_>>>()?.into_iter().unzip();
        let has_some = summary.object_events > 0 && most.iter().any(|bytes| *bytes > 0);
        has_some.then_some(Self { least, most })
    }

    /// Their least size.
    pub(super) fn least(&self) -> &[u64] {
        &self.least
    }

    /// The measurements of likely runs, and of those that only widen the range, with the size of
    /// the arenas added.
    pub(super) fn with(&self, likely: &[Run], bounds: &[Run]) -> (Vec<Run>, Vec<Run>) {
        let mut wide = with(bounds, &self.least);
        if self.least != self.most {
            wide.extend(self.with_most(likely));
            wide.extend(self.with_most(bounds));
        }
        (with(likely, &self.least), wide)
    }

    /// The measurements, with the largest possible size of the arenas added.
    pub(super) fn with_most(&self, runs: &[Run]) -> Vec<Run> {
        with(runs, &self.most)
    }
}

fn with(runs: &[Run], arenas: &[u64]) -> Vec<Run> {
    let all = runs.iter().map(|run| {
        let both = run.resident.iter().zip(arenas);
        let resident = both.map(|(malloc, arenas)| malloc.saturating_add(*arenas));
        Run {
            resident: resident.collect(),
            ..run.clone()
        }
    });
    all.collect()
}

/// What is known of them, by process.
struct Arenas {
    /// The recorded sizes, in order.
    known: HashMap<u32, Vec<Known>>,
    /// When a process was forked, and the size of its parent's then.
    forked: HashMap<u32, (u64, Range)>,
}

impl Arenas {
    fn of(summary: &Summary, checkpoints: &[ProgramCheckpoint]) -> Self {
        let mut known: HashMap<u32, Vec<Known>> = HashMap::new();
        for ProgramCheckpoint { checkpoint, .. } in checkpoints {
            if let Some(bytes) = checkpoint.figures.pymalloc_bytes {
                let of = known.entry(checkpoint.process).or_default();
                of.push((checkpoint.time_ns, bytes));
            }
        }
        let forked = HashMap::new();
        let mut arenas = Self { known, forked };
        // Parents come before their children.
        for fork in &summary.forks {
            let range = arenas.at(fork.parent, fork.time_ns, &fork.objects);
            arenas.forked.insert(fork.process, (fork.time_ns, range));
        }
        arenas
    }

    /// The known sizes of a process before and after this time.
    fn around(&self, process: u32, time_ns: u64) -> (Option<Known>, Option<Known>) {
        let known = self.known.get(&process).map_or(&[][..], Vec::as_slice);
        let after = known.partition_point(|(at_ns, _)| *at_ns < time_ns);
        let before = after.checked_sub(1).map(|before| known[before]);
        (before, known.get(after).copied())
    }

    /// Whether a process was measured, and not after this time.
    fn has_gone_on(&self, process: u32, time_ns: u64) -> bool {
        matches!(self.around(process, time_ns), (Some(_), None))
    }

    /// The size for a process at this time; `objects` is what it requested since the last known
    /// value.
    fn at(&self, process: u32, time_ns: u64, objects: &ObjectBytes) -> Range {
        let (before, after) = self.around(process, time_ns);
        let forked = self.forked.get(&process);
        let before = before.map(|(at_ns, bytes)| (at_ns, (bytes, bytes)));
        match (before.or(forked.copied()), after) {
            (Some((before_ns, (least, most))), Some(after)) => {
                // There is room for what lives.
                let of = |bytes| between((before_ns, bytes), after, time_ns).max(objects.most);
                (of(least), of(most))
            }
            (None, Some((_, bytes))) => (bytes, bytes),
            (before, None) => {
                let (least, most) = before.map_or((0, 0), |(_, range)| range);
                let least = least.max(objects.most);
                (least, most.saturating_add(objects.grown).max(least))
            }
        }
    }
}

/// The size at this time, between two times at which it is known.
fn between(before: Known, after: Known, time_ns: u64) -> u64 {
    let whole = after.0.saturating_sub(before.0);
    if whole == 0 {
        return after.1;
    }
    let part = time_ns.saturating_sub(before.0) as f64 / whole as f64;
    (before.1 as f64 + (after.1 as f64 - before.1 as f64) * part.clamp(0.0, 1.0)) as u64
}

#[cfg(test)]
mod tests {
    use profiler_trace::compile::{ProcessEnd, ProcessFork};
    use profiler_trace::trace::{Checkpoint, Figures};

    use super::*;

    /// A checkpoint of a process at this time, with the size of its arenas if that was recorded.
    fn at(process: u32, time_ns: u64, pymalloc_bytes: Option<u64>) -> ProgramCheckpoint {
        ProgramCheckpoint {
            checkpoint: Checkpoint {
                time_ns,
                process,
                figures: Figures {
                    pymalloc_bytes,
                    ..Figures::default()
                },
            },
            recorded: pymalloc_bytes.is_some(),
            began_ns: 0,
            live_bytes: 0,
            objects: ObjectBytes::default(),
            events: 0,
        }
    }

    fn found(summary: Summary, checkpoints: &[ProgramCheckpoint]) -> Option<Vec<Range>> {
        let summary = Summary {
            object_events: 1,
            ..summary
        };
        let ObjectArenas { least, most } = ObjectArenas::of(&summary, checkpoints)?;
        Some(least.into_iter().zip(most).collect())
    }

    fn arenas(checkpoints: &[ProgramCheckpoint]) -> Option<Vec<u64>> {
        let found = found(Summary::default(), checkpoints)?;
        assert!(found.iter().all(|(least, most)| least == most), "{found:?}");
        Some(found.into_iter().map(|(least, _)| least).collect())
    }

    #[test]
    fn arenas_change_evenly_between_two_checkpoints_and_are_not_guessed_where_they_are_final() {
        let both = [at(0, 10, Some(100)), at(0, 15, None), at(0, 20, Some(300))];
        assert_eq!(arenas(&both), Some(vec![100, 200, 300]));
        assert_eq!(arenas(&both[1..]), Some(vec![300, 300]));
        assert_eq!(arenas(&both[..2]), None);
        // Python began between the two, and had most of it early.
        let mut early = both.clone();
        early[1].objects.most = 290;
        assert_eq!(arenas(&early), Some(vec![100, 290, 300]));
        // No pymalloc, and no objects.
        assert_eq!(arenas(&[at(0, 10, Some(0))]), None);
        assert!(ObjectArenas::of(&Summary::default(), &[]).is_none());
    }

    #[test]
    fn a_child_has_what_its_parent_had_and_what_it_asked_for_since() {
        let child = |process, time_ns, most, grown| ProgramCheckpoint {
            objects: ObjectBytes { most, grown },
            ..at(process, time_ns, None)
        };
        let checkpoints = [
            at(0, 10, Some(100)),
            child(1, 16, 180, 0),
            child(1, 17, 260, 80),
            child(2, 18, 230, 60),
            at(0, 20, Some(300)),
        ];
        let fork = |process, parent, time_ns, most, grown| ProcessFork {
            process,
            parent,
            time_ns,
            objects: ObjectBytes { most, grown },
        };
        let end = |process| ProcessEnd {
            process,
            checkpoints: 4,
        };
        let summary = Summary {
            forks: vec![fork(1, 0, 15, 180, 0), fork(2, 1, 16, 170, 10)],
            ends: vec![end(1), end(2)],
            ..Summary::default()
        };
        let same = |bytes| (bytes, bytes);
        let of = |checkpoints: &[ProgramCheckpoint]| found(summary.clone(), checkpoints);
        let expected = [same(100), same(200), (260, 280), (230, 270), same(300)];
        assert_eq!(of(&checkpoints), Some(expected.to_vec()));
        // A process that was measured, and ended some time later.
        let mut measured = checkpoints.clone();
        measured[1] = at(1, 16, Some(210));
        let expected = [same(100), same(210), (260, 290), (230, 270), same(300)];
        assert_eq!(of(&measured), Some(expected.to_vec()));
        // And on the way there.
        measured[2] = at(1, 18, Some(230));
        measured[1] = child(1, 16, 180, 0);
        let expected = [same(100), same(210), same(230), (230, 270), same(300)];
        assert_eq!(of(&measured), Some(expected.to_vec()));
    }

    #[test]
    fn what_is_not_known_of_the_arenas_widens_the_range() {
        let run = |bytes| Run {
            resident: vec![bytes],
            ..Run::default()
        };
        let arenas = ObjectArenas {
            least: vec![30],
            most: vec![50],
        };
        let (likely, bounds) = arenas.with(&[run(100)], &[run(90)]);
        assert_eq!(likely, [run(130)]);
        assert_eq!(bounds, [run(120), run(150), run(140)]);
        let exact = ObjectArenas {
            least: vec![30],
            most: vec![30],
        };
        assert_eq!(exact.with(&[run(100)], &[]), (vec![run(130)], vec![]));
    }
}
