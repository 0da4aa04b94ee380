//! Reads a trace, as far as it is intact.

use std::io::{self, Read};

use super::event::Context;
use super::{Checkpoint, Event, Figures, Kind, MAGIC, SeedBlock, TraceDescription, WITH_TRIMS};
use crate::block::{self, NextBlock, fill};
use crate::limits::{Meter, Stopped};
use crate::varint::{take, take_signed, take_text};

/// Why a file is not a readable trace.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not a trace at all.
    #[error(
        "this is not a recording of a known format; it is neither a trace of fragscope nor one of \
         heaptrack, memray or logalloc"
    )]
    NotATrace,
    /// A saved session.
    #[error("this is a saved session and not a recording")]
    IsSession,
    /// Of a later version.
    #[error("this trace is of format {0}; this fragscope reads format {MINE}", MINE = WITH_TRIMS)]
    Version(u8),
    /// A recording of another tool that cannot be read.
    #[error("{0}")]
    Foreign(String),
    /// A memray capture in which allocations are added up.
    #[error("this memray capture is aggregated and holds sums only")]
    Aggregated,
    /// The description is missing or damaged.
    #[error("the trace ends before its description")]
    NoDescription,
    /// Damaged in the midst.
    #[error("the trace is damaged after {events} events: {what}; what precedes was read")]
    Damaged {
        /// Events read before.
        events: u64,
        /// What is wrong.
        what: String,
    },
    /// A limit was met, or a signal came.
    #[error(transparent)]
    Stopped(Stopped),
    /// The file could not be read.
    #[error("the trace cannot be read: {0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match Stopped::of(&error) {
            Some(stopped) => Self::Stopped(stopped.clone()),
            None => Self::Io(error),
        }
    }
}

/// The contents of a trace after its description.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Item {
    /// Blocks that were there before, in address order.
    Seed(Vec<SeedBlock>),
    /// An event.
    Event(Event),
    /// A checkpoint.
    Checkpoint(Checkpoint),
}

/// Reads a trace item by item.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    meter: Meter,
    description: TraceDescription,
    content: Vec<u8>,
    /// Where the next event begins in `content`.
    at: usize,
    context: Context,
    events: u64,
    /// Whether an event or a checkpoint was read: no seed may follow them.
    begun: bool,
    complete: bool,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Opens a trace.
    ///
    /// # Errors
    /// If it is not a trace, has a later version, or ends before its description.
    pub fn new(input: R) -> Result<Self, ReadError> {
        Self::within(input, Meter::default())
    }

    /// Opens a trace, and counts its size.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn within(mut input: R, meter: Meter) -> Result<Self, ReadError> {
        let mut magic = [0; MAGIC.len()];
        match input.read_exact(&mut magic) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(ReadError::NotATrace);
            }
            read => read?,
        }
        if magic[..7] != MAGIC[..7] {
            return Err(ReadError::NotATrace);
        }
        if !(MAGIC[7]..=WITH_TRIMS).contains(&magic[7]) {
            return Err(ReadError::Version(magic[7]));
        }
        let mut content = Vec::new();
        let description = match read_block(&mut input, &mut content, &meter)? {
            Some(Kind::Description) => description(&content[1..]),
            _ => None,
        };
        Ok(Self {
            input,
            meter,
            description: description.ok_or(ReadError::NoDescription)?,
            content: Vec::new(),
            at: 0,
            context: Context::default(),
            events: 0,
            begun: false,
            complete: false,
            ended: false,
        })
    }

    /// What the trace says about the program.
    pub fn description(&self) -> &TraceDescription {
        &self.description
    }

    /// Whether the proper end was reached. A trace whose recording was cut off ends without it.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// When the file is damaged or cannot be read. Nothing follows an error.
    pub fn next_item(&mut self) -> Result<Option<Item>, ReadError> {
        loop {
            if self.at < self.content.len() {
                let mut rest = &self.content[self.at..];
                let event = self.context.take(&mut rest);
                self.at = self.content.len() - rest.len();
                let event = event.ok_or_else(|| self.damaged("an event of no known form"))?;
                self.events += 1;
                self.begun = true;
                return Ok(Some(Item::Event(event)));
            }
            if self.ended {
                return Ok(None);
            }
            match self.next_block()? {
                Some(item) => return Ok(Some(item)),
                None if self.ended => return Ok(None),
                None => {}
            }
        }
    }

    /// Reads a block. Returns its item if it is one, or `None` if it contains events or the end.
    fn next_block(&mut self) -> Result<Option<Item>, ReadError> {
        // The first byte is the block's kind.
        (self.at, self.context) = (1, Context::default());
        let kind = match read_block(&mut self.input, &mut self.content, &self.meter) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(self.damaged(&error.to_string()));
            }
            read => read?,
        };
        let item = match kind {
            Some(Kind::Events) => return Ok(None),
            Some(Kind::Seed) if self.begun => {
                return Err(
                    self.damaged("blocks that were there before come after the first event")
                );
            }
            Some(Kind::Seed) => seed(&self.content[1..]).map(Item::Seed),
            Some(Kind::Checkpoint) => checkpoint(&self.content[1..]).map(Item::Checkpoint),
            // A second description adds nothing to read.
            Some(Kind::Description) => None,
            Some(Kind::End) | None => {
                self.complete = kind.is_some();
                self.ended = true;
                self.content.clear();
                if kind.is_some() && fill(&mut self.input, &mut [0])? > 0 {
                    return Err(self.damaged("something follows its end, and was not read"));
                }
                return Ok(None);
            }
        };
        self.content.clear();
        self.begun |= matches!(item, Some(Item::Checkpoint(_)));
        let item = item.ok_or_else(|| self.damaged("a block whose content has no known form"))?;
        Ok(Some(item))
    }

    fn damaged(&mut self, what: &str) -> ReadError {
        self.ended = true;
        self.content.clear();
        ReadError::Damaged {
            events: self.events,
            what: what.to_owned(),
        }
    }
}

