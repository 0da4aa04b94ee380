//! Reads ahead on other cores: copying from the target overlaps with processing what was copied.
//!
//! Copying is most of the cost of a walk (about 0.2 seconds per GiB through `/proc/PID/mem`, most
//! of it waiting for memory) and happens while the target is stopped. So once a walk reads in bulk,
//! helper threads copy the next windows into a set of recycled buffers, and the walk takes a filled
//! buffer instead of filling its own. A walk that would have to wait copies the next window itself.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::memory::{ReadError, TargetMemory, WINDOW_BYTES};

/// Helpers at most: more would wait for each other at the target's `mmap_lock`.
const MAX_HELPERS: usize = 3;
/// Windows read ahead for each helper.
const WINDOWS_A_HELPER: usize = 3;

/// A memory whose bulk reads are read ahead.
pub struct Ahead<'s, M> {
    memory: &'s M,
    shared: &'s Shared,
    helpers: usize,
}

/// State shared by the walk and its helpers.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Windows to come, ascending.
    slots: VecDeque<Slot>,
    buffers: Vec<Vec<u8>>,
    is_over: bool,
}

struct Slot {
    window: AddrRange,
    /// The memory's epoch when the read began.
    epoch: u64,
    content: Content,
}

enum Content {
    Wanted,
    BeingRead,
    Read(Vec<u8>),
    Failed,
}

/// Runs `walk` on `memory` with helpers that read ahead for it.
pub fn reading_ahead<M: TargetMemory + Sync, R>(
    memory: &M,
    walk: impl FnOnce(&Ahead<'_, M>) -> R,
) -> R {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let helpers = (cores - 1).min(MAX_HELPERS);
    let shared = Shared::default();
    thread::scope(|scope| {
        // However the walk ends, the helpers end with it.
        let over = Over(&shared);
        // If a helper's thread cannot be started, the walk does without it.
        let begin = |_: &usize| {
            let thread = thread::Builder::new();
            thread.spawn_scoped(scope, || shared.help(memory)).is_ok()
        };
        let helpers = (0..helpers).filter(begin).count();
        let ahead = Ahead {
            memory,
            shared: &shared,
            helpers,
        };
        let result = walk(&ahead);
        drop(over);
        result
    })
}

struct Over<'s>(&'s Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'g>(&self, state: MutexGuard<'g, State>) -> MutexGuard<'g, State> {
        let woken = self.changed.wait(state);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop of a helper until the walk is over.
    fn help<M: TargetMemory>(&self, memory: &M) {
        let mut state = self.lock();
        while !state.is_over {
            state = match self.read_next(memory, state) {
                Ok(state) => state,
                Err(state) => self.wait(state),
            };
        }
    }

    /// Reads the next window that is wanted; `Err` when there is none.
    fn read_next<'g, M: TargetMemory>(
        &'g self,
        memory: &M,
        mut state: MutexGuard<'g, State>,
    ) -> Result<MutexGuard<'g, State>, MutexGuard<'g, State>> {
        let is_wanted = |slot: &&mut Slot| matches!(slot.content, Content::Wanted);
        let Some(slot) = state.slots.iter_mut().find(is_wanted) else {
            return Err(state);
        };
        slot.content = Content::BeingRead;
        slot.epoch = memory.epoch();
        let window = slot.window;
        let mut buffer = state.buffers.pop().unwrap_or_default();
        drop(state);
        let read = read_window(memory, window, &mut buffer);
        let mut state = self.lock();
        match state.slots.iter_mut().find(|slot| slot.window == window) {
            Some(slot) if read.is_ok() => slot.content = Content::Read(buffer),
            Some(slot) => {
                slot.content = Content::Failed;
                state.buffers.push(buffer);
            }
            None => state.buffers.push(buffer),
        }
        self.changed.notify_all();
        Ok(state)
    }
}

/// Reads a window of the memory, without waiting for a stop.
fn read_window<M: TargetMemory>(
    memory: &M,
    window: AddrRange,
    buffer: &mut Vec<u8>,
) -> Result<AddrRange, ReadError> {
    buffer.resize(window.len() as usize, 0);
    memory.read_meanwhile(window.start(), buffer)?;
    Ok(window)
}

impl State {
    fn drop_first(&mut self) {
        if let Some(slot) = self.slots.pop_front()
            && let Content::Read(buffer) = slot.content
        {
            self.buffers.push(buffer);
        }
    }

    /// Drops what is before `wanted`, and everything if the walk has moved elsewhere.
    fn go_to(&mut self, wanted: AddrRange, reach: u64) {
        let is_elsewhere = |slot: &Slot| {
            let ahead = slot.window.start().offset_from(wanted.start());
            ahead.is_some_and(|ahead| ahead > reach)
        };
        while let Some(slot) = self.slots.front()
            && (slot.window.end() <= wanted.start() || is_elsewhere(slot))
        {
            self.drop_first();
        }
    }

