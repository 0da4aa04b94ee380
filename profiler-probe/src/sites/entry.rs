//! The site at which a call's arguments, or its return address, are read.

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

use super::code::Code;
use super::emulation::{Treatment, treatment};
use super::{Body, site};
use crate::plan::Site;

/// How many instructions from the entry are looked at.
const REACH: usize = 48;

/// The first instruction that the kernel emulates, that every call passes exactly once, and at
/// which the `intact` registers still hold what they held at the entry; else the entry itself.
///
/// With [`Register::RSP`] among them, `rsp` still points at the return address: suitable for a
/// return probe.
pub(super) fn entry_site(code: &Code, body: &Body, intact: &[Register]) -> Option<Site> {
    let entry = code.decode(body.start)?;
    let chosen = first_emulated(code, body, intact).filter(|found| {
        found.ip() == body.start || !may_be_reached_from_inside(code, body, found.ip())
    });
    site(code, body, &chosen.unwrap_or(entry))
}

/// Follows the code straight on from the entry; the first branch is emulated itself, so none is
/// ever skipped.
fn first_emulated(code: &Code, body: &Body, intact: &[Register]) -> Option<Instruction> {
    let mut info = InstructionInfoFactory::new();
    let mut at = body.start;
    for _ in 0..REACH {
        if at >= body.end {
            return None;
        }
        let instruction = code.decode(at)?;
        if treatment(code.bytes_of(&instruction)) == Treatment::Emulated {
            return Some(instruction);
        }
        let written =
            info.info(&instruction).used_registers().iter().any(|used| {
                writes(used.access()) && intact.contains(&used.register().full_register())
            });
        if written || instruction.flow_control() != FlowControl::Next {
            return None;
        }
        at = instruction.next_ip();
    }
    None
}

/// Whether an access may change the register.
pub(super) fn writes(access: iced_x86::OpAccess) -> bool {
    use iced_x86::OpAccess as A;
    matches!(
        access,
        A::Write | A::CondWrite | A::ReadWrite | A::ReadCondWrite
    )
}

/// Whether something other than a call of the function may run the instruction at `site`: a branch
/// to behind the entry, or a jump table, whose targets are not known here.
fn may_be_reached_from_inside(code: &Code, body: &Body, site: u64) -> bool {
    let skips_the_entry = |target: u64| target > body.start && target <= site;
    if body.is_too_long() {
        return true;
    }
    let mut last_writes: Vec<Instruction> = Vec::new();
    let mut at = body.start;
    while at < body.end {
        let Some(instruction) = code.decode(at) else {
            return true;
        };
        match instruction.flow_control() {
            FlowControl::ConditionalBranch
            | FlowControl::UnconditionalBranch
            | FlowControl::Call
                if skips_the_entry(instruction.near_branch_target()) =>
            {
                return true;
            }
            FlowControl::IndirectBranch if is_table_jump(&instruction, &last_writes) => {
                return true;
            }
            _ => {}
        }
        last_writes.push(instruction);
        at = instruction.next_ip();
    }
    !code
        .references(skips_the_entry, |from| !body.contains(from))
        .is_empty()
}

/// Whether an indirect jump may use a jump table rather than go to a function: its target does not
/// come straight out of one fixed place in memory.
fn is_table_jump(jump: &Instruction, before: &[Instruction]) -> bool {
    if jump.op0_kind() == OpKind::Memory {
        return jump.memory_index() != Register::None;
    }
    let register = jump.op0_register();
    let mut info = InstructionInfoFactory::new();
    let definition = before.iter().rev().find(|i| {
        info.info(i)
            .used_registers()
            .iter()
            .any(|used| writes(used.access()) && used.register().full_register() == register)
    });
    !definition.is_some_and(|i| {
        i.mnemonic() == Mnemonic::Mov
            && i.op1_kind() == OpKind::Memory
            && i.memory_index() == Register::None
    })
}

#[cfg(test)]
mod tests;
