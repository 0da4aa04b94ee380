//! fragscope's own sources of events: the probes, and the preloaded recorder.

use profiler_common::{RawEvent, RecordKind};
use profiler_target::RingEvent;
use profiler_trace::record::{SourceEvent, SourceKind};

/// The kernel gives no higher number to a thread (`PID_MAX_LIMIT`).
const HIGHEST_PID: u32 = 1 << 22;
/// No allocator gives more (`PTRDIFF_MAX`).
const MOST_BYTES: u64 = i64::MAX as u64;

/// An event of the probes on this process; `None` for one that no BPF program writes.
pub(super) fn of_probe(event: &RawEvent, process: u64) -> Option<SourceEvent> {
    Some(SourceEvent {
        time_ns: event.time_ns,
        process,
        thread: event.tid.into(),
        kind: SourceKind::of(event.kind()?, event.addr, event.size, event.align()),
    })
}

/// An event of a preloaded recorder, which was taken at `now_ns` on the monotonic clock: none is of
/// later. `None` for one that no recorder writes; a recorded program may write anything.
pub(super) fn of_ring(event: &RingEvent, now_ns: u64) -> Option<SourceEvent> {
    let kind = RecordKind::of(event.kind).filter(|kind| *kind != RecordKind::Lost)?;
    let is_number = |number| (1..=HIGHEST_PID).contains(&number);
    let is_sound = is_number(event.process)
        && is_number(event.thread)
        && event.align < 64
        && event.size <= MOST_BYTES
        && event.addr.checked_add(event.size).is_some();
    is_sound.then(|| SourceEvent {
        time_ns: event.time_ns.min(now_ns),
        process: event.process.into(),
        thread: event.thread.into(),
        kind: SourceKind::of(kind, event.addr, event.size, event.align),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_recorder_writes_is_no_event() {
        let good = RingEvent {
            time_ns: 1000,
            addr: 0x10,
            size: 8,
            thread: 7,
            process: 7,
            kind: RecordKind::Alloc as u64,
            align: 0,
        };
        let bad = [
            RingEvent { kind: 0, ..good },
            RingEvent {
                kind: RecordKind::Lost as u64,
                ..good
            },
            RingEvent { kind: 13, ..good },
            RingEvent { process: 0, ..good },
            RingEvent {
                process: u32::MAX,
                ..good
            },
            RingEvent { thread: 0, ..good },
            RingEvent { align: 64, ..good },
            RingEvent {
                size: 1 << 63,
                ..good
            },
            RingEvent {
                addr: u64::MAX,
                ..good
            },
        ];
        for event in &bad {
            assert_eq!(of_ring(event, 2000), None, "{event:?}");
        }
        assert_eq!(of_ring(&good, 2000).expect("sound").time_ns, 1000);
        // A time that is still to come is now.
        let late = RingEvent {
            time_ns: u64::MAX,
            ..good
        };
        assert_eq!(of_ring(&late, 2000).expect("sound").time_ns, 2000);
    }

    #[test]
    fn both_sources_give_the_same_event_of_the_same_call() {
        let raw = RawEvent {
            time_ns: 5,
            addr: 0x1000,
            size: 24,
            tid: 7,
            kind: RecordKind::Reallocated as u16,
            flags: RawEvent::with_align(RawEvent::USABLE, 4),
        };
        let ring = RingEvent {
            time_ns: 5,
            addr: 0x1000,
            size: 24,
            thread: 7,
            process: 6,
            kind: RecordKind::Reallocated as u64,
            align: 4,
        };
        assert_eq!(of_probe(&raw, 6), of_ring(&ring, 10));
        assert_eq!(of_probe(&RawEvent { kind: 0, ..raw }, 6), None);
    }
}
