//! Native functions of call sites, in a library whose sites are known. These tests need root and a
//! C compiler and fail without.

use std::path::{Path, PathBuf};
use std::process::Command;

use profiler_core::sites::{Language, Site, Sites, StackEnd};
use profiler_probe::plan::ProbePlan;
use profiler_probe::{Budget, ProbeSession};
use profiler_target::Target;
use profiler_testing::child::{Child, compile, open_folder};
use profiler_testing::pythons::{Python, pythons};
use profiler_testing::wait::eventually;
use tempfile::TempDir;

const PROGRAM: &str = r#"
import ctypes, sys
library = ctypes.PyDLL(sys.argv[1])
size = ctypes.c_size_t

def caller(n):
    library.allocate(n, size(30000))

def in_thread(n):
    library.in_thread(n, size(30000))

def deep(n):
    library.deep(40, n, size(30000))

def shallow(n):
    library.deep(5, n, size(30000))

def by_made_code(n):
    library.by_made_code(n, size(30000))

def in_handler(n):
    library.in_handler(n, size(30000))

def in_handler_aside(n):
    library.in_handler_aside(n, size(30000))

def in_bare_handler(n):
    library.in_bare_handler(n, size(30000))

def regrow(n):
    library.enlarge(n)

def swap(n):
    import _ctypes
    global library
    handle, library = library._handle, None
    _ctypes.dlclose(handle)
    library = ctypes.PyDLL(sys.argv[2])

def grow(n):
    for _ in range(n): bytearray(40 << 20)

def own(n):
    for _ in range(n): bytearray(30000)

print('ready')
sys.stdout.flush()
for line in iter(sys.stdin.readline, ''):
    what, n = line.split()
    globals()[what](int(n))
    print('done')
    sys.stdout.flush()
"#;

/// How a library is compiled: with all symbols, or with those that it exports alone.
const WITH_SYMBOLS: [&str; 3] = ["-shared", "-fPIC", "-fomit-frame-pointer"];
const STRIPPED: [&str; 4] = ["-shared", "-fPIC", "-fomit-frame-pointer", "-s"];

fn library(options: &[&str]) -> (TempDir, PathBuf) {
    let folder = open_folder();
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../profiler-testing/programs/native_sites.c"
    );
    let path = folder.path().join("libnative_sites.so");
    compile("cc", Path::new(source), options, &path);
    (folder, path)
}

fn readable() -> impl Iterator<Item = Python> {
    let all = pythons().into_iter();
    all.filter(|python| {
        ((3, 6)..=(3, 15)).contains(&python.version) && !python.free_threaded && !python.debug
    })
}

fn newest() -> Python {
    readable()
        .max_by_key(|python| python.version)
        .expect("a Python")
}

fn run(python: &Python, library: &Path) -> Child {
    let mut command = Command::new(&python.path);
    command.args(["-S", "-c", PROGRAM]).arg(library);
    Child::run(command)
}

fn start(python: &Python, library: &Path) -> (Child, ProbeSession) {
    attach(run(python, library))
}

fn attach(child: Child) -> (Child, ProbeSession) {
    attach_with(child, false)
}

fn attach_with(child: Child, watches_growth: bool) -> (Child, ProbeSession) {
    assert_eq!(child.first_line(), "ready");
    let target = Target::open(child.pid()).expect("it runs");
    let mut plan = ProbePlan::for_target(&target).expect("a plan");
    plan.native_stacks = true;
    plan.watches_growth = watches_growth;
    let session = ProbeSession::attach(child.pid(), &plan, Budget::Unlimited).expect("probes");
    (child, session)
}

fn finish(session: ProbeSession) -> Sites {
    let (activity, sites) = session.detach_with_sites();
    assert_eq!((activity.events_lost, sites.samples_lost), (0, 0));
    let native = sites.native.as_ref().expect("they are wanted");
    let each = native.unwinding_ns / native.copied.max(1);
    let cost = sites.sampling_ns / sites.samples.max(1);
    eprintln!(
        "  {native:?}, {each} ns each here, {cost} ns each of the target's; {} sites",
        sites.sites.len()
    );
    // Where the ring buffer has no room for a moment, on a busy host, some are left out, and counted.
    assert!(native.copied > 4 * native.not_copied, "{native:?}");
    sites
}

