//! Totals of blocks: by type, and by allocator and size.

use hashbrown::HashMap;

use super::blocks::BlockIndex;
use super::census::{AllocatorShare, Amount, Census, NativeRow, TypeRow};
use super::holders::ByType;
use super::kinds::Kind;
use super::scan::{Counts, Scanned};
use super::types::Type;
use crate::allocator::Allocator;
use crate::size_class::SizeClass;

/// Adds up the blocks.
pub(super) fn count(index: &BlockIndex, scanned: &Scanned, types: &[Type]) -> Census {
    let counts = scanned.counts.iter().copied();
    let counts = counts.chain(std::iter::repeat(Counts::default()));
    let mut rows: Vec<TypeRow> = types
        .iter()
        .zip(counts)
        .map(|(of, counts)| TypeRow {
            name: of.name.clone(),
            tracked: counts.tracked,
            entries: counts.entries,
            ..TypeRow::default()
        })
        .collect();
    let mut census = Census::default();
    let mut native: HashMap<(Allocator, SizeClass), Amount> = HashMap::new();
    let mut shares: HashMap<Allocator, (Amount, Amount)> = HashMap::new();
    for (block, allocator) in index.with_allocators() {
        let bytes = index.bytes(block);
        census.live.add(bytes);
        let (live, named) = shares.entry(allocator).or_default();
        live.add(bytes);
        match scanned.kinds[block as usize].get() {
            Kind::Object { of, .. } => rows[of as usize].objects.add(bytes),
            Kind::Storage { of, .. } => rows[of as usize].storage.add(bytes),
            Kind::Spare => census.spare.add(bytes),
            Kind::Unreadable => {
                census.unreadable.add(bytes);
                continue;
            }
            Kind::Native => {
                let class = SizeClass::of(bytes);
                native.entry((allocator, class)).or_default().add(bytes);
                continue;
            }
        }
        named.add(bytes);
    }
    census.types = by_name(rows);
    census.native = native
        .into_iter()
        .map(|((allocator, class), native)| NativeRow {
            allocator,
            class,
            native,
        })
        .collect();
    let bytes = |row: &NativeRow| std::cmp::Reverse(row.native.bytes);
    census
        .native
        .sort_by_key(|row| (bytes(row), row.allocator, row.class));
    census.shares = shares
        .into_iter()
        .map(|(allocator, (live, named))| AllocatorShare {
            allocator,
            live,
            named,
        })
        .collect();
    census.shares.sort_by_key(|share| share.allocator);
    census
}

/// Merges the rows of types with the same name: classes that were recreated, as by a reload.
fn by_name(rows: Vec<TypeRow>) -> Vec<TypeRow> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut all: Vec<TypeRow> = Vec::new();
    for row in rows {
        if row.objects.blocks == 0 && row.storage.blocks == 0 {
            continue;
        }
        match places.get(&row.name) {
            Some(&at) => {
                let same = &mut all[at];
                for (sum, more) in [
                    (&mut same.objects, row.objects),
                    (&mut same.storage, row.storage),
                ] {
                    sum.blocks += more.blocks;
                    sum.bytes = sum.bytes.saturating_add(more.bytes);
                }
                same.tracked += row.tracked;
                same.entries = same.entries.saturating_add(row.entries);
            }
            None => {
                places.insert(row.name.clone(), all.len());
                all.push(row);
            }
        }
    }
    all.sort_by(|a, b| {
        let bytes = |row: &TypeRow| row.objects.bytes.saturating_add(row.storage.bytes);
        bytes(b).cmp(&bytes(a)).then_with(|| a.name.cmp(&b.name))
    });
    all
}

/// Adds to the rows, by name, what each type's blocks pin, what was copied of them, and what nobody
/// holds of them.
pub(super) fn add_by_type(rows: &mut [TypeRow], types: &[Type], all: &ByType) {
    let mut by_name: HashMap<&str, (u64, u64, Amount)> = HashMap::new();
    for (at, of) in types.iter().enumerate() {
        let (pinned, copied, unreached) = by_name.entry(&of.name).or_default();
        *pinned += all.pinned[at];
        *copied += all.copied.by_type[at];
        unreached.blocks += all.unreached[at].blocks;
        unreached.bytes += all.unreached[at].bytes;
    }
    for row in rows {
        let all = by_name.get(row.name.as_str()).copied();
        (row.pinned_free_bytes, row.copied_bytes, row.unreached) = all.unwrap_or_default();
    }
}
