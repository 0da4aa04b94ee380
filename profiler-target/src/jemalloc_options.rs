//! Locates the options of a jemalloc from its file, without symbols.
//!
//! The tree of names that `mallctl` serves is in the file's data. Under `opt`, each name has a
//! function that only returns one variable (`src/ctl.c`, `CTL_RO_NL_GEN`). So the first variable
//! that the function's code reads is the option.

use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};
use object::{Object, ObjectSegment, SegmentFlags};
use profiler_core::object::OptionKind;

/// The options that are shown, with their types (`src/jemalloc.c` and others); those that a release
/// lacks are skipped.
const OPTIONS: [(&str, OptionKind); 17] = [
    ("abort_conf", OptionKind::Bool),
    ("background_thread", OptionKind::Bool),
    ("cache_oblivious", OptionKind::Bool),
    ("dirty_decay_ms", OptionKind::Signed64),
    ("hpa", OptionKind::Bool),
    ("lg_extent_max_active_fit", OptionKind::Unsigned64),
    ("lg_tcache_max", OptionKind::Signed64),
    ("max_background_threads", OptionKind::Unsigned64),
    // `metadata_thp_mode_names` (`src/base.c`).
    (
        "metadata_thp",
        OptionKind::Words(&["disabled", "auto", "always"]),
    ),
    ("muzzy_decay_ms", OptionKind::Signed64),
    ("narenas", OptionKind::Unsigned32),
    ("oversize_threshold", OptionKind::Unsigned64),
    ("prof", OptionKind::Bool),
    ("retain", OptionKind::Bool),
    ("tcache", OptionKind::Bool),
    ("tcache_max", OptionKind::Unsigned64),
    // `thp_mode_names` (`src/pages.c`).
    (
        "thp",
        OptionKind::Words(&["default", "always", "never", "not supported"]),
    ),
];

/// `sizeof(ctl_named_node_t)`, and its fields `name`, `nchildren`, `ctl` (`ctl.h`).
const NODE: u64 = 40;
const NAME: u64 = 8;
const CHILDREN: u64 = 16;
const CTL: u64 = 32;
/// The most nodes examined on either side of the first that is found; 5.3.1 has 80.
const MAX_NODES: u64 = 256;
/// The most instructions examined in one function; Debian's 5.3.0 needs 8.
const MAX_INSTRUCTIONS: usize = 32;
/// Bytes of them.
const MAX_CODE: u64 = 256;
/// The most pointers in a program's data that are examined.
const MAX_POINTERS: usize = 4 << 20;

/// An option: its name, the address of its variable in the file's own address space, its type.
pub(super) type Found = (&'static str, u64, OptionKind);

/// The options of the jemalloc in `elf`; empty if its build differs from the known ones.
pub(super) fn find<'d>(elf: &impl Object<'d>) -> Vec<Found> {
    File::of(elf)
        .and_then(|file| file.options())
        .unwrap_or_default()
}

/// The searched data: segments with their bytes, and the words that the loader will relocate.
struct File<'d> {
    segments: Vec<Segment<'d>>,
    relocated: HashMap<u64, u64>,
}

struct Segment<'d> {
    addr: u64,
    bytes: &'d [u8],
    memory_bytes: u64,
    writable: bool,
}

impl<'d> File<'d> {
    fn of(elf: &impl Object<'d>) -> Option<Self> {
        if elf.architecture() != object::Architecture::X86_64 {
            return None;
        }
        let segments = elf.segments().filter_map(|segment| {
            Some(Segment {
                addr: segment.address(),
                bytes: segment.data().ok()?,
                memory_bytes: segment.size(),
                writable: matches!(
                    segment.flags(),
                    SegmentFlags::Elf { p_flags, .. } if (p_flags & object::elf::PF_W).0 != 0
                ),
            })
        });
        let relocations = elf.dynamic_relocations().into_iter().flatten();
        let relocated = relocations
            .take(MAX_POINTERS)
            .filter(|(_, relocation)| relocation.target() == object::RelocationTarget::Absolute)
            .map(|(at, relocation)| (at, relocation.addend() as u64));
        Some(Self {
            segments: segments.collect(),
            relocated: relocated.collect(),
        })
    }

    fn options(&self) -> Option<Vec<Found>> {
        let first = self.node("abort_conf")?;
        let mut found = Vec::new();
        let back = (1..MAX_NODES).map(|i| first.checked_sub(i * NODE));
        let on = (0..MAX_NODES).map(|i| first.checked_add(i * NODE));
        for node in back.map_while(|at| self.leaf(at?)) {
            found.extend(self.option(node));
        }
        for node in on.map_while(|at| self.leaf(at?)) {
            found.extend(self.option(node));
        }
        found.sort_by_key(|(name, ..)| *name);
        Some(found)
    }

