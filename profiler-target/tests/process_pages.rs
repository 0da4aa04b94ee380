//! Memory and pages of a process of the same user. Needs no privilege.

use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::fork::{self, ForkSharing};
use profiler_core::memory::{ReadError, ResidentMemory, TargetMemory};
use profiler_core::report::{FragReport, LedgerClass};
use profiler_core::residency::{MappingKind, Written};
use profiler_core::sample::{KernelCount, Sample};
use profiler_target::{PageSource, Process, RunsOn, Target, host};
use profiler_testing::child::{self, Child};

/// Writes a pattern into every second page of an area, and leaves the rest untouched.
const AREA: &str = "
import ctypes, mmap, sys
area = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(area))
for page in range(0, 64, 2):
    area[page * 4096:page * 4096 + 8] = (base + page).to_bytes(8, 'little')
print(base, flush=True)
sys.stdin.readline()
";

#[test]
fn a_process_that_has_the_same_memory_and_runs_on_is_found() {
    let mut child = Child::python(child::SHARING);
    let other: i32 = child.first_line().parse().expect("a process");
    let target = Target::open(child.pid()).expect("our own child");
    let who = |target: &Target| target.runs_on(&child::stop(target));
    assert_eq!(who(&target), RunsOn::Process(other));
    assert_eq!(child.ask("end"), "alone");
    assert_eq!(who(&target), RunsOn::Nobody);
}

#[test]
fn whoever_has_the_same_memory_is_found_whenever_it_was_created() {
    let mut child = Child::c("shares");
    assert_eq!(child.first_line(), "READY");
    let target = Target::open(child.pid()).expect("our own child");
    let who = |target: &Target| target.runs_on(&child::stop(target));
    // A process whose first thread has ended shares it by its other thread.
    for how in ["one", "headless"] {
        for is_looked_for in [false, true] {
            let look = |target: &Target| {
                if is_looked_for {
                    target.look_for_sharers();
                }
            };
            look(&target);
            assert_eq!(who(&target), RunsOn::Nobody);
            // Before others are looked for.
            let mut created = || child.ask(how).parse().expect("a number");
            let before = RunsOn::Process(created());
            look(&target);
            assert_eq!(who(&target), before, "{how}");
            assert_eq!(child.ask("end"), "alone");
            look(&target);
            // And after that.
            let mut created = || child.ask(how).parse().expect("a number");
            let after = RunsOn::Process(created());
            assert_eq!(who(&target), after, "{how}");
            assert_eq!(child.ask("end"), "alone");
        }
    }
}

#[test]
fn memory_is_read_whole_in_part_and_scattered() {
    let child = Child::python(AREA);
    let base: u64 = child.first_line().parse().expect("an address");
    let target = Target::open(child.pid()).expect("our own child");
    let memory = target.memory();
    let word: u64 = memory.read_value(RemoteAddr::new(base)).expect("mapped");
    assert_eq!(word, base);

    let first = RemoteAddr::new(8);
    let unmapped = memory.read(first, &mut [0; 8]);
    assert_eq!(unmapped, Err(ReadError::NotRead(first)));
    let beyond = RemoteAddr::new(u64::MAX - 64);
    let unmapped = memory.read(beyond, &mut [0; 8]);
    assert!(
        matches!(unmapped, Err(ReadError::Unmapped(_))),
        "{unmapped:?}"
    );

    // More places than one call takes, with bad ones in between.
    let addrs: Vec<_> = (0..3000)
        .map(|i| match i % 7 {
            3 => RemoteAddr::new(8),
            _ => RemoteAddr::new(base + i % 32 * 2 * PAGE_SIZE),
        })
        .collect();
    let check = |words: &[Option<[u8; 8]>]| {
        assert_eq!(words.len(), addrs.len());
        for (i, word) in (0..).zip(words) {
            let expected = (i % 7 != 3).then_some(base + i % 32 * 2);
            assert_eq!(word.map(u64::from_le_bytes), expected, "place {i}");
        }
    };
    let mut words = Vec::new();
    memory.read_scattered(&addrs, &mut words);
    check(&words);
    memory.read_unshared_scattered(&addrs, &mut words);
    check(&words);
    let stopped = child::stop(&target);
    let memory = target.memory_of(&stopped, target.runs_on(&stopped));
    memory.read_unshared_scattered(&addrs, &mut words);
    check(&words);
    let good: Vec<_> = (0..3000)
        .map(|i| RemoteAddr::new(base + i % 32 * 2 * PAGE_SIZE))
        .collect();
    let (before, _) = memory.counted();
    memory.read_unshared_scattered(&good, &mut words);
    let (after, _) = memory.counted();
    assert!(words.iter().all(Option::is_some));
    assert_eq!(after - before, 3, "as many as the kernel takes at once");
    drop(stopped);
    memory.read_unshared_scattered(&addrs, &mut words);
    check(&words);
}

