//! The `fragscope` command as a library: probing, sessions, the lab, the terminal UI and exports.
//!
//! `aya` is used only under [`probe`], `ratatui` and `crossterm` only under [`tui`], `clap` only
//! under [`cli`], serialising only under [`export`]. One module, [`session`], sees both the target
//! and what is shown.

pub mod cli;
pub mod export;
pub mod lab;
mod say;
pub mod session;
pub mod tui;
