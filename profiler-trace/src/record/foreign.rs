//! Recordings of other tools, made readable like traces.

use std::collections::VecDeque;

use super::clock::Clock;
use super::normaliser::Normaliser;
use super::source::SourceEvent;
use crate::limits::{Meter, TableOwner};
use crate::trace::{Checkpoint, Figures, Item, ReadError, TraceDescription, TraceSource};

/// Reads a recording, item by item, in the order in which they took effect.
pub(crate) trait EventSource {
    /// What is known of the program.
    fn description(&self) -> &TraceDescription;

    /// The next item; `None` at the end. Everything that enlarges its tables yields an item, if
    /// only [`SourceItem::Nothing`]: they are measured between two items.
    ///
    /// # Errors
    /// If what follows cannot be read; nothing follows an error.
    fn next_item(&mut self) -> Result<Option<SourceItem>, ReadError>;

    /// Whether the proper end was reached.
    fn is_complete(&self) -> bool;

    /// Bytes of its tables.
    fn table_bytes(&self) -> u64;
}

/// The contents of a recording.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum SourceItem {
    /// An event.
    Event(SourceEvent),
    /// The kernel's figures of the first process.
    Resident {
        /// Nanoseconds on the source's clock.
        time_ns: u64,
        /// Its resident bytes.
        rss_bytes: u64,
    },
    /// Only what later items refer to.
    Nothing,
}

/// A recording whose events are normalised.
pub(crate) struct Normalised<S> {
    source: S,
    normaliser: Normaliser,
    meter: Meter,
    waiting: VecDeque<Item>,
    /// How it ended, delivered after the waiting items.
    end: Option<Result<(), ReadError>>,
}

impl<S: EventSource> Normalised<S> {
    /// Normalises what `source` reads.
    pub(crate) fn new(source: S, meter: &Meter) -> Self {
        Self {
            source,
            normaliser: Normaliser::new(Clock::new(0, 1)),
            meter: meter.clone(),
            waiting: VecDeque::new(),
            end: None,
        }
    }

    /// Takes one item of the source; whether there was one.
    fn step(&mut self) -> Result<bool, ReadError> {
        let Some(item) = self.source.next_item()? else {
            return Ok(false);
        };
        let waiting = &mut self.waiting;
        match item {
            SourceItem::Event(event) => {
                let take = |_, event| waiting.push_back(Item::Event(event));
                self.normaliser.push(&event, take);
            }
            SourceItem::Resident { time_ns, rss_bytes } => {
                waiting.push_back(Item::Checkpoint(Checkpoint {
                    time_ns: self.normaliser.advance(time_ns),
                    process: 0,
                    figures: Figures {
                        rss_bytes: Some(rss_bytes),
                        ..Figures::default()
                    },
                }));
            }
            SourceItem::Nothing => {}
        }
        let tables = self.source.table_bytes() + self.normaliser.table_bytes();
        self.meter.hold(TableOwner::Reader, tables)?;
        Ok(true)
    }
}

impl<S: EventSource> TraceSource for Normalised<S> {
    fn description(&self) -> &TraceDescription {
        self.source.description()
    }

    fn next_item(&mut self) -> Result<Option<Item>, ReadError> {
        loop {
            if let Some(item) = self.waiting.pop_front() {
                return Ok(Some(item));
            }
            if let Some(end) = self.end.take() {
                return end.map(|()| None);
            }
            match self.step() {
                Ok(true) => {}
                end => {
                    // Also for one that is cut off.
                    let losses = self.normaliser.take_pending_losses();
                    self.waiting.extend(losses.map(Item::Event));
                    self.end = Some(end.map(|_| ()));
                }
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.source.is_complete()
    }
}
