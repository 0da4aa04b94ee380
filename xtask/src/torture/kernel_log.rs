//! The kernel's messages about uprobes that it could not remove.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;

/// The kernel's log from the time it was opened.
pub(super) struct KernelLog(File);

impl KernelLog {
    /// Begins at the log's present end.
    pub(super) fn open() -> Result<Self> {
        let mut log = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open("/dev/kmsg")
            .context("/dev/kmsg: the kernel's log says which breakpoints stayed; run as root")?;
        log.seek(SeekFrom::End(0))?;
        Ok(Self(log))
    }

    /// New lines of leaked uprobes, of any tool.
    pub(super) fn leaks(&mut self) -> Result<Vec<String>> {
        let mut leaks = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(0) => return Ok(leaks),
                Ok(read) => {
                    // `level,number,time,flags;text`
                    let text = String::from_utf8_lossy(&record[..read]);
                    let text = text.split_once(';').map_or("", |(_, text)| text);
                    if text.contains("leaking uprobe") {
                        leaks.push(text.lines().next().unwrap_or_default().to_owned());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(leaks),
                // Messages that were not read in time are overwritten; the next record follows.
                Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
                Err(error) => bail!("/dev/kmsg: {error}"),
            }
        }
    }
}
