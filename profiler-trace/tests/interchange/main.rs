//! Recordings of other tools: what is read of them agrees with the numbers that the tools
//! themselves print.
//!
//! `heaptrack.zst` (heaptrack 1.4) and `memray.bin` (memray 1.20) are recordings of `program.py`
//! under Debian 12's Python.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use profiler_trace::interchange::{self, write_logalloc};
use profiler_trace::limits::{Limits, Meter};
use profiler_trace::trace::{
    By, Event, EventKind, Item, ReadError, Reader, TraceDescription, TraceSource, Writer,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn open(path: &Path) -> Result<Box<dyn TraceSource>, ReadError> {
    interchange::read(fs::File::open(path)?, &Meter::default())
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/interchange")
        .join(name)
}

fn events(source: &mut dyn TraceSource) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(item) = source.next_item().expect("it is readable") {
        if let Item::Event(event) = item {
            events.push(event);
        }
    }
    events
}

fn allocations(events: &[Event]) -> (usize, u64) {
    let sizes = events.iter().filter_map(|event| match event.kind {
        EventKind::Alloc { bytes, .. } => Some(bytes),
        _ => None,
    });
    let sizes: Vec<u64> = sizes.collect();
    (sizes.len(), sizes.iter().sum())
}

/// Blocks live at the end; every free must be of a live block, but for `unknown` of them.
fn live(events: &[Event], unknown: usize) -> usize {
    let (mut live, mut unknown_seen) = (HashSet::new(), 0);
    for event in events {
        match event.kind {
            EventKind::Alloc { addr, .. } => assert!(live.insert(addr), "{event:?}"),
            EventKind::Free { addr } => unknown_seen += usize::from(!live.remove(&addr)),
            _ => {}
        }
    }
    assert!(unknown_seen <= unknown, "{unknown_seen}");
    live.len()
}

#[test]
fn heaptracks_recording_has_as_many_calls_as_heaptrack_counts() {
    let mut source = open(&fixture("heaptrack.zst")).expect("it opens");
    let about = source.description().clone();
    assert_eq!(about.format.as_deref(), Some("heaptrack"));
    assert_eq!(
        about.command.as_deref(),
        Some("/usr/bin/python3 program.py")
    );
    assert_eq!(about.lacks[0], "threads");
    let events = events(&mut *source);
    // `heaptrack_print`: calls to allocation functions.
    assert_eq!(allocations(&events).0, 1743);
    live(&events, 0);
}

#[test]
fn memrays_capture_has_as_many_allocations_as_memray_counts() {
    let mut source = open(&fixture("memray.bin")).expect("it opens");
    let about = source.description().clone();
    assert_eq!(about.format.as_deref(), Some("memray"));
    let python = about.python.as_deref().expect("it says so");
    assert!(python.starts_with("CPython 3.11."), "{python}");
    let events = events(&mut *source);
    assert!(source.is_complete());
    // `memray stats`: total allocations and bytes.
    assert_eq!(allocations(&events), (623, 2_092_301));
    live(&events, usize::MAX);
}

#[test]
fn a_raw_recording_of_heaptracks_has_addresses() {
    let text =
        "v 10400 3\nx 8 /bin/cat\nX cat\nI 1000 64\n+ 20 1 7f00\nc a\n+ 30 1 8f00\n- 7f00\nR 2\n";
    let mut source = open_bytes(text.as_bytes()).expect("it opens");
    assert_eq!(source.description().command.as_deref(), Some("cat"));
    let events = events(&mut *source);
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    let alloc = |addr, bytes| EventKind::Alloc {
        addr,
        bytes,
        align: 0,
        by: By::Malloc,
    };
    assert_eq!(
        kinds,
        [
            alloc(0x7f00, 0x20),
            alloc(0x8f00, 0x30),
            EventKind::Free { addr: 0x7f00 },
        ]
    );
    assert_eq!(events[1].time_ns, 10_000_000);
}