    /// The node with this name, which only one has.
    fn node(&self, name: &str) -> Option<u64> {
        // It may be the end of a longer string: linkers merge the two.
        let text = [name.as_bytes(), b"\0"].concat();
        let names: Vec<u64> = self
            .segments
            .iter()
            .filter(|segment| !segment.writable)
            .flat_map(|segment| {
                let at = memchr::memmem::find_iter(segment.bytes, &text);
                at.map(|at| segment.addr + at as u64)
            })
            .collect();
        let in_words = || {
            let data = self.segments.iter().filter(|segment| segment.writable);
            data.flat_map(|segment| {
                let (words, _) = segment.bytes.as_chunks::<8>();
                let words = words.iter().take(MAX_POINTERS).enumerate();
                words.map(|(i, word)| (segment.addr + 8 * i as u64, u64::from_le_bytes(*word)))
            })
        };
        let relocated = self.relocated.iter().map(|(at, to)| (*at, *to));
        relocated
            .chain(in_words())
            .filter(|(_, to)| names.contains(to))
            .filter_map(|(at, _)| at.checked_sub(NAME))
            .find(|node| self.leaf(*node).is_some())
    }

    /// Name and function of a node without children.
    fn leaf(&self, node: u64) -> Option<(u64, u64)> {
        let field = |offset| self.word(node.checked_add(offset)?);
        let (name, ctl) = (field(NAME)?, field(CTL)?);
        (field(CHILDREN)? == 0 && name != 0 && ctl != 0).then_some((name, ctl))
    }

    fn option(&self, (name, ctl): (u64, u64)) -> Option<Found> {
        let text = self.bytes(name, 64)?;
        let text = text.split(|&byte| byte == 0).next()?;
        let (name, kind) = OPTIONS.iter().find(|(n, _)| n.as_bytes() == text)?;
        let size = match kind {
            OptionKind::Bool => 1,
            OptionKind::Unsigned32 | OptionKind::Words(_) => 4,
            OptionKind::Unsigned64 | OptionKind::Signed64 => 8,
        };
        let (addr, read) = self.first_read(ctl)?;
        (read == size).then_some((*name, addr, *kind))
    }

    /// The first variable that a function reads, and the number of bytes: directly, or through a
    /// register that contains its address.
    fn first_read(&self, function: u64) -> Option<(u64, usize)> {
        let code = self.bytes(function, MAX_CODE)?;
        let mut held: Vec<(Register, u64)> = Vec::new();
        let instructions = Decoder::with_ip(64, code, function, DecoderOptions::NONE).into_iter();
        for instruction in instructions.take(MAX_INSTRUCTIONS) {
            let bytes = instruction.memory_size().size();
            if instruction.op0_kind() != OpKind::Register
                || instruction.op1_kind() != OpKind::Memory
            {
                continue;
            }
            let addr = instruction.ip_rel_memory_address();
            if instruction.is_ip_rel_memory_operand() {
                if !self.is_writable(addr) {
                    continue;
                } else if instruction.mnemonic() != Mnemonic::Lea {
                    return Some((addr, bytes));
                }
                held.push((instruction.op0_register(), addr));
            } else if instruction.memory_index() == Register::None
                && instruction.memory_displacement64() == 0
                && instruction.segment_prefix() == Register::None
            {
                let base = instruction.memory_base();
                let address = held.iter().rev().find(|(register, _)| *register == base);
                if let Some((_, addr)) = address {
                    return Some((*addr, bytes));
                }
            }
        }
        None
    }

    fn is_writable(&self, addr: u64) -> bool {
        self.segments.iter().any(|segment| {
            segment.writable && (segment.addr..segment.addr + segment.memory_bytes).contains(&addr)
        })
    }

    /// Up to `most` bytes at an address in the file's own address space.
    fn bytes(&self, addr: u64, most: u64) -> Option<&'d [u8]> {
        self.segments.iter().find_map(|segment| {
            let at = usize::try_from(addr.checked_sub(segment.addr)?).ok()?;
            let rest = segment.bytes.get(at..)?;
            (!rest.is_empty()).then(|| &rest[..rest.len().min(most as usize)])
        })
    }

    /// A word's value when the file is loaded at address 0.
    fn word(&self, addr: u64) -> Option<u64> {
        if let Some(to) = self.relocated.get(&addr) {
            return Some(*to);
        }
        let bytes = self.bytes(addr, 8)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use profiler_core::allocator::Allocator;

    use super::OPTIONS;

    #[test]
    fn options_that_are_amounts_of_bytes_are_among_those_that_are_shown() {
        let listed = Allocator::Jemalloc.row().listed.bytes.iter();
        for name in listed.filter_map(|name| name.strip_prefix("opt.")) {
            assert!(OPTIONS.iter().any(|(one, _)| *one == name), "{name}");
        }
    }
}
