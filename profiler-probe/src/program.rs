//! The programs of the BPF object that probes run.

/// One of the programs in the object.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum BpfProgram {
    Free,
    Entry,
    Result,
    Return,
}

impl BpfProgram {
    pub(super) const ALL: [Self; 4] = [Self::Free, Self::Entry, Self::Result, Self::Return];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Free => "on_free",
            Self::Entry => "on_entry",
            Self::Result => "on_result",
            Self::Return => "on_return",
        }
    }
}
