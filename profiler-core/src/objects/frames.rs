//! Running functions and their variables.
//!
//! Up to 3.10 a frame is an object, and a running one is on its thread's stack. From 3.11 on frames
//! are in chunks of each thread's data stack. The thread's state points to it by three consecutive
//! words: `datastack_chunk`, `datastack_top` and `datastack_limit` (`Include/cpython/pystate.h`).

use std::ops::Range;

use hashbrown::HashSet;

use super::dict::entries;
use super::edges::Resolver;
use super::kinds::Kind;
use super::layout::{FrameLayout, Layout};
use super::names::{NAME_ENTRIES, module_name};
use super::scan::Noted;
use super::text::str_name;
use super::types::{Role, Type};
use super::words::{Window, read_word, word, words};
use crate::addr::{PAGE_SIZE, RemoteAddr};
use crate::data;
use crate::memory::TargetMemory;
use crate::residency::{MappingKind, ResidencyMap};

/// The most bytes of stacks and of chunks that are read, each.
const MAX_BYTES: u64 = 64 << 20;
/// The most threads and chunks.
const MAX_CHUNKS: usize = 1 << 14;
/// The most frames, and the most variables of one frame.
const MAX_FRAMES: usize = 1 << 16;
const MAX_VARIABLES: u64 = 1 << 12;
/// Native blocks of these sizes may be the state of a thread or of an interpreter.
const STATE_BYTES: std::ops::Range<u64> = 128..1 << 20;
/// `_PyStackChunk`: the previous chunk, its size, the number of used words, then these.
const CHUNK_HEAD: u64 = 24;

/// A variable of a running function.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub(super) struct Variable {
    /// The function's code object.
    code: u64,
    /// The dictionary of its globals.
    globals: u64,
    /// The index of the variable.
    nth: u32,
}

impl Variable {
    /// Its text: `app.tasks.run(): orders`.
    pub(super) fn text<M: TargetMemory>(&self, memory: &M, layout: &Layout) -> String {
        let text = |addr: Option<u64>| addr.and_then(|addr| str_name(memory, layout, addr));
        let field = |offset| read_word(memory, self.code.checked_add(offset)?);
        // The qualified name, which methods have their class in, follows since 3.11.
        let qualified = (layout.version >= (3, 11)).then(|| text(field(layout.code.name + 8)));
        let function = qualified
            .flatten()
            .or_else(|| text(field(layout.code.name)));
        let nth = layout.tuple_items() + u64::from(self.nth) * 8;
        let names = field(layout.code.names).and_then(|names| names.checked_add(nth));
        let name = text(names.and_then(|at| read_word(memory, at)));
        let module = entries(memory, layout, self.globals, NAME_ENTRIES as u64);
        let module = module.and_then(|entries| module_name(memory, layout, &entries));
        let or = |name: Option<String>| name.unwrap_or_else(|| "?".to_owned());
        format!("{}.{}(): {}", or(module), or(function), or(name))
    }
}

/// What a variable refers to.
#[derive(Copy, Clone, Debug)]
pub(super) struct Held {
    pub(super) variable: Variable,
    /// Where the variable is in memory.
    pub(super) at: u64,
    /// The block of its value.
    pub(super) value: u32,
    /// The number of the thread whose stack has its frame; `None` where frames are objects.
    pub(super) thread: Option<u32>,
}

/// Where the first variable of a frame is.
#[derive(Copy, Clone)]
struct First {
    at: u64,
    thread: Option<u32>,
}

/// The used part of a chunk of a thread's data stack.
struct UsedPart {
    data: u64,
    bytes: u64,
    /// The thread's number.
    thread: u32,
}

/// What running functions hold.
#[derive(Debug, Default)]
pub(super) struct RunningFunctions {
    /// Their variables.
    pub(super) variables: Vec<Held>,
    /// All blocks that words of their frames refer to.
    pub(super) words: Vec<u32>,
}

/// A generator or coroutine, or up to 3.10 its frame: the object that holds its variables.
#[derive(Debug)]
pub(super) struct Suspended {
    pub(super) block: u32,
    /// Its variables, in bytes from the object.
    pub(super) locals: Range<u64>,
    /// Its variables.
    pub(super) variables: Vec<Held>,
}

