//! Finds the caller of a place in code with the tables of the file that contains the code.

use gimli::{
    AArch64, CfaRule, EvaluationResult, Expression, Register, RegisterRule, UnwindContext, Value,
    X86_64,
};
use hashbrown::HashMap;
use profiler_common::sampling::Registers;
use profiler_core::machine::Machine;

use super::files::{Bytes, CodeFile};

/// Places whose rules are remembered.
const MAX_RULES: usize = 1 << 16;
/// Bytes of the entry of one function: a longer one is none that a compiler makes.
const MAX_ENTRY: usize = 256 << 10;
/// The most steps of one expression: those of compilers have about ten.
const MAX_STEPS: u32 = 1000;
/// Questions of one expression about registers and memory.
const MAX_QUESTIONS: usize = 16;

/// The copy of a stack, from its stack pointer on.
#[derive(Copy, Clone, Debug)]
pub(super) struct StackCopy<'s> {
    /// The address of the first of `bytes`.
    pub(super) start: u64,
    /// The copied bytes.
    pub(super) bytes: &'s [u8],
}

impl StackCopy<'_> {
    fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.start)?).ok()?;
        let word = self.bytes.get(at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*word))
    }
}

/// The result of a step outwards.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// At the place that called, which the registers now are of.
    Caller,
    /// At the instruction that a signal interrupted, which the registers now are of.
    Interrupted,
    /// There is no caller: the thread began here.
    Outermost,
    /// The caller's frame is beyond the copy.
    Beyond,
    /// The file says nothing of this place.
    NoTable,
    /// What the table says leads nowhere.
    Damaged,
}

/// Where a value is, relative to the frame's address.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Saved {
    Not,
    At(i64),
}

/// The numbers that tables give to a machine's registers ("DWARF for the Arm 64-bit Architecture"; System V ABI for x86-64).
#[derive(Copy, Clone)]
struct Numbers {
    stack: Register,
    frame: Register,
    /// Where the return address is: on x86-64 only a column in the frame's table, on aarch64 `x30`.
    link: Register,
    /// Whether that is a register, in which it stays as long as the function calls no other.
    is_linked: bool,
    /// The bits of an address. The others may be a signature of a return address (pointer authentication).
    address: u64,
}

impl Numbers {
    const fn of(machine: Machine) -> Self {
        match machine {
            Machine::X86_64 => Self {
                stack: X86_64::RSP,
                frame: X86_64::RBP,
                link: X86_64::RA,
                is_linked: false,
                address: u64::MAX,
            },
            Machine::Aarch64 => Self {
                stack: AArch64::SP,
                frame: AArch64::X29,
                link: AArch64::X30,
                is_linked: true,
                address: (1 << 48) - 1,
            },
        }
    }

    fn value(&self, registers: &Registers, register: Register) -> Option<u64> {
        match register {
            _ if register == self.stack => Some(registers.stack),
            _ if register == self.frame => Some(registers.frame),
            _ if register == self.link && self.is_linked => Some(registers.link),
            _ if register == self.link => Some(registers.instruction),
            _ => None,
        }
    }
}

/// The rule at a place.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Rule {
    /// The frame's address is at this distance from the stack pointer or the frame pointer; with
    /// the places of the caller's frame pointer and the return address.
    Plain {
        is_of_frame_pointer: bool,
        offset: i64,
        frame_pointer: Saved,
        return_address: Saved,
    },
    /// It must be evaluated each time.
    Evaluated,
    /// There is no caller.
    Outermost,
    /// There is nothing.
    None,
}

/// Finds callers, and remembers the rules of places.
pub(super) struct Unwinder {
    numbers: Numbers,
    context: UnwindContext<usize>,
    /// Each with whether it belongs to the code that returns from a signal handler.
    rules: HashMap<(u32, u64), (Rule, bool)>,
}

impl Unwinder {
    /// An empty cache, for code of this machine.
    pub(super) fn new(machine: Machine) -> Self {
        Self {
            numbers: Numbers::of(machine),
            context: UnwindContext::new(),
            rules: HashMap::new(),
        }
    }

    /// Steps to the caller of the code at `address`, one of the file's own addresses, to which the
    /// registers belong.
    pub(super) fn step(
        &mut self,
        (number, file): (u32, &CodeFile),
        address: u64,
        registers: &mut Registers,
        stack: &StackCopy<'_>,
    ) -> Step {
        let (rule, is_of_signal) = match self.rules.get(&(number, address)) {
            Some(rule) => *rule,
            None => {
                let rule = self.rule(file, address).unwrap_or(Rule::None);
                if self.rules.len() >= MAX_RULES {
                    self.rules.clear();
                }
                let rule = (rule, file.is_of_signal(address));
                self.rules.insert((number, address), rule);
                rule
            }
        };
        match self.step_by(rule, file, address, registers, stack) {
            Step::Caller if is_of_signal => Step::Interrupted,
            step => step,
        }
    }

