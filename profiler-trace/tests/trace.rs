//! Traces are read back as written, as far as they are intact, and no bytes make the reader panic
//! or run on.

use profiler_core::report::LedgerClass;
use profiler_trace::trace::{
    By, Checkpoint, Event, EventKind, Figures, Item, ReadError, Reader, SeedBlock,
    TraceDescription, Writer,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        (any::<u64>(), any::<u64>(), 0..64u8, 0..3usize).prop_map(|(addr, bytes, align, by)| {
            EventKind::Alloc {
                addr,
                bytes,
                align,
                by: [By::Malloc, By::Calloc, By::Realloc][by],
            }
        }),
        any::<u64>().prop_map(|addr| EventKind::Free { addr }),
        any::<u64>().prop_map(|addr| EventKind::Kept { addr }),
        any::<u64>().prop_map(|addr| EventKind::Realloc { addr }),
        any::<(u64, u64)>().prop_map(|(addr, bytes)| EventKind::Touched { addr, bytes }),
        (any::<u64>(), any::<u64>(), 0..3usize).prop_map(|(addr, bytes, by)| {
            EventKind::ObjectAlloc {
                addr,
                bytes,
                by: [By::Malloc, By::Calloc, By::Realloc][by],
            }
        }),
        prop_oneof![
            any::<u64>().prop_map(|addr| EventKind::ObjectFree { addr }),
            any::<u64>().prop_map(|addr| EventKind::ObjectRealloc { addr }),
            Just(EventKind::ThreadEnd),
            any::<u64>().prop_map(|pad| EventKind::Trim { pad }),
        ],
        any::<(u32, u32)>().prop_map(|(process, child)| EventKind::Fork { process, child }),
        Just(EventKind::Exec),
        prop_oneof![
            Just(EventKind::Exit),
            any::<u32>().prop_map(|process| EventKind::Begin { process }),
        ],
        any::<u64>().prop_map(|events| EventKind::Lost { events }),
    ];
    (any::<u64>(), any::<u32>(), kind).prop_map(|(time_ns, thread, kind)| Event {
        time_ns,
        thread,
        kind,
    })
}

/// Some items, the blocks that were there before first.
fn items() -> impl Strategy<Value = Vec<Item>> {
    vec(item(), 0..60).prop_map(|mut items| {
        items.sort_by_key(|item| !matches!(item, Item::Seed(_)));
        items
    })
}

fn item() -> impl Strategy<Value = Item> {
    let seed = (any::<u64>(), any::<u64>(), any::<u32>(), any::<bool>());
    let seed = seed.prop_map(|(addr, bytes, arena, live)| SeedBlock {
        addr,
        bytes,
        arena,
        live,
    });
    let other = vec(("x[a-z_]{1,12}", any::<u64>()), 0..4);
    let known = (any::<Option<u64>>(), any::<Option<bool>>(), any::<bool>());
    let figures = (known, other).prop_map(|((live_bytes, stopped, on_request), other)| Figures {
        live_bytes,
        stopped,
        on_request,
        ledger: vec![(LedgerClass::Top, 7)],
        other,
        ..Figures::default()
    });
    let checkpoint = (any::<u64>(), any::<u32>(), figures);
    prop_oneof![
        20 => event().prop_map(Item::Event),
        1 => vec(seed, 1..50).prop_map(Item::Seed),
        1 => checkpoint.prop_map(|(time_ns, process, figures)| {
            Item::Checkpoint(Checkpoint { time_ns, process, figures })
        }),
    ]
}

fn description() -> TraceDescription {
    [("python", "CPython 3.11.2"), ("of a later version", "kept")]
        .into_iter()
        .collect()
}

fn written(items: &[Item], finish: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &description()).expect("memory");
    for item in items {
        match item {
            Item::Event(event) => writer.event(event),
            Item::Seed(blocks) => writer.flush().and_then(|()| writer.seed(blocks)),
            Item::Checkpoint(checkpoint) => writer.checkpoint(checkpoint),
        }
        .expect("memory");
    }
    if finish {
        writer.finish().expect("memory");
    } else {
        writer.flush().expect("memory");
    }
    bytes
}

/// Everything up to the end or the first damage, and whether it was whole.
fn read(bytes: &[u8]) -> Result<(Vec<Item>, bool), ReadError> {
    let mut reader = Reader::new(bytes)?;
    assert_eq!(reader.description(), &description());
    let mut items = Vec::new();
    while let Ok(Some(item)) = reader.next_item() {
        items.push(item);
    }
    assert!(
        matches!(reader.next_item(), Ok(None)),
        "nothing follows the end"
    );
    Ok((items, reader.is_complete()))
}

