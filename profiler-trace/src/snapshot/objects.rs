//! The census of Python's objects.

use std::io;

use profiler_core::objects::{
    AllocatorShare, Amount, Binding, Branch, Calls, Census, Copied, Course, Dropped, Holder,
    LayoutBasis, LengthAt, NameKind, NativeRow, Pace, PackageRow, PageOwner, PathStep, TypeRow,
    Via,
};
use profiler_core::residency::NeverWritten;

use super::wire::{Input, Wire, by_name, fields};

by_name!(LayoutBasis, "a basis of layouts");
by_name!(Via, "a way of holding an object");
by_name!(NameKind, "a kind of name");
by_name!(Course, "a course of lengths");

/// Major and minor version of Python.
impl Wire for (u8, u8) {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend([self.0, self.1]);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        Ok((input.byte()?, input.byte()?))
    }
}

fields!(Amount { blocks, bytes });

fields!(Calls { count, threads });

fields!(Pace { least, most, swing });

/// The number's place alone: the container is found again in the process that runs, and there is none behind a file.
impl Wire for LengthAt {
    fn put(&self, out: &mut Vec<u8>) {
        self.at.put(out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        Ok(Self {
            at: Wire::take(input)?,
            container: None,
        })
    }
}

fields!(TypeRow {
    name,
    objects,
    storage,
    tracked,
    pinned_free_bytes,
    copied_bytes
} later { entries, unreached });

fields!(NativeRow {
    allocator,
    class,
    native
});

fields!(AllocatorShare {
    allocator,
    live,
    named
});

fields!(PathStep {
    via,
    type_name,
    length,
    times
} later { attribute, subject, length_is_bytes });

fields!(Holder {
    name,
    shared_with,
    is_name,
    type_name,
    length,
    retained_bytes,
    retained_blocks,
    path,
    item_type,
    items,
    pinned_free_bytes,
    dropped
} later {
    branches,
    shared_bytes,
    inner_bytes,
    mapped_bytes,
    mapped_shared_bytes,
    mapped_kept_bytes,
    object,
    name_kinds,
    length_at,
    course,
    pace,
    calls
} finish Holder::with_kinds);

fields!(Branch {
    object,
    retained_bytes,
    path,
    item_type,
    items
} later {
    length_at,
    course,
    pace
});

fields!(Dropped {
    live_bytes,
    unpinned_bytes
} later {
    untouched
});

/// The second sum was added later: two numbers where there was one, within the struct that they
/// end.
impl Wire for NeverWritten {
    fn put(&self, out: &mut Vec<u8>) {
        self.bytes.put(out);
        self.unknown_bytes.put(out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        Ok(Self {
            bytes: u64::take(input)?,
            unknown_bytes: match input.rest.is_empty() {
                true => 0,
                false => u64::take(input)?,
            },
        })
    }
}

fields!(Copied {
    bytes,
    collector_bytes
});

fields!(Census {
    taken_at_ns,
    python,
    layout,
    exact,
    live,
    types,
    native,
    spare,
    unreadable,
    shares,
    changed,
    holders,
    held_by_names,
    unreached,
    references,
    took_ns,
    gaps,
    copied
} later {
    compared,
    replaced,
    unlisted,
    packages,
    cycles,
    held_unseen,
    page_owners,
    mapped,
    tracing,
    counted_since_ns,
    bindings
});

fields!(Binding {
    name,
    type_name,
    place,
    rebound
});

fields!(PackageRow { name, unlisted });

fields!(PageOwner { range, holder });
