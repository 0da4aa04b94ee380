use EventKind as K;
use SourceKind as S;

use super::*;
use crate::trace::By;

/// The highest number that the kernel gives to a process.
const HIGHEST_PID: u64 = 1 << profiler_common::PID_BITS;
const FREE: S = S::Event(K::Free { addr: 0x10 });

fn of(process: u64, thread: u64, kind: impl Into<S>) -> SourceEvent {
    SourceEvent {
        time_ns: 1000,
        process,
        thread,
        kind: kind.into(),
    }
}

fn forking(fork: u64) -> S {
    S::Forking { fork }
}

/// The first event of a child of thread 7 of process 7.
fn forked(fork: u64) -> S {
    S::Forked {
        process: 7,
        thread: 7,
        fork,
    }
}

fn play(all: &[SourceEvent]) -> Vec<(u32, u32, EventKind)> {
    let mut normaliser = Normaliser::new(Clock::new(1000, 1));
    let mut events = Vec::new();
    for event in all {
        normaliser.push(event, |process, event| {
            events.push((process, event.thread, event.kind));
        });
    }
    events
}

#[test]
fn a_forked_child_is_a_process_of_its_own_even_when_its_parent_comes_first() {
    let events = play(&[
        of(7, 7, S::Start),
        of(7, 7, forking(1)),
        of(7, 7, FREE),
        of(8, 8, forked(1)),
        of(8, 8, FREE),
        of(8, 9, FREE),
    ]);
    let fork = EventKind::Fork {
        process: 1,
        child: 1,
    };
    let free = EventKind::Free { addr: 0x10 };
    assert_eq!(
        events,
        [
            (0, 0, fork),
            (0, 0, free),
            (1, 1, free),
            (1, 2, EventKind::Begin { process: 1 }),
            (1, 2, free),
        ]
    );
}

#[test]
fn a_child_takes_the_place_of_no_other_whose_fork_failed() {
    let late = 1000 + 10_000_000_000;
    let after = |time_ns, event| SourceEvent { time_ns, ..event };
    let events = play(&[
        of(7, 7, S::Start),
        of(7, 7, forking(1)),
        of(7, 7, forking(2)),
        of(8, 8, forked(2)),
        of(8, 8, FREE),
        after(late - 1, of(7, 7, FREE)),
        after(late, of(7, 7, FREE)),
        // What was given up is another program when it comes after all.
        after(late, of(9, 9, forked(1))),
    ]);
    let fork = |child| K::Fork {
        process: child,
        child,
    };
    let free = K::Free { addr: 0x10 };
    assert_eq!(
        events,
        [
            (0, 0, fork(1)),
            (0, 0, fork(2)),
            (2, 2, free),
            (0, 0, free),
            (1, 1, K::Exit),
            (0, 0, free),
            (3, 3, K::Begin { process: 3 }),
        ]
    );
}

#[test]
fn a_number_that_is_used_again_has_no_children_of_the_process_before() {
    let events = play(&[
        of(7, 7, S::Start),
        of(7, 7, forking(1)),
        of(7, 7, K::Exit),
        of(7, 7, S::Start),
        of(7, 7, forking(1)),
        of(8, 8, forked(1)),
        of(8, 8, FREE),
    ]);
    let fork = |process, child| K::Fork { process, child };
    assert_eq!(
        events,
        [
            (0, 0, fork(1, 1)),
            (0, 0, K::Exit),
            (2, 2, K::Begin { process: 2 }),
            (2, 2, fork(3, 3)),
            (3, 3, K::Free { addr: 0x10 }),
        ]
    );
}

#[test]
fn events_of_a_process_after_its_end_are_counted() {
    let mut normaliser = Normaliser::new(Clock::new(1000, 1));
    let mut emitted = 0;
    for event in [
        of(7, 7, FREE),
        of(7, 7, K::Exit),
        of(7, 7, FREE),
        of(7, 8, FREE),
        of(7, 7, K::Exit),
    ] {
        normaliser.push(&event, |_, _| emitted += 1);
    }
    assert_eq!(emitted, 2);
    assert_eq!(normaliser.left_out().after_exit, 3);
    let lost = normaliser.take_pending_losses().map(|event| event.kind);
    assert_eq!(lost, Some(K::Lost { events: 3 }));
    assert_eq!(normaliser.take_pending_losses(), None);
}

#[test]
fn an_exec_keeps_the_process_and_ends_its_other_threads() {
    let free = EventKind::Free { addr: 0x10 };
    let events = play(&[
        of(7, 7, S::Start),
        of(7, 9, FREE),
        of(7, 7, S::Start),
        of(7, 9, FREE),
    ]);
    assert_eq!(
        events,
        [(0, 1, free), (0, 0, EventKind::Exec), (0, 2, free)]
    );
}

