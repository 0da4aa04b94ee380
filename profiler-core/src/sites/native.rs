//! Native functions in the stacks of samples: which are shown, and where they join Python's.
//!
//! From Python 3.11 on one call of the interpreter's loop runs many Python functions, and neither
//! stack shows which C functions ran between two of them. So native functions are shown only where
//! they are certain: from the allocation up to the loop that runs the innermost Python function.
//! For a thread without Python functions all native functions are shown.

use std::sync::Arc;

use super::{Frame, Language};

/// The role of a native function in a stack.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum NativeRole {
    /// Any other function of the program or of a library.
    Other,
    /// It allocates for its caller: malloc, `operator new`, Python's functions that lead to malloc.
    Allocates,
    /// It runs Python functions.
    RunsPython,
    /// It calls the function that runs Python functions.
    CallsPython,
}

/// A native function of a stack.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub struct NativeFrame {
    /// The frame as it is shown.
    pub frame: Frame,
    /// Its role.
    pub role: NativeRole,
    /// Whether its name is known, and not only its address.
    pub is_named: bool,
}

/// Why the native functions of a stack end where they do.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum NativeEnd {
    /// At the outermost function, or at one that runs Python functions.
    Whole,
    /// The stack continues beyond the copied part.
    Cut,
    /// The code is in no mapped file: it was generated at run time.
    NoFile,
    /// A function whose return is probed was called there: the kernel has replaced the return
    /// address with one of its own.
    ProbedReturn,
    /// Other code was there by the time it was examined.
    Replaced,
    /// The file of the code is being read.
    BeingRead,
    /// A signal handler was called there, and the file does not say how to find the function that
    /// it interrupted.
    Signal,
    /// The file of the code cannot be read, or is another one by now.
    UnreadFile,
    /// The file does not say how to find callers at this place.
    NoTable,
    /// The data in the file or the stack is invalid.
    Damaged,
    /// The ring buffer had no room for the copy.
    NoRoom,
    /// The stack could not be read.
    Unreadable,
}

impl NativeEnd {
    /// The label for the missing functions; `None` if none are missing.
    const fn label(self) -> Option<&'static str> {
        match self {
            Self::Whole => None,
            Self::Cut => Some("(native stack cut)"),
            Self::NoFile => Some("(native code of no file)"),
            Self::ProbedReturn => Some("(native caller hidden by a return probe)"),
            Self::Replaced => Some("(native code replaced meanwhile)"),
            Self::BeingRead => Some("(native code of a file not read yet)"),
            Self::Signal => Some("(native code interrupted by a signal)"),
            Self::UnreadFile => Some("(native code of an unread file)"),
            Self::NoTable => Some("(native code without unwind table)"),
            Self::Damaged => Some("(native stack damaged)"),
            Self::NoRoom => Some("(native stack not copied: no room)"),
            Self::Unreadable => Some("(native stack unreadable)"),
        }
    }
}

/// The label for functions between the native ones and Python's if no function that runs the latter
/// was found.
const NO_LOOP: &str = "(native stack without Python's loop)";

impl NativeRole {
    /// Of the function that a symbol names, in any file.
    pub fn of_symbol(symbol: &str) -> Self {
        const CALL_PYTHON: [&str; 4] = [
            "_PyEval_Vector",
            "_PyEval_EvalCodeWithName",
            "_PyFunction_Vectorcall",
            "PyEval_EvalCode",
        ];
        /// `operator new` in all its forms, Rust's allocation functions, and the functions between
        /// Python's objects and malloc.
        const ALLOCATE: [&str; 14] = [
            "_Znw",
            "_Zna",
            "__rust_alloc",
            "__rust_realloc",
            "PyMem_",
            "_PyMem_",
            "PyObject_Malloc",
            "PyObject_Calloc",
            "PyObject_Realloc",
            "_PyObject_Alloc",
            "_PyObject_Malloc",
            "_PyObject_Calloc",
            "_PyObject_Realloc",
            "pymalloc_alloc",
        ];
        // The compiler splits functions, and names the parts with a point after the name.
        let whole = symbol.split('.').next().unwrap_or_default();
        // In builds where Python's loop is one function per instruction, connected by tail calls.
        if whole == "_PyEval_EvalFrameDefault" || whole.starts_with("_TAIL_CALL_") {
            return Self::RunsPython;
        }
        if CALL_PYTHON.contains(&whole) {
            return Self::CallsPython;
        }
        match ALLOCATE.iter().any(|begin| whole.starts_with(begin)) {
            true => Self::Allocates,
            false => Self::Other,
        }
    }
}

