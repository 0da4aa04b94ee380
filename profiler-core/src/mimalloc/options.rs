//! `mi_options`: the settings in force, under mimalloc's own names.

use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::object::AllocatorObject;
use crate::residency::ResidencyMap;

use super::instance::any_word;

/// Bytes of `mi_option_desc_t` (`src/options.c`): value, how it was set and its number, name,
/// legacy name.
const ENTRY: u64 = 32;
/// The first option, in every release.
const FIRST: &str = "show_errors";
/// Options that a release has at most.
const MAX_OPTIONS: u64 = 96;
/// Bytes of a name at most.
const MAX_NAME: usize = 48;

/// The options of this mimalloc, name and value; empty when they are not found.
pub(super) fn read<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    object: &AllocatorObject,
) -> Vec<(String, String)> {
    let mut options = Vec::new();
    // The word before the first option's name contains its number, 0, and how it was set.
    let mut before = u64::MAX;
    any_word(memory, residency, &object.data, |at, word| {
        let set_and_number = std::mem::replace(&mut before, word);
        let may_be = set_and_number <= 2 && word != 0 && name(memory, word) == Some(FIRST.into());
        if let Some(first) = at.checked_sub(16).filter(|_| may_be) {
            options = (0..MAX_OPTIONS)
                .map_while(|i| entry(memory, first, i))
                .collect();
        }
        options.len() > 1
    });
    options
}

/// The option of this number.
fn entry<M: TargetMemory>(memory: &M, first: RemoteAddr, i: u64) -> Option<(String, String)> {
    let at = first.checked_add(i * ENTRY)?;
    let [value, set_and_number, named] = memory.read_value::<[u64; 3]>(at).ok()?;
    let (set, number) = (set_and_number as u32, set_and_number >> 32);
    if set > 2 || number != i {
        return None;
    }
    Some((name(memory, named)?, (value as i64).to_string()))
}

fn name<M: TargetMemory>(memory: &M, at: u64) -> Option<String> {
    let mut bytes = [0; MAX_NAME];
    memory.read(RemoteAddr::new(at), &mut bytes).ok()?;
    let len = bytes.iter().position(|&byte| byte == 0)?;
    let name = std::str::from_utf8(bytes.get(..len)?).ok()?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (!name.is_empty() && name.chars().all(plain)).then(|| name.to_owned())
}
