//! Which pages of the target are resident, swapped, zero, huge or shared, run by run.

mod page_state;

pub use self::page_state::{NeverWritten, PageAccount, PageState, Written};
use std::sync::Arc;

use crate::addr::{AddrRange, PAGE_SIZE, PageSize, RemoteAddr};
use crate::machine::Machine;

/// Consecutive pages in one state, within one mapping.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct PageRun {
    /// Page-aligned addresses.
    pub range: AddrRange,
    /// The state of each page in it.
    pub state: PageState,
}

/// The kind of a mapping, as named in `/proc/PID/maps`. Names are shared, because there may be very many mappings with
/// one long name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MappingKind {
    /// `[heap]`: the brk area.
    Brk,
    /// `[stack]` of the main thread, or an anonymous mapping that holds a thread's stack.
    Stack,
    /// Private anonymous memory with no name.
    Anonymous,
    /// Anonymous memory named by the program (`[anon:NAME]`).
    NamedAnonymous(Arc<str>),
    /// A file mapping, private or shared, by path (with `(deleted)` stripped).
    File(Arc<str>),
    /// Shared anonymous memory, `/dev/zero`, memfd, System V.
    SharedAnonymous(Arc<str>),
    /// `[vdso]`, `[vvar]` and other mappings of the kernel's.
    Special(Arc<str>),
}

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mapping {
    /// Its addresses.
    pub range: AddrRange,
    /// Its kind.
    pub kind: MappingKind,
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
    /// Executable.
    pub execute: bool,
    /// Shared (`s`) rather than private (`p`).
    pub shared: bool,
    /// Whether its file is in memory (tmpfs): then its pages are shared memory.
    pub is_tmpfs: bool,
    /// Offset into the file, in bytes.
    pub offset: u64,
    /// Inode, 0 when there is none.
    pub inode: u64,
    /// The device of the inode: its major number in the upper half, its minor number in the lower.
    pub device: u64,
}

impl Mapping {
    /// A private mapping that can be read and written, from the beginning of its file if it has
    /// one.
    pub const fn private(range: AddrRange, kind: MappingKind) -> Self {
        Self {
            range,
            kind,
            read: true,
            write: true,
            execute: false,
            shared: false,
            is_tmpfs: false,
            offset: 0,
            inode: 0,
            device: 0,
        }
    }
}

/// All mappings of a target and the state of their pages.
///
/// Runs are kept only for pages that are not [`PageState::ABSENT`], so that a large sparse mapping
/// costs nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct ResidencyMap {
    mappings: Vec<Mapping>,
    runs: Vec<PageRun>,
    account: PageAccount,
    page_size: PageSize,
    machine: Machine,
}

impl Default for ResidencyMap {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl ResidencyMap {
    /// A map of `mappings`, ascending and not overlapping, with no page present yet.
    /// Mappings out of order or overlapping an earlier one are dropped.
    pub fn new(mappings: Vec<Mapping>) -> Self {
        let mut end = RemoteAddr::default();
        let mappings = mappings
            .into_iter()
            .filter(|m| {
                let keep = m.range.start() >= end && !m.range.is_empty();
                if keep {
                    end = m.range.end();
                }
                keep
            })
            .collect();
        Self {
            mappings,
            runs: Vec::new(),
            account: PageAccount::PageTables,
            page_size: PageSize::default(),
            machine: Machine::OWN,
        }
    }

    /// The same, with page states read from this source.
    #[must_use]
    pub fn of_account(self, account: PageAccount) -> Self {
        Self { account, ..self }
    }

    /// The same, for a kernel with this page size.
    #[must_use]
    pub fn of_pages(self, page_size: PageSize) -> Self {
        Self { page_size, ..self }
    }

    /// The size of the kernel's pages: runs are of whole ones.
    pub const fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The same, for a program for that machine.
    #[must_use]
    pub fn of_machine(self, machine: Machine) -> Self {
        Self { machine, ..self }
    }

    /// The machine that its program was compiled for.
    pub const fn machine(&self) -> Machine {
        self.machine
    }

    /// The source of the page states.
    pub const fn account(&self) -> PageAccount {
        self.account
    }

    /// Appends pages in one state; runs must ascend. Runs out of order are ignored, neighbours in
    /// one state are joined (across mappings too: ask [`Self::runs_in`] for a mapping's part).
    pub fn push_run(&mut self, run: PageRun) {
        if run.range.is_empty() || run.state == PageState::ABSENT {
            return;
        }
        if let Some(last) = self.runs.last_mut() {
            if run.range.start() < last.range.end() {
                return;
            }
            if run.range.start() == last.range.end()
                && run.state == last.state
                && let Some(joined) = AddrRange::new(last.range.start(), run.range.end())
            {
                last.range = joined;
                return;
            }
        }
        self.runs.push(run);
    }

    /// The mappings, ascending.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// All runs that are not absent, ascending.
    pub fn runs(&self) -> &[PageRun] {
        &self.runs
    }

    /// The mapping that holds `addr`.
    pub fn mapping_at(&self, addr: RemoteAddr) -> Option<&Mapping> {
        let i = self.mappings.partition_point(|m| m.range.end() <= addr);
        self.mappings.get(i).filter(|m| m.range.contains(addr))
    }

