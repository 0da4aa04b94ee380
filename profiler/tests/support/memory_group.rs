//! Memory control groups.

use std::fs;
use std::path::{Path, PathBuf};

use profiler_testing::wait::eventually;

/// A memory control group of our own, of the first version where that is mounted.
pub(crate) struct MemoryGroup {
    path: PathBuf,
    is_first: bool,
}

impl MemoryGroup {
    /// A group with this name and a limit of `limit` bytes.
    pub(crate) fn new(name: &str, limit: u64) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let is_first = root.join("memory").is_dir();
        let parent = match is_first {
            true => root.join("memory"),
            false => {
                // It may be so already.
                let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
                root.to_owned()
            }
        };
        let path = parent.join(format!("fragscope_{name}_{}", std::process::id()));
        fs::create_dir(&path).expect("control groups are mounted, and we are root");
        let group = Self { path, is_first };
        group.limit(limit);
        group
    }

    /// Sets its limit to `bytes`.
    pub(crate) fn limit(&self, bytes: u64) {
        let file = match self.is_first {
            true => "memory.limit_in_bytes",
            false => "memory.max",
        };
        fs::write(self.path.join(file), bytes.to_string()).expect("it takes a limit");
    }

    /// Bytes that it has.
    pub(crate) fn charged(&self) -> u64 {
        let file = match self.is_first {
            true => "memory.usage_in_bytes",
            false => "memory.current",
        };
        let bytes = fs::read_to_string(self.path.join(file)).expect("it counts");
        bytes.trim().parse().expect("bytes")
    }

    /// Its name, as sentences have it.
    pub(crate) fn name(&self) -> String {
        let name = self.path.file_name().expect("a name");
        format!("/{}", name.to_string_lossy())
    }

    /// Puts a process into it.
    pub(crate) fn take(&self, pid: i32) {
        fs::write(self.entrance(), pid.to_string()).expect("it takes a process");
    }
}

impl MemoryGroup {
    /// The file that takes the numbers of processes.
    pub(crate) fn entrance(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        eventually("the end of the group", || fs::remove_dir(&self.path).ok());
    }
}
