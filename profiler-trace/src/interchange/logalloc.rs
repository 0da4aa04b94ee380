//! Firefox's logalloc text (`memory/replace/logalloc/README`): a line for each call, such as `PID
//! TID malloc(42)=0x7f9ad5`, with `#NUMBER` for addresses in munged files. There are no times.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};

use super::Input;
use super::lines::Lines;
use crate::limits::{Incomplete, Meter, TableOwner};
use crate::record::{EventSource, SourceEvent, SourceItem};
use crate::trace::{
    By, Event, EventKind, Item, PassError, ReadError, TraceDescription, TraceSource, pass_on,
};

/// Time that a call is given, in ns: the format has none.
const CALL_NS: u64 = 10_000;

/// Whether text begins as logalloc's does.
pub(super) fn begins(start: &[u8]) -> bool {
    let text = String::from_utf8_lossy(start);
    let line = text.lines().next().unwrap_or_default();
    call(line).is_some()
}

/// One call.
struct Call<'a> {
    process: u64,
    thread: u64,
    name: &'a str,
    arguments: Vec<u64>,
    result: Option<u64>,
    /// Whether something else follows the arguments.
    is_odd: bool,
}

/// The number of arguments of a call, and whether it has a result; `None` if it is unknown.
fn form(name: &str) -> Option<(usize, bool)> {
    Some(match name {
        // They change no block (`memory/build/malloc_decls.h` lists them with malloc's family).
        "malloc_usable_size" | "malloc_good_size" => (0, false),
        _ if name.starts_with("jemalloc_") => (0, false),
        "malloc" | "valloc" => (1, true),
        "calloc" | "posix_memalign" | "aligned_alloc" | "memalign" | "realloc" => (2, true),
        "free" => (1, false),
        _ => return None,
    })
}

impl Call<'_> {
    /// Whether it has everything that a call of its name must have. Nobody knows what an unknown
    /// call does.
    fn is_whole(&self) -> bool {
        form(self.name).is_some_and(|(arguments, has_result)| {
            let has_all = self.arguments.len() >= arguments;
            has_all && !self.is_odd && (self.result.is_some() || !has_result)
        })
    }
}

fn call(line: &str) -> Option<Call<'_>> {
    let (before, rest) = line.split_once('(')?;
    let (arguments, after) = rest.split_once(')')?;
    let words: Vec<&str> = before.split_ascii_whitespace().collect();
    let (process, thread, name) = match words.as_slice() {
        [process, thread, name] => (process.parse().ok()?, thread.parse().ok()?, *name),
        // Versions that did not record threads.
        [process, name] => (process.parse().ok()?, 0, *name),
        _ => return None,
    };
    let after = after.trim();
    let arguments = arguments.split(',').filter(|text| !text.trim().is_empty());
    Some(Call {
        process,
        thread,
        name,
        arguments: arguments.map(number).collect::<Option<_>>()?,
        result: match after.strip_prefix('=') {
            Some(text) => Some(number(text)?),
            None => None,
        },
        is_odd: !after.is_empty() && !after.starts_with('='),
    })
}

/// A decimal number, a hexadecimal one with `0x`, the number of a block after `#`, or `(nil)`'s 0.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match (text.strip_prefix("0x"), text.strip_prefix('#')) {
        (Some(hex), _) => u64::from_str_radix(hex, 16).ok(),
        (_, Some(block)) => block.parse().ok(),
        _ => text.parse().ok(),
    }
}

/// Reads logalloc's text.
pub(super) struct Logalloc {
    lines: Lines,
    description: TraceDescription,
    waiting: VecDeque<SourceEvent>,
    calls: u64,
    skipped: u64,
}

impl Logalloc {
    pub(super) fn new(input: Input) -> Self {
        Self {
            lines: Lines::new(input),
            description: TraceDescription::foreign("logalloc", &["times", "thread_ends", "forks"]),
            waiting: VecDeque::new(),
            calls: 0,
            skipped: 0,
        }
    }

    fn take(&mut self, call: &Call<'_>) {
        let (time_ns, result) = (self.calls.saturating_mul(CALL_NS), call.result.unwrap_or(0));
        let argument = |n: usize| call.arguments.get(n).copied().unwrap_or(0);
        let alloc = |bytes, align: u64, by| EventKind::Alloc {
            addr: result,
            bytes,
            align: match align.is_power_of_two() {
                true => align.trailing_zeros() as u8,
                false => 0,
            },
            by,
        };
        let (first, second) = (argument(0), argument(1));
        let kinds = match call.name {
            "malloc" => vec![alloc(first, 0, By::Malloc)],
            "calloc" => vec![alloc(first.saturating_mul(second), 0, By::Calloc)],
            "posix_memalign" | "aligned_alloc" | "memalign" => {
                vec![alloc(second, first, By::Malloc)]
            }
            "valloc" => vec![alloc(first, 4096, By::Malloc)],
            "realloc" if first == 0 => vec![alloc(second, 0, By::Malloc)],
            "realloc" if result == 0 => vec![],
            "realloc" => vec![
                EventKind::Realloc { addr: first },
                alloc(second, 0, By::Realloc),
            ],
            "free" if first != 0 => vec![EventKind::Free { addr: first }],
            _ => vec![],
        };
        // A call that failed gave nothing.
        let failed = |kind: &EventKind| matches!(kind, EventKind::Alloc { addr: 0, .. });
        for kind in kinds {
            if !failed(&kind) {
                self.waiting.push_back(SourceEvent {
                    time_ns,
                    process: call.process,
                    thread: call.thread,
                    kind: kind.into(),
                });
            }
        }
        self.calls += 1;
    }
}

