//! What belongs to the interpreter whoever else refers to it: its table of interned strings.
//!
//! References in the table are not counted, and only the interpreter refers to it. Any other copy
//! of its address is there by chance, as in memory that was copied with its old contents.

use super::dict::{DictParts, entries};
use super::edges::Resolver;
use super::graph::Graph;
use super::kinds::PackedKind;
use super::layout::DictTable;
use super::names::{Names, Root};
use super::scan::Source;
use super::types::{Role, Type};
use super::words::read_word;
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;

/// The most entries of a dictionary that are examined: in the table of interned strings each key is
/// also its value.
const LOOKED_AT: u64 = 1 << 10;
/// Python has some hundred from the start on.
const LEAST: usize = 64;

/// The blocks of the tables of interned strings, dictionaries and their storage, ascending: what Python's data refers to.
pub(super) fn interned<M: TargetMemory>(
    source: &Source<'_, M>,
    kinds: &[PackedKind],
    types: &[Type],
    names: &Names,
) -> Vec<u32> {
    let resolve = Resolver { source, kinds };
    let mut found = Vec::new();
    for &block in names.of_root(Root::Interpreter) {
        let Some((object, of)) = resolve.object_in(block) else {
            continue;
        };
        if types[of as usize].facts.role != Role::Dict || names.is_space(block) {
            continue;
        }
        let count = read_word(source.memory, object);
        let count = count.and_then(|count| source.layout.reference_count(count));
        if count != Some(1) {
            continue;
        }
        let own = entries(source.memory, source.layout, object, LOOKED_AT).unwrap_or_default();
        let is_string = |addr: u64| {
            let of = resolve
                .object(addr)
                .map(|(_, of)| types[of as usize].facts.role);
            // Some of them are in Python's own file.
            of.is_none_or(|of| of == Role::Str || of == Role::Leaf)
        };
        if own.len() >= LEAST
            && own
                .iter()
                .all(|(key, value)| key == value && is_string(*key))
        {
            found.push(block);
            found.extend(table(source, object));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The block of a dictionary's table.
fn table<M: TargetMemory>(source: &Source<'_, M>, object: u64) -> Option<u32> {
    let mut head = [0; 56];
    source
        .memory
        .read(RemoteAddr::new(object), &mut head)
        .ok()?;
    let table = DictParts::of(source.layout, &head)?.table;
    let is_inside =
        source.layout.dict == DictTable::Open && (object..object + 256).contains(&table);
    let block = source.index.at(table).map(|(block, _)| block);
    block.filter(|_| !is_inside)
}

/// Leaves the tables to the interpreter alone.
pub(super) fn give_interned(
    graph: &mut Graph,
    interned: &[u32],
    kinds: &[PackedKind],
    names: &Names,
) {
    if interned.is_empty() {
        return;
    }
    let is_own = |block: u32| interned.binary_search(&block).is_ok();
    let is_root = |node: u32| node as usize >= kinds.len() && node >= names.first_root();
    graph.retain(|from, to| !is_own(to) || is_own(from) || is_root(from));
}
