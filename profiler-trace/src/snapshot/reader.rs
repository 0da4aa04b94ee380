//! Reading a saved session, as far as it is whole.

use std::io::{self, Read, Seek, SeekFrom};

use profiler_core::sample::Sample;

use super::sample::take_sound;
use super::wire::{Input, Memory, Wire, malformed};
use super::{NAME, Observation, VERSION, kind, part};
use crate::block::{self, Found, fill};
use crate::limits::{Counted, Holder, Layer, Meter, Stopped};
use crate::trace;
use crate::varint;

/// Why a file is no saved session that can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not a saved session at all.
    #[error("this is not a saved session of fragscope (FILE.fragsnap)")]
    NotASession,
    /// A recording.
    #[error("this is a recording and not a saved session")]
    IsRecording,
    /// Of a later version.
    #[error(
        "this session was saved in format {0}, by a later fragscope; this one reads format {VERSION}"
    )]
    Version(u8),
    /// A record that was written whole is not of the form that is known.
    #[error("{0}")]
    Malformed(String),
    /// A limit was met, or a signal came.
    #[error(transparent)]
    Stopped(Stopped),
    /// The file could not be read.
    #[error("the session cannot be read: {0}")]
    Io(io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match Stopped::of(&error) {
            Some(stopped) => Self::Stopped(stopped.clone()),
            None if error.kind() == io::ErrorKind::InvalidData => {
                Self::Malformed(error.to_string())
            }
            None => Self::Io(error),
        }
    }
}

/// A sample that was read whole, as its bytes: most walks of a long session are never looked at.
#[derive(Clone, Debug)]
pub struct SavedSample {
    content: Vec<u8>,
    /// Where in it the sample begins.
    start: usize,
}

impl SavedSample {
    /// When it was taken, in nanoseconds since 1970-01-01 UTC.
    ///
    /// # Errors
    /// When it is of no known form.
    pub fn taken_at_ns(&self) -> Result<u64, ReadError> {
        let meter = Meter::default();
        let memory = Memory::new(&meter, 0);
        let mut input = Input::new(&self.content[self.start..], &memory);
        Ok(input.framed()?.number()?)
    }

    /// The sample.
    ///
    /// # Errors
    /// When it is of no known form, or takes more memory than is allowed.
    pub fn sample(&self, meter: &Meter) -> Result<Sample, ReadError> {
        let memory = Memory::new(meter, self.content.len() as u64);
        let mut input = Input::new(&self.content[self.start..], &memory);
        Ok(take_sound(&mut input)?)
    }
}

/// What a session holds.
#[derive(Clone, Debug)]
pub enum Record {
    /// A walk.
    Walk {
        /// Its number in the session, from 1 on. Those that were lost have one too.
        number: u64,
        /// What it saw.
        sample: SavedSample,
    },
    /// What was observed beside a walk.
    Observation {
        /// The walk's number.
        walk: u64,
        /// It.
        observation: Box<Observation>,
    },
}

/// How the file ends.
#[derive(Clone, Debug, Eq, PartialEq)]
enum End {
    /// It has not been reached.
    NotYet,
    /// As it was written.
    Whole,
    /// Without the record that says so.
    Cut,
    /// Where no block begins, so that nothing more can be found, and why.
    Lost(String),
}

/// What could not be used.
#[derive(Clone, Debug, Default)]
struct Losses {
    damaged: u64,
    /// Why the first was not.
    first: Option<String>,
    /// Records of kinds that are not known.
    unknown: u64,
}

impl Losses {
    fn damaged(&mut self, why: impl ToString) {
        self.damaged += 1;
        self.first.get_or_insert_with(|| why.to_string());
    }
}

/// Reads a saved session record by record. What is damaged is left out, and said by
/// [`Self::trouble`].
pub struct Reader<R> {
    input: Counted<R>,
    /// Where in the file the next block begins.
    at: u64,
    /// Where the record that was read last begins.
    offset: u64,
    block: Vec<u8>,
    content: Vec<u8>,
    losses: Losses,
    walks: u64,
    end: End,
}

impl<R: Read> Reader<R> {
    /// Opens a session, and counts what it comes to.
    ///
    /// # Errors
    /// When it is none, or of a later version.
    pub fn new(input: R, meter: Meter) -> Result<Self, ReadError> {
        let mut input = Counted {
            inner: input,
            meter,
            layer: Layer::File,
        };
        let mut head = [0; NAME.len() + 1];
        let read = fill(&mut input, &mut head)?;
        if head.starts_with(&trace::MAGIC[..7]) {
            return Err(ReadError::IsRecording);
        }
        if read < head.len() || !head.starts_with(NAME) {
            return Err(ReadError::NotASession);
        }
        if head[NAME.len()] != VERSION {
            return Err(ReadError::Version(head[NAME.len()]));
        }
        Ok(Self {
            input,
            at: head.len() as u64,
            offset: 0,
            block: Vec::new(),
            content: Vec::new(),
            losses: Losses::default(),
            walks: 0,
            end: End::NotYet,
        })
    }

