//! Mappings and pages, as far as a core shows them.
//!
//! The kernel leaves a hole in the file for pages that were never touched (`dump_user_range` in
//! `fs/coredump.c`), so everything else was in memory or in swap. gcore, and any copy that does not
//! preserve holes, writes zeros there: then all pages count as present, and the number of zero
//! pages is reported. Swapped-out pages are in the core like all others, without a mark.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use profiler_core::addr::{AddrRange, PageSize};
use profiler_core::residency::{
    Mapping, MappingKind, PageAccount, PageRun, PageState, ResidencyMap,
};

use super::Segment;
use super::notes::Notes;
use crate::maps;

/// The program break begins at most this far behind the program (`arch_randomize_brk` in
/// `arch/x86/kernel/process.c`).
const BRK_REACH: u64 = 1 << 30;
/// Bytes examined at a time.
const BUFFER_BYTES: u64 = 1 << 20;
/// As many as the largest page has.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// In the address space, and not in the core.
const LEFT_OUT: PageState = PageState::PRESENT.with(PageState::UNCOUNTED);

/// The state of all pages of a core.
#[derive(Debug)]
pub struct CorePages {
    /// The state of the pages of its mappings.
    pub residency: ResidencyMap,
    /// Bytes of pages of zeros, which may never have been touched; 0 if the file has holes for
    /// those.
    pub zero_bytes: u64,
}

/// The mappings that segments and notes show.
pub(super) fn mappings(segments: &[Segment], notes: &Notes) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = segments
        .iter()
        .map(|segment| {
            let start = segment.range.start();
            let file = notes.mapped_at(start);
            let into = file.and_then(|m| Some((m, start.offset_from(m.range.start())?)));
            let (kind, shared, offset) = match into {
                Some((m, into)) => kind_of(&m.path, m.offset.saturating_add(into)),
                None => (MappingKind::Anonymous, false, 0),
            };
            Mapping {
                range: segment.range,
                kind,
                read: segment.read,
                write: segment.write,
                execute: segment.execute,
                shared,
                is_tmpfs: false,
                offset,
                inode: 0,
                device: 0,
            }
        })
        .collect();
    // gcore writes no segment for memory that its filter leaves out, which is text, whose
    // permissions are known.
    for file in &notes.mapped {
        let next = segments.partition_point(|s| s.range.end() <= file.range.start());
        let is_free = segments
            .get(next)
            .is_none_or(|s| s.range.start() >= file.range.end());
        if is_free {
            let (kind, shared, offset) = kind_of(&file.path, file.offset);
            mappings.push(Mapping {
                range: file.range,
                kind,
                read: true,
                write: false,
                execute: true,
                shared,
                is_tmpfs: false,
                offset,
                inode: 0,
                device: 0,
            });
        }
    }
    mappings.sort_by_key(|m| m.range.start());
    name_brk(&mut mappings, notes);
    mappings
}

fn kind_of(path: &str, offset: u64) -> (MappingKind, bool, u64) {
    let kind = maps::kind(path, true);
    let shared = matches!(kind, MappingKind::SharedAnonymous(_));
    (kind, shared, offset)
}

/// Identifies the memory of brk, which a core does not name: the first writable anonymous memory
/// after the program that is not adjacent to it, as `.bss` is. If there is no other (addresses are
/// not randomised), the adjacent one.
fn name_brk(mappings: &mut [Mapping], notes: &Notes) {
    let of_program = |m: &&super::notes::MappedFile| Some(&*m.path) == notes.program();
    let Some(program) = notes.mapped.iter().rfind(of_program) else {
        return;
    };
    let mut end_of_program = program.range.end();
    let mut adjoining = None;
    let mut found = None;
    for (i, mapping) in mappings.iter().enumerate() {
        let Some(gap) = mapping.range.start().offset_from(end_of_program) else {
            continue;
        };
        if gap > BRK_REACH || mapping.kind != MappingKind::Anonymous {
            break;
        }
        if gap == 0 {
            adjoining = Some(i);
            end_of_program = mapping.range.end();
        } else if mapping.write {
            found = Some(i);
            break;
        }
    }
    let Some(first) = found.or(adjoining) else {
        return;
    };
    let mut end = mappings[first].range.start();
    for mapping in &mut mappings[first..] {
        let continues = mapping.range.start() == end && mapping.kind == MappingKind::Anonymous;
        if !continues || !mapping.write {
            break;
        }
        end = mapping.range.end();
        mapping.kind = MappingKind::Brk;
    }
}

