//! The code of a process compared with the files it is mapped from: a difference is a breakpoint.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSegment, ObjectSymbol};

const PAGE: usize = 4096;
/// Functions of the C library that no worker calls: a breakpoint unknown to the kernel ends a
/// process that runs into it.
const UNUSED: [&[u8]; 3] = [b"pvalloc", b"valloc", b"malloc_info"];
const INT3: u8 = 0xcc;

/// The code of one process, as it was when this was created; after an exec it is created again.
pub(super) struct Text {
    memory: File,
    segments: Vec<Segment>,
    /// Pages in which something was seen, by segment and number: a quick check reads these.
    pages: BTreeSet<(usize, usize)>,
}

/// A mapping of a file that may be executed.
struct Segment {
    path: String,
    start: u64,
    offset: u64,
    file: Vec<u8>,
}

/// A byte of code that is not the file's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Change {
    path: String,
    offset: u64,
    file: u8,
    memory: u8,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            offset,
            file,
            memory,
        } = self;
        write!(f, "{path}+{offset:#x}: {memory:02x} for {file:02x}")
    }
}

impl Text {
    /// Reads the files that the process executes.
    pub(super) fn of(pid: i32) -> Result<Self> {
        let mut options = File::options();
        let memory = options.read(true).write(true);
        let memory = memory
            .open(format!("/proc/{pid}/mem"))
            .context("its memory")?;
        let maps = fs::read(format!("/proc/{pid}/maps")).context("its mappings")?;
        let maps = String::from_utf8_lossy(&maps);
        Ok(Self {
            memory,
            segments: maps.lines().filter_map(Segment::of).collect(),
            pages: BTreeSet::new(),
        })
    }

    /// Leaves breakpoints in its C library, as a killed tool may: nobody holds them.
    pub(super) fn leave_breakpoints(&self) -> Result<()> {
        let is_library = |one: &&Segment| one.path.contains("/libc.so");
        let segment = self.segments.iter().find(is_library);
        let segment = segment.context("it has no C library")?;
        let bytes = fs::read(&segment.path)?;
        let elf = object::File::parse(&*bytes)?;
        let unused = elf.dynamic_symbols().filter(|symbol| {
            symbol.is_definition() && symbol.name_bytes().is_ok_and(|name| UNUSED.contains(&name))
        });
        let mut left = 0;
        for symbol in unused {
            let holds = |one: &object::Segment<'_, '_>| {
                (one.address()..one.address() + one.size()).contains(&symbol.address())
            };
            let of = elf.segments().find(holds).context("a function nowhere")?;
            let offset = symbol.address() - of.address() + of.file_range().0;
            let at = segment.start + (offset - segment.offset);
            self.memory.write_all_at(&[INT3], at)?;
            left += 1;
        }
        ensure!(left >= UNUSED.len(), "{left} functions for breakpoints");
        Ok(())
    }

    /// Everything that differs. A process that is gone has no code that could.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (number, segment) in self.segments.iter().enumerate() {
            let mut bytes = vec![0; segment.file.len()];
            let read = self.memory.read_exact_at(&mut bytes, segment.start);
            if read.is_ok() && bytes != segment.file {
                let before = changes.len();
                segment.compare(0, &bytes, &mut changes);
                let offsets = changes[before..].iter().map(|change| change.offset);
                let pages = offsets.map(|offset| (offset - segment.offset) as usize / PAGE);
                self.pages.extend(pages.map(|page| (number, page)));
            }
        }
        changes
    }

    /// How many bytes differ, checked only where something was seen before.
    pub(super) fn count(&mut self) -> usize {
        if self.pages.is_empty() {
            return self.changes().len();
        }
        let mut changes = Vec::new();
        for &(number, page) in &self.pages {
            let segment = &self.segments[number];
            let at = page * PAGE;
            let mut bytes = vec![0; PAGE.min(segment.file.len() - at)];
            let read = self
                .memory
                .read_exact_at(&mut bytes, segment.start + at as u64);
            if read.is_ok() {
                segment.compare(at, &bytes, &mut changes);
            }
        }
        changes.len()
    }
}

impl Segment {
    /// Of a line of `/proc/PID/maps`.
    fn of(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let permissions = words.next()?;
        let offset = u64::from_str_radix(words.next()?, 16).ok()?;
        let path = words.nth(2).filter(|path| path.starts_with('/'))?;
        if !permissions.contains('x') {
            return None;
        }
        let start = u64::from_str_radix(start, 16).ok()?;
        let end = u64::from_str_radix(end, 16).ok()?;
        let file = File::open(path).ok()?;
        let there = file.metadata().ok()?.len().saturating_sub(offset);
        let mut bytes = vec![0; (end - start).min(there) as usize];
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(Self {
            path: path.to_owned(),
            start,
            offset,
            file: bytes,
        })
    }

    /// Adds the places where `bytes`, which begin at offset `at`, differ from the file.
    fn compare(&self, at: usize, bytes: &[u8], changes: &mut Vec<Change>) {
        let pairs = self.file[at..].iter().zip(bytes).enumerate();
        let different = pairs.filter(|(_, (file, memory))| file != memory);
        changes.extend(different.map(|(i, (&file, &memory))| Change {
            path: self.path.clone(),
            offset: self.offset + (at + i) as u64,
            file,
            memory,
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use nix::sys::ptrace;
    use nix::sys::signal::Signal;
    use nix::sys::wait::waitpid;
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_breakpoint_is_seen_when_it_comes_and_when_it_goes() -> Result<()> {
        // It prints something once it is loaded, and waits.
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut byte = [0];
        child.stdin.as_mut().context("piped")?.write_all(b"x")?;
        child
            .stdout
            .as_mut()
            .context("piped")?
            .read_exact(&mut byte)?;
        let mut text = Text::of(child.id() as i32)?;
        assert!(!text.segments.is_empty());
        assert_eq!(text.changes(), []);

        let pid = Pid::from_raw(child.id() as i32);
        ptrace::attach(pid)?;
        waitpid(pid, None)?;
        let segment = &text.segments[0];
        let (at, path) = (segment.start as ptrace::AddressType, segment.path.clone());
        let (file, offset) = (segment.file[0], segment.offset);
        let before = ptrace::read(pid, at)?;
        ptrace::write(pid, at, before & !0xff | 0xcc)?;
        let change = Change {
            path,
            offset,
            file,
            memory: 0xcc,
        };
        assert_eq!(text.changes(), [change]);
        assert_eq!(text.count(), 1);
        ptrace::write(pid, at, before)?;
        assert_eq!((text.changes(), text.count()), (Vec::new(), 0));
        ptrace::detach(pid, Signal::SIGKILL)?;
        child.wait()?;
        Ok(())
    }

    #[test]
    fn breakpoints_are_left_in_functions_that_nobody_calls() -> Result<()> {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (mut input, mut output) = (
            child.stdin.take().context("piped")?,
            child.stdout.take().context("piped")?,
        );
        let mut byte = [0];
        input.write_all(b"x")?;
        output.read_exact(&mut byte)?;
        let mut text = Text::of(child.id() as i32)?;
        text.leave_breakpoints()?;
        let changes = text.changes();
        assert!(changes.len() >= UNUSED.len(), "{changes:?}");
        assert!(changes.iter().all(|change| change.memory == INT3));
        input.write_all(b"y")?;
        output.read_exact(&mut byte)?;
        drop(input);
        assert!(child.wait()?.success());
        Ok(())
    }
}
