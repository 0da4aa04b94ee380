//! The kernel's counts for a process.

use std::io;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use profiler_core::machine::HugePageMode;
use profiler_core::sample::KernelCount;

use super::Target;
use crate::host;
use crate::proc_dir::field;
use crate::stat::time_of_ticks;

impl Target {
    /// The kernel's own count of its memory.
    ///
    /// For a stopped target, [`Self::residency`] adds up to the same bytes, with one exception: the
    /// swap count includes swapped pages of shared memory, which the page table does not show.
    ///
    /// # Errors
    /// When it has exited.
    pub fn kernel_count(&self) -> io::Result<KernelCount> {
        let quick = self.quick_count()?;
        let Ok(rollup) = self.dir.text("smaps_rollup") else {
            return Ok(quick);
        };
        let bytes = |name| field(&rollup, name).map(|kib| kib << 10);
        Ok(KernelCount {
            rss_bytes: bytes("Rss").unwrap_or(quick.rss_bytes),
            swap_bytes: bytes("Swap").unwrap_or(quick.swap_bytes),
            peak_rss_bytes: quick.peak_rss_bytes,
            pss_bytes: bytes("Pss"),
            lazy_free_bytes: bytes("LazyFree"),
            anon_huge_bytes: bytes("AnonHugePages"),
            ksm_bytes: bytes("KSM"),
            is_core: false,
        })
    }

    /// The kernel's running counters, which cost nothing to read and may lag by some pages.
    ///
    /// # Errors
    /// When it has exited.
    pub fn quick_count(&self) -> io::Result<KernelCount> {
        let status = self.dir.text("status")?;
        let bytes = |name| field(&status, name).map(|kib| kib << 10);
        let rss_bytes = bytes("VmRSS").ok_or_else(|| self.gone())?;
        Ok(KernelCount {
            rss_bytes,
            swap_bytes: bytes("VmSwap").unwrap_or(0),
            peak_rss_bytes: bytes("VmHWM").unwrap_or(rss_bytes),
            ..KernelCount::default()
        })
    }

    /// Whether the kernel makes huge pages of its memory without a request: then a page fault may
    /// bring in 2 MiB.
    pub fn may_get_huge_pages(&self) -> bool {
        let always = host::transparent_huge_pages() == Some(HugePageMode::Always);
        // What a process chose for itself (`PR_SET_THP_DISABLE`). One that is gone gets none.
        let status = || self.dir.text("status").unwrap_or_default();
        always && field(&status(), "THP_enabled") == Some(1)
    }

    /// The number of processors its main thread may run on, which allocators query at start.
    ///
    /// # Errors
    /// When it has exited.
    pub fn allowed_cpus(&self) -> io::Result<u32> {
        let allowed = sched_getaffinity(Pid::from_raw(self.pid()))?;
        let cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true));
        Ok(cpus.count() as u32)
    }

    /// Its start time, in clock ticks since the host's boot: together with its pid, that identifies
    /// it.
    ///
    /// # Errors
    /// When it has exited.
    pub fn began_ticks(&self) -> io::Result<u64> {
        Ok(self.dir.stat()?.starttime)
    }

    /// The processor time that it has used so far, in user and kernel mode.
    ///
    /// # Errors
    /// When it has exited.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        let stat = self.dir.stat()?;
        Ok(time_of_ticks(stat.utime.saturating_add(stat.stime)))
    }

    /// The ids of its threads, ascending.
    ///
    /// # Errors
    /// When it has exited.
    pub fn tids(&self) -> io::Result<Vec<i32>> {
        let mut tids = self.dir.tids()?;
        tids.sort_unstable();
        Ok(tids)
    }
}
