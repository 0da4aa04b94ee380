//! Memory that is in no holder's row, by the package whose modules hold it.

use std::cmp::Reverse;

use hashbrown::HashMap;

use super::Holders;
use super::sharing::Sharing;
use crate::memory::TargetMemory;
use crate::objects::census::{Amount, Census, PackageRow, SHOWN};
use crate::objects::graph::NONE;

/// Packages that a census has.
const MAX_PACKAGES: usize = 100;

impl<M: TargetMemory> Holders<'_, M> {
    /// Sums memory that names hold but none of the holders in reports: `owners` is the innermost
    /// holder of each block, `around` the holder around each holder.
    pub(super) fn unlisted(
        &self,
        owners: &[u16],
        around: &[u16],
        sharing: &Sharing,
        census: &mut Census,
    ) {
        let is_shown = |mut of: u16| {
            while let Some(&above) = around.get(usize::from(of)) {
                if usize::from(of) < SHOWN {
                    return true;
                }
                of = above;
            }
            false
        };
        let shown: Vec<bool> = (0..around.len() as u16).map(is_shown).collect();
        let end = self.tree.first_phase_end();
        let mut by_space: HashMap<Option<u32>, Amount> = HashMap::new();
        for (block, of) in (0u32..).zip(owners) {
            if shown.get(usize::from(*of)).is_some_and(|shown| *shown) {
                continue;
            }
            let number = self.number(block);
            if number != NONE && number < end {
                let bytes = self.source.index.bytes(block);
                census.unlisted.add(bytes);
                let space = self.space_of(number, sharing);
                by_space.entry(space).or_default().add(bytes);
            }
        }
        let mut packages: HashMap<&str, Amount> = HashMap::new();
        for (space, amount) in by_space {
            let name = space.map_or("", |space| self.names.package(space));
            let sum = packages.entry(name).or_default();
            sum.blocks += amount.blocks;
            sum.bytes = sum.bytes.saturating_add(amount.bytes);
        }
        packages.remove("");
        let rows = packages.into_iter().map(|(name, unlisted)| PackageRow {
            name: name.to_owned(),
            unlisted,
        });
        census.packages = rows.collect();
        let key = |row: &PackageRow| (Reverse(row.unlisted.bytes), row.name.clone());
        census.packages.sort_by_cached_key(key);
        census.packages.truncate(MAX_PACKAGES);
    }

    /// The module or class that holds a number, or the nearest of several.
    fn space_of(&self, number: u32, sharing: &Sharing) -> Option<u32> {
        let mut top = sharing.zone[number as usize];
        if let Some(group) = sharing.group_of(top) {
            top = match group.names.first() {
                Some(&name) => name,
                None => self.tree.dominator[top as usize],
            };
        }
        let node = self.tree.node.get(top as usize)?;
        self.names.space_of_node(*node)
    }
}
