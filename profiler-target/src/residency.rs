//! Which pages of the target are resident, swapped, zero, huge or shared.
//!
//! With `PAGEMAP_SCAN` (Linux 6.7 and later) the kernel says which pages exist, and only these are
//! looked up in the pagemap for the one thing that the ioctl does not report: whether another
//! process maps them too. On older kernels only the pagemap is used.

use std::collections::HashSet;
use std::fs::File;
use std::io;

use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr, USER_END};
use profiler_core::residency::{Mapping, MappingKind, PageRun, PageState, ResidencyMap};

use super::maps;
use super::page_size::page_size;
use super::pagemap::{
    Entry, Pagemap, Region, SCAN_FILE, SCAN_HUGE, SCAN_PRESENT, SCAN_ZERO, ZeroPage, scan,
};
use super::proc_dir::{ProcDir, field};

/// The source for looking up pages.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum PageSource {
    /// `PAGEMAP_SCAN`, and the pagemap for sharing: kernel 6.7 and later.
    Scan,
    /// The pagemap alone.
    Pagemap,
}

impl PageSource {
    /// The best source in this kernel.
    pub fn of_this_kernel() -> Self {
        let page = page_size().bytes();
        let nothing = AddrRange::with_len(RemoteAddr::new(page), page);
        let probed = File::open("/proc/self/pagemap")
            .and_then(|pagemap| scan(&pagemap, nothing.unwrap_or_default(), |_| Ok(())));
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
    let kept;
    let (mappings, empty) = match source {
        PageSource::Scan => (mappings, HashSet::new()),
        PageSource::Pagemap => {
            let empty;
            (kept, empty) = within_limit(dir, mappings)?;
            (&kept[..], empty)
        }
    };
    let runs = Runs {
        map: ResidencyMap::new(mappings.to_vec()).of_pages(page_size()),
        uncounted: hugetlb_ranges(dir)?,
        last: PageRun {
            range: AddrRange::default(),
            state: PageState::ABSENT,
        },
    };
    match source {
        PageSource::Scan => by_scan(pagemap, mappings, runs),
        PageSource::Pagemap => {
            let is_wanted = |m: &Mapping| !is_reservation(m) && !empty.contains(&m.range.start());
            by_pagemap(pagemap, mappings, is_wanted, runs)
        }
    }
}

/// The number of smallest-size pages that are looked up in the pagemap for any process, in addition
/// to twice the number that it has in memory or swap. Address space costs nothing: 90 TiB would be
/// 190 GB of entries.
const ALWAYS_PAGES: u64 = (64 << 30) / PAGE_SIZE;
/// Mappings with fewer pages are looked up regardless of `smaps` and of all limits: there are at
/// most 65,530 of them.
const LARGE_PAGES: u64 = (8 << 20) / PAGE_SIZE;

/// The mappings that can be looked up page by page in bounded time, and the starts of those that
/// need no lookup because they have no pages. The largest are left out: the contents of their pages
/// are unknown, and are not assumed to be zeros.
fn within_limit(
    dir: &ProcDir,
    mappings: &[Mapping],
) -> io::Result<(Vec<Mapping>, HashSet<RemoteAddr>)> {
    let pages = |mapping: &Mapping| match is_reservation(mapping) {
        true => 0,
        false => mapping.range.len() / PAGE_SIZE,
    };
    let all: u64 = user_mappings(mappings).iter().map(pages).sum();
    if all <= ALWAYS_PAGES {
        return Ok((mappings.to_vec(), HashSet::new()));
    }
    let status = dir.text("status")?;
    let of_status = |name| field(&status, name).unwrap_or(0);
    let has_kib = ["VmRSS", "VmSwap", "HugetlbPages"]
        .map(of_status)
        .iter()
        .sum::<u64>();
    let mut left = ALWAYS_PAGES + 2 * (has_kib << 10) / PAGE_SIZE;
    let mut empty = Empty::default();
    maps::each_account_line(dir, |line| empty.add(line))?;
    let mut empty = empty.starts;
    // `smaps` does not count zero pages: small mappings are looked up, to find those.
    let large = mappings.iter().filter(|m| pages(m) >= LARGE_PAGES);
    let large: HashSet<RemoteAddr> = large.map(|mapping| mapping.range.start()).collect();
    empty.retain(|start| large.contains(start));
    let mut by_size: Vec<&Mapping> = mappings.iter().collect();
    by_size.retain(|m| pages(m) >= LARGE_PAGES && !empty.contains(&m.range.start()));
    by_size.sort_by_key(|mapping| mapping.range.len());
    let beyond = by_size.into_iter().filter(|mapping| {
        let rest = left.checked_sub(pages(mapping));
        left = rest.unwrap_or(left);
        rest.is_none()
    });
    let beyond: HashSet<RemoteAddr> = beyond.map(|mapping| mapping.range.start()).collect();
    let mut kept = mappings.to_vec();
    kept.retain(|mapping| !beyond.contains(&mapping.range.start()));
    Ok((kept, empty))
}

/// The mappings without a page in memory or swap, according to `smaps`.
#[derive(Default)]
struct Empty {
    starts: HashSet<RemoteAddr>,
    /// The mapping that lines are about.
    current: Option<RemoteAddr>,
}

impl Empty {
    /// Adds a line of `smaps`.
    fn add(&mut self, line: &[u8]) {
        if let Some(range) = maps::range_of(line) {
            self.current = Some(range.start());
            self.starts.extend(self.current);
            return;
        }
        let line = String::from_utf8_lossy(line);
        let Some((name, value)) = line.split_once(':') else {
            return;
        };
        let is_of_pages = ["Rss", "Swap", "Shared_Hugetlb", "Private_Hugetlb"].contains(&name);
        let is_none = value.trim_start().starts_with("0 ");
        if is_of_pages
            && !is_none
            && let Some(start) = self.current
        {
            self.starts.remove(&start);
        }
    }
}

/// Mappings of explicit huge pages, which neither RSS nor swap counts (`smaps_hugetlb_range` in
/// `fs/proc/task_mmu.c`). They are named only by `smaps`, which is read only if there are any.
fn hugetlb_ranges(dir: &ProcDir) -> io::Result<Vec<AddrRange>> {
    if field(&dir.text("status")?, "HugetlbPages").unwrap_or(0) == 0 {
        return Ok(Vec::new());
    }
    let mut ranges = Vec::new();
    let mut current = None;
    maps::each_account_line(dir, |line| {
        if let Some(range) = maps::range_of(line) {
            current = Some(range);
        } else if let Some(flags) = line.strip_prefix(b"VmFlags:")
            && flags
                .split(u8::is_ascii_whitespace)
                .any(|flag| flag == b"ht")
        {
            ranges.extend(current);
        }
    })?;
    Ok(ranges)
}

/// The frames of the kernel's zero pages, as far as they are shown.
#[derive(Copy, Clone, Debug, Default)]
struct ZeroFrames {
    /// That of the small one; `None` if frames are hidden (no `CAP_SYS_ADMIN`).
    small: Option<u64>,
    /// The first frame of the huge one; also `None` if there is none.
    huge: Option<u64>,
}

impl ZeroFrames {
    fn find() -> Self {
        let small = zero_frame(ZeroPage::map().as_ref());
        // If the kernel is configured not to use it (`use_zero_page`), each range has ordinary
        // memory of its own.
        let pages = [ZeroPage::map_huge(), ZeroPage::map_huge()];
        let [huge, other] = pages.each_ref().map(|page| zero_frame(page.as_ref()));
        Self {
            small,
            // Without huge pages it is the small one again.
            huge: huge.filter(|_| small.is_some() && huge != small && huge == other),
        }
    }

