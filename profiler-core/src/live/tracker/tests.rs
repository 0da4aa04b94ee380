use super::*;
use crate::addr::RemoteAddr;

const SECOND: u64 = 1_000_000_000;

fn alloc(time_ns: u64, addr: u64, bytes: u64) -> AllocEvent {
    AllocEvent {
        time_ns,
        tid: 1,
        addr: RemoteAddr::new(addr),
        kind: AllocEventKind::Alloc {
            bytes,
            usable: true,
        },
    }
}

fn free(time_ns: u64, addr: u64) -> AllocEvent {
    AllocEvent {
        time_ns,
        tid: 2,
        addr: RemoteAddr::new(addr),
        kind: AllocEventKind::Free,
    }
}

fn tracker() -> Tracker {
    let mut tracker = Tracker::new(SECOND, u64::MAX);
    tracker.window_opened(SECOND);
    tracker
}

fn activity_at(tracker: &mut Tracker, now_ns: u64) -> Activity {
    tracker.activity(now_ns, 0, Vec::new(), ProbeCost::default(), None)
}

#[test]
fn counts_sizes_lifetimes_and_classes() {
    let mut t = tracker();
    for i in 0..100 {
        t.push(&alloc(SECOND + i, 0x1000 + i * 64, 24));
        t.push(&free(SECOND + i + 5000, 0x1000 + i * 64));
    }
    t.push(&alloc(SECOND, 0x9000, 1000));
    t.push(&free(SECOND, 0x77770));
    let a = activity_at(&mut t, 2 * SECOND);
    assert_eq!((a.allocs, a.alloc_bytes), (101, 3400));
    assert_eq!((a.frees, a.frees_of_older), (101, 1));
    assert_eq!((a.tracked_blocks, a.tracked_bytes), (1, 1000));
    assert_eq!((a.lifetimes.len(), a.sizes.len()), (100, 101));
    assert_eq!((a.lifetimes.min(), a.lifetimes.max()), (5000, 5003));
    let classes: Vec<_> = a
        .classes
        .iter()
        .map(|c| (c.class.upper_bytes(), c.allocs))
        .collect();
    assert_eq!(classes, [(32, 100), (1024, 1)]);
    let small = a.classes[0];
    assert_eq!((small.frees, small.alloc_bytes), (100, 2400));
    assert!((5000..5050).contains(&small.lifetime_p50_ns), "{small:?}");
    assert_eq!(a.classes[1].lifetime_p99_ns, 0);
}

#[test]
fn rates_are_of_the_armed_time_since_the_last_look() {
    let mut t = tracker();
    for i in 0..50 {
        t.push(&alloc(SECOND, 16 + i * 16, 100));
    }
    t.window_closed(SECOND + SECOND / 10);
    let a = activity_at(&mut t, 2 * SECOND);
    assert_eq!((a.elapsed_ns, a.armed_ns), (SECOND, SECOND / 10));
    assert!((a.alloc_rate - 500.0).abs() < 1e-6);
    assert!((a.alloc_byte_rate - 50_000.0).abs() < 1e-3);
    assert!(a.free_rate.abs() < 1e-9);

    let idle = activity_at(&mut t, 3 * SECOND);
    assert_eq!(idle.armed_ns, SECOND / 10);
    assert!(
        (idle.alloc_rate - 500.0).abs() < 1e-6,
        "no armed time: the last rate stays"
    );

    t.window_opened(4 * SECOND);
    t.push(&free(4 * SECOND, 16));
    let b = activity_at(&mut t, 4 * SECOND + SECOND / 2);
    assert_eq!(b.armed_ns, SECOND / 10 + SECOND / 2);
    assert!((b.free_rate - 2.0).abs() < 1e-6);
    assert!(b.alloc_rate.abs() < 1e-9);
    let at_once = activity_at(&mut t, 4 * SECOND + SECOND / 2 + 1000);
    assert!(at_once.armed_ns > b.armed_ns);
    assert!(
        (at_once.free_rate - 2.0).abs() < 1e-6,
        "nothing came in a microsecond"
    );
}

