//! Looking at a process of one's own user: no privilege needed.

mod child;

use child::Child;
use std::time::Duration;

use fragscope::process::{OpenError, PageSource, StopError, Target, TargetState};
use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::memory::{ReadError, ResidentMemory, TargetMemory};
use profiler_core::residency::MappingKind;
use profiler_core::sample::KernelCount;

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
fn memory_is_read_whole_in_part_and_scattered() {
    let child = Child::python(AREA);
    let base: u64 = child.said().parse().expect("an address");
    let target = Target::open(child.pid()).expect("our own child");
    let memory = target.memory();
    let word: u64 = memory.read_value(RemoteAddr::new(base)).expect("mapped");
    assert_eq!(word, base);

    let first = RemoteAddr::new(8);
    let unmapped = memory.read(first, &mut [0; 8]);
    assert_eq!(unmapped, Err(ReadError::Unmapped(first)));

    // More places than one call takes, with bad ones in between.
    let addrs: Vec<_> = (0..3000)
        .map(|i| match i % 7 {
            3 => RemoteAddr::new(8),
            _ => RemoteAddr::new(base + i % 32 * 2 * PAGE_SIZE),
        })
        .collect();
    let mut words = Vec::new();
    memory.read_scattered::<8>(&addrs, &mut words);
    assert_eq!(words.len(), addrs.len());
    for (i, word) in (0..).zip(&words) {
        let expected = (i % 7 != 3).then_some(base + i % 32 * 2);
        assert_eq!(word.map(u64::from_le_bytes), expected, "place {i}");
    }
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
    let base: u64 = child.said().parse().expect("an address");
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = target.stop().expect("it stops");
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
    let stopped = target.stop().expect("it stops");
    let mappings = target.mappings().expect("alive");
    let by_pagemap = target.residency_from(&mappings, PageSource::Pagemap);
    let by_best = target.residency(&mappings).expect("alive");
    drop(stopped);
    let by_pagemap = by_pagemap.expect("alive");
    assert_eq!(by_pagemap.resident_bytes(), by_best.resident_bytes());
    assert_eq!(by_pagemap.swapped_bytes(), by_best.swapped_bytes());
}

#[test]
fn a_target_stops_with_all_its_threads_and_runs_on() {
    let mut child = Child::python(
        "
import threading, sys, time
ticks = [0] * 8
def tick(i):
    while True:
        ticks[i] += 1
for i in range(8):
    threading.Thread(target=tick, args=(i,), daemon=True).start()
print('ready', flush=True)
for line in sys.stdin:
    before = sum(ticks)
    while sum(ticks) == before:
        pass
    print('ran on', flush=True)
",
    );
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = target.stop().expect("it stops");
    assert_eq!(stopped.threads().len(), 9);
    for thread in stopped.threads() {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", thread.tid)).expect("there");
        assert!(state.contains(") t "), "{state}");
        assert_ne!(thread.stack_pointer.get(), 0);
        assert_ne!(thread.thread_pointer.get(), 0);
    }
    drop(stopped);
    child.tell("go on");
    assert_eq!(child.listen(), "ran on");
}

#[test]
fn an_exit_and_an_exec_are_told() {
    let child = Child::python("import sys; print(1, flush=True); sys.stdin.readline()");
    let target = Target::open(child.pid()).expect("our own child");
    assert_eq!(target.state(), TargetState::Same);
    drop(child);
    assert!(matches!(target.state(), TargetState::Exited(_)));
    assert_eq!(
        target.memory().read(RemoteAddr::new(0x1000), &mut [0]),
        Err(ReadError::Gone)
    );
    assert!(target.quick_count().is_err());

    // The same program again, under the same pid.
    let again = "import sys; print(2, flush=True); sys.stdin.readline()";
    let first = format!(
        "import os, sys; print(1, flush=True); sys.stdin.readline(); \
         os.execv('/proc/self/exe', ['python3', '-S', '-c', {again:?}])"
    );
    let mut child = Child::python(&first);
    let target = Target::open(child.pid()).expect("our own child");
    child.tell("exec");
    assert_eq!(child.listen(), "2");
    assert_eq!(target.state(), TargetState::Execed);
}

