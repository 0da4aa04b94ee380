//! From a file to a program to play, with more looks than were recorded where these miss much.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use profiler_trace::interchange;
use profiler_trace::limits::{Limits, Meter};
use profiler_trace::trace::{Checkpoint, Event, Item, TraceSource, pass_on};

use super::input::Input;
use super::play::{CompileError, Growing, Program};

/// Where no checkpoint was recorded, there is a look each time so many events have passed.
const EVERY_EVENTS: u64 = 1 << 18;
/// There is a look, too, when so many times as much is live as at any look before.
const GROWTH: f64 = 1.1;
/// Less than this is not worth a look.
const LEAST_LIVE: u64 = 1 << 20;

/// A trace, compiled as far as it can be read.
#[derive(Debug)]
pub struct Opened {
    /// The program.
    pub program: Arc<Program>,
    /// Why it was not read to its end.
    pub trouble: Option<String>,
}

/// Opens the trace at `path`, or a recording of another tool, until it is interrupted.
///
/// # Errors
/// When it cannot be opened, or nothing of it be read.
pub fn open(
    path: &Path,
    limits: Limits,
    interrupted: &Arc<AtomicBool>,
) -> Result<Opened, CompileError> {
    let meter = Meter::new(limits, Arc::clone(interrupted));
    let input = Input::open(path, interrupted)?;
    compile(interchange::read(input, &meter)?, meter)
}

fn compile(mut trace: impl TraceSource, meter: Meter) -> Result<Opened, CompileError> {
    let mut growing = Growing::new(trace.description().clone(), meter)?;
    let mut looks = Looks::default();
    let trouble = pass_on(&mut trace, |item| looks.item(item, &mut growing))?;
    looks.end(&mut growing)?;
    let program = growing.finish(trouble.clone())?;
    Ok(Opened { program, trouble })
}

/// When to look besides.
#[derive(Debug, Default)]
struct Looks {
    events: u64,
    since: u64,
    time_ns: u64,
    /// The most that was live at any look.
    most_live: u64,
    recorded: bool,
}

impl Looks {
    fn item(&mut self, item: Item, growing: &mut Growing) -> io::Result<()> {
        match &item {
            Item::Event(Event { time_ns, .. }) => {
                self.time_ns = self.time_ns.max(*time_ns);
                self.events += 1;
                self.since += 1;
            }
            Item::Checkpoint(_) => {
                self.recorded = true;
                self.note(growing);
            }
            Item::Seed(_) => {}
        }
        growing.item(item)?;
        let live = growing.live_bytes();
        let has_grown = live >= LEAST_LIVE && live as f64 >= self.most_live as f64 * GROWTH;
        if has_grown || !self.recorded && self.since >= EVERY_EVENTS {
            self.look(growing)?;
        }
        Ok(())
    }

    /// Where nothing was recorded the end is what rests.
    fn end(&mut self, growing: &mut Growing) -> io::Result<()> {
        if self.recorded || self.events == 0 {
            return Ok(());
        }
        self.look(growing)
    }

    fn look(&mut self, growing: &mut Growing) -> io::Result<()> {
        self.note(growing);
        growing.look(Checkpoint {
            time_ns: self.time_ns,
            process: 0,
            figures: Default::default(),
        })
    }

    fn note(&mut self, growing: &Growing) {
        self.most_live = self.most_live.max(growing.live_bytes());
        self.since = 0;
    }
}

#[cfg(test)]
mod tests {
    use profiler_trace::trace::{By, EventKind, Reader, TraceDescription, Writer};

    use super::*;

    fn opened(blocks: u64, recorded: Option<u64>) -> Opened {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, &TraceDescription::default()).expect("memory");
        let mut put = |time_ns, kind| {
            let event = Event {
                time_ns,
                thread: 0,
                kind,
            };
            writer.event(&event).expect("memory");
            if Some(time_ns) == recorded {
                let checkpoint = Checkpoint {
                    time_ns,
                    ..Checkpoint::default()
                };
                writer.checkpoint(&checkpoint).expect("memory");
            }
        };
        for i in 0..blocks {
            let (addr, bytes, align, by) = (i << 12, 1000, 0, By::Malloc);
            put(
                i,
                EventKind::Alloc {
                    addr,
                    bytes,
                    align,
                    by,
                },
            );
        }
        for i in 0..blocks {
            put(blocks + i, EventKind::Free { addr: i << 12 });
        }
        writer.finish().expect("memory");
        let trace = Reader::new(bytes.as_slice()).expect("a trace");
        compile(trace, Meter::default()).expect("a program")
    }

    #[test]
    fn a_peak_that_no_checkpoint_saw_is_looked_at() {
        let opened = opened(20_000, Some(39_999));
        let stops = opened.program.stops();
        let most = stops.iter().map(|stop| stop.live_bytes).max();
        assert!(most >= Some(18_000_000), "{most:?} of 20 MB");
        assert!(stops.len() < 40, "{}", stops.len());
        let last = stops.last().expect("looks");
        assert_eq!(last.checkpoint.time_ns, 39_999, "what rests is as recorded");
        assert!(opened.trouble.is_none());
    }

    #[test]
    fn a_trace_without_checkpoints_is_looked_at_now_and_then_and_at_its_end() {
        let stops = opened(300_000, None).program.stops();
        assert!(stops.len() > 2);
        let last = stops.last().expect("looks");
        assert_eq!((last.checkpoint.time_ns, last.live_bytes), (599_999, 0));
    }
}
