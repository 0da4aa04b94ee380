//! The `fragscope` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    fragscope::cli::main()
}