/// The kernel's count without its proportional part, which moves with other processes.
fn own_count(target: &Target) -> KernelCount {
    KernelCount {
        pss_bytes: None,
        ..target.kernel_count().expect("alive")
    }
}

#[test]
fn pages_add_up_to_the_kernels_rss() {
    let child = Child::python(AREA);
    let base: u64 = child.first_line().parse().expect("an address");
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = child::stop(&target);
    let before = own_count(&target);
    let mappings = target.mappings().expect("alive");
    let map = target.residency(&mappings).expect("alive");
    let after = own_count(&target);
    drop(stopped);
    assert_eq!(map.resident_bytes(), before.rss_bytes);
    assert_eq!(map.swapped_bytes(), before.swap_bytes);
    assert_eq!(before, after, "looking changes nothing");
    for page in 0..64 {
        let run = map.run_at(RemoteAddr::new(base + page * PAGE_SIZE));
        let present = run.is_some_and(|run| run.state.is_resident());
        assert_eq!(present, page % 2 == 0, "page {page}");
    }
    assert!(mappings.iter().any(|m| m.kind == MappingKind::Brk));
}

#[test]
fn both_sources_of_pages_agree() {
    let child = Child::python(AREA);
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = child::stop(&target);
    let mappings = target.mappings().expect("alive");
    let by_pagemap = target.residency_from(&mappings, PageSource::Pagemap);
    let by_best = target.residency(&mappings).expect("alive");
    drop(stopped);
    let by_pagemap = by_pagemap.expect("alive");
    assert_eq!(by_pagemap.resident_bytes(), by_best.resident_bytes());
    assert_eq!(by_pagemap.swapped_bytes(), by_best.swapped_bytes());
}

#[test]
fn every_state_of_a_page_is_reported() {
    let child = Child::c("pages");
    let addrs: Vec<u64> = child
        .first_line()
        .split(' ')
        .map(|n| n.parse().expect("a number"))
        .collect();
    let [
        untouched,
        vast,
        zero,
        huge,
        _swapped,
        guarded,
        shared,
        huge_zero,
        _,
    ] = addrs[..]
    else {
        panic!("{addrs:?}");
    };
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = child::stop(&target);
    let mappings = target.mappings().expect("alive");
    let kernel = target.kernel_count().expect("alive");
    let maps = [
        target.residency(&mappings).expect("alive"),
        target
            .residency_from(&mappings, PageSource::Pagemap)
            .expect("alive"),
    ];
    drop(stopped);
    let frames_are_shown = host::Capability::SysAdmin.is_held();
    for (i, map) in maps.iter().enumerate() {
        let of = |start: u64, len: u64| -> Vec<_> {
            let range = AddrRange::with_len(RemoteAddr::new(start), len).expect("small");
            map.runs_in(range).collect()
        };
        let mib = 1 << 20;
        assert_eq!(of(untouched, mib), []);
        let touched = of(vast, mib << 16);
        assert_eq!(touched.len(), 1);
        // One page, or the huge one that the kernel makes of it where it does so by itself.
        let one = RemoteAddr::new(vast + (mib << 15));
        assert!(touched[0].range.contains(one), "{touched:?}");
        assert!(touched[0].range.len() <= 2 * mib, "{touched:?}");
        assert!(
            of(zero, mib)
                .iter()
                .all(|run| run.state.is_zero() && !run.state.is_resident())
        );
        assert_eq!(
            of(zero, mib).iter().map(|run| run.range.len()).sum::<u64>(),
            mib
        );
        // A huge page that was read alone, or without huge pages one small one of it.
        let read = of(huge_zero, 2 * mib);
        let first = read.first().expect("it was read").state;
        if frames_are_shown {
            assert!(first.is_zero() && !first.is_resident(), "{i}: {read:?}");
            let never = read
                .iter()
                .all(|run| map.account().written(run.state) == Written::Never);
            assert!(never, "{i}: {read:?}");
        }
        let guard = of(guarded, mib / 2);
        // Older kernels have no guard regions: the pages stay.
        let has_guards = host::kernel_version() >= Some((6, 13));
        assert_eq!(guard.is_empty(), has_guards, "{guard:?}");
        if i == 0 && PageSource::of_this_kernel() == PageSource::Scan {
            assert!(of(huge, 2 * mib).iter().all(|run| run.state.is_huge()));
        }
        // Without frame numbers the old source cannot distinguish shared pages from the zero page.
        if i == 0 && PageSource::of_this_kernel() == PageSource::Scan || frames_are_shown {
            let [own, common] = of(shared, mib)[..] else {
                panic!("{:?}", of(shared, mib));
            };
            assert!(!own.state.is_shared() && own.state.is_resident());
            assert!(common.state.is_shared() && common.state.is_resident());
            assert_eq!(common.range.len(), mib / 2);
            assert_eq!(map.resident_bytes(), kernel.rss_bytes);
        }
    }
}

