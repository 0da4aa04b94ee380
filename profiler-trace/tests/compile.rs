//! Whatever a trace contains, its program allocates only into free slots, frees and reallocates
//! only live ones, and runs no thread that was not started.

use std::collections::{HashMap, HashSet};

use profiler_common::program::{Only, Op, OpCode, UNKNOWN};
use profiler_trace::compile::Compiler;
use profiler_trace::trace::{
    By, Checkpoint, Event, EventKind, Figures, Item, SeedBlock, TraceDescription,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn kind() -> impl Strategy<Value = EventKind> {
    // Few addresses, threads and processes, so that they meet.
    let addr = || (0..12u64).prop_map(|n| 0x1000 + n * 0x40);
    prop_oneof![
        6 => (addr(), prop_oneof![3 => Just(8u64), 3 => Just(1 << 20), 1 => Just(u64::MAX)], 0..3usize).prop_map(
            |(addr, bytes, by)| EventKind::Alloc {
                addr,
                bytes,
                align: 0,
                by: [By::Malloc, By::Calloc, By::Realloc][by],
            }
        ),
        5 => addr().prop_map(|addr| EventKind::Free { addr }),
        2 => addr().prop_map(|addr| EventKind::Realloc { addr }),
        1 => addr().prop_map(|addr| EventKind::Kept { addr }),
        1 => (addr(), 0..1u64 << 21).prop_map(|(addr, bytes)| EventKind::Touched { addr, bytes }),
        1 => Just(EventKind::ThreadEnd),
        1 => (0..4u32, 0..8u32).prop_map(|(process, child)| EventKind::Fork { process, child }),
        1 => (0..4u32).prop_map(|process| EventKind::Begin { process }),
        1 => prop_oneof![
            Just(EventKind::Exec),
            Just(EventKind::Exit),
            Just(EventKind::Lost { events: 3 }),
            Just(EventKind::Trim { pad: 0 }),
        ],
    ]
}

/// Sizes and times are what a file says.
fn time_ns() -> impl Strategy<Value = u64> {
    prop_oneof![20 => Just(0), 1 => Just(u64::MAX)]
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        20 => (time_ns(), 0..8u32, kind()).prop_map(|(time_ns, thread, kind)| Item::Event(Event {
            time_ns,
            thread,
            kind,
        })),
        1 => (time_ns(), 0..4u32).prop_map(|(time_ns, process)| Item::Checkpoint(Checkpoint {
            time_ns,
            process,
            figures: Figures::default(),
        })),
    ]
}

fn seed_block((at, live, arena, is_huge): (u64, bool, u32, bool)) -> SeedBlock {
    SeedBlock {
        addr: 0x1000 + at * 0x40,
        // A free one is filled with blocks, one by one.
        bytes: if is_huge && live { u64::MAX } else { 8 },
        arena,
        live,
    }
}

/// Plays as the player does, and says what no player could do.
#[derive(Default)]
struct Checker {
    slots: HashMap<u32, HashSet<u32>>,
    /// The process of each thread that was started.
    threads: HashMap<u32, u32>,
    current: u32,
}

