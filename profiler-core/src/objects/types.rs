//! Finds type objects, checks them, and reads their names.

use hashbrown::HashMap;

use super::dict;
use super::layout::{Layout, StrLayout, TYPE_DICT};
use super::text::{c_name, str_name};
use super::words::word;
use crate::addr::RemoteAddr;
use crate::data;
use crate::memory::{PageCache, TargetMemory};
use crate::residency::ResidencyMap;

/// `tp_flags`, as far as they are used (`Include/object.h`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Flags(u64);

impl Flags {
    /// From 3.13 on: values behind the object.
    pub(super) const INLINE_VALUES: Self = Self(1 << 2);
    /// From 3.12 on.
    pub(super) const MANAGED_WEAKREF: Self = Self(1 << 3);
    /// From 3.11 on.
    pub(super) const MANAGED_DICT: Self = Self(1 << 4);
    pub(super) const HEAP: Self = Self(1 << 9);
    const READY: Self = Self(1 << 12);
    pub(super) const HAVE_GC: Self = Self(1 << 14);
    /// 2.7 alone.
    const INT: Self = Self(1 << 23);
    const LONG: Self = Self(1 << 24);
    const LIST: Self = Self(1 << 25);
    const TUPLE: Self = Self(1 << 26);
    pub(super) const BYTES: Self = Self(1 << 27);
    const UNICODE: Self = Self(1 << 28);
    const DICT: Self = Self(1 << 29);
    const TYPE: Self = Self(1 << 31);

    pub(super) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }
}

/// The role of an object by its type, for all types that are read in a special way. A subclass has
/// its base's role.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Role {
    /// No references: numbers, strings.
    Leaf,
    /// A string of 3.x, which may have a second buffer.
    Str,
    List,
    Tuple,
    Dict,
    Set,
    Deque,
    ByteArray,
    /// `array.array`.
    Array,
    /// `numpy.ndarray`.
    NdArray,
    Type,
    Module,
    Function,
    Code,
    Frame,
    /// A generator or coroutine: from 3.11 on it contains its frame.
    Generator,
    /// `weakref.ref` and proxies.
    WeakRef,
    /// The object that keeps the dictionary of a `threading.local` in its thread.
    LocalDummy,
    /// `mmap.mmap`, which maps memory outside of the heaps.
    Mmap,
    /// What `functools.lru_cache` makes of a function.
    LruCache,
    /// An element of the list that an `lru_cache` with a bound has.
    LruElement,
    /// Everything else: each of its words may be a reference.
    Other,
}

impl Role {
    /// Whether the length of such an object is in bytes and not in items.
    pub(super) fn length_is_bytes(self) -> bool {
        matches!(self, Self::ByteArray | Self::Mmap)
    }
}

/// Names of types declared in C, and their roles.
const BY_NAME: [(&str, Role); 26] = [
    ("set", Role::Set),
    ("frozenset", Role::Set),
    ("collections.deque", Role::Deque),
    ("bytearray", Role::ByteArray),
    ("array.array", Role::Array),
    ("numpy.ndarray", Role::NdArray),
    ("module", Role::Module),
    ("function", Role::Function),
    ("code", Role::Code),
    ("frame", Role::Frame),
    ("generator", Role::Generator),
    ("coroutine", Role::Generator),
    ("async_generator", Role::Generator),
    ("weakref", Role::WeakRef),
    ("weakref.ReferenceType", Role::WeakRef),
    ("weakproxy", Role::WeakRef),
    ("weakref.ProxyType", Role::WeakRef),
    ("weakcallableproxy", Role::WeakRef),
    ("weakref.CallableProxyType", Role::WeakRef),
    ("_thread._localdummy", Role::LocalDummy),
    ("thread._localdummy", Role::LocalDummy),
    ("mmap.mmap", Role::Mmap),
    ("functools._lru_cache_wrapper", Role::LruCache),
    ("functools._lru_list_elem", Role::LruElement),
    ("float", Role::Leaf),
    ("complex", Role::Leaf),
];

