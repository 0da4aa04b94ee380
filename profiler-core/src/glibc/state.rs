//! `malloc_state` and `mp_` as values.

use super::layout::Layout;
use super::settings::listed;
use crate::addr::{HEAP_END, RemoteAddr};
use crate::allocator::GlibcSetting;
use crate::memory::{ReadError, TargetMemory};

/// `NFASTBINS` for 8-byte words: chunks of 32 to 176 bytes.
pub(super) const FASTBINS: usize = 10;
/// `NONCONTIGUOUS_BIT` of `malloc_state.flags`.
const NONCONTIGUOUS: u32 = 2;
/// `HEAP_MAX_SIZE`: twice `DEFAULT_MMAP_THRESHOLD_MAX`, 32 MiB.
const HEAP_MAX: u64 = 64 << 20;
/// No ring of arenas is longer: the default limit is eight per core.
const MAX_ARENAS: usize = 1 << 16;

/// The little-endian word at `offset`; 0 beyond the end, which callers have sized away.
pub(super) fn word_at(bytes: &[u8], offset: u64) -> u64 {
    bytes
        .get(offset as usize..)
        .and_then(|rest| rest.first_chunk::<8>())
        .map_or(0, |word| u64::from_le_bytes(*word))
}

fn int_at(bytes: &[u8], offset: u64) -> u32 {
    bytes
        .get(offset as usize..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map_or(0, |word| u32::from_le_bytes(*word))
}

/// One arena's `malloc_state`, as far as a walk needs it.
#[derive(Clone, Debug)]
pub(super) struct ArenaState {
    /// Its address.
    pub(super) addr: u64,
    /// The lock word: not 0 while a thread is inside.
    pub(super) mutex: u32,
    flags: u32,
    /// Heads of the fastbins; all 0 if there are none.
    pub(super) fastbins: [u64; FASTBINS],
    /// The top chunk.
    pub(super) top: u64,
    /// The next arena of the ring.
    pub(super) next: u64,
    /// Threads attached; `None` before 2.23.
    pub(super) attached_threads: Option<u64>,
    /// Bytes got from the kernel, now.
    pub(super) system_mem: u64,
    /// The most there ever were.
    pub(super) max_system_mem: u64,
    /// The initial top of an arena that never had memory: the unsorted bin.
    initial_top: u64,
}

impl ArenaState {
    /// Reads the arena at `addr`.
    pub(super) fn read<M: TargetMemory>(
        memory: &M,
        layout: &Layout,
        addr: u64,
    ) -> Result<Self, ReadError> {
        let mut bytes = vec![0; layout.state_bytes as usize];
        memory.read_meanwhile(RemoteAddr::new(addr), &mut bytes)?;
        let fastbins = layout.fastbins.map_or([0; FASTBINS], |at| {
            std::array::from_fn(|i| word_at(&bytes, at + 8 * i as u64))
        });
        Ok(Self {
            addr,
            mutex: int_at(&bytes, 0),
            flags: int_at(&bytes, 4),
            fastbins,
            top: word_at(&bytes, layout.top),
            next: word_at(&bytes, layout.next),
            attached_threads: layout.attached_threads.map(|at| word_at(&bytes, at)),
            system_mem: word_at(&bytes, layout.system_mem),
            max_system_mem: word_at(&bytes, layout.system_mem + 8),
            initial_top: addr.wrapping_add(layout.bins - 16),
        })
    }

    /// Whether the arena's memory need not be one run (main arena only).
    pub(super) fn is_noncontiguous(&self) -> bool {
        self.flags & NONCONTIGUOUS != 0
    }

    /// Whether the arena never got memory.
    pub(super) fn is_unused(&self) -> bool {
        self.top == self.initial_top || self.top == 0
    }

    /// Conditions that every `malloc_state` fulfils, cheap enough to distinguish one from other
    /// data.
    pub(super) fn is_plausible(&self) -> bool {
        (self.top.is_multiple_of(16) || self.is_unused())
            && self.next.is_multiple_of(8)
            && self.next != 0
            && self.system_mem <= self.max_system_mem
            && self.max_system_mem < HEAP_END
            && (self.is_unused() || self.system_mem != 0)
    }
}

/// The ring of arenas, starting with `main`, and whether it closes.
pub(super) fn ring<M: TargetMemory>(
    memory: &M,
    layout: &Layout,
    main: u64,
) -> (Vec<ArenaState>, bool) {
    let mut arenas = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut at = main;
    while arenas.len() < MAX_ARENAS && seen.insert(at) {
        match ArenaState::read(memory, layout, at) {
            Ok(arena) if arena.is_plausible() => {
                at = arena.next;
                arenas.push(arena);
            }
            _ => return (arenas, false),
        }
        if at == main {
            return (arenas, true);
        }
    }
    (arenas, false)
}

/// `mp_`: settings and totals of the whole allocator.
#[derive(Clone, Debug, Default)]
pub(super) struct MallocPar {
    /// `trim_threshold`, `top_pad`, `mmap_threshold`, `arena_test`, `arena_max`.
    pub(super) thresholds: [u64; 5],
    /// Size that the top is trimmed by, when huge pages are asked for; else 0.
    pub(super) thp_pagesize: u64,
    /// The size of explicit huge pages, when they are asked for; else 0.
    pub(super) hp_pagesize: u64,
    /// Mmapped chunks, now.
    pub(super) n_mmaps: u32,
    /// The most allowed.
    pub(super) n_mmaps_max: u32,
    /// The most there ever were.
    pub(super) max_n_mmaps: u32,
    /// Whether `mmap_threshold` no longer adapts.
    pub(super) no_dyn_threshold: u32,
    /// Bytes of the mmapped chunks' mappings, now.
    pub(super) mmapped_mem: u64,
    /// The most there ever were.
    pub(super) max_mmapped_mem: u64,
    /// The bytes by which an mmapped chunk's size is smaller than its mapping; not 0 if
    /// `mmapped_mem` drifts ([`super::layout::ParLayout::mmapped_header`]).
    pub(super) mmapped_header: u64,
    /// The start of the main arena's memory; 0 if it has none.
    pub(super) sbrk_base: u64,
    /// `tcache_bins`, `tcache_max_bytes`, `tcache_count`, `tcache_unsorted_limit`.
    pub(super) tcache: Option<[u64; 4]>,
}

impl MallocPar {
    /// The number of bytes that `parse` reads.
    pub(super) fn bytes(layout: &Layout) -> u64 {
        layout.par.sbrk_base + if layout.tcache.is_some() { 40 } else { 8 }
    }

    /// Takes `bytes` for an `mp_`.
    pub(super) fn parse(layout: &Layout, bytes: &[u8]) -> Self {
        let par = &layout.par;
        let thp = par.thp_pagesize;
        Self {
            thresholds: std::array::from_fn(|i| word_at(bytes, 8 * i as u64)),
            thp_pagesize: thp.map_or(0, |at| word_at(bytes, at)),
            hp_pagesize: thp.map_or(0, |at| word_at(bytes, at + 8)),
            n_mmaps: int_at(bytes, par.n_mmaps),
            n_mmaps_max: int_at(bytes, par.n_mmaps + 4),
            max_n_mmaps: int_at(bytes, par.n_mmaps + 8),
            no_dyn_threshold: int_at(bytes, par.n_mmaps + 12),
            mmapped_mem: word_at(bytes, par.mmapped_mem),
            max_mmapped_mem: word_at(bytes, par.mmapped_mem + 8),
            mmapped_header: par.mmapped_header,
            sbrk_base: word_at(bytes, par.sbrk_base),
            tcache: layout
                .tcache
                .as_ref()
                .map(|_| std::array::from_fn(|i| word_at(bytes, par.sbrk_base + 8 + 8 * i as u64))),
        }
    }

    /// Conditions that every `mp_` fulfils, whatever was set.
    pub(super) fn is_plausible(&self) -> bool {
        let counts = i32::try_from(self.n_mmaps).is_ok()
            && self.n_mmaps <= self.max_n_mmaps
            && i32::try_from(self.n_mmaps_max).is_ok()
            && self.no_dyn_threshold <= 1;
        let exact =
            self.mmapped_mem.is_multiple_of(4096) && (self.n_mmaps == 0) == (self.mmapped_mem == 0);
        let bytes = self.mmapped_mem <= self.max_mmapped_mem
            && self.mmapped_mem.is_multiple_of(16)
            && (exact || self.mmapped_header > 0)
            && self.max_mmapped_mem < HEAP_END
            && (self.max_n_mmaps == 0) == (self.max_mmapped_mem == 0);
        let pages = [self.thp_pagesize, self.hp_pagesize]
            .iter()
            .all(|&p| p == 0 || (p.is_power_of_two() && (4096..1 << 40).contains(&p)));
        let tcache = self
            .tcache
            .is_none_or(|[bins, max, count, _]| bins <= 128 && max < 1 << 32 && count <= 0xffff);
        // arena_test is 8 by default and set to the limit of arenas once that is reached.
        counts && bytes && pages && tcache && self.thresholds[3] < 1 << 32
    }

    /// Whether `bytes` of mmapped chunks match its counter: exactly, or after subtracting the
    /// headers that `mremap` counted twice.
    pub(super) fn counts_mapped(&self, bytes: u64) -> bool {
        let beyond = self.mmapped_mem.checked_sub(bytes);
        match self.mmapped_header {
            0 => beyond == Some(0),
            header => beyond.is_some_and(|beyond| beyond.is_multiple_of(header)),
        }
    }

    /// The alignment and largest size of a thread arena's heap (`heap_max_size` in `arena.c`).
    pub(super) fn heap_max(&self) -> u64 {
        match self.hp_pagesize {
            0 => HEAP_MAX,
            huge => huge.saturating_mul(4),
        }
    }

    /// The settings in force, by glibc's names of them, in bytes or plain numbers.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        let [trim, pad, mmap, test, max] = self.thresholds;
        let mut values = vec![
            (GlibcSetting::TrimThreshold, trim),
            (GlibcSetting::TopPad, pad),
            (GlibcSetting::MmapThreshold, mmap),
            (GlibcSetting::ArenaTest, test),
            (GlibcSetting::ArenaMax, max),
            (GlibcSetting::Mmaps, u64::from(self.n_mmaps)),
            (GlibcSetting::MmapMax, u64::from(self.n_mmaps_max)),
            (GlibcSetting::MaxMmaps, u64::from(self.max_n_mmaps)),
            (
                GlibcSetting::NoDynThreshold,
                u64::from(self.no_dyn_threshold),
            ),
            (GlibcSetting::MmappedMem, self.mmapped_mem),
            (GlibcSetting::MaxMmappedMem, self.max_mmapped_mem),
            (GlibcSetting::ThpPagesize, self.thp_pagesize),
            (GlibcSetting::HpPagesize, self.hp_pagesize),
        ];
        if let Some([bins, bytes, count, unsorted]) = self.tcache {
            values.extend([
                (GlibcSetting::TcacheBins, bins),
                (GlibcSetting::TcacheMax, bytes),
                (GlibcSetting::TcacheCount, count),
                (GlibcSetting::TcacheUnsortedLimit, unsorted),
            ]);
        }
        listed(&values)
    }
}
