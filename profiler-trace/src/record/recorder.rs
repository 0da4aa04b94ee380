//! The recorder: writes events of sources and data of samples into a trace or directly to players.

use std::io::{self, Write};

use profiler_core::residency::ResidencyMap;

use super::large::LargeBlocks;
use super::normaliser::Normaliser;
use super::numbers::RecordedProcess;
use super::source::SourceEvent;
use crate::trace::{Checkpoint, Event, Figures, SeedBlock, Writer};

/// Takes a stream, item by item, in order: a file, or a program that is played at once.
pub trait TraceSink {
    /// Why an item could not be taken.
    type Error;

    /// The earlier heap, before all events, in address order.
    ///
    /// # Errors
    /// If it cannot be written.
    fn seed(&mut self, blocks: &[SeedBlock]) -> Result<(), Self::Error>;

    /// An event.
    ///
    /// # Errors
    /// If it cannot be written.
    fn event(&mut self, event: &Event) -> Result<(), Self::Error>;

    /// A checkpoint.
    ///
    /// # Errors
    /// If it cannot be written.
    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), Self::Error>;
}

impl<W: Write> TraceSink for Writer<W> {
    type Error = io::Error;

    fn seed(&mut self, blocks: &[SeedBlock]) -> io::Result<()> {
        Writer::seed(self, blocks)
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        Writer::event(self, event)
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        Writer::checkpoint(self, checkpoint)
    }
}

/// Records the events of a source. All times are the source's.
#[derive(Clone, Debug)]
pub struct Recorder<S> {
    normaliser: Normaliser,
    large: LargeBlocks,
    sink: S,
}

impl<S: TraceSink> Recorder<S> {
    /// A recording into `sink` without an earlier heap.
    pub fn new(sink: S, normaliser: Normaliser) -> Self {
        Self {
            normaliser,
            large: LargeBlocks::default(),
            sink,
        }
    }

