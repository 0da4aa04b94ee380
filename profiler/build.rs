//! Builds the recorder, which the command carries inside and preloads into programs.

fn main() {
    let recorder = profiler_payload::shared_object(
        "profiler-record",
        "recorder",
        &["-Clink-arg=-Wl,-z,initfirst"],
    );
    println!("cargo::rustc-env=FRAGSCOPE_RECORDER={}", recorder.display());
}
