use super::*;
use crate::memory::MemoryImage;

/// The course and the pace of these counts, five a second.
fn drawn(lengths: &[u64]) -> Option<(Course, Pace)> {
    every(200_000_000, lengths)
}

fn every(step_ns: u64, lengths: &[u64]) -> Option<(Course, Pace)> {
    let counts = (0..)
        .zip(lengths)
        .map(|(at, length)| (at * step_ns, *length));
    Course::of(&counts.collect::<Vec<_>>())
}

fn course(lengths: &[u64]) -> Option<Course> {
    drawn(lengths).map(|(course, _)| course)
}

#[test]
fn a_course_is_that_of_all_counts_and_not_of_the_first_and_the_last() {
    assert_eq!(course(&[10, 20, 30, 40, 50, 60]), Some(Course::Rises));
    assert_eq!(course(&[10, 20, 19, 40, 50, 60]), Some(Course::Rises));
    assert_eq!(course(&[60, 50, 40, 30, 20, 10]), Some(Course::Falls));
    // It is emptied at every fourth count.
    let sawtooth: Vec<u64> = (0..25).map(|at| at % 4 * 5000).collect();
    assert_eq!(course(&sawtooth), Some(Course::UpAndDown));
    let back: Vec<u64> = sawtooth.iter().rev().copied().collect();
    assert_eq!(course(&back), Some(Course::UpAndDown));
    assert_eq!(
        course(&sawtooth[..14]),
        Some(Course::Swings),
        "too few turns"
    );
    let by_chance = [
        100, 9000, 15_000, 4000, 9000, 14_000, 3000, 8000, 13_000, 200, 9000, 15_000, 3900, 9000,
    ];
    assert_eq!(course(&by_chance), Some(Course::Swings));
    let expired: Vec<u64> = (0..25).map(|at| 20_000 + 400 * (at % 3)).collect();
    assert_eq!(course(&expired), Some(Course::UpAndDown));
}

#[test]
fn what_gained_once_or_was_hardly_counted_has_no_course() {
    assert_eq!(course(&[10, 10, 10, 10, 10, 60, 60]), None, "one step");
    assert_eq!(course(&[10, 10, 10, 10, 10, 10]), None);
    assert_eq!(course(&[10, 20, 30]), None);
    assert_eq!(course(&[]), None);
    assert_eq!(
        course(&[128, 127, 128, 128, 127, 128]),
        None,
        "a full cache"
    );
}

/// What is said of a leak of so many items a second below a sawtooth, counted 20 times a second.
fn below(
    leak: u64,
    swing: u64,
    period_ms: u64,
    seconds: u64,
    phase_ms: u64,
) -> Option<(Course, Pace)> {
    let at = |ms: u64| 20_000 + leak * ms / 1000 + (ms + phase_ms) % period_ms * swing / period_ms;
    let counts: Vec<u64> = (0..=seconds * 20).map(|nth| at(nth * 50)).collect();
    every(50_000_000, &counts)
}

#[test]
fn what_only_rises_is_the_rate_of_a_leak_below_a_swing() {
    // Leak a second, swing, its period in ms, how long it is looked at.
    let all = [
        (400, 10_000, 1300, 8),
        (600, 6000, 1000, 8),
        (600, 6000, 1000, 5),
        (1000, 3000, 700, 5),
        (1500, 25_000, 2300, 5),
        (300, 5000, 2300, 5),
        (300, 2000, 1000, 5),
        (800, 8000, 7000, 20),
        (2000, 3000, 3100, 8),
        (100, 50, 900, 5),
    ];
    let mut said = 0;
    for (leak, swing, period, seconds) in all {
        for phase in (0..period).step_by(100) {
            let what = format!("{leak} below {swing} in {period} ms, {seconds} s, {phase}");
            let Some((course, pace)) = below(leak, swing, period, seconds, phase) else {
                continue;
            };
            assert_ne!(course, Course::UpAndDown, "{what}");
            assert_ne!(course, Course::Falls, "{what}");
            if course.rises() {
                said += 1;
                let leak = leak as f64;
                let (least, most) = (pace.least * 0.8, pace.most * 1.25);
                assert!(
                    (least..=most).contains(&leak),
                    "{what}: {course:?} {pace:?}"
                );
            }
        }
    }
    assert!(said > 40, "{said}");
}

#[test]
fn a_swing_without_a_leak_does_not_rise() {
    for (swing, period) in [(5000, 1000), (5000, 2300), (8000, 700), (20_000, 3100)] {
        for seconds in [4, 5, 10, 30] {
            for phase in (0..period).step_by(70) {
                let drawn = below(0, swing, period, seconds, phase);
                let rises = drawn.is_some_and(|(course, _)| course == Course::RisesBelow);
                assert!(
                    !rises,
                    "{swing} in {period} ms, {seconds} s, {phase}: {drawn:?}"
                );
            }
        }
    }
}

/// A list object at this address with so many items.
fn list(image: &mut MemoryImage, at: u64, of_type: u64, items: u64) {
    let words = [1, of_type, items];
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.insert(RemoteAddr::new(at), bytes);
}

