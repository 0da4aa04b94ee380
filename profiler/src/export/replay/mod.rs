//! The result of a replay, as text for people and as `fragscope.replay/1`.

mod columns;
mod json;
mod text;

pub use json::json;
pub use text::text;

#[cfg(test)]
mod sample_report;
#[cfg(test)]
mod tests;
