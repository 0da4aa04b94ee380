//! The writable data segments of Python and of other objects, where allocators keep their roots.

use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::TargetMemory;
use crate::residency::{MappingKind, ResidencyMap};

/// Data read at most, in bytes. Python's own is 1 to 3 MiB.
const MAX_BYTES: u64 = 256 << 20;

/// Consecutive words of writable data.
pub(crate) struct Words {
    start: RemoteAddr,
    words: Vec<u64>,
}

impl Words {
    /// All of them.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// The words outside these ranges, which ascend and do not overlap.
    pub(crate) fn outside(&self, ranges: &[AddrRange]) -> impl Iterator<Item = &[u64]> {
        let start = self.start.get();
        let end = start + self.words.len() as u64 * 8;
        let first = ranges.partition_point(|range| range.end().get() <= start);
        let within = ranges[first..].iter();
        let within = within.take_while(move |range| range.start().get() < end);
        let ends = within.clone().map(|range| range.start().get());
        let starts = within.map(move |range| range.end().get().min(end));
        let index = move |at: u64| (at.max(start) - start) as usize / 8;
        let gaps = [start].into_iter().chain(starts).zip(ends.chain([end]));
        gaps.map(move |(from, to)| &self.words[index(from)..index(to).max(index(from))])
    }

    /// Each word, its address, and the words after it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RemoteAddr, u64, &[u64])> {
        let words = self.words.iter().enumerate();
        words.filter_map(|(index, &word)| Some((self.at(index)?, word, &self.words[index + 1..])))
    }

    /// Each word, its address, and the low half of each neighbouring word that may be a count: the
    /// one after it, the one before it and the one before that.
    pub(crate) fn with_counts(&self) -> impl Iterator<Item = (RemoteAddr, u64, [u32; 3])> {
        let words = self.words.iter().enumerate();
        let word = |index: Option<usize>| index.and_then(|index| self.words.get(index));
        let half = move |index| word(index).map_or(0, |&word| word as u32);
        words.filter_map(move |(index, &word)| {
            let places = [Some(index + 1), index.checked_sub(1), index.checked_sub(2)];
            Some((self.at(index)?, word, places.map(half)))
        })
    }

    fn at(&self, index: usize) -> Option<RemoteAddr> {
        self.start.checked_add(index as u64 * 8)
    }
}

/// Words of files' writable data, including the anonymous part after it (`.bss`): of the files
/// whose path suggests Python, which are searched first, or of all others. Only resident data is
/// read.
pub(crate) fn words<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    of_python: bool,
) -> Vec<Words> {
    let mut bytes = Vec::new();
    let mut rest = MAX_BYTES;
    let mut found = Vec::new();
    for range in ranges(residency, of_python) {
        let length = range.len().min(rest);
        rest -= length;
        bytes.resize(length as usize, 0);
        if memory.read(range.start(), &mut bytes).is_ok() {
            let words = bytes
                .chunks_exact(8)
                .filter_map(|word| word.try_into().ok());
            found.push(Words {
                start: range.start(),
                words: words.map(u64::from_le_bytes).collect(),
            });
        }
    }
    found
}

/// How many bytes after the end of a file's data a place is: 0 in the file's part of the data, more
/// in its `.bss`, [`u64::MAX`] if no file's data precedes it.
pub(crate) fn behind_file(residency: &ResidencyMap, place: RemoteAddr) -> u64 {
    let after = residency
        .mappings()
        .partition_point(|m| m.range.start() <= place);
    let mut start = place;
    for mapping in residency.mappings()[..after].iter().rev() {
        if mapping.range.end() < start {
            break;
        }
        match mapping.kind {
            MappingKind::File(_) => {
                let end = mapping.range.end().min(place);
                return place.offset_from(end).unwrap_or(u64::MAX);
            }
            MappingKind::Anonymous => start = mapping.range.start(),
            _ => break,
        }
    }
    u64::MAX
}

/// Whether a file with this path may belong to Python. The guess only decides an order;
/// `profiler-target` identifies Python by the contents of files.
fn may_be_python(path: &str) -> bool {
    path.contains("python")
}

/// Adjacent ranges are merged, so that no structure is split where the state of pages changes.
fn ranges(residency: &ResidencyMap, python: bool) -> Vec<AddrRange> {
    let mut ranges: Vec<AddrRange> = Vec::new();
    let mut before: Option<(RemoteAddr, bool)> = None;
    for mapping in residency.mappings() {
        let range = mapping.range;
        let of_python = match &mapping.kind {
            MappingKind::File(path) => may_be_python(path),
            // `.bss` follows the file's data directly.
            MappingKind::Anonymous => {
                before.is_some_and(|(end, of_python)| end == range.start() && of_python)
            }
            _ => false,
        };
        let continues = before.is_some_and(|(end, _)| end == range.start());
        let file = matches!(mapping.kind, MappingKind::File(_));
        if mapping.write && !mapping.shared && of_python == python && (file || continues) {
            // Only resident memory can contain a readable pointer.
            let resident = residency
                .runs_in(range)
                .filter(|run| run.state.is_resident());
            for run in resident {
                let last = ranges.pop_if(|last| last.end() == run.range.start());
                let start = last.map_or(run.range.start(), |last| last.start());
                ranges.extend(AddrRange::new(start, run.range.end()));
            }
        }
        before = Some((range.end(), of_python)).filter(|_| file || continues);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_a_heap_behind_the_data_are_left_out() {
        let data = Words {
            start: RemoteAddr::new(0x1000),
            words: (0..8).collect(),
        };
        let outside = |ranges: &[(u64, u64)]| -> Vec<u64> {
            let ranges: Vec<AddrRange> = ranges
                .iter()
                .map(|&(from, to)| AddrRange::new(RemoteAddr::new(from), RemoteAddr::new(to)))
                .map(|range| range.expect("in order"))
                .collect();
            data.outside(&ranges).flatten().copied().collect()
        };
        assert_eq!(outside(&[]), (0..8).collect::<Vec<u64>>());
        assert_eq!(outside(&[(0x800, 0x1000), (0x1040, 0x2000)]), outside(&[]));
        assert_eq!(outside(&[(0x1010, 0x1020)]), [0, 1, 4, 5, 6, 7]);
        assert_eq!(outside(&[(0xff0, 0x1008), (0x1028, 0x9000)]), [1, 2, 3, 4]);
        assert_eq!(outside(&[(0x1008, 0x1010), (0x1010, 0x1038)]), [0, 7]);
        assert!(outside(&[(0, 0x9000)]).is_empty());
    }
}