/// The stacks of sites in which a function is, the innermost first, by their names; the most sampled one.
fn stack_with(sites: &Sites, function: &str) -> (Vec<String>, StackEnd) {
    let has = |site: &&Site| sites.stack(site).any(|frame| &*frame.function == function);
    let with = sites.sites.iter().filter(has);
    let site = with.max_by_key(|site| site.figures.samples);
    let site = site.unwrap_or_else(|| panic!("no {function}: {:?}", all(sites)));
    let names = sites.stack(site).map(|frame| frame.function.to_string());
    (names.collect(), site.end)
}

fn all(sites: &Sites) -> Vec<Vec<String>> {
    let names = |site: &Site| {
        sites
            .stack(site)
            .map(|of| of.function.to_string())
            .collect()
    };
    sites.sites.iter().map(names).collect()
}

#[test]
fn a_library_with_symbols_is_shown_below_the_python_function_that_called_it() {
    let (_folder, path) = library(&WITH_SYMBOLS);
    for python in readable() {
        eprintln!("{:?} {}", python.version, python.path.display());
        let (mut child, session) = start(&python, &path);
        assert_eq!(child.ask("caller 3000"), "done");
        let sites = finish(session);
        let (stack, end) = stack_with(&sites, "caller");
        assert_eq!(
            stack[..4],
            ["inner", "known_site", "test::Box::grow", "allocate"]
        );
        // Between the library and Python are those that call it: of ctypes and of libffi.
        let python_at = stack.iter().position(|name| name == "caller");
        assert!((5..20).contains(&python_at.expect("there")), "{stack:?}");
        assert_eq!(stack.last().map(String::as_str), Some("<module>"));
        assert_eq!(end, StackEnd::Whole, "{stack:?}");
        assert!(
            !stack.iter().any(|name| name.starts_with("(native")),
            "{stack:?}"
        );
        let inner = sites
            .frames
            .iter()
            .find(|frame| &*frame.function == "inner");
        let inner = inner.expect("there");
        assert_eq!(inner.language, Language::Native);
        assert!(
            inner.file.ends_with("/libnative_sites.so"),
            "{}",
            inner.file
        );
    }
}

#[test]
fn what_no_symbol_names_has_its_place_in_the_stripped_library() {
    let (_folder, path) = library(&STRIPPED);
    let (mut child, session) = start(&newest(), &path);
    assert_eq!(child.ask("caller 3000"), "done");
    let sites = finish(session);
    let (stack, _) = stack_with(&sites, "caller");
    assert!(stack[0].starts_with("libnative_sites.so+0x"), "{stack:?}");
    assert_eq!(stack[1..4], ["known_site", "test::Box::grow", "allocate"]);
}

#[test]
fn allocations_of_pythons_own_have_the_function_that_asked_for_them() {
    let (_folder, path) = library(&WITH_SYMBOLS);
    for python in readable() {
        eprintln!("{:?} {}", python.version, python.path.display());
        let (mut child, session) = start(&python, &path);
        assert_eq!(child.ask("own 3000"), "done");
        let sites = finish(session);
        let (stack, end) = stack_with(&sites, "own");
        eprintln!("  {stack:?}");
        let own = stack.iter().position(|name| name == "own").expect("there");
        // bytearray allocates in C, by Python's malloc, which is not shown.
        assert!(own > 0, "{stack:?}");
        assert!(!stack[0].contains("Malloc"), "{stack:?}");
        assert_eq!(end, StackEnd::Whole);
    }
}

#[test]
fn a_thread_without_a_state_in_python_has_its_whole_stack() {
    let (_folder, path) = library(&WITH_SYMBOLS);
    let (mut child, session) = start(&newest(), &path);
    assert_eq!(child.ask("in_thread 3000"), "done");
    let sites = finish(session);
    let (stack, end) = stack_with(&sites, "thread_body");
    assert_eq!(
        stack[..5],
        [
            "inner",
            "known_site",
            "test::Box::grow",
            "allocate",
            "thread_body"
        ]
    );
    assert_eq!(end, StackEnd::NoThreadState);
    // The C library's own, by which threads begin, and nothing that is missing.
    assert!((5..8).contains(&stack.len()), "{stack:?}");
    assert!(!stack.iter().any(|name| name.starts_with('(')), "{stack:?}");
}

#[test]
fn a_program_without_python_has_native_stacks() {
    let (folder, path) = library(&["-fomit-frame-pointer"]);
    let (mut child, session) = attach(Child::run(Command::new(path)).keep(folder));
    child.send("in_thread 3000 30000");
    assert_eq!(child.next_line(), "done");
    let sites = finish(session);
    let (stack, end) = stack_with(&sites, "thread_body");
    assert_eq!(stack[..2], ["inner", "known_site"]);
    assert_eq!(end, StackEnd::NoPython);
}

