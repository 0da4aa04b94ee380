//! The storage of lists, dictionaries and sets that is read with its owner.

use std::ops::Range;

use super::Pass;
use super::reader::PIECE;
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::objects::dict::{DictParts, TABLE_HEAD, Table};
use crate::objects::kinds::{Content, Kind};
use crate::objects::layout::{DictTable, LIST_ITEMS, Layout, SET_MASK, SET_TABLE, SIZE};
use crate::objects::scan::LARGE;
use crate::objects::types::Role;
use crate::objects::words::{word, words};

/// Bytes of a list, dictionary or set that say where its storage is, at the most.
const STORED_HEAD: usize = 56;
/// How often a large table is read that is another's when it has been read.
const TRIES: usize = 4;
/// Words that are read of the storage of one container.
const MAX_STORAGE: u64 = 1 << 28;

/// Where a list, dictionary or set has its items.
#[derive(Copy, Clone)]
pub(super) struct Stored {
    at: u64,
    /// Words of it; a dictionary's table says that itself.
    words: u64,
    content: Content,
}

impl Stored {
    /// Of the object that begins with these bytes; `None` without storage of its own.
    pub(super) fn of(layout: &Layout, role: Role, object: &[u8]) -> Option<Self> {
        let (at, words, content) = match role {
            Role::List => (
                word(object, LIST_ITEMS)?,
                word(object, SIZE)?,
                Content::Words,
            ),
            Role::Dict if layout.dict != DictTable::Open => (
                DictParts::of(layout, object)?.table,
                word(object, layout.dict_used())?,
                Content::DictKeys,
            ),
            Role::Set => (
                word(object, SET_TABLE)?,
                word(object, SET_MASK)?.saturating_add(1).saturating_mul(2),
                Content::SetTable,
            ),
            _ => return None,
        };
        (at != 0 && words != 0).then_some(Self { at, words, content })
    }
}

/// Where the storage of an object is, as it is read.
enum StoragePlace {
    /// In a block that is read by itself, or in the object.
    Elsewhere,
    /// In one that is read with its owner.
    Large,
    /// In none of the walk, or in one that was something else when blocks were looked at first.
    Moved,
}

impl<M: TargetMemory + Sync> Pass<'_, M> {
    /// Whether a block is a container's storage that is read when its owner is.
    pub(super) fn is_read_with_owner(&self, block: u32, bytes: u64) -> bool {
        if bytes < LARGE || self.names.space(block).is_some() {
            return false;
        }
        let Kind::Storage { of, content } = self.scanned.kinds[block as usize].get() else {
            return false;
        };
        let role = self.types[of as usize].facts.role;
        matches!(
            (role, content),
            (Role::List, Content::Words)
                | (Role::Dict, Content::DictKeys)
                | (Role::Set, Content::SetTable)
        )
    }

    /// Whether storage is to be read with its owner: it is large, or was not such storage when blocks were
    /// looked at first, because it has been moved since.
    fn place_of(&self, owner: u32, stored: &Stored) -> StoragePlace {
        let Some((block, _)) = self.resolve.source.index.at(stored.at) else {
            return StoragePlace::Moved;
        };
        // Names were taken of those of a namespace, and small tables of sets are in the set.
        if block == owner || self.names.space(block).is_some() {
            return StoragePlace::Elsewhere;
        }
        match self.scanned.kinds[block as usize].get() {
            Kind::Storage { content, .. } if content == stored.content => {
                let bytes = self.resolve.source.index.bytes(block);
                match self.is_read_with_owner(block, bytes) {
                    true => StoragePlace::Large,
                    false => StoragePlace::Elsewhere,
                }
            }
            _ => StoragePlace::Moved,
        }
    }

    /// Takes the storage that an object's own words say it has, if that is read with it. While it is read
    /// the object may get another: then that is read.
    pub(super) fn own_storage(
        &mut self,
        owner: u32,
        object: RemoteAddr,
        role: Role,
        stored: Option<Stored>,
    ) {
        let Some(mut stored) = stored.filter(|_| self.names.space(owner).is_none()) else {
            return;
        };
        let source = self.resolve.source;
        let before = self.targets.len();
        for attempt in 0..TRIES {
            match self.place_of(owner, &stored) {
                StoragePlace::Elsewhere => break,
                StoragePlace::Moved if attempt == 0 => self.found.moved += 1,
                StoragePlace::Moved | StoragePlace::Large => {}
            }
            let mut head = [0; STORED_HEAD];
            let now = |head: &mut [u8]| {
                let read = source.memory.read(object, head).is_ok();
                read.then(|| Stored::of(source.layout, role, head))
                    .flatten()
            };
            stored = now(&mut head).unwrap_or(stored);
            self.targets.truncate(before);
            let read = self.storage(&stored);
            match now(&mut head) {
                Some(later) if later.at != stored.at || read.is_none() => stored = later,
                _ => break,
            }
        }
        self.former_storage(owner);
    }

    /// Takes the block that was a container's storage when blocks were looked at first, though it may have
    /// another by now: among the blocks of the walk, its bytes are there.
    fn former_storage(&mut self, owner: u32) {
        let large = &self.scanned.large;
        let first = large.partition_point(|(of, _)| *of < owner);
        let own = large[first..].iter().take_while(|(of, _)| *of == owner);
        self.targets.extend(own.map(|(_, storage)| *storage));
    }

    /// Takes the references in storage; `None` where it cannot be read to the end.
    fn storage(&mut self, stored: &Stored) -> Option<()> {
        let source = self.resolve.source;
        match stored.content {
            Content::DictKeys => {
                let mut head = [0; TABLE_HEAD as usize];
                let at = RemoteAddr::new(stored.at);
                source.memory.read_current(at, &mut head).ok()?;
                let table = Table::of_keys(source.layout, &head)?;
                let entries = stored.at.checked_add(table.entries)?;
                let (stride, key) = (table.size / 8, (table.key / 8) as usize);
                self.strided(entries, table.count * stride, stride as usize, key..key + 2)
            }
            Content::SetTable => {
                let key = self.set_key();
                self.strided(stored.at, stored.words, 2, key..key + 1)
            }
            _ => self.strided(stored.at, stored.words, 1, 0..1),
        }
    }

    /// Takes the words `taken` of each `stride` of `count`, wherever they are.
    fn strided(
        &mut self,
        start: u64,
        count: u64,
        stride: usize,
        taken: Range<usize>,
    ) -> Option<()> {
        let (end, mut nth) = (count.min(MAX_STORAGE) * 8, 0);
        let mut piece = std::mem::take(&mut self.piece);
        let mut all = Some(());
        for from in (0..end).step_by(PIECE as usize) {
            piece.resize(PIECE.min(end - from) as usize, 0);
            let at = start.checked_add(from).map(RemoteAddr::new);
            let memory = self.resolve.source.memory;
            let read = at.is_some_and(|at| memory.read_current(at, &mut piece).is_ok());
            if !read {
                all = None;
                break;
            }
            for word in words(&piece) {
                if taken.contains(&(nth % stride)) {
                    self.refer(word);
                }
                nth += 1;
            }
        }
        self.piece = piece;
        all
    }
}