#[test]
fn blocks_from_before_that_follow_the_first_event_are_damage() {
    let block = SeedBlock {
        addr: 0x1000,
        bytes: 100,
        arena: 0,
        live: true,
    };
    let event = Item::Event(Event {
        time_ns: 5,
        thread: 0,
        kind: EventKind::Free { addr: 0x1000 },
    });
    let checkpoint = Item::Checkpoint(Checkpoint::default());
    let seed = || Item::Seed(vec![block]);
    for first in [event, checkpoint] {
        let sound = [seed(), seed(), first.clone()];
        let (back, whole) = read(&written(&sound, true)).expect("a trace");
        assert_eq!((&*back, whole), (&sound[..], true));
        let late = written(&[seed(), first.clone(), seed()], true);
        let (back, whole) = read(&late).expect("a trace");
        assert_eq!((&*back, whole), (&[seed(), first][..], false));
    }
}

proptest! {
    #[test]
    fn a_trace_comes_back(items in items()) {
        let (back, whole) = read(&written(&items, true)).expect("a trace");
        prop_assert_eq!(back, items);
        prop_assert!(whole);
    }

    #[test]
    fn a_trace_cut_off_anywhere_gives_what_is_whole(items in items(), cut: prop::sample::Index) {
        let bytes = written(&items, false);
        let cut = cut.index(bytes.len());
        if let Ok((back, whole)) = read(&bytes[..cut]) {
            prop_assert!(!whole);
            prop_assert_eq!(&back[..], &items[..back.len()]);
        }
    }

    #[test]
    fn damage_never_gives_events_that_were_not_written(
        items in items(), at: prop::sample::Index, flip in 1..=255u8,
    ) {
        let mut bytes = written(&items, true);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let mut reader = match Reader::new(bytes.as_slice()) {
            Ok(reader) => reader,
            Err(_) => return Ok(()),
        };
        let mut back = Vec::new();
        while let Ok(Some(item)) = reader.next_item() {
            back.push(item);
        }
        prop_assert_eq!(&back[..], &items[..back.len()]);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = Reader::new(bytes.as_slice());
        let mut trace = written(&[], false);
        trace.extend(bytes);
        let mut reader = Reader::new(trace.as_slice()).expect("its head is whole");
        while let Ok(Some(_)) = reader.next_item() {}
    }
}

#[test]
fn what_follows_the_end_is_said() {
    let bytes = written(&[], true);
    for more in [&b"more"[..], &bytes] {
        let longer = [&bytes, more].concat();
        let mut reader = Reader::new(longer.as_slice()).expect("a trace");
        let said = reader.next_item().expect_err("there is more").to_string();
        assert!(said.contains("something follows its end"), "{said}");
        assert!(reader.is_complete(), "all of it was read");
    }
}

#[test]
fn a_program_of_a_million_events_takes_few_bytes_each() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &description()).expect("memory");
    let mut state = 1u64;
    for i in 0..1_000_000u64 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let addr = 0x5555_0000_0000 + (state >> 44) * 16;
        let kind = match i % 2 {
            0 => EventKind::Alloc {
                addr,
                bytes: 16 + (state >> 58) * 8,
                align: 0,
                by: By::Malloc,
            },
            _ => EventKind::Free { addr },
        };
        let (time_ns, thread) = (i * 730 + (state >> 56), 0);
        writer
            .event(&Event {
                time_ns,
                thread,
                kind,
            })
            .expect("memory");
    }
    assert_eq!(writer.events(), 1_000_000);
    let reported = writer.bytes();
    writer.finish().expect("memory");
    assert!(bytes.len() as u64 - reported < 2 << 20);
    assert!(bytes.len() < 8_000_000, "{}", bytes.len());
    let mut reader = Reader::new(bytes.as_slice()).expect("a trace");
    let mut count = 0;
    while reader.next_item().expect("whole").is_some() {
        count += 1;
    }
    assert_eq!((count, reader.is_complete()), (1_000_000, true));
}

/// A reader that knows the first version alone is to say so, instead of finding damage.
#[test]
fn a_trace_that_has_what_python_asks_of_its_object_allocator_is_of_the_second_version() {
    let version = |objects: Option<&str>| {
        let description = TraceDescription {
            objects: objects.map(str::to_owned),
            ..TraceDescription::default()
        };
        let writer = Writer::new(Vec::new(), &description).expect("memory");
        let bytes = writer.finish().expect("memory");
        let reader = Reader::new(bytes.as_slice()).expect("a trace");
        assert_eq!(*reader.description(), description);
        bytes[7]
    };
    assert_eq!((version(None), version(Some("python"))), (1, 2));
}
