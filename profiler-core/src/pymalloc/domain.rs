//! Which allocator serves Python's objects, by its tables of allocator functions.
//!
//! Each of the domains raw, mem and obj has a `PyMemAllocatorEx`: a context and the functions
//! malloc, calloc, realloc and free. A table for the debug hooks follows: a letter and a
//! `PyMemAllocatorEx` for each domain (`_PyMem_Debug` in `Objects/obmalloc.c` of 3.6 to 3.11,
//! `struct _pymem_allocators` in `Include/internal/pycore_pymem.h` from 3.12). The three letters,
//! 48 bytes apart, with functions between them, are found with no symbols.
//!
//! libc's malloc serves raw in all builds. So what obj shares with raw is malloc, what it shares
//! with mem alone is pymalloc, and mimalloc has functions of its own for each.

use crate::addr::RemoteAddr;
use crate::data::{self, Words};
use crate::memory::TargetMemory;
use crate::residency::ResidencyMap;
use crate::sample::PythonMalloc;

/// Bytes of a `PyMemAllocatorEx`.
const ALLOCATOR: u64 = 40;
/// Bytes of a `debug_alloc_api_t`: a letter, padded, and the allocator below the debug hooks.
const DEBUG: u64 = 8 + ALLOCATOR;
/// Hooks one on another that are followed: debug hooks, tracemalloc, a profiler's.
const MAX_HOOKS: usize = 6;

/// The functions of an allocator: malloc, calloc, realloc, free.
type Functions = [u64; 4];

/// A `PyMemAllocatorEx`.
#[derive(Copy, Clone, Debug)]
struct Entry {
    context: u64,
    functions: Functions,
}

impl Entry {
    /// The entry whose words these begin with, when all its functions can be executed.
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
    /// Below the hooks of raw, mem and obj; before hooks are set, what the build has by default.
    below: [Entry; 3],
}

impl DebugTable {
    fn find(data: &[Words], residency: &ResidencyMap) -> Option<Self> {
        let entry = |words: &[u64], at: usize| Entry::parse(words.get(at..)?, residency);
        let letter = |word: u64| word as u8;
        let places = data.iter().flat_map(Words::iter);
        let mut tables = places.filter_map(|(at, word, next)| {
            let letters = letter(word) == b'r'
                && letter(*next.get(5)?) == b'm'
                && letter(*next.get(11)?) == b'o';
            letters.then_some(())?;
            let below = [entry(next, 0)?, entry(next, 6)?, entry(next, 12)?];
            Some(Self { at, below })
        });
        tables.next()
    }

    /// The place in this table that a domain's debug hooks have as their context.
    fn place(&self, domain: u64) -> u64 {
        self.at.get().saturating_add(domain * DEBUG)
    }
}

/// Which allocator serves the objects of a Python of this version.
///
/// `memory` must refuse what is not resident (see [`crate::memory::ResidentMemory`]).
pub fn objects_allocator<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    python: (u8, u8),
) -> PythonMalloc {
    for of_python in [true, false] {
        let data = data::words(memory, residency, of_python);
        if let Some(table) = DebugTable::find(&data, residency) {
            let serving = if python >= (3, 12) {
                by_table(memory, residency, &table)
            } else {
                by_search(memory, residency, &table, &data)
            };
            return serving.unwrap_or(PythonMalloc::Unknown);
        }
    }
    PythonMalloc::Unknown
}

/// From 3.12 on, the three domains' own entries lie before the debug hooks' table.
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

/// Up to 3.11 the entries are variables that lie near the table, in an order that is the
/// compiler's: they are recognised by what they hold.
fn by_search<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    table: &DebugTable,
    data: &[Words],
) -> Option<PythonMalloc> {
    let mut default = [[0; 4]; 3];
    for (domain, found) in default.iter_mut().enumerate() {
        (*found, _) = innermost(memory, residency, table, table.below[domain], domain)?;
    }
    let [raw, _, objects] = default;
    let inside = table.at.get()..table.place(3);
    let hook = table.place(2);
    let (mut of_raw, mut of_objects) = (0, 0);
    for (at, context, next) in data.iter().flat_map(Words::iter) {
        if context != 0 && context != hook || inside.contains(&at.get()) {
            continue;
        }
        if context == hook && Entry::parse(&[&[context], next].concat(), residency).is_some() {
            return Some(serving(default, true));
        }
        let is = |functions: &Functions| context == 0 && next.starts_with(functions);
        of_raw += u32::from(is(&raw));
        of_objects += u32::from(is(&objects));
    }
    // mem and obj are served alike, or raw too; fewer entries, and someone has set one of their own.
    match (raw == objects, of_raw, of_objects) {
        (false, _, 2..) => Some(serving(default, false)),
        (false, 3.., 0) | (true, 3.., _) => Some(PythonMalloc::Malloc),
        _ => None,
    }
}

/// The functions below all hooks of a domain, and whether debug hooks are among those. `None`
/// where someone's own allocator ends the way down.
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
