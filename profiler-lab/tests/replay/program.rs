//! Traces as programs for the player, compiled with the code that `replay` uses.

use std::io::Cursor;
use std::sync::Arc;

use profiler_lab::open::compile;
use profiler_lab::play::ReplayProgram;
use profiler_testing::trace::TraceBuilder;
use profiler_trace::limits::Meter;
use profiler_trace::trace::Reader;

/// What there is of the trace so far, compiled.
pub(crate) fn program(trace: &TraceBuilder) -> Arc<ReplayProgram> {
    let reader = Reader::new(Cursor::new(trace.bytes())).expect("a trace");
    let compiled = compile(reader, Meter::default());
    compiled.expect("it compiles").program
}
