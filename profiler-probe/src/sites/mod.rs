//! Chooses the instructions to probe in a function's machine code: those that the kernel emulates
//! and that each call passes exactly once.

mod a64;
mod code;
mod emulation;
mod entry;
mod paths;
mod result;
mod returns;
mod state;

use std::collections::HashSet;

use iced_x86::{FlowControl, Instruction, OpKind, Register};
use profiler_core::machine::Machine;

pub(crate) use code::{Code, Segment};
pub(crate) use returns::ENDINGS;

use self::emulation::{Treatment, treatment};
use super::plan::{Function, PlannedProbe, ResultSite, Site, Sizes};

/// A function's own address range, in its file's address space.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct Body {
    /// Its first instruction.
    pub start: u64,
    /// The address after its last.
    pub end: u64,
}

/// What an object's symbols show of its other functions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Symbols {
    /// Where those of [`ENDINGS`] that the object defines begin.
    pub endings: Vec<u64>,
    /// The start of every function with a symbol: anyone may call it.
    pub starts: HashSet<u64>,
}

/// A longer function is not searched; its entry can still be probed.
const MAX_BODY_BYTES: u64 = 1 << 16;

impl Body {
    fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    fn is_too_long(&self) -> bool {
        self.end.saturating_sub(self.start) > MAX_BODY_BYTES
    }
}

/// How the functions of an object are probed.
#[derive(Copy, Clone, Debug)]
pub(crate) struct SiteOptions {
    /// See [`crate::plan::MallocObject::chunk_header`].
    pub chunk_header: bool,
    /// The sizes that are wanted.
    pub sizes: Sizes,
}

impl SiteOptions {
    /// Whether the block's size is read beside the block.
    fn reads_header(self) -> bool {
        self.chunk_header && self.sizes == Sizes::Given
    }
}

/// The probe for `function`, whose code is `body`; `None` if its first bytes are no code.
///
/// If sizes are read beside the blocks, functions that cannot call each other need no probe at
/// their entry.
pub(crate) fn plan(
    code: &Code,
    body: &Body,
    function: Function,
    manner: SiteOptions,
    symbols: &Symbols,
) -> Option<PlannedProbe> {
    if code.machine() == Machine::Aarch64 {
        return a64::plan(code, body, function, manner);
    }
    let arguments = arguments(function, manner.reads_header());
    let probe = |entry, result| PlannedProbe {
        function,
        aliases: Vec::new(),
        entry,
        result,
    };
    if function == Function::Free {
        let entry = entry::entry_site(code, body, arguments)?;
        return Some(probe(Some(entry), ResultSite::None));
    }
    // One trap serves both: the entry is read where the return probe is set.
    let intact = [arguments, &[Register::RSP]].concat();
    let entry = entry::entry_site(code, body, &intact)?;
    if !(manner.chunk_header && function.is_leaf_of_glibc()) {
        return Some(probe(Some(entry.clone()), ResultSite::Return(entry)));
    }
    let result = match result::result_sites(code, body, function, symbols) {
        Some(sites) => ResultSite::Jumps(sites),
        None => ResultSite::Return(entry.clone()),
    };
    let entry = (!manner.reads_header()).then_some(entry);
    Some(probe(entry, result))
}

/// The registers whose values are read at the entry (System V ABI).
fn arguments(function: Function, reads_header: bool) -> &'static [Register] {
    use Function as F;
    use Register::{RDI, RDX, RSI};
    match (function, reads_header) {
        (F::Free | F::Valloc | F::Malloc, _) => &[RDI],
        // glibc's reallocarray multiplies at once, and passes the size to realloc.
        (F::PosixMemalign | F::Reallocarray, true) => &[RDI],
        (F::Calloc | F::Memalign | F::AlignedAlloc, true) => &[],
        (F::Calloc | F::Memalign | F::AlignedAlloc, false) => &[RDI, RSI],
        // The size distinguishes a failed realloc from one to 0 bytes that freed its block.
        (F::Realloc, _) => &[RDI, RSI],
        (F::Reallocarray | F::PosixMemalign, false) => &[RDI, RSI, RDX],
    }
}

/// `instruction` as a site of the function.
fn site(code: &Code, body: &Body, instruction: &Instruction) -> Option<Site> {
    Some(Site {
        file_offset: code.file_offset(instruction.ip())?,
        offset_in_function: instruction.ip().wrapping_sub(body.start),
        instruction: text(instruction, body),
        emulated: treatment(code.bytes_of(instruction)) == Treatment::Emulated,
    })
}

/// The instruction as text for people: its mnemonic, and its register or the branch's target from
/// the function's start.
fn text(instruction: &Instruction, body: &Body) -> String {
    let mnemonic = format!("{:?}", instruction.mnemonic()).to_lowercase();
    let direct = matches!(
        instruction.flow_control(),
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call
    );
    if direct {
        let distance = instruction
            .near_branch_target()
            .wrapping_sub(body.start)
            .cast_signed();
        let sign = if distance < 0 { '-' } else { '+' };
        format!("{mnemonic} {sign}{:#x}", distance.unsigned_abs())
    } else if instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register {
        format!("{mnemonic} {:?}", instruction.op0_register()).to_lowercase()
    } else {
        mnemonic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_end_in_some_answer() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..400u64 {
            let bytes: Vec<u8> = (0..600)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect();
            let address = if round % 2 == 0 {
                0x1000
            } else {
                u64::MAX - 400
            };
            let segment = Segment {
                address,
                file_offset: u64::MAX - 100,
                bytes,
            };
            let code = Code::new(Machine::ALL[round as usize % 5 % 2], vec![segment]);
            for function in Function::ALL {
                let body = Body {
                    start: address + round % 7,
                    end: address.saturating_add(round),
                };
                let manner = SiteOptions {
                    chunk_header: round % 3 == 0,
                    sizes: [Sizes::Given, Sizes::Requested][round as usize / 2 % 2],
                };
                if let Some(probe) = plan(&code, &body, function, manner, &Symbols::default()) {
                    assert_eq!(probe.function, function);
                }
            }
        }
    }
}
