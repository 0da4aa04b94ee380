use profiler_common::RecordKind;

use super::*;

/// Writes the next event as a recorder does.
fn write(ring: &RecordRing) {
    let number = ring.head();
    let slot = ring.memory.slot(number);
    slot.turn
        .store(Turn::claimed(number, 7).0, Ordering::SeqCst);
    slot.size.store(number, Ordering::SeqCst);
    slot.kind.store(RecordKind::Alloc as u64, Ordering::SeqCst);
    slot.turn.store(Turn::whole(number).0, Ordering::SeqCst);
    ring.memory
        .header()
        .head
        .store(number + 1, Ordering::SeqCst);
}

/// The number that the next event bears.
fn taken(ring: &mut RecordRing) -> Option<u64> {
    match ring.take() {
        Next::Event(event) => Some(event.size),
        Next::Held | Next::Empty => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_written_after_a_mark_is_held_until_it_is_released() {
    let mut ring = RecordRing::new().expect("a ring");
    let marker = ring.marker();
    write(&ring);
    write(&ring);
    assert_eq!(taken(&mut ring), Some(0));
    assert_eq!(marker.mark(), 2);
    write(&ring);
    // A later mark holds back what the first did.
    assert_eq!(marker.mark(), 3);
    assert_eq!(taken(&mut ring), Some(1));
    let visits = ring.activity.visits.load(Ordering::Relaxed);
    assert_eq!(ring.take(), Next::Held);
    // Programs that wait meanwhile must not wait for ever.
    assert_eq!(ring.activity.visits.load(Ordering::Relaxed), visits);
    ring.release();
    assert_eq!(taken(&mut ring), Some(2));
    assert_eq!(ring.take(), Next::Empty);
}

#[test]
fn no_mark_comes_after_an_event_that_is_written_when_it_is_known() {
    const ROUNDS: u64 = 20_000;
    let mut ring = RecordRing::new().expect("a ring");
    let (marker, writer) = (ring.marker(), ring.marker());
    let memory = Arc::clone(&ring.memory);
    let (marks, moments) = std::sync::mpsc::channel();
    // The next mark comes after the last was released.
    let (release, released) = std::sync::mpsc::channel();
    let marking = std::thread::spawn(move || {
        for _ in 0..ROUNDS {
            // The event that follows is of a program that stood still at the moment.
            let moment = marker.mark();
            let number = writer.head();
            let slot = memory.slot(number);
            slot.size.store(moment, Ordering::SeqCst);
            slot.kind.store(RecordKind::Alloc as u64, Ordering::SeqCst);
            slot.turn.store(Turn::whole(number).0, Ordering::SeqCst);
            memory.header().head.store(number + 1, Ordering::SeqCst);
            marks.send(moment).expect("the reader lives");
            released.recv().expect("the reader lives");
        }
    });
    for _ in 0..ROUNDS {
        let moment = loop {
            // Nothing passes a mark that is not known here yet.
            assert_eq!(taken(&mut ring), None);
            match moments.try_recv() {
                Ok(moment) => break moment,
                Err(_) => std::thread::yield_now(),
            }
        };
        assert_eq!(ring.tail(), moment);
        ring.release();
        assert_eq!(taken(&mut ring), Some(moment));
        release.send(()).expect("it marks");
    }
    marking.join().expect("it marks");
}
