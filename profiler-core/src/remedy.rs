//! A remedy and its steps: what can be done about a finding. The explanations choose the remedy and
//! its wording.

use std::fmt::{self, Display};

use crate::tuning::{self, Tuning};

/// What to do about a mechanism, or why nothing helps.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Remedy {
    /// What can be done; the steps are alternatives.
    pub steps: &'static [Step],
    /// As sentences: `{0}` is replaced by the first step as it is shown, `{0=}` by its value alone,
    /// and `{0=KiB}` by its value in KiB.
    pub sentences: &'static str,
}

/// One thing that can be done, by where it is done.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Settings of an allocator with which the program is started, or a call of it.
    Tune(&'static Tuning),
    /// The same for a build whose variables have an additional prefix.
    SetPrefixed(&'static str, &'static [&'static Tuning]),
    /// An environment variable that no allocator reads, and its value.
    Variable(&'static str, &'static str),
    /// A call that the program makes while it runs.
    Call(&'static str),
    /// A change of how the program is written or run.
    Practice(&'static str),
}

impl Step {
    /// Where it is done, as in JSON.
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
    /// The sentences with the settings, calls and texts of its steps filled in.
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