#[test]
fn logalloc_is_read_in_all_its_forms() {
    let text = "10 10 malloc(42)=0x7f90\n10 11 calloc(4,42)=0x7fa0\n10 10 realloc(0x7f90,128)=0x7fb0\n\
                10 10 memalign(512,4096)=0x8000\n10 10 free(0x7fb0)\n10 10 jemalloc_stats()\n\
                12 1 malloc(8)=#7\n12 free(#7)\n10 10 malloc(1)=(nil)\n";
    let mut source = open_bytes(text.as_bytes()).expect("it opens");
    let events = events(&mut *source);
    let kinds: Vec<_> = events.iter().map(|e| (e.thread, e.kind)).collect();
    let alloc = |addr, bytes, align, by| EventKind::Alloc {
        addr,
        bytes,
        align,
        by,
    };
    assert_eq!(
        kinds,
        [
            (0, alloc(0x7f90, 42, 0, By::Malloc)),
            (1, alloc(0x7fa0, 168, 0, By::Calloc)),
            (0, EventKind::Realloc { addr: 0x7f90 }),
            (0, alloc(0x7fb0, 128, 0, By::Realloc)),
            (0, alloc(0x8000, 4096, 9, By::Malloc)),
            (0, EventKind::Free { addr: 0x7fb0 }),
            (2, EventKind::Begin { process: 1 }),
            (2, alloc(7, 8, 0, By::Malloc)),
            (3, EventKind::Begin { process: 1 }),
            (3, EventKind::Free { addr: 7 }),
        ]
    );
}

fn open_bytes(bytes: &[u8]) -> Result<Box<dyn TraceSource>, ReadError> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), bytes).expect("it is writable");
    open(file.path())
}

fn trace(events: &[Event]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &TraceDescription::default()).expect("a Vec has room");
    for event in events {
        writer.event(event).expect("a Vec has room");
    }
    writer.finish().expect("a Vec has room")
}

#[test]
fn calls_of_logalloc_that_lack_something_are_missed() {
    let whole = "1 1 malloc(8)=#1\n1 1 jemalloc_stats()\n1 1 malloc_usable_size(#1)=8\n\
                 1 1 jemalloc_free_dirty_pages()\n1 1 free(#1)\n";
    let reads = |line: &str| {
        let text = format!("{whole}{line}");
        let mut source = open_bytes(text.as_bytes()).expect("it is logalloc's");
        while source.next_item().expect("it is read on").is_some() {}
        source.is_complete()
    };
    assert!(reads(""));
    for line in [
        "1 1 memalign(1,100) #0\n",
        "1 1 malloc(8)\n",
        "1 1 malloc()=#2\n",
        "1 1 calloc(8)=#2\n",
        "1 1 realloc(#1)=#2\n",
        "1 1 free()\n",
        "1 1 free(#1) and more\n",
        "1 1 moz_arena_malloc(2,8)=#2\n",
        "1 1 no_such_call(8)\n",
    ] {
        assert!(!reads(line), "{line}");
    }
}

