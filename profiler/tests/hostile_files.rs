//! Files mapped by a target to make inspecting them expensive. Needs no privilege, but `attach` and
//! `record --pid` look for the functions to probe only where probes are permitted.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use profiler_testing::child::{Child, KillOnDrop, compiled};
use profiler_testing::wait::WAIT_LIMIT;
use support::command;

/// Code, symbols and text of this size each are claimed; the file has holes for them.
const CLAIMED: u64 = 1 << 40;
/// What fragscope may have needed at most, in KiB.
const PEAK_KIB: i64 = 256 << 10;
/// It takes much less of a processor; without limits a terabyte is read.
const MUCH_WORK: Duration = Duration::from_secs(60);

/// Names of one file that are mapped, and entries in a list of objects: as many as the kernel and fragscope
/// permit, or nearly so.
const MANY_FILES: usize = 20_000;
const MANY_ENTRIES: usize = 16_000;

/// An ELF file of `size` bytes whose tables each are as large as the file is, but for the page at its
/// beginning.
fn sparse_elf(path: &Path, size: u64, section_bytes: u64) {
    let mut bytes = vec![0u8; 4096];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &3u16.to_le_bytes()); // ET_DYN
    put(18, &62u16.to_le_bytes()); // EM_X86_64
    put(20, &1u32.to_le_bytes());
    put(32, &64u64.to_le_bytes()); // program headers
    put(40, &512u64.to_le_bytes()); // section headers
    put(52, &64u16.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    put(58, &64u16.to_le_bytes());
    put(60, &6u16.to_le_bytes());
    put(62, &5u16.to_le_bytes());
    for (i, flags) in [5u32, 4].into_iter().enumerate() {
        let at = 64 + 56 * i;
        put(at, &1u32.to_le_bytes()); // PT_LOAD
        put(at + 4, &flags.to_le_bytes());
        for field in [32, 40] {
            put(at + field, &section_bytes.to_le_bytes());
        }
    }
    // Name, kind and link of each section: .dynsym, .dynstr, .symtab, .strtab, .rodata, whose names
    // are in the last one.
    let sections = [(11u32, 2u32), (3, 0), (2, 4), (3, 0), (3, 0)];
    for (i, (kind, link)) in (1..).zip(sections) {
        let at = 512 + 64 * i;
        put(at + 4, &kind.to_le_bytes());
        put(at + 24, &4096u64.to_le_bytes());
        put(at + 32, &section_bytes.to_le_bytes());
        put(at + 40, &link.to_le_bytes());
        put(at + 56, &24u64.to_le_bytes());
    }
    let file = File::create(path).expect("made");
    file.write_all_at(&bytes, 0).expect("written");
    file.set_len(size).expect("a file with holes");
}

/// Exit code, output, errors and the peak of the memory (KiB) of fragscope.
fn measured(args: &[&str]) -> (Option<i32>, String, String, i64) {
    let folder = tempfile::tempdir().expect("a folder");
    let (out, errors) = (folder.path().join("out"), folder.path().join("errors"));
    let began = Instant::now();
    let child = command(args)
        .stdout(File::create(&out).expect("made"))
        .stderr(File::create(&errors).expect("made"))
        .spawn();
    let mut child = KillOnDrop(child.expect("it runs"));
    let status = loop {
        if let Some(status) = child.try_wait().expect("ours") {
            break status;
        }
        if worked(child.id()) > MUCH_WORK {
            child.kill().expect("ours");
        }
        // One that waits for somebody does no work.
        let has_waited = began.elapsed().saturating_sub(worked(child.id()));
        assert!(has_waited < WAIT_LIMIT, "{args:?} hangs");
        thread::sleep(Duration::from_millis(20));
    };
    // The largest of all children so far: the compiler is smaller than the limit.
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("it is ours");
    let read = |path: PathBuf| fs::read_to_string(path).expect("text");
    (status.code(), read(out), read(errors), usage.max_rss())
}

/// How much time a process has had on processors, whatever else the host was busy with.
fn worked(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .expect("it is there until it is waited for");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    // `utime` and `stime`, in hundredths of a second (proc_pid_stat(5)); the state is the third.
    let times = fields.split(' ').skip(14 - 3).take(2);
    let ticks: u64 = times
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum();
    Duration::from_millis(10 * ticks)
}

