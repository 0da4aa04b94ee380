//! All paths through a function, by abstract interpretation: which sites each path passes, and what
//! it returns.

use std::collections::{BTreeSet, HashMap, HashSet};

use iced_x86::{
    ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, Register,
};

use super::Body;
use super::code::Code;
use super::returns::Returns;
use super::state::{State, Unprovable, Value};
use crate::plan::Function;

/// States, and thereby memory, that examining one function may take. glibc 2.36's take 2,500.
const MAX_STATES: usize = 20_000;
/// The most states, and thereby time, of all its searches together.
const MAX_STATES_IN_ALL: usize = 1_000_000;

/// What a path returns.
#[derive(Copy, Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Returned {
    /// The value that `rax` held at each of the sites it passed.
    Result,
    /// Null.
    Null,
    /// Something else, or undetermined.
    Other,
}

/// How a path ends: the sites passed with a non-null `rax`, a bit each, and the returned value.
pub(super) type End = (u64, Returned);

/// All that paths do.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// The different ends.
    pub ends: BTreeSet<End>,
    /// Instructions reached, of this function and of code that it jumps to.
    pub reached: HashMap<u64, Instruction>,
}

/// Why paths cannot be determined, or which rule they break.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Broken {
    /// See [`Unprovable`].
    Unprovable,
    /// A path passes a site with a non-null `rax` twice.
    Repeated,
    /// A path passes a site with a non-null `rax` and returns something else.
    Lost,
}

impl From<Unprovable> for Broken {
    fn from(_: Unprovable) -> Self {
        Self::Unprovable
    }
}

/// Follows the paths of one function.
pub(super) struct Explorer<'a> {
    code: &'a Code,
    body: Body,
    function: Function,
    returns: Returns<'a>,
    states_left: usize,
}

impl<'a> Explorer<'a> {
    /// For `function`, whose code is `body`; `endings` are functions that never return.
    pub(super) fn new(code: &'a Code, body: Body, function: Function, endings: &'a [u64]) -> Self {
        Self {
            code,
            body,
            function,
            returns: Returns::new(code, endings),
            states_left: MAX_STATES_IN_ALL,
        }
    }

    /// All paths from the entry to a return, with at most 64 `sites` watched.
    pub(super) fn explore(&mut self, sites: &[u64]) -> Result<Paths, Broken> {
        let mut paths = Paths::default();
        let mut info = InstructionInfoFactory::new();
        let mut seen: HashSet<(u64, State)> = HashSet::new();
        let mut pending = vec![(self.body.start, State::at_entry())];
        while let Some((at, state)) = pending.pop() {
            let state = state.canonical();
            if !seen.insert((at, state.clone())) {
                continue;
            }
            self.states_left = self.states_left.saturating_sub(1);
            if seen.len() > MAX_STATES || self.states_left == 0 {
                return Err(Broken::Unprovable);
            }
            let instruction = match paths.reached.get(&at) {
                Some(known) => *known,
                None => self.code.decode(at).ok_or(Broken::Unprovable)?,
            };
            paths.reached.insert(at, instruction);
            let site = sites.iter().position(|s| *s == at);
            for state in pass(state, site)? {
                self.follow(&instruction, state, &mut info, &mut pending, &mut paths)?;
            }
        }
        Ok(paths)
    }

    fn follow(
        &mut self,
        i: &Instruction,
        mut state: State,
        info: &mut InstructionInfoFactory,
        pending: &mut Vec<(u64, State)>,
        paths: &mut Paths,
    ) -> Result<(), Broken> {
        match i.flow_control() {
            FlowControl::Next if i.mnemonic() == Mnemonic::Hlt => {}
            FlowControl::Exception => {}
            FlowControl::Next => {
                state.step(i, info)?;
                pending.push((i.next_ip(), state));
            }
            FlowControl::Call => {
                let first = match state.get(Register::RDI) {
                    Value::Const(number) => Some(number),
                    _ => None,
                };
                if self.returns.may_return(i.near_branch_target(), first) {
                    state.call();
                    pending.push((i.next_ip(), state));
                }
            }
            FlowControl::IndirectCall => {
                state.call();
                pending.push((i.next_ip(), state));
            }
            FlowControl::UnconditionalBranch => pending.push((i.near_branch_target(), state)),
            FlowControl::ConditionalBranch => branch(i, &state, pending),
            FlowControl::Return => {
                paths.ends.insert(end(&state, state.get(Register::RAX))?);
            }
            FlowControl::IndirectBranch => {
                paths.ends.insert(end(&state, self.tail_call(&state))?);
            }
            _ => return Err(Broken::Unprovable),
        }
        Ok(())
    }

    /// The return value of a function of another object that is called last. It is not known, with
    /// one exception: where `calloc` ends in `f(block, 0, …)`, `f` is `memset`, which returns the
    /// block.
    fn tail_call(&self, state: &State) -> Value {
        let block = state.get(Register::RDI);
        let is_memset = self.function == Function::Calloc
            && block == Value::Result
            && state.get(Register::RSI) == Value::NULL;
        if is_memset {
            block
        } else {
            Value::Some(u16::MAX)
        }
    }
}

/// The states behind a site, or the state itself if there is none.
fn pass(state: State, site: Option<usize>) -> Result<Vec<State>, Broken> {
    let Some(site) = site else {
        return Ok(vec![state]);
    };
    let bit = 1u64 << site;
    let mut passed = match state.get(Register::RAX) {
        Value::NULL => return Ok(vec![state]),
        Value::Result if state.passed & bit != 0 => return Err(Broken::Repeated),
        Value::Result => vec![state],
        _ if state.passed != 0 => return Err(Broken::Lost),
        value @ Value::Some(_) => vec![
            state.refined(value, Value::Result),
            state.refined(value, Value::NULL),
        ],
        value => vec![state.refined(value, Value::Result)],
    };
    passed[0].passed |= bit;
    Ok(passed)
}

/// Both ways of a conditional jump, or the only one that the zero flag allows.
fn branch(i: &Instruction, state: &State, pending: &mut Vec<(u64, State)>) {
    let (if_null, if_not) = match i.condition_code() {
        ConditionCode::e => (i.near_branch_target(), i.next_ip()),
        ConditionCode::ne => (i.next_ip(), i.near_branch_target()),
        _ => {
            pending.push((i.next_ip(), state.clone()));
            pending.push((i.near_branch_target(), state.clone()));
            return;
        }
    };
    let tested = state.tested();
    match (tested.and_then(Value::is_null), tested) {
        (Some(true), _) => pending.push((if_null, state.clone())),
        (Some(false), _) => pending.push((if_not, state.clone())),
        (None, Some(value @ Value::Some(number))) => {
            pending.push((if_null, state.refined(value, Value::NULL)));
            pending.push((if_not, state.refined(value, Value::NonNull(number))));
        }
        (None, _) => {
            pending.push((if_null, state.clone()));
            pending.push((if_not, state.clone()));
        }
    }
}

fn end(state: &State, value: Value) -> Result<End, Broken> {
    if !state.frame_is_gone() {
        return Err(Broken::Unprovable);
    }
    match value {
        Value::Result => Ok((state.passed, Returned::Result)),
        _ if state.passed != 0 => Err(Broken::Lost),
        Value::NULL => Ok((0, Returned::Null)),
        _ => Ok((0, Returned::Other)),
    }
}
