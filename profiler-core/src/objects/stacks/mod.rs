//! Stacks of Python functions: where a target's threads have their frames, and which code objects
//! the frames run.

mod lines;
mod threads;

use std::sync::Arc;

use hashbrown::HashMap;
use profiler_common::sampling::{FrameKind, PythonFrames, RawFrame};

pub use self::threads::{NoStacks, PythonSymbols, ThreadList, ThreadPointer};

use self::lines::line_of;
use self::threads::Threads;
use super::layout::{CodeLayout, Layout, LineTable, SIZE};
use super::text::str_text;
use super::words::{read_word, word};
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::sites::{Frame, Language};
use crate::text::visible;

/// Code objects that are remembered, and bytes of their tables of lines.
const MAX_CODES: usize = 1 << 16;
const MAX_TABLES: usize = 64 << 20;
/// The largest line table that is read, in bytes: that of a function with a million lines.
const MAX_TABLE: u64 = 4 << 20;
/// Characters of a function's name, and of a file's.
const MAX_FUNCTION: usize = 256;
const MAX_FILE: usize = 512;
/// A code object up to the last field that is read.
const CODE_BYTES: usize = 256;
/// `ob_type` and the items of a `bytes` in all versions.
const TYPE: u64 = 8;
const BYTES_ITEMS: u64 = 32;

/// The stacks of one running CPython. It caches what code objects are.
#[derive(Debug)]
pub struct PythonStacks {
    layout: Layout,
    threads: Threads,
    code_type: u64,
    codes: HashMap<u64, Code>,
    table_bytes: usize,
    /// Incremented when code objects must be checked again: they may have been freed, and others
    /// may be at their addresses.
    epoch: u64,
    /// Strings that functions share.
    names: HashMap<Box<str>, Arc<str>>,
}

/// A code object.
#[derive(Debug)]
struct Code {
    /// The fields it was read from.
    fields: Fields,
    epoch: u64,
    function: Arc<str>,
    file: Arc<str>,
    table: Box<[u8]>,
}

/// The fields that identify a code object.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
struct Fields {
    name: u64,
    file: u64,
    lines: u64,
    first_line: u32,
}

impl PythonStacks {
    /// For a Python of this version with these symbols.
    ///
    /// # Errors
    /// When its stacks cannot be read, and why.
    pub fn find<M: TargetMemory>(
        memory: &M,
        version: (u8, u8),
        symbols: PythonSymbols,
    ) -> Result<Self, NoStacks> {
        let unknown = NoStacks::UnknownVersion(version.0, version.1);
        let mut layout = Layout::of(version).ok_or(unknown)?;
        let threads = Threads::find(memory, version, symbols, &mut layout.code)?;
        let code_type = symbols.code_type.ok_or(NoStacks::NoSymbols)?.get();
        Ok(Self {
            layout,
            threads,
            code_type,
            codes: HashMap::new(),
            table_bytes: 0,
            epoch: 0,
            names: HashMap::new(),
        })
    }

    /// The threads there are now.
    pub fn threads<M: TargetMemory>(&self, memory: &M) -> ThreadList {
        self.threads.list(memory)
    }

    /// What the BPF programs need to read frames; `head` is that of a [`ThreadList`].
    pub fn frames(&self, head: u64, pointer: ThreadPointer) -> PythonFrames {
        self.threads.frames(head, pointer)
    }

    /// Cached code objects are compared again when they are next met.
    pub fn look_again(&mut self) {
        self.epoch += 1;
    }

    /// The functions of a stack, the innermost first.
    pub fn resolve<M: TargetMemory>(&mut self, memory: &M, frames: &[RawFrame]) -> Vec<Frame> {
        let frames = frames
            .iter()
            .filter(|frame| frame.kind != FrameKind::Skipped as u32);
        frames.map(|frame| self.frame(memory, frame)).collect()
    }

    fn frame<M: TargetMemory>(&mut self, memory: &M, raw: &RawFrame) -> Frame {
        let instructions = self.layout.code.instructions;
        let table = self.threads.table();
        match self.code(memory, raw.code) {
            Some(code) => Frame {
                language: Language::Python,
                line: code.line(table, raw, instructions),
                function: Arc::clone(&code.function),
                file: Arc::clone(&code.file),
            },
            None => Frame::unreadable(Language::Python),
        }
    }

