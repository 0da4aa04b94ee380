//! Which pages of the target are resident, swapped, zero, huge or shared.
//!
//! Where the kernel has `PAGEMAP_SCAN` (6.7 and later), it says where there are pages at all, and
//! only anonymous ones are then looked up in the pagemap for the one thing that it does not tell:
//! whether another process maps them too. Older kernels have the pagemap alone.

use std::fs::File;
use std::io;

use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};

use super::maps;
use super::pagemap::{
    Entry, Region, SCAN_FILE, SCAN_HUGE, SCAN_PRESENT, SCAN_SWAPPED, SCAN_ZERO, ZeroPage,
    for_each_entry, scan,
};
use super::proc_dir::{ProcDir, field};

/// The end of user addresses on x86-64 with five-level page tables.
const USER_END: RemoteAddr = RemoteAddr::new(1 << 56);

/// How pages are looked up.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum PageSource {
    /// `PAGEMAP_SCAN`, and the pagemap for sharing: kernel 6.7 and later.
    Scan,
    /// The pagemap alone.
    Pagemap,
}

impl PageSource {
    /// The better one that this kernel has.
    pub fn of_this_kernel() -> Self {
        let nothing = AddrRange::with_len(RemoteAddr::new(PAGE_SIZE), PAGE_SIZE);
        let probed = File::open("/proc/self/pagemap")
            .and_then(|pagemap| scan(&pagemap, nothing.unwrap_or_default(), |_| ()));
        if probed.is_ok() {
            Self::Scan
        } else {
            Self::Pagemap
        }
    }
}

pub(super) fn read(
    dir: &ProcDir,
    mappings: &[Mapping],
    source: PageSource,
) -> io::Result<ResidencyMap> {
    let pagemap = dir.file("pagemap")?;
    let mut map = ResidencyMap::new(mappings.to_vec());
    let mut pages = Pages {
        uncounted: hugetlb_ranges(dir)?,
        zero_frame: (source == PageSource::Pagemap).then(zero_frame).flatten(),
        pagemap,
        runs: Vec::new(),
    };
    match source {
        PageSource::Scan => pages.by_scan(map.mappings())?,
        PageSource::Pagemap => pages.by_pagemap(map.mappings())?,
    }
    for run in pages.runs {
        map.push_run(run);
    }
    Ok(map)
}

/// Mappings of explicit huge pages, which neither RSS nor swap counts (`smaps_hugetlb_range` in
/// `fs/proc/task_mmu.c`). They are named only by `smaps`, which is read only if there are any.
fn hugetlb_ranges(dir: &ProcDir) -> io::Result<Vec<AddrRange>> {
    if field(&dir.text("status")?, "HugetlbPages").unwrap_or(0) == 0 {
        return Ok(Vec::new());
    }
    let mut ranges = Vec::new();
    let mut current = None;
    for line in dir.text("smaps")?.lines() {
        if let Some(mapping) = maps::parse_line(line) {
            current = Some(mapping.range);
        } else if let Some(flags) = line.strip_prefix("VmFlags:")
            && flags.split_whitespace().any(|flag| flag == "ht")
        {
            ranges.extend(current);
        }
    }
    Ok(ranges)
}

/// The frame of the kernel's zero page; `None` where frames are hidden (no `CAP_SYS_ADMIN`).
fn zero_frame() -> Option<u64> {
    let page = ZeroPage::map()?;
    let pagemap = File::open("/proc/self/pagemap").ok()?;
    let mut frame = None;
    for_each_entry(&pagemap, page.range()?, |_, entry| frame = entry.frame()).ok()?;
    frame
}

struct Pages {
    pagemap: File,
    zero_frame: Option<u64>,
    uncounted: Vec<AddrRange>,
    runs: Vec<PageRun>,
}

impl Pages {
    fn by_scan(&mut self, mappings: &[Mapping]) -> io::Result<()> {
        let mappings = user_mappings(mappings);
        let (Some(first), Some(last)) = (mappings.first(), mappings.last()) else {
            return Ok(());
        };
        let whole = AddrRange::new(first.range.start(), last.range.end()).unwrap_or_default();
        let mut regions: Vec<Region> = Vec::new();
        scan(&self.pagemap, whole, |region| regions.push(region))?;
        let mut rest = mappings;
        for region in regions {
            let ends = (RemoteAddr::new(region.start), RemoteAddr::new(region.end));
            let Some(range) = AddrRange::new(ends.0, ends.1) else {
                continue;
            };
            let passed = rest.partition_point(|m| m.range.end() <= range.start());
            rest = &rest[passed..];
            for mapping in rest.iter().take_while(|m| m.range.start() < range.end()) {
                if let Some(part) = mapping.range.intersect(&range) {
                    self.region(mapping, part, region.categories)?;
                }
            }
        }
        Ok(())
    }

