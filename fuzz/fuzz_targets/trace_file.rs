//! Damaged or generated traces: the reader terminates, and the compiled program allocates into free
//! slots and frees only live ones.
#![no_main]

use std::collections::HashSet;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use profiler_common::program::{Op, OpCode};
use profiler_trace::compile::Compiler;
use profiler_trace::interchange;
use profiler_trace::limits::{Limits, Meter};
use profiler_trace::trace::{By, TraceDescription, Event, EventKind, Writer, pass_on};

fuzz_target!(|input: &[u8]| {
    let bytes = if input.starts_with(b"FRAGTRC") {
        input.to_vec()
    } else {
        written(input)
    };
    let meter = Meter::new(Limits::new(Some(64 << 20), Some(64 << 20), 1 << 30), Arc::default());
    let Ok(mut source) = interchange::read(std::io::Cursor::new(bytes), &meter) else {
        return;
    };
    let mut compiler = Compiler::new(source.description());
    let mut ops: Vec<Op> = Vec::new();
    let _ = pass_on(&mut *source, |item| compiler.item(item, &mut ops));
    let is_one_process = !ops.iter().any(|op| {
        matches!(op.code, OpCode::FORK | OpCode::START | OpCode::EXEC | OpCode::EXIT)
    });
    if is_one_process {
        let mut slots = HashSet::new();
        for op in ops {
            match op.code {
                OpCode::ALLOC => assert!(slots.insert(op.slot)),
                OpCode::FREE => assert!(slots.remove(&op.slot)),
                OpCode::REALLOC => assert!(slots.contains(&op.slot)),
                _ => {}
            }
        }
    }
});

/// A sound trace of events that the input chooses.
fn written(input: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &TraceDescription::default()).expect("memory");
    for four in input.chunks_exact(4) {
        let (addr, number) = (0x1000 + (u64::from(four[1]) << 6), u32::from(four[2]));
        let bytes = 1u64.wrapping_shl(u32::from(four[3]));
        let kind = match four[0] % 15 {
            0 | 1 => EventKind::Alloc {
                addr,
                bytes,
                align: four[3],
                by: [By::Malloc, By::Calloc, By::Realloc][usize::from(four[0] % 3)],
            },
            2 => EventKind::Free { addr },
            3 => EventKind::Realloc { addr },
            4 => EventKind::Kept { addr },
            5 => EventKind::Touched { addr, bytes },
            6 => EventKind::ThreadEnd,
            7 => EventKind::Begin { process: number },
            8 => EventKind::Fork {
                process: number,
                child: u32::from(four[3]),
            },
            9 => EventKind::Exec,
            10 => EventKind::ObjectAlloc {
                addr,
                bytes,
                by: [By::Malloc, By::Calloc, By::Realloc][usize::from(four[3] % 3)],
            },
            11 => EventKind::ObjectFree { addr },
            12 => EventKind::ObjectRealloc { addr },
            13 => EventKind::Trim { pad: bytes },
            _ => EventKind::Exit,
        };
        let event = Event {
            time_ns: bytes,
            thread: number % 16,
            kind,
        };
        writer.event(&event).expect("memory");
    }
    writer.finish().expect("memory")
}
