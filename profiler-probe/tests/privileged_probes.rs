//! Probes on real processes. These tests need root (or the capabilities that `fragscope doctor`
//! names) and fail without.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::gettid;
use profiler_core::activity::{Activity, ProbeState};
use profiler_probe::plan::ProbePlan;
use profiler_probe::support::ProbeLinks;
use profiler_probe::{Budget, ProbeError, ProbeSession};
use profiler_target::Target;
use profiler_testing::calls::Calls;
use profiler_testing::wait::promptly;

fn plan(calls: &Calls) -> ProbePlan {
    let target = Target::open(calls.pid()).expect("it runs");
    ProbePlan::for_target(&target).expect("a plan")
}

fn attach(calls: &Calls, budget: Budget) -> ProbeSession {
    ProbeSession::attach(calls.pid(), &plan(calls), budget).expect("probes")
}

fn hits(activity: &Activity) -> u64 {
    activity.probes.iter().map(|probe| probe.hits).sum()
}

/// Sends SIGUSR1, which does nothing, to this thread as often as it can, while `run` runs.
fn under_signals<R>(run: impl FnOnce() -> R) -> R {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler = SigHandler::Handler(nothing);
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, which it may do at any instant.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("set");
    let (process, thread) = (std::process::id() as i32, gettid().as_raw());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // SAFETY: takes numbers, of a thread that waits for this one.
                unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
            }
        });
        let result = run();
        is_over.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn signals_while_the_kernel_is_asked_change_nothing_of_how_probes_are_attached() {
    let links = ProbeLinks::of_this_kernel();
    under_signals(|| {
        for _ in 0..200 {
            assert_eq!(ProbeLinks::of_this_kernel(), links);
        }
    });
}

#[test]
fn every_call_of_every_thread_is_counted_once() {
    let mut calls = Calls::start();
    let session = attach(&calls, Budget::Unlimited);
    let expected = calls.run(500);
    let seen = session.detach();
    for probe in &seen.probes {
        eprintln!(
            "{} {} {} {:?}",
            probe.function, probe.site, probe.hits, probe.state
        );
    }
    assert_eq!(seen.events_lost, 0);
    assert_eq!([seen.allocs, seen.frees, seen.alloc_bytes], expected);
    assert_eq!(seen.frees_of_older, 0);
    assert!(
        seen.probes
            .iter()
            .all(|probe| probe.state == ProbeState::Firing)
    );
}

#[test]
fn an_allocator_that_no_one_knows_is_counted_by_its_arguments() {
    let mut calls = Calls::start_with_bump();
    let plan = plan(&calls);
    assert!(plan.object.target_path().ends_with("bump.so") && !plan.object.chunk_header());
    let session = attach(&calls, Budget::Unlimited);
    let [allocs, frees, _] = calls.run(50);
    let seen = session.detach();
    for probe in &seen.probes {
        eprintln!(
            "{} {} {} {:?}",
            probe.function, probe.site, probe.hits, probe.state
        );
    }
    assert_eq!(
        [seen.allocs, seen.frees, seen.events_lost],
        [allocs, frees, 0]
    );
    let requested = seen.sizes.max();
    assert!((400_000..=401_000).contains(&requested), "{requested}");
}

#[test]
fn what_still_lives_is_tracked_and_a_window_begins_anew() {
    let mut calls = Calls::start();
    for _ in 0..3 {
        let session = attach(&calls, Budget::Unlimited);
        let expected = calls.run(20);
        let seen = session.detach();
        assert_eq!([seen.allocs, seen.frees, seen.alloc_bytes], expected);
        assert_eq!(seen.lifetimes.len(), seen.frees);
    }
}

#[test]
fn a_silent_probe_is_told_so() {
    let calls = Calls::start();
    let session = attach(&calls, Budget::Unlimited);
    let seen = session.activity();
    assert!(
        seen.probes
            .iter()
            .all(|probe| probe.state == ProbeState::Silent)
    );
    assert_eq!((seen.allocs, hits(&seen)), (0, 0));
    assert!(seen.cost.ns_per_hit > 0.0);
}

#[test]
fn a_probe_that_the_kernel_refuses_is_told_and_the_others_count() {
    let mut calls = Calls::start();
    let mut plan = plan(&calls);
    let is_free = |function: &str| function == "free";
    let free = plan.probes.iter_mut().find(|p| is_free(p.function.name()));
    let site = free.and_then(|probe| probe.entry.as_mut());
    site.expect("free is planned").file_offset = 1 << 40;
    let session =
        ProbeSession::attach(calls.pid(), &plan, Budget::Unlimited).expect("the other probes");
    let [allocs, _, bytes] = calls.run(20);
    let seen = session.detach();
    assert_eq!([seen.allocs, seen.alloc_bytes], [allocs, bytes]);
    for probe in &seen.probes {
        match &probe.state {
            ProbeState::Failed(why) if is_free(&probe.function) => {
                assert_eq!(why, "the kernel refuses this instruction");
            }
            state => assert_eq!(*state, ProbeState::Firing, "{}", probe.function),
        }
    }
}

