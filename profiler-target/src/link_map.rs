//! The dynamic loader's list of loaded objects, in load order.
//!
//! `AT_PHDR` of the auxiliary vector leads to the program headers, `PT_DYNAMIC` to the dynamic
//! section, and `DT_DEBUG` to `struct r_debug`, whose `r_map` is the head of the chain of `struct
//! link_map` (glibc `elf/link.h`; musl `include/link.h` has the same public fields).

use std::collections::HashSet;

use super::auxv::{AT_PHDR, AT_PHENT, AT_PHNUM, auxv_value};
use profiler_core::addr::RemoteAddr;
use profiler_core::memory::{ReadError, TargetMemory};

const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const DT_NULL: u64 = 0;
const DT_DEBUG: u64 = 21;
/// Bytes of an `Elf64_Phdr`.
const PHDR_BYTES: u64 = 56;
const MAX_PHDRS: u64 = 256;
const MAX_DYNAMIC_ENTRIES: u64 = 4096;
const MAX_OBJECTS: usize = 16_384;

/// Why there is no chain.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChainError {
    /// The program requests no loader (`PT_INTERP`), so no loader keeps a list for it.
    #[error("the program is statically linked, or is itself the loader")]
    Static,
    /// The loader has not filled in its list (yet), or it is damaged.
    #[error("the loader's list of objects is damaged or not there yet")]
    Damaged,
    /// It is unreadable.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The program's image in memory, according to its auxiliary vector.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ProgramHeaders {
    /// The address of its program headers.
    pub headers: RemoteAddr,
    count: u64,
}

impl ProgramHeaders {
    /// Reads `/proc/PID/auxv`'s bytes.
    pub fn from_auxv(auxv: &[u8]) -> Option<Self> {
        let entry = |key| auxv_value(auxv, key);
        if entry(AT_PHENT)? != PHDR_BYTES {
            return None;
        }
        Some(Self {
            headers: RemoteAddr::new(entry(AT_PHDR)?),
            count: entry(AT_PHNUM)?.min(MAX_PHDRS),
        })
    }

    /// All loaded objects in load order, the program first: the addresses of their dynamic
    /// sections, each inside its object's mappings.
    ///
    /// # Errors
    /// When there is no such list, or it is damaged or unreadable.
    pub fn chain<M: TargetMemory>(&self, memory: &M) -> Result<Vec<RemoteAddr>, ChainError> {
        let debug = self.debug_pointer(memory)?;
        let mut at = word(memory, debug, 8)?;
        let mut chain = Vec::new();
        let mut seen = HashSet::new();
        while at.get() != 0 {
            if chain.len() >= MAX_OBJECTS || !seen.insert(at) {
                return Err(ChainError::Damaged);
            }
            chain.push(word(memory, at, 16)?);
            at = word(memory, at, 24)?;
        }
        if chain.is_empty() {
            return Err(ChainError::Damaged);
        }
        Ok(chain)
    }

    /// Whether the loader is not at work on the list (`r_state` is `RT_CONSISTENT`, `elf/link.h`).
    fn is_settled<M: TargetMemory>(&self, memory: &M) -> bool {
        let debug = self.debug_pointer(memory).ok();
        let state = debug.and_then(|debug| memory.read_value::<u32>(debug.checked_add(24)?).ok());
        state == Some(0)
    }

    fn debug_pointer<M: TargetMemory>(&self, memory: &M) -> Result<RemoteAddr, ChainError> {
        let dynamic = self.dynamic(memory)?.ok_or(ChainError::Static)?;
        for i in 0..MAX_DYNAMIC_ENTRIES {
            match word(memory, dynamic, i * 16)?.get() {
                DT_NULL => break,
                DT_DEBUG => {
                    let debug = word(memory, dynamic, i * 16 + 8)?;
                    return match debug.get() {
                        0 => Err(ChainError::Damaged),
                        _ => Ok(debug),
                    };
                }
                _ => {}
            }
        }
        Err(ChainError::Static)
    }

    /// The address of the program's dynamic section, if a loader processes it.
    fn dynamic<M: TargetMemory>(&self, memory: &M) -> Result<Option<RemoteAddr>, ChainError> {
        let mut bias = 0;
        let mut dynamic = None;
        let mut loader = false;
        for i in 0..self.count {
            let kind = word(memory, self.headers, i * PHDR_BYTES)?.get() as u32;
            let address = word(memory, self.headers, i * PHDR_BYTES + 16)?.get();
            match kind {
                PT_PHDR => bias = self.headers.get().wrapping_sub(address),
                PT_DYNAMIC => dynamic = Some(address),
                PT_INTERP => loader = true,
                _ => {}
            }
        }
        let address = dynamic.filter(|_| loader);
        Ok(address.map(|address| RemoteAddr::new(address.wrapping_add(bias))))
    }
}

