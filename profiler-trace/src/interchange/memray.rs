//! memray's captures (1.20, format 13; `src/memray/_memray/{records.h, record_reader.cpp,
//! record_writer.cpp}`): records of a byte with flags, and varints. A realloc is recorded as a free
//! followed by an allocation. Left out are mmap and munmap, which are not malloc's, and pymalloc
//! objects, which `--trace-python-allocators` also records.

use std::io::{self, BufRead, Read};

use super::Input;
use super::lines::is_cut;
use crate::limits::Stopped;
use crate::record::{EventSource, SourceEvent, SourceItem};
use crate::trace::{By, EventKind, ReadError, RecordedBy, TraceDescription};

/// How a capture begins.
pub(super) const MAGIC: &[u8] = b"memray\0";
/// The format that is known.
const VERSION: i32 = 13;
/// No text of a capture is longer.
const LONGEST: u64 = 1 << 20;

/// Kinds of records (`RecordType`).
mod kind {
    pub(super) const FILLER: u8 = 0;
    pub(super) const TRAILER: u8 = 1;
    pub(super) const MEMORY: u8 = 2;
    pub(super) const NATIVE_TRACE_INDEX: u8 = 5;
    pub(super) const MEMORY_MAP_START: u8 = 6;
    pub(super) const SEGMENT_HEADER: u8 = 7;
    pub(super) const SEGMENT: u8 = 8;
    pub(super) const THREAD: u8 = 10;
    pub(super) const CONTEXT_SWITCH: u8 = 12;
    pub(super) const CODE_OBJECT: u8 = 14;
}

/// Functions that allocate (`hooks::Allocator`).
mod allocator {
    pub(super) const PYMALLOC_FREE: u8 = 1;
    pub(super) const FREE: u8 = 5;
    pub(super) const MALLOC: u8 = 6;
    pub(super) const REALLOC: u8 = 7;
    pub(super) const CALLOC: u8 = 8;
    pub(super) const PVALLOC: u8 = 13;
}

/// Reads a capture.
pub(super) struct Memray {
    input: Input,
    description: TraceDescription,
    native: bool,
    /// The current thread of the recording, by its own number.
    thread: u64,
    time_ms: u64,
    last_pointer: i64,
    recent: [u64; 15],
    events: u64,
    complete: bool,
    over: bool,
}

impl Memray {
    /// Reads the header.
    pub(super) fn new(mut input: Input) -> Result<Self, ReadError> {
        let head = |input: &mut Input| -> io::Result<(i32, [u8; 38])> {
            let mut magic = [0; MAGIC.len()];
            input.read_exact(&mut magic)?;
            let mut version = [0; 4];
            input.read_exact(&mut version)?;
            let mut rest = [0; 38];
            input.read_exact(&mut rest)?;
            Ok((i32::from_le_bytes(version), rest))
        };
        let (version, rest) = head(&mut input).map_err(no_head)?;
        if version != VERSION {
            return Err(ReadError::Foreign(format!(
                "this is a memray capture of format {version}; this fragscope reads format \
                 {VERSION} (memray 1.20)"
            )));
        }
        // The Python's version, whether native stacks are there, and the format of the file.
        if rest[5] != 0 {
            return Err(ReadError::Aggregated);
        }
        let native = rest[4] != 0;
        let python = i32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
        let mut new = Self {
            input,
            description: TraceDescription::foreign(
                "memray",
                &["alignments", "thread_ends", "exact_times"],
            ),
            native,
            thread: 0,
            time_ms: 0,
            last_pointer: 0,
            recent: [0; 15],
            events: 0,
            complete: false,
            over: false,
        };
        new.rest_of_header(python).map_err(no_head)?;
        Ok(new)
    }

    fn rest_of_header(&mut self, python: i32) -> io::Result<()> {
        let command = self.text()?;
        // The process, its main thread, frames to skip, Python's allocator and two flags.
        let mut fixed = [0; 4 + 8 + 8 + 3];
        self.input.read_exact(&mut fixed)?;
        self.text()?;
        for _paths in 0..2 {
            while !self.text()?.is_empty() {}
        }
        let python = format!(
            "CPython {}.{}.{}",
            python >> 24 & 0xff,
            python >> 16 & 0xff,
            python >> 8 & 0xff
        );
        self.description.command = Some(command);
        self.description.python = Some(python);
        self.description.recorder = Some(RecordedBy::Tool("memray".to_owned()));
        Ok(())
    }

