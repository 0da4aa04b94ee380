//! Fixes for problems that `doctor` found.

use super::Advice;
use crate::session::doctor::{Fix, KernelOption};

impl Advice {
    /// The fix for a problem; `None` if the finding says everything.
    pub(in crate::cli) fn fix(&self, fix: &Fix) -> Option<String> {
        let words = match fix {
            Fix::Of(kind) => return self.on(kind),
            Fix::KnownArchitecture => "run fragscope on an x86-64 or aarch64 host",
            Fix::NewerKernelForProbes => "upgrade the kernel to 5.8 or later, or use --no-probes",
            Fix::KernelBuiltWith(option) => built_with(*option),
            Fix::KernelWithMultiLinks => {
                "upgrade the kernel to 6.10 or later for links of many sites (uprobe_multi)"
            }
            Fix::KernelWithPagemapScan => "upgrade the kernel to 6.7 or later for PAGEMAP_SCAN",
            Fix::NoLockdown => "boot without lockdown=confidentiality on the kernel's command line",
            Fix::HostPidNamespace => {
                "docker run --pid=host ..., or run fragscope on the host with the host's pid"
            }
            Fix::VisibleProcesses => "sudo mount -o remount,hidepid=0 /proc",
            Fix::OtherProcess => "name another process, which this lists: pgrep -af python",
            Fix::NoStops { pid } => return Some(format!("fragscope attach --pid {pid} --no-stop")),
            Fix::DynamicAllocator => "link the program dynamically to see all of it",
            Fix::DynamicLibc => "link it dynamically to see its heap",
            Fix::SettingsInEffect => {
                "nothing, where the settings in effect are enough: they are read from the heap; else look at how the \
                 program is started"
            }
            Fix::NewerFragscope => {
                "use a fragscope that knows it; residency and probes work with this one"
            }
            Fix::ReportLibc => "report it with the output of: ldd --version",
            Fix::UnreadFiles {
                is_over_limit: true,
            } => {
                "--file-limit reads more of each; nothing, unless the C library, the allocator or the Python \
                 above is wrong"
            }
            Fix::UnreadFiles {
                is_over_limit: false,
            } => "nothing, unless the C library, the allocator or the Python above is wrong",
            Fix::Repair { pid } => {
                return Some(format!("sudo fragscope doctor --pid {pid} --repair"));
            }
            Fix::Continue(pids) => {
                let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
                return Some(format!("kill -CONT {}", pids.join(" ")));
            }
            Fix::EndOfTool => {
                "nothing, as long as that tool runs; it shows among: sudo bpftool link list"
            }
            Fix::OwnCode => "nothing, if the program changes its own code by itself",
            Fix::RootAndFreeTarget => "run as root, while the target runs and no debugger holds it",
        };
        Some(words.to_owned())
    }
}

/// Where to get a kernel with it.
const fn built_with(option: KernelOption) -> &'static str {
    match option {
        KernelOption::Btf => {
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels are"
        }
        KernelOption::UprobeEvents => {
            "use a kernel built with CONFIG_UPROBE_EVENTS=y, or use --no-probes"
        }
        KernelOption::PerfEvents => {
            "use a kernel built with CONFIG_PERF_EVENTS=y, or use --no-probes"
        }
    }
}
