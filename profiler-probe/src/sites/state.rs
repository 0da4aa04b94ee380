//! What is known about registers and stack at one point of a function: which locations hold the
//! same value, and which are null.
//!
//! The System V ABI is assumed: a call preserves `rbx`, `rbp`, `rsp` and `r12` to `r15`, and nobody
//! else writes a function's stack unless the function passes on an address in it.

use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

use super::entry::writes;

/// What a place holds.
#[derive(Copy, Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Value {
    /// Some value; places with the same number hold the same value.
    Some(u16),
    /// The same, and it is not null.
    NonNull(u16),
    /// This number.
    Const(u64),
    /// The non-null value that `rax` held at the sites passed so far.
    Result,
    /// This many bytes above the return address of the function.
    Stack(i64),
}

impl Value {
    /// The null pointer.
    pub(super) const NULL: Self = Self::Const(0);

    /// Whether it is zero, if that is known.
    pub(super) fn is_null(self) -> Option<bool> {
        match self {
            Self::Some(_) => None,
            Self::Const(number) => Some(number == 0),
            Self::NonNull(_) | Self::Result | Self::Stack(_) => Some(false),
        }
    }
}

/// A function does something that this analysis does not follow.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Unprovable;

/// The state before one instruction.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct State {
    registers: [Value; 16],
    /// By distance from the return address, ascending.
    slots: Vec<(i64, Value)>,
    /// The value that the zero flag describes.
    tested: Option<Value>,
    /// An address in the stack may be known elsewhere.
    escaped: bool,
    /// The sites passed with a non-null `rax`, a bit each.
    pub(super) passed: u64,
    next: u16,
}

/// A loop that pushes would go on for ever.
const MAX_SLOTS: usize = 64;
const RSP: usize = 4;
const RBP: usize = 5;
/// `rax, rcx, rdx, rsi, rdi, r8` to `r11`.
const LOST_IN_CALLS: [usize; 9] = [0, 1, 2, 6, 7, 8, 9, 10, 11];

impl State {
    /// The state at a function's entry.
    pub(super) fn at_entry() -> Self {
        let mut state = Self {
            registers: std::array::from_fn(|i| Value::Some(i as u16)),
            slots: Vec::new(),
            tested: None,
            escaped: false,
            passed: 0,
            next: 16,
        };
        state.registers[RSP] = Value::Stack(0);
        state
    }

    /// The value of a general register.
    pub(super) fn get(&self, register: Register) -> Value {
        self.registers[register.full_register().number()]
    }

    /// Whether `rsp` points at the return address, as before a `ret` or a tail call.
    pub(super) fn frame_is_gone(&self) -> bool {
        self.registers[RSP] == Value::Stack(0)
    }

    /// The value that a conditional jump on the zero flag decides on.
    pub(super) fn tested(&self) -> Option<Value> {
        self.tested
    }

    /// The same state with `old` known to be `new`, in all places that hold it.
    pub(super) fn refined(&self, old: Value, new: Value) -> Self {
        let mut state = self.clone();
        let places = state
            .registers
            .iter_mut()
            .chain(state.slots.iter_mut().map(|(_, value)| value))
            .chain(state.tested.as_mut());
        for place in places.filter(|place| **place == old) {
            *place = new;
        }
        state
    }

    /// Runs a call that returns.
    pub(super) fn call(&mut self) {
        for register in LOST_IN_CALLS {
            self.registers[register] = self.fresh();
        }
        self.tested = None;
        self.drop_slots_below_stack();
        if self.escaped {
            self.slots.clear();
        }
    }

    /// Runs an instruction that continues with the next one.
    pub(super) fn step(
        &mut self,
        i: &Instruction,
        info: &mut InstructionInfoFactory,
    ) -> Result<(), Unprovable> {
        if !self.step_known(i) {
            self.step_unknown(i, info);
        }
        match self.registers[RSP] {
            Value::Stack(_) if self.slots.len() <= MAX_SLOTS => Ok(()),
            _ => Err(Unprovable),
        }
    }

    /// Instructions whose values are followed. `false` for all others.
    fn step_known(&mut self, i: &Instruction) -> bool {
        self.step_stack(i) || self.step_move(i) || self.step_arithmetic(i)
    }

