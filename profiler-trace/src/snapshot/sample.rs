//! The bytes of a sample: its target, the kernel's counts, mappings and pages, heaps.

use std::io;

use profiler_core::addr::{AddrRange, PAGE_SIZE, PageSize, RemoteAddr};
use profiler_core::allocator::AllocatorTitle;
use profiler_core::completeness::{
    Completeness, Confidence, EndedEarly, Released, Slices, StandStill,
};
use profiler_core::fork::ForkSharing;
use profiler_core::group_account::GroupAccount;
use profiler_core::residency::{
    Mapping, MappingKind, PageAccount, PageRun, PageState, ResidencyMap,
};
use profiler_core::sample::{Halted, Host, KernelCount, PythonMalloc, Sample, Target};

use super::heap::{CELL, Sums, check};
use super::wire::{Input, Wire, by_name, count, fields, malformed, put_framed};
use crate::varint;

by_name!(PythonMalloc, "an allocator of Python's objects");

/// As text.
impl Wire for AllocatorTitle {
    fn put(&self, out: &mut Vec<u8>) {
        self.to_string().put(out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        Ok(Self::parse(&String::take(input)?))
    }
}

fields!(Host {
    kernel,
    arch,
    cpus,
    memory_bytes
} later { page_size });

/// In bytes.
impl Wire for PageSize {
    fn put(&self, out: &mut Vec<u8>) {
        self.bytes().put(out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let bytes = u64::take(input)?;
        Self::new(bytes).ok_or_else(|| malformed("pages of a size that no kernel has"))
    }
}

by_name!(Halted, "a reason why a process does not run");

fields!(Target {
    pid,
    comm,
    cmdline,
    python,
    python_malloc,
    libc,
    malloc,
    threads,
} later { began_ticks, boot_id, halted });

fields!(KernelCount {
    rss_bytes,
    swap_bytes,
    peak_rss_bytes,
    pss_bytes,
    lazy_free_bytes,
    anon_huge_bytes,
    ksm_bytes,
    is_core,
});

fields!(ForkSharing {
    parent,
    shared_bytes,
    copied_bytes,
    own_bytes
});

by_name!(EndedEarly, "an end of a stop");

fields!(Released { why, after_ns });

fields!(Slices {
    number,
    longest_ns,
    changed_bytes,
    running_bytes
});

/// The flag for whether the target was stopped is stored in its place, and how a stop ended early
/// was added at the end: one value here, which no macro can split. Then the limit on files was
/// added, then slices, then the end of the time.
impl Wire for Completeness {
    fn put(&self, out: &mut Vec<u8>) {
        let Self {
            stand_still,
            stop_ns,
            walk_ns,
            threads_in_allocator,
            events_lost,
            unreadable_bytes,
            layout_confidence,
            defects,
            files_over_limit,
            out_of_time_ns,
        } = self;
        put_framed(out, |out| {
            stand_still.is_throughout().put(out);
            stop_ns.put(out);
            walk_ns.put(out);
            threads_in_allocator.put(out);
            events_lost.put(out);
            unreadable_bytes.put(out);
            layout_confidence.put(out);
            defects.put(out);
            stand_still.released().put(out);
            files_over_limit.put(out);
            stand_still.slices().put(out);
            out_of_time_ns.put(out);
        });
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let mut own = input.framed()?;
        let stopped = bool::take(&mut own)?;
        let rest = Self {
            stand_still: StandStill::Never,
            stop_ns: u64::take(&mut own)?,
            walk_ns: u64::take(&mut own)?,
            threads_in_allocator: u32::take(&mut own)?,
            events_lost: u64::take(&mut own)?,
            unreadable_bytes: u64::take(&mut own)?,
            layout_confidence: Confidence::take(&mut own)?,
            defects: Vec::take(&mut own)?,
            files_over_limit: false,
            out_of_time_ns: None,
        };
        let released = match own.rest.is_empty() {
            true => None,
            false => Wire::take(&mut own)?,
        };
        let files_over_limit = match own.rest.is_empty() {
            true => false,
            false => Wire::take(&mut own)?,
        };
        let slices = match own.rest.is_empty() {
            true => None,
            false => Wire::take(&mut own)?,
        };
        let out_of_time_ns = match own.rest.is_empty() {
            true => None,
            false => Wire::take(&mut own)?,
        };
        let stand_still = match (stopped, released, slices) {
            (_, Some(released), _) => StandStill::Released(released),
            (_, None, Some(slices)) => StandStill::InSlices(slices),
            (true, None, None) => StandStill::Throughout,
            (false, None, None) => StandStill::Never,
        };
        Ok(Self {
            stand_still,
            files_over_limit,
            out_of_time_ns,
            ..rest
        })
    }
}

fields!(Mapping {
    range,
    kind,
    read,
    write,
    execute,
    shared,
    offset,
    inode
} later {
    is_tmpfs,
    device
});

fields!(Sample {
    taken_at_ns,
    host,
    target,
    kernel,
    residency,
    heaps,
    fork,
    completeness,
} later { group });

/// The reclaimable bytes were a number, and 0 if unknown: whether they are known was added at the
/// end.
impl Wire for GroupAccount {
    fn put(&self, out: &mut Vec<u8>) {
        let Self {
            path,
            current_bytes,
            max_bytes,
            anon_bytes,
            file_bytes,
            shmem_bytes,
            slab_bytes,
            swap_bytes,
            reclaimable_bytes,
            pressure,
            oom_kills,
        } = self;
        put_framed(out, |out| {
            path.put(out);
            current_bytes.put(out);
            for amount in [max_bytes, anon_bytes, file_bytes, shmem_bytes, slab_bytes] {
                amount.put(out);
            }
            swap_bytes.put(out);
            reclaimable_bytes.unwrap_or(0).put(out);
            pressure.put(out);
            oom_kills.put(out);
            reclaimable_bytes.is_some().put(out);
        });
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let mut own = input.framed()?;
        let (path, current_bytes) = (String::take(&mut own)?, u64::take(&mut own)?);
        let mut amount = || <Option<u64> as Wire>::take(&mut own);
        let (max_bytes, anon_bytes, file_bytes) = (amount()?, amount()?, amount()?);
        let (shmem_bytes, slab_bytes, swap_bytes) = (amount()?, amount()?, amount()?);
        let reclaimable = u64::take(&mut own)?;
        let (pressure, oom_kills) = (Wire::take(&mut own)?, Wire::take(&mut own)?);
        let is_known = match own.rest.is_empty() {
            true => true,
            false => bool::take(&mut own)?,
        };
        Ok(Self {
            path,
            current_bytes,
            max_bytes,
            anon_bytes,
            file_bytes,
            shmem_bytes,
            slab_bytes,
            swap_bytes,
            reclaimable_bytes: is_known.then_some(reclaimable),
            pressure,
            oom_kills,
        })
    }
}

impl Wire for MappingKind {
    fn put(&self, out: &mut Vec<u8>) {
        let (number, text) = match self {
            Self::Brk => (0, None),
            Self::Stack => (1, None),
            Self::Anonymous => (2, None),
            Self::NamedAnonymous(name) => (3, Some(name)),
            Self::File(path) => (4, Some(path)),
            Self::SharedAnonymous(name) => (5, Some(name)),
            Self::Special(name) => (6, Some(name)),
        };
        out.push(number);
        if let Some(text) = text {
            varint::put_text(out, text);
        }
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        Ok(match input.byte()? {
            0 => Self::Brk,
            1 => Self::Stack,
            2 => Self::Anonymous,
            3 => Self::NamedAnonymous(String::take(input)?.into()),
            4 => Self::File(String::take(input)?.into()),
            5 => Self::SharedAnonymous(String::take(input)?.into()),
            6 => Self::Special(String::take(input)?.into()),
            _ => {
                return Err(malformed(
                    "a mapping of a kind that this fragscope does not know",
                ));
            }
        })
    }
}

impl Wire for ResidencyMap {
    fn put(&self, out: &mut Vec<u8>) {
        Mapping::put_list(self.mappings(), out);
        PageRun::put_list(self.runs(), out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let mut map = Self::new(Vec::take(input)?);
        for run in PageRun::take_list(input)? {
            map.push_run(run);
        }
        Ok(map)
    }
}

/// In a list: pages since the end of the run before, pages, state. Runs ascend.
impl Wire for PageRun {
    fn put(&self, out: &mut Vec<u8>) {
        Self::put_list(std::slice::from_ref(self), out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let one = Self::take_list(input)?.pop();
        one.ok_or_else(|| malformed("a run of pages is missing"))
    }

    fn put_list(list: &[Self], out: &mut Vec<u8>) {
        varint::put(out, list.len() as u64);
        let mut end = 0u64;
        for run in list {
            varint::put(out, run.range.start().page().saturating_sub(end));
            varint::put(out, run.range.len() / PAGE_SIZE);
            out.push(run.state.bits());
            end = run.range.end().page();
        }
    }

    fn take_list(input: &mut Input<'_, '_>) -> io::Result<Vec<Self>> {
        let mut list = Vec::new();
        let mut end = RemoteAddr::default();
        for _ in 0..count::<Self>(input)? {
            let (gap, pages) = (input.number()?, input.number()?);
            let bytes = |pages: u64| pages.checked_mul(PAGE_SIZE);
            let start = bytes(gap).and_then(|gap| end.checked_add(gap));
            let range = start
                .zip(bytes(pages))
                .and_then(|(start, len)| AddrRange::with_len(start, len))
                .ok_or_else(|| malformed("a run of pages ends beyond all addresses"))?;
            // The report of the sample has a cell for each page of a heap.
            let cells = pages.saturating_mul(CELL);
            input
                .memory
                .add(cells.saturating_add(size_of::<Self>() as u64))?;
            end = range.end();
            list.push(Self {
                range,
                state: PageState::from_bits(input.byte()?),
            });
        }
        Ok(list)
    }
}

/// Heaps of one sample at most: each object that is mapped can hold an allocator.
const MAX_HEAPS: usize = 64;

/// Takes a sample that is sound enough to be reported on: its ranges are in order, and its counts
/// can be summed.
pub(super) fn take_sound(input: &mut Input<'_, '_>) -> io::Result<Sample> {
    let mut sample = Sample::take(input)?;
    // That the pages are a core's is written once, with the kernel's count.
    if sample.kernel.is_core {
        sample.residency = sample.residency.of_account(PageAccount::Core);
    }
    // The size of pages is written once, with the host.
    sample.residency = sample.residency.of_pages(sample.host.page_size);
    if sample.heaps.len() > MAX_HEAPS {
        return Err(malformed("more heaps than any process has"));
    }
    let mut sums = Sums::default();
    if let Some(fork) = &sample.fork {
        sums.add([fork.shared_bytes, fork.copied_bytes, fork.own_bytes])?;
    }
    for heap in &sample.heaps {
        check(heap)?;
        let mut arenas = heap.arenas.iter();
        arenas.try_for_each(|arena| sums.add_arena(arena))?;
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Meter;
    use crate::snapshot::wire::Memory;

    #[test]
    fn a_stop_of_an_earlier_version_is_read_as_all_or_nothing() {
        let (meter, mut bytes) = (Meter::default(), Vec::new());
        let taken = |bytes: &[u8]| {
            let memory = Memory::new(&meter, 0);
            Completeness::take(&mut Input::new(bytes, &memory)).expect("read")
        };
        let throughout = Completeness {
            stand_still: StandStill::Throughout,
            stop_ns: 7,
            ..Completeness::default()
        };
        throughout.put(&mut bytes);
        assert_eq!(taken(&bytes), throughout);
        // It ended with how a stop ended early, and before that with the defects.
        for _ in 0..2 {
            bytes.pop();
            bytes[0] -= 1;
            assert_eq!(taken(&bytes), throughout);
        }
        bytes[1] = 0;
        assert_eq!(taken(&bytes).stand_still, StandStill::Never);
    }
}
