//! Objects of CPython 3.11 in blocks of one heap: a module with lists, one of which is shared by
//! two names, a class with an instance, and a weak reference.

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::allocator::Allocator;
use profiler_core::heap::{Arena, Extent, ExtentKind, HeapSnapshot};
use profiler_core::objects::{Census, Context, NoCensus, census};
use profiler_core::residency::MappingKind;
use profiler_core::sample::PythonMalloc;
use profiler_core::span::{SpanList, SpanState};

use crate::image::{Damage, HeapImage, Values, WeakPoints, Words};

/// The address of Python's data, beginning with its static types.
const PYTHON: u64 = 0x40_0000;
/// Bytes from one static type to the next.
const TYPE: u64 = 0x1a0;
/// Names of static types, from here on.
const NAMES: u64 = PYTHON + 0x3000;
/// The address of the heap.
pub const HEAP: u64 = 0x7f10_0000_0000;
/// Its size in bytes.
const HEAP_BYTES: u64 = 1 << 18;
/// Items of each list.
pub const ITEMS: u64 = 1000;

/// `tp_flags`.
const READY: u64 = 1 << 12;
const HAVE_GC: u64 = 1 << 14;
const HEAP_TYPE: u64 = 1 << 9;
const MANAGED_DICT: u64 = 1 << 4;

/// Static types: name, `tp_basicsize`, `tp_itemsize`, `tp_flags`.
const STATIC: [(&str, u64, u64, u64); 8] = [
    ("type", 408, 40, HAVE_GC | 1 << 31),
    ("module", 56, 0, HAVE_GC),
    ("dict", 48, 0, HAVE_GC | 1 << 29),
    ("str", 80, 0, 1 << 28),
    ("list", 40, 0, HAVE_GC | 1 << 25),
    ("tuple", 24, 8, HAVE_GC | 1 << 26),
    ("float", 24, 0, 0),
    ("weakref.ReferenceType", 56, 0, HAVE_GC),
];

/// The objects, the heap that they are in, and what damage goes furthest.
pub struct Objects {
    /// The memory.
    pub image: HeapImage,
    /// The heap.
    pub heaps: Vec<HeapSnapshot>,
    /// Where damage has the most effect.
    pub weak: WeakPoints,
}

/// Writes objects one after the other.
struct Program {
    image: HeapImage,
    spans: SpanList,
    /// The address of the next block.
    at: u64,
}

fn static_type(name: &str) -> u64 {
    let nth = STATIC.iter().position(|(own, ..)| *own == name);
    PYTHON + 0x100 + nth.expect("a type") as u64 * TYPE
}

impl Program {
    fn new() -> Self {
        let mut image = HeapImage::default();
        image.map(
            PYTHON,
            0x4000,
            MappingKind::File("/usr/bin/python3.11".into()),
        );
        image.map(HEAP, HEAP_BYTES, MappingKind::Anonymous);
        let mut program = Self {
            image,
            spans: SpanList::default(),
            at: HEAP,
        };
        for (nth, (name, basic_size, item_size, flags)) in (0..).zip(STATIC) {
            let text = NAMES + nth * 0x40;
            program.image.bytes_mut(text)[..name.len()].copy_from_slice(name.as_bytes());
            program.write_type(static_type(name), text, basic_size, item_size, flags);
        }
        program
    }

    fn write_type(&mut self, at: u64, name: u64, basic_size: u64, item_size: u64, flags: u64) {
        for (offset, word) in [
            (0, 1),
            (8, static_type("type")),
            (24, name),
            (32, basic_size),
            (40, item_size),
            (168, flags | READY),
        ] {
            self.image.put(at + offset, word);
        }
    }

    /// A block that is in use.
    fn block(&mut self, bytes: u64) -> u64 {
        let bytes = bytes.next_multiple_of(16);
        self.spans.push(bytes, SpanState::Live);
        self.at += bytes;
        self.at - bytes
    }

    /// An object of `bytes` bytes with `head` bytes before it.
    fn object(&mut self, of: u64, head: u64, bytes: u64) -> u64 {
        let at = self.block(head + bytes) + head;
        self.image.put(at, 1);
        self.image.put(at + 8, of);
        if head >= 16 {
            self.image.put(at - 16, HEAP);
        }
        at
    }

    fn str(&mut self, text: &str) -> u64 {
        let at = self.object(static_type("str"), 0, 48 + text.len() as u64 + 1);
        self.image.put(at + 16, text.len() as u64);
        // Compact, ASCII, of one byte a character.
        self.image.put_u32(at + 32, 1 << 2 | 1 << 5 | 1 << 6);
        self.image.bytes_mut(at + 48)[..text.len()].copy_from_slice(text.as_bytes());
        at
    }

    /// A dictionary whose keys are names.
    fn dict(&mut self, entries: &[(&str, u64)]) -> u64 {
        let keys: Vec<u64> = entries.iter().map(|(key, _)| self.str(key)).collect();
        let dict = self.object(static_type("dict"), 16, 48);
        let table = self.block(32 + 8 + 8 * 16);
        self.image.put(dict + 16, entries.len() as u64);
        self.image.put(dict + 32, table);
        self.image.put(table, 1);
        self.image.bytes_mut(table + 8)[..3].copy_from_slice(&[3, 3, 1]);
        self.image.put(table + 24, entries.len() as u64);
        for ((key, (_, value)), at) in keys.iter().zip(entries).zip((table + 40..).step_by(16)) {
            self.image.put(at, *key);
            self.image.put(at + 8, *value);
        }
        dict
    }

