//! Whether this kernel and these privileges allow BPF programs on uprobes: asked by trying.

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_map_supported, is_program_supported};

use super::ProbeError;

/// Makes, and gives up at once, the kind of map and the kind of program that probing needs.
///
/// # Errors
/// Which of them is missing, or why they are refused.
pub fn try_bpf() -> Result<(), ProbeError> {
    let map = is_map_supported(MapType::RingBuf).map_err(|error| ProbeError::of_load(&error))?;
    if !map {
        let what = "it has no BPF ring buffer, which came with Linux 5.8";
        return Err(ProbeError::Load(what.into()));
    }
    let program = is_program_supported(ProgramType::KProbe);
    if !program.map_err(|error| ProbeError::of_load(&error))? {
        let what = "it has no BPF programs on probes (CONFIG_BPF_EVENTS)";
        return Err(ProbeError::Load(what.into()));
    }
    Ok(())
}
