//! Which tests run on each kernel.

/// The tests of a binary as a row of the table.
pub(crate) struct Row {
    /// What the tests cover.
    pub(crate) title: &'static str,
    /// The crate.
    pub(crate) package: &'static str,
    /// The test binary.
    pub(crate) binary: &'static str,
    /// Parts of the names of tests that are not run, because the guest lacks what they need.
    pub(crate) without: &'static [&'static str],
}

pub(crate) const fn row(title: &'static str, package: &'static str, binary: &'static str) -> Row {
    Row {
        title,
        package,
        binary,
        without: &[],
    }
}

const TARGET: &str = "profiler-target";
const PROBE: &str = "profiler-probe";
const COMMAND: &str = "fragscope";

impl Row {
    pub(crate) const fn without(self, without: &'static [&'static str]) -> Self {
        Self { without, ..self }
    }
}

/// In the order of the table. Speed tests are left out: a trap on an emulated processor takes a
/// hundred times as long, more than the whole budget, and so does attaching.
pub(super) const ROWS: [Row; 15] = [
    row(
        "states of pages, residency, shares",
        TARGET,
        "process_pages",
    ),
    row("stops of all threads", TARGET, "process_stop"),
    row("calls that a stop interrupts", TARGET, "process_stop_calls"),
    row(
        "slices of a stop, walks without one",
        "profiler-sampling",
        "stops",
    ),
    row(
        "killed and suspended stoppers, huge pages, swap",
        COMMAND,
        "privileged_process",
    ),
    row("walks of glibc's heap", TARGET, "glibc_walk"),
    row("walks of pymalloc", TARGET, "pymalloc_walk"),
    row("calls counted by probes", PROBE, "privileged_probes").without(&[
        "a_quiet_target_stays_watched_within_the_budget",
        "the_budget_bounds_what_a_busy_target_pays",
    ]),
    row(
        "probes are gone when fragscope is killed",
        COMMAND,
        "privileged_leftover",
    ),
    row("call sites with Python's stacks", PROBE, "privileged_sites"),
    row("what stays of call sites", COMMAND, "privileged_sites")
        .without(&["a_saved_session_has_the_sites_that_were_live"]),
    row(
        "growth: system calls and page faults",
        PROBE,
        "privileged_growth",
    ),
    row(
        "what root, capabilities and users may",
        COMMAND,
        "privileged_access",
    ),
    row("sessions and their files", COMMAND, "privileged_exports"),
    row(
        "recording of a running process",
        COMMAND,
        "privileged_record",
    ),
];

/// How long a test may take, in seconds.
pub(super) const TEST_SECONDS: u32 = 180;