    /// What pushes and pops.
    fn step_stack(&mut self, i: &Instruction) -> bool {
        match i.mnemonic() {
            Mnemonic::Push if is_wide(i, 0) => {
                let value = self.get(i.op0_register());
                self.push(value);
            }
            Mnemonic::Push if i.stack_pointer_increment() == -8 => {
                let value = self.fresh();
                self.push(value);
            }
            Mnemonic::Pop if is_wide(i, 0) => {
                let value = self.pop();
                self.set(i.op0_register(), value);
            }
            Mnemonic::Leave => {
                self.registers[RSP] = self.registers[RBP];
                self.registers[RBP] = self.pop();
            }
            _ => return false,
        }
        true
    }

    /// What moves values, and addresses in the stack.
    fn step_move(&mut self, i: &Instruction) -> bool {
        match i.mnemonic() {
            Mnemonic::Mov if is_wide(i, 0) && is_wide(i, 1) => {
                self.set(i.op0_register(), self.get(i.op1_register()));
                self.drop_slots_below_stack();
            }
            Mnemonic::Mov if is_wide(i, 0) && i.op1_kind() == OpKind::Memory => {
                let value = self.load(self.stack_operand(i));
                self.set(i.op0_register(), value);
            }
            Mnemonic::Mov if i.op0_kind() == OpKind::Memory && is_wide(i, 1) => {
                match self.stack_operand(i) {
                    Some(at) => self.store(Some(at), self.get(i.op1_register())),
                    None => self.overwrite(i, 8),
                }
            }
            Mnemonic::Mov
                if i.op0_kind() == OpKind::Register
                    && i.op0_register().size() >= 4
                    && matches!(i.op1_kind(), OpKind::Immediate32 | OpKind::Immediate32to64) =>
            {
                self.set(i.op0_register(), Value::Const(i.immediate(1)));
            }
            Mnemonic::Lea if is_wide(i, 0) => {
                let value = match self.stack_operand(i) {
                    Some(at) => Value::Stack(at),
                    None => self.fresh(),
                };
                self.set(i.op0_register(), value);
                self.drop_slots_below_stack();
            }
            _ => return false,
        }
        true
    }

    /// Instructions that create nulls, move addresses in the stack, or test for null.
    fn step_arithmetic(&mut self, i: &Instruction) -> bool {
        match i.mnemonic() {
            Mnemonic::Xor
                if i.op0_kind() == OpKind::Register
                    && i.op1_kind() == OpKind::Register
                    && i.op0_register() == i.op1_register()
                    && i.op0_register().size() >= 4 =>
            {
                self.tested = None;
                self.set(i.op0_register(), Value::NULL);
            }
            Mnemonic::Add | Mnemonic::Sub if is_wide(i, 0) && is_immediate(i) => {
                let distance = i.immediate(1).cast_signed();
                let distance = match i.mnemonic() {
                    Mnemonic::Add => distance,
                    _ => distance.wrapping_neg(),
                };
                let value = match self.get(i.op0_register()) {
                    Value::Stack(at) => Value::Stack(at.wrapping_add(distance)),
                    _ => self.fresh(),
                };
                self.tested = None;
                self.set(i.op0_register(), value);
                self.drop_slots_below_stack();
            }
            Mnemonic::Test
                if is_wide(i, 0) && is_wide(i, 1) && i.op0_register() == i.op1_register() =>
            {
                self.tested = Some(self.get(i.op0_register()));
            }
            Mnemonic::Cmp if is_wide(i, 0) && is_immediate(i) && i.immediate(1) == 0 => {
                self.tested = Some(self.get(i.op0_register()));
            }
            _ => return false,
        }
        true
    }

    /// Forgets all that the instruction may change.
    fn step_unknown(&mut self, i: &Instruction, info: &mut InstructionInfoFactory) {
        if i.rflags_modified() != 0 {
            self.tested = None;
        }
        let info = info.info(i);
        for used in info.used_registers() {
            if writes(used.access()) && used.register().is_gpr() {
                let value = self.fresh();
                self.set(used.register(), value);
            }
        }
        for used in info.used_memory() {
            if writes(used.access()) {
                let bytes = used.memory_size().size().max(1) as i64;
                self.overwrite(i, bytes);
            }
        }
    }