    /// The next event or checkpoint; `None` at the end.
    fn record(&mut self) -> io::Result<Option<SourceItem>> {
        loop {
            let tag = self.byte()?;
            if tag & 0x80 != 0 {
                if let Some(kind) = self.allocation(tag & 0x7f)? {
                    self.events += 1;
                    return Ok(Some(SourceItem::Event(SourceEvent {
                        time_ns: self.time_ms.saturating_mul(1_000_000),
                        process: 0,
                        thread: self.thread,
                        kind: kind.into(),
                    })));
                }
            } else if tag & 0x40 != 0 {
                // A frame that was entered: its code and the place in it.
                self.varint()?;
                self.varint()?;
            } else if tag & 0x20 != 0 {
                self.object(tag & 0x1f)?;
            } else if tag & 0x10 == 0 {
                match tag {
                    kind::FILLER => {}
                    kind::TRAILER => return Ok(None),
                    kind::MEMORY => return self.memory().map(Some),
                    kind::CONTEXT_SWITCH => self.thread = self.word()?,
                    other => self.skip(other)?,
                }
            }
        }
    }

    fn memory(&mut self) -> io::Result<SourceItem> {
        let rss_bytes = self.varint()?;
        // Since the capture began.
        self.time_ms = self.varint()?;
        Ok(SourceItem::Resident {
            time_ns: self.time_ms.saturating_mul(1_000_000),
            rss_bytes,
        })
    }

    fn allocation(&mut self, flags: u8) -> io::Result<Option<EventKind>> {
        let addr = self.address(flags >> 3 & 0x0f)?;
        let function = match flags & 7 {
            0 => self.byte()?,
            function => function,
        };
        let frees = matches!(function, allocator::FREE | allocator::PYMALLOC_FREE);
        if self.native && !frees {
            self.varint()?;
        }
        let bytes = if frees { 0 } else { self.varint()? };
        let by = match function {
            allocator::FREE => return Ok(Some(EventKind::Free { addr })),
            allocator::MALLOC | allocator::REALLOC => By::Malloc,
            allocator::CALLOC => By::Calloc,
            // The aligned ones, whose alignment is not recorded.
            9..=allocator::PVALLOC => By::Malloc,
            _ => return Ok(None),
        };
        Ok(Some(EventKind::Alloc {
            addr,
            bytes,
            align: 0,
            by,
        }))
    }

    fn object(&mut self, flags: u8) -> io::Result<()> {
        self.address(flags >> 1 & 0x0f)?;
        if self.native && flags & 1 != 0 {
            self.varint()?;
        }
        Ok(())
    }

    /// An address: one of the last ones by its number, or 15 and the distance, in units of 8 bytes,
    /// from the previous address that was written in this form.
    fn address(&mut self, number: u8) -> io::Result<u64> {
        if let Some(addr) = self.recent.get(usize::from(number)) {
            return Ok(*addr);
        }
        self.last_pointer = self.last_pointer.wrapping_add(self.signed()?);
        let addr = (self.last_pointer as u64) << 3;
        self.recent.rotate_right(1);
        self.recent[0] = addr;
        Ok(addr)
    }

    /// Skips a record of code, not of memory.
    fn skip(&mut self, tag: u8) -> io::Result<()> {
        match tag {
            kind::NATIVE_TRACE_INDEX => {
                self.varint()?;
                self.varint()?;
            }
            kind::MEMORY_MAP_START => {}
            kind::SEGMENT_HEADER => {
                self.text()?;
                self.varint()?;
                self.word()?;
            }
            kind::SEGMENT => {
                self.word()?;
                self.varint()?;
            }
            kind::THREAD => {
                self.text()?;
            }
            kind::CODE_OBJECT => {
                self.varint()?;
                self.text()?;
                self.text()?;
                self.varint()?;
                let table = self.varint()?;
                let skipped = io::copy(&mut Read::take(&mut self.input, table), &mut io::sink())?;
                if skipped < table {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            other => {
                let what = format!("a record of no known kind ({other})");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
        }
        Ok(())
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn word(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.input.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        let what = "a number that is too long";
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }

    fn signed(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A zero-terminated text.
    fn text(&mut self) -> io::Result<String> {
        let mut bytes = Vec::new();
        Read::take(&mut self.input, LONGEST).read_until(0, &mut bytes)?;
        match bytes.pop() {
            Some(0) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Why there is no capture to read.
fn no_head(error: io::Error) -> ReadError {
    match Stopped::of(&error) {
        Some(_) => error.into(),
        None => ReadError::NoDescription,
    }
}

impl EventSource for Memray {
    fn description(&self) -> &TraceDescription {
        &self.description
    }

    fn next_item(&mut self) -> Result<Option<SourceItem>, ReadError> {
        if self.over {
            return Ok(None);
        }
        let record = self.record();
        self.over = !matches!(record, Ok(Some(_)));
        match record {
            Ok(None) => {
                self.complete = true;
                Ok(None)
            }
            // A program that was killed leaves its capture without an end.
            Err(error) if is_cut(&error) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(ReadError::Damaged {
                events: self.events,
                what: error.to_string(),
            }),
            record => Ok(record?),
        }
    }

    fn is_complete(&self) -> bool {
        self.complete
    }

    fn table_bytes(&self) -> u64 {
        0
    }
}
