//! Locations of threads, their frames and the frames' code.

use super::NEWEST;

/// The position of a frame's code and variables.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(in crate::objects) enum FrameLayout {
    /// Up to 3.10 an object: `f_code`, and variables in the last words of its fixed part.
    Object {
        /// `f_code`.
        code: u64,
        /// `f_globals`.
        globals: u64,
    },
    /// From 3.11 on a structure in a chunk of the thread's data stack.
    Stack {
        /// `f_code` or `f_executable`.
        code: u64,
        /// `f_globals`.
        globals: u64,
        /// `localsplus`.
        locals: u64,
    },
    /// Not known.
    Unknown,
}

/// Offsets in a code object of its description and its variables.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(in crate::objects) struct CodeLayout {
    /// The number of variables, 4 bytes.
    pub(in crate::objects) locals: u64,
    /// The tuple of their names.
    pub(in crate::objects) names: u64,
    /// The function's name.
    pub(in crate::objects) name: u64,
    /// The name including enclosing classes and functions; since 3.11.
    pub(in crate::objects) qualified_name: Option<u64>,
    /// The file.
    pub(in crate::objects) file: u64,
    /// The number of the first line, 4 bytes.
    pub(in crate::objects) first_line: u64,
    /// The table of lines, `bytes`.
    pub(in crate::objects) lines: u64,
    /// The instructions, if they are in the object itself; since 3.11.
    pub(in crate::objects) instructions: Option<u64>,
}

/// The format of the line table, and how a frame stores its position.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(in crate::objects) enum LineTable {
    /// Up to 3.9: `co_lnotab`, by `f_lasti`, in bytes.
    Increments,
    /// 3.10: `co_linetable` of PEP 626, by `f_lasti`, in instructions.
    Ranges,
    /// From 3.11 on: `co_linetable` of PEP 657, by the address of an instruction.
    Locations,
}

/// Offsets of threads and their frames (`Include/cpython/pystate.h`, `frameobject.h`,
/// `internal/pycore_runtime.h`, `pycore_interp.h`, `pycore_frame.h`).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(in crate::objects) struct ThreadLayout {
    /// The first interpreter, in `_PyRuntime`.
    pub(in crate::objects) interpreters: u64,
    /// In an interpreter: the next interpreter, and its first thread.
    pub(in crate::objects) next_interpreter: u64,
    pub(in crate::objects) threads: u64,
    /// In a thread: the next thread, its `pthread_self`, its interpreter, and its innermost frame
    /// or the structure that holds the frame.
    pub(in crate::objects) next_thread: u64,
    pub(in crate::objects) id: u64,
    pub(in crate::objects) frame: u64,
    /// In the structure that holds the innermost frame: the frame.
    pub(in crate::objects) holder_frame: Option<u64>,
    /// In a frame: its code, its caller, its position, and its owner.
    pub(in crate::objects) code: u64,
    pub(in crate::objects) previous: u64,
    pub(in crate::objects) place: u64,
    pub(in crate::objects) owner: Option<u64>,
    pub(in crate::objects) table: LineTable,
}

/// `PyThreadState.interp` up to 3.7.
pub(in crate::objects) const THREAD_INTERPRETER: u64 = 16;
/// The smallest owner value of a frame that does not belong to a function but to a run of the
/// interpreter's loop, since 3.12 (`FRAME_OWNED_BY_CSTACK`; from 3.14 on
/// `FRAME_OWNED_BY_INTERPRETER`, and in 3.14 the former has the value after it).
pub(in crate::objects) const OWNED_BY_INTERPRETER: u8 = 3;