/// A census of one name that refers by the word at 0x10 to a list at this address.
fn named(name: &str, at: u64) -> Census {
    Census {
        taken_at_ns: 7,
        holders: vec![Holder {
            name: name.into(),
            object: Some(RemoteAddr::new(at)),
            length_at: Some(LengthAt {
                at: RemoteAddr::new(at + 16),
                container: Some(Container {
                    at: RemoteAddr::new(at),
                    of_type: 0x500,
                    place: Some(RemoteAddr::new(0x10)),
                }),
            }),
            ..Holder::default()
        }],
        ..Census::default()
    }
}

fn refers(image: &mut MemoryImage, at: u64) {
    image.insert(RemoteAddr::new(0x10), at.to_le_bytes().to_vec());
}

#[test]
fn a_container_that_is_replaced_is_counted_where_its_name_refers_to() {
    let mut lengths = Lengths::of(&named("m.BATCH", 0x1000));
    // A new list at another address each time that 4000 items are in it.
    let mut last = 0x1000;
    for nth in 0..40u64 {
        last = 0x1000 + nth / 4 * 0x100;
        let mut image = MemoryImage::default();
        refers(&mut image, last);
        list(&mut image, last, 0x500, nth % 4 * 1000);
        lengths.count(nth * 200_000_000, &image);
    }
    let mut later = named("m.BATCH", last);
    lengths.give_courses(&mut later);
    assert_eq!(later.holders[0].course, Some(Course::UpAndDown));
    // Another name, or another word, is of something else.
    let mut other = named("m.OTHER", last);
    lengths.give_courses(&mut other);
    assert_eq!(other.holders[0].course, None);
}

#[test]
fn an_address_that_is_used_again_is_no_container_that_was_counted() {
    let mut lengths = Lengths::of(&named("m.OLD", 0x1000));
    for nth in 0..40u64 {
        let mut image = MemoryImage::default();
        // The name is bound to nothing after a while, and another list is where the old one was.
        refers(&mut image, if nth < 4 { 0x1000 } else { 0x9000 });
        list(&mut image, 0x1000, 0x500, nth * 100);
        list(&mut image, 0x9000, 0x700, 5);
        lengths.count(nth * 200_000_000, &image);
    }
    assert_eq!(lengths.all[0].counts.seen, 4);
    let mut later = named("m.LEAK", 0x1000);
    lengths.give_courses(&mut later);
    assert_eq!(later.holders[0].course, None);
    // Without a word that refers to it, the first of its names must refer to the same object.
    let plain = |name: &str, object| {
        let mut census = named(name, 0x1000);
        let holder = &mut census.holders[0];
        holder.object = Some(RemoteAddr::new(object));
        let length = holder.length_at.as_mut().expect("a length");
        length.container.as_mut().expect("a container").place = None;
        census
    };
    let mut lengths = Lengths::of(&plain("m.APP", 0x4000));
    for nth in 0..40u64 {
        let mut image = MemoryImage::default();
        list(&mut image, 0x1000, 0x500, nth * 100);
        lengths.count(nth * 200_000_000, &image);
    }
    for (object, course) in [(0x4000, Some(Course::Rises)), (0x5000, None)] {
        let mut later = plain("m.APP", object);
        lengths.give_courses(&mut later);
        assert_eq!(later.holders[0].course, course);
    }
}

#[test]
fn a_container_is_counted_where_it_is_and_by_few_counts_however_long() {
    let image = |at: RemoteAddr, word: u64| {
        let mut image = MemoryImage::default();
        image.insert(at, word.to_le_bytes().to_vec());
        image
    };
    let at = RemoteAddr::new(0x1000);
    let holder = |at| Holder {
        length_at: Some(LengthAt {
            at,
            container: None,
        }),
        ..Holder::default()
    };
    let mut census = Census {
        taken_at_ns: 7,
        holders: vec![holder(at)],
        ..Census::default()
    };
    let mut lengths = Lengths::of(&census);
    for count in 0..10_000u64 {
        lengths.count(count * 1000, &image(at, count));
    }
    let kept = &lengths.all[0].counts.kept;
    assert!(kept.len() <= MAX_COUNTS);
    let steps: Vec<u64> = kept.windows(2).map(|two| two[1].0 - two[0].0).collect();
    assert!(steps.iter().all(|step| *step == steps[0]), "{steps:?}");
    lengths.give_courses(&mut census);
    assert_eq!(census.counted_since_ns, Some(7));
    assert_eq!(census.holders[0].course, Some(Course::Rises));
    // It is elsewhere by now.
    census.holders[0] = holder(RemoteAddr::new(0x2000));
    lengths.give_courses(&mut census);
    assert_eq!(census.holders[0].course, None);
    // What cannot be read is not counted.
    let seen = lengths.all[0].counts.seen;
    lengths.count(u64::MAX, &image(RemoteAddr::new(0x9000), 0));
    assert_eq!(lengths.all[0].counts.seen, seen);
}