#[test]
fn a_program_that_was_spawned_is_a_new_process_and_ends_once() {
    let events = play(&[
        of(7, 7, S::Start),
        of(8, 8, S::Start),
        of(8, 8, K::Exit),
        of(8, 8, FREE),
    ]);
    assert_eq!(
        events,
        [
            (1, 1, EventKind::Begin { process: 1 }),
            (1, 1, EventKind::Exit)
        ]
    );
    let mut normaliser = Normaliser::new(Clock::new(0, 1));
    normaliser.push(&of(7, 7, S::Start), |_, _| {});
    assert!(normaliser.gone(7, 5).is_some());
    assert!(normaliser.gone(7, 5).is_none());
    assert!(normaliser.running().is_empty());
}

#[test]
fn threads_are_numbered_as_they_appear_and_end_once() {
    let mut normaliser = Normaliser::for_lossy_source(Clock::new(0, 1), &[]);
    let mut seen = Vec::new();
    normaliser.number_threads(7, &[Some(80), None], |event| seen.push(event.thread));
    let alloc = K::Alloc {
        addr: 0x10,
        bytes: 8,
        align: 0,
        by: By::Malloc,
    };
    for kind in [alloc, K::ThreadEnd, K::ThreadEnd, alloc] {
        normaliser.push(&of(7, 70, kind), |_, event| seen.push(event.thread));
    }
    assert_eq!(seen, [1, 2, 2, 3, 3]);
}

#[test]
fn time_is_in_steps_and_never_goes_back() {
    let mut normaliser = Normaliser::new(Clock::new(1000, 1000));
    let mut times = Vec::new();
    for time_ns in [500, 3999, 2999, 4000] {
        let event = SourceEvent {
            time_ns,
            ..of(1, 1, FREE)
        };
        normaliser.push(&event, |_, event| times.push(event.time_ns));
    }
    assert_eq!(times, [0, 2000, 2000, 3000]);
}

#[test]
fn a_flood_of_forged_processes_and_threads_meets_a_limit_and_costs_little() {
    let mut normaliser = Normaliser::new(Clock::new(0, 1));
    for pid in 1..=HIGHEST_PID / 4 {
        for kind in [S::Start, forking(1), K::ThreadEnd.into()] {
            normaliser.push(&of(pid, pid, kind), |_, _| {});
        }
    }
    for tid in 1..=HIGHEST_PID / 4 {
        normaliser.push(&of(1, tid, FREE), |_, _| {});
    }
    normaliser.numbers.check();
    assert_eq!(normaliser.running().len(), super::super::MAX_PROCESSES);
    assert!(normaliser.left_out().beyond_limit > 1_000_000);
    // An end makes room.
    normaliser.push(&of(1, 1, K::Exit), |_, _| {});
    let mut begun = 0;
    normaliser.push(&of(HIGHEST_PID, 1, FREE), |_, _| begun += 1);
    assert_eq!(begun, 2, "it begins and frees");
    normaliser.numbers.check();
}

#[test]
fn tables_give_back_their_room_when_threads_end_and_children_begin() {
    let mut normaliser = Normaliser::new(Clock::new(0, 1));
    let mut push = |process, thread, kind: S| {
        normaliser.push(&of(process, thread, kind), |_, _| {});
    };
    const THREADS: u64 = 100_000;
    for pid in 1..=16 {
        for tid in 1..=THREADS {
            push(pid, tid, FREE);
        }
        for tid in 2..=THREADS {
            push(pid, tid, K::ThreadEnd.into());
        }
        for fork in 0..THREADS {
            push(pid, 1, forking(fork));
        }
        let (process, thread) = (pid, 1);
        for fork in 1..THREADS {
            let forked = S::Forked {
                process,
                thread,
                fork,
            };
            push(1000, 1000, forked);
        }
    }
    assert!(
        normaliser.table_bytes() < 10_000,
        "{}",
        normaliser.table_bytes()
    );
    normaliser.numbers.check();
}

#[test]
fn forked_children_meet_the_limit_of_threads_too() {
    let mut normaliser = Normaliser::new(Clock::new(0, 1));
    for tid in 1..=super::super::MAX_THREADS as u64 {
        normaliser.push(&of(1, tid, FREE), |_, _| {});
    }
    let (process, thread) = (1, 1);
    for pid in 2..100 {
        let fork = pid;
        normaliser.push(&of(1, 1, forking(fork)), |_, _| {});
        let forked = S::Forked {
            process,
            thread,
            fork,
        };
        normaliser.push(&of(pid, pid, forked), |_, _| {});
    }
    normaliser.numbers.check();
    assert_eq!(normaliser.running().len(), 1);
    assert_eq!(normaliser.left_out().beyond_limit, 98);
}