impl ThreadLayout {
    /// The layout of a version; `None` if it is unknown.
    pub(in crate::objects) fn of(version: (u8, u8)) -> Option<Self> {
        if !((3, 6)..=NEWEST).contains(&version) {
            return None;
        }
        let since = |minor| version >= (3, minor);
        let pick = |by_minor: [u64; 10]| by_minor[usize::from(version.1 - 6)];
        let frames = since(11);
        Some(Self {
            // 3.6 has no such structure.
            interpreters: pick([0, 24, 32, 32, 32, 40, 40, 632, 808, 936]),
            next_interpreter: pick([0, 0, 0, 0, 0, 0, 0, 7264, 7272, 7264]),
            threads: pick([8, 8, 8, 8, 8, 16, 72, 7344, 7344, 7336]),
            next_thread: 8,
            id: pick([152, 176, 176, 176, 176, 152, 136, 152, 152, 176]),
            frame: pick([24, 24, 24, 24, 24, 56, 56, 72, 72, 72]),
            holder_frame: match version.1 {
                11 => Some(8),
                12 => Some(0),
                _ => None,
            },
            code: if since(12) { 0 } else { 32 },
            previous: pick([24, 24, 24, 24, 24, 48, 8, 8, 8, 8]),
            place: pick([120, 104, 104, 104, 96, 56, 56, 56, 56, 56]),
            owner: since(12).then_some(if since(14) { 74 } else { 70 }),
            table: match version.1 {
                _ if frames => LineTable::Locations,
                10 => LineTable::Ranges,
                _ => LineTable::Increments,
            },
        })
    }
}

impl CodeLayout {
    pub(super) fn of(version: (u8, u8)) -> Self {
        let three = version >= (3, 0);
        let since = |minor| version >= (3, minor);
        match version {
            _ if since(11) => CodeLayout {
                locals: if since(12) { 72 } else { 76 },
                names: 96,
                name: 120,
                qualified_name: Some(128),
                file: 112,
                first_line: if since(12) { 68 } else { 72 },
                lines: 136,
                instructions: Some(match version.1 {
                    _ if since(14) => 208,
                    13 => 200,
                    12 => 192,
                    _ => 184,
                }),
            },
            _ => {
                let (locals, names, file, first_line) = match version {
                    _ if since(8) => (28, 72, 104, 40),
                    _ if three => (24, 64, 96, 36),
                    _ => (20, 56, 80, 96),
                };
                CodeLayout {
                    locals,
                    names,
                    name: file + 8,
                    qualified_name: None,
                    file,
                    first_line,
                    lines: file + 16 + if three { 0 } else { 8 },
                    instructions: None,
                }
            }
        }
    }
}

impl FrameLayout {
    pub(super) fn of(version: (u8, u8)) -> Self {
        let since = |minor| version >= (3, minor);
        match version {
            _ if since(12) => FrameLayout::Stack {
                code: 0,
                globals: 24,
                locals: if since(14) { 80 } else { 72 },
            },
            _ if since(11) => FrameLayout::Stack {
                code: 32,
                globals: 8,
                locals: 72,
            },
            _ => FrameLayout::Object {
                code: 32,
                globals: 48,
            },
        }
    }
}

/// Offsets in `_Py_DebugOffsets` of what is read from it, by version
/// (`Include/internal/pycore_runtime.h`, from 3.14 on `pycore_debug_offsets.h`), in bytes from
/// `_PyRuntime`. Offsets that are the same in all versions are in the code.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(in crate::objects) struct Published {
    /// `thread_state`.
    pub(in crate::objects) next_thread: u64,
    pub(in crate::objects) frame: u64,
    pub(in crate::objects) id: u64,
    /// `interpreter_frame.previous`; `executable`, `instr_ptr`, one other, and `owner` follow.
    pub(in crate::objects) previous: u64,
    /// `code_object.filename`; `name`, `qualname`, `linetable`, `firstlineno` follow.
    pub(in crate::objects) file: u64,
    /// `code_object.co_code_adaptive`.
    pub(in crate::objects) instructions: u64,
}

impl Published {
    /// The offsets of a version from 3.13 on; `None` for earlier and unknown versions.
    pub(in crate::objects) fn of(version: (u8, u8)) -> Option<Self> {
        let of = |next_thread, id, previous, file, instructions| Self {
            next_thread,
            frame: next_thread + 16,
            id,
            previous,
            file,
            instructions,
        };
        match version {
            (3, 13) => Some(of(168, 192, 232, 280, 344)),
            (3, 14) => Some(of(192, 216, 256, 320, 384)),
            (3, 15) => Some(of(192, 240, 320, 384, 448)),
            _ => None,
        }
    }
}
