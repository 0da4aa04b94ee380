//! Memory control groups.

use std::fs;
use std::path::{Path, PathBuf};

use profiler_testing::wait::eventually;

/// A memory control group of our own, of the first version where that is mounted.
pub(crate) struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// One of this name that may have so many bytes.
    pub(crate) fn new(name: &str, limit: u64) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let (parent, file) = match root.join("memory").is_dir() {
            true => (root.join("memory"), "memory.limit_in_bytes"),
            false => {
                // It may be so already.
                let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
                (root.to_owned(), "memory.max")
            }
        };
        let group = parent.join(format!("fragscope_{name}_{}", std::process::id()));
        fs::create_dir(&group).expect("control groups are mounted, and we are root");
        fs::write(group.join(file), limit.to_string()).expect("it takes a limit");
        Self(group)
    }

    /// Its name, as sentences have it.
    pub(crate) fn name(&self) -> String {
        let name = self.0.file_name().expect("a name");
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
        self.0.join("cgroup.procs")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        eventually("the end of the group", || fs::remove_dir(&self.0).ok());
    }
}
