//! Differences between two walks, as text and as JSON (`fragscope.diff/1`).

mod json;
mod text;

pub use json::json;
pub use text::text;
