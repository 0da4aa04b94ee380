//! Whether this kernel and these privileges allow BPF programs on uprobes: asked by trying.

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_map_supported, is_program_supported};

/// Makes, and gives up at once, the kind of map and the kind of program that probing needs.
///
/// # Errors
/// A sentence on which of them is missing or refused.
pub fn try_bpf() -> Result<(), String> {
    let map = is_map_supported(MapType::RingBuf).map_err(|error| reason("a BPF map", &error))?;
    if !map {
        return Err("this kernel has no BPF ring buffer, which came with Linux 5.8".into());
    }
    let program = is_program_supported(ProgramType::KProbe)
        .map_err(|error| reason("a BPF program", &error))?;
    if !program {
        return Err("this kernel has no BPF programs on probes (CONFIG_BPF_EVENTS)".into());
    }
    Ok(())
}

fn reason(what: &str, error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    format!("{what} is refused: {deepest}")
}
