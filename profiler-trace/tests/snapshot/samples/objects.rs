//! Censuses.

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::heap::Allocator;
use profiler_core::objects::{
    AllocatorShare, Amount, Binding, Branch, Calls, Census, Copied, Course, Dropped, Holder,
    LayoutBasis, LengthAt, NameKind, NativeRow, Pace, PackageRow, PageOwner, PathStep, TypeRow,
    Via,
};
use profiler_core::residency::NeverWritten;
use profiler_core::size_class::SizeClass;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{COUNT, text};

fn amount() -> impl Strategy<Value = Amount> {
    (COUNT, COUNT).prop_map(|(blocks, bytes)| Amount { blocks, bytes })
}

fn holder() -> impl Strategy<Value = Holder> {
    let step = (
        option::of(select(&Via::ALL[..])),
        text(),
        option::of(COUNT),
        COUNT,
    );
    let step = step.prop_map(|(via, type_name, length, times)| PathStep {
        attribute: None,
        subject: Some(type_name.clone()),
        via,
        type_name,
        length,
        length_is_bytes: times % 2 == 0,
        times,
    });
    let dropped = (COUNT, COUNT, COUNT).prop_map(|(live_bytes, unpinned_bytes, bytes)| Dropped {
        untouched: NeverWritten {
            bytes,
            unknown_bytes: live_bytes / 2,
        },
        live_bytes,
        unpinned_bytes,
    });
    let names = (text(), vec(text(), 0..3), any::<bool>());
    let types = (option::of(text()), option::of(text()), vec(step, 0..3));
    let at = |addr| LengthAt {
        at: RemoteAddr::new(addr),
        container: None,
    };
    let figures = (option::of(COUNT), COUNT, COUNT, COUNT, option::of(dropped));
    (names, types, figures).prop_map(move |(names, types, figures)| Holder {
        branches: vec![Branch {
            object: RemoteAddr::new(figures.1),
            retained_bytes: figures.2,
            path: types.2.clone(),
            item_type: types.1.clone(),
            items: figures.3,
            length_at: figures.0.map(at),
            course: Some(Course::Falls),
            pace: Some(Pace {
                least: -0.5,
                most: figures.3 as f64,
                swing: 7.0,
            }),
        }],
        name_kinds: vec![NameKind::Variable; 1 + names.1.len()],
        name: names.0,
        shared_with: names.1,
        is_name: names.2,
        calls: Calls {
            count: figures.1,
            threads: figures.0,
        },
        type_name: types.0,
        item_type: types.1,
        path: types.2,
        length: figures.0,
        object: figures.0.map(RemoteAddr::new),
        length_at: Some(at(figures.2)),
        course: figures.0.map(|_| Course::RisesBelow),
        pace: figures.0.map(|_| Pace::default()),
        retained_bytes: figures.1,
        retained_blocks: figures.2,
        pinned_free_bytes: figures.3,
        dropped: figures.4,
        items: figures.1 / 3,
        shared_bytes: Some(figures.1 / 5),
        inner_bytes: Some(figures.1 / 7),
        mapped_bytes: Some(figures.1 / 9),
        mapped_shared_bytes: Some(figures.1 / 11),
        mapped_kept_bytes: Some(figures.1 / 10),
    })
}

pub(super) fn census() -> impl Strategy<Value = Census> {
    let of_type = (text(), amount(), amount(), COUNT, COUNT);
    let of_type = of_type.prop_map(|(name, objects, storage, tracked, pinned)| TypeRow {
        name,
        objects,
        storage,
        tracked,
        entries: tracked,
        pinned_free_bytes: pinned,
        copied_bytes: pinned / 2,
        unreached: storage,
    });
    let native = (select(&Allocator::ALL[..]), 1..COUNT.end, amount());
    let native = native.prop_map(|(allocator, size, native)| NativeRow {
        allocator,
        class: SizeClass::of(size),
        native,
    });
    let share = (select(&Allocator::ALL[..]), amount(), amount());
    let share = share.prop_map(|(allocator, live, named)| AllocatorShare {
        allocator,
        live,
        named,
    });
    let basis = (
        any::<(u8, u8)>(),
        select(&LayoutBasis::ALL[..]),
        any::<bool>(),
    );
    let rows = (
        vec(of_type, 0..4),
        vec(native, 0..4),
        vec(share, 0..3),
        vec(holder(), 0..4),
    );
    let amounts = (amount(), amount(), amount(), amount(), amount());
    let figures = (COUNT, COUNT, COUNT, COUNT, vec(text(), 0..2), any::<bool>());
    (basis, rows, amounts, figures).prop_map(|(basis, rows, amounts, figures)| Census {
        python: basis.0,
        layout: basis.1,
        exact: basis.2,
        types: rows.0,
        native: rows.1,
        shares: rows.2,
        holders: rows.3,
        live: amounts.0,
        spare: amounts.1,
        unreadable: amounts.2,
        held_by_names: amounts.3,
        unreached: amounts.4,
        cycles: amounts.1,
        held_unseen: amounts.2,
        unlisted: amounts.0,
        mapped: amounts.3,
        tracing: Some(amounts.1),
        packages: vec![PackageRow {
            name: "app".into(),
            unlisted: amounts.1,
        }],
        taken_at_ns: figures.0,
        changed: figures.1,
        counted_since_ns: Some(figures.1),
        bindings: vec![Binding {
            name: "app.S".into(),
            type_name: "Series".into(),
            place: RemoteAddr::new(figures.1),
            rebound: figures.1 / 2,
        }],
        compared: figures.1,
        replaced: figures.1 / 2,
        page_owners: vec![PageOwner {
            range: AddrRange::with_len(RemoteAddr::new(figures.0 & !0xfff), 0x2000)
                .unwrap_or_default(),
            holder: basis.0.0.into(),
        }],
        references: figures.2,
        took_ns: figures.3,
        gaps: figures.4,
        copied: figures.5.then_some(Copied {
            bytes: figures.1,
            collector_bytes: figures.2,
        }),
    })
}