/// The list of the program with this auxiliary vector; `None` if there is none, or the loader is
/// changing it.
pub(super) fn chain<M: TargetMemory>(auxv: &[u8], memory: &M) -> Option<Vec<RemoteAddr>> {
    let program = ProgramHeaders::from_auxv(auxv)?;
    let chain = program.chain(memory).ok()?;
    program.is_settled(memory).then_some(chain)
}

fn word<M: TargetMemory>(
    memory: &M,
    base: RemoteAddr,
    offset: u64,
) -> Result<RemoteAddr, ReadError> {
    let addr = base.checked_add(offset).ok_or(ReadError::Unmapped(base))?;
    memory.read_value::<u64>(addr).map(RemoteAddr::new)
}

#[cfg(test)]
mod tests {
    use profiler_core::memory::MemoryImage;

    use super::*;

    fn words(values: &[u64]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn auxv(headers: u64, count: u64) -> Vec<u8> {
        words(&[3, headers, 4, PHDR_BYTES, 5, count, 0, 0])
    }

    /// A program at bias 0x5000_0000 with a dynamic section at +0x100.
    fn image(dynamic: &[u64], chain: &[(u64, u64, u64)]) -> MemoryImage {
        let mut image = MemoryImage::default();
        let phdr = |kind: u64, vaddr: u64| words(&[kind, 0, vaddr, 0, 0, 0, 0]);
        let headers = [phdr(6, 0x40), phdr(3, 0), phdr(1, 0), phdr(2, 0x100)].concat();
        image.insert(RemoteAddr::new(0x5000_0040), headers);
        image.insert(RemoteAddr::new(0x5000_0100), words(dynamic));
        image.insert(RemoteAddr::new(0x9000), words(&[1, 0xa000, 0, 0]));
        for &(at, ld, next) in chain {
            image.insert(RemoteAddr::new(at), words(&[0, 0, ld, next, 0]));
        }
        image
    }

    const WITH_DEBUG: [u64; 6] = [5, 77, 21, 0x9000, 0, 0];

    fn chain(image: &MemoryImage) -> Result<Vec<u64>, ChainError> {
        let program = ProgramHeaders::from_auxv(&auxv(0x5000_0040, 4)).expect("auxv");
        let chain = program.chain(image)?;
        Ok(chain.iter().map(|dynamic| dynamic.get()).collect())
    }

    #[test]
    fn follows_the_chain_in_load_order() {
        let image = image(
            &WITH_DEBUG,
            &[
                (0xa000, 0x5000_0100, 0xb000),
                (0xb000, 0x7000, 0xc000),
                (0xc000, 0x6000, 0),
            ],
        );
        assert_eq!(chain(&image), Ok(vec![0x5000_0100, 0x7000, 0x6000]));
    }

    #[test]
    fn a_cycle_ends() {
        let image = image(&WITH_DEBUG, &[(0xa000, 1, 0xb000), (0xb000, 2, 0xa000)]);
        assert_eq!(chain(&image), Err(ChainError::Damaged));
    }

    #[test]
    fn a_pointer_to_nowhere_is_an_error() {
        let image = image(&WITH_DEBUG, &[(0xa000, 1, u64::MAX - 3)]);
        assert!(matches!(chain(&image), Err(ChainError::Read(_))));
    }

    #[test]
    fn a_program_without_a_loader_is_static() {
        assert_eq!(chain(&image(&[5, 77, 0, 0], &[])), Err(ChainError::Static));
        let program = ProgramHeaders::from_auxv(&auxv(0x5000_0040, 3)).expect("auxv");
        let image = image(&WITH_DEBUG, &[]);
        assert_eq!(program.chain(&image), Err(ChainError::Static));
    }

    #[test]
    fn a_loader_that_has_not_run_yet_is_told_apart() {
        let image = image(&[21, 0, 0, 0], &[]);
        assert_eq!(chain(&image), Err(ChainError::Damaged));
    }

    #[test]
    fn a_short_or_strange_auxv_gives_none() {
        assert_eq!(ProgramHeaders::from_auxv(&[]), None);
        assert_eq!(ProgramHeaders::from_auxv(&[0; 7]), None);
        assert_eq!(
            ProgramHeaders::from_auxv(&words(&[3, 1, 4, 57, 5, 1])),
            None
        );
    }
}
