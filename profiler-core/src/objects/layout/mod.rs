//! Offsets in CPython's structures: one row for each layout, by version.
//!
//! Offsets are in bytes from the object (`ob_refcnt`), for x86-64 builds with the GIL and without
//! `Py_TRACE_REFS`. Each was computed with `offsetof` from the headers of a release of that version
//! (`Include/object.h`, `dictobject.h`, `cpython/code.h`, `funcobject.h`, `internal/pycore_dict.h`,
//! `pycore_frame.h`). Structures that are declared in a `.c` file are named where they are used.

mod frames;

pub(super) use self::frames::{
    CodeLayout, FrameLayout, LineTable, OWNED_BY_INTERPRETER, Published, THREAD_INTERPRETER,
    ThreadLayout,
};
use super::types::{Flags, Role};

/// How sure a layout is.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum LayoutBasis {
    /// Of the target's own version.
    #[default]
    Exact,
    /// The layout of the newest known version, for a target that is newer: types that contradict it
    /// are not named.
    Newest,
}

impl LayoutBasis {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Exact, Self::Newest];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Newest => "newest_known",
        }
    }
}

/// What is before the `PyGC_Head` of an instance of a Python class.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum PreHeader {
    /// Nothing.
    None,
    /// 3.11: the values at -32, the dictionary at -24.
    ValuesAndDict,
    /// 3.12: a weak list at -32; at -24 the dictionary, or the values with a tag bit.
    WeakListAndTagged,
    /// From 3.13 on: a weak list at -32, the dictionary at -24; values behind the object itself.
    WeakListAndDict,
}

impl PreHeader {
    /// What these two words, 32 and 24 bytes before an instance, refer to: the block of its values,
    /// and its dictionary.
    pub(super) fn refers_to(self, at_32: u64, at_24: u64) -> (Option<u64>, Option<u64>) {
        match self {
            Self::None => (None, None),
            Self::ValuesAndDict => (Some(at_32), Some(at_24)),
            Self::WeakListAndTagged if at_24 & 1 != 0 => (at_24.checked_add(1), None),
            Self::WeakListAndTagged | Self::WeakListAndDict => (None, Some(at_24)),
        }
    }
}

/// How a dictionary's table begins.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum DictTable {
    /// 2.7: an open table of hash, key and value; a small one is in the dictionary itself.
    Open,
    /// 3.6 to 3.10: a word of size at 8.
    Sized,
    /// From 3.11 on: logarithms of sizes at 8 and 9, the kind of entries at 10.
    Logarithmic,
}

/// Offsets of what a function holds.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct FunctionLayout {
    pub(super) code: u64,
    pub(super) defaults: u64,
    /// Since 3.0.
    pub(super) keyword_defaults: Option<u64>,
    pub(super) closure: u64,
    /// `func_qualname` and `func_module`, strings; since 3.3.
    pub(super) qualified_name: Option<u64>,
    pub(super) module: Option<u64>,
}

/// The position of a string's characters.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum StrLayout {
    /// 2.7: bytes at 36; `unicode` has a second buffer at 24.
    Bytes,
    /// From 3.3 on: sizes of `PyASCIIObject` and `PyCompactUnicodeObject`, which the characters
    /// follow.
    Compact {
        /// `sizeof(PyASCIIObject)`.
        ascii: u64,
        /// `sizeof(PyCompactUnicodeObject)`.
        wide: u64,
    },
}

/// The position of a deque's items (`Modules/_collectionsmodule.c`).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct DequeLayout {
    /// `leftblock`, which `rightblock`, `leftindex` and `rightindex` follow.
    pub(super) left_block: u64,
    /// In words of a block: the first item, and the link to the block on the right.
    pub(super) items: u64,
    pub(super) right_link: u64,
    /// Items of a block (`BLOCKLEN`).
    pub(super) block_items: u64,
}

/// All offsets of one version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Layout {
    /// Major and minor.
    pub(super) version: (u8, u8),
    pub(super) basis: LayoutBasis,
    /// `sizeof(PyGC_Head)`.
    pub(super) gc_head: u64,
    pub(super) pre_header: PreHeader,
    pub(super) dict: DictTable,
    pub(super) str: StrLayout,
    pub(super) function: FunctionLayout,
    pub(super) code: CodeLayout,
    pub(super) frame: FrameLayout,
}

