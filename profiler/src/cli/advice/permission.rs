//! What to do about missing permissions.

use profiler_core::text::visible;
use profiler_target::host::{self, Capability};
use profiler_target::{Action, Caller, Denial};

use super::Advice;

impl Advice {
    pub(super) fn permission(&self, action: Action, denial: &Denial) -> String {
        let sudo = self.sudo();
        let fix = match denial {
            Denial::NotRoot { .. } | Denial::HiddenProc | Denial::NotDumpable => sudo,
            Denial::PtraceScope(1) => format!(
                "{sudo}, or for all of your own processes: sudo sysctl kernel.yama.ptrace_scope=0"
            ),
            Denial::PtraceScope(2) => sudo,
            Denial::PtraceScope(_) => "it cannot be lowered while the system runs: remove \
                kernel.yama.ptrace_scope from /etc/sysctl.d and reboot"
                .into(),
            Denial::UserNamespace => format!(
                "leave the user namespace (of unshare --user, a rootless container, or docker's \
                 userns-remap: docker run --userns=host ...); on the host: {sudo}"
            ),
            Denial::MissingCapability { caller, lacking } => {
                let mut lacking = lacking.clone();
                if self.probes && action == Action::Inspect {
                    lacking.extend(host::lacking(host::TO_PROBE));
                }
                match caller {
                    Caller::Root => add_to_container(&lacking),
                    Caller::WithCapabilities => add_to_file(&lacking),
                    Caller::User(_) => sudo,
                }
            }
            Denial::Refused { .. } => match action {
                Action::Inspect => {
                    "name another process, as a module may protect single ones, or run fragscope on \
                    the host, outside of any container; sudo dmesg | grep -i denied may say more"
                        .into()
                }
                Action::Probe => "allow bpf(2) in the container's seccomp profile: docker run \
                    --security-opt seccomp=unconfined ..., or run fragscope on the host"
                    .into(),
            },
        };
        match action {
            Action::Inspect => fix,
            Action::Probe => self.or_without_probes(&fix),
        }
    }

    /// The same command line as root.
    fn sudo(&self) -> String {
        let pid = self
            .pid
            .map_or_else(String::new, |pid| format!(" --pid {pid}"));
        format!("sudo fragscope {}{pid}{}", self.command, self.flags)
    }
}

/// How root gets capabilities: root lacks them only in a container.
fn add_to_container(lacking: &[Capability]) -> String {
    let names: Vec<_> = lacking
        .iter()
        .map(|one| &one.name()["CAP_".len()..])
        .collect();
    let flags: Vec<_> = names
        .iter()
        .map(|name| format!("--cap-add={name}"))
        .collect();
    format!(
        "start the container with {} (Kubernetes: securityContext.capabilities.add: [{}]), or run \
         fragscope on the host",
        flags.join(" "),
        names.join(", ")
    )
}

/// How to add these capabilities to those that fragscope's file has.
fn add_to_file(lacking: &[Capability]) -> String {
    let mut all = host::held();
    all.extend(lacking);
    let names: Vec<_> = all.iter().map(|one| one.name().to_lowercase()).collect();
    let exe = std::env::current_exe().unwrap_or_else(|_| "fragscope".into());
    format!(
        "sudo setcap {}=ep {}",
        names.join(","),
        visible(exe.display())
    )
}
