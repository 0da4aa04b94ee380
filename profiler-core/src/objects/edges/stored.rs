//! Storage of lists, dictionaries and sets that is read together with its owner.

use std::ops::Range;

use super::Pass;
use super::reader::PIECE;
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::objects::dict::{DictParts, TABLE_HEAD, Table};
use crate::objects::kinds::{Content, Kind};
use crate::objects::layout::{DictTable, LIST_ITEMS, Layout, SET_MASK, SET_TABLE, SIZE};
use crate::objects::scan::{LARGE, Source};
use crate::objects::types::Role;
use crate::objects::words::{word, words};

/// The largest part of a list, dictionary or set, in bytes, that gives the position of its storage.
const STORED_HEAD: usize = 56;
/// How often a large table is read again if it turns out to belong to another object after reading.
const TRIES: usize = 4;
/// Words that are read of the storage of one container.
const MAX_STORAGE: u64 = 1 << 28;

/// The position of the items of a list, dictionary or set.
#[derive(Copy, Clone)]
pub(in crate::objects) struct Stored {
    at: u64,
    /// Its number of words; a dictionary's table says that itself.
    words: u64,
    content: Content,
}

impl Stored {
    /// The storage of the object that begins with these bytes; `None` if it has none of its own.
    pub(in crate::objects) fn of(layout: &Layout, role: Role, object: &[u8]) -> Option<Self> {
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

    /// Its current contents; `None` if its head is unreadable.
    pub(in crate::objects) fn entries<M: TargetMemory>(
        &self,
        source: &Source<'_, M>,
    ) -> Option<Entries> {
        let (at, words) = (self.at, self.words);
        Some(match self.content {
            Content::DictKeys => {
                let mut head = [0; TABLE_HEAD as usize];
                let start = RemoteAddr::new(at);
                source.memory.read_current(start, &mut head).ok()?;
                let table = Table::of_keys(source.layout, &head)?;
                let key = (table.key / 8) as usize;
                Entries {
                    at: at.checked_add(table.entries)?,
                    count: table.count,
                    stride: table.size / 8,
                    taken: key..key + 2,
                }
            }
            Content::SetTable => {
                let key = source.layout.set_key();
                Entries {
                    at,
                    count: words / 2,
                    stride: 2,
                    taken: key..key + 1,
                }
            }
            _ => Entries {
                at,
                count: words,
                stride: 1,
                taken: 0..1,
            },
        })
    }
}

/// Entries of like form, one after the other.
pub(in crate::objects) struct Entries {
    /// The address of the first.
    pub(in crate::objects) at: u64,
    pub(in crate::objects) count: u64,
    /// Words of each.
    pub(in crate::objects) stride: u64,
    /// Which of them are references.
    pub(in crate::objects) taken: Range<usize>,
}

/// Where the storage of an object is, at the time of reading.
enum StoragePlace {
    /// In a block that is read separately, or in the object.
    Elsewhere,
    /// In a block that is read with its owner.
    Large,
    /// In no block of the walk, or in one that was something else in the first pass.
    Moved,
}

impl<M: TargetMemory + Sync> Pass<'_, M> {
    /// Whether a block is a container's storage that is read together with its owner.
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

    /// Whether storage is read together with its owner: it is large, or the first pass did not see
    /// it as storage because it has moved since.
    fn place_of(&self, owner: u32, stored: &Stored) -> StoragePlace {
        let Some((block, _)) = self.resolve.source.index.at(stored.at) else {
            return StoragePlace::Moved;
        };
        // The values of a namespace were taken as names, and small tables of sets are inside the
        // set.
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

    /// Takes the storage that an object's own words point to, if that is read together with it. The
    /// object may get new storage during the reading: then that is read.
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
        self.known_storage(owner);
    }

    /// Takes the blocks that were a container's storage in the first pass, even if it has other
    /// storage now: their bytes are among the blocks of the walk.
    pub(super) fn known_storage(&mut self, owner: u32) {
        let storage = &self.scanned.storage;
        let first = storage.partition_point(|(of, _)| *of < owner);
        let own = storage[first..].iter().take_while(|(of, _)| *of == owner);
        self.targets.extend(own.map(|(_, storage)| *storage));
    }

    /// Takes the references in storage; `None` if it cannot be read to the end.
    fn storage(&mut self, stored: &Stored) -> Option<()> {
        let entries = stored.entries(self.resolve.source)?;
        let all_words = entries.count.saturating_mul(entries.stride);
        let (end, mut nth) = (all_words.min(MAX_STORAGE) * 8, 0);
        let mut piece = std::mem::take(&mut self.piece);
        let mut all = Some(());
        for from in (0..end).step_by(PIECE as usize) {
            piece.resize(PIECE.min(end - from) as usize, 0);
            let at = entries.at.checked_add(from).map(RemoteAddr::new);
            let memory = self.resolve.source.memory;
            let read = at.is_some_and(|at| memory.read_current(at, &mut piece).is_ok());
            if !read {
                all = None;
                break;
            }
            for word in words(&piece) {
                if entries.taken.contains(&(nth % entries.stride as usize)) {
                    self.refer(word);
                }
                nth += 1;
            }
        }
        self.piece = piece;
        all
    }
}