#[test]
fn blocks_do_not_outlive_their_window() {
    let mut t = tracker();
    t.push(&alloc(SECOND, 0x40, 32));
    t.window_closed(2 * SECOND);
    t.push(&alloc(2 * SECOND, 0x80, 32));
    assert_eq!(activity_at(&mut t, 2 * SECOND).tracked_blocks, 0);
    t.window_opened(3 * SECOND);
    t.push(&free(3 * SECOND, 0x40));
    t.push(&free(3 * SECOND, 0x80));
    let a = activity_at(&mut t, 4 * SECOND);
    assert_eq!((a.allocs, a.frees, a.frees_of_older), (2, 2, 2));
    assert_eq!(a.lifetimes.len(), 0);
}

#[test]
fn a_window_opened_twice_counts_its_time_once() {
    let mut t = tracker();
    t.window_opened(2 * SECOND);
    t.window_closed(3 * SECOND);
    t.window_closed(9 * SECOND);
    assert_eq!(activity_at(&mut t, 10 * SECOND).armed_ns, 2 * SECOND);
}

#[test]
fn a_pointer_thought_live_is_freed_first_and_has_no_lifetime() {
    let mut t = tracker();
    t.push(&alloc(SECOND, 0x40, 32));
    t.push(&alloc(SECOND + 10, 0x40, 48));
    let a = activity_at(&mut t, 2 * SECOND);
    assert_eq!((a.tracked_blocks, a.tracked_bytes, a.frees), (1, 48, 0));
    t.push(&free(SECOND + 30, 0x40));
    let a = activity_at(&mut t, 3 * SECOND);
    assert_eq!(
        (a.tracked_blocks, a.lifetimes.len(), a.lifetimes.max()),
        (0, 1, 20)
    );
}

#[test]
fn times_out_of_order_and_null_pointers_are_harmless() {
    let mut t = tracker();
    t.push(&alloc(SECOND + 100, 0x40, 32));
    t.push(&free(SECOND + 90, 0x40));
    t.push(&alloc(SECOND, 0, 32));
    t.push(&free(SECOND, 0));
    let a = activity_at(&mut t, SECOND - 1);
    assert_eq!((a.allocs, a.frees, a.frees_of_older), (1, 1, 0));
    assert_eq!((a.lifetimes.len(), a.lifetimes.max()), (1, 0));
    assert_eq!((a.elapsed_ns, a.armed_ns), (0, 0));
}

#[test]
fn extreme_sizes_and_times_saturate() {
    let mut t = tracker();
    t.push(&alloc(0, 0x40, u64::MAX));
    t.push(&alloc(0, 0x80, u64::MAX));
    t.push(&free(u64::MAX, 0x40));
    let a = activity_at(&mut t, u64::MAX);
    assert_eq!(a.alloc_bytes, u64::MAX);
    assert_eq!((a.sizes.len(), a.lifetimes.len()), (2, 1));
}

#[test]
fn blocks_beyond_the_cap_are_counted_and_said_in_words_that_stay_the_same() {
    let mut t = Tracker::new(SECOND, 2);
    t.window_opened(SECOND);
    for i in 0..2 {
        t.push(&alloc(SECOND, 0x1000 + i * 64, 24));
    }
    let a = activity_at(&mut t, 2 * SECOND);
    assert_eq!((a.tracked_blocks, a.untracked_blocks), (2, 0));
    assert_eq!(a.troubles(), Vec::<String>::new());
    let mut said = Vec::new();
    for i in 2..4 {
        t.push(&alloc(SECOND, 0x1000 + i * 64, 24));
        let a = activity_at(&mut t, 2 * SECOND);
        assert_eq!((a.tracked_blocks, a.untracked_blocks), (2, i - 1));
        assert!(a.troubles()[0].contains("not tracked"), "{a:?}");
        said.push(a.troubles());
    }
    assert_eq!(said[0], said[1]);
}
