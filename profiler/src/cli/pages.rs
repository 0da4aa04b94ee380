//! Generated from the command line's declaration: shell completions and man pages.

use std::io;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::Line;

/// The script that completes the command line in this shell.
pub(super) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Line::command(), "fragscope", &mut script);
    script
}

/// The manual page of this subcommand, or of fragscope; `None` if there is no such subcommand.
///
/// # Errors
/// Only if memory is exhausted, because it is written to memory.
pub(super) fn manual(subcommand: Option<&str>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Line::command().disable_help_subcommand(true);
    // Names of subcommands and inherited flags are known from here on.
    line.build();
    let Some(name) = subcommand else {
        return render(line).map(Some);
    };
    line.find_subcommand(name).cloned().map(render).transpose()
}

fn render(command: clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(page)
}
