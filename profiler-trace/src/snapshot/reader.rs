//! Reads a saved session, as far as it is intact.

use std::io::{self, Read, Seek, SeekFrom};

use memchr::memmem;
use profiler_core::sample::Sample;

use super::sample::take_sound;
use super::wire::{Input, Memory, Wire, malformed};
use super::{NAME, Observation, VERSION, kind, part};
use crate::block::{self, MARK, MAX_UNPACKED, NextBlock, fill};
use crate::limits::{Counted, Layer, Meter, Stopped, TableOwner};
use crate::trace;
use crate::varint;

/// Why a file is not a readable saved session.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not a saved session at all.
    #[error("this is not a saved session of fragscope (FILE.fragsnap)")]
    NotASession,
    /// A recording.
    #[error("this is a recording and not a saved session")]
    IsRecording,
    /// Of another version.
    #[error(
        "this session was saved in format {version}{}; this one reads format {VERSION}",
        if *version > VERSION { ", by a later fragscope" } else { ", which none has written" }
    )]
    Version {
        /// Its version.
        version: u8,
    },
    /// A record that was written whole is not of the form that is known.
    #[error("{0}")]
    Malformed(String),
    /// A limit was met, or a signal came.
    #[error(transparent)]
    Stopped(Stopped),
    /// The file could not be read.
    #[error("{0}")]
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

/// The bytes of a sample that was read completely: most walks of a long session are never looked
/// at.
#[derive(Clone, Debug)]
pub struct SavedSample {
    content: Vec<u8>,
    /// Where the sample begins in them.
    start: usize,
}

impl SavedSample {
    /// When it was taken, in nanoseconds since 1970-01-01 UTC.
    ///
    /// # Errors
    /// If its form is unknown.
    pub fn taken_at_ns(&self) -> Result<u64, ReadError> {
        let meter = Meter::default();
        let memory = Memory::new(&meter, 0);
        let mut input = Input::new(&self.content[self.start..], &memory);
        Ok(input.framed()?.number()?)
    }

    /// Bytes that it occupies until then.
    pub fn held_bytes(&self) -> u64 {
        self.content.len() as u64
    }

    /// The sample.
    ///
    /// # Errors
    /// If its form is unknown, or it takes more memory than is allowed.
    pub fn sample(&self, meter: &Meter) -> Result<Sample, ReadError> {
        let memory = Memory::new(meter, self.content.len() as u64);
        let mut input = Input::new(&self.content[self.start..], &memory);
        Ok(take_sound(&mut input)?)
    }
}

/// The contents of a session.
#[derive(Clone, Debug)]
pub enum Record {
    /// A walk.
    Walk {
        /// Its number in the session, from 1 on. Lost samples have one too.
        number: u64,
        /// The sample.
        sample: SavedSample,
    },
    /// The observations made with a walk.
    Observation {
        /// The walk's number.
        walk: u64,
        /// The observation.
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
    /// Without the end record.
    Missing,
    /// With something after the end record.
    Continued,
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

/// The defect of a block in which the file ends.
const CUT: &str = "a block is longer than what is there";

/// Bytes that are searched for the next block at a time.
const SEARCHED_AT_ONCE: usize = 64 << 10;

/// A counted stream that can go back to the beginning of the last block.
struct Tape<R> {
    input: Counted<R>,
    /// What was read since then, or before.
    bytes: Vec<u8>,
    /// How many of them were given.
    given: usize,
    /// How many of them had been given when the last block began.
    begun: usize,
}

impl<R> Tape<R> {
    fn new(inner: R, meter: Meter) -> Self {
        let input = Counted {
            inner,
            meter,
            layer: Layer::File,
        };
        Self {
            input,
            bytes: Vec::new(),
            given: 0,
            begun: 0,
        }
    }

    fn meter(&self) -> &Meter {
        &self.input.meter
    }

    /// A block begins here.
    fn begin(&mut self) {
        // Rarely, so that little is moved for what was delivered before.
        if self.given == self.bytes.len() || self.given > MAX_UNPACKED {
            self.bytes.drain(..self.given);
            self.given = 0;
        }
        self.begun = self.given;
    }

    /// Bytes since the last block began.
    fn since_begun(&self) -> u64 {
        (self.given - self.begun) as u64
    }
}

impl<R: Read> Tape<R> {
    /// Goes to the next place where a block may begin, after the last one that began, and returns
    /// the number of bytes between them; `None` if there is no such place.
    fn find_next(&mut self) -> io::Result<Option<u64>> {
        // A lot may be read again; a prepared file could make that go on without end.
        self.input.meter.content(self.since_begun())?;
        let mut passed = 0;
        let mut from = self.begun + 1;
        loop {
            if let Some(found) = memmem::find(self.bytes.get(from..).unwrap_or(&[]), &MARK) {
                self.given = from + found;
                return Ok(Some(passed + self.since_begun()));
            }
            // The end may contain the mark in part.
            let kept = self.bytes.len().saturating_sub(from).min(MARK.len() - 1);
            let done = self.bytes.len() - kept;
            passed += (done - self.begun) as u64;
            self.bytes.drain(..done);
            (self.begun, from) = (0, 0);
            self.bytes.resize(kept + SEARCHED_AT_ONCE, 0);
            let read = fill(&mut self.input, &mut self.bytes[kept..]);
            self.bytes
                .truncate(kept + read.as_ref().map_or(0, |read| *read));
            self.given = self.bytes.len();
            if read? == 0 {
                return Ok(None);
            }
        }
    }
}

impl<R: Read> Read for Tape<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut again = &self.bytes[self.given..];
        let mut read = again.read(buf)?;
        if read == 0 {
            read = self.input.read(buf)?;
            self.bytes.extend_from_slice(&buf[..read]);
        }
        self.given += read;
        Ok(read)
    }
}

