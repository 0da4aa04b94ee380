//! Explanations: the packing bound, the findings and the verdict, from metrics alone.

mod growth;
pub(crate) mod packing;
mod prose;
mod proven;
mod remedies;
mod rules;
mod short;

pub use remedies::{Remedy, Step};
pub use short::ShortVerdict;

pub(crate) use growth::answer;
pub(crate) use prose::{explanation, verdict};
pub(crate) use rules::{findings, serving};
