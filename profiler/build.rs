//! Builds what fragscope carries inside and hands to other processes.

mod allocators;
mod payload;

use std::path::Path;

fn main() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    payload::recorder(&workspace);
    payload::player(&workspace);
    allocators::jemalloc();
    allocators::mimalloc();
}
