//! Which allocator serves Python's objects, on images of the tables that say so, and any damage to
//! them.

use profiler_core::pymalloc::objects_allocator;
use profiler_core::residency::MappingKind;
use profiler_core::sample::PythonMalloc::{self, *};
use profiler_testing::image::HeapImage;
use proptest::prelude::*;

const TEXT: u64 = 0x40_0000;
const DATA: u64 = 0x80_0000;
/// The debug hooks' table, in the data; the domains' own entries are before it.
const DEBUG: u64 = 0x400;

/// malloc, calloc, realloc and free of raw, mem and obj, of each allocator.
const RAW: u64 = TEXT + 0x100;
const PYMALLOC: u64 = TEXT + 0x200;
const MIMALLOC: u64 = TEXT + 0x300;
const MIMALLOC_OBJECTS: u64 = TEXT + 0x400;
const HOOKS: u64 = TEXT + 0x500;

/// Both layouts: one structure from 3.12, variables 64 bytes apart before.
const PYTHONS: [(u8, u8); 2] = [(3, 12), (3, 11)];

struct Tables {
    image: HeapImage,
    python: (u8, u8),
}

impl Tables {
    /// Tables that name this allocator.
    fn new(python: (u8, u8), says: PythonMalloc) -> Self {
        let python_file = || MappingKind::File("/usr/bin/python3".into());
        let mut image = HeapImage::default();
        image.map_text(TEXT, 0x1000, python_file());
        image.map(DATA, 0x2000, python_file());
        let mut tables = Self { image, python };
        let in_force = match says {
            Malloc | MallocDebug => [RAW; 3],
            Mimalloc | MimallocDebug => [RAW, MIMALLOC, MIMALLOC_OBJECTS],
            _ => [RAW, PYMALLOC, PYMALLOC],
        };
        let debug = matches!(says, MallocDebug | PymallocDebug | MimallocDebug);
        for domain in 0..3 {
            let place = DEBUG + 48 * domain;
            tables.put(place, u64::from(b"rmo"[domain as usize]));
            // Without hooks the table has the build's defaults.
            let below = if debug {
                in_force[domain as usize]
            } else {
                [RAW, PYMALLOC, PYMALLOC][domain as usize]
            };
            tables.entry(place + 8, 0, below);
            if debug {
                tables.entry(tables.place(domain), DATA + place, HOOKS);
            } else {
                tables.entry(tables.place(domain), 0, in_force[domain as usize]);
            }
        }
        tables
    }

    fn place(&self, domain: u64) -> u64 {
        match self.python {
            (3, 12) => DEBUG - 120 + 40 * domain,
            _ => DEBUG - 64 - 64 * domain,
        }
    }

    fn put(&mut self, at: u64, value: u64) {
        self.image.put(DATA + at, value);
    }

    fn entry(&mut self, at: u64, context: u64, functions: u64) {
        self.put(at, context);
        for n in 0..4 {
            self.put(at + 8 + 8 * n, functions + 16 * n);
        }
    }

    fn allocator(&self) -> PythonMalloc {
        self.image
            .walk(|memory, residency| objects_allocator(memory, residency, self.python))
    }
}

#[test]
fn every_allocator_is_recognised_in_both_layouts() {
    for python in PYTHONS {
        let mut all = vec![Pymalloc, PymallocDebug, Malloc, MallocDebug];
        if python == (3, 12) {
            all.extend([Mimalloc, MimallocDebug]);
        }
        for says in all {
            assert_eq!(Tables::new(python, says).allocator(), says, "{python:?}");
        }
    }
}

#[test]
fn hooks_one_on_another_are_followed() {
    let mut tables = Tables::new((3, 12), PymallocDebug);
    // tracemalloc keeps the entry that it replaced, here that of the debug hooks.
    let obj = tables.place(2);
    tables.entry(0x1000, DATA + DEBUG + 96, HOOKS);
    tables.entry(obj, DATA + 0x1000, HOOKS);
    assert_eq!(tables.allocator(), PymallocDebug);
}

#[test]
fn what_leads_nowhere_is_unknown() {
    // Hooks in a circle.
    let mut tables = Tables::new((3, 12), Pymalloc);
    let obj = tables.place(2);
    tables.entry(0x1000, DATA + 0x1000, HOOKS);
    tables.entry(obj, DATA + 0x1000, HOOKS);
    assert_eq!(tables.allocator(), Unknown);
    // Another program's context, which is no entry.
    tables.entry(obj, DATA + 0x1800, HOOKS);
    assert_eq!(tables.allocator(), Unknown);
    // Functions that cannot be executed.
    tables.entry(obj, 0, DATA);
    assert_eq!(tables.allocator(), Unknown);
    // Another program's allocator without context, where the entries are apart.
    for says in [Pymalloc, Malloc] {
        let mut tables = Tables::new((3, 11), says);
        let place = tables.place(2);
        tables.entry(place, 0, HOOKS);
        assert_eq!(tables.allocator(), Unknown);
        tables.image.bytes_mut(DATA).fill(0);
        assert_eq!(tables.allocator(), Unknown);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]
    #[test]
    fn damage_never_panics_and_always_ends(
        damage in prop::collection::vec((0x300u64..0x500, prop_oneof![
            Just(0),
            Just(u64::MAX),
            any::<u64>(),
            (0u64..0x2000).prop_map(|at| DATA + at),
            (0u64..0x1000).prop_map(|at| TEXT + at),
        ]), 1..12),
        layout in 0usize..2,
    ) {
        let mut tables = Tables::new(PYTHONS[layout], PymallocDebug);
        for (at, value) in damage {
            tables.put(at, value);
        }
        tables.allocator();
    }
}