impl<R: Seek> Tape<R> {
    fn go_to(&mut self, offset: u64, meter: Meter) -> io::Result<()> {
        self.input.inner.seek(SeekFrom::Start(offset))?;
        self.input.meter = meter;
        self.bytes.clear();
        (self.given, self.begun) = (0, 0);
        Ok(())
    }
}

/// Reads a saved session record by record. Damaged records are left out, and reported by
/// [`Self::trouble`].
pub struct Reader<R> {
    input: Tape<R>,
    /// The file offset of the next block.
    at: u64,
    /// The file offset of the last record read.
    offset: u64,
    /// The last block, packed.
    packed: Vec<u8>,
    /// The same unpacked.
    block: Vec<u8>,
    content: Vec<u8>,
    losses: Losses,
    walks: u64,
    end: End,
}

impl<R: Read> Reader<R> {
    /// Opens a session, and counts its size.
    ///
    /// # Errors
    /// If it is not a session, or has a later version.
    pub fn new(input: R, meter: Meter) -> Result<Self, ReadError> {
        let mut input = Tape::new(input, meter);
        let mut head = [0; NAME.len() + 1];
        let read = fill(&mut input, &mut head)?;
        if head.starts_with(&trace::MAGIC[..7]) {
            return Err(ReadError::IsRecording);
        }
        if read < head.len() || !head.starts_with(NAME) {
            return Err(ReadError::NotASession);
        }
        if head[NAME.len()] != VERSION {
            let version = head[NAME.len()];
            return Err(ReadError::Version { version });
        }
        Ok(Self {
            input,
            at: head.len() as u64,
            offset: 0,
            packed: Vec::new(),
            block: Vec::new(),
            content: Vec::new(),
            losses: Losses::default(),
            walks: 0,
            end: End::NotYet,
        })
    }

    /// The next complete record; `None` at the end, and if nothing more can be found.
    ///
    /// # Errors
    /// If the file cannot be read, a limit is met or a signal came.
    pub fn next_record(&mut self) -> Result<Option<Record>, ReadError> {
        while self.end == End::NotYet {
            let Some(kind) = self.parts()? else { break };
            let record = match kind {
                kind::WALK => self.walk(),
                kind::OBSERVATION => self.observation(),
                // What becomes of the file is the black box's own matter.
                kind::BLACK_BOX => continue,
                kind::END => {
                    self.end = match fill(&mut self.input, &mut [0])? {
                        0 => End::Whole,
                        _ => End::Continued,
                    };
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

    /// The file offset of the last record read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// A description of why not everything saved was read; `None` if it was.
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
            End::Missing => all.push(format!("it was cut off: {walks} read")),
            End::Continued => all.push("something follows its end, and was not read".into()),
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
        let memory = Memory::new(self.input.meter(), self.content.len() as u64);
        let mut input = Input::new(&self.content, &memory);
        Ok(Record::Observation {
            walk: input.number()?,
            observation: Box::new(Observation::take(&mut input)?),
        })
    }

    /// Collects the parts of the next complete record in `content`, and returns its kind.
    fn parts(&mut self) -> io::Result<Option<u8>> {
        let mut open = None;
        loop {
            let start = self.at;
            let meter = self.input.meter().clone();
            self.input.begin();
            let why = match block::read(&mut self.input, &mut self.packed, &mut self.block, &meter)?
            {
                NextBlock::Block => {
                    self.at += self.input.since_begun();
                    None
                }
                NextBlock::Damaged(why) => Some(why),
                NextBlock::End => Some(CUT),
            };
            // It is unknown which of its bytes are damaged: a wrong length leads past the next
            // block.
            if let Some(why) = why {
                let next = self.input.find_next()?;
                if next.is_some() || why != CUT {
                    self.losses.damaged(why);
                }
                let Some(passed) = next else {
                    self.end = End::Missing;
                    return Ok(None);
                };
                self.at += passed;
                open = None;
                continue;
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
            // Else it is the rest of a record whose beginning was damaged, and was counted.
            if open == Some(*kind) {
                let bytes = (self.content.len() + content.len()) as u64;
                meter.hold(TableOwner::Reader, bytes)?;
                self.content.extend_from_slice(content);
                if part & part::LAST != 0 {
                    return Ok(open);
                }
            }
        }
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Goes to the beginning of a record, and counts anew what is read from there.
    ///
    /// # Errors
    /// Those of the file.
    pub fn go_to(&mut self, offset: u64, meter: Meter) -> io::Result<()> {
        self.input.go_to(offset, meter)?;
        self.at = offset;
        self.end = End::NotYet;
        Ok(())
    }
}
