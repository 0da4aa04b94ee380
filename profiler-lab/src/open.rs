//! Turns a recording into a program to replay, and adds checkpoints where the recorded ones miss
//! much. This is the only way: tests and benches use it too.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use profiler_trace::interchange;
use profiler_trace::limits::{Incomplete, Limits, Meter};
use profiler_trace::trace::{Checkpoint, Event, Item, TraceSource, pass_on};

use super::input::Input;
use super::play::{CompileError, ProgramBuilder, ReplayProgram};

/// Without recorded checkpoints, one is added every this many events,
const EVERY_EVENTS: u64 = 1 << 18;
/// and whenever live bytes reach this multiple of the largest number at any earlier checkpoint.
const GROWTH: f64 = 1.1;
/// Less than this is not worth a checkpoint.
const LEAST_LIVE: u64 = 1 << 20;
/// The first process, which is measured to the end.
const FIRST: u32 = 0;

/// A recording, compiled as far as it can be read.
#[derive(Debug)]
pub struct Compiled {
    /// The program.
    pub program: Arc<ReplayProgram>,
    /// Why it was not read to its end.
    pub trouble: Option<Incomplete>,
}

/// Opens and compiles the trace at `path`, or another tool's recording, until it is interrupted.
///
/// # Errors
/// If it cannot be opened, or nothing in it can be read.
pub fn open(
    path: &Path,
    limits: Limits,
    interrupted: &Arc<AtomicBool>,
) -> Result<Compiled, CompileError> {
    let meter = Meter::new(limits, Arc::clone(interrupted));
    let input = Input::open(path, interrupted)?;
    compile(interchange::read(input, &meter)?, meter)
}

/// Compiles a recording, within the limits of a meter.
///
/// # Errors
/// If nothing in it can be read, or there is no room for the program.
pub fn compile(mut trace: impl TraceSource, meter: Meter) -> Result<Compiled, CompileError> {
    let mut builder = ProgramBuilder::new(trace.description().clone(), meter)?;
    let mut added = AddedCheckpoints::default();
    let trouble = pass_on(&mut trace, |item| added.item(item, &mut builder))?;
    added.end(&mut builder)?;
    let program = builder.finish(trouble.clone())?;
    Ok(Compiled { program, trouble })
}

/// When to take additional measurements.
#[derive(Debug, Default)]
struct AddedCheckpoints {
    events: u64,
    /// Events since the last checkpoint.
    since: u64,
    time_ns: u64,
    /// The live bytes of each process at its checkpoints, by its number.
    processes: Vec<AtCheckpoints>,
    /// The live bytes of all of them together when all were measured.
    most_of_all: u64,
    /// Whether the recording has its own checkpoints.
    recorded: bool,
}

/// The live bytes of a process at its checkpoints.
#[derive(Copy, Clone, Debug, Default)]
struct AtCheckpoints {
    /// The most at any of them.
    most: u64,
    last: u64,
    /// Whether one of them was recorded.
    recorded: bool,
    /// Whether the last one was at its end: after that it only takes apart what it had.
    is_final: bool,
}

impl AddedCheckpoints {
    fn item(&mut self, item: Item, builder: &mut ProgramBuilder) -> io::Result<()> {
        let event = match &item {
            Item::Event(event) => Some(*event),
            Item::Checkpoint(_) | Item::Seed(_) => None,
        };
        let checkpoint = match &item {
            Item::Checkpoint(Checkpoint {
                process, figures, ..
            }) => Some((*process, figures.is_final)),
            Item::Event(_) | Item::Seed(_) => None,
        };
        builder.item(item)?;
        if let Some((process, is_final)) = checkpoint {
            self.recorded = true;
            if let Some(of) = self.note(process, builder) {
                (of.recorded, of.is_final) = (true, is_final);
            }
        }
        let Some(Event {
            time_ns, thread, ..
        }) = event
        else {
            return Ok(());
        };
        self.time_ns = self.time_ns.max(time_ns);
        self.events += 1;
        self.since += 1;
        match builder.process_of_thread(thread) {
            Some(_) if self.all_have_grown(builder) => self.add_all(builder),
            Some(process) if self.has_grown(process, builder) => self.add(process, builder),
            _ if !self.recorded && self.since >= EVERY_EVENTS => self.add(FIRST, builder),
            _ => Ok(()),
        }
    }