/// What is needed about a type for each of its objects.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct TypeFacts {
    /// Its number.
    pub(super) id: u32,
    pub(super) role: Role,
    pub(super) flags: Flags,
    /// Bytes before the object in its block.
    pub(super) head: u64,
    /// `tp_basicsize`.
    pub(super) basic_size: u64,
    /// Bytes that each object has at least: strings most often lack the end of `PyUnicodeObject`.
    pub(super) least_size: u64,
    /// Whether its objects only have fields: no items, and no values after them.
    pub(super) one_size: bool,
    /// `tp_weaklistoffset`; 0 without.
    pub(super) weak_list: u64,
}

/// A type that was found.
#[derive(Clone, Debug)]
pub(super) struct Type {
    /// Its address.
    pub(super) addr: u64,
    /// Its name, `app.models.Order` or `dict`.
    pub(super) name: String,
    pub(super) facts: TypeFacts,
    /// `tp_dict`; 0 if it has none of its own.
    pub(super) dict: u64,
}

/// Words of a type object that are read: up to `tp_weaklist`.
const TYPE_BYTES: usize = 376;
/// Bases, and types of types, that are gone through.
const MAX_DEPTH: u32 = 64;
/// The most types; a program has some thousands.
pub(super) const MAX_TYPES: usize = 1 << 20;
/// The most addresses cached as having no type.
const MAX_REFUSED: usize = 1 << 17;
/// The most entries of a class's dictionary before `__module__`.
const MAX_ENTRIES: u64 = 4096;

/// All types that were met.
pub(super) struct TypeTable<M> {
    memory: PageCache<M>,
    layout: Layout,
    /// `PyType_Type`.
    root: u64,
    by_addr: HashMap<u64, Option<u32>>,
    refused: usize,
    pub(super) types: Vec<Type>,
}

impl<M: TargetMemory> TypeTable<M> {
    /// A table that contains only `PyType_Type`; `None` if that is not found: a word followed,
    /// after eight bytes, by the word's own address, in a type named "type".
    pub(super) fn find(memory: M, residency: &ResidencyMap, layout: &Layout) -> Option<Self> {
        let root = [true, false].into_iter().find_map(|of_python| {
            let data = data::words(&memory, residency, of_python);
            let words = data.iter().flat_map(data::Words::iter);
            let mut own = words.filter(|(at, _, after)| after.first() == Some(&at.get()));
            let found = own.find(|(at, ..)| {
                let name = memory.read_value::<u64>(RemoteAddr::new(at.get().wrapping_add(24)));
                let name = name.ok().and_then(|name| c_name(&memory, name, false));
                name.is_some_and(|name| name == "type")
            });
            found.map(|(at, ..)| at.get())
        })?;
        Some(Self {
            memory: PageCache::new(memory),
            layout: layout.clone(),
            root,
            by_addr: HashMap::new(),
            refused: 0,
            types: Vec::new(),
        })
    }

    /// The type at this address, if there is one.
    pub(super) fn at(&mut self, addr: u64) -> Option<TypeFacts> {
        self.at_depth(addr, 0)
    }

    fn at_depth(&mut self, addr: u64, depth: u32) -> Option<TypeFacts> {
        if let Some(known) = self.by_addr.get(&addr) {
            return known.map(|id| self.types[id as usize].facts);
        }
        if !addr.is_multiple_of(8) || depth >= MAX_DEPTH {
            return None;
        }
        let found = self.recognise(addr, depth);
        match found {
            Some(_) => {}
            None if self.refused >= MAX_REFUSED => {
                self.by_addr.retain(|_, known| known.is_some());
                self.refused = 0;
            }
            None => self.refused += 1,
        }
        // Its bases may have led back to it meanwhile.
        *self.by_addr.entry(addr).or_insert(None) = found.map(|facts| facts.id);
        found
    }