    /// A recording of one process that had these blocks and these threads, in the form that
    /// [`Normaliser::number_threads`] takes.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn seeded(
        sink: S,
        normaliser: Normaliser,
        seed: &[SeedBlock],
        process: u64,
        threads: &[Option<u64>],
    ) -> Result<Self, S::Error> {
        let mut recorder = Self::new(sink, normaliser);
        recorder.sink.seed(seed)?;
        for block in seed.iter().filter(|block| block.live) {
            recorder.large.seed(block);
        }
        let mut ended = Vec::new();
        recorder
            .normaliser
            .number_threads(process, threads, |event| ended.push(event));
        ended
            .iter()
            .try_for_each(|event| recorder.sink.event(event))?;
        Ok(recorder)
    }

    /// Records one event of the source.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn record(&mut self, event: &SourceEvent) -> Result<(), S::Error> {
        let (large, sink) = (&mut self.large, &mut self.sink);
        let pending = self.normaliser.pending_losses();
        let mut taken = Ok(());
        self.normaliser.push(event, |process, event| {
            large.note(process, &event);
            if taken.is_ok() {
                taken = sink.event(&event);
            }
        });
        taken?;
        // Those that follow each other are reported together.
        match self.normaliser.pending_losses() == pending {
            true => self.report_left_out(),
            false => Ok(()),
        }
    }

    /// Records that `events` events have been lost so far.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn lost(&mut self, events: u64) -> Result<(), S::Error> {
        self.sink.event(&self.normaliser.lost(events))
    }

    /// Records as lost what the normaliser left out.
    fn report_left_out(&mut self) -> Result<(), S::Error> {
        match self.normaliser.take_pending_losses() {
            Some(lost) => self.sink.event(&lost),
            None => Ok(()),
        }
    }

    /// Records that the process with this number in the source ended at this time, if that is not
    /// known.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn gone(&mut self, source: u64, source_ns: u64) -> Result<(), S::Error> {
        self.report_left_out()?;
        let end = self.normaliser.gone(source, source_ns);
        self.end(end)
    }

    /// Records that one of its threads ended the process with this number in the source, at this
    /// time.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn left(&mut self, source: u64, source_ns: u64) -> Result<(), S::Error> {
        self.report_left_out()?;
        let end = self.normaliser.left(source, source_ns);
        self.end(end)
    }

    fn end(&mut self, end: Option<(u32, Event)>) -> Result<(), S::Error> {
        let Some((process, end)) = end else {
            return Ok(());
        };
        self.large.note(process, &end);
        self.sink.event(&end)
    }

    /// Records what a sample of a process showed at this time: how much of its large blocks is
    /// touched, then the checkpoint itself. All earlier events must have been recorded already.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn checkpoint(
        &mut self,
        of: &RecordedProcess,
        source_ns: u64,
        residency: &ResidencyMap,
        figures: Figures,
    ) -> Result<(), S::Error> {
        self.report_left_out()?;
        let time_ns = self.normaliser.advance(source_ns);
        for kind in self.large.touched(of.process, residency) {
            self.sink.event(&Event {
                time_ns,
                thread: of.main_thread,
                kind,
            })?;
        }
        self.sink.checkpoint(&Checkpoint {
            time_ns,
            process: of.process,
            figures,
        })
    }

    /// The state of the source's processes and threads.
    pub fn normaliser(&self) -> &Normaliser {
        &self.normaliser
    }

    /// The sink of the recording.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// The sink of the recording.
    pub fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// Ends the recording and returns its sink.
    ///
    /// # Errors
    /// Those of the sink, which receives what was left out last.
    pub fn finish(mut self) -> Result<S, S::Error> {
        self.report_left_out()?;
        Ok(self.sink)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::record::{Clock, MAX_THREADS, SourceKind};
    use crate::trace::{EventKind, Item};

    #[derive(Default)]
    struct Taken(Vec<Item>);

    impl TraceSink for Taken {
        type Error = Infallible;

        fn seed(&mut self, blocks: &[SeedBlock]) -> Result<(), Infallible> {
            self.0.push(Item::Seed(blocks.to_vec()));
            Ok(())
        }

        fn event(&mut self, event: &Event) -> Result<(), Infallible> {
            self.0.push(Item::Event(*event));
            Ok(())
        }

        fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), Infallible> {
            self.0.push(Item::Checkpoint(checkpoint.clone()));
            Ok(())
        }
    }

    fn recorder() -> Recorder<Taken> {
        Recorder::new(Taken::default(), Normaliser::new(Clock::new(1000, 100)))
    }

    fn of(time_ns: u64, process: u64, thread: u64, kind: impl Into<SourceKind>) -> SourceEvent {
        SourceEvent {
            time_ns,
            process,
            thread,
            kind: kind.into(),
        }
    }

    const FREE: SourceKind = SourceKind::Event(EventKind::Free { addr: 0x10 });

    fn lost(taken: &Taken) -> Vec<u64> {
        let lost = |item: &Item| match item {
            Item::Event(Event {
                kind: EventKind::Lost { events },
                ..
            }) => Some(*events),
            _ => None,
        };
        taken.0.iter().filter_map(lost).collect()
    }

    #[test]
    fn no_time_precedes_the_one_before_it_whatever_is_recorded() {
        let mut recorder = recorder();
        let empty = ResidencyMap::new(Vec::new());
        let mut play = || -> Result<(), Infallible> {
            recorder.record(&of(5000, 7, 7, FREE))?;
            let process = recorder.normaliser().process(7).expect("known");
            recorder.checkpoint(&process, 4000, &empty, Figures::default())?;
            recorder.checkpoint(&process, 9050, &empty, Figures::default())?;
            recorder.record(&of(8000, 7, 8, FREE))?;
            recorder.lost(3)?;
            recorder.record(&of(10_000, 7, 8, EventKind::Lost { events: 2 }))?;
            recorder.gone(7, 2000)?;
            recorder.record(&of(9000, 9, 9, FREE))
        };
        play().expect("it never fails");
        let times = recorder.sink().0.iter().filter_map(|item| match item {
            Item::Event(event) => Some(event.time_ns),
            Item::Checkpoint(checkpoint) => Some(checkpoint.time_ns),
            Item::Seed(_) => None,
        });
        let times: Vec<_> = times.collect();
        assert_eq!(times.len(), 9, "{times:?}");
        assert!(times.is_sorted(), "{times:?}");
        assert_eq!((times[0], times[8]), (4000, 9000));
    }

    #[test]
    fn events_beyond_the_limit_of_threads_are_recorded_as_lost() {
        let mut recorder = recorder();
        for thread in 0..MAX_THREADS as u64 + 5 {
            let taken = recorder.record(&of(2000, 7, thread, FREE));
            taken.expect("it never fails");
        }
        let known = recorder.record(&of(2000, 7, 1, FREE));
        known.expect("it never fails");
        assert_eq!(lost(recorder.sink()), [5]);
        let beyond = MAX_THREADS as u64 + 9;
        let unknown = recorder.record(&of(2000, 7, beyond, FREE));
        unknown.expect("it never fails");
        assert_eq!(lost(&recorder.finish().expect("it never fails")), [5, 1]);
    }

    #[test]
    fn losses_are_counted_of_threads_that_are_not_known_and_of_processes_that_ended() {
        let mut recorder = recorder();
        let loses = |thread, events| of(2000, 7, thread, EventKind::Lost { events });
        for event in [
            loses(1, 11),
            of(2000, 7, 7, FREE),
            loses(2, 12),
            of(2000, 7, 7, EventKind::Exit),
            loses(7, 13),
        ] {
            recorder.record(&event).expect("it never fails");
        }
        let taken = recorder.finish().expect("it never fails");
        assert_eq!(lost(&taken), [11, 12, 13]);
        assert_eq!(taken.0.len(), 5, "no thread begins by a loss");
    }
}
