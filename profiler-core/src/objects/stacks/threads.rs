//! Where a CPython keeps its threads and their frames, and which threads exist.

use hashbrown::HashSet;
use profiler_common::sampling::PythonFrames;

use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::objects::layout::{
    CodeLayout, LineTable, OWNED_BY_INTERPRETER, Published, THREAD_INTERPRETER, ThreadLayout,
};
use crate::objects::words::read_word;

/// The most interpreters, and the most threads of all of them.
const MAX_INTERPRETERS: usize = 64;
const MAX_THREADS: usize = 4096;

/// How `_Py_DebugOffsets` begins (`Include/internal/pycore_runtime.h`).
const PUBLISHED: u64 = u64::from_le_bytes(*b"xdebugpy");

/// Addresses of a Python's own data in the target, from its symbols.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct PythonSymbols {
    /// `_PyRuntime`; since 3.7.
    pub runtime: Option<RemoteAddr>,
    /// `_PyThreadState_Current`; 3.6.
    pub current_thread: Option<RemoteAddr>,
    /// `PyCode_Type`.
    pub code_type: Option<RemoteAddr>,
}

/// Why stacks of Python's functions cannot be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoStacks {
    /// There is no layout for its version.
    #[error("where CPython {0}.{1} keeps its frames is not known")]
    UnknownVersion(u8, u8),
    /// Its symbols cannot be found.
    #[error("the Python of the target exports none of the symbols that lead to its threads")]
    NoSymbols,
    /// Its runtime is unreadable or implausible.
    #[error("the target's Python does not say where it keeps its threads")]
    Damaged,
    /// Built without the GIL.
    #[error("the target's Python is built without the GIL, whose frames are not read")]
    FreeThreaded,
}

/// The layout of one running CPython.
#[derive(Clone, Debug)]
pub(super) struct Threads {
    layout: ThreadLayout,
    symbols: PythonSymbols,
}

/// How the kernel identifies a thread, and how Python's own state of it is found.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ThreadPointer {
    /// The offset of the thread pointer in the kernel's `task_struct`.
    pub in_task: u32,
    /// How many bytes before that is what `pthread_self` gives.
    pub self_before: u32,
}

/// The threads that a Python has.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ThreadList {
    /// The address at which the first interpreter stores the address of its newest thread's state;
    /// 0 if unknown.
    pub head: u64,
    /// What `pthread_self` gives in each thread, and the thread's state.
    pub states: Vec<(u64, u64)>,
}

impl Threads {
    /// For the Python of a version with these symbols. From 3.13 on its runtime publishes most
    /// offsets, including those of code objects.
    pub(super) fn find<M: TargetMemory>(
        memory: &M,
        version: (u8, u8),
        symbols: PythonSymbols,
        code: &mut CodeLayout,
    ) -> Result<Self, NoStacks> {
        let layout = ThreadLayout::of(version);
        let layout = layout.ok_or(NoStacks::UnknownVersion(version.0, version.1))?;
        let root = match version {
            (3, 6) => symbols.current_thread,
            _ => symbols.runtime,
        };
        let root = root.ok_or(NoStacks::NoSymbols)?;
        let layout = match Published::of(version) {
            Some(at) => published(memory, root, at, layout, code)?,
            None => layout,
        };
        Ok(Self { layout, symbols })
    }

    /// How a place in a code object becomes a line.
    pub(super) fn table(&self) -> LineTable {
        self.layout.table
    }