/// The most words of a generator before its frame (`PyGenObject.gi_iframe`).
const MAX_BEFORE_FRAME: usize = 16;
/// The distance from the frame back to the byte that says whether it has ended (`gi_frame_state`).
const FRAME_STATE: usize = 5;
/// `PyGenObject.gi_frame` up to 3.10: null if it has ended.
const GENERATOR_FRAME: u64 = 16;

/// The variables of generators and coroutines that have not ended.
pub(super) fn suspended<M: TargetMemory>(
    resolve: &Resolver<'_, M>,
    residency: &ResidencyMap,
    noted: &[Noted],
    types: &[Type],
) -> Vec<Suspended> {
    let finder = Finder {
        resolve,
        residency,
        types,
    };
    let generators = noted.iter().filter(|noted| noted.role == Role::Generator);
    let generators = generators.take(MAX_FRAMES);
    match resolve.source.layout.frame {
        FrameLayout::Stack {
            code,
            globals,
            locals,
        } => generators
            .filter_map(|noted| finder.generator(noted, code, globals, locals))
            .collect(),
        FrameLayout::Object { code, globals } => {
            let stacks = finder.stacks();
            generators
                .filter_map(|noted| finder.frame_of(noted, code, globals, &stacks))
                .collect()
        }
        FrameLayout::Unknown => Vec::new(),
    }
}

/// Finds running functions.
pub(super) fn running<M: TargetMemory>(
    resolve: &Resolver<'_, M>,
    residency: &ResidencyMap,
    noted: &[Noted],
    types: &[Type],
) -> RunningFunctions {
    let finder = Finder {
        resolve,
        residency,
        types,
    };
    match resolve.source.layout.frame {
        FrameLayout::Object { code, globals } => finder.objects(noted, code, globals),
        FrameLayout::Stack {
            code,
            globals,
            locals,
        } => finder.chunks(code, globals, locals),
        FrameLayout::Unknown => RunningFunctions::default(),
    }
}

/// The resident words of all threads' stacks.
pub(super) fn stack_words<M: TargetMemory>(memory: &M, residency: &ResidencyMap) -> Vec<u64> {
    let mut all = Vec::new();
    let mut rest = MAX_BYTES;
    let mappings = residency.mappings().iter();
    for mapping in mappings.filter(|mapping| mapping.kind == MappingKind::Stack) {
        let runs = residency.runs_in(mapping.range);
        for run in runs.filter(|run| run.state.is_resident()) {
            let mut bytes = vec![0; run.range.len().min(rest) as usize];
            rest -= bytes.len() as u64;
            if memory.read(run.range.start(), &mut bytes).is_ok() {
                all.extend(words(&bytes).filter(|word| *word > PAGE_SIZE));
            }
        }
    }
    all
}

struct Finder<'a, M> {
    resolve: &'a Resolver<'a, M>,
    residency: &'a ResidencyMap,
    types: &'a [Type],
}

