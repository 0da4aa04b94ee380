//! What only root sees of a player.

use std::io::Cursor;

use fragscope::lab::play::{Program, Setup, play};
use profiler_trace::trace::{By, Description, Event, EventKind, Reader, Writer};

/// Kernel calls for so many blocks of 1 MiB, allocated and freed one after the other by each of two
/// threads.
fn calls_for(blocks: u64) -> u64 {
    let mut writer = Writer::new(Vec::new(), &Description::default()).expect("a Vec has room");
    for number in 0..blocks {
        let addr = 0x1000_0000 + (number << 21);
        for thread in 0..2 {
            let addr = addr + u64::from(thread) * (1 << 20);
            let alloc = EventKind::Alloc {
                addr,
                bytes: 1 << 20,
                align: 0,
                by: By::Malloc,
            };
            for kind in [alloc, EventKind::Free { addr }] {
                let event = Event {
                    time_ns: 0,
                    thread,
                    kind,
                };
                writer.event(&event).expect("a Vec has room");
            }
        }
    }
    let trace = writer.finish().expect("a Vec has room");
    let program = Program::compile(Reader::new(Cursor::new(trace)).expect("a trace"));
    let setup = Setup {
        count_calls: true,
        // Fixed, so that each block is a mapping of its own.
        env: vec![("MALLOC_MMAP_THRESHOLD_".into(), "131072".into())],
        ..Setup::default()
    };
    let played = play(&program.expect("it compiles"), &setup, &|_| true).expect("it plays");
    played.kernel_calls.expect("root may count them")
}

#[test]
fn each_mapping_and_unmapping_is_counted_in_all_threads() {
    let more = calls_for(300) - calls_for(100);
    assert_eq!(more, 200 * 2 * 2);
}