/// Reads the next block into `content`, whose first byte is then its kind. `Ok(None)` if the file
/// ends, also in the middle of a block; an error of kind `InvalidData` if it is damaged.
fn read_block(
    input: &mut impl Read,
    content: &mut Vec<u8>,
    meter: &Meter,
) -> io::Result<Option<Kind>> {
    let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    match block::read(input, &mut Vec::new(), content, meter)? {
        NextBlock::End => Ok(None),
        NextBlock::Damaged(why) => Err(damaged(why)),
        NextBlock::Block => {
            let kind = content.first().copied().and_then(Kind::of);
            let kind = kind.ok_or_else(|| damaged("a block of no known kind"))?;
            Ok(Some(kind))
        }
    }
}

/// Names of a description, and figures of a checkpoint, at most: a name of one byte is a text of
/// many in memory.
const MAX_NAMES: u64 = 4096;

fn description(mut content: &[u8]) -> Option<TraceDescription> {
    let input = &mut content;
    let count = take(input).filter(|&count| count <= MAX_NAMES)?;
    let mut description = TraceDescription::default();
    for _ in 0..count {
        description.put(take_text(input)?, take_text(input)?);
    }
    Some(description)
}

fn seed(mut content: &[u8]) -> Option<Vec<SeedBlock>> {
    let input = &mut content;
    let mut blocks = Vec::new();
    let mut addr = 0u64;
    while !input.is_empty() {
        addr = addr.wrapping_add(take_signed(input)? as u64);
        let bytes = take(input)?;
        let arena = take(input)?;
        blocks.push(SeedBlock {
            addr,
            bytes,
            arena: u32::try_from(arena >> 1).ok()?,
            live: arena & 1 == 1,
        });
    }
    Some(blocks)
}

fn checkpoint(mut content: &[u8]) -> Option<Checkpoint> {
    let input = &mut content;
    let time_ns = take(input)?;
    let process = u32::try_from(take(input)?).ok()?;
    let count = take(input).filter(|&count| count <= MAX_NAMES)?;
    let mut figures = Figures::default();
    for _ in 0..count {
        figures.put(take_text(input)?, take(input)?);
    }
    Some(Checkpoint {
        time_ns,
        process,
        figures,
    })
}
