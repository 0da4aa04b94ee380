//! The processes of the host as `/proc` lists them, and what can be read of each without holding
//! it.

use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use profiler_core::host::{Memory, ProcessId};

use super::attributes::file_behind;
use super::kernel_file::{bytes, kernel_text, lossy};
use super::open::PF_KTHREAD;
use super::page_size::page_size;
use super::proc_dir::{all_pids, field};
use super::stat::{Stat, time_of_ticks};
use super::target::words;

/// The longest part of a command line that is kept, in bytes: there may be thousands.
const MAX_CMDLINE_BYTES: u64 = 4096;
/// The longest `/proc` file of a process that is read here, in bytes.
const MAX_TEXT_BYTES: u64 = 64 << 10;

/// A process that existed when it was listed.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Which one.
    pub id: ProcessId,
    /// Its parent's pid.
    pub parent: i32,
    /// The kernel's name for it; untrusted text.
    pub comm: String,
}

/// The processes that are there.
#[derive(Debug, Default)]
pub struct Listing {
    /// The processes of user space that have memory, by pid.
    pub processes: Vec<Listed>,
    /// How many more there were.
    pub left_out: u64,
}

/// Lists at most `most` processes. A process that ends meanwhile is left out.
///
/// # Errors
/// When there is no `/proc`.
pub fn list(most: usize) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let mut pids: Vec<i32> = all_pids()?.collect();
    pids.sort_unstable();
    for pid in pids {
        if listing.processes.len() >= most {
            listing.left_out += 1;
        } else {
            listing.processes.extend(Listed::of(pid));
        }
    }
    Ok(listing)
}

impl Listed {
    /// The process with this pid; `None` if there is none, or none with memory of its own.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = Stat::of(pid)?;
        if matches!(stat.state, 'Z' | 'X') || stat.flags & PF_KTHREAD != 0 {
            return None;
        }
        let program = match file_behind(format!("/proc/{pid}/exe").as_ref()) {
            Ok(exe) => exe,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => (0, 0),
            // It is exiting and no longer has a program.
            Err(_) => return None,
        };
        Some(Self {
            id: ProcessId {
                pid,
                began_ticks: stat.began_ticks,
                program,
            },
            parent: stat.parent,
            comm: stat.name,
        })
    }

    /// Whether its pid still belongs to it.
    pub fn is_there(&self) -> bool {
        Stat::of(self.id.pid).is_some_and(|stat| {
            stat.began_ticks == self.id.began_ticks && !matches!(stat.state, 'Z' | 'X')
        })
    }

    /// The kernel's account of its memory: `smaps_rollup`, which walks its page table, or if that
    /// is unreadable `status`, which has neither PSS nor USS. `None` if it has ended.
    pub fn memory(&self) -> Option<Memory> {
        let rollup = self.text("smaps_rollup");
        rollup
            .and_then(|text| of_rollup(&text))
            .or_else(|| of_status(&self.text("status")?))
    }

    /// The part of it that is nearly free to read: `status`, without PSS and USS, whose RSS may lag
    /// by some hundred KiB. `None` if it has ended.
    pub fn quick_memory(&self) -> Option<Memory> {
        of_status(&self.text("status")?)
    }

    /// Its running time, in ns.
    pub fn age_ns(&self) -> Option<u64> {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
        let age = now.checked_sub(time_of_ticks(self.id.began_ticks))?;
        u64::try_from(age.as_nanos()).ok()
    }

    /// Its command line, cut to 4 KiB; empty if it has none.
    pub fn cmdline(&self) -> Vec<String> {
        words(&self.read("cmdline", MAX_CMDLINE_BYTES).unwrap_or_default())
    }

    fn text(&self, name: &str) -> Option<String> {
        Some(lossy(self.read(name, MAX_TEXT_BYTES)?))
    }

    fn read(&self, name: &str, most: u64) -> Option<Vec<u8>> {
        bytes(format!("/proc/{}/{name}", self.id.pid), most).ok()
    }
}

/// How much of a process is resident, by the kernel's quick count (`statm`), which may lag by some hundred KiB;
/// `None` when there is none with this number.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = kernel_text(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(page_size().bytes())
}

