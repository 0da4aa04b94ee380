//! Builds the recorder, which is embedded in the command and preloaded into programs.

fn main() {
    let recorder = profiler_payload::shared_object(
        "profiler-record",
        "recorder",
        &["-Clink-arg=-Wl,-z,initfirst"],
    );
    println!("cargo::rustc-env=FRAGSCOPE_RECORDER={}", recorder.display());
}
