//! Which allocator serves Python's objects, by Python's tables of allocator functions.
//!
//! Each of the domains raw, mem and obj has a `PyMemAllocatorEx`: a context and the functions
//! malloc, calloc, realloc and free. It is followed by a table for the debug hooks: a letter and a
//! `PyMemAllocatorEx` for each domain (`_PyMem_Debug` in `Objects/obmalloc.c` of 3.6 to 3.11,
//! `struct _pymem_allocators` in `Include/internal/pycore_pymem.h` from 3.12). The three letters,
//! 48 bytes apart with functions between them, are found without symbols.
//!
//! libc's malloc serves raw in all builds. So functions that obj shares with raw are malloc's,
//! functions that it shares with mem alone are pymalloc's, and mimalloc has separate functions for
//! each domain.

use crate::addr::RemoteAddr;
use crate::data::{self, Words};
use crate::memory::TargetMemory;
use crate::pymalloc::roots::{Root, Roots};
use crate::residency::ResidencyMap;
use crate::sample::PythonMalloc;

/// Bytes of a `PyMemAllocatorEx`.
const ALLOCATOR: u64 = 40;
/// Bytes of a `debug_alloc_api_t`: a letter, padded, and the allocator below the debug hooks.
const DEBUG: u64 = 8 + ALLOCATOR;
/// Hooks one on another that are followed: debug hooks, tracemalloc, a profiler's.
const MAX_HOOKS: usize = 6;
/// Entries that are remembered at most.
const MAX_ENTRIES: usize = 64;

/// The functions of an allocator: malloc, calloc, realloc, free.
type Functions = [u64; 4];

/// A `PyMemAllocatorEx`.
#[derive(Copy, Clone, Debug)]
struct Entry {
    context: u64,
    functions: Functions,
}

impl Entry {
    /// The entry that these words begin with, if all its functions are in executable memory.
    fn parse(words: &[u64], residency: &ResidencyMap) -> Option<Self> {
        let &[context, malloc, calloc, realloc, free] = words.first_chunk()?;
        let functions = [malloc, calloc, realloc, free];
        let executable = |&function: &u64| {
            let mapping = residency.mapping_at(RemoteAddr::new(function));
            mapping.is_some_and(|mapping| mapping.execute)
        };
        functions
            .iter()
            .all(executable)
            .then_some(Self { context, functions })
    }

    fn read<M: TargetMemory>(memory: &M, residency: &ResidencyMap, at: RemoteAddr) -> Option<Self> {
        let bytes: [u8; ALLOCATOR as usize] = memory.read_value(at).ok()?;
        let mut words = [0; 5];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Self::parse(&words, residency)
    }
}

/// The table of the debug hooks.
struct DebugTable {
    at: RemoteAddr,
    /// The allocators below the debug hooks of raw, mem and obj; before hooks are set, the build's
    /// defaults.
    below: [Entry; 3],
}

impl DebugTable {
    /// The first table in these data.
    fn find(data: &[Words], residency: &ResidencyMap) -> Option<Self> {
        let mut places = data.iter().flat_map(Words::iter);
        places.find_map(|(at, word, next)| Self::parse(residency, at, word, next))
    }

    /// The table at this address, if there is one.
    fn read<M: TargetMemory>(memory: &M, residency: &ResidencyMap, at: RemoteAddr) -> Option<Self> {
        let bytes: [u8; 3 * DEBUG as usize] = memory.read_value(at).ok()?;
        let words = bytes.as_chunks().0.iter().copied().map(u64::from_le_bytes);
        let words: Vec<u64> = words.collect();
        let (word, next) = words.split_first()?;
        Self::parse(residency, at, *word, next)
    }

    fn parse(residency: &ResidencyMap, at: RemoteAddr, word: u64, next: &[u64]) -> Option<Self> {
        let entry = |at: usize| Entry::parse(next.get(at..)?, residency);
        let letter = |word: u64| word as u8;
        let letters =
            letter(word) == b'r' && letter(*next.get(5)?) == b'm' && letter(*next.get(11)?) == b'o';
        letters.then_some(())?;
        let below = [entry(0)?, entry(6)?, entry(12)?];
        Some(Self { at, below })
    }

