//! Functions that never return: a path that calls one ends there.
//!
//! Some functions return only for some arguments: glibc's `__libc_message` (2.26 to 2.37,
//! `sysdeps/posix/libc_fatal.c`) ends the process when its first argument has bit 0 set, as in all
//! calls from malloc. So known constants are tracked through registers.

use std::collections::{HashMap, HashSet};

use iced_x86::{
    ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register,
};

use super::code::Code;
use super::entry::writes;

/// Calls are followed this deep and functions this far; beyond, a function may return.
const DEPTH: u32 = 6;
const STEPS: usize = 3000;
/// The most instructions looked at in total.
const STEPS_IN_ALL: usize = 300_000;

/// Functions of libc that end the process (ISO C and POSIX, and glibc's own).
pub(crate) const ENDINGS: [&str; 9] = [
    "abort",
    "exit",
    "_exit",
    "_Exit",
    "quick_exit",
    "__assert_fail",
    "__libc_fatal",
    "__stack_chk_fail",
    "__chk_fail",
];

/// Determines whether functions return, and remembers.
pub(super) struct Returns<'a> {
    code: &'a Code,
    endings: &'a [u64],
    known: HashMap<(u64, Option<u64>), bool>,
    steps_left: usize,
}

impl<'a> Returns<'a> {
    /// With `endings`, the addresses of functions known never to return.
    pub(super) fn new(code: &'a Code, endings: &'a [u64]) -> Self {
        Self {
            code,
            endings,
            known: HashMap::new(),
            steps_left: STEPS_IN_ALL,
        }
    }

    /// Whether the function at `address` may return when called with this first argument, if that
    /// is a known number.
    pub(super) fn may_return(&mut self, address: u64, first: Option<u64>) -> bool {
        self.may_return_within(address, first, DEPTH)
    }

    fn may_return_within(&mut self, address: u64, first: Option<u64>, depth: u32) -> bool {
        if self.endings.contains(&address) {
            return false;
        }
        if let Some(&known) = self.known.get(&(address, first)) {
            return known;
        }
        if depth == 0 {
            return true;
        }
        // While the function is examined, a call to itself counts as one that may return.
        self.known.insert((address, first), true);
        let result = self.finds_a_return(address, first, depth);
        self.known.insert((address, first), result);
        result
    }

    fn finds_a_return(&mut self, entry: u64, first: Option<u64>, depth: u32) -> bool {
        let mut info = InstructionInfoFactory::new();
        let mut seen = HashSet::new();
        let mut pending = vec![(entry, Numbers::with_first_argument(first))];
        while let Some((at, mut numbers)) = pending.pop() {
            if !seen.insert((at, numbers.clone())) || self.endings.contains(&at) {
                continue;
            }
            self.steps_left = self.steps_left.saturating_sub(1);
            if seen.len() > STEPS || self.steps_left == 0 {
                return true;
            }
            let Some(i) = self.code.decode(at) else {
                return true;
            };
            match i.flow_control() {
                FlowControl::Next if i.mnemonic() == Mnemonic::Hlt => {}
                FlowControl::Exception => {}
                FlowControl::Next => {
                    numbers.step(&i, &mut info);
                    pending.push((i.next_ip(), numbers));
                }
                FlowControl::UnconditionalBranch => {
                    pending.push((i.near_branch_target(), numbers));
                }
                FlowControl::ConditionalBranch => {
                    let taken = numbers.decides(&i);
                    if taken != Some(true) {
                        pending.push((i.next_ip(), numbers.clone()));
                    }
                    if taken != Some(false) {
                        pending.push((i.near_branch_target(), numbers));
                    }
                }
                FlowControl::Call => {
                    let first = numbers.get(Register::RDI);
                    if self.may_return_within(i.near_branch_target(), first, depth - 1) {
                        numbers.call();
                        pending.push((i.next_ip(), numbers));
                    }
                }
                FlowControl::IndirectCall => {
                    numbers.call();
                    pending.push((i.next_ip(), numbers));
                }
                _ => return true,
            }
        }
        false
    }
}

/// The numbers that registers are known to hold.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
struct Numbers {
    registers: [Option<u64>; 16],
    zero_flag: Option<bool>,
}

impl Numbers {
    fn with_first_argument(first: Option<u64>) -> Self {
        let mut numbers = Self::default();
        numbers.registers[Register::RDI.number()] = first;
        numbers
    }

    fn get(&self, register: Register) -> Option<u64> {
        let value = self.registers[register.full_register().number()]?;
        match register.size() {
            8 => Some(value),
            4 => Some(value & u64::from(u32::MAX)),
            _ => None,
        }
    }

    /// Whether a conditional jump is taken, if the zero flag decides it.
    fn decides(&self, i: &Instruction) -> Option<bool> {
        match i.condition_code() {
            ConditionCode::e => self.zero_flag,
            ConditionCode::ne => self.zero_flag.map(|zero| !zero),
            _ => None,
        }
    }

    fn call(&mut self) {
        use Register::{R8, R9, R10, R11, RAX, RCX, RDI, RDX, RSI};
        for register in [RAX, RCX, RDX, RSI, RDI, R8, R9, R10, R11] {
            self.registers[register.number()] = None;
        }
        self.zero_flag = None;
    }

    fn step(&mut self, i: &Instruction, info: &mut InstructionInfoFactory) {
        let to = i.op0_register();
        let plain = i.op0_kind() == OpKind::Register && to.is_gpr() && to.size() >= 4;
        let second = match i.op1_kind() {
            _ if !plain => None,
            OpKind::Register if i.op1_register().is_gpr() => self.get(i.op1_register()),
            OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32
            | OpKind::Immediate32to64 => Some(i.immediate(1)),
            _ => None,
        };
        let same = plain && i.op1_kind() == OpKind::Register && i.op1_register() == to;
        let both = |first: Option<u64>| Some(first? & second?);
        let (result, flags) = match i.mnemonic() {
            Mnemonic::Mov if plain => (second, self.zero_flag),
            Mnemonic::Xor if same => (Some(0), Some(true)),
            Mnemonic::And if plain => {
                let value = both(self.get(to));
                (value, value.map(|v| v == 0))
            }
            Mnemonic::Test if plain => {
                self.zero_flag = both(self.get(to)).map(|v| v == 0);
                return;
            }
            _ => {
                let used = info.info(i).used_registers();
                for used in used.iter().filter(|u| writes(u.access())) {
                    if used.register().is_gpr() {
                        self.registers[used.register().full_register().number()] = None;
                    }
                }
                if i.rflags_modified() != 0 {
                    self.zero_flag = None;
                }
                return;
            }
        };
        self.registers[to.full_register().number()] = result;
        self.zero_flag = flags;
    }
}