impl Frame {
    /// A native function.
    pub fn native(function: Arc<str>, file: Arc<str>) -> Self {
        Self {
            language: Language::Native,
            function,
            file,
            line: None,
        }
    }
}

/// The functions of a stack, the innermost first: the native ones as far as they are certain, then
/// Python's. `native` has the innermost first and may end at one that runs Python functions.
pub fn with_native(native: Vec<NativeFrame>, end: NativeEnd, python: Vec<Frame>) -> Vec<Frame> {
    let is_boundary =
        |of: &NativeFrame| matches!(of.role, NativeRole::RunsPython | NativeRole::CallsPython);
    let boundary = match python.is_empty() {
        true => None,
        false => native.iter().position(is_boundary),
    };
    let mut shown: Vec<NativeFrame> = native;
    if let Some(boundary) = boundary {
        // In a file without all symbols a part of the loop may have no name. It is the function
        // called by the caller of the loop.
        let is_unnamed_part = shown[boundary].role == NativeRole::CallsPython
            && boundary
                .checked_sub(1)
                .and_then(|last| shown.get(last))
                .is_some_and(|last| {
                    !last.is_named && last.frame.file == shown[boundary].frame.file
                });
        shown.truncate(boundary - usize::from(is_unnamed_part));
    }
    let allocating = shown
        .iter()
        .take_while(|of| of.role == NativeRole::Allocates);
    let allocating = allocating.count();
    let mut stack: Vec<Frame> = shown.drain(allocating..).map(|of| of.frame).collect();
    let missing = match (boundary, end.label(), python.is_empty()) {
        (Some(_), _, _) | (None, None, true) => None,
        (None, None, false) => Some(NO_LOOP),
        (None, Some(label), _) => Some(label),
    };
    stack.extend(missing.map(|label| Frame::native(label.into(), "".into())));
    stack.extend(python);
    stack
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(name: &str) -> NativeFrame {
        NativeFrame {
            frame: Frame::native(name.into(), "/lib/libpython.so".into()),
            role: NativeRole::of_symbol(name),
            is_named: !name.contains('+'),
        }
    }

    fn python(name: &str) -> Frame {
        Frame {
            language: Language::Python,
            function: name.into(),
            file: "app.py".into(),
            line: Some(1),
        }
    }

    fn merged(names: &[&str], end: NativeEnd, functions: &[&str]) -> Vec<String> {
        let native = names.iter().map(|name| native(name)).collect();
        let python = functions.iter().map(|name| python(name)).collect();
        let stack = with_native(native, end, python);
        stack.iter().map(|of| of.function.to_string()).collect()
    }

    #[test]
    fn native_functions_are_those_below_the_innermost_python_function() {
        let names = [
            "_PyMem_RawMalloc",
            "PyObject_Malloc",
            "PyByteArray_Resize",
            "type_call",
            "_PyEval_EvalFrameDefault",
            "_PyEval_Vector",
            "list_sort",
            "_PyEval_EvalFrameDefault",
        ];
        assert_eq!(
            merged(&names, NativeEnd::Cut, &["inner", "outer"]),
            ["PyByteArray_Resize", "type_call", "inner", "outer"]
        );
        let parts = ["strdup", "_PyEval_EvalFrameDefault.cold"];
        assert_eq!(
            merged(&parts, NativeEnd::Whole, &["inner"]),
            ["strdup", "inner"]
        );
    }

    #[test]
    fn a_part_of_the_loop_without_a_name_is_no_function_of_its_own() {
        let names = ["PyDict_New", "python3.11+0x1234", "_PyEval_Vector"];
        assert_eq!(
            merged(&names, NativeEnd::Whole, &["inner"]),
            ["PyDict_New", "inner"]
        );
    }

    #[test]
    fn what_is_missing_is_said_in_its_place() {
        assert_eq!(
            merged(&["strdup"], NativeEnd::Cut, &["inner"]),
            ["strdup", "(native stack cut)", "inner"]
        );
        assert_eq!(
            merged(&["strdup", "start"], NativeEnd::Whole, &["inner"]),
            [
                "strdup",
                "start",
                "(native stack without Python's loop)",
                "inner"
            ]
        );
        assert_eq!(
            merged(&[], NativeEnd::NoRoom, &[]),
            ["(native stack not copied: no room)"]
        );
    }

    #[test]
    fn a_thread_without_python_functions_has_its_whole_stack() {
        let names = ["_Znwm", "work", "_PyEval_EvalFrameDefault", "main"];
        assert_eq!(
            merged(&names, NativeEnd::Whole, &[]),
            ["work", "_PyEval_EvalFrameDefault", "main"]
        );
    }
}
