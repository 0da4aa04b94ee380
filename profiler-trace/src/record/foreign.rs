//! Recordings of other tools, made to read like traces.

use std::collections::VecDeque;

use super::normaliser::{Clock, Normaliser};
use super::source::SourceEvent;
use crate::limits::{Holder, Meter};
use crate::trace::{
    Checkpoint, Event, EventKind, Figures, Item, ReadError, TraceDescription, TraceSource,
};

/// Reads a recording, item by item, in the order in which these took effect.
pub(crate) trait EventSource {
    /// What is known of the program.
    fn description(&self) -> &TraceDescription;

    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// When what follows cannot be read; nothing follows an error.
    fn next_item(&mut self) -> Result<Option<SourceItem>, ReadError>;

    /// Whether the end was reached as it was written.
    fn is_complete(&self) -> bool;

    /// Bytes of its tables.
    fn table_bytes(&self) -> u64;
}

/// What a recording holds.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum SourceItem {
    /// An event.
    Event(SourceEvent),
    /// What the kernel counted of the first process.
    Resident {
        /// Nanoseconds on the source's clock.
        time_ns: u64,
        /// Its resident bytes.
        rss_bytes: u64,
    },
}

/// A recording whose events are normalised.
pub(crate) struct Normalised<S> {
    source: S,
    normaliser: Normaliser,
    meter: Meter,
    waiting: VecDeque<Item>,
    /// Of what was left out, this much was given as lost.
    reported: u64,
}

impl<S: EventSource> Normalised<S> {
    /// Normalises what `source` reads.
    pub(crate) fn new(source: S, meter: &Meter) -> Self {
        Self {
            source,
            normaliser: Normaliser::new(Clock::new(0, 1)),
            meter: meter.clone(),
            waiting: VecDeque::new(),
            reported: 0,
        }
    }

    /// What was left out of a recording with too many threads, at its end.
    fn left_out(&mut self) -> Option<Item> {
        let all = self.normaliser.beyond_limit();
        let events = all - std::mem::replace(&mut self.reported, all);
        (events > 0).then_some(Item::Event(Event {
            time_ns: 0,
            thread: 0,
            kind: EventKind::Lost { events },
        }))
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
            match self.source.next_item()? {
                None => return Ok(self.left_out()),
                Some(SourceItem::Event(event)) => {
                    let waiting = &mut self.waiting;
                    self.normaliser
                        .push(&event, |_, event| waiting.push_back(Item::Event(event)));
                }
                Some(SourceItem::Resident { time_ns, rss_bytes }) => {
                    return Ok(Some(Item::Checkpoint(Checkpoint {
                        time_ns: self.normaliser.advance(time_ns),
                        process: 0,
                        figures: Figures {
                            rss_bytes: Some(rss_bytes),
                            ..Figures::default()
                        },
                    })));
                }
            }
            let tables = self.source.table_bytes() + self.normaliser.table_bytes();
            self.meter.hold(Holder::Reader, tables)?;
        }
    }

    fn is_complete(&self) -> bool {
        self.source.is_complete()
    }
}
