//! The live blocks of one process.

use std::collections::HashMap;
use std::io;

use profiler_common::program::MAX_SLOTS;
use profiler_core::addr::PAGE_SIZE;

use super::objects::Object;
use super::{ObjectBytes, Sink, is_large, touch, touch_unknown};

/// A live block.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Block {
    /// Its slot.
    pub(super) slot: u32,
    /// Bytes requested.
    pub(super) bytes: u64,
    /// Whether the allocator had to clear it.
    zeroed: bool,
    /// Whether it was there when the recording began.
    pub(super) seeded: bool,
    /// The operation that gives how much of it is touched, and the value so far.
    touch: Option<Touch>,
}

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Touch {
    op: u64,
    known: Option<u64>,
}

/// Live objects of Python's object allocator, in bytes as allocated: multiples of [`OBJECT_ALIGN`].
#[derive(Copy, Clone, Debug, Default)]
struct LiveObjects {
    live: u64,
    /// The most since the size of the arenas was last known.
    most: u64,
    /// What was live then.
    before: u64,
}

/// What sizes are rounded up to (`ALIGNMENT` in `Objects/obmalloc.c`).
const OBJECT_ALIGN: u64 = 16;

impl LiveObjects {
    fn given(bytes: u64) -> u64 {
        bytes
            .max(1)
            .checked_next_multiple_of(OBJECT_ALIGN)
            .unwrap_or(bytes)
    }

    fn add(&mut self, bytes: u64) {
        self.live = self.live.saturating_add(Self::given(bytes));
        self.most = self.most.max(self.live);
    }

    fn remove(&mut self, bytes: u64) {
        self.live = self.live.saturating_sub(Self::given(bytes));
    }

    fn begin_anew(&mut self) {
        (self.most, self.before) = (self.live, self.live);
    }
}

/// One process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    blocks: HashMap<u64, Block>,
    /// Objects of Python's object allocator, none of which is malloc's.
    objects: HashMap<u64, Object>,
    object_bytes: LiveObjects,
    free_slots: Vec<u32>,
    next_slot: u32,
    live_bytes: u64,
    /// Bytes of large blocks for which it was never recorded how much is touched.
    pub(super) uncertain_bytes: u64,
    /// The touched bytes of large zeroed blocks with their own mappings, and the bytes of those
    /// blocks.
    zeroed_alone: (u64, u64),
    /// Its first thread.
    pub(super) main_thread: u32,
    /// When it began, in the trace's time.
    pub(super) began_ns: u64,
    /// Whether it is running.
    pub(super) alive: bool,
}

impl Process {
    /// A process with an empty heap.
    pub(super) fn new(main_thread: u32) -> Self {
        Self {
            blocks: HashMap::new(),
            objects: HashMap::new(),
            object_bytes: LiveObjects::default(),
            free_slots: Vec::new(),
            next_slot: 0,
            live_bytes: 0,
            uncertain_bytes: 0,
            zeroed_alone: (0, 0),
            main_thread,
            began_ns: 0,
            alive: true,
        }
    }

    /// A copy of it, in which a thread begins.
    pub(super) fn fork(&self, main_thread: u32) -> Self {
        let mut copy = self.clone();
        (copy.main_thread, copy.uncertain_bytes) = (main_thread, 0);
        copy.object_bytes.begin_anew();
        // What the parent's operations said applies to both.
        for block in copy.blocks.values_mut() {
            block.touch = None;
        }
        copy
    }

    /// Bytes of its tables.
    pub(super) fn table_bytes(&self) -> u64 {
        let blocks = self.blocks.capacity() * size_of::<(u64, Block)>();
        let slots = self.free_slots.capacity() * size_of::<u32>();
        let objects = self.objects.capacity() * size_of::<(u64, Object)>();
        (blocks + objects + slots) as u64
    }

    /// The number of slots that it has ever had.
    pub(super) fn slots(&self) -> u64 {
        self.next_slot.into()
    }

    /// Its requests to the object allocator since the size of the arenas was last known.
    pub(super) fn object_bytes(&self) -> ObjectBytes {
        let LiveObjects { most, before, .. } = self.object_bytes;
        let grown = most.saturating_sub(before);
        ObjectBytes { most, grown }
    }

    /// That size is known now.
    pub(super) fn arenas_are_known(&mut self) {
        self.object_bytes.begin_anew();
    }

    /// Bytes live, as requested.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// A free slot. If there are no more, the last one is used again: its block is forgotten.
    pub(super) fn take_slot(&mut self) -> u32 {
        self.free_slots.pop().unwrap_or_else(|| {
            let slot = self.next_slot;
            self.next_slot = (slot + 1).min(MAX_SLOTS - 1);
            slot
        })
    }

    /// A slot is not in use any more.
    pub(super) fn give_slot(&mut self, slot: u32) {
        self.free_slots.push(slot);
    }

    /// Appends, before a large block, that it is not known how much of it is touched.
    pub(super) fn put_touch(
        &mut self,
        bytes: u64,
        sink: &mut impl Sink,
    ) -> io::Result<Option<Touch>> {
        if !is_large(bytes) {
            return Ok(None);
        }
        let op = sink.push(touch_unknown())?;
        Ok(Some(Touch { op, known: None }))
    }

