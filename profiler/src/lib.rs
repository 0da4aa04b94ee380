//! The `fragscope` command as a library: sessions, recording, the terminal UI, the exports and the
//! command line.
//!
//! `ratatui` and `crossterm` are used only under [`tui`], `clap` only under [`cli`], serialising only
//! under [`export`]. One module, [`session`], sees both the target and what is shown; all that is
//! printed goes through one module, which cleans it of what drives a terminal.

#![forbid(unsafe_code)]

pub mod cli;
pub mod export;
mod hints;
mod say;
pub mod session;
mod timestamp;
pub mod tui;