    /// Wants `depth` windows from `from` or from behind those wanted already.
    fn want(&mut self, from: RemoteAddr, depth: usize) -> bool {
        let mut start = self.slots.back().map_or(from, |last| last.window.end());
        let before = self.slots.len();
        while self.slots.len() < depth
            && let Some(window) = AddrRange::with_len(start, WINDOW_BYTES)
        {
            start = window.end();
            self.slots.push_back(Slot {
                window,
                epoch: 0,
                content: Content::Wanted,
            });
        }
        self.slots.len() > before
    }
}

impl<M: TargetMemory> Ahead<'_, M> {
    fn depth(&self) -> usize {
        self.helpers * WINDOWS_A_HELPER
    }

    /// Takes the window that encloses `wanted` into `buffer`, if one is read ahead.
    fn take(&self, wanted: AddrRange, buffer: &mut Vec<u8>) -> Option<AddrRange> {
        let mut state = self.shared.lock();
        state.go_to(wanted, self.depth() as u64 * WINDOW_BYTES);
        loop {
            let first = state.slots.front_mut()?;
            let window = first.window;
            if !window.encloses(&wanted) {
                return None;
            }
            match &mut first.content {
                // Its contents have changed since.
                Content::Read(_) if first.epoch != self.memory.epoch() => {
                    state.drop_first();
                    return None;
                }
                Content::Read(content) => {
                    std::mem::swap(content, buffer);
                    state.drop_first();
                    return Some(window);
                }
                Content::Failed => {
                    state.drop_first();
                    return None;
                }
                Content::Wanted | Content::BeingRead => {
                    state = match self.shared.read_next(self.memory, state) {
                        Ok(state) => state,
                        Err(state) => self.shared.wait(state),
                    }
                }
            }
        }
    }
}

impl<M: TargetMemory> TargetMemory for Ahead<'_, M> {
    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.memory.read(addr, buf)
    }

    fn read_scattered<const N: usize>(&self, addrs: &[RemoteAddr], out: &mut Vec<Option<[u8; N]>>) {
        self.memory.read_scattered(addrs, out);
    }

    fn read_meanwhile(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.memory.read_meanwhile(addr, buf)
    }

    fn epoch(&self) -> u64 {
        self.memory.epoch()
    }

    fn looks_up_pages(&self) -> bool {
        self.memory.looks_up_pages()
    }

    fn note_changed(&self, bytes: u64) {
        self.memory.note_changed(bytes);
    }

    fn is_out_of_time(&self) -> bool {
        self.memory.is_out_of_time()
    }

    fn read_window(
        &self,
        window: AddrRange,
        wanted: AddrRange,
        buffer: &mut Vec<u8>,
    ) -> Result<AddrRange, ReadError> {
        if self.helpers == 0 {
            return read_window(self.memory, window, buffer);
        }
        let taken = self.take(wanted, buffer);
        let is_bulk = window.len() >= WINDOW_BYTES;
        let from = taken.map_or(window.end(), |taken| taken.end());
        if is_bulk && self.shared.lock().want(from, self.depth()) {
            self.shared.changed.notify_all();
        }
        match taken {
            Some(taken) => Ok(taken),
            None => read_window(self.memory, window, buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use profiler_core::memory::{MemoryImage, ReadAhead};

    use super::*;

    const BASE: u64 = 1 << 32;

    /// Words that contain their own address, with a hole of a page in the middle and one wrong
    /// word.
    fn image(len: u64) -> MemoryImage {
        let words = |range: std::ops::Range<u64>| {
            let words = range.step_by(8).flat_map(u64::to_le_bytes);
            words.collect::<Vec<u8>>()
        };
        let hole = (len / 2) & !4095;
        let mut image = MemoryImage::default();
        image.insert(RemoteAddr::new(BASE), words(BASE..BASE + hole));
        let after = BASE + hole + 4096;
        image.insert(RemoteAddr::new(after), words(after..BASE + len));
        image
    }

    #[test]
    fn what_is_read_ahead_is_what_is_there() {
        const LEN: u64 = 20 << 20;
        let image = image(LEN);
        for (stride, from) in [
            (16, 0),
            (512, 0),
            (40 << 10, 0),
            (16, 1 << 20),
            (8 << 20, 0),
        ] {
            reading_ahead(&image, |ahead| {
                let limit = RemoteAddr::new(BASE + LEN);
                let mut words = ReadAhead::new(ahead, limit);
                // Twice, so that the walk returns to memory that it has left.
                for _ in 0..2 {
                    let mut at = BASE + from;
                    while at < BASE + LEN {
                        let hole = (BASE + LEN / 2..BASE + LEN / 2 + 4096).contains(&at);
                        let expected = (!hole).then_some(at);
                        assert_eq!(words.word(RemoteAddr::new(at)).ok(), expected, "{at:#x}");
                        at += stride;
                    }
                }
                assert!(words.word(limit).is_err());
            });
        }
    }
}