impl<M: TargetMemory> Finder<'_, M> {
    fn memory(&self) -> &M {
        self.resolve.source.memory
    }

    /// What a word of a frame refers to.
    fn word(&self, frame: &[u8], offset: u64) -> Option<u64> {
        let word = word(frame, offset)?;
        Some(self.resolve.source.layout.stack_reference(word))
    }

    /// Whether an object of this role is at this address.
    fn is(&self, addr: u64, role: Role) -> bool {
        let object = self.resolve.object(addr);
        object.is_some_and(|(_, of)| self.types[of as usize].facts.role == role)
    }

    /// Takes the variables of a frame, given its words from the first variable on as `locals`; returns their
    /// number.
    fn take(
        &self,
        code: u64,
        globals: u64,
        first: First,
        locals: &[u64],
        running: &mut RunningFunctions,
    ) -> usize {
        let resolve = self.resolve;
        let count = code.checked_add(resolve.source.layout.code.locals);
        let count = count.map(RemoteAddr::new);
        let count: Option<u32> = count.and_then(|at| self.memory().read_value(at).ok());
        let count = u64::from(count.unwrap_or(0)).min(MAX_VARIABLES) as usize;
        for (value, nth) in locals.iter().take(count).zip(0..) {
            if let Some(value) = resolve.target(*value) {
                running.variables.push(Held {
                    variable: Variable { code, globals, nth },
                    at: first.at.wrapping_add(u64::from(nth) * 8),
                    value,
                    thread: first.thread,
                });
            }
        }
        count
    }

    fn generator(&self, noted: &Noted, code: u64, globals: u64, locals: u64) -> Option<Suspended> {
        let Kind::Object { head, .. } = self.resolve.kinds[noted.block as usize].get() else {
            return None;
        };
        let len = self.resolve.source.index.range(noted.block).len() - head;
        let mut bytes = vec![0; len.min(MAX_VARIABLES * 8) as usize];
        let object = RemoteAddr::new(noted.object);
        self.memory().read(object, &mut bytes).ok()?;
        let frame = (2..MAX_BEFORE_FRAME).map(|word| word * 8).find(|&frame| {
            let field = |offset: u64| self.word(&bytes, frame as u64 + offset);
            let is_frame = field(code).zip(field(globals));
            is_frame.is_some_and(|(code, globals)| {
                self.is(code, Role::Code) && self.is(globals, Role::Dict)
            })
        })?;
        // Values in a generator that has ended are stale.
        let layout = self.resolve.source.layout;
        if layout.has_ended(*bytes.get(frame - FRAME_STATE)?) {
            return None;
        }
        let field = |offset: u64| self.word(&bytes, frame as u64 + offset);
        let (code, globals) = (field(code)?, field(globals)?);
        let start = frame as u64 + locals;
        let values = words(bytes.get(start as usize..)?);
        let values: Vec<u64> = values.map(|word| layout.stack_reference(word)).collect();
        let mut running = RunningFunctions::default();
        let first = First {
            at: noted.object.wrapping_add(start),
            thread: None,
        };
        let count = self.take(code, globals, first, &values, &mut running);
        Some(Suspended {
            block: noted.block,
            locals: start..start + count.min(values.len()) as u64 * 8,
            variables: running.variables,
        })
    }

    /// The frame of a generator, which is an object of its own. The variables of a running one have
    /// names of their own.
    fn frame_of(
        &self,
        noted: &Noted,
        code: u64,
        globals: u64,
        stacks: &HashSet<u64>,
    ) -> Option<Suspended> {
        let frame = read_word(self.memory(), noted.object.checked_add(GENERATOR_FRAME)?)?;
        let (block, of) = self.resolve.object(frame)?;
        let facts = &self.types[of as usize].facts;
        if facts.role != Role::Frame || stacks.contains(&frame) {
            return None;
        }
        let mut running = RunningFunctions::default();
        let (start, count) = self.take_object(block, code, globals, &mut running)?;
        Some(Suspended {
            block,
            locals: start..start + count as u64 * 8,
            variables: running.variables,
        })
    }

    /// All words of threads' stacks.
    fn stacks(&self) -> HashSet<u64> {
        let stacks = stack_words(self.memory(), self.residency);
        stacks.into_iter().collect()
    }

    /// Takes the variables of a frame object; returns their offset in it and their number.
    fn take_object(
        &self,
        block: u32,
        code: u64,
        globals: u64,
        running: &mut RunningFunctions,
    ) -> Option<(u64, usize)> {
        let range = self.resolve.source.index.range(block);
        let Kind::Object { of, head } = self.resolve.kinds[block as usize].get() else {
            return None;
        };
        let mut bytes = vec![0; range.len().saturating_sub(head) as usize];
        let object = range.start().checked_add(head)?;
        self.memory().read(object, &mut bytes).ok()?;
        // The fixed part ends with the first variable.
        let start = self.types[of as usize].facts.basic_size.saturating_sub(8);
        let (code, globals) = (word(&bytes, code)?, word(&bytes, globals)?);
        let locals = bytes.get(start as usize..)?;
        if !self.is(code, Role::Code) {
            return None;
        }
        let locals: Vec<u64> = words(locals).collect();
        let first = First {
            at: object.get().wrapping_add(start),
            thread: None,
        };
        let count = self.take(code, globals, first, &locals, running);
        Some((start, count.min(locals.len())))
    }

    /// Frames that are objects, those on a thread's stack.
    fn objects(&self, noted: &[Noted], code: u64, globals: u64) -> RunningFunctions {
        let stacks = self.stacks();
        let mut running = RunningFunctions::default();
        let frames = noted.iter().filter(|noted| noted.role == Role::Frame);
        for frame in frames.take(MAX_FRAMES) {
            if !stacks.contains(&frame.object) {
                continue;
            }
            running.words.push(frame.block);
            self.take_object(frame.block, code, globals, &mut running);
        }
        running
    }

    /// Frames in chunks of data stacks.
    fn chunks(&self, code: u64, globals: u64, locals: u64) -> RunningFunctions {
        let mut running = RunningFunctions::default();
        let mut rest = MAX_BYTES;
        for part in self.used_parts() {
            let mut bytes = vec![0; part.bytes.min(rest) as usize];
            rest -= bytes.len() as u64;
            if self
                .memory()
                .read(RemoteAddr::new(part.data), &mut bytes)
                .is_err()
            {
                continue;
            }
            let layout = self.resolve.source.layout;
            let all = words(&bytes).map(|word| layout.stack_reference(word));
            let all: Vec<u64> = all.collect();
            running
                .words
                .extend(all.iter().filter_map(|word| self.resolve.target(*word)));
            for at in 0..all.len() {
                let field = |offset: u64| all.get(at + offset as usize / 8).copied();
                let (Some(code), Some(globals)) = (field(code), field(globals)) else {
                    continue;
                };
                if self.is(code, Role::Code) && self.is(globals, Role::Dict) {
                    let from = (at + locals as usize / 8).min(all.len());
                    let first = First {
                        at: part.data.wrapping_add(from as u64 * 8),
                        thread: Some(part.thread),
                    };
                    self.take(code, globals, first, &all[from..], &mut running);
                }
            }
        }
        running
    }

    /// The used part of each chunk.
    fn used_parts(&self) -> Vec<UsedPart> {
        let mut found: Vec<UsedPart> = Vec::new();
        let mut seen = HashSet::new();
        let mut threads = 0;
        self.each_state(|[chunk, top, limit]| {
            if found.len() >= MAX_CHUNKS || !self.is_chunk(chunk, limit) || !seen.insert(chunk) {
                return;
            }
            let (data, thread) = (chunk + CHUNK_HEAD, threads);
            threads += 1;
            found.push(UsedPart {
                data,
                bytes: top.saturating_sub(data),
                thread,
            });
            // Earlier chunks contain the number of their used words.
            let mut before = read_word(self.memory(), chunk);
            while let Some(chunk) = before.filter(|&chunk| chunk != 0 && found.len() < MAX_CHUNKS) {
                let size = read_word(self.memory(), chunk.wrapping_add(8)).unwrap_or(0);
                let Some(limit) = chunk.checked_add(size) else {
                    break;
                };
                if !self.is_chunk(chunk, limit) || !seen.insert(chunk) {
                    break;
                }
                let used = read_word(self.memory(), chunk + 16).unwrap_or(0);
                let used = used.saturating_mul(8).min(size - CHUNK_HEAD);
                found.push(UsedPart {
                    data: chunk + CHUNK_HEAD,
                    bytes: used,
                    thread,
                });
                before = read_word(self.memory(), chunk);
            }
        });
        found
    }

    fn is_chunk(&self, chunk: u64, limit: u64) -> bool {
        let size = limit.checked_sub(chunk);
        let has_size =
            size.is_some_and(|size| (PAGE_SIZE..1 << 32).contains(&size) && size % PAGE_SIZE == 0);
        has_size && read_word(self.memory(), chunk.wrapping_add(8)) == size
    }

    /// Yields every three consecutive words that may be a chunk, the top in it, and its limit.
    fn each_state(&self, mut give: impl FnMut([u64; 3])) {
        let mut look = |words: &[u64]| {
            for three in words.windows(3) {
                let &[chunk, top, limit] = three else {
                    continue;
                };
                let looks_right = chunk != 0
                    && chunk % PAGE_SIZE == 0
                    && (chunk..=limit).contains(&top)
                    && limit % PAGE_SIZE == 0
                    && limit > chunk;
                if looks_right {
                    give([chunk, top, limit]);
                }
            }
        };
        for data in data::words(self.memory(), self.residency, true) {
            look(data.words());
        }
        let source = self.resolve.source;
        let blocks = source.index.len() as u32;
        let last = blocks.checked_sub(1).map(|last| source.index.range(last));
        let end = last.map_or(RemoteAddr::default(), |last| last.end());
        let mut window = Window::new(source.memory);
        for (block, range) in source.index.ranges(0..blocks) {
            let native = self.resolve.kinds[block as usize].is_native();
            if native
                && STATE_BYTES.contains(&range.len())
                && let Ok(bytes) = window.bytes(range, end)
            {
                look(&words(bytes).collect::<Vec<_>>());
            }
        }
    }
}