#[test]
fn a_stack_that_is_deeper_than_its_copy_says_so() {
    let (_folder, path) = library(&WITH_SYMBOLS);
    let (mut child, session) = start(&newest(), &path);
    assert_eq!(child.ask("deep 3000"), "done");
    assert_eq!(child.ask("shallow 3000"), "done");
    let sites = finish(session);
    let (cut, end) = stack_with(&sites, "(native stack cut)");
    let deep = cut.iter().filter(|name| *name == "deep").count();
    // The native part ends, and Python's is whole: one `deep` of these is Python's.
    assert!((8..18).contains(&deep), "{cut:?}");
    let at = cut.iter().position(|name| name == "(native stack cut)");
    let after = &cut[at.expect("there") + 1..];
    assert_eq!(after, ["deep", "<module>"]);
    assert_eq!(end, StackEnd::Whole);
    let (whole, _) = stack_with(&sites, "shallow");
    assert_eq!(whole.iter().filter(|name| *name == "deep").count(), 6);
    assert!(!whole.iter().any(|name| name.starts_with('(')), "{whole:?}");
}

#[test]
fn code_of_no_file_ends_the_native_part_and_is_reported() {
    let (_folder, path) = library(&WITH_SYMBOLS);
    let (mut child, session) = start(&newest(), &path);
    assert_eq!(child.ask("by_made_code 3000"), "done");
    let sites = finish(session);
    let (stack, _) = stack_with(&sites, "by_made_code");
    assert_eq!(
        stack,
        [
            "inner",
            "known_site",
            "test::Box::grow",
            "allocate",
            "(native code of no file)",
            "by_made_code",
            "<module>"
        ]
    );
}

#[test]
fn a_library_whose_file_was_removed_or_replaced_is_still_the_one_that_runs() {
    let (_folder, path) = library(&WITH_SYMBOLS);
    let (mut child, session) = start(&newest(), &path);
    // Another library by its name.
    let (_other, other) = library(&["-shared", "-fPIC", "-O2"]);
    std::fs::remove_file(&path).expect("it is there");
    std::fs::copy(other, &path).expect("copied");
    assert_eq!(child.ask("caller 3000"), "done");
    let sites = finish(session);
    let (stack, _) = stack_with(&sites, "caller");
    assert_eq!(
        stack[..4],
        ["inner", "known_site", "test::Box::grow", "allocate"]
    );
}

#[test]
fn what_a_handler_of_a_signal_allocates_has_the_function_that_was_interrupted() {
    let (_folder, path) = library(&WITH_SYMBOLS);
    let (mut child, session) = start(&newest(), &path);
    assert_eq!(child.ask("in_handler 3000"), "done");
    assert_eq!(child.ask("in_bare_handler 3000"), "done");
    assert_eq!(child.ask("in_handler_aside 3000"), "done");
    let sites = finish(session);
    let handled = [
        "inner",
        "known_site",
        "test::Box::grow",
        "allocate",
        "handler",
        "(signal handler called)",
    ];
    let stacks = all(&sites);
    eprintln!("{stacks:?}");
    let of = |python: &str| {
        let has = |stack: &&Vec<String>| {
            stack.get(5).is_some_and(|name| name == handled[5])
                && stack.iter().any(|name| name == python)
        };
        let found = stacks.iter().find(has);
        found.unwrap_or_else(|| panic!("none of {python}: {stacks:?}"))
    };
    let whole = of("in_handler");
    assert_eq!(whole[..6], handled);
    assert_eq!(whole[6..9], ["interrupted", "interrupt", "in_handler"]);
    assert!(
        !whole[6..].iter().any(|name| name.starts_with('(')),
        "{whole:?}"
    );
    let bare = of("in_bare_handler");
    assert_eq!(bare[..6], handled);
    let rest = [
        "(native code interrupted by a signal)",
        "in_bare_handler",
        "<module>",
    ];
    assert_eq!(bare[6..], rest);
    // Where it was interrupted is on the handler's stack, and what called that on the other, which is not copied.
    let aside = of("in_handler_aside");
    assert_eq!(aside[..6], handled);
    let rest = [
        "interrupted",
        "(native stack cut)",
        "in_handler_aside",
        "<module>",
    ];
    assert_eq!(aside[6..], rest);
}

