//! Probe sites in aarch64 code: which instructions the kernel simulates, what they write, and where
//! they branch to.
//!
//! Each instruction has 4 bytes (`Arm Architecture Reference Manual`, C4.1: "A64 instruction set
//! encoding"). An instruction that is not distinguished here is assumed to write each register that
//! it names, so that no site is placed after it on false grounds.

use super::code::Code;
use super::emulation::Treatment;
use super::{Body, SiteOptions};
use crate::plan::{Function, PlannedProbe, ResultSite, Site};

/// Bytes of an instruction.
const WIDTH: u64 = 4;
/// How many instructions from the entry are looked at.
const REACH: u64 = 48;
/// The link register, which has the return address.
const LINK: u32 = 30;
/// The register number that means the stack pointer or no register at all, depending on the
/// instruction.
const STACK: u32 = 31;

/// General registers, a bit each; bit 31 is the stack pointer.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
struct Registers(u32);

impl Registers {
    const NONE: Self = Self(0);

    const fn of(number: u32) -> Self {
        Self(1 << (number & 31))
    }

    /// The first `count` arguments (`x0` and up; "Procedure Call Standard for the Arm 64-bit
    /// Architecture").
    const fn arguments(count: u32) -> Self {
        Self((1 << count) - 1)
    }

    const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without number 31, where that is the register that reads as zero.
    const fn general(self) -> Self {
        Self(self.0 & !(1 << STACK))
    }

    const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// An instruction with its address.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
struct Instruction {
    address: u64,
    word: u32,
}

/// Where an instruction leads.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Flow {
    /// To the next one alone.
    Next,
    /// To this address, and perhaps to the next one.
    Direct(u64),
    /// Anywhere (`br`).
    Indirect,
    /// Back to the caller, into another function, or to an end.
    Away,
}

impl Instruction {
    fn at(code: &Code, address: u64) -> Option<Self> {
        let bytes = code.bytes_at(address)?.first_chunk()?;
        let word = u32::from_le_bytes(*bytes);
        address
            .is_multiple_of(WIDTH)
            .then_some(Self { address, word })
    }

    const fn is(self, mask: u32, value: u32) -> bool {
        self.word & mask == value
    }

    const fn field(self, at: u32) -> u32 {
        self.word >> at & 31
    }

    fn next(self) -> u64 {
        self.address.wrapping_add(WIDTH)
    }

    /// The target of a branch whose distance, in instructions, is the signed field of `bits` bits
    /// from bit `at` on.
    const fn target(self, at: u32, bits: u32) -> u64 {
        let field = (self.word >> at) as u64;
        let distance = ((field << (64 - bits)) as i64 >> (64 - bits)) * WIDTH as i64;
        self.address.wrapping_add_signed(distance)
    }

    const fn is_hint(self) -> bool {
        self.is(0xffff_f01f, 0xd503_201f)
    }

    /// `b`, `bl`.
    const fn is_jump(self) -> bool {
        self.is(0x7c00_0000, 0x1400_0000)
    }

    /// `b.cond` and `bc.cond`.
    const fn is_conditional(self) -> bool {
        self.is(0xff00_0000, 0x5400_0000)
    }

    /// `cbz`, `cbnz`.
    const fn compares(self) -> bool {
        self.is(0x7e00_0000, 0x3400_0000)
    }

    /// `tbz`, `tbnz`.
    const fn tests(self) -> bool {
        self.is(0x7e00_0000, 0x3600_0000)
    }

    /// `adr`, `adrp`.
    const fn is_address(self) -> bool {
        self.is(0x1f00_0000, 0x1000_0000)
    }

    /// Any branch to the address in a register.
    const fn is_by_register(self) -> bool {
        self.is(0xfe00_0000, 0xd600_0000)
    }