#[test]
fn a_python_is_described() {
    let child = Child::python(
        "import sys, platform; print(platform.python_version(), flush=True); sys.stdin.readline()",
    );
    let target = Target::open(child.pid()).expect("our own child");
    let described = target.describe();
    assert_eq!(described.python, Some(format!("CPython {}", child.said())));
    assert_eq!(described.threads, 1);
    assert_eq!(described.cmdline[1], "-S");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let gone = {
        let child = Child::python("print(1)");
        child.pid()
    };
    let error = Target::open(gone).expect_err("it was waited for");
    assert!(matches!(error, OpenError::NoSuchProcess { .. }), "{error}");
    assert_eq!(error.exit_code(), 5);
    for pid in [0, -1] {
        let error = Target::open(pid).expect_err("no process has it");
        assert!(matches!(error, OpenError::NoSuchProcess { .. }), "{error}");
    }
}

/// `/proc/PID/stat`'s state of a thread.
fn state_of(tid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).expect("there");
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.expect("a state")
}

fn wait_for_state(tid: i32, wanted: char) {
    while state_of(tid) != wanted {
        std::thread::yield_now();
    }
}

#[test]
fn every_state_of_a_page_is_told() {
    let child = Child::c("pages");
    let addrs: Vec<u64> = child
        .said()
        .split(' ')
        .map(|n| n.parse().expect("a number"))
        .collect();
    let [untouched, vast, zero, huge, _swapped, guarded, shared, _] = addrs[..] else {
        panic!("{addrs:?}");
    };
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = target.stop().expect("it stops");
    let mappings = target.mappings().expect("alive");
    let kernel = target.kernel_count().expect("alive");
    let maps = [
        target.residency(&mappings).expect("alive"),
        target
            .residency_from(&mappings, PageSource::Pagemap)
            .expect("alive"),
    ];
    drop(stopped);
    let frames_are_shown = fragscope::process::host::Capability::SysAdmin.is_held();
    for (i, map) in maps.iter().enumerate() {
        let of = |start: u64, len: u64| -> Vec<_> {
            let range = AddrRange::with_len(RemoteAddr::new(start), len).expect("small");
            map.runs_in(range).collect()
        };
        let mib = 1 << 20;
        assert_eq!(of(untouched, mib), []);
        let touched = of(vast, mib << 16);
        assert_eq!(touched.len(), 1);
        assert_eq!(touched[0].range.start().get(), vast + (mib << 15));
        assert!(
            of(zero, mib)
                .iter()
                .all(|run| run.state.is_zero() && !run.state.is_resident())
        );
        assert_eq!(
            of(zero, mib).iter().map(|run| run.range.len()).sum::<u64>(),
            mib
        );
        let guard = of(guarded, mib / 2);
        assert!(guard.is_empty(), "{guard:?}: guard regions need Linux 6.13");
        if i == 0 && PageSource::of_this_kernel() == PageSource::Scan {
            assert!(of(huge, 2 * mib).iter().all(|run| run.state.is_huge()));
        }
        // Without frame numbers the old source cannot tell shared pages from the zero page.
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

#[test]
fn reading_what_is_resident_changes_nothing() {
    let child = Child::c("pages");
    let addrs: Vec<u64> = child
        .said()
        .split(' ')
        .map(|n| n.parse().expect("a number"))
        .collect();
    let target = Target::open(child.pid()).expect("our own child");
    let stopped = target.stop().expect("it stops");
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
    // Pages shared with its child are shared still.
    assert!(map == again);
}

#[test]
fn a_target_in_a_job_control_stop_stays_in_it() {
    let mut child = Child::c("signals");
    let pid = nix::unistd::Pid::from_raw(child.pid());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("our own child");
    wait_for_state(child.pid(), 'T');
    let target = Target::open(child.pid()).expect("our own child");
    for _ in 0..10 {
        let stopped = target.stop().expect("it stops");
        assert_eq!(stopped.threads().len(), 1);
        drop(stopped);
        wait_for_state(child.pid(), 'T');
    }
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("our own child");
    child.tell("go on");
    assert_eq!(child.listen(), "0");
}

#[test]
fn a_thread_that_cannot_stop_is_given_up_and_runs_on() {
    let mut child = Child::c("vfork");
    wait_for_state(child.pid(), 'D');
    let target = Target::open(child.pid()).expect("our own child");
    let error = target
        .stop_within(Duration::from_millis(50))
        .expect_err("it waits for its child");
    assert!(
        matches!(error, StopError::TimedOut { state: 'D', .. }),
        "{error}"
    );
    child.tell("end the child half");
    assert_eq!(child.listen(), "over");
    assert_eq!(target.stop().expect("now it stops").threads().len(), 1);
}

#[test]
fn a_panic_while_stopped_lets_the_target_run_on() {
    let mut child = Child::c("signals");
    let target = Target::open(child.pid()).expect("our own child");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _stopped = target.stop().expect("it stops");
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
    child.tell("go on");
    assert_eq!(child.listen(), "0");
}

#[test]
fn a_zombie_a_thread_and_ourselves_say_why() {
    let mut zombie = std::process::Command::new("true")
        .spawn()
        .expect("it starts");
    let pid = zombie.id() as i32;
    wait_for_state(pid, 'Z');
    let error = Target::open(pid).expect_err("it has no memory");
    assert!(matches!(error, OpenError::Zombie { .. }), "{error}");
    assert_eq!(error.exit_code(), 5);
    zombie.wait().expect("it has exited");

    let ourselves = std::process::id() as i32;
    let tid = nix::unistd::gettid().as_raw();
    let error = Target::open(tid).expect_err("tests run on threads of their own");
    assert!(
        matches!(error, OpenError::NotAProcess { pid, .. } if pid == ourselves as u64),
        "{error}"
    );
    let error = Target::open(ourselves)
        .expect("readable")
        .stop()
        .expect_err("not itself");
    assert!(matches!(error, StopError::Itself), "{error}");
}

/// A whole 32-bit program: `pause()` for ever.
#[test]
fn a_32_bit_program_is_refused() {
    let mut elf = Vec::new();
    elf.extend_from_slice(b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0");
    let halves: [u16; 2] = [2, 3];
    let words: [u32; 5] = [1, 0x0804_8054, 52, 0, 0];
    let sizes: [u16; 6] = [52, 32, 1, 40, 0, 0];
    let segment: [u32; 8] = [1, 0, 0x0804_8000, 0x0804_8000, 95, 95, 5, 0x1000];
    elf.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
    elf.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    elf.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
    elf.extend(segment.iter().flat_map(|word| word.to_le_bytes()));
    // mov eax, 29 (pause); int 0x80; jmp back
    elf.extend_from_slice(&[0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7, 0x90, 0x90]);
    let folder = child::open_folder();
    let program = folder.path().join("pause32");
    std::fs::write(&program, elf).expect("writable");
    std::fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("ours");
    let mut running = std::process::Command::new(&program)
        .spawn()
        .expect("the kernel runs 32-bit programs");
    let opened = Target::open(running.id() as i32);
    running.kill().expect("our own child");
    running.wait().expect("our own child");
    let error = opened.expect_err("32-bit");
    assert!(matches!(error, OpenError::Foreign32Bit { .. }), "{error}");
    assert_eq!(error.exit_code(), 5);
}

#[test]
fn a_program_that_is_no_python_is_described_without_one() {
    let child = Child::c("signals");
    let target = Target::open(child.pid()).expect("our own child");
    let described = target.describe();
    assert_eq!(described.python, None);
    assert_eq!(described.comm, "signals");
    assert!(described.libc.is_some());
    assert_eq!(described.malloc, described.libc);
    assert!(!target.is_static());
    assert!(!target.libc_data_ranges().is_empty());
}