impl EventSource for Logalloc {
    fn description(&self) -> &TraceDescription {
        &self.description
    }

    fn next_item(&mut self) -> Result<Option<SourceItem>, ReadError> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(SourceItem::Event(event)));
            }
            if !self.lines.advance()? {
                return Ok(None);
            }
            let line = self.lines.take();
            match call(&line) {
                Some(call) if call.is_whole() => self.take(&call),
                _ => self.skipped += u64::from(!line.is_empty()),
            }
            self.lines.give_back(line);
        }
    }

    /// A cut at the end of a line looks like an end.
    fn is_complete(&self) -> bool {
        self.skipped == 0 && !self.lines.is_cut()
    }

    fn table_bytes(&self) -> u64 {
        0
    }
}

/// What writing came to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Written {
    /// Calls that were written.
    pub calls: u64,
    /// Events that the recording itself lost: their calls are not among them.
    pub lost: u64,
    /// Why that is not the whole stream, in words.
    pub trouble: Option<Incomplete>,
}

/// Writes a stream as logalloc's text, as far as it can be read. Processes and threads are numbered
/// from 1. Seeds become calls of malloc; checkpoints and times are left out.
///
/// # Errors
/// If a signal came, or those of `out`.
pub fn write(
    source: &mut dyn TraceSource,
    out: &mut dyn Write,
    meter: &Meter,
) -> Result<Written, PassError> {
    let mut writer = LogallocWriter {
        out,
        meter,
        threads: HashMap::new(),
        resized: HashMap::new(),
        calls: 0,
        lost: 0,
        bytes: 0,
    };
    let trouble = pass_on(source, |item| match item {
        Item::Seed(blocks) => {
            let mut live = blocks.iter().filter(|block| block.live);
            live.try_for_each(|block| {
                writer.call(0, &format!("malloc({})={:#x}", block.bytes, block.addr))
            })
        }
        Item::Event(event) => writer.event(&event),
        Item::Checkpoint(_) => Ok(()),
    })?;
    Ok(Written {
        calls: writer.calls,
        lost: writer.lost,
        trouble,
    })
}

struct LogallocWriter<'a> {
    out: &'a mut dyn Write,
    /// The process of each thread, unless it is the first.
    threads: HashMap<u32, u32>,
    /// The block that each thread reallocates.
    resized: HashMap<u32, u64>,
    meter: &'a Meter,
    calls: u64,
    lost: u64,
    bytes: u64,
}

impl LogallocWriter<'_> {
    fn call(&mut self, thread: u32, call: &str) -> io::Result<()> {
        let process = self.threads.get(&thread).copied().unwrap_or(0);
        let line = format!(
            "{} {} {call}\n",
            u64::from(process) + 1,
            u64::from(thread) + 1
        );
        self.bytes += line.len() as u64;
        self.meter.size("what is written", self.bytes)?;
        self.out.write_all(line.as_bytes())?;
        self.calls += 1;
        Ok(())
    }

    /// Whether its tables may be this large.
    fn check(&self) -> io::Result<()> {
        let entries = self.threads.capacity() + self.resized.capacity();
        let bytes = entries * size_of::<(u32, u64)>();
        self.meter.hold(TableOwner::Compiler, bytes as u64)
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        let thread = event.thread;
        match event.kind {
            EventKind::Alloc {
                addr,
                bytes,
                align,
                by,
            } => {
                let call = match (by, self.resized.remove(&thread)) {
                    (By::Realloc, Some(old)) => format!("realloc({old:#x},{bytes})={addr:#x}"),
                    (By::Calloc, _) => format!("calloc(1,{bytes})={addr:#x}"),
                    _ if align > 0 => {
                        let align = 1u64.checked_shl(align.into()).unwrap_or(0);
                        format!("memalign({align},{bytes})={addr:#x}")
                    }
                    _ => format!("malloc({bytes})={addr:#x}"),
                };
                self.call(thread, &call)
            }
            EventKind::Free { addr } => self.call(thread, &format!("free({addr:#x})")),
            EventKind::Realloc { addr } => {
                self.resized.insert(thread, addr);
                self.check()
            }
            EventKind::Kept { .. } => {
                self.resized.remove(&thread);
                Ok(())
            }
            EventKind::Begin { process } => {
                self.threads.insert(thread, process);
                self.check()
            }
            EventKind::Fork { process, child } => {
                self.threads.insert(child, process);
                self.check()
            }
            EventKind::Lost { events } => {
                self.lost = self.lost.saturating_add(events);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
