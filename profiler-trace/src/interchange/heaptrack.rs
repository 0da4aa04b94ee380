//! heaptrack's recordings (1.4, file format 3; `src/track/libheaptrack.cpp`,
//! `src/analyze/accumulatedtracedata.cpp`): lines that begin with a letter, numbers in hex. Raw
//! recordings have addresses. The files that users keep are interpreted and only say which kind of
//! allocation was freed, by size and call stack. There are no threads. Times are in ms and written
//! only now and then.

use std::collections::HashMap;

use super::Input;
use super::lines::Lines;
use crate::record::{EventSource, SourceEvent, SourceItem};
use crate::trace::{By, EventKind, ReadError, RecordedBy, TraceDescription};

/// The newest format of the file that is known.
const NEWEST: u64 = 3;

/// Reads heaptrack's lines.
pub(super) struct Heaptrack {
    lines: Lines,
    description: TraceDescription,
    /// Bytes of each kind of allocation, of an interpreted recording.
    kinds: Vec<u64>,
    /// Blocks that live of each kind, the newest last.
    live: HashMap<u64, Vec<u64>>,
    /// Total capacity for blocks in all of these.
    room: usize,
    next_addr: u64,
    time_ms: u64,
    page_bytes: u64,
    begun: bool,
}

impl Heaptrack {
    /// Reads what precedes the first allocation.
    pub(super) fn new(input: Input) -> Result<Self, ReadError> {
        let mut lines = Lines::new(input);
        lines.advance()?;
        let line = lines.take();
        let mut words = line.split(' ').skip(1).map(hex);
        let (tool, format) = (words.next().flatten(), words.next().flatten());
        let (Some(tool), Some(format)) = (tool, format) else {
            return Err(ReadError::NotATrace);
        };
        if format > NEWEST {
            return Err(ReadError::Foreign(format!(
                "this is a heaptrack recording of format {format}; this fragscope reads format \
                 {NEWEST}"
            )));
        }
        let lacks = ["threads", "alignments", "callocs", "exact_times"];
        let mut description = TraceDescription::foreign("heaptrack", &lacks);
        let version = (tool >> 16, tool >> 8 & 0xff, tool & 0xff);
        let version = format!("{}.{}.{}", version.0, version.1, version.2);
        description.recorder = Some(RecordedBy::Tool(format!("heaptrack {version}")));
        let mut new = Self {
            lines,
            description,
            kinds: Vec::new(),
            live: HashMap::new(),
            room: 0,
            next_addr: 1 << 12,
            time_ms: 0,
            page_bytes: 4096,
            begun: false,
        };
        // The command comes first.
        new.head()?;
        Ok(new)
    }

    fn head(&mut self) -> Result<(), ReadError> {
        while self.lines.advance()? {
            let line = self.lines.take();
            let (letter, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match letter {
                "X" if self.description.command.is_none() => {
                    self.description.command = Some(rest.to_owned());
                }
                "I" => {
                    let bytes = rest.split(' ').next().and_then(hex);
                    self.page_bytes = bytes.unwrap_or(4096);
                }
                "X" | "x" | "#" => {}
                _ => {
                    self.begun = true;
                    self.lines.give_back(line);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The event or the count in a line, if any.
    fn item(&mut self, line: &str) -> Option<SourceItem> {
        let mut words = line.split(' ');
        let letter = words.next()?;
        let mut numbers = words.map(hex);
        let mut number = || numbers.next().flatten();
        let kind = match letter {
            "a" => {
                self.kinds.push(number()?);
                return None;
            }
            "c" => {
                self.time_ms = number()?;
                return None;
            }
            "R" => {
                return Some(SourceItem::Resident {
                    time_ns: self.time_ms.saturating_mul(1_000_000),
                    rss_bytes: number()?.saturating_mul(self.page_bytes),
                });
            }
            "+" => match (number()?, number(), number()) {
                (bytes, Some(_), Some(addr)) => alloc(addr, bytes),
                (kind, ..) => {
                    let bytes = *self.kinds.get(usize::try_from(kind).ok()?)?;
                    let addr = self.next_addr;
                    // Never given again, and apart, as blocks are.
                    self.next_addr = addr.wrapping_add((bytes | 15).wrapping_add(17));
                    let alike = self.live.entry(kind).or_default();
                    let before = alike.capacity();
                    alike.push(addr);
                    self.room += alike.capacity() - before;
                    alloc(addr, bytes)
                }
            },
            "-" => {
                let what = number()?;
                match self.kinds.is_empty() {
                    true => EventKind::Free { addr: what },
                    // Which of those alike is not recorded: the newest, most likely.
                    false => EventKind::Free {
                        addr: self.live.get_mut(&what)?.pop()?,
                    },
                }
            }
            _ => return None,
        };
        Some(SourceItem::Event(SourceEvent {
            time_ns: self.time_ms.saturating_mul(1_000_000),
            process: 0,
            thread: 0,
            kind: kind.into(),
        }))
    }
}

fn alloc(addr: u64, bytes: u64) -> EventKind {
    EventKind::Alloc {
        addr,
        bytes,
        align: 0,
        by: By::Malloc,
    }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

impl EventSource for Heaptrack {
    fn description(&self) -> &TraceDescription {
        &self.description
    }

    fn next_item(&mut self) -> Result<Option<SourceItem>, ReadError> {
        let begun = std::mem::take(&mut self.begun);
        // The line that ended the head is still there.
        if !begun && !self.lines.advance()? {
            return Ok(None);
        }
        let line = self.lines.take();
        let item = self.item(&line);
        self.lines.give_back(line);
        Ok(Some(item.unwrap_or(SourceItem::Nothing)))
    }

    /// A cut at the end of a line looks like an end.
    fn is_complete(&self) -> bool {
        !self.lines.is_cut()
    }

    fn table_bytes(&self) -> u64 {
        let blocks = (self.kinds.capacity() + self.room) * size_of::<u64>();
        let lists = self.live.capacity() * size_of::<(u64, Vec<u64>)>();
        (blocks + lists) as u64
    }
}
