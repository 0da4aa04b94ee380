//! Processes and threads, from `/proc`.

use std::fs;
use std::path::Path;

/// One process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    /// As `ps` prints it: R, S, D, T, t, Z...
    pub(super) state: char,
    /// Its name in the kernel: at most 15 bytes. `pkill NAME` matches this.
    pub(super) name: String,
}

/// One thread.
#[derive(Copy, Clone, Debug)]
pub(super) struct Thread {
    pub(super) tid: i32,
    pub(super) state: char,
}

/// The process of this number.
pub(super) fn process(pid: i32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (before, after) = stat.rsplit_once(") ")?;
    let (_, name) = before.split_once('(')?;
    let mut fields = after.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let mut number = || fields.next()?.parse().ok();
    Some(Process {
        pid,
        parent: number()?,
        group: number()?,
        session: number()?,
        state,
        name: name.to_owned(),
    })
}

/// All processes.
pub(super) fn all() -> Vec<Process> {
    numbers(Path::new("/proc")).filter_map(process).collect()
}

/// The threads of a process; none if it is gone.
pub(super) fn threads(pid: i32) -> Vec<Thread> {
    let tasks = format!("/proc/{pid}/task");
    let thread = |tid| {
        let stat = fs::read(format!("{tasks}/{tid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let state = stat.rsplit_once(") ")?.1.chars().next()?;
        Some(Thread { tid, state })
    };
    numbers(Path::new(&tasks)).filter_map(thread).collect()
}

/// Whether a thread of the process is stopped by a tracer at this moment.
pub(super) fn is_held(pid: i32) -> bool {
    threads(pid).iter().any(|thread| thread.state == 't')
}

/// The tracer of a thread, or 0.
pub(super) fn tracer(pid: i32, tid: i32) -> i32 {
    let tracer = field(&format!("/proc/{pid}/task/{tid}/status"), "TracerPid");
    tracer.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether the process handles this signal itself.
pub(super) fn catches(pid: i32, signal: i32) -> bool {
    let caught = field(&format!("/proc/{pid}/status"), "SigCgt");
    let caught = caught.and_then(|text| u64::from_str_radix(&text, 16).ok());
    caught.unwrap_or(0) >> (signal - 1) & 1 == 1
}

/// Its arguments, with spaces between them.
pub(super) fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn field(path: &str, name: &str) -> Option<String> {
    let status = fs::read(path).ok()?;
    let status = String::from_utf8_lossy(&status);
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

fn numbers(folder: &Path) -> impl Iterator<Item = i32> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