    fn flow(self) -> Flow {
        if self.is_jump() {
            return Flow::Direct(self.target(0, 26));
        }
        if self.is_conditional() || self.compares() {
            return Flow::Direct(self.target(5, 19));
        }
        if self.tests() {
            return Flow::Direct(self.target(5, 14));
        }
        if self.is_by_register() {
            // `br` and its authenticated forms; `blr` comes back.
            return match self.word >> 21 & 0xf {
                0b0000 | 0b1000 => Flow::Indirect,
                0b0001 | 0b1001 => Flow::Next,
                _ => Flow::Away,
            };
        }
        // Exceptions: `svc` comes back, and the rest does not.
        match self.is(0xff00_0000, 0xd400_0000) && !self.is(0xffe0_001f, 0xd400_0001) {
            true => Flow::Away,
            false => Flow::Next,
        }
    }

    /// Whether execution goes straight on.
    fn goes_on(self) -> bool {
        self.flow() == Flow::Next && !self.is_by_register()
    }

    /// The registers that it may write.
    fn writes(self) -> Registers {
        let (first, second) = (Registers::of(self.field(0)), Registers::of(self.field(5)));
        let (third, fourth) = (Registers::of(self.field(10)), Registers::of(self.field(16)));
        match self.word >> 25 & 0xf {
            // Data processing with a number: only sums and `and`, `orr`, `eor` write the stack pointer.
            0b1000 | 0b1001 => {
                let sums = self.is(0x1f80_0000, 0x1100_0000) && self.word >> 29 & 1 == 0;
                let logical = self.is(0x1f80_0000, 0x1200_0000) && self.word >> 29 & 3 != 3;
                match sums || logical {
                    true => first,
                    false => first.general(),
                }
            }
            0b1010 | 0b1011 => self.system_writes(),
            // Loads and stores.
            0b0100 | 0b0110 | 0b1100 | 0b1110 => self.memory_writes(),
            // Data processing of registers, general and floating.
            0b0101 | 0b1101 | 0b0111 | 0b1111 => first.general(),
            _ => first.with(second).with(third).with(fourth),
        }
    }

    /// Of branches and system instructions.
    fn system_writes(self) -> Registers {
        if self.is_hint() {
            // `xpaclri`, `pacia1716` and their like, and those on the link register (`paciasp`, `autiasp`).
            return match self.word >> 5 & 0x7f {
                7 | 24..=31 => Registers::of(LINK),
                8 | 10 | 12 | 14 => Registers::of(17),
                _ => Registers::NONE,
            };
        }
        let is_call = self.is(0xfc00_0000, 0x9400_0000) || self.is_by_register();
        if is_call {
            return Registers::of(LINK);
        }
        if self.is_jump() || self.is_conditional() || self.compares() || self.tests() {
            return Registers::NONE;
        }
        // `mrs`, `sysl` and the unknown rest.
        Registers::of(self.field(0)).general()
    }

    fn memory_writes(self) -> Registers {
        let (target, base) = (Registers::of(self.field(0)), Registers::of(self.field(5)));
        let is_vector = self.word >> 26 & 1 == 1;
        let loaded = |registers: Registers| match is_vector {
            true => Registers::NONE,
            false => registers.general(),
        };
        let written_back = |is_so| if is_so { base } else { Registers::NONE };
        // Pairs: bit 22 is of loads; bit 23 of forms that write the base back.
        if self.is(0x3800_0000, 0x2800_0000) {
            let second = Registers::of(self.field(10));
            let values = match self.word >> 22 & 1 {
                1 => loaded(target.with(second)),
                _ => Registers::NONE,
            };
            return values.with(written_back(self.word >> 23 & 1 == 1));
        }
        // One register.
        if self.is(0x3800_0000, 0x3800_0000) {
            let is_store = self.word >> 22 & 3 == 0;
            let has_number = self.word >> 24 & 1 == 1;
            let is_atomic = !has_number && self.word >> 21 & 1 == 1 && self.word >> 10 & 3 == 0;
            let values = match is_store && !is_atomic {
                true => Registers::NONE,
                false => loaded(target),
            };
            // Bit 10 is of both forms that write the base back.
            let writes_back = !has_number && self.word >> 10 & 1 == 1;
            return values.with(written_back(writes_back));
        }
        // Literals.
        if self.is(0x3b00_0000, 0x1800_0000) {
            return loaded(target);
        }
        // Exclusives, tags, whole arrays: each register that is named.
        let others = Registers::of(self.field(10)).with(Registers::of(self.field(16)));
        target.with(others).general().with(base)
    }

