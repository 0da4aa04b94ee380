//! A small glibc 2.36 heap in an image, built by the numbers of that release and nothing of the
//! walker's: a main arena with a tcache and fastbins, a thread arena, and an mmapped chunk.

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::glibc::Context;
use profiler_core::memory::MemoryImage;
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};
use profiler_core::threads::Thread;

const LIBC: u64 = 0x7f00_0000_0000;
const MP: u64 = LIBC + 0x340;
const MAIN_ARENA: u64 = LIBC + 0xc60;
const HEAP: u64 = 0x5555_0000_0000;
const THREAD_HEAP: u64 = 0x7f10_0000_0000;
const THREAD_ARENA: u64 = THREAD_HEAP + 0x30;
const MMAPPED: u64 = 0x7f20_0000_0000;
const TLS: u64 = 0x7f30_0000_0000;
const THREAD_POINTER: u64 = TLS + 0x800;
const TCACHE: u64 = HEAP + 0x10;
const KEY: u64 = 0x1234_5678_9abc_def0;

/// Bytes of the mmapped chunk.
pub(crate) const MMAPPED_BYTES: u64 = 0x41000;

/// What a chunk is to be.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Chunk {
    Live,
    Free,
    Fastbin,
    Tcache,
}

/// The pieces of the image, ascending by address; they may be damaged before use.
pub(crate) struct Image {
    pub(crate) pieces: Vec<(u64, Vec<u8>)>,
    threads: Vec<Thread>,
}

struct Piece {
    start: u64,
    bytes: Vec<u8>,
}

impl Piece {
    fn new(start: u64, len: u64) -> Self {
        let bytes = vec![0; len as usize];
        Self { start, bytes }
    }

    fn put(&mut self, addr: u64, word: u64) {
        let at = (addr - self.start) as usize;
        self.bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    fn get(&self, addr: u64) -> u64 {
        let at = (addr - self.start) as usize;
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    fn arena(&mut self, arena: u64, next: u64, top: u64, system: u64) {
        for bin in 0..127 {
            let at = arena + 0x70 + 16 * bin;
            self.put(at, at - 16);
            self.put(at + 8, at - 16);
        }
        self.put(arena + 0x60, top);
        self.put(arena + 0x870, next);
        self.put(arena + 0x880, 1);
        self.put(arena + 0x888, system);
        self.put(arena + 0x890, system);
    }

    /// Puts `at` before the list whose head is `head`, as the cache does.
    fn link(&mut self, next: u64, at: u64) {
        self.put(at, next ^ (at >> 12));
    }
}

impl Image {
    /// A main arena with these chunks after its tcache, sizes being multiples of 16. Two free
    /// chunks must not be neighbours.
    pub(crate) fn new(chunks: &[(u64, Chunk)]) -> Self {
        let used: u64 = 0x290 + chunks.iter().map(|(size, _)| size).sum::<u64>();
        let len = (used + 0x21000).next_multiple_of(4096);
        let mut libc = Piece::new(LIBC, 0x2000);
        let mut heap = Piece::new(HEAP, len);
        heap.put(HEAP + 8, 0x291);
        let mut at = HEAP + 0x290;
        let mut before_is_free = false;
        for &(size, chunk) in chunks {
            heap.put(at + 8, size | u64::from(!before_is_free));
            match chunk {
                Chunk::Live => {}
                Chunk::Free => heap.put(at + size, size),
                Chunk::Fastbin => {
                    let head = MAIN_ARENA + 0x10 + (size - 32) / 2;
                    heap.link(libc.get(head), at + 16);
                    libc.put(head, at);
                }
                Chunk::Tcache => {
                    let bin = (size - 32) / 16;
                    let head = TCACHE + 0x80 + 8 * bin;
                    heap.link(heap.get(head), at + 16);
                    heap.put(at + 24, KEY);
                    heap.put(head, at + 16);
                    let count = TCACHE as usize + 2 * bin as usize - HEAP as usize;
                    heap.bytes[count] += 1;
                }
            }
            before_is_free = chunk == Chunk::Free;
            at += size;
        }
        heap.put(at + 8, (HEAP + len - at) | u64::from(!before_is_free));
        libc.arena(MAIN_ARENA, THREAD_ARENA, at, len);
        for (offset, value) in [
            (0x00, 128 << 10),
            (0x08, 128 << 10),
            (0x10, 128 << 10),
            (0x18, 8),
            (0x50, MMAPPED_BYTES),
            (0x58, MMAPPED_BYTES),
            (0x60, HEAP),
            (0x68, 64),
            (0x70, 1032),
            (0x78, 7),
        ] {
            libc.put(MP + offset, value);
        }
        libc.put(MP + 0x38, 1 << 32); // hp_flags, n_mmaps
        libc.put(MP + 0x40, 1 << 32 | 65536); // n_mmaps_max, max_n_mmaps

        let mut thread = Piece::new(THREAD_HEAP, 0x21000);
        thread.put(THREAD_HEAP, THREAD_ARENA);
        thread.put(THREAD_HEAP + 0x10, 0x21000);
        let first = THREAD_HEAP + 0x8d0;
        thread.put(first + 8, 0x505);
        thread.put(first + 0x508, (0x21000 - 0x8d0 - 0x500) | 1);
        thread.arena(THREAD_ARENA, MAIN_ARENA, first + 0x500, 0x21000);

        let mut mmapped = Piece::new(MMAPPED, MMAPPED_BYTES);
        mmapped.put(MMAPPED + 8, MMAPPED_BYTES | 2);

        let mut tls = Piece::new(TLS, 0x1000);
        tls.put(THREAD_POINTER - 0x40, TCACHE);
        tls.put(THREAD_POINTER - 0x30, MAIN_ARENA);
        let pieces = [heap, libc, thread, mmapped, tls];
        Self {
            pieces: pieces.into_iter().map(|p| (p.start, p.bytes)).collect(),
            threads: vec![Thread {
                tid: 1,
                thread_pointer: RemoteAddr::new(THREAD_POINTER),
                ..Thread::default()
            }],
        }
    }

    /// The image and all of its pages, resident.
    pub(crate) fn finish(&self) -> (MemoryImage, ResidencyMap) {
        let mut memory = MemoryImage::default();
        let mut mappings = Vec::new();
        let mut runs = Vec::new();
        for (start, bytes) in &self.pieces {
            let start = RemoteAddr::new(*start);
            let range = AddrRange::with_len(start, bytes.len() as u64).expect("in range");
            memory.insert(start, bytes.clone());
            mappings.push(Mapping {
                range,
                kind: match start.get() {
                    HEAP => MappingKind::Brk,
                    LIBC => MappingKind::File("/lib/libc.so.6".into()),
                    _ => MappingKind::Anonymous,
                },
                read: true,
                write: true,
                execute: false,
                shared: false,
                offset: 0,
                inode: 0,
            });
            runs.push(PageRun {
                range,
                state: PageState::PRESENT,
            });
        }
        let mut residency = ResidencyMap::new(mappings);
        for run in runs {
            residency.push_run(run);
        }
        (memory, residency)
    }

    /// What else a walk must know.
    pub(crate) fn context(&self) -> Context<'_> {
        Context {
            environment: &[],
            version: Some((2, 36)),
            threads: &self.threads,
            libc_data: AddrRange::with_len(RemoteAddr::new(LIBC), 0x2000)
                .into_iter()
                .collect(),
        }
    }
}