/// Memory that is shared in each way that there is, and a library's pages, which others map too.
const SHARED: &str = "
import ctypes, mmap, os, sys, tempfile
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
size = 1 << 20
anonymous = mmap.mmap(-1, size)
in_memory = tempfile.TemporaryFile(dir='/dev/shm')
in_memory.truncate(size)
tmpfs = mmap.mmap(in_memory.fileno(), size)
memfd = os.memfd_create('x')
os.truncate(memfd, size)
memfd = mmap.mmap(memfd, size)
for area in (anonymous, tmpfs, memfd):
    area[:] = b'x' * size
key = libc.shmget(0, size, 0o1600)
at = libc.shmat(key, None, 0)
libc.shmctl(key, 0, None)
ctypes.memset(at, 1, size)
print('ready', flush=True)
sys.stdin.readline()
";

/// Lines of a file of `/proc` that begin with one of these names, in bytes.
fn counted(pid: i32, file: &str, names: &[&str]) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("alive");
    let lines = text.lines().filter_map(|line| {
        let (name, amount) = line.split_once(':')?;
        let kib = amount.trim().strip_suffix(" kB")?.parse::<u64>().ok()?;
        names.contains(&name).then_some(kib << 10)
    });
    lines.sum()
}

#[test]
fn shared_memory_is_a_class_of_its_own_and_pages_of_others_count_as_shared() {
    let child = Child::python(SHARED);
    child.first_line();
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = child::stop(&target);
    let mappings = target.mappings().expect("alive");
    let residency = target.residency(&mappings).expect("alive");
    let kernel = target.kernel_count().expect("alive");
    let shared_memory = counted(child.pid(), "status", &["RssShmem"]);
    let shared = counted(
        child.pid(),
        "smaps_rollup",
        &["Shared_Clean", "Shared_Dirty"],
    );
    drop(stopped);
    let report = FragReport::from_sample(&Sample {
        residency,
        kernel,
        ..Sample::default()
    });
    let row = report.ledger_row(LedgerClass::SharedMemory).expect("a row");
    assert_eq!(row.resident_bytes, 4 << 20);
    // Before Linux 6.2 each thread keeps up to 63 pages for itself until they are counted there (`add_mm_counter_fast`
    // in `mm/memory.c`), later each processor does.
    let late = row.resident_bytes.abs_diff(shared_memory);
    assert!(late <= 64 * PAGE_SIZE, "{shared_memory}");
    let by_ledger: u64 = report.ledger.iter().map(|row| row.shared_bytes).sum();
    // Other processes map libraries and end while this is read.
    assert!(
        by_ledger.abs_diff(shared) <= 1 << 20,
        "{by_ledger} {shared}"
    );
    assert!(by_ledger > 1 << 20, "most of the C library: {by_ledger}");
}

