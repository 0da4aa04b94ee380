//! The offset of a thread's thread pointer in kernel memory, from the kernel's own type description
//! (BTF, `Documentation/bpf/btf.rst`). The Rust compiler for BPF emits no relocations that would
//! provide it.

use std::collections::HashMap;

use profiler_core::machine::Machine;

/// The kernel's own types.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

/// The members that lead from `thread` of a `task_struct` to the thread pointer: the base of the segment `fs` on x86-64,
/// and what `TPIDR_EL0` was when the thread was last switched away from on aarch64.
const WAY: &[&str] = match Machine::OWN {
    Machine::X86_64 => &["fsbase"],
    Machine::Aarch64 => &["uw", "tp_value"],
};

/// The offset of the thread pointer in `task_struct`; `None` if the kernel does not say.
pub(super) fn thread_pointer() -> Option<u32> {
    thread_pointer_in(&std::fs::read(KERNEL).ok()?)
}

fn thread_pointer_in(bytes: &[u8]) -> Option<u32> {
    let types = Types::of(bytes)?;
    let mut place = types.member("task_struct", "thread")?;
    for member in WAY {
        let (within, kind) = types.member_of(place.1, member)?;
        place = (place.0.checked_add(within)?, kind);
    }
    Some(place.0)
}

/// Structures by name and by number.
struct Types<'b> {
    names: &'b [u8],
    structs: HashMap<u32, Struct<'b>>,
}

/// A structure: its name, and its members of 12 bytes each.
struct Struct<'b> {
    name: u32,
    members: &'b [u8],
    /// Whether offsets of members have the sizes of bit fields in their upper byte.
    has_bit_fields: bool,
}

impl<'b> Types<'b> {
    fn of(bytes: &'b [u8]) -> Option<Self> {
        let magic = u16::from_le_bytes(*bytes.first_chunk()?);
        let field = |at| Some(u32_at(bytes, at)? as usize);
        let header = field(4)?;
        if magic != MAGIC || header < HEADER_BYTES {
            return None;
        }
        let part = |offset, length| {
            let start = header.checked_add(field(offset)?)?;
            bytes.get(start..start.checked_add(field(length)?)?)
        };
        let mut rest = part(8, 12)?;
        let names = part(16, 20)?;
        let mut structs = HashMap::new();
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            let (name, info) = (u32_at(rest, 0)?, u32_at(rest, 4)?);
            let (kind, count) = (info >> 24 & 31, (info & 0xffff) as usize);
            let more = match kind {
                INT | VAR | DECL_TAG => 4,
                ARRAY => 12,
                STRUCT | UNION | DATASEC | ENUM64 => count * 12,
                ENUM | FUNC_PROTO => count * 8,
                _ => 0,
            };
            let members = rest.get(12..12 + more)?;
            rest = rest.get(12 + more..)?;
            if kind == STRUCT {
                let has_bit_fields = info >> 31 == 1;
                let found = Struct {
                    name,
                    members,
                    has_bit_fields,
                };
                structs.insert(number, found);
            }
        }
        Some(Self { names, structs })
    }

    /// The offset of a member in the structure of this name, in bytes, and the member's type.
    fn member(&self, structure: &str, member: &str) -> Option<(u32, u32)> {
        let mut all = self.structs.iter();
        let (number, _) = all.find(|(_, found)| self.is_named(found.name, structure))?;
        self.member_of(*number, member)
    }

    fn member_of(&self, structure: u32, member: &str) -> Option<(u32, u32)> {
        let structure = self.structs.get(&structure)?;
        structure
            .members
            .as_chunks::<12>()
            .0
            .iter()
            .find_map(|one| {
                let (name, kind, bits) = (u32_at(one, 0)?, u32_at(one, 4)?, u32_at(one, 8)?);
                let bits = match structure.has_bit_fields {
                    true => bits & 0x00ff_ffff,
                    false => bits,
                };
                self.is_named(name, member).then_some((bits / 8, kind))
            })
    }

    fn is_named(&self, at: u32, name: &str) -> bool {
        let found = self.names.get(at as usize..);
        let rest = found.and_then(|found| found.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_says_where_the_thread_pointer_is() {
        let Some(offset) = thread_pointer() else {
            let has_types = std::path::Path::new(KERNEL).exists();
            assert!(!has_types, "{KERNEL} is not understood");
            return;
        };
        // Behind the thread's other registers, at the end of the structure.
        assert!(offset > 64 && offset % 8 == 0, "{offset}");
    }

    #[test]
    fn damaged_types_are_none() {
        let mut bytes = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
        bytes.extend([0u32, 24, 24, 4].iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(
            [1u32, 4 << 24 | 9, 8, 1, 1, 64]
                .iter()
                .flat_map(|word| word.to_le_bytes()),
        );
        bytes.extend(b"\0ab\0");
        for end in 0..bytes.len() {
            assert_eq!(thread_pointer_in(&bytes[..end]), None);
        }
        assert_eq!(thread_pointer_in(&bytes), None);
    }
}
