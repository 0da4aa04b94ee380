//! A report with every field filled, for tests.

use profiler_core::allocator::AllocatorTitle;
use profiler_core::candidate::CandidateName;
use profiler_lab::ablation::GapCause;
use profiler_lab::ablation::Share;
use profiler_lab::allocators::{NoAllocator, PlayableAllocator};
use profiler_lab::calibrate::{CalibrationFactors, Point, calibrate};
use profiler_lab::figures::{Figure, PeakAndFinal};
use profiler_lab::report::{CandidateReport, Checkpoint, Measured, Report, TraceFacts, rank};
use profiler_lab::verdict::verdict;

const MIB: u64 = 1 << 20;

fn row(name: &str, peak: u64, last: (u64, u64, u64), cpu_seconds: f64) -> CandidateReport {
    let figure = |(low, bytes, high): (u64, u64, u64)| Figure {
        bytes: bytes * MIB / 10,
        low_bytes: low * MIB / 10,
        high_bytes: high * MIB / 10,
    };
    let candidate = CandidateName::parse(name);
    CandidateReport {
        allocator: match candidate {
            CandidateName::Build(build) => PlayableAllocator::of(build).ok(),
            _ => Some(PlayableAllocator::glibc()),
        },
        measured: Some(Measured {
            memory: PeakAndFinal {
                peak: figure((peak, peak, peak)),
                at_end: figure(last),
            },
            peak_is_unknown: false,
            runs: if last.0 == last.2 { 1 } else { 15 },
            cpu_seconds,
            faults: 31_234,
            kernel_calls: Some(1_207),
        }),
        checkpoints: vec![Checkpoint {
            time_ns: 90_000_000_000,
            process: 0,
            resident_bytes: last.1 * MIB / 10,
            low_bytes: last.0 * MIB / 10,
            high_bytes: last.2 * MIB / 10,
            recorded_bytes: Some(915 * MIB / 10),
            live_bytes: 254 * MIB / 10,
            on_request: true,
        }],
        ..CandidateReport::of(candidate)
    }
}

fn with(row: CandidateReport, price: &str, variables: &[(&str, &str)]) -> CandidateReport {
    let variables: Vec<(String, String)> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    CandidateReport {
        price: price.into(),
        env: variables.clone(),
        set: variables,
        ..row
    }
}

/// The JSON tasks of a worker, with all kinds of rows.
pub(super) fn full() -> Report {
    let mut report = Report {
        trace: trace_facts(),
        calibration: calibrate(
            vec![point(50, 1021, 1023), point(90, 915, 921)],
            &CalibrationFactors {
                events: 20_100_000,
                other_allocator: Some(("glibc 2.31".into(), "glibc 2.36".into())),
                ..CalibrationFactors::default()
            },
        ),
        candidates: candidates(),
        shares: vec![
            share(GapCause::DynamicThreshold, 15, 2),
            share(GapCause::ThreadCaches, 249, 11),
            share(GapCause::Untrimmed, 380, 40),
            share(GapCause::Unexplained, -15, -94),
            share(GapCause::Decay, -19, -126),
        ],
        verdict: String::new(),
        interrupted: true,
        not_confined: vec!["this kernel has no Landlock".into()],
    };
    report.verdict = verdict(&report);
    report
}

fn trace_facts() -> TraceFacts {
    TraceFacts {
        path: "worker.fragtrace".into(),
        command: Some("python3 -m celery worker".into()),
        pid: Some(4711),
        python: Some("CPython 3.11.2".into()),
        libc: Some("glibc 2.36".into()),
        malloc: Some(AllocatorTitle::parse("glibc 2.36")),
        cpus: Some(2),
        started_at: Some("2026-01-02T03:04:05Z".into()),
        format: None,
        lacks: Vec::new(),
        events: 20_100_000,
        lost: 3,
        left_out: 0,
        threads: 4,
        processes: 1,
        duration_ns: 90_000_000_000,
        has_objects: false,
        lacks_objects: false,
        trims: 0,
        peak_live_bytes: 98 * MIB,
        live_at_final_bytes: Some(60 * MIB),
        kept_bytes: Some(59 * MIB),
        checkpoints: 2,
        last_checkpoint_ns: 80_000_000_000,
        trouble: Some("the recording was cut off".to_owned().into()),
        environment_unknown: None,
        not_taken: vec!["LD_AUDIT=/tmp/a.so".into()],
        not_loaded: None,
    }
}

/// One of each kind, ranked.
fn candidates() -> Vec<CandidateReport> {
    let now = CandidateReport {
        is_baseline: true,
        ..row("baseline: glibc 2.36", 1023, (921, 921, 921), 4.0)
    };
    let trimmed = CandidateReport {
        step: Some("call malloc_trim(0) every 10 s: ctypes.CDLL(None).malloc_trim(0)".into()),
        ..with(
            row("malloc_trim each 10s", 1010, (283, 283, 283), 4.4),
            "a walk",
            &[],
        )
    };
    let same = CandidateReport {
        same_as_now: Some("the program has one thread, so one arena".into()),
        measured: now.measured,
        ..row("arena_max=1", 0, (0, 0, 0), 0.0)
    };
    let failed = CandidateReport {
        measured: None,
        failure: Some(
            NoAllocator::NotInstalled {
                package: "libtcmalloc-minimal4",
            }
            .into(),
        ),
        ..row("tcmalloc", 0, (0, 0, 0), 0.0)
    };
    let mut all = vec![
        now,
        with(
            row("tcache_count=0", 1012, (657, 657, 657), 4.9),
            "slower malloc and free",
            &[("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")],
        ),
        trimmed,
        same,
        CandidateReport {
            unset: vec!["MALLOC_CONF".into()],
            ..with(
                row("jemalloc", 1190, (296, 311, 352), 3.2),
                "a library to install",
                &[("LD_PRELOAD", "libjemalloc.so.2")],
            )
        },
        row("mimalloc", 1303, (841, 902, 933), 2.4),
        failed,
    ];
    rank(&mut all);
    all
}

fn point(seconds: u64, recorded: u64, replayed: u64) -> Point {
    Point {
        time_ns: seconds * 1_000_000_000,
        process: 0,
        recorded_bytes: Some(recorded * MIB / 10),
        replayed_bytes: replayed * MIB / 10,
    }
}

fn share(cause: GapCause, last: i64, peak: i64) -> Share {
    Share {
        cause,
        bytes: PeakAndFinal { peak, at_end: last }.map(|bytes| bytes * MIB as i64 / 10),
    }
}
