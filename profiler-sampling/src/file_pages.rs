//! Pages of mapped files that the target has not touched.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::memory::{ReadError, TargetMemory};
use profiler_core::residency::{Mapping, MappingKind, ResidencyMap};
use profiler_target::{Process, Target};

/// Bytes that are read of a file at a time.
const PIECE: u64 = 64 << 10;

/// A target's memory together with the file contents of untouched pages. Reading such pages in the
/// target would bring them into its memory, so they are read from the mapped files. Type names that
/// were never printed are on such pages.
pub(crate) struct WithFiles<'a, M> {
    target: &'a Target,
    residency: &'a ResidencyMap,
    memory: M,
    /// Pieces of files by the address at which they would be; `None` if unreadable.
    pieces: Mutex<HashMap<u64, Option<Vec<u8>>>>,
}

impl<'a, M: TargetMemory> WithFiles<'a, M> {
    /// `memory` of this target, whose pages are these.
    pub(crate) fn new(target: &'a Target, residency: &'a ResidencyMap, memory: M) -> Self {
        Self {
            target,
            residency,
            memory,
            pieces: Mutex::default(),
        }
    }

    /// The file mapping that contains this address, if the page was not touched by the target.
    fn untouched(&self, addr: RemoteAddr) -> Option<&Mapping> {
        let mapping = self.residency.mapping_at(addr)?;
        let is_file = matches!(mapping.kind, MappingKind::File(_));
        let run = self.residency.run_at(addr).filter(|_| is_file)?;
        let is_untouched = !run.state.has_data() && !run.state.is_zero();
        is_untouched.then_some(mapping)
    }

    /// Fills `part`, which is within one page, from the file.
    fn read_file(
        &self,
        mapping: &Mapping,
        addr: RemoteAddr,
        part: &mut [u8],
    ) -> Result<(), ReadError> {
        let from = addr.get() - mapping.range.start().get();
        let piece = from - from % PIECE;
        let key = mapping.range.start().get() + piece;
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = pieces
            .entry(key)
            .or_insert_with(|| self.piece(mapping, piece));
        let at = (from - piece) as usize;
        let found = bytes
            .as_ref()
            .and_then(|bytes| bytes.get(at..at + part.len()));
        part.copy_from_slice(found.ok_or(ReadError::Unmapped(addr))?);
        Ok(())
    }

    fn piece(&self, mapping: &Mapping, from: u64) -> Option<Vec<u8>> {
        let MappingKind::File(path) = &mapping.kind else {
            return None;
        };
        let offset = mapping.offset.checked_add(from)?;
        let most = PIECE.min(mapping.range.len() - from);
        let file = self.target.file_of(mapping);
        let read = self
            .target
            .files()
            .read(path, file, move |source| source.piece_within(offset, most));
        read.ok().flatten()
    }
}

impl<M: TargetMemory> TargetMemory for WithFiles<'_, M> {
    fn is_out_of_time(&self) -> bool {
        self.memory.is_out_of_time()
    }

    fn read_current(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        self.memory.read_current(addr, buf)
    }

    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let range = AddrRange::with_len(addr, buf.len() as u64).ok_or(ReadError::Unmapped(addr))?;
        let first = self.residency.mapping_at(addr);
        let is_file = |mapping: &Mapping| matches!(mapping.kind, MappingKind::File(_));
        // Heaps are in none.
        if !first.is_some_and(is_file) {
            return self.memory.read(addr, buf);
        }
        let mut done = 0;
        while done < buf.len() {
            let at = RemoteAddr::new(range.start().get() + done as u64);
            let page_end = PAGE_SIZE - at.get() % PAGE_SIZE;
            let len = (page_end as usize).min(buf.len() - done);
            let part = &mut buf[done..done + len];
            match self.untouched(at) {
                Some(mapping) => self.read_file(mapping, at, part)?,
                None => self.memory.read(at, part)?,
            }
            done += len;
        }
        Ok(())
    }
}