/// `PyListObject.ob_item` in all versions.
pub(super) const LIST_ITEMS: u64 = 24;
/// `PyVarObject.ob_size` in all versions, and the length of strings from 3.3 on.
pub(super) const SIZE: u64 = 16;
/// The offset of the small table in a dictionary of 2.7 (`ma_smalltable`), and its number of words.
pub(super) const OPEN_SMALL_TABLE: (u64, u64) = (56, 24);
/// `sizeof(PyDictObject)` in 2.7, whose last member that is.
pub(super) const OPEN_DICT_BYTES: u64 = OPEN_SMALL_TABLE.0 + OPEN_SMALL_TABLE.1 * 8;
/// `PyModuleObject.md_dict` in all versions (`Objects/moduleobject.c`).
pub(super) const MODULE_DICT: u64 = 16;
/// `PyWeakReference.wr_callback` in all versions.
pub(super) const WEAK_CALLBACK: u64 = 24;
/// `PyTypeObject.tp_weaklist`, `tp_subclasses` and `tp_dict` in all versions; from 3.12 on those of built-in types
/// are in the interpreter's state.
pub(super) const TYPE_WEAK_LIST: u64 = 368;
pub(super) const TYPE_SUBCLASSES: u64 = 360;
pub(super) const TYPE_NAME: u64 = 24;
pub(super) const TYPE_BASE: u64 = 256;
pub(super) const TYPE_DICT: u64 = 264;
/// `PyTypeObject.tp_dictoffset` in all versions.
pub(super) const TYPE_DICT_OFFSET: u64 = 288;
/// `PySetObject.used`, `mask` and `table` in all versions.
pub(super) const SET_USED: u64 = 24;
pub(super) const SET_MASK: u64 = 32;
pub(super) const SET_TABLE: u64 = 40;
/// numpy's `PyArrayObject.data` and `descr`, `PyArray_Descr.kind` (`numpy/ndarraytypes.h`, 1.x and 2.x).
pub(super) const NDARRAY_DATA: u64 = 16;
pub(super) const NDARRAY_DESCR: u64 = 56;
pub(super) const DESCR_KIND: u64 = 24;
/// `arrayobject.ob_item` (`Modules/arraymodule.c`) in all versions.
pub(super) const ARRAY_ITEMS: u64 = 24;

/// `mmap_object.data` and `size` in all versions (`Modules/mmapmodule.c`).
pub(super) const MMAP_DATA: u64 = 16;
pub(super) const MMAP_SIZE: u64 = 24;
/// `lru_list_elem.result` in all versions that have it (`Modules/_functoolsmodule.c`).
pub(super) const LRU_RESULT: u64 = 48;

/// The newest version whose layout is known.
const NEWEST: (u8, u8) = (3, 15);

impl FunctionLayout {
    fn of(version: (u8, u8)) -> Self {
        if version >= (3, 10) {
            FunctionLayout {
                code: 48,
                defaults: 56,
                keyword_defaults: Some(64),
                closure: 72,
                qualified_name: Some(40),
                module: Some(104),
            }
        } else if version >= (3, 0) {
            FunctionLayout {
                code: 16,
                defaults: 32,
                keyword_defaults: Some(40),
                closure: 48,
                qualified_name: Some(104),
                module: Some(88),
            }
        } else {
            FunctionLayout {
                code: 16,
                defaults: 32,
                keyword_defaults: None,
                closure: 40,
                qualified_name: None,
                module: None,
            }
        }
    }
}

impl Layout {
    /// The layout of a version; `None` for versions before 2.7 and from 3.0 to 3.5.
    pub(super) fn of(version: (u8, u8)) -> Option<Self> {
        let known = version == (2, 7) || ((3, 6)..=NEWEST).contains(&version);
        if !known && version <= NEWEST {
            return None;
        }
        let three = version >= (3, 0);
        let since = |minor| version >= (3, minor);
        let basis = match known {
            true => LayoutBasis::Exact,
            false => LayoutBasis::Newest,
        };
        Some(Self {
            version,
            basis,
            gc_head: if since(8) { 16 } else { 32 },
            pre_header: match version {
                _ if since(13) => PreHeader::WeakListAndDict,
                _ if since(12) => PreHeader::WeakListAndTagged,
                _ if since(11) => PreHeader::ValuesAndDict,
                _ => PreHeader::None,
            },
            dict: match version {
                _ if since(11) => DictTable::Logarithmic,
                _ if three => DictTable::Sized,
                _ => DictTable::Open,
            },
            str: match version {
                _ if since(12) => StrLayout::Compact {
                    ascii: 40,
                    wide: 56,
                },
                _ if three => StrLayout::Compact {
                    ascii: 48,
                    wide: 72,
                },
                _ => StrLayout::Bytes,
            },
            function: FunctionLayout::of(version),
            code: CodeLayout::of(version),
            frame: match known {
                true => FrameLayout::of(version),
                false => FrameLayout::Unknown,
            },
        })
    }

    /// Bytes in a block before an instance of a type with these flags.
    pub(super) fn head(&self, flags: Flags) -> u64 {
        let gc = if flags.has(Flags::HAVE_GC) {
            self.gc_head
        } else {
            0
        };
        let pre = match self.pre_header {
            PreHeader::None => false,
            PreHeader::ValuesAndDict => flags.has(Flags::MANAGED_DICT),
            PreHeader::WeakListAndTagged | PreHeader::WeakListAndDict => {
                flags.has(Flags::MANAGED_DICT) || flags.has(Flags::MANAGED_WEAKREF)
            }
        };
        gc + if pre { 16 } else { 0 }
    }

    /// Whether the values of an object of a type with these flags follow it.
    pub(super) fn has_values_behind(&self, flags: Flags) -> bool {
        self.pre_header == PreHeader::WeakListAndDict && flags.has(Flags::INLINE_VALUES)
    }