    fn set(&mut self, register: Register, value: Value) {
        let number = register.full_register().number();
        if matches!(value, Value::Stack(_)) && number != RSP && number != RBP {
            self.escaped = true;
        }
        self.registers[number] = value;
    }

    fn fresh(&mut self) -> Value {
        self.next = self.next.wrapping_add(1);
        Value::Some(self.next)
    }

    fn stack_pointer(&self) -> Option<i64> {
        match self.registers[RSP] {
            Value::Stack(at) => Some(at),
            _ => None,
        }
    }

    /// The place in the stack that a memory operand names, if it certainly is one.
    fn stack_operand(&self, i: &Instruction) -> Option<i64> {
        if i.memory_index() != Register::None
            || !i.memory_base().is_gpr64()
            || matches!(i.segment_prefix(), Register::FS | Register::GS)
        {
            return None;
        }
        match self.get(i.memory_base()) {
            Value::Stack(at) => Some(at.wrapping_add(i.memory_displacement64().cast_signed())),
            _ => None,
        }
    }

    fn load(&mut self, at: Option<i64>) -> Value {
        let known = at.and_then(|at| {
            let i = self.slots.binary_search_by_key(&at, |slot| slot.0).ok()?;
            Some(self.slots[i].1)
        });
        known.unwrap_or_else(|| self.fresh())
    }

    fn store(&mut self, at: Option<i64>, value: Value) {
        let Some(at) = at else { return };
        self.forget(at, 8);
        let i = self.slots.partition_point(|slot| slot.0 < at);
        self.slots.insert(i, (at, value));
    }

    /// The instruction writes `bytes` to its memory operand.
    fn overwrite(&mut self, i: &Instruction, bytes: i64) {
        match self.stack_operand(i) {
            Some(at) => self.forget(at, bytes),
            None => {
                let base = i.memory_base();
                let indexed = base.is_gpr64() && matches!(self.get(base), Value::Stack(_));
                if indexed || self.escaped {
                    self.slots.clear();
                }
            }
        }
    }

    fn forget(&mut self, at: i64, bytes: i64) {
        self.slots
            .retain(|slot| slot.0 >= at.saturating_add(bytes) || slot.0 <= at.saturating_sub(8));
    }

    fn push(&mut self, value: Value) {
        self.move_stack(-8);
        self.store(self.stack_pointer(), value);
    }

    fn pop(&mut self) -> Value {
        let value = self.load(self.stack_pointer());
        self.move_stack(8);
        value
    }

    fn move_stack(&mut self, by: i64) {
        if let Value::Stack(at) = self.registers[RSP] {
            self.registers[RSP] = Value::Stack(at.wrapping_add(by));
        }
        self.drop_slots_below_stack();
    }

    fn drop_slots_below_stack(&mut self) {
        if let Value::Stack(top) = self.registers[RSP] {
            self.slots.retain(|slot| slot.0 >= top);
        }
    }

    /// The same state with its values numbered in order of occurrence, so that states that differ
    /// only in numbers become equal.
    pub(super) fn canonical(mut self) -> Self {
        let mut numbers: Vec<u16> = Vec::new();
        let mut rename = |value: &mut Value| {
            let (Value::Some(number) | Value::NonNull(number)) = value else {
                return;
            };
            let known = numbers.iter().position(|n| n == number);
            *number = known.unwrap_or_else(|| {
                numbers.push(*number);
                numbers.len() - 1
            }) as u16;
        };
        self.registers.iter_mut().for_each(&mut rename);
        self.slots.iter_mut().for_each(|(_, v)| rename(v));
        self.tested.as_mut().map(&mut rename);
        self.next = numbers.len() as u16;
        self
    }
}

/// Whether an operand is a register of 64 bits.
fn is_wide(i: &Instruction, operand: u32) -> bool {
    i.op_kind(operand) == OpKind::Register && i.op_register(operand).is_gpr64()
}

fn is_immediate(i: &Instruction) -> bool {
    matches!(
        i.op1_kind(),
        OpKind::Immediate8to64 | OpKind::Immediate32to64
    )
}
