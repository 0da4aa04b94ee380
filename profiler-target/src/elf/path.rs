//! The path under which a file mapped by a target can be opened.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Possible paths of ours to a mapped file. Which one leads to it is determined only when it is
/// opened, because that may block as long as the file's file system does.
#[derive(Clone, Debug)]
pub struct FilePath {
    /// The kernel's link to the very file of one mapping, which may not be followed.
    linked: Option<PathBuf>,
    named: PathBuf,
    /// The device of its file system, if the kernel reports it for the mapping.
    device: Option<u64>,
    /// Whether a process or another host serves it, which may not answer.
    is_served: bool,
}

impl FilePath {
    /// Through a kernel link if that may be followed, else by name.
    pub(crate) fn linked(linked: PathBuf, named: PathBuf, device: Option<u64>) -> Self {
        Self {
            linked: Some(linked),
            named,
            device,
            is_served: false,
        }
    }

    /// Sets the device and whether a process or another host serves it. A device that did not
    /// answer is not used again.
    pub(crate) fn on(self, device: u64) -> Self {
        let device = Some(device);
        Self { device, ..self }
    }

    pub(crate) fn served(self, is_served: bool) -> Self {
        Self { is_served, ..self }
    }

    /// Whether it is known to be served by a process or another host.
    pub(crate) fn is_served(&self) -> bool {
        self.is_served
    }

    /// The device of its file system, if it is known.
    pub(crate) fn device(&self) -> Option<u64> {
        self.device
    }

    /// The kernel's link to it.
    pub(crate) fn linked_path(&self) -> Option<&Path> {
        self.linked.as_deref()
    }

    /// Its path by name.
    pub(crate) fn named_path(&self) -> &Path {
        &self.named
    }

    /// The path under which it can be opened.
    pub fn find(self) -> PathBuf {
        // Whether the kernel follows it, without any request to the file itself.
        let is_shown = |path: &PathBuf| {
            let mut place = OpenOptions::new();
            place.read(true).custom_flags(libc::O_PATH);
            place.open(path).is_ok()
        };
        self.linked.filter(is_shown).unwrap_or(self.named)
    }
}

impl From<PathBuf> for FilePath {
    fn from(named: PathBuf) -> Self {
        Self {
            linked: None,
            named,
            device: None,
            is_served: false,
        }
    }
}