#[test]
fn a_trace_comes_back_through_logalloc_but_for_its_times() {
    let kinds = [
        (
            0,
            EventKind::Alloc {
                addr: 0x10,
                bytes: 5,
                align: 0,
                by: By::Malloc,
            },
        ),
        (
            0,
            EventKind::Alloc {
                addr: 0x20,
                bytes: 6,
                align: 0,
                by: By::Calloc,
            },
        ),
        (
            1,
            EventKind::Alloc {
                addr: 0x40,
                bytes: 7,
                align: 6,
                by: By::Malloc,
            },
        ),
        (0, EventKind::Realloc { addr: 0x10 }),
        (
            0,
            EventKind::Alloc {
                addr: 0x80,
                bytes: 9,
                align: 0,
                by: By::Realloc,
            },
        ),
        (2, EventKind::Begin { process: 1 }),
        (
            2,
            EventKind::Alloc {
                addr: 0x10,
                bytes: 1,
                align: 0,
                by: By::Malloc,
            },
        ),
        (1, EventKind::Free { addr: 0x20 }),
        (1, EventKind::Lost { events: 3 }),
    ];
    let all = kinds.map(|(thread, kind)| Event {
        time_ns: 7,
        thread,
        kind,
    });
    let mut text = Vec::new();
    let mut reader = Reader::new(std::io::Cursor::new(trace(&all))).expect("a trace");
    let written = write_logalloc(&mut reader, &mut text, &Meter::default());
    let written = written.expect("a Vec has room");
    assert_eq!((written.calls, written.lost, written.trouble), (6, 3, None));
    let mut back = open_bytes(&text).expect("it opens");
    let back: Vec<_> = events(&mut *back)
        .iter()
        .map(|e| (e.thread, e.kind))
        .collect();
    // The format has no word for what was lost.
    assert_eq!(back, kinds[..kinds.len() - 1]);
}

#[test]
fn what_cannot_be_read_says_why() {
    let refused = |bytes: &[u8]| match open_bytes(bytes) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    };
    assert!(refused(b"hello\n").contains("not a recording of a known format"));
    assert!(refused(b"").contains("not a recording of a known format"));
    assert!(refused(b"v 10400 63\n").contains("format 99"));
    let mut old = b"memray\0".to_vec();
    old.extend(9i32.to_le_bytes());
    old.resize(100, 0);
    assert!(refused(&old).contains("format 9"));
}

#[test]
fn a_cut_recording_gives_what_it_has() {
    let packed = fs::read(fixture("memray.bin")).expect("the fixture");
    let mut unpacked = Vec::new();
    lz4_flex::frame::FrameDecoder::new(packed.as_slice())
        .read_to_end(&mut unpacked)
        .expect("it unpacks");
    let packed = fs::read(fixture("heaptrack.zst")).expect("the fixture");
    let heaptrack = zstd::decode_all(packed.as_slice()).expect("it unpacks");
    for bytes in [heaptrack, unpacked] {
        let mut source = open_bytes(&bytes).expect("it opens");
        let whole = events(&mut *source);
        assert!(source.is_complete());
        let mut cut = open_bytes(&bytes[..bytes.len() / 4 * 3]).expect("it opens");
        let part = events(&mut *cut);
        assert!(
            part.len() < whole.len() && part.len() > 10,
            "{}",
            part.len()
        );
        assert_eq!(part, whole[..part.len()]);
        assert!(!cut.is_complete(), "and says that it is cut");
    }
}

/// How a bomb of each kind ends: events that were read, and why no more.
fn defused(bytes: &[u8]) -> (u64, String) {
    let meter = Meter::new(Limits::new(None, None, 8 << 30), Default::default());
    let source = interchange::read(std::io::Cursor::new(bytes.to_vec()), &meter);
    let mut source = source.expect("it opens");
    let mut events = 0;
    loop {
        match source.next_item() {
            Ok(Some(_)) => events += 1,
            Ok(None) => return (events, String::new()),
            Err(error) => return (events, error.to_string()),
        }
    }
}

#[test]
fn a_small_file_that_unpacks_to_gigabytes_is_read_up_to_a_limit() {
    // 2 GiB of text in 200 KB.
    let head = b"v 10400 3\nX bomb\n+ 20 1 7f00\n".as_slice();
    let lines = format!("# {}\n", "-".repeat(1 << 15)).repeat(1 << 8);
    let mut packer = zstd::Encoder::new(Vec::new(), 1).expect("memory");
    std::io::copy(&mut &*head, &mut packer).expect("memory");
    for _ in 0..300 {
        std::io::copy(&mut lines.as_bytes(), &mut packer).expect("memory");
    }
    let bomb = packer.finish().expect("memory");
    assert!(bomb.len() < 1 << 20, "{}", bomb.len());
    let (events, why) = defused(&bomb);
    assert_eq!(events, 1);
    assert!(
        why.contains("its content") && why.contains("the limit of size"),
        "{why}"
    );
}