    fn step_by(
        &mut self,
        rule: Rule,
        file: &CodeFile,
        address: u64,
        registers: &mut Registers,
        stack: &StackCopy<'_>,
    ) -> Step {
        match rule {
            Rule::Plain {
                is_of_frame_pointer,
                offset,
                frame_pointer,
                return_address,
            } => {
                let base = match is_of_frame_pointer {
                    true => registers.frame,
                    false => registers.stack,
                };
                let frame = base.checked_add_signed(offset);
                let saved = (frame_pointer, return_address);
                let numbers = &self.numbers;
                let leave = |frame| leave(numbers, frame, saved, registers, stack);
                frame.map_or(Step::Damaged, leave)
            }
            Rule::Evaluated => {
                let step = self.evaluate(file, address, registers, stack);
                step.unwrap_or(Step::Damaged)
            }
            Rule::Outermost => Step::Outermost,
            Rule::None => Step::NoTable,
        }
    }

    fn rule(&mut self, file: &CodeFile, address: u64) -> Option<Rule> {
        let entry = file.entry(address)?;
        // Both are gone through for each rule.
        if entry.entry_len() > MAX_ENTRY || entry.cie().entry_len() > MAX_ENTRY {
            return None;
        }
        let frames = file.frames();
        let context = &mut self.context;
        let row = entry.unwind_info_for_address(&frames, &file.bases, context, address);
        let row = row.ok()?;
        let numbers = &self.numbers;
        let return_address = match row.register(numbers.link) {
            None | Some(RegisterRule::SameValue) if numbers.is_linked => Saved::Not,
            None | Some(RegisterRule::Undefined) => return Some(Rule::Outermost),
            Some(RegisterRule::Offset(offset)) => Saved::At(offset),
            Some(_) => return Some(Rule::Evaluated),
        };
        let frame_pointer = match row.register(numbers.frame) {
            None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Saved::Not,
            Some(RegisterRule::Offset(offset)) => Saved::At(offset),
            Some(_) => return Some(Rule::Evaluated),
        };
        let (is_of_frame_pointer, offset) = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } if *register == numbers.stack => {
                (false, *offset)
            }
            CfaRule::RegisterAndOffset { register, offset } if *register == numbers.frame => {
                (true, *offset)
            }
            CfaRule::RegisterAndOffset { .. } => return None,
            CfaRule::Expression(_) => return Some(Rule::Evaluated),
        };
        Some(Rule::Plain {
            is_of_frame_pointer,
            offset,
            frame_pointer,
            return_address,
        })
    }

    /// The same, using expressions.
    fn evaluate(
        &mut self,
        file: &CodeFile,
        address: u64,
        registers: &mut Registers,
        stack: &StackCopy<'_>,
    ) -> Option<Step> {
        let entry = file.entry(address)?;
        let encoding = entry.cie().encoding();
        let frames = file.frames();
        let context = &mut self.context;
        let row = entry.unwind_info_for_address(&frames, &file.bases, context, address);
        let row = row.ok()?;
        let numbers = &self.numbers;
        let of = |expression: Expression<Bytes<'_>>, initial: Option<u64>| {
            value_of(numbers, expression, encoding, initial, registers, stack)
        };
        let frame = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => Ok(numbers
                .value(registers, *register)?
                .checked_add_signed(*offset)?),
            CfaRule::Expression(expression) => of(expression.get(&frames).ok()?, None),
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(step) => return Some(step),
        };
        let place = |register| match row.register(register) {
            None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Ok(None),
            Some(RegisterRule::Offset(offset)) => {
                Ok(Some(frame.checked_add_signed(offset).ok_or(Step::Damaged)?))
            }
            Some(RegisterRule::Expression(expression)) => {
                let expression = expression.get(&frames).map_err(|_| Step::Damaged)?;
                of(expression, Some(frame)).map(Some)
            }
            Some(_) => Err(Step::NoTable),
        };
        let places = place(numbers.frame).and_then(|bp| Ok((bp, place(numbers.link)?)));
        let (frame_pointer, return_address) = match places {
            Ok(places) => places,
            Err(step) => return Some(step),
        };
        let distance = |at: u64| Some(at.wrapping_sub(frame).cast_signed());
        let frame_pointer = match frame_pointer {
            Some(at) => Saved::At(distance(at)?),
            None => Saved::Not,
        };
        let return_address = match return_address {
            Some(at) => Saved::At(distance(at)?),
            None if numbers.is_linked => Saved::Not,
            None => return None,
        };
        let saved = (frame_pointer, return_address);
        Some(leave(numbers, frame, saved, registers, stack))
    }
}

