//! Damaged input for tests: arbitrary bytes as a file of a target, a real library, and reproducible
//! random numbers.

use std::io::Write;

use profiler_target::Source;

/// A file with these bytes.
pub(crate) fn source(bytes: &[u8]) -> Source {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("written");
    Source::of(file, 128 << 20).expect("a handle")
}

/// The C library that this process runs with.
pub(crate) fn libc() -> Vec<u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let paths = maps.lines();
    let mut paths = paths.filter_map(|line| line.split_ascii_whitespace().nth(5));
    let path = paths.find(|path| path.contains("libc.") || path.contains("ld-musl"));
    std::fs::read(path.expect("a libc")).expect("the file")
}

/// Random numbers below the given one: xorshift, without its lowest bits.
pub(crate) fn random() -> impl FnMut(usize) -> usize {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 8) as usize % below
    }
}
