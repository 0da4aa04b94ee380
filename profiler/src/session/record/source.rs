//! fragscope's own sources of events: the probes, and the preloaded recorder.

use profiler_common::{PID_BITS, RawEvent, RecordKind};
use profiler_target::RingEvent;
use profiler_trace::record::{SourceEvent, SourceKind};

/// No allocator gives a larger block (`PTRDIFF_MAX`).
const MAX_BLOCK_BYTES: u64 = i64::MAX as u64;

/// An event as reported by a source.
#[derive(Copy, Clone)]
struct Claim {
    process: u32,
    thread: u32,
    kind: RecordKind,
    addr: u64,
    size: u64,
    align: u8,
}

impl Claim {
    /// Whether a recorder can have written it, in a program in which all of it can be true.
    fn is_sound(&self) -> bool {
        let is_number = |number| (1..=1 << PID_BITS).contains(&number);
        is_number(self.process)
            && is_number(self.thread)
            && u32::from(self.align) < u64::BITS
            && self.size <= MAX_BLOCK_BYTES
            && self.addr.checked_add(self.size).is_some()
    }

    /// The event, if it is valid.
    fn event(self, time_ns: u64) -> Option<SourceEvent> {
        self.is_sound().then(|| SourceEvent {
            time_ns,
            process: self.process.into(),
            thread: self.thread.into(),
            kind: SourceKind::of(self.kind, self.addr, self.size, self.align),
        })
    }
}

/// An event of the probes on this process; `None` for one that no BPF program writes.
pub(super) fn of_probe(event: &RawEvent, process: u32) -> Option<SourceEvent> {
    let kind = event.kind().filter(|kind| {
        use RecordKind::{Alloc, Calloc, Free, Kept, Lost, Realloc, Reallocated, Start, ThreadEnd};
        matches!(
            kind,
            Alloc | Calloc | Free | Realloc | Reallocated | Kept | ThreadEnd | Start | Lost
        )
    })?;
    let claim = Claim {
        process,
        thread: event.tid,
        kind,
        addr: event.addr,
        size: event.size,
        align: event.align(),
    };
    claim.event(event.time_ns)
}

/// An event of a preloaded recorder, taken at `now_ns` on the monotonic clock: no event is later.
/// `None` for one that no recorder writes; a recorded program may write anything.
pub(super) fn of_ring(event: &RingEvent, now_ns: u64) -> Option<SourceEvent> {
    let kind = RecordKind::of(event.kind).filter(|kind| *kind != RecordKind::Lost)?;
    let claim = Claim {
        process: event.process,
        thread: event.thread,
        kind,
        addr: event.addr,
        size: event.size,
        align: event.align,
    };
    claim.event(event.time_ns.min(now_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same event from the probes.
    fn probed(event: &RingEvent) -> RawEvent {
        RawEvent {
            time_ns: event.time_ns,
            addr: event.addr,
            size: event.size,
            tid: event.thread,
            kind: event.kind as u16,
            flags: RawEvent::with_align(RawEvent::USABLE, event.align),
        }
    }

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
            RingEvent {
                kind: RecordKind::ALL.len() as u64 + 1,
                ..good
            },
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
            let raw = probed(event);
            let is_loss = raw.kind() == Some(RecordKind::Lost);
            assert_eq!(of_probe(&raw, event.process).is_some(), is_loss, "{raw:?}");
        }
        use RecordKind::{Ending, Exit, Forked, Forking, Leaving, ObjectAlloc, ObjectFree};
        for kind in [
            Forking,
            Forked,
            Exit,
            Ending,
            Leaving,
            ObjectAlloc,
            ObjectFree,
        ] {
            let kind = kind as u64;
            let event = RingEvent { kind, ..good };
            assert!(of_ring(&event, 2000).is_some());
            assert_eq!(of_probe(&probed(&event), 7), None, "no BPF program does");
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
        let ring = RingEvent {
            time_ns: 5,
            addr: 0x1000,
            size: 24,
            thread: 7,
            process: 6,
            kind: RecordKind::Reallocated as u64,
            align: 4,
        };
        assert!(of_ring(&ring, 10).is_some());
        assert_eq!(of_probe(&probed(&ring), 6), of_ring(&ring, 10));
    }
}