    fn recognise(&mut self, addr: u64, depth: u32) -> Option<TypeFacts> {
        let mut bytes = [0; TYPE_BYTES];
        self.memory.read(RemoteAddr::new(addr), &mut bytes).ok()?;
        let field = |offset| word(&bytes, offset);
        let (of, basic_size, item_size) = (field(8)?, field(32)?, field(40)?);
        let flags = Flags(field(168)?);
        // Python 3.7 and 3.8 forget to make the type of an `lru_cache`'s elements ready.
        let is_ready = flags.has(Flags::READY) || of == self.root && !flags.has(Flags::HEAP);
        let sound = is_ready && (16..=1 << 24).contains(&basic_size) && item_size <= 1 << 20;
        if !sound || self.types.len() >= MAX_TYPES {
            return None;
        }
        // While it is being checked it counts as none, so that a cycle of types ends.
        self.by_addr.insert(addr, None);
        if of != self.root && !self.at_depth(of, depth + 1)?.flags.has(Flags::TYPE) {
            return None;
        }
        let c_name = c_name(&self.memory, field(24)?, flags.has(Flags::HEAP))?;
        let base = match field(256)? {
            0 => None,
            base => Some(self.at_depth(base, depth + 1)?),
        };
        let dict = field(TYPE_DICT)?;
        let name = match flags.has(Flags::HEAP) {
            true => self.full_name(&c_name, dict),
            false => c_name,
        };
        let declared = BY_NAME.iter().find(|(known, _)| *known == name);
        let role = match declared {
            Some((_, role)) => *role,
            None => by_flags(flags, base.map(|base| base.role)),
        };
        let facts = TypeFacts {
            id: self.types.len() as u32,
            role,
            flags,
            head: self.layout.head(flags),
            basic_size,
            least_size: match (role, self.layout.str) {
                (Role::Str, StrLayout::Compact { ascii, .. }) => ascii,
                _ => basic_size,
            },
            one_size: item_size == 0 && !self.layout.has_values_behind(flags),
            weak_list: field(208).filter(|&at| at < basic_size).unwrap_or(0),
        };
        self.types.push(Type {
            addr,
            name,
            facts,
            dict,
        });
        Some(facts)
    }

    /// The name of a class, including the module named in its dictionary.
    fn full_name(&self, c_name: &str, dict: u64) -> String {
        let entries = dict::entries(&self.memory, &self.layout, dict, MAX_ENTRIES);
        let module = entries.into_iter().flatten().find_map(|(key, value)| {
            let key = str_name(&self.memory, &self.layout, key)?;
            (key == "__module__").then(|| str_name(&self.memory, &self.layout, value))
        });
        let last = c_name.rsplit('.').next().unwrap_or(c_name);
        match module.flatten().as_deref() {
            Some("builtins" | "__builtin__") => last.to_owned(),
            Some(module) => format!("{module}.{last}"),
            None => c_name.to_owned(),
        }
    }
}

/// The role of a type by its flags, or that of its base.
fn by_flags(flags: Flags, base: Option<Role>) -> Role {
    let heap = flags.has(Flags::HEAP);
    let of_flag = [
        (Flags::TYPE, Role::Type),
        (Flags::DICT, Role::Dict),
        (Flags::LIST, Role::List),
        (Flags::TUPLE, Role::Tuple),
        (Flags::UNICODE, Role::Str),
        (Flags::BYTES, Role::Leaf),
        (Flags::LONG, Role::Leaf),
        (Flags::INT, Role::Leaf),
    ];
    let role = of_flag.iter().find(|(flag, _)| flags.has(*flag));
    let role = role.map(|(_, role)| *role).or(base);
    match role {
        // Instances of a subclass have dictionaries and slots.
        Some(Role::Leaf | Role::Str) if heap => Role::Other,
        Some(role) => role,
        None => Role::Other,
    }
}