/// Maps a file and memory, and touches the second page of each alone.
const UNTOUCHED: &str = "
import ctypes, mmap, sys, tempfile
file = tempfile.TemporaryFile()
file.write(b'x' * (64 * 4096))
file.flush()
kept = []
for area in [
    mmap.mmap(file.fileno(), 64 * 4096, flags=mmap.MAP_PRIVATE),
    mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
]:
    area[4096:4100] = b'abcd'
    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    kept.append((area, base))
print(*[base for _, base in kept], flush=True)
sys.stdin.readline()
";

#[test]
fn a_page_that_is_not_in_memory_is_not_read_whoever_asks() {
    let child = Child::python(UNTOUCHED);
    let areas = child.first_line().split(' ');
    let target = Target::open(child.pid()).expect("our own child");
    for area in areas {
        let base = RemoteAddr::new(area.parse().expect("an address"));
        let second = base.checked_add(PAGE_SIZE).expect("small");
        let memory = target.memory();
        let mut bytes = [0; 4];
        memory.read(second, &mut bytes).expect("it is there");
        assert_eq!(&bytes, b"abcd");
        // Also where only the end of what is asked for is missing.
        let third = second.checked_add(PAGE_SIZE).expect("small");
        let last = third.get() - 2;
        for (addr, why) in [(base.get(), base), (last, third)] {
            let read = memory.read(RemoteAddr::new(addr), &mut bytes);
            assert_eq!(read, Err(ReadError::NotRead(why)));
        }
        let mut words = Vec::new();
        memory.read_unshared_scattered::<4>(&[base, second, third], &mut words);
        assert_eq!(words, [None, Some(*b"abcd"), None]);
        let mappings = target.mappings().expect("alive");
        let residency = target.residency(&mappings).expect("alive");
        let area = AddrRange::with_len(base, 64 * PAGE_SIZE).expect("small");
        let present: u64 = residency.runs_in(area).map(|run| run.range.len()).sum();
        assert_eq!(present, PAGE_SIZE, "reading put pages into memory");
    }
}

/// Two mappings of 20 TiB, in which it has read one page of the second alone, and one of a GiB with a page of its own.
const VAST: &str = "
import ctypes, mmap, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
vast = []
# With the same access, neighbours would be one mapping.
for size, access in [(20 << 40, 1), (20 << 40, 3), (1 << 30, 7)]:
    vast.append(libc.mmap(None, size, access, flags, -1, 0))
for start in vast[1:]:
    ctypes.c_char.from_address(start + 4096 * 3).value = b'x'
print(*vast, flush=True)
sys.stdin.readline()
";

#[test]
fn vast_mappings_are_not_looked_up_page_by_page() {
    let child = Child::python(VAST);
    let starts = child.first_line().split(' ');
    let [empty, touched, small] = starts
        .map(|start| RemoteAddr::new(start.parse().expect("an address")))
        .collect::<Vec<_>>()[..]
    else {
        panic!("three")
    };
    let target = Target::open(child.pid()).expect("our own child");
    let mappings = target.mappings().expect("alive");
    let map = target
        .residency_from(&mappings, PageSource::Pagemap)
        .expect("read");
    let run = map.run_at(empty).expect("it is mapped, and has no page");
    assert!(!run.state.has_data() && run.range.len() == 20 << 40);
    assert_eq!(map.run_at(touched), None, "what is not read is not known");
    let page = small.checked_add(3 * PAGE_SIZE).expect("small");
    assert!(map.run_at(page).expect("mapped").state.is_resident());
    let memory = ResidentMemory::new(target.memory(), &map);
    assert!(memory.read(touched, &mut [0; 8]).is_err());
}

