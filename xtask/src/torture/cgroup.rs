//! A control group for one round: a memory limit, or a freezer. Version 1 where that is mounted,
//! else version 2.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The purpose of a group.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Memory,
    Freezer,
}

/// Our own group; it is removed with this, after its processes have ended.
pub(super) struct Cgroup {
    path: PathBuf,
    /// Whether it is of version 1.
    first: bool,
}

impl Cgroup {
    /// Makes one.
    pub(super) fn new(kind: Kind) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = match kind {
            Kind::Memory => "memory",
            Kind::Freezer => "freezer",
        };
        let own = format!(
            "torture-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let root = Path::new("/sys/fs/cgroup");
        let (parent, first) = if root.join(name).is_dir() {
            (root.join(name), true)
        } else if root.join("cgroup.controllers").is_file() {
            if kind == Kind::Memory {
                // Fails if it is already enabled, or if this is not the root of a tree: then the
                // group's files are missing below.
                let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
            }
            (root.to_owned(), false)
        } else {
            bail!("no cgroups of memory and freezer under /sys/fs/cgroup: mount them");
        };
        let path = parent.join(own);
        fs::create_dir(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Self { path, first })
    }

    /// The file to which a process writes 0 to enter it.
    pub(super) fn entrance(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Puts a process into it.
    pub(super) fn add(&self, pid: i32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// The OOM killer ends its processes when they need more.
    pub(super) fn limit_memory(&self, bytes: u64) -> Result<()> {
        let file = ["memory.max", "memory.limit_in_bytes"][usize::from(self.first)];
        self.write(file, &bytes.to_string())
    }

    /// The memory of its processes.
    pub(super) fn memory(&self) -> Result<u64> {
        let file = ["memory.current", "memory.usage_in_bytes"][usize::from(self.first)];
        self.read(file)?.parse().context("a number")
    }

    /// How many of its processes the OOM killer has ended.
    pub(super) fn kills(&self) -> Result<u64> {
        let file = ["memory.events", "memory.oom_control"][usize::from(self.first)];
        let text = self.read(file)?;
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        count.with_context(|| format!("{file} has no count of kills"))
    }

    /// Freezes its processes, or thaws them.
    pub(super) fn freeze(&self, frozen: bool) -> Result<()> {
        let i = usize::from(frozen);
        if self.first {
            self.write("freezer.state", ["THAWED", "FROZEN"][i])
        } else {
            self.write("cgroup.freeze", ["0", "1"][i])
        }
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.path.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, text).with_context(|| format!("{}", path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A frozen process does not end. The remaining processes go back to the root, so that the
        // group can be removed; a failure leaves an empty cgroup directory behind.
        let _ = self.freeze(false);
        let root = self.path.parent().map(|parent| parent.join("cgroup.procs"));
        for pid in self.read("cgroup.procs").unwrap_or_default().lines() {
            let _ = root.as_ref().map(|root| fs::write(root, pid));
        }
        // Processes that are still ending keep the group for a moment.
        for _ in 0..200 {
            if fs::remove_dir(&self.path).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}