    /// Whether this is one of them; `None` if frames are hidden.
    fn has(self, frame: Option<u64>) -> Option<bool> {
        let (frame, small) = (frame?, self.small?);
        let of_huge = self
            .huge
            .and_then(|first| frame.checked_sub(first))
            .is_some_and(|at| at < page_size().huge_bytes() / page_size().bytes());
        Some(frame == small || of_huge)
    }
}

/// The frame at the beginning of a page of our own.
fn zero_frame(page: Option<&ZeroPage>) -> Option<u64> {
    let range = page?.range()?;
    let pagemap = File::open("/proc/self/pagemap").ok()?;
    let mut frame = None;
    let each = |_, entry: Entry| frame = entry.frame();
    Pagemap::new(pagemap).for_each_entry(range, each).ok()?;
    frame
}

/// The map in the making.
struct Runs {
    map: ResidencyMap,
    uncounted: Vec<AddrRange>,
    last: PageRun,
}

impl Runs {
    fn push(&mut self, range: AddrRange, state: PageState) {
        let is_next = self.last.state == state && self.last.range.end() == range.start();
        match AddrRange::new(self.last.range.start(), range.end()) {
            Some(joined) if is_next => self.last.range = joined,
            _ => {
                self.map.push_run(self.last);
                self.last = PageRun { range, state };
            }
        }
    }