/// Gives the registers the values that they have in the caller.
fn leave(
    numbers: &Numbers,
    frame: u64,
    (frame_pointer, return_address): (Saved, Saved),
    registers: &mut Registers,
    stack: &StackCopy<'_>,
) -> Step {
    // Each caller's frame lies above. Anything else would loop. Only a function that has its return
    // address in a register, which happens once, may have no frame of its own.
    let is_linked = return_address == Saved::Not;
    if frame < registers.stack || (frame == registers.stack && !is_linked) {
        return Step::Damaged;
    }
    let word = |offset: i64| {
        let at = frame.checked_add_signed(offset);
        at.and_then(|at| stack.word(at)).ok_or(Step::Beyond)
    };
    let caller = match return_address {
        Saved::At(offset) => word(offset),
        // A call overwrites it: only the innermost function's is known.
        Saved::Not if registers.link == 0 => Err(Step::NoTable),
        Saved::Not => Ok(registers.link),
    };
    let caller = match caller {
        Ok(0) => return Step::Outermost,
        Ok(caller) => caller & numbers.address,
        Err(step) => return step,
    };
    if let Saved::At(offset) = frame_pointer {
        match word(offset) {
            Ok(saved) => registers.frame = saved,
            Err(step) => return step,
        }
    }
    registers.instruction = caller;
    registers.stack = frame;
    registers.link = 0;
    Step::Caller
}

/// The value of an expression, which may ask for registers and for words of the stack.
fn value_of(
    numbers: &Numbers,
    expression: Expression<Bytes<'_>>,
    encoding: gimli::Encoding,
    initial: Option<u64>,
    registers: &Registers,
    stack: &StackCopy<'_>,
) -> Result<u64, Step> {
    let mut evaluation = expression.evaluation(encoding);
    evaluation.set_max_iterations(MAX_STEPS);
    if let Some(initial) = initial {
        evaluation.set_initial_value(initial);
    }
    let mut state = evaluation.evaluate().map_err(|_| Step::Damaged)?;
    for _ in 0..MAX_QUESTIONS {
        state = match state {
            EvaluationResult::Complete => {
                let result = evaluation.value_result();
                let result = result.and_then(|value| value.to_u64(u64::MAX).ok());
                return result.ok_or(Step::Damaged);
            }
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = numbers.value(registers, register).ok_or(Step::NoTable)?;
                evaluation.resume_with_register(Value::Generic(value))
            }
            EvaluationResult::RequiresMemory {
                address, size: 8, ..
            } => {
                let word = stack.word(address).ok_or(Step::Beyond)?;
                evaluation.resume_with_memory(Value::Generic(word))
            }
            _ => return Err(Step::NoTable),
        }
        .map_err(|_| Step::Damaged)?;
    }
    Err(Step::Damaged)
}

#[cfg(test)]
mod tests {
    use gimli::{EndianSlice, LittleEndian};

    use super::*;

    fn evaluated(code: &[u8]) -> Result<u64, Step> {
        let encoding = gimli::Encoding {
            address_size: 8,
            format: gimli::Format::Dwarf32,
            version: 4,
        };
        let words: Vec<u8> = (1..=4u64).flat_map(u64::to_le_bytes).collect();
        let stack = StackCopy {
            start: 0x1000,
            bytes: &words,
        };
        let registers = Registers {
            instruction: 0x400b,
            stack: 0x1000,
            frame: 0x1010,
            link: 0,
        };
        let expression = Expression(EndianSlice::new(code, LittleEndian));
        let numbers = Numbers::of(Machine::X86_64);
        value_of(&numbers, expression, encoding, None, &registers, &stack)
    }

    #[test]
    fn expressions_of_compilers_and_linkers_have_their_value() {
        // rbp - 8, and the word there: from a function that aligns its stack.
        assert_eq!(evaluated(&[0x76, 0x78, 0x06]), Ok(2));
        // rsp + 8 + ((rip & 15) >= 11) * 8: from a procedure linkage table.
        let plt = [
            0x77, 0x08, 0x80, 0x00, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22,
        ];
        assert_eq!(evaluated(&plt), Ok(0x1010));
    }

    #[test]
    fn expressions_that_lie_end() {
        // Back to its own beginning, for ever.
        assert_eq!(evaluated(&[0x2f, 0xfd, 0xff]), Err(Step::Damaged));
        // A register that was not copied, memory that was not copied, nothing at all.
        assert_eq!(evaluated(&[0x73, 0x00]), Err(Step::NoTable));
        assert_eq!(evaluated(&[0x30, 0x06]), Err(Step::Beyond));
        assert_eq!(evaluated(&[]), Err(Step::Damaged));
        assert_eq!(evaluated(&[0x22]), Err(Step::Damaged));
        // The same word once more, and once more.
        let asks: Vec<u8> = std::iter::once(0x76)
            .chain([0x00])
            .chain(std::iter::repeat_n([0x13, 0x76, 0x00], 40).flatten())
            .collect();
        assert_eq!(evaluated(&asks), Err(Step::Damaged));
    }
}