    /// The run that contains `addr`, including absent pages and cut at the mapping's end; `None` if
    /// nothing is mapped.
    pub fn run_at(&self, addr: RemoteAddr) -> Option<PageRun> {
        let mapping = self.mapping_at(addr)?;
        let i = self.runs.partition_point(|r| r.range.end() <= addr);
        match self.runs.get(i) {
            Some(run) if run.range.contains(addr) => Some(PageRun {
                range: run.range.intersect(&mapping.range)?,
                state: run.state,
            }),
            next => {
                let end = next.map_or(mapping.range.end(), |r| {
                    r.range.start().min(mapping.range.end())
                });
                let start = addr.align_down(PAGE_SIZE);
                Some(PageRun {
                    range: AddrRange::new(start, end)?,
                    state: PageState::ABSENT,
                })
            }
        }
    }

    /// The runs inside `range` that are not absent, cut to it.
    pub fn runs_in(&self, range: AddrRange) -> impl Iterator<Item = PageRun> + '_ {
        let first = self
            .runs
            .partition_point(|r| r.range.end() <= range.start());
        self.runs[first..]
            .iter()
            .take_while(move |r| r.range.start() < range.end())
            .filter_map(move |r| {
                Some(PageRun {
                    range: r.range.intersect(&range)?,
                    state: r.state,
                })
            })
    }

    /// Bytes of `range` on pages that [have data](PageState::has_data).
    pub fn data_bytes(&self, range: AddrRange) -> u64 {
        let runs = self.runs_in(range).filter(|run| run.state.has_data());
        runs.map(|run| run.range.len()).sum()
    }

    /// Bytes counted in RSS by the page table: present, not zero, not uncounted.
    pub fn resident_bytes(&self) -> u64 {
        self.runs
            .iter()
            .filter(|r| r.state.is_resident())
            .map(|r| r.range.len())
            .sum()
    }

    /// Bytes in swap by the page table.
    pub fn swapped_bytes(&self) -> u64 {
        self.runs
            .iter()
            .filter(|r| r.state.is_swapped())
            .map(|r| r.range.len())
            .sum()
    }

    /// Bytes of `range` on pages that are resident and [blank](PageState::BLANK).
    pub fn blank_bytes(&self, range: AddrRange) -> u64 {
        let runs = self.runs_in(range).filter(|run| run.state.is_blank());
        runs.map(|run| run.range.len()).sum()
    }

    /// Marks the present pages of these ranges as [blank](PageState::BLANK). The ranges ascend and
    /// consist of whole pages.
    pub fn mark_blank(&mut self, ranges: &[AddrRange]) {
        let mut all = Self::default();
        let mut ranges = ranges.iter().peekable();
        for run in std::mem::take(&mut self.runs) {
            let mut at = run.range.start();
            let mut push = |from, to, state| {
                all.push_run(PageRun {
                    range: AddrRange::new(from, to).unwrap_or_default(),
                    state,
                });
            };
            while let Some(range) = ranges.peek() {
                if range.end() <= at {
                    ranges.next();
                    continue;
                }
                let Some(blank) = range.intersect(&run.range).filter(|b| !b.is_empty()) else {
                    break;
                };
                let from = blank.start().max(at);
                let blank_state = match run.state.is_present() {
                    true => run.state.with(PageState::BLANK),
                    false => run.state,
                };
                push(at, from, run.state);
                push(from, blank.end(), blank_state);
                at = blank.end();
                if range.end() > run.range.end() {
                    break;
                }
            }
            push(at, run.range.end(), run.state);
        }
        self.runs = all.runs;
    }

    /// Marks the mapping that contains `stack_pointer` as a thread's stack if it is anonymous.
    pub fn mark_stack(&mut self, stack_pointer: RemoteAddr) {
        let i = self
            .mappings
            .partition_point(|m| m.range.end() <= stack_pointer);
        if let Some(m) = self.mappings.get_mut(i)
            && m.range.contains(stack_pointer)
            && m.kind == MappingKind::Anonymous
        {
            m.kind = MappingKind::Stack;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(from: u64, to: u64) -> AddrRange {
        let at = |page: u64| RemoteAddr::new(page * PAGE_SIZE);
        AddrRange::new(at(from), at(to)).expect("ascending")
    }

    fn run(from: u64, to: u64, state: PageState) -> PageRun {
        PageRun {
            range: pages(from, to),
            state,
        }
    }

    #[test]
    fn blank_pages_split_the_runs_that_they_lie_in() {
        let huge = PageState::PRESENT.with(PageState::HUGE);
        let blank = huge.with(PageState::BLANK);
        let mut map = ResidencyMap::new(vec![Mapping::private(
            pages(0, 100),
            MappingKind::Anonymous,
        )]);
        map.push_run(run(10, 20, huge));
        map.push_run(run(20, 30, PageState::SWAPPED));
        map.push_run(run(40, 50, huge));
        map.mark_blank(&[
            pages(5, 8),
            pages(10, 12),
            pages(15, 16),
            pages(16, 17),
            pages(19, 22),
            pages(28, 45),
            pages(49, 60),
        ]);
        let expected = [
            run(10, 12, blank),
            run(12, 15, huge),
            run(15, 17, blank),
            run(17, 19, huge),
            run(19, 20, blank),
            run(20, 30, PageState::SWAPPED),
            run(40, 45, blank),
            run(45, 49, huge),
            run(49, 50, blank),
        ];
        assert_eq!(map.runs(), expected);
        assert_eq!(map.blank_bytes(pages(11, 42)), 6 * PAGE_SIZE);
        assert_eq!(map.resident_bytes(), 20 * PAGE_SIZE);
    }
}
