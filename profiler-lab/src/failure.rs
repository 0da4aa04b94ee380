//! Reasons why a candidate was not replayed.

use profiler_target::ErrorKind;

use super::allocators::NoAllocator;
use super::play::PlayError;

/// Why a candidate was not replayed to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// In words.
    pub why: String,
    /// The kind of the failure.
    pub kind: ErrorKind,
}

impl From<String> for Failure {
    /// Of no kind that anything follows from.
    fn from(why: String) -> Self {
        let kind = ErrorKind::Other;
        Self { why, kind }
    }
}

impl From<NoAllocator> for Failure {
    fn from(error: NoAllocator) -> Self {
        Self {
            why: error.to_string(),
            kind: error.kind(),
        }
    }
}

impl From<PlayError> for Failure {
    fn from(error: PlayError) -> Self {
        Self {
            why: error.to_string(),
            kind: ErrorKind::of_causes(&error),
        }
    }
}