    /// A block is live from now on.
    pub(super) fn insert(
        &mut self,
        addr: u64,
        slot: u32,
        bytes: u64,
        zeroed: bool,
        touch: Option<Touch>,
    ) {
        if touch.is_some() {
            self.uncertain_bytes = self.uncertain_bytes.saturating_add(bytes);
        }
        let block = Block {
            slot,
            bytes,
            zeroed,
            seeded: false,
            touch,
        };
        self.put_back(addr, block);
    }

    /// A block was there when the recording began.
    pub(super) fn insert_seeded(&mut self, addr: u64, slot: u32, bytes: u64, touch: Option<Touch>) {
        self.insert(addr, slot, bytes, false, touch);
        if let Some(block) = self.blocks.get_mut(&addr) {
            block.seeded = true;
        }
    }

    /// A block is live again.
    pub(super) fn put_back(&mut self, addr: u64, block: Block) {
        self.live_bytes = self.live_bytes.saturating_add(block.bytes);
        self.blocks.insert(addr, block);
    }

    /// A block is live no more; `None` when none was known there.
    pub(super) fn remove(&mut self, addr: u64) -> Option<Block> {
        let block = self.blocks.remove(&addr)?;
        self.live_bytes = self.live_bytes.saturating_sub(block.bytes);
        Some(block)
    }

    /// Whether malloc returned the block there.
    pub(super) fn has_block(&self, addr: u64) -> bool {
        self.blocks.contains_key(&addr)
    }

    /// An object is live from now on. Returns the one there whose end was not recorded, if any.
    pub(super) fn insert_object(&mut self, addr: u64, object: Object) -> Option<Object> {
        let before = self.objects.insert(addr, object);
        let gone = before.map_or(0, |before| before.bytes);
        self.live_bytes = self.live_bytes.saturating_sub(gone);
        self.live_bytes = self.live_bytes.saturating_add(object.bytes);
        before.inspect(|before| self.object_bytes.remove(before.bytes));
        self.object_bytes.add(object.bytes);
        before
    }

    /// An object is live no more; `None` when none was known there.
    pub(super) fn remove_object(&mut self, addr: u64) -> Option<Object> {
        let object = self.objects.remove(&addr)?;
        self.live_bytes = self.live_bytes.saturating_sub(object.bytes);
        self.object_bytes.remove(object.bytes);
        Some(object)
    }

    /// Nothing is live any more.
    pub(super) fn forget_all(&mut self) {
        (self.live_bytes, self.blocks) = (0, HashMap::new());
        (self.objects, self.object_bytes) = (HashMap::new(), LiveObjects::default());
    }

    /// A block changes its size. The part cut off a large block that nobody looked at was never
    /// filled: programs shrink a buffer to what they put into it.
    pub(super) fn resized(
        &mut self,
        block: &Block,
        bytes: u64,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        match block.touch {
            Some(Touch { op, known: None }) if bytes < block.bytes => {
                self.uncertain_bytes = self.uncertain_bytes.saturating_sub(block.bytes);
                sink.patch(op, touch(bytes))
            }
            _ => Ok(()),
        }
    }

    /// A checkpoint found `bytes` of a large block touched.
    pub(super) fn touched(
        &mut self,
        addr: u64,
        bytes: u64,
        sink: &mut impl Sink,
    ) -> io::Result<()> {
        let Some(block) = self.blocks.get_mut(&addr) else {
            return Ok(());
        };
        let size = block.bytes;
        let Some(state) = &mut block.touch else {
            return Ok(());
        };
        let (before, mut most) = (state.known.unwrap_or(0), bytes.min(size));
        if block.zeroed && addr % PAGE_SIZE == MAPPED_CHUNK {
            let (touched, all) = &mut self.zeroed_alone;
            *touched = touched.saturating_add(most.saturating_sub(before));
            *all = all.saturating_add(if state.known.is_none() { size } else { 0 });
        } else if block.zeroed && most == size {
            most = estimate(size, self.zeroed_alone);
        }
        most = most.max(before);
        if state.known.is_none() {
            self.uncertain_bytes = self.uncertain_bytes.saturating_sub(size);
        }
        if state.known != Some(most) {
            state.known = Some(most);
            sink.patch(state.op, touch(most))?;
        }
        Ok(())
    }
}

/// The offset in its first page of a block that glibc maps by itself (`malloc/malloc.c`,
/// `sysmalloc_mmap`): behind the header of its chunk.
const MAPPED_CHUNK: u64 = 16;
/// From this many bytes on, blocks with fresh pages are evidence about others.
const ENOUGH: u64 = 4 << 20;

/// How much the program touches of a zeroed block all of whose pages are present. glibc itself
/// clears blocks from its heap, so their pages say nothing about the program; the touched part of
/// blocks with fresh pages does.
fn estimate(size: u64, (touched, all): (u64, u64)) -> u64 {
    if all < ENOUGH {
        return size;
    }
    (u128::from(size) * u128::from(touched) / u128::from(all)) as u64
}