#[test]
fn a_sparse_elf_of_a_terabyte_costs_neither_memory_nor_time_and_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    // One whose tables are larger than any limit, one of which each just is not, and one that
    // passes for a C library.
    let huge = folder.path().join("huge.so");
    sparse_elf(&huge, CLAIMED, CLAIMED - 4096);
    let large = folder.path().join("large.so");
    sparse_elf(&large, CLAIMED, 3 << 30);
    let libc = folder.path().join("libc.so.6");
    sparse_elf(&libc, CLAIMED, 60 << 20);
    let program = compiled("map_file");
    let mut command = Command::new(program.path().join("map_file"));
    command.args([&huge, &large, &libc]);
    let child = Child::run(command);
    assert_eq!(child.first_line(), "ready");
    let pid = child.pid().to_string();
    for args in looks(&pid, folder.path()) {
        let (out, ..) = bounded(&args);
        if ["snapshot", "doctor"].contains(&args[0].as_str()) {
            let words = out.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words.contains("huge.so (more than 128.0 MiB"), "{out}");
            assert!(words.contains("--file-limit"), "{out}");
        }
    }
}

/// Every way to look into a process.
fn looks(pid: &str, folder: &Path) -> Vec<Vec<String>> {
    let trace = folder.join("it.fragtrace").to_string_lossy().into_owned();
    let all = [
        &["snapshot", "--pid", pid][..],
        &["explain", "--pid", pid, "--no-predict"],
        &["doctor", "--pid", pid],
        &["top", "--once", "--all"],
        &["attach", "--headless", "--duration", "300ms", "--pid", pid],
        &["record", "--duration", "300ms", "-o", &trace, "--pid", pid],
    ];
    let owned = |args: &&[&str]| args.iter().map(|&word| word.to_owned()).collect();
    all.iter().map(owned).collect()
}

/// Output and errors of fragscope, which ends by itself without much memory.
fn bounded(args: &[String]) -> (String, String) {
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let (code, out, errors, peak) = measured(&args);
    let permitted = match args[0] {
        "snapshot" => &[0][..],
        "explain" | "doctor" => &[0, 1],
        // There may be no probes: without privileges, or because of the limits.
        _ => &[0, 3, 4, 5],
    };
    let is_permitted = code.is_some_and(|code| permitted.contains(&code));
    assert!(is_permitted, "{args:?} {code:?}: {errors}");
    assert!(peak < PEAK_KIB, "{args:?} took {peak} KiB");
    (out, errors)
}

/// A process that maps a file as code under `links` names, and whose list of loaded objects has
/// `entries` entries that name these mappings.
fn forged_chain(file: &Path, folder: &Path, links: usize, entries: usize) -> Child {
    let program = compiled("forged_chain");
    let mut command = Command::new(program.path().join("forged_chain"));
    command.args([file, folder]);
    command.args([links.to_string(), entries.to_string()]);
    let child = Child::run(command);
    assert_eq!(child.first_line(), "ready");
    child.keep(program)
}

#[test]
fn very_many_small_files_cost_no_time_and_the_rest_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("small");
    sparse_elf(&file, 4096, 0);
    let child = forged_chain(&file, folder.path(), MANY_FILES, MANY_ENTRIES);
    for args in looks(&child.pid().to_string(), folder.path()) {
        let (out, _) = bounded(&args);
        if args[0] == "snapshot" {
            let words = out.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(
                words.contains("(no more than 4096 files are looked into)"),
                "{out}"
            );
            assert!(words.contains("at least 4093 more"), "{out}");
        }
    }
}

#[test]
fn very_many_mappings_with_the_longest_names_cost_neither_and_what_is_cut_is_said() {
    // More than is read of the list; one name, and more names than are kept.
    for (mappings, names) in [(60_000, 1), (10_000, 5_000)] {
        let folder = tempfile::tempdir().expect("a folder");
        let program = compiled("long_names");
        let mut command = Command::new("sh");
        // A file is open for each name.
        command.args(["-c", "ulimit -n 6000; exec \"$0\" \"$@\""]);
        command.arg(program.path().join("long_names"));
        command.arg(folder.path());
        command.args([mappings.to_string(), names.to_string()]);
        let child = Child::run(command).keep(program);
        assert_eq!(child.first_line(), "ready");
        let saved = folder.path().join("it.fragsnap");
        let pid = child.pid().to_string();
        let mut all = looks(&pid, folder.path());
        let saves = ["snapshot", "--pid", &pid, "-o", &saved.to_string_lossy()];
        all.push(saves.map(str::to_owned).to_vec());
        for args in all {
            let (out, _) = bounded(&args);
            if ["snapshot", "doctor"].contains(&args[0].as_str())
                && !args.contains(&"-o".to_owned())
            {
                let words = out.split_whitespace().collect::<Vec<_>>().join(" ");
                let is_cut = words.contains("its list of mappings is too long to be read");
                assert!(is_cut || names > 1, "{out}");
                assert!(
                    words.contains("names of its mappings are too long to be kept"),
                    "{out}"
                );
            }
        }
        let size = saved.metadata().expect("saved").len();
        assert!(size < 8 << 20, "{size}");
    }
}

