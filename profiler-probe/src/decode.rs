//! Decodes the bytes in the ring into events.

use profiler_common::{RawEvent, RecordKind};
use profiler_core::addr::RemoteAddr;
use profiler_core::event::{AllocEvent, AllocEventKind};
use zerocopy::FromBytes;

/// The event in a ring record; `None` if the record is not an event.
///
/// A block that a failed realloc left alive was counted as freed at the realloc's entry; it comes
/// back as an allocation.
pub(super) fn decode(record: &[u8]) -> Option<AllocEvent> {
    let (raw, _) = RawEvent::read_from_prefix(record).ok()?;
    let kind = match raw.kind()? {
        RecordKind::Free | RecordKind::Realloc => AllocEventKind::Free,
        RecordKind::Alloc | RecordKind::Calloc | RecordKind::Reallocated | RecordKind::Kept => {
            AllocEventKind::Alloc {
                bytes: raw.size,
                usable: raw.flags & RawEvent::USABLE != 0,
            }
        }
        _ => return None,
    };
    Some(AllocEvent {
        time_ns: raw.time_ns,
        tid: raw.tid,
        addr: RemoteAddr::new(raw.addr),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn raw(kind: RecordKind) -> RawEvent {
        RawEvent {
            time_ns: 5,
            addr: 0x1000,
            size: 24,
            tid: 7,
            kind: kind as u16,
            flags: RawEvent::USABLE,
        }
    }

    #[test]
    fn each_kind_is_understood() {
        let alloc = AllocEventKind::Alloc {
            bytes: 24,
            usable: true,
        };
        for (kind, expected) in [
            (RecordKind::Alloc, alloc),
            (RecordKind::Calloc, alloc),
            (RecordKind::Free, AllocEventKind::Free),
            (RecordKind::Realloc, AllocEventKind::Free),
            (RecordKind::Reallocated, alloc),
            (RecordKind::Kept, alloc),
        ] {
            let event = decode(raw(kind).as_bytes()).expect("an event");
            assert_eq!((event.time_ns, event.tid, event.kind), (5, 7, expected));
            assert_eq!(event.addr, RemoteAddr::new(0x1000));
        }
    }

    #[test]
    fn what_is_no_event_is_none() {
        assert_eq!(decode(raw(RecordKind::ThreadEnd).as_bytes()), None);
        let unknown = RawEvent {
            kind: 99,
            ..raw(RecordKind::Free)
        };
        assert_eq!(decode(unknown.as_bytes()), None);
        assert_eq!(decode(&raw(RecordKind::Free).as_bytes()[..31]), None);
    }
}