/// Looks through all segments for pages that hold something.
pub(super) fn read(
    core: &File,
    segments: &[Segment],
    mappings: &[Mapping],
    notes: &Notes,
) -> io::Result<CorePages> {
    let page_size = notes.page_size();
    let mut residency = ResidencyMap::new(mappings.to_vec())
        .of_account(PageAccount::Core)
        .of_pages(page_size)
        .of_machine(notes.machine);
    let (mut filled_bytes, mut data_bytes) = (0, 0);
    for mapping in mappings {
        let start = mapping.range.start();
        let at = |bytes| start.checked_add(bytes).unwrap_or(start);
        let mut push = |start, end, state| {
            let range = AddrRange::new(start, end).unwrap_or_default();
            residency.push_run(PageRun { range, state });
        };
        let Ok(index) = segments.binary_search_by_key(&start, |s| s.range.start()) else {
            push(start, mapping.range.end(), LEFT_OUT);
            continue;
        };
        let segment = &segments[index];
        let state = match mapping.kind {
            MappingKind::File(_) => PageState::PRESENT.with(PageState::FILE),
            _ => PageState::PRESENT,
        };
        filled_bytes += segment.filled;
        for data in data_extents(core, segment, page_size) {
            data_bytes += data.end - data.start;
            push(at(data.start), at(data.end), state);
        }
        // An anonymous mapping's memory beyond the core's plan was never touched.
        let is_anonymous = matches!(mapping.kind, MappingKind::Anonymous | MappingKind::Brk);
        let known = if is_anonymous {
            segment.planned
        } else {
            segment.range.len()
        };
        push(at(segment.filled), at(known), LEFT_OUT);
    }
    let has_holes = data_bytes < filled_bytes;
    Ok(CorePages {
        residency,
        zero_bytes: if has_holes {
            0
        } else {
            zero_bytes(core, segments, page_size)?
        },
    })
}

/// The parts of a segment that are not holes, as offsets into it, to the page.
fn data_extents(core: &File, segment: &Segment, page_size: PageSize) -> Vec<Range<u64>> {
    let page = page_size.bytes();
    let mut extents: Vec<Range<u64>> = Vec::new();
    let end = segment.offset.saturating_add(segment.filled);
    let mut at = segment.offset;
    while at < end {
        let Some(data) = seek(core, at, libc::SEEK_DATA).filter(|&data| data < end) else {
            break;
        };
        let hole = seek(core, data, libc::SEEK_HOLE).map_or(end, |hole| hole.min(end));
        // A file that changes meanwhile does not cause an endless loop.
        let (first, next) = (data.max(at), hole.max(data + 1));
        let before = extents.last().map_or(0, |extent| extent.end);
        let start = ((first - segment.offset) / page * page).max(before);
        let stop = (next - segment.offset).next_multiple_of(page);
        extents.push(start..stop.min(segment.filled).max(start));
        at = next;
    }
    extents
}

/// Bytes of the pages that are all zero.
fn zero_bytes(core: &File, segments: &[Segment], page_size: PageSize) -> io::Result<u64> {
    let zeros = &ZEROS[..page_size.bytes() as usize];
    let mut buffer = vec![0; BUFFER_BYTES as usize];
    let mut zero = 0;
    for segment in segments.iter().filter(|s| s.write) {
        for at in (0..segment.filled).step_by(BUFFER_BYTES as usize) {
            let len = (segment.filled - at).min(BUFFER_BYTES) as usize;
            core.read_exact_at(&mut buffer[..len], segment.offset + at)?;
            let pages = buffer[..len].chunks_exact(zeros.len());
            zero += pages.filter(|page| *page == zeros).count() as u64 * page_size.bytes();
        }
    }
    Ok(zero)
}

/// The offset of data or a hole in the file at or after `offset`; `None` if there is none. File
/// systems without holes report everything as data.
fn seek(file: &File, offset: u64, whence: libc::c_int) -> Option<u64> {
    let from = libc::off_t::try_from(offset).ok()?;
    // SAFETY: the descriptor is open; its position, which this moves, is not used.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
    match u64::try_from(found) {
        Ok(found) => Some(found),
        Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => None,
        Err(_) => (whence == libc::SEEK_DATA).then_some(offset),
    }
}