    /// The threads there are. What cannot be read is left out: threads come and go.
    pub(super) fn list<M: TargetMemory>(&self, memory: &M) -> ThreadList {
        let mut list = ThreadList::default();
        let mut interpreter = self.first_interpreter(memory).unwrap_or(0);
        let mut seen = HashSet::new();
        for _ in 0..MAX_INTERPRETERS {
            let Some(head) = interpreter.checked_add(self.layout.threads) else {
                break;
            };
            if interpreter == 0 {
                break;
            }
            if list.head == 0 {
                list.head = head;
            }
            let mut state = read_word(memory, head).unwrap_or(0);
            while state != 0 && list.states.len() < MAX_THREADS && seen.insert(state) {
                let field = |offset: u64| read_word(memory, state.wrapping_add(offset));
                if let Some(id) = field(self.layout.id).filter(|id| *id != 0) {
                    list.states.push((id, state));
                }
                state = field(self.layout.next_thread).unwrap_or(0);
            }
            let next = interpreter.wrapping_add(self.layout.next_interpreter);
            interpreter = read_word(memory, next).unwrap_or(0);
        }
        list
    }

    fn first_interpreter<M: TargetMemory>(&self, memory: &M) -> Option<u64> {
        if let Some(runtime) = self.symbols.runtime {
            return read_word(memory, runtime.get().checked_add(self.layout.interpreters)?);
        }
        // A thread that holds the GIL; there may be none at this moment.
        let state = read_word(memory, self.symbols.current_thread?.get())?;
        read_word(memory, state.checked_add(THREAD_INTERPRETER)?)
    }

    /// What the BPF programs need to know.
    pub(super) fn frames(&self, head: u64, pointer: ThreadPointer) -> PythonFrames {
        let layout = &self.layout;
        let field = |offset: u64| u32::try_from(offset).unwrap_or(PythonFrames::NONE);
        let optional = |offset: Option<u64>| offset.map_or(PythonFrames::NONE, field);
        PythonFrames {
            head,
            // Later versions have no such variable, and their first interpreter is always found.
            current: self.symbols.current_thread.map_or(0, RemoteAddr::get),
            place_mask: match layout.table {
                LineTable::Increments | LineTable::Ranges => u64::from(u32::MAX),
                LineTable::Locations => u64::MAX,
            },
            thread_next: field(layout.next_thread),
            thread_id: field(layout.id),
            thread_frame: field(layout.frame),
            holder_frame: optional(layout.holder_frame),
            frame_code: field(layout.code),
            frame_previous: field(layout.previous),
            frame_place: field(layout.place),
            frame_owner: optional(layout.owner),
            own_frames: OWNED_BY_INTERPRETER.into(),
            thread_pointer: pointer.in_task,
            thread_before: pointer.self_before,
            unused: 0,
        }
    }
}

/// The layouts with the offsets that a runtime publishes.
fn published<M: TargetMemory>(
    memory: &M,
    runtime: RemoteAddr,
    at: Published,
    layout: ThreadLayout,
    code: &mut CodeLayout,
) -> Result<ThreadLayout, NoStacks> {
    /// No structure is larger.
    const LARGEST: u64 = 1 << 20;
    let word = |at: u64| read_word(memory, runtime.get().checked_add(at)?);
    if word(0) != Some(PUBLISHED) {
        return Err(NoStacks::Damaged);
    }
    if word(16) != Some(0) {
        return Err(NoStacks::FreeThreaded);
    }
    let offset = |at: u64| {
        word(at)
            .filter(|offset| *offset < LARGEST)
            .ok_or(NoStacks::Damaged)
    };
    *code = CodeLayout {
        file: offset(at.file)?,
        name: offset(at.file + 8)?,
        qualified_name: Some(offset(at.file + 16)?),
        lines: offset(at.file + 24)?,
        first_line: offset(at.file + 32)?,
        instructions: Some(offset(at.instructions)?),
        ..*code
    };
    Ok(ThreadLayout {
        interpreters: offset(40)?,
        next_interpreter: offset(64)?,
        threads: offset(72)?,
        next_thread: offset(at.next_thread)?,
        frame: offset(at.frame)?,
        id: offset(at.id)?,
        previous: offset(at.previous)?,
        code: offset(at.previous + 8)?,
        place: offset(at.previous + 16)?,
        owner: Some(offset(at.previous + 32)?),
        ..layout
    })
}