/// The user that a process runs as (its real user ID), which is read without waiting for the process; `None` when there is
/// none with this number, or it is hidden.
pub fn user_of(pid: i32) -> Option<u32> {
    // Its name, which may be any bytes, is before; the kernel escapes an end of line in it (`proc_task_name`).
    let status = bytes(format!("/proc/{pid}/status"), MAX_TEXT_BYTES).ok()?;
    field(&lossy(status), "Uid")?.try_into().ok()
}

fn of_rollup(rollup: &str) -> Option<Memory> {
    let bytes = |name| field(rollup, name).map(|kib| kib << 10);
    let private = [bytes("Private_Clean"), bytes("Private_Dirty")];
    Some(Memory {
        rss_bytes: bytes("Rss")?,
        pss_bytes: bytes("Pss"),
        // hugetlbfs pages are not part of RSS, nor of a USS that is compared with it.
        uss_bytes: private[0].and_then(|clean| clean.checked_add(private[1]?)),
        swap_bytes: bytes("Swap"),
    })
}

fn of_status(status: &str) -> Option<Memory> {
    let bytes = |name| field(status, name).map(|kib| kib << 10);
    Some(Memory {
        rss_bytes: bytes("VmRSS")?,
        swap_bytes: bytes("VmSwap"),
        pss_bytes: None,
        uss_bytes: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_listed_with_its_memory_and_kernel_threads_are_not() {
        let own = std::process::id() as i32;
        let listing = list(usize::MAX).expect("/proc");
        let listed = listing
            .processes
            .iter()
            .find(|one| one.id.pid == own)
            .expect("it runs");
        assert!(listed.is_there() && !listed.cmdline().is_empty());
        let memory = listed.memory().expect("it has some");
        assert!(memory.uss_bytes <= memory.pss_bytes && memory.pss_bytes <= Some(memory.rss_bytes));
        assert!(memory.uss_bytes > Some(0));
        let quick = resident_bytes(own as u32).expect("it runs");
        assert!(
            quick.abs_diff(memory.rss_bytes) < 4 << 20,
            "{quick} {memory:?}"
        );
        assert_eq!(resident_bytes(0), None);
        assert_eq!(user_of(own), Some(nix::unistd::getuid().as_raw()));
        assert_eq!(user_of(0), None);
        assert!(listing.processes.iter().all(|one| one.comm != "kthreadd"));
        let few = list(1).expect("/proc");
        assert_eq!(few.processes.len(), 1);
        assert!(few.left_out > 0);
    }

    #[test]
    fn a_name_that_is_not_utf_8_hides_nothing_of_a_process() {
        let child = profiler_testing::child::Child::python(
            "
import sys
open('/proc/self/comm', 'wb').write(b'\\xff\\nUid:\\t7\\t7')
print('ready', flush=True)
sys.stdin.readline()
",
        );
        assert_eq!(child.first_line(), "ready");
        assert_eq!(user_of(child.pid()), Some(nix::unistd::getuid().as_raw()));
        let listed = Listed::of(child.pid()).expect("it runs");
        assert!(listed.comm.starts_with("\u{fffd}\nUid"), "{listed:?}");
        let memory = listed.quick_memory().expect("it has some");
        assert!(memory.rss_bytes > 0, "{memory:?}");
    }

    #[test]
    fn a_later_process_of_the_same_number_is_another() {
        let own = std::process::id() as i32;
        let mut listed = Listed::of(own).expect("it runs");
        listed.id.began_ticks -= 1;
        assert!(!listed.is_there());
    }

    #[test]
    fn accounts_are_read_as_far_as_they_go() {
        let rollup = "55-7ff ---p 0 00:00 0 [rollup]\nRss:  100 kB\nPss:  60 kB\nPrivate_Clean: 10 kB\n\
            Private_Dirty: 30 kB\nSwap: 4 kB\nPrivate_Hugetlb: 0 kB\n";
        let memory = of_rollup(rollup).expect("an RSS");
        assert_eq!(memory.rss_bytes, 100 << 10);
        assert_eq!(
            (memory.pss_bytes, memory.uss_bytes),
            (Some(60 << 10), Some(40 << 10))
        );
        assert_eq!(of_rollup(""), None);
        let memory = of_status("VmRSS:\t 7 kB\nVmSwap:\t 0 kB\n").expect("an RSS");
        assert_eq!(
            (memory.rss_bytes, memory.swap_bytes, memory.pss_bytes),
            (7 << 10, Some(0), None)
        );
        // A kernel thread, or an exiting process.
        assert_eq!(of_status("Name:\tx\n"), None);
    }
}