    /// How the kernel treats a probe on it (`arch/arm64/kernel/probes/decode-insn.c`, Linux 5.10 to
    /// 6.18).
    fn treatment(self) -> Treatment {
        if self.is_jump()
            || self.is(0xff00_0010, 0x5400_0000)
            || self.compares()
            || self.tests()
            || self.is_address()
            // `br`, `blr`, `ret`.
            || self.is(0xff9f_fc1f, 0xd61f_0000)
        {
            return Treatment::Emulated;
        }
        match self.is_steppable() {
            true => Treatment::SingleStepped,
            false => Treatment::Refused,
        }
    }

    fn is_steppable(self) -> bool {
        // Branches and system instructions.
        if self.is(0x1c00_0000, 0x1400_0000) {
            if self.is_hint() {
                // Those that cannot fault: `nop`, `xpaclri`, those that sign, `bti`.
                return matches!(
                    self.word >> 5 & 0x7f,
                    0 | 7 | 8 | 10 | 24..=27 | 32 | 34 | 36 | 38
                );
            }
            let is_branch = self.is_by_register() || self.is_conditional();
            let is_exception = self.is(0xff00_0000, 0xd400_0000);
            // `msr`, to a register or to a field of the state.
            let is_msr = self.is(0xfff0_0000, 0xd510_0000) || self.is(0xfff8_f01f, 0xd500_401f);
            let reads_mask = self.is(0xffff_ffe0, 0xd53b_4220);
            return !(is_branch || is_exception || is_msr || reads_mask);
        }
        // Literals (`ldr`, `ldrsw`, `prfm`), and exclusives.
        let is_literal = self.is(0x3b00_0000, 0x1800_0000);
        !is_literal && !self.is_exclusive()
    }

    /// `ldxr`, `stxr` and their like: a trap between the two would have the second fail for ever.
    const fn is_exclusive(self) -> bool {
        self.is(0x3f80_0000, 0x0800_0000)
    }

    /// Text for people: the name if sites can have it, and a branch's target from the function's
    /// start.
    fn text(self, body: &Body) -> String {
        let name = match self.word {
            _ if self.is(0xfc00_0000, 0x9400_0000) => "bl",
            _ if self.is_jump() => "b",
            _ if self.is_conditional() => "b.cond",
            _ if self.compares() && self.word >> 24 & 1 == 0 => "cbz",
            _ if self.compares() => "cbnz",
            _ if self.tests() && self.word >> 24 & 1 == 0 => "tbz",
            _ if self.tests() => "tbnz",
            _ if self.is(0x9f00_0000, 0x1000_0000) => "adr",
            _ if self.is_address() => "adrp",
            0xd503_233f => "paciasp",
            0xd503_237f => "pacibsp",
            _ if self.is(0xffff_ff3f, 0xd503_241f) => "bti",
            0xd65f_03c0 => "ret",
            word => return format!("{word:#010x}"),
        };
        match self.flow() {
            Flow::Direct(target) => {
                let distance = target.wrapping_sub(body.start).cast_signed();
                let sign = if distance < 0 { '-' } else { '+' };
                format!("{name} {sign}{:#x}", distance.unsigned_abs())
            }
            _ if self.is_address() => format!("{name} x{}", self.field(0)),
            _ => name.to_owned(),
        }
    }
}

