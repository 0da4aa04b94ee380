//! Groups: runs of up to 32 slots of one size, described by a `meta` each.

use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::{ReadAhead, TargetMemory};
use crate::residency::ResidencyMap;
use crate::span::{SpanList, SpanState};

use super::Totals;
use super::layout::{AREA, IN_BAND, MAPPED, META, SIZE_CLASSES, UNIT};

/// `struct meta` of a group in use.
#[derive(Copy, Clone, Debug)]
pub(super) struct Group {
    /// The address of its meta.
    pub(super) meta: u64,
    /// The address of the group.
    pub(super) mem: u64,
    /// Slots that are free: `avail_mask | freed_mask`.
    pub(super) free: u32,
    /// The number of the last slot.
    pub(super) last: u8,
    /// False if musl made it from unused bytes of its data at start.
    pub(super) freeable: bool,
    /// Its size class, or [`MAPPED`].
    pub(super) class: u8,
    /// Bytes of its mapping; 0 if it is inside another group's slot, or in data.
    pub(super) mapped: u64,
}

/// The contents of a slot of `meta_area`.
pub(super) enum Slot {
    /// A group.
    Group(Group),
    /// Nothing: free, or never used.
    Unused,
    /// No meta that mallocng would write.
    Damaged,
}

impl Slot {
    pub(super) fn parse(meta: u64, bytes: &[u8; META]) -> Self {
        let word = |at: usize| {
            let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
            word.map_or(0, u64::from_le_bytes)
        };
        let (mem, masks, bits) = (word(16), word(24), word(32));
        if mem == 0 {
            return Self::Unused;
        }
        let group = Group {
            meta,
            mem,
            free: masks as u32 | (masks >> 32) as u32,
            last: (bits & 31) as u8,
            freeable: bits >> 5 & 1 == 1,
            class: (bits >> 6 & 63) as u8,
            mapped: (bits >> 12) * AREA,
        };
        let of_all = u32::MAX >> (31 - group.last);
        let sound = group.mem.is_multiple_of(UNIT)
            && group.free & !of_all == 0
            && match group.class {
                MAPPED => group.last == 0 && group.mapped > UNIT,
                class => usize::from(class) < SIZE_CLASSES.len(),
            }
            && (group.mapped == 0 || group.mapped >= group.needed())
            && group.mem.checked_add(group.bytes()).is_some();
        if sound {
            Self::Group(group)
        } else {
            Self::Damaged
        }
    }

    /// The address of the next free meta, for following their ring.
    pub(super) fn next_free(bytes: &[u8; META]) -> u64 {
        let next = bytes.get(8..16).and_then(|word| word.try_into().ok());
        next.map_or(0, u64::from_le_bytes)
    }
}

impl Group {
    /// Bytes from one slot to the next (`get_stride`).
    fn stride(&self) -> u64 {
        match SIZE_CLASSES.get(usize::from(self.class)) {
            Some(units) if self.last != 0 || self.mapped == 0 => UNIT * u64::from(*units),
            _ => self.mapped - UNIT,
        }
    }

    /// The number of its slots.
    pub(super) fn slots(&self) -> u64 {
        u64::from(self.last) + 1
    }

    fn needed(&self) -> u64 {
        UNIT.saturating_add(self.stride().saturating_mul(self.slots()))
    }

    /// The number of its bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.mapped.max(self.needed())
    }

    /// Its address range.
    pub(super) fn range(&self) -> Option<AddrRange> {
        AddrRange::with_len(RemoteAddr::new(self.mem), self.bytes())
    }

    /// Whether it is a mapping for a single allocation.
    pub(super) fn is_large(&self) -> bool {
        self.class == MAPPED
    }

    fn end(&self) -> u64 {
        self.mem.saturating_add(self.bytes())
    }
}

/// Lays groups out as spans.
pub(super) struct Layer<'a, M> {
    pub(super) memory: ReadAhead<&'a M>,
    pub(super) residency: &'a ResidencyMap,
    pub(super) totals: Totals,
    /// Groups whose header could be read and whose header points back to their meta.
    pub(super) confirmed: u64,
    /// Groups whose header could not be read.
    pub(super) unread: u64,
}

