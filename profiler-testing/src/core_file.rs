//! A small valid core file of a process with a glibc heap, built from the ELF specification and the
//! layouts of x86-64 Linux, without code of the reader.

use crate::images::glibc::{Chunk, LIBC as LIBC_DATA, THREADS, with_chunks};

const PAGE: usize = 4096;
/// libc's read-only data, in the page before its data.
const LIBC: u64 = LIBC_DATA - PAGE as u64;
const LIBC_PATH: &str = "/nowhere/libc.so.6";

fn words(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn note(kind: u32, content: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [5, content.len() as u32, kind] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"CORE\0\0\0\0");
    note.extend(content);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

fn program_header(kind: u32, flags: u32, offset: usize, addr: u64, len: usize) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(flags.to_le_bytes());
    header.extend(words(&[
        offset as u64,
        addr,
        0,
        len as u64,
        if kind == 1 { len as u64 } else { 0 },
        if kind == 1 { PAGE as u64 } else { 4 },
    ]));
    header
}

/// The notes of one thread, its names, and libc's two mappings.
fn notes(thread_pointer: u64) -> Vec<u8> {
    let mut status = vec![0; 336];
    status[32..36].copy_from_slice(&4711u32.to_le_bytes());
    let fs_base = 112 + 8 * 21;
    status[fs_base..fs_base + 8].copy_from_slice(&thread_pointer.to_le_bytes());
    let mut info = vec![0; 136];
    info[24..28].copy_from_slice(&4711u32.to_le_bytes());
    info[40..46].copy_from_slice(b"worker");
    info[56..66].copy_from_slice(b"worker -w1");
    let mut files = words(&[2, PAGE as u64]);
    files.extend(words(&[LIBC, LIBC_DATA, 0]));
    files.extend(words(&[LIBC_DATA, LIBC_DATA + 0x2000, 1]));
    for _ in 0..2 {
        files.extend(LIBC_PATH.bytes());
        files.push(0);
    }
    let auxv = words(&[6, PAGE as u64, 0, 0]);
    [
        note(1, &status),
        note(3, &info),
        note(6, &auxv),
        note(0x4649_4c45, &files),
    ]
    .concat()
}

/// The bytes of the core.
pub fn sound() -> Vec<u8> {
    let mut chunks = vec![];
    for i in 0..12 {
        chunks.push((0x20 + 0x10 * (i % 9), Chunk::Live));
        chunks.push((0x30, Chunk::Fastbin));
        chunks.push((0x400 + 0x40 * i, Chunk::Free));
    }
    chunks.extend([
        (0x40, Chunk::Live),
        (0x50, Chunk::Tcache),
        (0x3000, Chunk::Live),
    ]);
    let image = with_chunks(&chunks);
    let mut read_only = b"\0GNU C Library (test) stable release version 2.36.\n\0".to_vec();
    read_only.resize(PAGE, 0);
    let mut segments = vec![(LIBC, 5, read_only)];
    segments.extend(image.resident().into_iter().map(|(range, bytes)| {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
        (range.start().get(), 6, bytes)
    }));
    segments.sort_by_key(|(start, ..)| *start);

    let notes = notes(THREADS[0].thread_pointer.get());
    let headers = 64 + 56 * (segments.len() + 1);
    let mut at = (headers + notes.len()).next_multiple_of(PAGE);
    let mut core = b"\x7fELF\x02\x01\x01".to_vec();
    core.resize(16, 0);
    for half in [4u16, 62] {
        core.extend(half.to_le_bytes());
    }
    core.extend(1u32.to_le_bytes());
    core.extend(words(&[0, 64, 0]));
    core.extend(0u32.to_le_bytes());
    for half in [64, 56, segments.len() as u16 + 1, 0, 0, 0] {
        core.extend(half.to_le_bytes());
    }
    core.extend(program_header(4, 0, headers, 0, notes.len()));
    for (start, flags, bytes) in &segments {
        core.extend(program_header(1, *flags, at, *start, bytes.len()));
        at += bytes.len();
    }
    core.extend(notes);
    core.resize(core.len().next_multiple_of(PAGE), 0);
    for (.., bytes) in segments {
        core.extend(bytes);
    }
    core
}
