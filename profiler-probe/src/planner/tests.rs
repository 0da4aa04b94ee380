//! Plans for real processes of this user, synchronised by a handshake: a child echoes a line once
//! its loader is done.

use profiler_target::Process;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use profiler_core::allocator::AllocatorTitle;
use profiler_core::heap::Allocator;
use profiler_core::memory::MemoryImage;

use super::*;
use crate::plan::{ResultSite, Site};

fn plan_with(pid: u32, auxv: &[u8]) -> Result<ProbePlan, PlanError> {
    let target = open(pid);
    ProbePlan::from_inputs(&Inputs {
        mappings: &target.mappings().expect("maps"),
        auxv,
        memory: &target.memory(),
        target: &target,
    })
}

fn plan(pid: u32) -> Result<ProbePlan, PlanError> {
    ProbePlan::for_target(&open(pid))
}

fn open(pid: u32) -> Target {
    Target::open(pid.cast_signed()).expect("a process of this user")
}

/// A `cat` under `preload` that has echoed a line, so that its loader is done.
struct Cat(Child);

impl Cat {
    fn start(preload: Option<&Path>) -> Self {
        let mut command = Command::new("cat");
        if let Some(preload) = preload {
            command.env("LD_PRELOAD", preload);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cat");
        let stdin = child.stdin.as_mut().expect("stdin");
        stdin.write_all(b"ready\n").expect("write");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("stdout"))
            .read_line(&mut line)
            .expect("read");
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Cat {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("cat ends with its input");
    }
}

fn sites(probe: &PlannedProbe) -> Vec<&Site> {
    let result = match &probe.result {
        ResultSite::None => Vec::new(),
        ResultSite::Jumps(sites) => sites.iter().collect(),
        ResultSite::Return(site) => vec![site],
    };
    probe.entry.iter().chain(result).collect()
}

#[test]
fn this_process_is_served_by_its_libc_at_emulated_sites() {
    let plan = plan(std::process::id()).expect("a plan");
    eprintln!(
        "{}: {}",
        plan.object.target_path(),
        plan.object.identity.title()
    );
    assert!(plan.object.identity.kind.is_some(), "{:?}", plan.object);
    let functions: Vec<Function> = plan
        .probes
        .iter()
        .flat_map(|p| [&[p.function], p.aliases.as_slice()].concat())
        .collect();
    for function in [
        Function::Malloc,
        Function::Calloc,
        Function::Realloc,
        Function::Free,
    ] {
        assert!(functions.contains(&function), "{function}");
    }
    if plan.object.identity.title().to_string() == "glibc 2.36" {
        for probe in &plan.probes[..2] {
            assert!(matches!(&probe.result, ResultSite::Jumps(_)), "{probe:?}");
        }
    }
    let file = fs::read(&plan.object.host_path).expect("the file");
    for probe in &plan.probes {
        for site in sites(probe) {
            eprintln!("{} {site}", probe.function);
            assert!((site.file_offset as usize) < file.len());
            // glibc's reallocarray multiplies its arguments away before any jump or push; the calls
            // are rare.
            assert!(
                site.emulated
                    || probe.function == Function::Reallocarray
                    || plan.object.identity.kind != Some(Allocator::Glibc),
                "{} {site}",
                probe.function
            );
        }
    }
}

#[test]
fn one_address_is_probed_once() {
    let plan = plan(std::process::id()).expect("a plan");
    let mut seen: Vec<u64> = plan
        .probes
        .iter()
        .map(|p| {
            let site = sites(p)[0];
            site.file_offset.wrapping_sub(site.offset_in_function)
        })
        .collect();
    seen.sort_unstable();
    let all = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), all);
}

#[test]
fn without_the_loaders_list_the_order_of_the_maps_finds_the_same() {
    let by_chain = plan(std::process::id()).expect("a plan");
    let by_maps = plan_with(std::process::id(), &[]).expect("a plan");
    assert_eq!(by_chain, by_maps);
}

