//! Generated recordings of other tools: every reader terminates. The first byte selects the format,
//! so that each is reached quickly.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use profiler_trace::interchange::{read, write_logalloc};
use profiler_trace::limits::{Limits, Meter};

/// The first bytes of files in each format; for memray up to its records.
const STARTS: [&[u8]; 4] = [
    b"v 10400 3\nX program\na 10 1\n",
    b"1 1 malloc(4)=0x10\n",
    b"memray\0\x0d\0\0\0\xf0\x0b\x0b\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0x\0\
      \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    b"",
];

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let bytes = [STARTS[usize::from(first % 4)], rest].concat();
    let meter = Meter::new(Limits::new(Some(64 << 20), Some(64 << 20), 1 << 30), Arc::default());
    if let Ok(mut source) = read(std::io::Cursor::new(bytes), &meter) {
        let _ = write_logalloc(&mut *source, &mut std::io::sink(), &meter);
    }
});