    /// Whether several processes together have more than when they were last measured together.
    fn all_have_grown(&self, builder: &ProgramBuilder) -> bool {
        let live = builder.live_bytes();
        builder.processes() > 1
            && live >= LEAST_LIVE
            && live as f64 >= self.most_of_all as f64 * GROWTH
    }

    /// Measures all processes that have changed since their last measurement: their total is the
    /// sum of the last values.
    fn add_all(&mut self, builder: &mut ProgramBuilder) -> io::Result<()> {
        self.most_of_all = builder.live_bytes();
        for process in FIRST..builder.processes() {
            let Some(live) = builder.live_bytes_of(process) else {
                continue;
            };
            let of = self.processes.get(process as usize);
            let of = of.copied().unwrap_or_default();
            let change = live.abs_diff(of.last) as f64;
            let has_changed =
                change >= of.last as f64 * (GROWTH - 1.0) && live.abs_diff(of.last) >= LEAST_LIVE;
            if has_changed && !of.is_final {
                self.add(process, builder)?;
            }
        }
        Ok(())
    }

    /// Whether a process has more than at any checkpoint before. Children that no checkpoint was recorded of,
    /// short-lived mostly, are measured for the peak alone, with [all others](Self::all_have_grown).
    fn has_grown(&self, process: u32, builder: &ProgramBuilder) -> bool {
        let of = self.processes.get(process as usize);
        let of = of.copied().unwrap_or_default();
        let live = builder.live_bytes_of(process).unwrap_or(0);
        let has_grown = |now: u64, before: u64| now as f64 >= before as f64 * GROWTH;
        if of.is_final || live < LEAST_LIVE {
            return false;
        }
        (process == FIRST || of.recorded) && has_grown(live, of.most)
    }