impl Checker {
    fn play(&mut self, op: &Op) {
        let process = *self
            .threads
            .get(&self.current)
            .expect("a started thread has the turn");
        let slots = self.slots.entry(process).or_default();
        match op.code {
            OpCode::ALLOC => assert!(slots.insert(op.slot), "slot {} is in use", op.slot),
            OpCode::FREE => assert!(slots.remove(&op.slot), "slot {} is free", op.slot),
            OpCode::REALLOC => assert!(slots.contains(&op.slot), "slot {} is free", op.slot),
            OpCode::TOUCH | OpCode::CLOCK | OpCode::CHECKPOINT => {}
            OpCode::SWITCH => self.current = op.slot,
            OpCode::SPAWN => {
                let before = self.threads.insert(op.slot, process);
                assert_eq!(before, None, "thread {} was started before", op.slot);
            }
            OpCode::THREAD_END => {
                let to = self.threads.get(&op.slot);
                assert_eq!(to, Some(&process), "a thread of the same process goes on");
                self.current = op.slot;
            }
            OpCode::JOIN => {
                let joined = self.threads.remove(&op.slot);
                assert_eq!(
                    joined,
                    Some(process),
                    "a thread of the same process is joined"
                );
            }
            OpCode::FORK => {
                let copy = slots.clone();
                self.slots.insert(op.value as u32, copy);
                self.threads.insert(op.slot, op.value as u32);
            }
            OpCode::START => {
                self.slots.insert(op.value as u32, HashSet::new());
                self.threads.insert(op.slot, op.value as u32);
            }
            OpCode::EXEC => {
                slots.clear();
                self.threads.retain(|_, of| *of != process);
                self.threads.insert(op.slot, process);
                self.current = op.slot;
            }
            OpCode::TRIM => assert_eq!(op.only, Only::C_LIBRARY),
            OpCode::EXIT => {
                self.threads.retain(|_, of| *of != process);
                self.current = op.slot;
            }
            other => panic!("no operation {other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn programs_can_be_played(
        seed in vec((0..12u64, any::<bool>(), 0..3u32, any::<bool>()), 0..8),
        items in vec(item(), 0..200),
    ) {
        let mut compiler = Compiler::new(&TraceDescription::default());
        let mut ops = Vec::new();
        let seed = seed.into_iter().map(seed_block);
        compiler.item(Item::Seed(seed.collect()), &mut ops).expect("a Vec has room");
        for item in items {
            compiler.item(item, &mut ops).expect("a Vec has room");
        }
        let mut checker = Checker::default();
        checker.threads.insert(0, 0);
        for op in &ops {
            checker.play(op);
        }
    }
}

#[test]
fn what_is_learned_of_a_large_block_stands_before_it() {
    let mut compiler = Compiler::new(&TraceDescription::default());
    let mut ops = Vec::new();
    let alloc = EventKind::Alloc {
        addr: 0x1000,
        bytes: 1 << 20,
        align: 0,
        by: By::Calloc,
    };
    for kind in [
        alloc,
        EventKind::Touched {
            addr: 0x1000,
            bytes: 8192,
        },
        EventKind::Touched {
            addr: 0x1000,
            bytes: 4096,
        },
    ] {
        let event = Event {
            time_ns: 0,
            thread: 0,
            kind,
        };
        compiler
            .item(Item::Event(event), &mut ops)
            .expect("a Vec has room");
    }
    assert_eq!((ops[0].code, ops[0].value), (OpCode::TOUCH, 8192));
    assert_eq!(compiler.summary().uncertain_touch_bytes, 0);
}

#[test]
fn blocks_that_glibc_cleared_are_touched_like_those_with_fresh_pages() {
    const SIZE: u64 = 1 << 20;
    let mut compiler = Compiler::new(&TraceDescription::default());
    let mut ops = Vec::new();
    let addrs = |first: u64| (0..4).map(move |n| first + n * (SIZE << 1));
    let alone: Vec<u64> = addrs(0x10_0010).collect();
    let on_the_heap = 0x5000_0420;
    let alloc = |addr| EventKind::Alloc {
        addr,
        bytes: SIZE,
        align: 0,
        by: By::Calloc,
    };
    let touched = |addr, bytes| EventKind::Touched { addr, bytes };
    let allocs = alone.iter().map(|&addr| alloc(addr));
    let samples = alone.iter().map(|&addr| touched(addr, SIZE / 4));
    let last = [alloc(on_the_heap), touched(on_the_heap, SIZE)];
    for kind in allocs.chain(samples).chain(last) {
        let event = Event {
            time_ns: 0,
            thread: 0,
            kind,
        };
        let item = Item::Event(event);
        compiler.item(item, &mut ops).expect("a Vec has room");
    }
    let touched: Vec<u64> = ops
        .iter()
        .filter(|op| op.code == OpCode::TOUCH)
        .map(|op| op.value)
        .collect();
    assert_eq!(touched, [SIZE / 4; 5]);
}

#[test]
fn what_is_cut_off_of_a_large_block_was_not_touched() {
    let alloc = |bytes, by| EventKind::Alloc {
        addr: 0x1000,
        bytes,
        align: 0,
        by,
    };
    let touched = |sizes: [u64; 2]| {
        let mut compiler = Compiler::new(&TraceDescription::default());
        let mut ops = Vec::new();
        for kind in [
            alloc(sizes[0], By::Malloc),
            EventKind::Realloc { addr: 0x1000 },
            alloc(sizes[1], By::Realloc),
        ] {
            let event = Event {
                time_ns: 0,
                thread: 0,
                kind,
            };
            let item = Item::Event(event);
            compiler.item(item, &mut ops).expect("a Vec has room");
        }
        assert_eq!(ops[0].code, OpCode::TOUCH);
        (ops[0].value, compiler.summary().uncertain_touch_bytes)
    };
    assert_eq!(touched([1 << 18, 3000]), (3000, 0));
    // One that grows may have been full, or not.
    assert_eq!(touched([1 << 18, 1 << 19]), (UNKNOWN, 3 << 18));
}

#[test]
fn a_realloc_keeps_its_slot_while_others_take_its_old_address() {
    let mut compiler = Compiler::new(&TraceDescription::default());
    let mut ops = Vec::new();
    let alloc = |addr, by| EventKind::Alloc {
        addr,
        bytes: 8,
        align: 0,
        by,
    };
    for (thread, kind) in [
        (0, alloc(0x1000, By::Malloc)),
        (0, EventKind::Realloc { addr: 0x1000 }),
        (1, alloc(0x1000, By::Malloc)),
        (0, alloc(0x2000, By::Realloc)),
        (1, EventKind::Free { addr: 0x1000 }),
        (0, EventKind::Free { addr: 0x2000 }),
    ] {
        let event = Event {
            time_ns: 0,
            thread,
            kind,
        };
        compiler
            .item(Item::Event(event), &mut ops)
            .expect("a Vec has room");
    }
    let blocks = [OpCode::ALLOC, OpCode::REALLOC, OpCode::FREE];
    let played: Vec<_> = ops.iter().filter(|op| blocks.contains(&op.code)).collect();
    let played: Vec<_> = played.iter().map(|op| (op.code, op.slot)).collect();
    assert_eq!(
        played,
        [
            (OpCode::ALLOC, 0),
            (OpCode::ALLOC, 1),
            (OpCode::REALLOC, 0),
            (OpCode::FREE, 1),
            (OpCode::FREE, 0),
        ]
    );
    assert_eq!(compiler.summary().implied_frees, 0);
}