    /// The place in this table that a domain's debug hooks have as their context.
    fn place(&self, domain: u64) -> u64 {
        self.at.get().saturating_add(domain * DEBUG)
    }
}

/// Which allocator serves the objects of a Python of this version.
///
/// `memory` must reject what is not resident (see [`crate::memory::ResidentMemory`]).
pub fn objects_allocator<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    python: (u8, u8),
) -> PythonMalloc {
    objects_allocator_from(memory, residency, python, &mut Roots::default())
}

/// The same, but starts where the tables were found before. If they are no longer there, all data
/// is searched, and what is found is recorded in `roots`.
pub fn objects_allocator_from<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    python: (u8, u8),
    roots: &mut Roots,
) -> PythonMalloc {
    if roots.tables.is_nowhere() {
        return PythonMalloc::Unknown;
    }
    let is_by_table = python >= (3, 12);
    if let Some(known) = roots.tables.take() {
        let table = DebugTable::read(memory, residency, known.debug);
        let serving = table.and_then(|table| match is_by_table {
            true => Some(by_table(memory, residency, &table)),
            false => at_entries(memory, residency, &table, &known).map(Some),
        });
        if let Some(serving) = serving {
            roots.tables = Root::Known(known);
            return serving.unwrap_or(PythonMalloc::Unknown);
        }
    }
    for of_python in [true, false] {
        let data = data::words(memory, residency, of_python);
        if let Some(table) = DebugTable::find(&data, residency) {
            let mut known = Tables::new(table.at);
            let serving = match is_by_table {
                true => by_table(memory, residency, &table),
                false => by_search(memory, residency, &table, &data, &mut known),
            };
            roots.tables = Root::Known(known);
            return serving.unwrap_or(PythonMalloc::Unknown);
        }
    }
    PythonMalloc::Unknown
}

/// From 3.12 on, the three domains' own entries are before the debug hooks' table.
fn by_table<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    table: &DebugTable,
) -> Option<PythonMalloc> {
    let standard = table.at.checked_sub(3 * ALLOCATOR)?;
    let mut functions = [[0; 4]; 3];
    let mut debug = false;
    for (domain, found) in functions.iter_mut().enumerate() {
        let at = standard.checked_add(domain as u64 * ALLOCATOR)?;
        let entry = Entry::read(memory, residency, at)?;
        let (below, hooked) = innermost(memory, residency, table, entry, domain)?;
        *found = below;
        debug |= hooked && domain == 2;
    }
    Some(serving(functions, debug))
}

/// Where the tables of a Python were found.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    /// The debug hooks' table.
    debug: RemoteAddr,
    /// Up to 3.11: the entries of domains, and their conclusion.
    entries: Vec<RemoteAddr>,
    serving: Option<PythonMalloc>,
}

impl Tables {
    fn new(debug: RemoteAddr) -> Self {
        Self {
            debug,
            entries: Vec::new(),
            serving: None,
        }
    }
}

/// The entries looked for up to 3.11, which are variables near the table in an order chosen by the
/// compiler, and what was found.
struct Entries {
    default: [Functions; 3],
    /// The context of an entry with the debug hooks of objects below it.
    hook: u64,
    of_raw: u32,
    of_objects: u32,
}

impl Entries {
    fn new<M: TargetMemory>(
        memory: &M,
        residency: &ResidencyMap,
        table: &DebugTable,
    ) -> Option<Self> {
        let mut default = [[0; 4]; 3];
        for (domain, found) in default.iter_mut().enumerate() {
            (*found, _) = innermost(memory, residency, table, table.below[domain], domain)?;
        }
        Some(Self {
            default,
            hook: table.place(2),
            of_raw: 0,
            of_objects: 0,
        })
    }