    fn code<M: TargetMemory>(&mut self, memory: &M, at: u64) -> Option<&Code> {
        let known = self.codes.get(&at);
        if known.is_none_or(|code| code.epoch != self.epoch) {
            let fields = self.fields(memory, at);
            match (fields, self.codes.get_mut(&at)) {
                (Some(fields), Some(code)) if code.fields == fields.0 => code.epoch = self.epoch,
                (Some((fields, name)), _) => self.learn(memory, at, fields, name)?,
                (None, _) => {
                    self.forget(at);
                    return None;
                }
            }
        }
        self.codes.get(&at)
    }

    /// The fields of the code object at an address, and the address of the name to show; `None` if
    /// there is none.
    fn fields<M: TargetMemory>(&self, memory: &M, at: u64) -> Option<(Fields, u64)> {
        let CodeLayout {
            name,
            qualified_name,
            file,
            first_line,
            lines,
            ..
        } = self.layout.code;
        let mut bytes = [0; CODE_BYTES];
        let needed = lines.max(name).max(file) as usize + 8;
        let bytes = bytes.get_mut(..needed)?;
        memory.read(RemoteAddr::new(at), bytes).ok()?;
        if word(bytes, TYPE)? != self.code_type {
            return None;
        }
        let line = bytes.get(first_line as usize..)?.first_chunk()?;
        let name = word(bytes, qualified_name.unwrap_or(name))?;
        let fields = Fields {
            name,
            file: word(bytes, file)?,
            lines: word(bytes, lines)?,
            first_line: u32::from_le_bytes(*line),
        };
        Some((fields, name))
    }

    fn learn<M: TargetMemory>(
        &mut self,
        memory: &M,
        at: u64,
        fields: Fields,
        name: u64,
    ) -> Option<()> {
        self.forget(at);
        if self.codes.len() >= MAX_CODES || self.table_bytes >= MAX_TABLES {
            self.codes.clear();
            self.names.clear();
            self.table_bytes = 0;
        }
        let function = str_text::<_, MAX_FUNCTION>(memory, &self.layout, name)?;
        let file = str_text::<_, MAX_FILE>(memory, &self.layout, fields.file);
        let file = file.unwrap_or_default();
        let table = table_at(memory, fields.lines).unwrap_or_default();
        self.table_bytes += table.len();
        let code = Code {
            fields,
            epoch: self.epoch,
            function: self.shared(&function),
            file: self.shared(&file),
            table,
        };
        self.codes.insert(at, code);
        Some(())
    }

    fn forget(&mut self, at: u64) {
        if let Some(code) = self.codes.remove(&at) {
            self.table_bytes -= code.table.len();
        }
    }

    fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return Arc::clone(known);
        }
        let shown: Arc<str> = visible(text).to_string().into();
        self.names.insert(text.into(), Arc::clone(&shown));
        shown
    }
}

impl Code {
    /// The current line of a frame of this code.
    fn line(&self, table: LineTable, raw: &RawFrame, instructions: Option<u64>) -> Option<u32> {
        let offset = match (table, instructions) {
            // Before the first instruction it is -1.
            (LineTable::Increments, _) => i64::from(raw.place as u32 as i32),
            (LineTable::Ranges, _) => i64::from(raw.place as u32 as i32) * 2,
            (LineTable::Locations, Some(at)) => {
                let first = raw.code.wrapping_add(at);
                raw.place.wrapping_sub(first).cast_signed()
            }
            (LineTable::Locations, None) => return None,
        };
        match u64::try_from(offset) {
            Ok(offset) => line_of(table, &self.table, self.fields.first_line, offset),
            Err(_) => Some(self.fields.first_line),
        }
    }
}

fn table_at<M: TargetMemory>(memory: &M, at: u64) -> Option<Box<[u8]>> {
    let size = read_word(memory, at.checked_add(SIZE)?)?;
    let mut bytes = vec![0; usize::try_from(size.min(MAX_TABLE)).ok()?];
    let items = RemoteAddr::new(at.checked_add(BYTES_ITEMS)?);
    memory.read(items, &mut bytes).ok()?;
    Some(bytes.into())
}
