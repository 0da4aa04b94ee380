//! Samples: pages, a target, and heaps.

use profiler_core::addr::PAGE_SIZE;
use profiler_core::allocator::AllocatorTitle;
use profiler_core::completeness::{Completeness, EndedEarly, Released, Slices, StandStill};
use profiler_core::fork::ForkSharing;
use profiler_core::group_account::GroupAccount;
use profiler_core::residency::{
    Mapping, MappingKind, PageAccount, PageRun, PageState, ResidencyMap,
};
use profiler_core::sample::{Halted, Host, KernelCount, PythonMalloc, Sample, Target};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::heap::heap;
use super::{BASE, COUNT, confidence, defects, range, text};

fn mapping_kind() -> impl Strategy<Value = MappingKind> {
    prop_oneof![
        Just(MappingKind::Brk),
        Just(MappingKind::Stack),
        Just(MappingKind::Anonymous),
        text().prop_map(|name| MappingKind::NamedAnonymous(name.into())),
        text().prop_map(|name| MappingKind::File(name.into())),
        text().prop_map(|name| MappingKind::SharedAnonymous(name.into())),
        text().prop_map(|name| MappingKind::Special(name.into())),
    ]
}

/// Mappings with gaps, and runs of pages anywhere from their start on.
fn residency() -> impl Strategy<Value = ResidencyMap> {
    let mapping = (0..9u64, 1..40u64, mapping_kind(), any::<[bool; 5]>());
    let mappings = vec((mapping, COUNT, COUNT), 0..6);
    let runs = vec((0..5u64, 1..30u64, 0..128u8), 0..20);
    (mappings, runs).prop_map(|(mappings, runs)| {
        let mut at = BASE;
        let all = mappings
            .into_iter()
            .map(|((gap, pages, kind, bits), offset, inode)| {
                let start = at + gap * PAGE_SIZE;
                at = start + pages * PAGE_SIZE;
                Mapping {
                    range: range(start, pages * PAGE_SIZE),
                    kind,
                    read: bits[0],
                    write: bits[1],
                    execute: bits[2],
                    shared: bits[3],
                    is_tmpfs: bits[4],
                    offset,
                    inode,
                    device: inode >> 1,
                }
            });
        let mut map = ResidencyMap::new(all.collect());
        let mut at = BASE;
        for (gap, pages, bits) in runs {
            let start = at + gap * PAGE_SIZE;
            at = start + pages * PAGE_SIZE;
            map.push_run(PageRun {
                range: range(start, pages * PAGE_SIZE),
                state: PageState::from_bits(bits),
            });
        }
        map
    })
}

fn target() -> impl Strategy<Value = Target> {
    let names = vec(option::of(text()), 3);
    let malloc = option::of(select(PythonMalloc::ALL.as_slice()));
    (
        any::<(i32, u32)>(),
        text(),
        vec(text(), 0..4),
        names,
        malloc,
    )
        .prop_map(
            |((pid, threads), comm, cmdline, mut names, python_malloc)| Target {
                pid,
                comm,
                cmdline,
                python: names.pop().flatten(),
                python_malloc,
                libc: names.pop().flatten(),
                malloc: names
                    .pop()
                    .flatten()
                    .map(|text| AllocatorTitle::parse(&text)),
                threads,
                began_ticks: (threads % 3 > 0).then_some(threads.into()),
                boot_id: (threads % 2 > 0).then(|| threads.to_string()),
                halted: Halted::ALL.get(threads as usize % 4).copied(),
            },
        )
}

/// A sample of any kind.
pub(crate) fn sample() -> impl Strategy<Value = Sample> {
    let kernel = (vec(COUNT, 3), vec(option::of(COUNT), 4), any::<bool>());
    let fork = option::of((any::<i32>(), COUNT, COUNT, COUNT));
    let released = (select(EndedEarly::ALL.to_vec()), COUNT)
        .prop_map(|(why, after_ns)| StandStill::Released(Released { why, after_ns }));
    let slices = (any::<u32>(), COUNT, COUNT, COUNT).prop_map(
        |(number, longest_ns, changed_bytes, running_bytes)| {
            StandStill::InSlices(Slices {
                number,
                longest_ns,
                changed_bytes,
                running_bytes,
            })
        },
    );
    let stand_still = prop_oneof![
        Just(StandStill::Never),
        Just(StandStill::Throughout),
        released,
        slices,
    ];
    let completeness = (
        stand_still,
        vec(COUNT, 4),
        any::<u32>(),
        confidence(),
        (defects(), any::<bool>(), option::of(any::<u64>())),
    );
    let host = (text(), text(), any::<u32>(), COUNT);
    let about = (any::<u64>(), host, target(), kernel, fork, completeness);
    (about, residency(), vec(heap(), 0..3)).prop_map(|(about, residency, heaps)| {
        let (taken_at_ns, host, target, (counts, known, is_core), fork, completeness) = about;
        let (stand_still, times, threads_in_allocator, layout_confidence, defects) = completeness;
        let (defects, files_over_limit, out_of_time_ns) = defects;
        Sample {
            taken_at_ns,
            host: Host {
                kernel: host.0,
                arch: host.1,
                cpus: host.2,
                memory_bytes: host.3,
                page_size: residency.page_size(),
            },
            target,
            kernel: KernelCount {
                rss_bytes: counts[0],
                swap_bytes: counts[1],
                peak_rss_bytes: counts[2],
                pss_bytes: known[0],
                lazy_free_bytes: known[1],
                anon_huge_bytes: known[2],
                ksm_bytes: known[3],
                is_core,
            },
            group: known[0].map(|current_bytes| GroupAccount {
                path: "/pod".into(),
                current_bytes,
                max_bytes: known[1],
                anon_bytes: known[2],
                reclaimable_bytes: known[2],
                pressure: known[3].map(|_| 0.25),
                oom_kills: known[3],
                ..GroupAccount::default()
            }),
            residency: match is_core {
                true => residency.of_account(PageAccount::Core),
                false => residency,
            },
            heaps,
            fork: fork.map(
                |(parent, shared_bytes, copied_bytes, own_bytes)| ForkSharing {
                    parent,
                    shared_bytes,
                    copied_bytes,
                    own_bytes,
                },
            ),
            completeness: Completeness {
                stand_still,
                stop_ns: times[0],
                walk_ns: times[1],
                threads_in_allocator,
                events_lost: times[2],
                unreadable_bytes: times[3],
                layout_confidence,
                defects,
                files_over_limit,
                out_of_time_ns,
            },
        }
    })
}
