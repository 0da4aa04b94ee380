//! A remedy and its steps: what can be done about a finding. The explanations choose the remedy and
//! its wording.

use std::fmt::{self, Display};

use crate::tuning::{self, Tuning};

/// What to do about a mechanism, or why nothing helps.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Remedy {
    /// What can be done, each by itself.
    pub steps: &'static [Step],
    /// In sentences, in which `{0}` is the first step as it is shown, `{0=}` its value alone, and `{0=KiB}` the
    /// same of bytes in KiB.
    pub sentences: &'static str,
}

/// One thing that can be done, by where it is done.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Settings of an allocator that the program is started with, or a call of it.
    Tune(&'static Tuning),
    /// The same of a build whose variables have a prefix of its own before their names.
    SetPrefixed(&'static str, &'static [&'static Tuning]),
    /// A variable of the environment that no allocator reads, and its value.
    Variable(&'static str, &'static str),
    /// A call that the program makes while it runs.
    Call(&'static str),
    /// A change of how the program is written or run.
    Practice(&'static str),
}

impl Step {
    /// Where it is done, as JSON has it.
    pub const fn place(self) -> &'static str {
        match self {
            Self::Tune(tuning) if tuning.calls.is_some() => "call",
            Self::Tune(_) | Self::SetPrefixed(..) | Self::Variable(..) => "environment",
            Self::Call(_) => "call",
            Self::Practice(_) => "practice",
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tune(tuning) => tuning.fmt(f),
            Self::SetPrefixed(prefix, all) => {
                write!(f, "{prefix}{}", tuning::together(all))
            }
            Self::Variable(name, value) => write!(f, "{name}={value}"),
            Self::Call(what) | Self::Practice(what) => f.write_str(what),
        }
    }
}

impl Remedy {
    /// In sentences, with all that its steps set, call and say.
    pub fn prose(&self) -> String {
        let mut prose = self.sentences.to_owned();
        for (at, step) in self.steps.iter().enumerate() {
            let step = step.to_string();
            let (_, value) = step.split_once('=').unwrap_or(("", &step));
            let kib = value
                .parse::<u64>()
                .map(|bytes| format!("{} KiB", bytes >> 10));
            prose = prose
                .replace(&format!("{{{at}=KiB}}"), kib.as_deref().unwrap_or(value))
                .replace(&format!("{{{at}=}}"), value)
                .replace(&format!("{{{at}}}"), &step);
        }
        prose
    }
}