#[test]
fn a_full_ring_loses_events_and_counts_them() {
    let mut calls = Calls::start();
    let plan = plan(&calls);
    let session = ProbeSession::attach_with_ring(calls.pid(), &plan, Budget::Unlimited, 4096)
        .expect("probes");
    let pairs = 200_000;
    assert_eq!(calls.ask(&format!("spin {pairs}")), "spun");
    let seen = session.detach();
    assert!(seen.events_lost > 0);
    assert_eq!(seen.allocs + seen.frees + seen.events_lost, 3 * 2 * pairs);
}

#[test]
fn the_budget_bounds_what_a_busy_target_pays() {
    let share = 0.05;
    let mut calls = Calls::start();
    let start = Instant::now();
    let session = attach(&calls, Budget::Share(share));
    let spent =
        |seen: &Activity| seen.cost.hits as f64 * seen.cost.ns_per_hit / seen.elapsed_ns as f64;
    // One window may be spent ahead: two seconds' earnings.
    let allowed = |seen: &Activity| share * (1.0 + 2e9 / seen.elapsed_ns as f64);
    let is_over = |seen: &Activity| spent(seen) > allowed(seen) || seen.cost.share > share * 1.1;
    let mut seen = session.activity();
    // Where processors are busy a window closes late; what it then spent too much is earned back
    // before the next one opens, and until then the share of the first is above the budget.
    while start.elapsed() < Duration::from_secs(8)
        || is_over(&seen) && start.elapsed() < Duration::from_secs(120)
    {
        assert_eq!(calls.ask("spin 100000"), "spun");
        seen = session.activity();
    }
    let seen = session.detach();
    eprintln!(
        "armed {} of {} ms, {} hits of {:.0} ns, share {:.4}, {} allocs",
        seen.armed_ns / 1_000_000,
        seen.elapsed_ns / 1_000_000,
        seen.cost.hits,
        seen.cost.ns_per_hit,
        seen.cost.share,
        seen.allocs
    );
    assert!(spent(&seen) <= allowed(&seen), "{}", spent(&seen));
    assert!(seen.cost.share <= share * 1.1, "{}", seen.cost.share);
    assert!(seen.allocs > 0 && seen.armed_ns > 0 && seen.armed_ns < seen.elapsed_ns);
    assert_eq!(seen.events_lost, 0);
}

/// Some calls, twenty times a second.
fn call_at_a_steady_pace(calls: &mut Calls, seconds: u64, mut each: impl FnMut()) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        assert_eq!(calls.ask("spin 500"), "spun");
        std::thread::sleep(Duration::from_millis(50));
        each();
    }
}

#[test]
fn no_share_above_the_budget_is_reported_from_the_first_seconds_on() {
    let mut calls = Calls::start();
    let session = attach(&calls, Budget::Unlimited);
    call_at_a_steady_pace(&mut calls, 3, || {});
    // A little less than it would take: a window that spends no more ahead than it may is long.
    let share = 0.8 * session.detach().cost.share;
    let session = attach(&calls, Budget::Share(share));
    let mut most = 0.0f64;
    call_at_a_steady_pace(&mut calls, 6, || {
        most = most.max(session.activity().cost.share);
    });
    eprintln!("share {share:.4}, at most {most:.4}");
    // A window opens a moment after all is earned.
    assert!(most > 0.0 && most <= share * 1.1, "{most} of {share}");
}

#[test]
fn a_quiet_target_stays_watched_within_the_budget() {
    let mut calls = Calls::start();
    let session = attach(&calls, Budget::Share(0.05));
    let expected = calls.run(5);
    let seen = session.detach();
    assert_eq!([seen.allocs, seen.frees, seen.alloc_bytes], expected);
}

#[test]
fn detaching_leaves_the_code_as_it_was() {
    let mut calls = Calls::start();
    let before = calls.code();
    let session = attach(&calls, Budget::Unlimited);
    assert_ne!(calls.code(), before, "breakpoints");
    calls.run(10);
    drop(session);
    assert!(calls.code() == before);
    let session = attach(&calls, Budget::Unlimited);
    let panicked = std::thread::spawn(move || {
        let _session = session;
        std::panic::resume_unwind(Box::new("a panic with probes attached"));
    });
    assert!(panicked.join().is_err());
    assert!(calls.code() == before);
    calls.run(10);
}

#[test]
fn a_forked_child_is_not_counted_and_runs() {
    let mut calls = Calls::start();
    let session = attach(&calls, Budget::Unlimited);
    let expected = calls.run(3);
    assert_eq!(calls.ask("fork 10000"), "forked");
    let seen = session.detach();
    assert_eq!([seen.allocs, seen.frees, seen.alloc_bytes], expected);
}

#[test]
fn a_target_that_dies_ends_the_session() {
    let mut calls = Calls::start();
    let session = attach(&calls, Budget::Unlimited);
    calls.send("spin 100000000");
    calls.kill();
    let ended = promptly("the session's end", || session.activity().ended.clone());
    assert_eq!(ended, "the target has exited");
    let plan_of_gone =
        ProbePlan::for_target(&Target::open(std::process::id().cast_signed()).expect("self"));
    let gone = ProbeSession::attach(
        calls.pid(),
        &plan_of_gone.expect("a plan"),
        Budget::Unlimited,
    );
    assert!(matches!(gone, Err(ProbeError::Gone(pid)) if pid == calls.pid()));
}