/// The probe for `function`, whose code is `body`; `None` if the kernel accepts none there.
///
/// Results are read by return probes alone: which of its ends a call takes is not followed in this
/// code.
pub(super) fn plan(
    code: &Code,
    body: &Body,
    function: Function,
    manner: SiteOptions,
) -> Option<PlannedProbe> {
    let reads_header = manner.reads_header();
    let arguments = arguments(function, reads_header);
    let probe = |entry, result| PlannedProbe {
        function,
        aliases: Vec::new(),
        entry,
        result,
    };
    if function == Function::Free {
        let entry = entry_site(code, body, arguments)?;
        return Some(probe(Some(entry), ResultSite::None));
    }
    // The kernel redirects the return through the link register at this point.
    let at_entry = Registers::of(LINK).with(Registers::of(STACK));
    let entry = entry_site(code, body, arguments.with(at_entry))?;
    let needs_no_entry = manner.chunk_header && function.is_leaf_of_glibc() && reads_header;
    let result = ResultSite::Return(entry.clone());
    Some(probe((!needs_no_entry).then_some(entry), result))
}

/// The registers whose values are read at the entry.
fn arguments(function: Function, reads_header: bool) -> Registers {
    use Function as F;
    let count = match (function, reads_header) {
        (F::Free | F::Valloc | F::Malloc, _) => 1,
        (F::PosixMemalign | F::Reallocarray, true) => 1,
        (F::Calloc | F::Memalign | F::AlignedAlloc, true) => 0,
        (F::Calloc | F::Memalign | F::AlignedAlloc | F::Realloc, _) => 2,
        (F::Reallocarray | F::PosixMemalign, false) => 3,
    };
    Registers::arguments(count)
}

/// The first instruction that the kernel simulates, that every call passes exactly once, and at
/// which the `intact` registers hold what they held at the entry; else the first on which it
/// accepts a probe at all.
fn entry_site(code: &Code, body: &Body, intact: Registers) -> Option<Site> {
    let mut stepped = None;
    let mut at = body.start;
    for _ in 0..REACH {
        if at >= body.end {
            break;
        }
        let Some(instruction) = Instruction::at(code, at) else {
            break;
        };
        let is_alone =
            || at == body.start || !may_be_reached_from_inside(code, body, instruction.address);
        match instruction.treatment() {
            Treatment::Emulated if is_alone() => return site(code, body, instruction),
            Treatment::SingleStepped if stepped.is_none() && is_alone() => {
                stepped = Some(instruction);
            }
            _ => {}
        }
        // Not even after an exclusive load: the trap would be between it and its other half.
        let ends = instruction.writes().meets(intact) || instruction.is_exclusive();
        if ends || !instruction.goes_on() {
            break;
        }
        at = instruction.next();
    }
    site(code, body, stepped?)
}

fn site(code: &Code, body: &Body, instruction: Instruction) -> Option<Site> {
    Some(Site {
        file_offset: code.file_offset(instruction.address)?,
        offset_in_function: instruction.address.wrapping_sub(body.start),
        instruction: instruction.text(body),
        emulated: instruction.treatment() == Treatment::Emulated,
    })
}

/// Whether something other than a call of the function may run the instruction at `site`: a branch to behind the entry
/// from anywhere, or a jump table within the function, whose targets are not known here.
fn may_be_reached_from_inside(code: &Code, body: &Body, site: u64) -> bool {
    if body.is_too_long() {
        return true;
    }
    let skips_the_entry = |target: u64| target > body.start && target <= site;
    let own = (body.start..body.end).step_by(WIDTH as usize);
    for at in own {
        match Instruction::at(code, at).map(Instruction::flow) {
            None | Some(Flow::Indirect) => return true,
            Some(_) => {}
        }
    }
    code.words().any(|(address, word)| {
        let instruction = Instruction { address, word };
        matches!(instruction.flow(), Flow::Direct(target) if skips_the_entry(target))
    })
}

#[cfg(test)]
mod tests;