/// What is read of a heaptrack recording of 100 million such lines, in 64 MiB of memory.
fn read_of_many(line: &[u8]) -> (u64, String) {
    let head = b"v 10400 3\nX bomb\na 10 1\n".as_slice();
    let lines = line.repeat(1 << 20);
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::copy(&mut &*head, &mut packer).expect("memory");
    for _ in 0..100 {
        std::io::copy(&mut lines.as_slice(), &mut packer).expect("memory");
    }
    let bomb = packer.finish().expect("memory");
    let meter = Meter::new(
        Limits::new(None, Some(64 << 20), 8 << 30),
        Default::default(),
    );
    let mut source = interchange::read(std::io::Cursor::new(bomb), &meter).expect("it opens");
    let mut events = 0u64;
    let why = loop {
        match source.next_item() {
            Ok(Some(_)) => events += 1,
            Ok(None) => panic!("it was read to its end"),
            Err(error) => break error.to_string(),
        }
    };
    (events, why)
}

#[test]
fn a_file_that_names_more_blocks_than_fit_is_read_up_to_a_limit() {
    let (events, why) = read_of_many(b"+ 0\n");
    assert!((4 << 20..=9 << 20).contains(&events), "{events}");
    assert!(why.contains("the limit of memory"), "{why}");
}

#[test]
fn a_file_that_names_more_kinds_than_fit_is_read_up_to_a_limit() {
    let (events, why) = read_of_many(b"a 1\n");
    assert_eq!(events, 0);
    assert!(why.contains("the limit of memory"), "{why}");
}

#[test]
fn what_was_left_out_of_a_recording_that_cannot_be_read_on_is_said_first() {
    let line = |thread: u64| format!("1 {thread} malloc(4)=0x{:x}\n", thread << 4);
    let many = 1..=profiler_trace::record::MAX_THREADS as u64 + 7;
    let text: String = many.map(line).collect();
    // They fit, and what is read with the last of them; the lines that follow do not.
    let most = text.len() as u64 + (64 << 10);
    let limits = Limits::new(Some(most), None, 8 << 30);
    let text = text + &line(1).repeat(1 << 14);
    let meter = Meter::new(limits, Default::default());
    let input = std::io::Cursor::new(text.into_bytes());
    let mut source = interchange::read(input, &meter).expect("it opens");
    let mut last = None;
    let why = loop {
        match source.next_item() {
            Ok(Some(item)) => last = Some(item),
            Ok(None) => panic!("it was read to its end"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(why.contains("the limit of size"), "{why}");
    let Some(Item::Event(event)) = last else {
        panic!("no event");
    };
    assert_eq!(event.kind, EventKind::Lost { events: 7 });
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic_or_run_on(
        start in prop_oneof![
            Just(&b"v 10400 3\n"[..]),
            Just(&b"1 1 malloc(4)=0x10\n"[..]),
            Just(MEMRAY_START),
            Just(&b"\x28\xb5\x2f\xfd"[..]),
            Just(&b"\x1f\x8b\x08\0"[..]),
            Just(&b"\x04\x22\x4d\x18"[..]),
        ],
        rest in vec(any::<u8>(), 0..2000),
    ) {
        let bytes = [start, &rest].concat();
        if let Ok(mut source) = open_bytes(&bytes) {
            let mut items = 0;
            while let Ok(Some(_)) = source.next_item() {
                items += 1;
                prop_assert!(items < 10_000);
            }
        }
    }
}

/// A header of memray's, up to where its records begin.
const MEMRAY_START: &[u8] =
    b"memray\0\x0d\0\0\0\xf0\x0b\x0b\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0x\0\
      \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
