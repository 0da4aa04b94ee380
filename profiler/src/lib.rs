//! The `fragscope` command as a library: sessions, recording, the terminal UI, the exports and the
//! command line.
//!
//! Only [`tui`] uses `ratatui` and `crossterm`, only [`cli`] uses `clap`, and only [`export`]
//! serialises. One module, [`session`], sees both the target and what is shown. All output goes
//! through one module, which removes anything that could drive a terminal.

#![forbid(unsafe_code)]

pub mod cli;
pub mod export;
mod hints;
mod say;
pub mod session;
mod timestamp;
pub mod tui;
