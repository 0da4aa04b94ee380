//! Study: seeds of a process under allocators.
use profiler_lab::allocators::Allocator;
use profiler_lab::play::{Program, Setup, play};
use profiler_lab::seed::*;
use profiler_sampling::{Manner, Sampler};
use profiler_trace::compile::Summary;
use profiler_trace::limits::Meter;
use std::time::Instant;

fn main() {
    let pid: i32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let sampler = Sampler::open(pid).unwrap();
    let sample = sampler
        .take(Manner {
            stop: true,
            swap_in: false,
            max_stop: std::time::Duration::from_secs(60),
        })
        .unwrap();
    let heap = SeedHeap::of(&sample).unwrap();
    let mib = |b: u64| b as f64 / 1048576.0;
    let malloc = profiler_core::metrics::malloc_resident(&sample.residency, &sample.heaps);
    println!(
        "measured {:.1} malloc_resident {:.1} arenas {} threshold {:?} trim {:?}",
        mib(measured_bytes(&sample).unwrap()),
        mib(malloc.resident_bytes),
        heap.arenas().len(),
        heap.setting("mmap_threshold"),
        heap.setting("trim_threshold")
    );
    use Overlap::*;
    let fills = [
        ("dense", Fill::Dense, FreeOrder::Random, Together),
        ("whole", Fill::Whole, FreeOrder::Random, Together),
        ("exact", Fill::Exact, FreeOrder::Random, Together),
        ("neigh", Fill::Neighbours, FreeOrder::Random, Together),
        ("neigh 1by1", Fill::Neighbours, FreeOrder::Random, OneByOne),
        ("neigh lifo", Fill::Neighbours, FreeOrder::Reverse, Together),
    ];
    let g = |e: &[(&str, &str)]| {
        (
            None,
            e.iter()
                .map(|(a, b)| (a.to_string(), b.to_string()))
                .collect::<Vec<_>>(),
        )
    };
    let a = |n: &str, e: &[(&str, &str)]| {
        (
            Allocator::find(n).ok().and_then(|a| a.object),
            e.iter()
                .map(|(a, b)| (a.to_string(), b.to_string()))
                .collect::<Vec<_>>(),
        )
    };
    let setups = [
        ("glibc", g(&[]), false),
        ("thresh", g(&[("MALLOC_MMAP_THRESHOLD_", "131072")]), false),
        (
            "trim_thr",
            g(&[
                ("MALLOC_MMAP_THRESHOLD_", "33554432"),
                ("MALLOC_TRIM_THRESHOLD_", "131072"),
            ]),
            false,
        ),
        ("arena1", g(&[("MALLOC_ARENA_MAX", "1")]), false),
        ("arena2", g(&[("MALLOC_ARENA_MAX", "2")]), false),
        (
            "tcache0",
            g(&[("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")]),
            false,
        ),
        ("trim", g(&[]), true),
        ("je", a("jemalloc", &[]), false),
        (
            "je530",
            a("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", &[]),
            false,
        ),
        ("mi", a("mimalloc", &[]), false),
        (
            "mi209",
            a("/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0", &[]),
            false,
        ),
        ("tc", a("tcmalloc", &[]), false),
    ];
    print!("{:<12}", "");
    for (n, ..) in &setups {
        print!("{n:>9}");
    }
    println!();
    for (name, fill, order, overlap) in fills {
        let t = Instant::now();
        let options = SeedOptions {
            fill,
            order,
            overlap,
            random: 1,
            slack: 8,
            ..Default::default()
        };
        let program = Program::of_operations(Meter::default(), |sink| {
            let w = write(&heap, &options, sink)?;
            Ok(Summary {
                threads: w.threads,
                slots: w.slots.into(),
                peak_live_bytes: w.peak_bytes,
                ..Summary::default()
            })
        })
        .unwrap();
        let wrote = t.elapsed();
        let t = Instant::now();
        print!("{name:<12}");
        for (_, (object, env), trim) in &setups {
            let setup = Setup {
                preload: object.clone(),
                env: env.clone(),
                trim_at_checkpoints: *trim,
                cpus: Some(2),
                ..Setup::default()
            };
            match play(&program, &setup, &|_| true) {
                Ok(p) => print!("{:>9.1}", mib(p.rest_bytes)),
                Err(e) => print!("  {e}"),
            }
        }
        println!(
            "   ops {} wrote {wrote:.1?} played {:.1?}",
            program.published(),
            t.elapsed()
        );
    }
}