    /// A list with its own numbers, with room for more, in memory that was used before.
    fn list(&mut self) -> u64 {
        let items: Vec<u64> = (0..ITEMS)
            .map(|_| self.object(static_type("float"), 0, 24))
            .collect();
        let list = self.object(static_type("list"), 16, 40);
        let table = self.block((ITEMS + 100) * 8);
        self.image.put(list + 16, ITEMS);
        self.image.put(list + 24, table);
        for (item, at) in items.iter().zip((table..).step_by(8)) {
            self.image.put(at, *item);
        }
        list
    }
}

/// Bytes of a list with its items: itself, its table, and the numbers.
pub const LIST_BYTES: u64 = 64 + (ITEMS + 100) * 8 + ITEMS * 32;

/// The objects. Names in `app`: `ALONE`, a list; `BOTH` and `ALSO`, another; `Order`, a class whose `CACHE` is
/// a third; `ONE`, an instance of it; `WATCH`, a weak reference to a fourth, which nothing else refers to.
pub fn sound() -> Objects {
    let mut program = Program::new();
    let [alone, both, cached, watched] = [(); 4].map(|()| program.list());
    // The former content of the room behind one list's items is an item of another.
    let table = program.image.get(alone + 24);
    program.image.put(table + ITEMS * 8, cached);
    program.image.put(table + ITEMS * 8 + 8, watched);

    let module_name = program.str("app");
    let class_dict = program.dict(&[("__module__", module_name), ("CACHE", cached)]);
    let order = program.object(static_type("type"), 16, 904);
    let class_name = program.block(16);
    program.image.bytes_mut(class_name)[..5].copy_from_slice(b"Order");
    let flags = HAVE_GC | HEAP_TYPE | MANAGED_DICT;
    program.write_type(order, class_name, 16, 0, flags);
    program.image.put(order + 264, class_dict);

    // Values behind a head of 32 bytes, of which only the last two have a meaning.
    let one = program.object(order, 32, 16);
    let values = program.block(32 + 30 * 8);
    let number = program.object(static_type("float"), 0, 24);
    program.image.put(values, watched);
    program.image.bytes_mut(values + 30)[..2].copy_from_slice(&[1, 32]);
    program.image.put(values + 32, number);
    program.image.put(one - 32, values + 32);

    let watch = program.object(static_type("weakref.ReferenceType"), 16, 56);
    program.image.put(watch + 16, watched);
    let module = program.object(static_type("module"), 16, 56);
    let dict = program.dict(&[
        ("__name__", module_name),
        ("ALONE", alone),
        ("BOTH", both),
        ("ALSO", both),
        ("Order", order),
        ("ONE", one),
        ("WATCH", watch),
    ]);
    program.image.put(module + 16, dict);
    program.finish()
}

impl Program {
    fn finish(self) -> Objects {
        let used = self.spans.bytes();
        let range = AddrRange::with_len(RemoteAddr::new(HEAP), HEAP_BYTES).expect("a range");
        let mut heap = HeapSnapshot::new(Allocator::Pymalloc, "CPython 3.11");
        heap.arenas.push(Arena {
            live_blocks: self.spans.count(),
            live_bytes: used,
            ..Arena::default()
        });
        heap.extents.push(Extent {
            range,
            kind: ExtentKind::PoolArena,
            arena: 0,
            block_header_bytes: 0,
            spans: self.spans,
        });
        Objects {
            image: self.image,
            heaps: vec![heap],
            weak: WeakPoints {
                words: vec![
                    Words::of(HEAP, used),
                    // Behind the four lists, where everything else is.
                    Words::of(HEAP + 4 * LIST_BYTES, used - 4 * LIST_BYTES),
                    Words::of(PYTHON, 0x4000),
                ],
                values: vec![
                    Values::Addresses(HEAP, used / 8, 8),
                    Values::Addresses(PYTHON + 0x100, STATIC.len() as u64, TYPE),
                    // Shifts, kinds and numbers of entries that are as large as can be.
                    Values::Fields(&[(0, 64), (8, 64), (16, 4), (32, 1 << 32)], 0),
                ],
            },
        }
    }
}

impl Objects {
    /// Takes the census.
    pub fn census(&self) -> Result<Census, NoCensus> {
        self.census_as((3, 11))
    }

    /// Takes the census as if the process were of another version of Python.
    ///
    /// # Errors
    /// If there is nothing to look at.
    pub fn census_as(&self, python: (u8, u8)) -> Result<Census, NoCensus> {
        let context = Context {
            python: Some(python),
            serves: PythonMalloc::Pymalloc,
            stopped: true,
            copied: &[],
        };
        self.image
            .walk(|memory, residency| census(memory, residency, &self.heaps, context))
    }

    /// Damages the memory and takes the census.
    ///
    /// # Panics
    /// If its result does not add up.
    pub fn assert_survives(&self, damage: impl IntoIterator<Item = Damage>) {
        let mut damaged = Self {
            image: self.image.clone(),
            heaps: self.heaps.clone(),
            weak: self.weak.clone(),
        };
        for damage in damage {
            damage.apply(&mut damaged.image, &self.weak);
        }
        if let Ok(census) = damaged.census() {
            assert_adds_up(&census);
        }
    }
}

/// Asserts that every block is counted once, and that nothing holds more than there is.
pub fn assert_adds_up(census: &Census) {
    let native: u64 = census.native.iter().map(|row| row.native.bytes).sum();
    let others = native + census.spare.bytes + census.unreadable.bytes;
    assert_eq!(census.typed_bytes() + others, census.live.bytes);
    let live: u64 = census.shares.iter().map(|share| share.live.bytes).sum();
    assert_eq!(live, census.live.bytes);
    for holder in &census.holders {
        let most = census.live.bytes + census.mapped.bytes;
        assert!(holder.retained_bytes <= most, "{holder:?}");
    }
}