#[test]
fn reading_what_is_resident_changes_nothing() {
    let child = Child::c("pages");
    let addrs: Vec<u64> = child
        .first_line()
        .split(' ')
        .map(|n| n.parse().expect("a number"))
        .collect();
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = child::stop(&target);
    let before = own_count(&target);
    let mappings = target.mappings().expect("alive");
    let map = target.residency(&mappings).expect("alive");
    let memory = ResidentMemory::new(target.memory(), &map);
    let mut buffer = vec![1; 1 << 20];
    for &start in &addrs[..3] {
        memory
            .read(RemoteAddr::new(start), &mut buffer)
            .expect("mapped");
        assert!(buffer.iter().all(|&byte| byte == 0));
    }
    let scattered: Vec<_> = addrs[..7]
        .iter()
        .map(|&start| RemoteAddr::new(start + 8))
        .collect();
    let mut words = Vec::new();
    memory.read_scattered::<8>(&scattered, &mut words);
    let present = [0, 0, 0, 0x0101_0101_0101_0101].map(|word: u64| Some(word.to_le_bytes()));
    assert_eq!(words[..4], present);
    assert_eq!(words[6], Some([2; 8]));
    let again = target.residency(&mappings).expect("alive");
    let after = own_count(&target);
    drop(stopped);
    assert_eq!(before, after);
    // Pages that it shares with its child are shared still.
    for &start in &addrs[..7] {
        let area = AddrRange::with_len(RemoteAddr::new(start), 1 << 20).expect("small");
        assert!(map.runs_in(area).eq(again.runs_in(area)), "{area}");
    }
}

/// Forks with 96 pages written; then the child writes 32 of them and the parent 16 others, and the
/// child 8 that the parent never had.
const PREFORK: &str = "
import ctypes, mmap, os, sys
area = mmap.mmap(-1, 128 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(area))
def write(pages):
    for page in pages:
        area[page * 4096] = 7
write(range(96))
(wait, ready), (hold, leave) = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.close(leave)
    write(range(0, 32))
    write(range(100, 108))
    os.write(ready, b'x')
    os.read(hold, 1)
    os._exit(0)
write(range(32, 48))
os.read(wait, 1)
print(base, child, flush=True)
sys.stdin.readline()
";

#[test]
fn what_a_fork_left_shared_and_what_writing_copied_is_reported_page_by_page() {
    let parent = Child::python(PREFORK);
    let mut words = parent.first_line().split(' ');
    let mut number = || words.next().and_then(|word| word.parse().ok());
    let (base, child): (u64, u64) = (number().expect("a base"), number().expect("a pid"));
    let area = AddrRange::with_len(RemoteAddr::new(base), 128 * PAGE_SIZE).expect("a range");
    let pages = |pid: i32| {
        let target = Target::open(pid).expect("our own child");
        let mut mappings = target.mappings().expect("alive");
        mappings.retain(|mapping| mapping.range.encloses(&area));
        for mapping in &mut mappings {
            mapping.range = area;
        }
        target.residency(&mappings).expect("alive")
    };
    let found = fork::sharing(parent.pid(), &pages(parent.pid()), &pages(child as i32));
    assert_eq!(
        found,
        ForkSharing {
            parent: parent.pid(),
            shared_bytes: 48 * PAGE_SIZE,
            copied_bytes: 48 * PAGE_SIZE,
            own_bytes: 8 * PAGE_SIZE,
        }
    );
    // Reading, also the faster way to a stopped target's unshared pages, copies none of them.
    for pid in [parent.pid(), child as i32] {
        let target = Target::open(pid).expect("our own child");
        let stopped = child::stop(&target);
        let map = target.residency(&target.mappings().expect("alive"));
        let map = map.expect("alive");
        let memory = ResidentMemory::new(target.memory_of(&stopped, RunsOn::Nobody), &map);
        let mut all = vec![0; area.len() as usize];
        memory.read(area.start(), &mut all).expect("readable");
        assert!(
            all.iter()
                .step_by(PAGE_SIZE as usize)
                .take(96)
                .all(|&byte| byte == 7)
        );
    }
    let again = fork::sharing(parent.pid(), &pages(parent.pid()), &pages(child as i32));
    assert_eq!(again, found);
    let worker = Target::open(child as i32).expect("our own child");
    let residency = worker.residency(&worker.mappings().expect("alive"));
    let all = worker
        .fork_sharing(&residency.expect("alive"))
        .expect("one program");
    assert_eq!(all.parent, parent.pid());
    assert!(all.shared_bytes > 48 * PAGE_SIZE && all.own_bytes >= 8 * PAGE_SIZE);
    let of_another = Target::open(parent.pid()).expect("our own child");
    let residency = of_another.residency(&of_another.mappings().expect("alive"));
    assert_eq!(of_another.fork_sharing(&residency.expect("alive")), None);
}