    /// All offsets in a block at which an object may begin.
    pub(super) fn heads(&self) -> &'static [u64] {
        match self.pre_header {
            PreHeader::None if self.gc_head == 32 => &[0, 32],
            PreHeader::None => &[0, 16],
            _ => &[0, 16, 32],
        }
    }

    /// Whether the words of a `PyGC_Head` say that the collector tracks the object.
    pub(super) fn is_tracked(&self, gc_head: &[u64]) -> bool {
        match (self.version, gc_head) {
            // `_gc_next` is null while it is not tracked (`Include/internal/pycore_gc.h`).
            (version, [next, ..]) if version >= (3, 8) => *next != 0,
            // `gc_refs` is -2 then, from 3.4 on above a bit (`Modules/gcmodule.c`).
            (version, [_, _, refs, ..]) => {
                let shift = u32::from(version >= (3, 4));
                *refs as i64 >> shift != -2
            }
            _ => false,
        }
    }

    /// The position of deques' items.
    pub(super) fn deque(&self) -> DequeLayout {
        match self.dict {
            DictTable::Open => DequeLayout {
                left_block: 16,
                items: 2,
                right_link: 1,
                block_items: 62,
            },
            DictTable::Sized | DictTable::Logarithmic => DequeLayout {
                left_block: 24,
                items: 1,
                right_link: 65,
                block_items: 64,
            },
        }
    }

    /// `PyByteArrayObject.ob_bytes`.
    pub(super) fn bytearray_bytes(&self) -> u64 {
        if self.version >= (3, 0) { 32 } else { 40 }
    }

    /// The offset of the number of items in a container of this kind.
    pub(super) fn length(&self, role: Role) -> Option<u64> {
        match role {
            Role::List | Role::Tuple | Role::ByteArray | Role::Array => Some(SIZE),
            Role::Deque if self.dict != DictTable::Open => Some(SIZE),
            Role::Dict => Some(self.dict_used()),
            Role::Set => Some(SET_USED),
            Role::Mmap => Some(MMAP_SIZE),
            _ => None,
        }
    }

    /// `lru_cache_object.cache` and `func` (`Modules/_functoolsmodule.c`).
    pub(super) fn lru_cache(&self) -> (u64, u64) {
        if self.version >= (3, 7) {
            (72, 88)
        } else {
            (88, 72)
        }
    }

    /// `PyHeapTypeObject.ht_cached_keys` of the versions whose instances have values without a dictionary.
    pub(super) fn cached_keys(&self) -> Option<u64> {
        match self.version {
            version if version >= (3, 15) => Some(888),
            version if version >= (3, 12) => Some(880),
            version if version >= (3, 11) => Some(872),
            _ => None,
        }
    }

    /// The tuple of the names of a code object's free variables, `co_freevars`; since 3.11 they are the last of all
    /// variables' names (`co_localsplusnames`).
    pub(super) fn free_variables(&self) -> u64 {
        match self.version >= (3, 11) {
            true => self.code.names,
            false => self.code.names + 8,
        }
    }

    /// `PyTupleObject.ob_item`: since 3.14 a tuple keeps its hash before its items.
    pub(super) fn tuple_items(&self) -> u64 {
        if self.version >= (3, 14) { 32 } else { 24 }
    }

    /// The reference count in the first word of an object; `None` if it cannot be one: addresses
    /// are larger, and the counts of immortal objects are smaller (`_Py_IMMORTAL_REFCNT`, at most
    /// `UINT_MAX`). Since 3.14 the count is the lower half of the word, the 16 bits above it are
    /// zero (`ob_overflow`), and at most five of the 16 flags above those have a meaning
    /// (`Include/object.h`).
    pub(super) fn reference_count(&self, word: u64) -> Option<u64> {
        const MAX: u64 = 1 << 40;
        const FLAGS: u64 = 0xff << 48;
        let count = match self.version >= (3, 14) {
            true => word & !FLAGS,
            false => word,
        };
        let most = match self.version >= (3, 14) {
            true => 1 << 32,
            false => MAX,
        };
        (count < most).then_some(count)
    }

    /// What a word of a frame refers to. Since 3.14 its lowest bits say whether the frame's
    /// reference is counted in the object, and 3 there marks a number
    /// (`Include/internal/pycore_stackref.h`).
    #[inline]
    pub(super) fn stack_reference(&self, word: u64) -> u64 {
        match self.version >= (3, 14) && word & 3 == 1 {
            true => word - 1,
            false => word,
        }
    }

    /// Whether a generator in this state has ended (`gi_frame_state`, `Include/internal/pycore_frame.h`).
    pub(super) fn has_ended(&self, state: u8) -> bool {
        match self.version >= (3, 15) {
            true => state == 5,
            false => state.cast_signed() > 0,
        }
    }

    /// Which of the two words of a set's entry is its key.
    pub(super) fn set_key(&self) -> usize {
        usize::from(self.dict == DictTable::Open)
    }

    /// `ma_used` of a dictionary.
    pub(super) fn dict_used(&self) -> u64 {
        match self.dict {
            DictTable::Open => 24,
            _ => 16,
        }
    }
}
