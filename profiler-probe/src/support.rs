//! Whether this kernel and these privileges allow BPF programs on uprobes, determined by trying.

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_helper_supported, is_map_supported, is_program_supported};
use aya_obj::generated::bpf_func_id::BPF_FUNC_probe_read_kernel;

use super::{ProbeError, multi};

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

/// How probes are attached here.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum ProbeLinks {
    /// All sites of a program by one link, in less than a millisecond: Linux 6.10 and later.
    OneForAll,
    /// A perf event for each site, tens of milliseconds each: Linux 5.15 and later.
    OneForEach,
    /// The same, with a separate program for each site: older kernels.
    ProgramForEach,
}

impl ProbeLinks {
    /// What this kernel offers, as far as this process may ask.
    pub fn of_this_kernel() -> Self {
        if multi::is_supported() {
            Self::OneForAll
        } else if has_cookies() {
            Self::OneForEach
        } else {
            Self::ProgramForEach
        }
    }
}

/// The message where they may not.
pub(super) const LOCKED_DOWN: &str =
    "BPF programs may not read the kernel's memory: lockdown=confidentiality";

/// Whether BPF programs may read the kernel's memory: not if it is locked down for confidentiality.
pub fn reads_kernel_memory() -> bool {
    let helper = BPF_FUNC_probe_read_kernel;
    // What cannot be asked is found by trying.
    is_helper_supported(ProgramType::KProbe, helper).unwrap_or(true)
}

/// Whether a program on a perf event can know at which of several sites it runs.
pub(super) fn has_cookies() -> bool {
    let has = aya::features();
    has.bpf_cookie() && has.bpf_perf_link()
}
