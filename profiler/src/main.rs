//! The `fragscope` command.
fn main() {}