#[test]
fn a_preloaded_allocator_wins() {
    let directory = Path::new("/usr/lib/x86_64-linux-gnu");
    let allocators = [
        ("libjemalloc.so.2", Allocator::Jemalloc),
        ("libmimalloc.so.2.0", Allocator::Mimalloc),
        ("libtcmalloc_minimal.so.4", Allocator::Tcmalloc),
    ];
    for (file, allocator) in allocators {
        let path = directory.join(file);
        if !path.exists() {
            eprintln!("{file} is not installed here");
            continue;
        }
        let cat = Cat::start(Some(&path));
        let plan = plan(cat.0.id()).expect("a plan");
        assert_eq!(plan.object.identity.kind, Some(allocator));
        assert!(!plan.object.chunk_header());
        for probe in &plan.probes {
            assert!(probe.entry.is_some(), "sizes are known only from arguments");
            for site in sites(probe) {
                eprintln!("{file} {} {site}", probe.function);
            }
        }
    }
}

#[test]
fn another_process_is_seen_as_it_is() {
    let cat = Cat::start(None);
    let other = plan(cat.0.id()).expect("a plan");
    let own = plan(std::process::id()).expect("a plan");
    assert_eq!(other.object.identity, own.object.identity);
    assert_eq!(other.probes, own.probes);
}

#[test]
fn a_process_that_maps_no_file_has_no_malloc() {
    let result = ProbePlan::from_inputs(&Inputs {
        mappings: &[],
        auxv: &[],
        memory: &MemoryImage::default(),
        target: &open(std::process::id()),
    });
    assert!(matches!(result, Err(PlanError::NoMalloc)));
}

/// What malloc calls are bound to, by the report's description and by the plan, under `preload` and with
/// `library` loaded later; a library loads by its name alone.
fn serving_with(preload: &str, library: &str) -> (Option<Allocator>, Option<Allocator>) {
    let program = format!("import ctypes; ctypes.CDLL('{library}'); print('ready'); input()");
    let mut command = Command::new("python3");
    command.args(["-c", &program]).env("LD_PRELOAD", preload);
    let child = profiler_testing::child::Child::run(command);
    assert_eq!(child.first_line(), "ready");
    let target = open(child.pid().cast_unsigned());
    let described = target
        .describe()
        .expect("it runs")
        .malloc
        .expect("it is dynamic");
    let plan = ProbePlan::for_target(&target).expect("a plan");
    let objects = target.allocator_objects().expect("it runs");
    let serving = objects.iter().map(|object| &object.identity);
    let serving: Vec<_> = serving
        .filter(|identity| identity.serves_malloc())
        .collect();
    let kinds: Vec<_> = serving.iter().map(|identity| identity.kind).collect();
    let planned = plan.object.identity.kind;
    match planned {
        Some(Allocator::Glibc) => assert_eq!(kinds, [], "nothing but glibc serves malloc"),
        other => assert_eq!(kinds, [other], "one alone serves malloc"),
    }
    let described = match described {
        AllocatorTitle::Known { kind, .. } => Some(kind),
        AllocatorTitle::Other(_) => None,
    };
    (described, planned)
}

#[test]
fn an_allocator_that_is_loaded_later_or_behind_another_serves_no_malloc_call_in_report_and_plan_alike()
 {
    let (mimalloc, tcmalloc) = ("libmimalloc.so.2", "libtcmalloc_minimal.so.4");
    for (preload, library, serves) in [
        ("", mimalloc, Allocator::Glibc),
        ("", tcmalloc, Allocator::Glibc),
        (
            "libmimalloc.so.2 libjemalloc.so.2",
            "libc.so.6",
            Allocator::Mimalloc,
        ),
        (
            "libjemalloc.so.2 libmimalloc.so.2",
            "libc.so.6",
            Allocator::Jemalloc,
        ),
        (mimalloc, tcmalloc, Allocator::Mimalloc),
    ] {
        let found = serving_with(preload, library);
        assert_eq!(found, (Some(serves), Some(serves)), "{preload} {library}");
    }
}