impl<M: TargetMemory> Layer<'_, M> {
    /// Appends the spans of the group at `groups[*next]` and of groups inside its slots, and moves
    /// `next` after all of them. `groups` ascend.
    pub(super) fn spans(&mut self, groups: &[Group], next: &mut usize, spans: &mut SpanList) {
        let Some(&group) = groups.get(*next) else {
            return;
        };
        *next += 1;
        let active = self.active_slots(&group);
        let stride = group.stride();
        spans.push(UNIT, SpanState::Metadata);
        let mut at = group.mem + UNIT;
        for slot in 0..=u32::from(group.last) {
            let end = at + stride;
            if group.free >> slot & 1 == 1 {
                let state = if slot < active {
                    SpanState::Free
                } else {
                    SpanState::Top
                };
                spans.push(stride, state);
            } else if let Some(inner) = groups.get(*next).filter(|g| inside(g, at, end)) {
                let (start, inner_end) = (inner.mem, inner.end());
                spans.push(start - at, SpanState::Metadata);
                self.totals.nested += 1;
                self.spans(groups, next, spans);
                spans.push(end - inner_end, SpanState::Metadata);
            } else {
                match self.requested(&group, slot, at) {
                    Some(asked) => self.totals.add(asked, group.is_large()),
                    None => self.totals.unknown_requests += 1,
                }
                spans.push(stride, SpanState::Live);
            }
            at = end;
        }
        spans.push(group.end() - at, SpanState::Metadata);
    }

    /// The number of slots that were ever used: `active_idx + 1`; all slots if that is unreadable.
    fn active_slots(&mut self, group: &Group) -> u32 {
        let header = self.memory.bytes::<16>(RemoteAddr::new(group.mem));
        let all = u32::from(group.last) + 1;
        match header.map(u128::from_le_bytes) {
            Ok(header) => {
                self.confirmed += u64::from(header as u64 == group.meta);
                if group.is_large() {
                    all
                } else {
                    all.min((header >> 64) as u32 % 32 + 1)
                }
            }
            Err(_) => {
                self.unread += 1;
                all
            }
        }
    }

    /// The bytes that the program requested, from the slot's header and its end; `None` if these
    /// are unreadable or implausible.
    fn requested(&mut self, group: &Group, slot: u32, start: u64) -> Option<u64> {
        let end = start + group.stride() - IN_BAND;
        let mut user = start;
        let mut header = self.header(user)?;
        if header.info == 7 << 5 {
            // The block begins at an offset in its slot.
            user += UNIT * u64::from(header.offset);
            if user >= end {
                return None;
            }
            header = self.header(user)?;
        }
        if u32::from(header.info & 31) != slot {
            return None;
        }
        let reserved = match header.info >> 5 {
            short @ 0..5 => u64::from(short),
            5 => {
                let word = self.memory.bytes::<4>(RemoteAddr::new(end - 4)).ok()?;
                u64::from(u32::from_le_bytes(word))
            }
            _ => return None,
        };
        (end - user).checked_sub(reserved)
    }

    /// The header before the block at `user`.
    fn header(&mut self, user: u64) -> Option<Header> {
        let addr = RemoteAddr::new(user.checked_sub(IN_BAND)?);
        let [overflow, info, low, high] = self.memory.bytes::<4>(addr).ok()?;
        let header = Header {
            info,
            offset: u16::from_le_bytes([low, high]),
        };
        // A page that was never touched contains no header, though it reads as zeros.
        let touched = [overflow, info, low, high] != [0; 4]
            || self.residency.run_at(addr)?.state.is_resident();
        touched.then_some(header)
    }
}

/// The four bytes before a block.
struct Header {
    /// The slot's number in the low five bits; above them the bytes reserved at the slot's end, 5
    /// for a number stored there, 6 for a group in the slot, 7 for a block further on.
    info: u8,
    /// Units from the group's first slot, or from the slot's start when `info` says further on.
    offset: u16,
}

/// Whether `group` can be inside a slot.
fn inside(group: &Group, start: u64, end: u64) -> bool {
    group.mapped == 0 && group.mem >= start && group.end() <= end
}
