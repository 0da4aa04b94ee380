//! Builds the files embedded in the lab: the player, and the allocators that it can load.

mod allocators;

fn main() {
    // Its entry makes the shared object a program.
    let player =
        profiler_payload::shared_object("profiler-replay", "player", &["-Clink-arg=-Wl,-e,_start"]);
    println!("cargo::rustc-env=FRAGSCOPE_PLAYER={}", player.display());
    allocators::jemalloc();
    allocators::mimalloc();
}