    /// At the end each process is measured once more, if one has grown since its last checkpoint,
    /// which was then not its last state. If nothing was recorded, the end gives the final value.
    fn end(&mut self, builder: &mut ProgramBuilder) -> io::Result<()> {
        if self.events == 0 {
            return Ok(());
        }
        if !self.recorded {
            return self.add(FIRST, builder);
        }
        let left = (FIRST..).zip(&self.processes);
        let left = left.filter(|(_, of)| of.recorded && !of.is_final);
        let left = left.filter_map(|(process, of)| {
            let live = builder.live_bytes_of(process)?;
            Some((process, live.saturating_sub(of.last) >= LEAST_LIVE))
        });
        let left: Vec<(u32, bool)> = left.collect();
        if left.iter().any(|(_, has_grown)| *has_grown) {
            for (process, _) in left {
                self.add(process, builder)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, process: u32, builder: &mut ProgramBuilder) -> io::Result<()> {
        self.note(process, builder);
        builder.add_checkpoint(process, self.time_ns)
    }

    /// Notes a checkpoint of a process. Returns what is known of that process's checkpoints, if it
    /// may have one.
    fn note(&mut self, process: u32, builder: &ProgramBuilder) -> Option<&mut AtCheckpoints> {
        self.since = 0;
        let live = builder.live_bytes_of(process)?;
        let index = process as usize;
        if self.processes.len() <= index {
            self.processes.resize(index + 1, AtCheckpoints::default());
        }
        let of = self.processes.get_mut(index)?;
        (of.most, of.last) = (of.most.max(live), live);
        Some(of)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use profiler_core::residency::ResidencyMap;
    use profiler_testing::trace::TraceBuilder;
    use profiler_trace::record::{Clock, Normaliser, Recorder, SourceEvent};
    use profiler_trace::trace::{By, EventKind, Figures, Reader, TraceDescription, Writer};

    use super::*;
    use crate::figures::{Endings, PeakAndFinal};

    fn compiled(blocks: u64, recorded: Option<u64>) -> Compiled {
        let writer = Writer::new(Vec::new(), &TraceDescription::default()).expect("memory");
        let mut recorder = Recorder::new(writer, Normaliser::new(Clock::new(0, 1)));
        let mut put = |time_ns, kind: EventKind| {
            let event = SourceEvent {
                time_ns,
                process: 0,
                thread: 0,
                kind: kind.into(),
            };
            recorder.record(&event).expect("memory");
            if Some(time_ns) == recorded {
                let of = recorder.normaliser().process(0).expect("recorded");
                let nothing = ResidencyMap::new(Vec::new());
                let figures = Figures::default();
                let taken = recorder.checkpoint(&of, time_ns, &nothing, figures);
                taken.expect("memory");
            }
        };
        for i in 0..blocks {
            let (addr, bytes, align, by) = (i << 12, 1000, 0, By::Malloc);
            let alloc = EventKind::Alloc {
                addr,
                bytes,
                align,
                by,
            };
            put(i, alloc);
        }
        for i in 0..blocks {
            put(blocks + i, EventKind::Free { addr: i << 12 });
        }
        let bytes = recorder.finish().expect("memory").finish().expect("memory");
        let trace = Reader::new(bytes.as_slice()).expect("a trace");
        compile(trace, Meter::default()).expect("a program")
    }

    #[test]
    fn a_peak_that_no_checkpoint_saw_is_measured() {
        let compiled = compiled(20_000, Some(39_999));
        let checkpoints = compiled.program.checkpoints();
        let most = checkpoints.iter().map(|at| at.live_bytes).max();
        assert!(most >= Some(18_000_000), "{most:?} of 20 MB");
        assert!(checkpoints.len() < 40, "{}", checkpoints.len());
        let last = checkpoints.last().expect("some");
        assert!(last.recorded && !checkpoints[0].recorded);
        assert_eq!(
            last.checkpoint.time_ns, 39_999,
            "the final one is as recorded"
        );
        assert!(compiled.trouble.is_none());
    }

    /// A program with 10 MiB and children that have as much again, one after the other.
    #[test]
    fn children_that_no_checkpoint_saw_are_measured_and_count_to_their_end() {
        let mut trace = TraceBuilder::default();
        let fill = |trace: &mut TraceBuilder, thread| {
            (0..1311).for_each(|_| {
                trace.alloc(thread, 8000);
            });
        };
        fill(&mut trace, 0);
        trace.checkpoint(0);
        for child in 1..=3 {
            trace.fork(0, child, child);
            fill(&mut trace, child);
            trace.pass(Duration::from_secs(1));
            trace.event(child, EventKind::Exit);
        }
        let bytes = trace.finish();
        let program = compile(
            Reader::new(bytes.as_slice()).expect("a trace"),
            Meter::default(),
        );
        let program = program.expect("a program").program;
        let (summary, checkpoints) = (program.summary(), program.checkpoints());
        // The parent, and one child with what it has of its parent's.
        let own = 1311 * 8000;
        assert_eq!(summary.peak_live_bytes, 3 * own);
        assert_eq!(summary.duration_ns, 3_000_000_000);
        assert_eq!(summary.ends.len(), 3);
        let live = checkpoints.iter();
        let live: Vec<_> = live
            .map(|at| (at.checkpoint.process, at.live_bytes))
            .collect();
        // The others have no more than it had.
        assert!(live.iter().all(|(process, _)| *process < 2), "{live:?}");
        let endings = Endings::of(&checkpoints, &summary.ends);
        let both = PeakAndFinal::of_ending(&live, &endings).expect("some");
        assert_eq!(both.at_end, own);
        assert!(both.peak > 3 * own / 11 * 10, "{both:?}");
    }

    #[test]
    fn a_trace_without_checkpoints_is_measured_now_and_then_and_at_its_end() {
        let checkpoints = compiled(300_000, None).program.checkpoints();
        assert!(checkpoints.len() > 2);
        let last = checkpoints.last().expect("some");
        assert_eq!((last.checkpoint.time_ns, last.live_bytes), (599_999, 0));
    }
}