#[test]
fn arguments_and_an_environment_of_gigabytes_cost_neither_fragscope_nor_the_target_anything() {
    let child = Child::c("large_area");
    assert_eq!(child.first_line(), "ready");
    let folder = tempfile::tempdir().expect("a folder");
    let tables = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmPTE:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("KiB")
    };
    let before = tables();
    for args in looks(&child.pid().to_string(), folder.path()) {
        let (out, errors) = bounded(&args);
        if args[0] == "doctor" {
            assert!(
                out.contains("settings that it asks for are unknown"),
                "{out}{errors}"
            );
        }
    }
    // The first bytes of the arguments lie in one table, of which there are three levels.
    let grown = tables() - before;
    assert!(grown <= 16, "{grown} KiB");
}

#[test]
fn a_large_file_that_the_list_of_objects_names_again_and_again_is_read_once() {
    let folder = tempfile::tempdir().expect("a folder");
    // Each of its tables is read, and all of them are below the limit.
    let file = folder.path().join("large");
    sparse_elf(&file, CLAIMED, 50 << 20);
    let child = forged_chain(&file, folder.path(), 4, MANY_ENTRIES);
    for args in looks(&child.pid().to_string(), folder.path()) {
        bounded(&args);
    }
}

#[test]
fn code_that_the_target_has_written_to_is_compared_up_to_a_limit_and_that_is_said() {
    // As it is in the file, so that no page is passed over.
    let child = Child::python(
        "
import mmap, sys, tempfile
size = 80 << 20
file = tempfile.TemporaryFile()
file.truncate(size)
code = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=7)
for at in range(0, size, 4096):
    code[at] = 0
print('ready', flush=True)
sys.stdin.readline()
",
    );
    let (_, out, errors, _) = measured(&["doctor", "--pid", &child.pid().to_string()]);
    let words = out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("written to so much of its code"),
        "{out}{errors}"
    );
    assert!(words.contains("were left out"), "{out}{errors}");
}

#[test]
fn a_core_that_claims_a_terabyte_costs_neither() {
    let folder = tempfile::tempdir().expect("a folder");
    for (claimed, phnum) in [(CLAIMED - 4096, 2u16), (3 << 30, 2), (0, 0xffff)] {
        let core = folder.path().join("core");
        sparse_elf(&core, CLAIMED, claimed);
        let file = File::options().write(true).open(&core).expect("ours");
        file.write_all_at(&4u16.to_le_bytes(), 16).expect("ET_CORE");
        file.write_all_at(&phnum.to_le_bytes(), 56)
            .expect("written");
        // PT_NOTE; or as many headers as the first section says.
        file.write_all_at(&4u32.to_le_bytes(), 64 + 56)
            .expect("written");
        file.write_all_at(&u32::MAX.to_le_bytes(), 512 + 44)
            .expect("written");
        let name = core.to_string_lossy().into_owned();
        let (code, _, errors, peak) = measured(&["snapshot", "--core", &name]);
        assert_eq!(code, Some(1), "{errors}");
        assert!(peak < PEAK_KIB, "took {peak} KiB: {errors}");
    }
}

#[test]
fn a_core_whose_parts_all_name_the_same_notes_is_refused() {
    /// Bytes of notes that are in the file once, all zero: each three words are a note.
    const NOTES: u64 = 96 << 20;
    const PARTS: u16 = 60_000;
    let folder = tempfile::tempdir().expect("a folder");
    let core = folder.path().join("core");
    sparse_elf(&core, NOTES + (16 << 20), 0);
    let mut part = [0u8; 56];
    part[0] = 4; // PT_NOTE
    part[8..16].copy_from_slice(&(8u64 << 20).to_le_bytes());
    part[32..40].copy_from_slice(&NOTES.to_le_bytes());
    let file = File::options().write(true).open(&core).expect("ours");
    let parts = part.repeat(PARTS.into());
    for (at, bytes) in [
        (16, &4u16.to_le_bytes()[..]), // ET_CORE
        (32, &4096u64.to_le_bytes()),
        (56, &PARTS.to_le_bytes()),
        (4096, &parts),
    ] {
        file.write_all_at(bytes, at).expect("written");
    }
    let name = core.to_string_lossy().into_owned();
    let (code, _, errors, peak) = measured(&["snapshot", "--core", &name]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(peak < PEAK_KIB, "took {peak} KiB: {errors}");
}

#[test]
fn a_pipe_or_a_device_in_the_place_of_a_file_is_not_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("core");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    for path in [&*pipe, Path::new("/dev/zero"), folder.path()] {
        let name = path.to_string_lossy();
        let (code, _, errors, _) = measured(&["snapshot", "--core", &name]);
        assert_eq!(code, Some(1), "{errors}");
        assert!(
            errors.contains("a directory, a device or a pipe"),
            "{errors}"
        );
    }
}
