//! A heap of CPython 3.11's pymalloc in an image, built by the numbers of that release and nothing
//! of the walker's: 16 KiB pools in 1 MiB arenas that begin on an odd page.

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::memory::MemoryImage;
use profiler_core::pymalloc::Context;
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use profiler_core::sample::PythonMalloc;

const PYTHON: u64 = 0x40_0000;
/// Where the lists of pools are in Python's data.
const STATE: u64 = 0x608;
const HEAP: u64 = 0x5555_0000_0000;
const ARENAS: u64 = 0x7f10_0000_1000;
const ARENA: u64 = 1 << 20;
const POOL: u64 = 16 << 10;
/// Pools in an arena: one is lost to the alignment.
pub(crate) const POOLS: u64 = 63;

/// The pieces of the image, ascending by address; they may be damaged before use.
pub(crate) struct Image {
    pub(crate) pieces: Vec<(u64, Vec<u8>)>,
    /// Live blocks and their bytes.
    pub(crate) live: (u64, u64),
    /// Pools in use.
    pub(crate) pools_used: u64,
}

fn put(bytes: &mut [u8], at: u64, value: u64) {
    bytes[at as usize..at as usize + 8].copy_from_slice(&value.to_le_bytes());
}

fn put_pair(bytes: &mut [u8], at: u64, low: u64, high: u64) {
    put(bytes, at, low | high << 32);
}

impl Image {
    /// `arenas` arenas, of whose pools the last ten were never used and each eighth is free.
    pub(crate) fn new(arenas: u64) -> Self {
        let mut array = vec![0; (arenas.next_power_of_two().max(16) * 48) as usize];
        let mut all = vec![0; (arenas * ARENA) as usize];
        let (mut live, mut pools_used) = ((0, 0), 0);
        for index in 0..arenas {
            let address = ARENAS + index * ARENA;
            let first = address.next_multiple_of(POOL);
            let mut used = 0;
            for nth in 0..POOLS - 10 {
                let addr = first + nth * POOL;
                let at = (addr - ARENAS) as usize;
                let pool = &mut all[at..at + POOL as usize];
                let blocks = make_pool(pool, addr, index, (nth * 5 + index) % 32, nth % 8 == 3);
                live = (live.0 + blocks.0, live.1 + blocks.1);
                used += u64::from(blocks.0 > 0);
            }
            pools_used += used;
            let entry = index * 48;
            put(&mut array, entry, address);
            put(&mut array, entry + 8, first + (POOLS - 10) * POOL);
            put_pair(&mut array, entry + 16, POOLS - used, POOLS);
        }
        let mut data = vec![0; 0x2000];
        // The pointer to the array, `maxarenas`, and behind `nfp2lasta` the counts.
        put(&mut data, STATE + 512, HEAP + 0x2a0);
        put(&mut data, STATE + 520, array.len() as u64 / 48);
        for (count, value) in [arenas, arenas + 7, arenas + 2].into_iter().enumerate() {
            put(&mut data, STATE + 512 + 552 + 8 * count as u64, value);
        }
        let mut heap = vec![0; 0x2a0];
        heap.extend(array);
        heap.resize(heap.len().next_multiple_of(4096), 0);
        Self {
            pieces: vec![(PYTHON, data), (HEAP, heap), (ARENAS, all)],
            live,
            pools_used,
        }
    }

    /// The memory and what is resident of it: all.
    pub(crate) fn finish(&self) -> (MemoryImage, ResidencyMap) {
        let mut memory = MemoryImage::default();
        let mut mappings = Vec::new();
        for (start, bytes) in &self.pieces {
            let addr = RemoteAddr::new(*start);
            memory.insert(addr, bytes.clone());
            mappings.push(Mapping {
                range: AddrRange::with_len(addr, bytes.len() as u64).expect("in range"),
                kind: match *start {
                    PYTHON => MappingKind::File("/usr/bin/python3.11".into()),
                    HEAP => MappingKind::Brk,
                    _ => MappingKind::Anonymous,
                },
                read: true,
                write: true,
                execute: false,
                shared: false,
                offset: 0,
                inode: 0,
            });
        }
        let mut residency = ResidencyMap::new(mappings.clone());
        for Mapping { range, .. } in mappings {
            let state = PageState::PRESENT;
            residency.push_run(PageRun { range, state });
        }
        (memory, residency)
    }
}

/// What else a walk must know.
pub(crate) const CONTEXT: Context = Context {
    python: Some((3, 11)),
    serves: PythonMalloc::Pymalloc,
};

/// A pool of a class, four in five carved, every third of those freed; its live blocks and bytes.
fn make_pool(pool: &mut [u8], addr: u64, arena: u64, class: u64, free: bool) -> (u64, u64) {
    let block = (class + 1) * 16;
    let carved = ((POOL - 48) / block * 4 / 5).max(1);
    let mut freed = 0;
    let mut first_free = 0;
    for index in 0..carved {
        if free || index % 3 == 1 {
            put(pool, 48 + index * block, first_free);
            first_free = addr + 48 + index * block;
            freed += 1;
        }
    }
    put(pool, 0, carved - freed);
    put(pool, 8, first_free);
    let head = PYTHON + STATE + 16 * class - 16;
    put(pool, 16, head);
    put(pool, 24, head);
    put_pair(pool, 32, arena, class);
    put_pair(pool, 40, 48 + carved * block, POOL - block);
    (carved - freed, (carved - freed) * block)
}