    /// Counts an entry if these words are one that is looked for; returns whether they are, and the
    /// allocator of objects if this entry alone determines it.
    fn count(
        &mut self,
        residency: &ResidencyMap,
        context: u64,
        next: &[u64],
    ) -> (bool, Option<PythonMalloc>) {
        if context == self.hook {
            let is_entry = Entry::parse(&[&[context], next].concat(), residency).is_some();
            return (is_entry, is_entry.then(|| serving(self.default, true)));
        }
        let [raw, _, objects] = &self.default;
        let is = |functions: &Functions| context == 0 && next.starts_with(functions);
        let (is_raw, is_objects) = (is(raw), is(objects));
        self.of_raw += u32::from(is_raw);
        self.of_objects += u32::from(is_objects);
        (is_raw || is_objects, None)
    }

    /// The allocator of objects when all entries are counted. mem and obj have the same allocator,
    /// or raw too; if there are fewer entries, the program has set an allocator of its own.
    fn serving(&self) -> Option<PythonMalloc> {
        let [raw, _, objects] = self.default;
        match (raw == objects, self.of_raw, self.of_objects) {
            (false, _, 2..) => Some(serving(self.default, false)),
            (false, 3.., 0) | (true, 3.., _) => Some(PythonMalloc::Malloc),
            _ => None,
        }
    }
}

/// Up to 3.11, entries are recognised by their contents. Records their addresses.
fn by_search<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    table: &DebugTable,
    data: &[Words],
    known: &mut Tables,
) -> Option<PythonMalloc> {
    let mut entries = Entries::new(memory, residency, table)?;
    let inside = table.at.get()..table.place(3);
    let (mut found, mut hooked) = (Vec::new(), None);
    for (at, context, next) in data.iter().flat_map(Words::iter) {
        if context != 0 && context != entries.hook || inside.contains(&at.get()) {
            continue;
        }
        let (is_entry, serving) = entries.count(residency, context, next);
        if is_entry && found.len() < MAX_ENTRIES {
            found.push(at);
        }
        if serving.is_some() {
            hooked = serving;
            break;
        }
    }
    known.serving = hooked.or_else(|| entries.serving());
    known.entries = found;
    known.serving
}

/// The conclusion from entries found before; `None` unless it is the same as then.
fn at_entries<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    table: &DebugTable,
    known: &Tables,
) -> Option<PythonMalloc> {
    let mut entries = Entries::new(memory, residency, table)?;
    let mut found = Vec::new();
    memory.read_scattered::<{ ALLOCATOR as usize }>(&known.entries, &mut found);
    let mut hooked = None;
    for bytes in found {
        let words = bytes?
            .as_chunks()
            .0
            .iter()
            .copied()
            .map(u64::from_le_bytes)
            .collect::<Vec<_>>();
        let (context, next) = words.split_first()?;
        let (_, serving) = entries.count(residency, *context, next);
        hooked = hooked.or(serving);
    }
    let serving = hooked.or_else(|| entries.serving());
    serving.filter(|_| serving == known.serving)
}

/// The functions below all hooks of a domain, and whether debug hooks are among these. `None` if a
/// custom allocator ends the chain.
fn innermost<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    table: &DebugTable,
    mut entry: Entry,
    domain: usize,
) -> Option<(Functions, bool)> {
    let mut debug = false;
    for _ in 0..MAX_HOOKS {
        if entry.context == 0 {
            return Some((entry.functions, debug));
        }
        entry = if entry.context == table.place(domain as u64) {
            debug = true;
            table.below[domain]
        } else {
            // tracemalloc and other hooks keep the entry that they replaced as their context.
            Entry::read(memory, residency, RemoteAddr::new(entry.context))?
        };
    }
    None
}

fn serving([raw, mem, objects]: [Functions; 3], debug: bool) -> PythonMalloc {
    match (objects == raw, objects == mem, debug) {
        (true, _, false) => PythonMalloc::Malloc,
        (true, _, true) => PythonMalloc::MallocDebug,
        (false, true, false) => PythonMalloc::Pymalloc,
        (false, true, true) => PythonMalloc::PymallocDebug,
        (false, false, false) => PythonMalloc::Mimalloc,
        (false, false, true) => PythonMalloc::MimallocDebug,
    }
}