    /// One region of the scan within one mapping.
    fn region(&mut self, mapping: &Mapping, range: AddrRange, categories: u64) -> io::Result<()> {
        let has = |category| categories & category != 0;
        let huge = if has(SCAN_HUGE) {
            PageState::HUGE
        } else {
            PageState::ABSENT
        };
        let simple = if has(SCAN_ZERO) {
            Some(PageState::ZERO)
        } else if has(SCAN_FILE) {
            Some(PageState::FILE)
        } else if mapping.shared || is_special(mapping) {
            Some(PageState::UNCOUNTED)
        } else {
            None
        };
        if has(SCAN_PRESENT)
            && let Some(state) = simple
        {
            self.push(mapping, range, PageState::PRESENT.with(huge).with(state));
            return Ok(());
        }
        debug_assert!(has(SCAN_PRESENT) || has(SCAN_SWAPPED));
        let runs = &mut self.runs;
        let uncounted = &self.uncounted;
        for_each_entry(&self.pagemap, range, |addr, entry| {
            let state = match private_state(entry) {
                state if state.is_present() => state.with(huge),
                state => state,
            };
            push(runs, uncounted, mapping, page_at(addr), state);
        })
    }

    fn by_pagemap(&mut self, mappings: &[Mapping]) -> io::Result<()> {
        for mapping in user_mappings(mappings) {
            let (runs, uncounted) = (&mut self.runs, &self.uncounted);
            let zero_frame = self.zero_frame;
            for_each_entry(&self.pagemap, mapping.range, |addr, entry| {
                let state = pagemap_state(entry, mapping, zero_frame);
                push(runs, uncounted, mapping, page_at(addr), state);
            })?;
        }
        Ok(())
    }

    fn push(&mut self, mapping: &Mapping, range: AddrRange, state: PageState) {
        push(&mut self.runs, &self.uncounted, mapping, range, state);
    }
}

fn page_at(addr: RemoteAddr) -> AddrRange {
    AddrRange::with_len(addr, PAGE_SIZE).unwrap_or_default()
}

fn push(
    runs: &mut Vec<PageRun>,
    uncounted: &[AddrRange],
    mapping: &Mapping,
    range: AddrRange,
    state: PageState,
) {
    if state == PageState::ABSENT {
        return;
    }
    let state = if state.is_present() && uncounted.contains(&mapping.range) {
        state.with(PageState::UNCOUNTED).with(PageState::HUGE)
    } else {
        state
    };
    if let Some(last) = runs.last_mut()
        && last.state == state
        && last.range.end() == range.start()
        && let Some(joined) = AddrRange::new(last.range.start(), range.end())
    {
        last.range = joined;
        return;
    }
    runs.push(PageRun { range, state });
}

/// `mappings` without `[vsyscall]`, which lies in the kernel's half and has no pages.
fn user_mappings(mappings: &[Mapping]) -> &[Mapping] {
    &mappings[..mappings.partition_point(|m| m.range.end() <= USER_END)]
}

fn is_special(mapping: &Mapping) -> bool {
    matches!(mapping.kind, MappingKind::Special(_))
}

/// An entry of private memory of which the zero page is already ruled out.
fn private_state(entry: Entry) -> PageState {
    if entry.is_present() {
        match (entry.is_file(), entry.is_exclusive()) {
            (true, _) => PageState::PRESENT.with(PageState::FILE),
            (false, true) => PageState::PRESENT,
            (false, false) => PageState::PRESENT.with(PageState::SHARED),
        }
    } else if entry.is_swapped() {
        PageState::SWAPPED
    } else {
        PageState::ABSENT
    }
}

/// An entry with nothing else known. Neither exclusive nor of a file, it is the zero page or shared
/// with a relative: told apart by its frame where the kernel shows it, and taken for the zero page
/// where it does not.
fn pagemap_state(entry: Entry, mapping: &Mapping, zero_frame: Option<u64>) -> PageState {
    let state = private_state(entry);
    if !state.is_shared() {
        return state;
    }
    if mapping.shared || is_special(mapping) {
        return PageState::PRESENT.with(PageState::UNCOUNTED);
    }
    match (entry.frame(), zero_frame) {
        (Some(frame), Some(zero)) if frame != zero => state,
        _ => PageState::PRESENT.with(PageState::ZERO),
    }
}
