//! What each live block is, in four bytes.

/// The contents of a live block.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Nothing of Python's, as far as known.
    Native,
    /// The block is unreadable.
    Unreadable,
    /// A freed object that Python keeps for the next one of its kind.
    Spare,
    /// An object.
    Object {
        /// The number of its type.
        of: u32,
        /// Bytes before it in the block.
        head: u64,
    },
    /// Additional memory of an object of this type.
    Storage {
        /// Number of the type.
        of: u32,
        /// How its references are found.
        content: Content,
    },
}

/// How references are found in storage.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Content {
    /// It has none.
    Bytes,
    /// Each word may be one, up to the limit that is kept for the block.
    Words,
    /// The table of a dictionary from 3.6 on: its head gives the position of its entries.
    DictKeys,
    /// Entries of three words, the first of which is a hash (2.7's dictionaries).
    OpenTable,
    /// Entries of two words: a key and a hash (sets; in reverse order in 2.7).
    SetTable,
    /// Values of an instance of 3.11 or 3.12, after a head whose last byte is its length.
    Values,
    /// Items of a deque: words between limits that are kept for the block.
    DequeItems,
    /// It was reached through a word of an object: each of its own words may be a reference.
    Reached,
}

impl Content {
    /// Whether it is the storage of a list, dictionary or set, which moves when it grows.
    pub(super) fn is_of_container(self) -> bool {
        matches!(self, Self::Words | Self::DictKeys | Self::SetTable)
    }
}

/// A [`Kind`] in four bytes: three bits for the kind, three for its head or content, and the type.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct PackedKind(u32);

const NATIVE: u32 = 0;
const UNREADABLE: u32 = 1;
const SPARE: u32 = 2;
const OBJECT: u32 = 3;
const STORAGE: u32 = 4;
/// Offsets of objects in their blocks are multiples of this.
const HEAD_UNIT: u64 = 16;

impl PackedKind {
    pub(super) fn of(kind: Kind) -> Self {
        let pack = |what: u32, detail: u32, of: u32| Self(what | detail << 3 | of << 6);
        match kind {
            Kind::Native => Self(NATIVE),
            Kind::Unreadable => Self(UNREADABLE),
            Kind::Spare => Self(SPARE),
            Kind::Object { of, head } => pack(OBJECT, (head / HEAD_UNIT) as u32 & 7, of),
            Kind::Storage { of, content } => pack(STORAGE, content as u32, of),
        }
    }

    #[inline]
    pub(super) fn get(self) -> Kind {
        let (detail, of) = (self.0 >> 3 & 7, self.0 >> 6);
        match self.0 & 7 {
            UNREADABLE => Kind::Unreadable,
            SPARE => Kind::Spare,
            OBJECT => Kind::Object {
                of,
                head: u64::from(detail) * HEAD_UNIT,
            },
            STORAGE => Kind::Storage {
                of,
                content: match detail {
                    0 => Content::Bytes,
                    1 => Content::Words,
                    2 => Content::DictKeys,
                    3 => Content::OpenTable,
                    4 => Content::SetTable,
                    5 => Content::Values,
                    6 => Content::DequeItems,
                    _ => Content::Reached,
                },
            },
            _ => Kind::Native,
        }
    }

    /// Whether it is not known to contain anything of Python's.
    pub(super) fn is_native(self) -> bool {
        self.0 & 7 == NATIVE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_back_as_packed() {
        let contents = [
            Content::Bytes,
            Content::Words,
            Content::DictKeys,
            Content::OpenTable,
            Content::SetTable,
            Content::Values,
            Content::DequeItems,
            Content::Reached,
        ];
        let storage = contents.map(|content| Kind::Storage { of: 77, content });
        let heads = [0, 16, 32, 48].map(|head| Kind::Object { of: 1 << 19, head });
        let plain = [Kind::Native, Kind::Unreadable, Kind::Spare];
        for kind in plain.into_iter().chain(storage).chain(heads) {
            assert_eq!(PackedKind::of(kind).get(), kind);
        }
    }
}