#[test]
fn what_grows_inside_realloc_has_the_function_that_called_it() {
    let (_folder, path) = library(&WITH_SYMBOLS);
    let (mut child, session) = attach_with(run(&newest(), &path), true);
    assert_eq!(child.ask("regrow 50"), "done");
    let sites = finish(session);
    let grown = |site: &&Site| site.figures.growth.grown.value > f64::from(39u32 << 20) * 25.0;
    let grown: Vec<&Site> = sites.sites.iter().filter(grown).collect();
    let names = |site: &Site| -> Vec<String> {
        sites
            .stack(site)
            .map(|of| of.function.to_string())
            .collect()
    };
    let stacks: Vec<Vec<String>> = grown.iter().map(|site| names(site)).collect();
    eprintln!("{stacks:?}");
    let [stack] = stacks.as_slice() else {
        panic!("one function makes a mapping larger: {:?}", all(&sites));
    };
    assert_eq!(stack[0], "enlarge");
    assert!(!stack.iter().any(|name| name.starts_with('(')), "{stack:?}");
}

/// Where a process has the code of this file.
fn code_of(child: &Child, path: &Path) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.pid())).expect("it runs");
    let path = path.to_str().expect("a name");
    let line = maps
        .lines()
        .find(|line| line.contains("r-xp") && line.ends_with(path));
    let line = line.unwrap_or_else(|| panic!("no {path}: {maps}"));
    u64::from_str_radix(line.split('-').next().expect("a start"), 16).expect("a number")
}

#[test]
fn a_library_in_the_place_of_one_that_was_unloaded_is_not_taken_for_that() {
    let (_folder, path) = library(&WITH_SYMBOLS);
    let renamed = [&WITH_SYMBOLS[..], &["-Dknown_site=other_site"]].concat();
    let (_other, other) = library(&renamed);
    let mut command = Command::new(newest().path);
    command.args(["-S", "-c", PROGRAM]).args([&path, &other]);
    let (mut child, session) = attach(Child::run(command));
    assert_eq!(child.ask("caller 3000"), "done");
    let has_known = || {
        let sites = session.sites();
        let mut frames = sites.frames.iter();
        frames.any(|of| &*of.function == "known_site").then_some(())
    };
    eventually("the first library's samples", has_known);
    let place = code_of(&child, &path);
    assert_eq!(child.ask("swap 0"), "done");
    assert_eq!(
        code_of(&child, &other),
        place,
        "it took the place of the other"
    );
    // What is mapped is looked at once a second.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(child.ask("shallow 3000"), "done");
    let sites = finish(session);
    let (stack, _) = stack_with(&sites, "known_site");
    assert!(stack.contains(&"caller".to_owned()), "{stack:?}");
    let (stack, _) = stack_with(&sites, "other_site");
    assert!(stack.contains(&"shallow".to_owned()), "{stack:?}");
    let files = |name: &str| -> Vec<&str> {
        let named = sites.frames.iter().filter(|of| &*of.function == name);
        named.map(|of| &*of.file).collect()
    };
    assert_eq!(files("known_site"), [path.to_str().expect("a name")]);
    assert_eq!(files("other_site"), [other.to_str().expect("a name")]);
}

#[test]
fn what_grows_has_the_native_functions_that_asked_for_it() {
    let (_folder, path) = library(&WITH_SYMBOLS);
    let (mut child, session) = attach_with(run(&newest(), &path), true);
    assert_eq!(child.ask("grow 50"), "done");
    let sites = finish(session);
    let grown = sites.sites.iter().filter(|site| {
        let growth = site.figures.growth.grown.value;
        growth > f64::from(40u32 << 20) * 25.0
    });
    let stacks: Vec<Vec<&str>> = grown
        .map(|site| sites.stack(site).map(|of| &*of.function).collect())
        .collect();
    eprintln!("{stacks:?}");
    let [stack] = stacks.as_slice() else {
        panic!("one function maps memory: {stacks:?}");
    };
    // Neither mmap nor malloc, which all have that grow.
    let python = stack.iter().position(|name| *name == "grow");
    assert!(python > Some(0), "{stack:?}");
    for name in ["mmap", "mmap64", "malloc", "calloc"] {
        assert!(!stack.contains(&name), "{stack:?}");
    }
    assert!(!stack[0].starts_with("libc.so"), "{stack:?}");
}