    /// The next record that is whole; `None` at the end, and where nothing more can be found.
    ///
    /// # Errors
    /// When the file cannot be read, a limit is met or a signal came.
    pub fn next_record(&mut self) -> Result<Option<Record>, ReadError> {
        while self.end == End::NotYet {
            let Some(kind) = self.parts()? else { break };
            let record = match kind {
                kind::WALK => self.walk(),
                kind::OBSERVATION => self.observation(),
                kind::END => {
                    self.end = End::Whole;
                    break;
                }
                _ => {
                    self.losses.unknown += 1;
                    continue;
                }
            };
            match record.map_err(ReadError::from) {
                Ok(record) => return Ok(Some(record)),
                Err(ReadError::Malformed(why)) => self.losses.damaged(why),
                Err(other) => return Err(other),
            }
        }
        Ok(None)
    }

    /// Where in the file the record begins that was read last.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Why not all that was saved was read, in words; `None` when it was.
    pub fn trouble(&self) -> Option<String> {
        let mut all = Vec::new();
        let many = |count: u64, one: &str, more: &str| match count {
            1 => format!("1 {one}"),
            count => format!("{count} {more}"),
        };
        if let Some(first) = &self.losses.first {
            let blocks = many(self.losses.damaged, "record is", "records are");
            all.push(format!("{blocks} damaged and left out ({first})"));
        }
        if self.losses.unknown > 0 {
            let records = many(self.losses.unknown, "record is", "records are");
            all.push(format!("{records} of a later fragscope's and left out"));
        }
        let walks = many(self.walks, "walk was", "walks were");
        match &self.end {
            End::NotYet | End::Whole => {}
            End::Cut => all.push(format!("it was cut off: {walks} read")),
            End::Lost(why) => all.push(format!("{why}: {walks} read, what follows is not found")),
        }
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn walk(&mut self) -> io::Result<Record> {
        let content = std::mem::take(&mut self.content);
        let mut rest = content.as_slice();
        let number = varint::take(&mut rest).ok_or_else(|| malformed("a walk without a number"))?;
        let start = content.len() - rest.len();
        self.walks += 1;
        Ok(Record::Walk {
            number,
            sample: SavedSample { content, start },
        })
    }

    fn observation(&mut self) -> io::Result<Record> {
        let memory = Memory::new(&self.input.meter, self.content.len() as u64);
        let mut input = Input::new(&self.content, &memory);
        Ok(Record::Observation {
            walk: input.number()?,
            observation: Box::new(Observation::take(&mut input)?),
        })
    }

    /// Gathers the parts of the next record that is whole in `content`, and gives its kind.
    fn parts(&mut self) -> io::Result<Option<u8>> {
        let mut open = None;
        loop {
            let start = self.at;
            let meter = self.input.meter.clone();
            match block::read(&mut self.input, &mut self.block, &meter) {
                Ok(Found::Block(bytes)) => self.at += bytes,
                Ok(Found::Unreadable(bytes, why)) => {
                    self.at += bytes;
                    self.losses.damaged(why);
                    open = None;
                    continue;
                }
                Ok(Found::End) => {
                    self.end = End::Cut;
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.end = End::Lost(error.to_string());
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            let [kind, part, content @ ..] = self.block.as_slice() else {
                self.losses.damaged("a block without a kind");
                open = None;
                continue;
            };
            if part & part::FIRST != 0 {
                if open.is_some() {
                    self.losses.damaged("a record that another begins in");
                }
                open = Some(*kind);
                self.offset = start;
                self.content.clear();
            }
            // Else it is the rest of a record whose beginning was damaged, and counted.
            if open == Some(*kind) {
                let bytes = (self.content.len() + content.len()) as u64;
                meter.hold(Holder::Reader, bytes)?;
                self.content.extend_from_slice(content);
                if part & part::LAST != 0 {
                    return Ok(open);
                }
            }
        }
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Goes to where a record begins, and counts anew what is read from there.
    ///
    /// # Errors
    /// Those of the file.
    pub fn go_to(&mut self, offset: u64, meter: Meter) -> io::Result<()> {
        self.input.inner.seek(SeekFrom::Start(offset))?;
        self.input.meter = meter;
        self.at = offset;
        self.end = End::NotYet;
        Ok(())
    }
}
