//! Memory in a core, read from the file piece by piece.

use std::fs::File;
use std::os::unix::fs::FileExt;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::memory::{ReadError, TargetMemory, fill};

use super::Segment;
use super::files::MappedFiles;
use crate::memory::ReadTime;

/// The most read-only data of one mapping that is read.
const MAX_PART_BYTES: u64 = 64 << 20;

/// The memory in a core file, and in the mapped files for parts that the core leaves out.
#[derive(Copy, Clone, Debug)]
pub struct CoreMemory<'c> {
    file: &'c File,
    segments: &'c [Segment],
    files: &'c MappedFiles,
    /// When nothing more is read.
    time: Option<&'c ReadTime>,
}

impl<'c> CoreMemory<'c> {
    pub(super) fn new(file: &'c File, segments: &'c [Segment], files: &'c MappedFiles) -> Self {
        Self {
            file,
            segments,
            files,
            time: None,
        }
    }

    /// The same, readable only within a time limit.
    pub fn in_time(self, time: &'c ReadTime) -> Self {
        Self {
            time: Some(time),
            ..self
        }
    }

    /// The bytes at the start of `range` that the core itself contains, at most `most`.
    pub(super) fn filled(&self, range: AddrRange, most: u64) -> Option<Vec<u8>> {
        let (_, _, len) = self.piece(range.start())?;
        let mut bytes = vec![0; len.min(range.len()).min(MAX_PART_BYTES.min(most)) as usize];
        self.read(range.start(), &mut bytes).ok()?;
        Some(bytes)
    }

    /// The file, the offset in it and the number of bytes there from `addr` on.
    fn piece(&self, addr: RemoteAddr) -> Option<(&'c File, u64, u64)> {
        let next = self.segments.partition_point(|s| s.range.end() <= addr);
        let segment = self.segments.get(next).filter(|s| s.range.contains(addr));
        let into = segment.map(|s| (s, addr.offset_from(s.range.start()).unwrap_or(0)));
        match into.filter(|(segment, into)| *into < segment.filled) {
            Some((segment, into)) => {
                let offset = segment.offset.checked_add(into)?;
                Some((self.file, offset, segment.filled - into))
            }
            None => self.files.piece(addr),
        }
    }
}

impl TargetMemory for CoreMemory<'_> {
    fn is_out_of_time(&self) -> bool {
        self.time.is_some_and(ReadTime::is_over)
    }

    fn read(&self, addr: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        if self.is_out_of_time() {
            return Err(ReadError::OutOfTime);
        }
        fill(addr, buf, |at, rest| {
            let (file, offset, len) = self.piece(at).ok_or(ReadError::Unmapped(at))?;
            let len = len.min(rest.len() as u64) as usize;
            file.read_exact_at(&mut rest[..len], offset)
                .map_err(|_| ReadError::Failed(at))?;
            Ok(len)
        })
    }
}
