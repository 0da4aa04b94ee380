//! The recorder: what sources and samples give, into a trace or straight to players.

use std::io::{self, Write};

use profiler_core::residency::ResidencyMap;

use super::large::LargeBlocks;
use super::normaliser::Normaliser;
use super::numbers::RecordedProcess;
use super::source::SourceEvent;
use crate::trace::{Checkpoint, Event, EventKind, Figures, SeedBlock, Writer};

/// Takes a stream, item by item, in order: a file, or a program that is played at once.
pub trait TraceSink {
    /// Why an item could not be taken.
    type Error;

    /// The heap that was there before, ahead of all events, in address order.
    ///
    /// # Errors
    /// When it cannot be taken.
    fn seed(&mut self, blocks: &[SeedBlock]) -> Result<(), Self::Error>;

    /// An event.
    ///
    /// # Errors
    /// When it cannot be taken.
    fn event(&mut self, event: &Event) -> Result<(), Self::Error>;

    /// A checkpoint.
    ///
    /// # Errors
    /// When it cannot be taken.
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

/// Records what a source gives. All times are the source's.
#[derive(Clone, Debug)]
pub struct Recorder<S> {
    normaliser: Normaliser,
    large: LargeBlocks,
    sink: S,
}

impl<S: TraceSink> Recorder<S> {
    /// A recording into `sink`, of which nothing was there before.
    pub fn new(sink: S, normaliser: Normaliser) -> Self {
        Self {
            normaliser,
            large: LargeBlocks::default(),
            sink,
        }
    }

    /// A recording of one process that had these blocks and these threads, as
    /// [`Normaliser::number_threads`] takes them.
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
            recorder.large.add(0, block.addr, block.bytes);
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
        let mut taken = Ok(());
        self.normaliser.push(event, |process, event| {
            large.note(process, &event.kind);
            if taken.is_ok() {
                taken = sink.event(&event);
            }
        });
        taken
    }

    /// Records that so many events were lost up to this time.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn lost(&mut self, source_ns: u64, events: u64) -> Result<(), S::Error> {
        self.sink.event(&Event {
            time_ns: self.normaliser.time_ns(source_ns),
            thread: 0,
            kind: EventKind::Lost { events },
        })
    }

    /// Records that the process of this number of the source's ended at this time, if that is not known.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn gone(&mut self, source: u64, source_ns: u64) -> Result<(), S::Error> {
        let Some((process, end)) = self.normaliser.gone(source, source_ns) else {
            return Ok(());
        };
        self.large.note(process, &end.kind);
        self.sink.event(&end)
    }

    /// Records what a sample of a process showed at this time: how much of its large blocks is touched,
    /// then the checkpoint itself. All events before must be recorded already.
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
        let time_ns = self.normaliser.time_ns(source_ns);
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

    /// What is known of the source's processes and threads.
    pub fn normaliser(&self) -> &Normaliser {
        &self.normaliser
    }

    /// Where the recording goes.
    pub fn sink(&self) -> &S {
        &self.sink
    }

    /// Where the recording goes.
    pub fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// Where the recording went.
    pub fn into_sink(self) -> S {
        self.sink
    }
}