    fn finish(mut self) -> ResidencyMap {
        self.map.push_run(self.last);
        self.map
    }
}

/// Gaps of fewer pages than this between two regions, or in one that needs no lookup, are read as
/// well: a longer read costs less than another call.
const READ_ALONG_BYTES: u64 = 512 * PAGE_SIZE;
/// Inaccessible mappings of at least this many bytes count as reservations.
const RESERVATION_BYTES: u64 = 1 << 30;
/// At most this many parts are collected before they are looked up.
const MAX_PARTS: usize = 4096;

/// A part of a mapping that the scan found populated.
struct Part {
    range: AddrRange,
    /// The state common to all its pages.
    common: PageState,
    /// Whether each page must be looked up for the rest.
    look_up: bool,
}

fn by_scan(pagemap: File, mappings: &[Mapping], runs: Runs) -> io::Result<ResidencyMap> {
    let mappings = user_mappings(mappings);
    let (Some(first), Some(last)) = (mappings.first(), mappings.last()) else {
        return Ok(runs.map);
    };
    let whole = AddrRange::new(first.range.start(), last.range.end()).unwrap_or_default();
    let mut parts = Parts {
        entries: Pagemap::new(pagemap.try_clone()?),
        gathered: Vec::new(),
        runs,
        zeros: ZeroFrames::find(),
    };
    let mut rest = mappings;
    scan(&pagemap, whole, |region: Region| {
        let (start, end) = (RemoteAddr::new(region.start), RemoteAddr::new(region.end));
        let range = AddrRange::new(start, end).unwrap_or_default();
        let passed = rest.iter().take_while(|m| m.range.end() <= range.start());
        rest = &rest[passed.count()..];
        for mapping in rest.iter().take_while(|m| m.range.start() < range.end()) {
            if let Some(range) = mapping.range.intersect(&range) {
                let hugetlb = parts.runs.uncounted.contains(&mapping.range);
                parts.add(part(mapping, range, region.categories, hugetlb))?;
            }
        }
        Ok(())
    })?;
    parts.look_up()?;
    Ok(parts.runs.finish())
}

/// What the scan alone shows about a region within one mapping.
fn part(mapping: &Mapping, range: AddrRange, categories: u64, hugetlb: bool) -> Part {
    let has = |category| categories & category != 0;
    let known = if hugetlb {
        Some(PageState::UNCOUNTED)
    } else if has(SCAN_ZERO) {
        Some(PageState::ZERO)
    } else if has(SCAN_FILE) {
        // Whether other processes map them too is in the pagemap alone.
        None
    } else if mapping.shared || is_special(mapping) {
        Some(PageState::UNCOUNTED)
    } else {
        None
    };
    let huge = if has(SCAN_HUGE) {
        PageState::HUGE
    } else {
        PageState::ABSENT
    };
    match known {
        Some(state) if has(SCAN_PRESENT) => Part {
            range,
            common: PageState::PRESENT.with(state).with(huge),
            look_up: false,
        },
        _ => Part {
            range,
            common: huge,
            look_up: true,
        },
    }
}

struct Parts {
    entries: Pagemap,
    gathered: Vec<Part>,
    runs: Runs,
    zeros: ZeroFrames,
}

impl Parts {
    fn add(&mut self, part: Part) -> io::Result<()> {
        let is_far = self.gathered.last().is_some_and(|last| {
            let gap = part.range.start().offset_from(last.range.end());
            gap.is_none_or(|gap| gap >= READ_ALONG_BYTES)
        });
        let is_long = !part.look_up && part.range.len() >= READ_ALONG_BYTES;
        if is_far || is_long || self.gathered.len() == MAX_PARTS {
            self.look_up()?;
        }
        self.gathered.push(part);
        if is_long {
            self.look_up()?;
        }
        Ok(())
    }

