//! Identity and end of a process, and why one cannot be inspected. Needs no privilege.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use profiler_core::addr::RemoteAddr;
use profiler_core::heap::Allocator;
use profiler_core::memory::{ReadError, TargetMemory};
use profiler_core::residency::MappingKind;
use profiler_target::{ErrorKind, OpenError, Process, StopError, Target, TargetState};
use profiler_testing::child::{self, Child, wait_for_state};

#[test]
fn an_exit_and_an_exec_are_detected() {
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
    child.send("exec");
    assert_eq!(child.next_line(), "2");
    assert_eq!(target.state(), TargetState::Execed);
}

#[test]
fn a_python_is_described() {
    let child = Child::python(
        "import sys, platform; print(platform.python_version(), flush=True); sys.stdin.readline()",
    );
    let target = Target::open(child.pid()).expect("our own child");
    let described = target.describe().expect("it runs");
    assert_eq!(
        described.python,
        Some(format!("CPython {}", child.first_line()))
    );
    assert_eq!(described.threads, 1);
    assert_eq!(described.cmdline[1], "-S");
}

#[test]
fn a_preloaded_allocator_is_identified_with_its_version_and_data() {
    let mut command = Command::new("python3");
    command
        .args(["-S", "-c", "print(1, flush=True); input()"])
        .env("LD_PRELOAD", "libjemalloc.so.2");
    let child = Child::run(command);
    let target = Target::open(child.pid()).expect("our own child");
    let objects = target.allocator_objects().expect("it runs");
    let jemalloc: Vec<_> = objects
        .iter()
        .filter(|object| object.identity.is(Allocator::Jemalloc))
        .collect();
    let [object] = jemalloc.as_slice() else {
        panic!("one jemalloc: {objects:?}");
    };
    let identity = &object.identity;
    assert!(identity.object.contains("libjemalloc.so.2"), "{identity:?}");
    assert!(identity.serves_malloc(), "{identity:?}");
    let version = identity.version.as_deref().expect("it says its version");
    assert!(version.starts_with("5."), "{version}");
    assert_eq!(
        target.describe().expect("it runs").malloc,
        Some(identity.title())
    );
    // The root of its radix tree alone has 2^18 entries of 8 bytes, all in `.bss`.
    let bytes: u64 = object.data.iter().map(|range| range.len()).sum();
    assert!(bytes > 2 << 20, "{object:?}");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let gone = {
        let child = Child::python("print(1)");
        child.pid()
    };
    let error = Target::open(gone).expect_err("it was waited for");
    assert!(matches!(error, OpenError::NoSuchProcess { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::NoSuchProcess);
    for pid in [0, -1] {
        let error = Target::open(pid).expect_err("no process has it");
        assert!(matches!(error, OpenError::NoSuchProcess { .. }), "{error}");
    }
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
    assert_eq!(error.kind(), ErrorKind::TargetGone);
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
    let image = folder.path().join("image");
    std::fs::write(&image, elf).expect("writable");
    let program = child::install(&image, &folder);
    let mut running = std::process::Command::new(&program)
        .spawn()
        .expect("the kernel runs 32-bit programs");
    let opened = Target::open(running.id() as i32);
    running.kill().expect("our own child");
    running.wait().expect("our own child");
    let error = opened.expect_err("32-bit");
    assert!(matches!(error, OpenError::Foreign32Bit { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::UnsupportedTarget);
}

#[test]
fn a_program_that_is_no_python_is_described_without_one() {
    let child = Child::c("signals");
    let target = Target::open(child.pid()).expect("our own child");
    let described = target.describe().expect("it runs");
    assert_eq!(described.python, None);
    assert_eq!(described.comm, "signals");
    assert!(described.libc.is_some());
    let malloc = described.malloc.map(|title| title.to_string());
    assert_eq!(malloc, described.libc);
    assert!(!target.is_static().expect("it runs"));
    assert!(!target.libc_data_ranges().expect("it runs").is_empty());
}

/// Of one whose mappings cannot be read any more it is not known what it has, which is not nothing.
#[test]
fn a_process_that_has_ended_is_not_one_without_libraries() {
    let mut child = Child::c("signals");
    let target = Target::open(child.pid()).expect("our own child");
    let unread = || {
        let failed = [
            target.describe().map(drop),
            target.libc().map(drop),
            target.libc_data_ranges().map(drop),
            target.python().map(drop),
            target.python_symbols().map(drop),
            target.allocator_objects().map(drop),
            target.is_static().map(drop),
            target.maps_served_files().map(drop),
        ];
        for (number, of) in failed.into_iter().enumerate() {
            let error = of.expect_err(&number.to_string());
            assert_eq!(ErrorKind::of_io(&error), ErrorKind::TargetGone, "{error}");
        }
    };
    kill(Pid::from_raw(child.pid()), Signal::SIGKILL).expect("our own child");
    // Nobody has waited for it yet.
    wait_for_state(child.pid(), 'Z');
    unread();
    child.kill();
    unread();
}

#[test]
fn mapped_files_with_hostile_names_hide_nothing() {
    let child = Child::python(
        r"
import ctypes, mmap, os, sys, tempfile
folder = os.fsencode(tempfile.mkdtemp())
name = folder + b'/\xff\n7f00-7f01 rwxp 0 0:0 0 [heap]'
file = os.open(name, os.O_RDWR | os.O_CREAT)
os.write(file, b'x' * 4096)
area = mmap.mmap(file, 4096)
print(ctypes.addressof(ctypes.c_char.from_buffer(area)), flush=True)
os.unlink(name)
os.rmdir(folder)
sys.stdin.readline()
",
    );
    let base = RemoteAddr::new(child.first_line().parse().expect("an address"));
    let target = Target::open(child.pid()).expect("our own child");
    let mappings = target.mappings().expect("alive");
    let mapping = mappings
        .iter()
        .find(|m| m.range.contains(base))
        .expect("mapped");
    let MappingKind::File(path) = &mapping.kind else {
        panic!("{mapping:?}");
    };
    assert!(path.contains("\\0127f00-7f01 rwxp"), "{path}");
    assert!(
        mappings
            .windows(2)
            .all(|w| w[0].range.end() <= w[1].range.start())
    );
    assert!(mappings.iter().any(|m| m.kind == MappingKind::Stack));
}
