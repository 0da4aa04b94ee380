//! Native functions in the stacks of samples: which are shown, and where they join Python's.
//!
//! From Python 3.11 on one call of the interpreter's loop runs many Python functions, and neither
//! stack shows which C functions ran between two of them. So native functions are shown only where
//! they are certain: from the allocation up to the loop that runs the innermost Python function.
//! For a thread without Python functions all native functions are shown.

use std::sync::Arc;

use super::{Frame, Language};

/// What a native function is to a stack.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum NativeRole {
    /// It is one of the program's, or of a library's.
    Other,
    /// It allocates for whoever calls it: malloc, `operator new`, Python's ways to malloc.
    Allocates,
    /// It runs Python functions.
    RunsPython,
    /// It calls that which runs Python functions.
    CallsPython,
}

/// A native function of a stack.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub struct NativeFrame {
    /// As it is shown.
    pub frame: Frame,
    /// What it is.
    pub role: NativeRole,
    /// Whether its name is known, rather than its place alone.
    pub is_named: bool,
}

/// Why the native functions of a stack end where they do.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum NativeEnd {
    /// At the outermost one, or at one that runs Python functions.
    Whole,
    /// The stack goes on beyond what was copied of it.
    Cut,
    /// The code is in no mapped file: it was made while the program ran.
    NoFile,
    /// A function whose return is probed was called there: the kernel has put an address of its own in the place of the
    /// caller's.
    ProbedReturn,
    /// Other code was there by the time that it was looked at.
    Replaced,
    /// The file of the code is being read.
    BeingRead,
    /// A handler of a signal was called there, and the file does not say how the function that it interrupted is found.
    Signal,
    /// The file of the code cannot be read, or is another one by now.
    UnreadFile,
    /// The file says nothing of how its callers are found at this place.
    NoTable,
    /// What the file or the stack says leads nowhere.
    Damaged,
    /// The ring buffer had no room for the copy.
    NoRoom,
    /// The stack could not be read.
    Unreadable,
}

impl NativeEnd {
    /// What stands for the functions that are missing; `None` where none are.
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

/// Stands for functions between the native ones and Python's where no function was found that runs those.
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
        /// `operator new` in all its forms, Rust's own, and what is between Python's objects and malloc.
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
        // Where Python's loop is one function for each instruction, which call each other last.
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

/// The functions of a stack, the innermost first: the native ones as far as they are certain, then Python's.
/// `native` has them innermost first, and need not go on after one that runs Python functions.
pub fn with_native(native: Vec<NativeFrame>, end: NativeEnd, python: Vec<Frame>) -> Vec<Frame> {
    let is_boundary =
        |of: &NativeFrame| matches!(of.role, NativeRole::RunsPython | NativeRole::CallsPython);
    let boundary = match python.is_empty() {
        true => None,
        false => native.iter().position(is_boundary),
    };
    let mut shown: Vec<NativeFrame> = native;
    if let Some(boundary) = boundary {
        // In a file without all symbols a part of the loop may have none. It is what its caller calls.
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