    /// Turns the collected parts into runs.
    fn look_up(&mut self) -> io::Result<()> {
        let (runs, zeros) = (&mut self.runs, self.zeros);
        let is_wanted = |part: &&Part| part.look_up;
        let first = self.gathered.iter().find(is_wanted);
        let last = self.gathered.iter().rfind(is_wanted);
        let (Some(first), Some(last)) = (first, last) else {
            for part in self.gathered.drain(..) {
                runs.push(part.range, part.common);
            }
            return Ok(());
        };
        let span = AddrRange::new(first.range.start(), last.range.end()).unwrap_or_default();
        let mut parts = self.gathered.iter().peekable();
        self.entries.for_each_entry(span, |addr, entry| {
            while let Some(part) = parts.next_if(|part| part.range.end() <= addr || !part.look_up) {
                if !part.look_up {
                    runs.push(part.range, part.common);
                }
            }
            let Some(part) = parts.peek().filter(|part| part.range.contains(addr)) else {
                return;
            };
            let state = match zeros.has(entry.frame()) {
                // The scan does not name the huge one before 6.16 (`pagemap_thp_category` in `fs/proc/task_mmu.c`).
                Some(true) => PageState::PRESENT.with(PageState::ZERO),
                _ => private_state(entry),
            };
            if state.is_present() {
                runs.push(page_at(addr), state.with(part.common));
            } else {
                runs.push(page_at(addr), state);
            }
        })?;
        for part in parts.filter(|part| !part.look_up) {
            runs.push(part.range, part.common);
        }
        self.gathered.clear();
        Ok(())
    }
}

fn by_pagemap(
    pagemap: File,
    mappings: &[Mapping],
    is_wanted: impl Fn(&Mapping) -> bool,
    mut runs: Runs,
) -> io::Result<ResidencyMap> {
    let mut entries = Pagemap::new(pagemap);
    let zeros = ZeroFrames::find();
    for mapping in user_mappings(mappings).iter().filter(|m| is_wanted(m)) {
        let hugetlb = runs.uncounted.contains(&mapping.range);
        entries.for_each_entry(mapping.range, |addr, entry| {
            let state = match pagemap_state(entry, mapping, zeros) {
                state if hugetlb && state.is_present() => PageState::PRESENT
                    .with(PageState::UNCOUNTED)
                    .with(PageState::HUGE),
                state => state,
            };
            runs.push(page_at(addr), state);
        })?;
    }
    Ok(runs.finish())
}

/// Address space that is reserved and inaccessible: sanitizers and wasm engines reserve terabytes,
/// and looking up each page would take seconds. Pages that it does contain end up in the ledger's
/// `unknown`.
fn is_reservation(mapping: &Mapping) -> bool {
    let no_access = !mapping.read && !mapping.write && !mapping.execute;
    no_access && mapping.range.len() >= RESERVATION_BYTES
}

fn page_at(addr: RemoteAddr) -> AddrRange {
    AddrRange::with_len(addr, page_size().bytes()).unwrap_or_default()
}

/// `mappings` without `[vsyscall]`, which is in the kernel's half and has no pages.
fn user_mappings(mappings: &[Mapping]) -> &[Mapping] {
    &mappings[..mappings.partition_point(|m| m.range.end() <= USER_END)]
}

fn is_special(mapping: &Mapping) -> bool {
    matches!(mapping.kind, MappingKind::Special(_))
}

/// The state of an entry that is not the zero page.
fn private_state(entry: Entry) -> PageState {
    if entry.is_present() {
        match (entry.is_file(), entry.is_exclusive()) {
            (true, true) => PageState::PRESENT.with(PageState::FILE),
            (true, false) => PageState::PRESENT
                .with(PageState::FILE)
                .with(PageState::SHARED),
            (false, true) => PageState::PRESENT,
            (false, false) => PageState::PRESENT.with(PageState::SHARED),
        }
    } else if entry.is_swapped() {
        PageState::SWAPPED
    } else {
        PageState::ABSENT
    }
}

/// The state of an entry without further information. An entry that is neither exclusive nor of a
/// file is either the zero page or shared with a relative: distinguished by its frame if the kernel
/// shows that, otherwise undetermined.
fn pagemap_state(entry: Entry, mapping: &Mapping, zeros: ZeroFrames) -> PageState {
    let (state, is_zero) = (private_state(entry), zeros.has(entry.frame()));
    if is_zero == Some(true) {
        return PageState::PRESENT.with(PageState::ZERO);
    }
    if !state.is_shared() || state.is_file() {
        return state;
    }
    if mapping.shared || is_special(mapping) {
        return PageState::PRESENT.with(PageState::UNCOUNTED);
    }
    match is_zero {
        Some(_) => state,
        None => state.with(PageState::ZERO),
    }
}
