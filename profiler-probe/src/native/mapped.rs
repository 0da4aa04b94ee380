//! The file that contains the code at an address of the target, and what that file says.
//!
//! A page of code is compared with the file by reading it in the target's memory, where it was
//! executed a moment ago. A page that the kernel has evicted since then is not compared.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use nix::time::ClockId;
use profiler_common::PAGE_BYTES;
use profiler_core::addr::RemoteAddr;
use profiler_core::memory::TargetMemory;
use profiler_core::residency::{Mapping, MappingKind};
use profiler_core::sites::NativeEnd;
use profiler_core::text::visible;
use profiler_target::{LiveMemory, Process, Target};

use super::files::CodeFile;
use super::ns_of;
use super::tables::{Answer, Question, Reader, Tables};

/// The most files. A large Python service maps some hundreds.
const MAX_FILES: usize = 4096;
/// The most bytes of the tables of all files together.
const MAX_BYTES: usize = 256 << 20;
/// The least time between two looks at the mappings because of an unknown address.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// This many looks per second may come earlier, if a look takes at most `SHORT_LOOK`.
const EARLY_LOOKS: u32 = 4;
const SHORT_LOOK: Duration = Duration::from_millis(5);
/// The most bytes in which a page of code may differ from the file: breakpoints, including those of
/// probes.
const MAX_BREAKPOINTS: usize = 64;
/// Events wait at most this long in total for files that are being read. Beyond that, samples have
/// no functions of files that are still being read.
const MAX_WAITING: Duration = Duration::from_secs(1);
/// Files that are named of those that are not read.
const MAX_NAMED: usize = 16;
/// A replaced mapping is remembered for this many ns: no sample waits longer.
const KEPT_NS: u64 = 60_000_000_000;
/// What returns from a signal's handler: `mov $15, %rax; syscall`, in every C library.
#[cfg(target_arch = "x86_64")]
const RETURN_FROM_SIGNAL: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
/// The same on aarch64, if the kernel has it (`arch/arm64/kernel/vdso/sigreturn.S`): `mov x8, #139;
/// svc #0`.
#[cfg(target_arch = "aarch64")]
const RETURN_FROM_SIGNAL: [u8; 8] = [0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4];
/// The kernel's name for its own mapping, to which probed functions return.
const TRAMPOLINES: &str = "[uprobes]";

/// The code that the target has mapped from files.
pub(super) struct MappedCode {
    target: Arc<Target>,
    memory: LiveMemory,
    /// Ascending.
    pieces: Vec<Piece>,
    /// Where functions with a probed return return to.
    trampolines: Vec<Range<u64>>,
    /// Where one piece replaced another between two looks, and the time of the later look, on the
    /// clock of the events: for an earlier sample nobody knows which of the two it belongs to.
    replaced: Vec<(Range<u64>, u64)>,
    files: HashMap<u32, Known>,
    numbers: HashMap<Key, u32>,
    next_number: u32,
    bytes: usize,
    reader: Reader,
    may_wait: Duration,
    unread: Vec<String>,
    looked_at: Option<Instant>,
    early_looks: u32,
    /// Whether to look at the mappings before the next place is located.
    is_stale: bool,
}

/// Which file it is: as long as it is mapped, no other file has its device and inode.
type Key = (Arc<str>, u64, u64);

/// A mapping that may be executed.
#[derive(Copy, Clone, Debug, Eq, Hash, PartialEq)]
struct Piece {
    start: u64,
    end: u64,
    /// The file offset of its first byte.
    offset: u64,
    file: u32,
}

/// A file that code is mapped from.
struct Known {
    mapping: Mapping,
    path: Arc<str>,
    shown: Arc<str>,
    state: FileState,
}

/// How much is known of a file.
enum FileState {
    /// Nothing was asked.
    Mapped,
    /// It is being read, because of this page of its code in the target.
    Asked(RemoteAddr),
    Read(Box<Tables>),
    Unread,
}

impl MappedCode {
    /// The code of a target, which is looked at right away.
    pub(super) fn of(target: Target) -> Self {
        let target = Arc::new(target);
        let mut code = Self {
            memory: target.memory(),
            reader: Reader::of(Arc::clone(&target)),
            target,
            pieces: Vec::new(),
            trampolines: Vec::new(),
            replaced: Vec::new(),
            files: HashMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            bytes: 0,
            may_wait: MAX_WAITING,
            unread: Vec::new(),
            looked_at: None,
            early_looks: 0,
            is_stale: true,
        };
        // Before the first sample: by the time a sample is looked at, something else may be mapped.
        code.look();
        code
    }

    /// The mappings may have changed: another library may be where one was.
    pub(super) fn look_again(&mut self) {
        self.is_stale = true;
        self.early_looks = EARLY_LOOKS;
    }

    /// Files that are not read, and why, a sentence each.
    pub(super) fn unread(&self) -> &[String] {
        &self.unread
    }

    /// The number of the file to which the code at an address belonged at a moment on the clock of
    /// the events, and the file's own address of that code. The file may be read until the given
    /// time.
    pub(super) fn locate(
        &mut self,
        address: u64,
        at_ns: u64,
        until: Option<Instant>,
    ) -> Result<(u32, u64), NativeEnd> {
        let Piece {
            start,
            offset,
            file,
            ..
        } = self.find(address)?;
        let was_other =
            |(range, looked_ns): &(Range<u64>, u64)| range.contains(&address) && at_ns < *looked_ns;
        if self.replaced.iter().any(was_other) {
            return Err(NativeEnd::Replaced);
        }
        let offset = offset.wrapping_add(address - start);
        self.ask(file, address, offset);
        self.wait(file, until);
        let known = &self.files[&file];
        match &known.state {
            FileState::Read(tables) => {
                let own = tables.code.address_of(offset);
                own.map(|own| (file, own)).ok_or(NativeEnd::Damaged)
            }
            FileState::Asked(_) => Err(NativeEnd::BeingRead),
            FileState::Mapped | FileState::Unread => Err(NativeEnd::UnreadFile),
        }
    }

    fn find(&mut self, address: u64) -> Result<Piece, NativeEnd> {
        let found = match self.is_stale {
            true => None,
            false => self.piece(address),
        };
        if let Some(piece) = found {
            return Ok(piece);
        }
        let is_early = self.looked_at.is_some_and(|at| at.elapsed() < LOOK_AFTER);
        if self.is_stale || !is_early || self.early_looks > 0 {
            self.early_looks = self.early_looks.saturating_sub(u32::from(is_early));
            self.is_stale = false;
            let began = Instant::now();
            self.look();
            // Measured from the end: a look at very many mappings takes long.
            self.looked_at = Some(Instant::now());
            if began.elapsed() > SHORT_LOOK {
                self.early_looks = 0;
            }
        }
        let is_trampoline = self.trampolines.iter().any(|of| of.contains(&address));
        self.piece(address).ok_or(match is_trampoline {
            true => NativeEnd::ProbedReturn,
            false => NativeEnd::NoFile,
        })
    }

    fn piece(&self, address: u64) -> Option<Piece> {
        let next = self.pieces.partition_point(|piece| piece.end <= address);
        let piece = self.pieces.get(next)?;
        (piece.start <= address).then_some(*piece)
    }

    /// Looks at the mappings. A file that is no longer mapped anywhere it was is forgotten: another
    /// file may have its name or its inode now.
    fn look(&mut self) {
        // If the process is gone, what is known stays true of its samples.
        let Ok(mappings) = self.target.mappings() else {
            return;
        };
        let sorted_before = std::mem::take(&mut self.pieces);
        let before: HashSet<Piece> = sorted_before.iter().copied().collect();
        let place = |file: u32, of: &Mapping| Piece {
            start: of.range.start().get(),
            end: of.range.end().get(),
            offset: of.offset,
            file,
        };
        let executed = || mappings.iter().filter(|mapping| mapping.execute);
        let stays: HashSet<u32> = executed()
            .filter_map(|mapping| {
                let number = *self.numbers.get(&key(mapping)?)?;
                before.contains(&place(number, mapping)).then_some(number)
            })
            .collect();
        self.keep(&stays);
        let special = |of: &&Mapping| matches!(&of.kind, MappingKind::Special(name) if **name == *TRAMPOLINES);
        let trampolines = mappings.iter().filter(special);
        self.trampolines = trampolines
            .map(|of| of.range.start().get()..of.range.end().get())
            .collect();
        for mapping in executed() {
            if let Some(file) = self.number(mapping) {
                self.pieces.push(place(file, mapping));
            }
        }
        self.note_replaced(&sorted_before, &before);
    }

    /// Notes where code differs from what was there before.
    fn note_replaced(&mut self, sorted_before: &[Piece], before: &HashSet<Piece>) {
        let now_ns = ns_of(ClockId::CLOCK_MONOTONIC);
        // Samples are looked at long before that.
        self.replaced.retain(|(_, at_ns)| now_ns - at_ns < KEPT_NS);
        let changed = self.pieces.iter().filter(|piece| !before.contains(*piece));
        let replaced = changed.filter(|piece| {
            let first = sorted_before.partition_point(|of| of.end <= piece.start);
            let there = sorted_before[first..].iter();
            let mut there = there.take_while(|of| of.start < piece.end);
            there.any(|of| of.file != piece.file)
        });
        let replaced = replaced.map(|piece| (piece.start..piece.end, now_ns));
        let room = MAX_FILES.saturating_sub(self.replaced.len());
        self.replaced.extend(replaced.take(room));
    }

    /// Forgets all files but those.
    fn keep(&mut self, numbers: &HashSet<u32>) {
        self.numbers.retain(|_, number| numbers.contains(number));
        let mut bytes = 0;
        self.files.retain(|number, known| {
            let stays = numbers.contains(number);
            if let (true, FileState::Read(tables)) = (stays, &known.state) {
                bytes += tables.bytes();
            }
            stays
        });
        self.bytes = bytes;
    }

    /// The number of a mapping's file, if it has one.
    fn number(&mut self, mapping: &Mapping) -> Option<u32> {
        let key = key(mapping)?;
        if let Some(number) = self.numbers.get(&key) {
            return Some(*number);
        }
        if self.files.len() >= MAX_FILES {
            return None;
        }
        let number = self.next_number;
        // A number is never used again: what was found with it may still be remembered.
        self.next_number = number.checked_add(1)?;
        let known = Known {
            path: Arc::clone(&key.0),
            shown: visible(&key.0).to_string().into(),
            mapping: mapping.clone(),
            state: FileState::Mapped,
        };
        self.files.insert(number, known);
        self.numbers.insert(key, number);
        Some(number)
    }

    /// Has the file read that contains the code at an address, at this offset, unless that was
    /// already done.
    fn ask(&mut self, number: u32, address: u64, offset: u64) {
        let known = self.files.get_mut(&number).expect("it has a piece");
        if !matches!(known.state, FileState::Mapped) {
            return;
        }
        let page = PAGE_BYTES as u64;
        known.state = FileState::Asked(RemoteAddr::new(address - address % page));
        self.reader.ask(Question {
            number,
            mapped: known.path.to_string(),
            path: self.target.file_of(&known.mapping),
            code_offset: offset - offset % page,
        });
    }

    /// Takes in what was read, and waits for this file if there is time.
    fn wait(&mut self, number: u32, until: Option<Instant>) {
        while matches!(self.files[&number].state, FileState::Asked(_)) {
            let began = Instant::now();
            let left = until.map_or(self.may_wait, |until| {
                until.saturating_duration_since(began)
            });
            let answer = self.reader.answer(left.min(self.may_wait));
            self.may_wait = self.may_wait.saturating_sub(began.elapsed());
            match answer {
                Some(answer) => self.take(answer),
                None => return,
            }
        }
    }

    fn take(&mut self, answer: Answer) {
        let Some(known) = self.files.get(&answer.number) else {
            return;
        };
        let FileState::Asked(page) = known.state else {
            return;
        };
        let read = answer.read.and_then(|tables| {
            if !self.is_code_of(&tables.code, page) {
                return Err("it is another file by now than the one that is mapped".to_owned());
            }
            match self.bytes + tables.bytes() <= MAX_BYTES {
                true => Ok(tables),
                false => {
                    Err("the tables of the others take all the memory that is set aside".to_owned())
                }
            }
        });
        let state = match read {
            Ok(tables) => {
                self.bytes += tables.bytes();
                FileState::Read(tables)
            }
            Err(why) => {
                let said = match self.unread.len() {
                    ..MAX_NAMED => Some(format!("{} ({})", known.shown, visible(&why))),
                    MAX_NAMED => Some("and others".to_owned()),
                    _ => None,
                };
                self.unread.extend(said);
                FileState::Unread
            }
        };
        if let Some(known) = self.files.get_mut(&answer.number) {
            known.state = state;
        }
    }

    /// Whether a page of the target's memory holds the code that was read from a file. Another file
    /// may have its name by now.
    fn is_code_of(&self, file: &CodeFile, page: RemoteAddr) -> bool {
        let mut mapped = vec![0; file.code.len()];
        if self.memory.read(page, &mut mapped).is_err() {
            return false;
        }
        let pairs = mapped.iter().zip(&file.code);
        let differing = pairs.filter(|(mapped, file)| mapped != file).count();
        differing <= MAX_BREAKPOINTS
    }

    /// Whether the code at an address returns from a signal's handler.
    pub(super) fn returns_from_signal(&self, address: u64) -> bool {
        let mut code = [0; RETURN_FROM_SIGNAL.len()];
        let read = self.memory.read(RemoteAddr::new(address), &mut code);
        read.is_ok() && code == RETURN_FROM_SIGNAL
    }

    fn tables(&self, number: u32) -> &Tables {
        match &self.files[&number].state {
            FileState::Read(tables) => tables,
            _ => unreachable!("it was located, and what was read is kept"),
        }
    }

    /// A file that [`Self::locate`] gave.
    pub(super) fn file(&self, number: u32) -> &CodeFile {
        &self.tables(number).code
    }

    /// The path from which the target maps it.
    pub(super) fn path(&self, number: u32) -> &Arc<str> {
        &self.files[&number].path
    }

    /// The same path, as it is shown.
    pub(super) fn shown(&self, number: u32) -> Arc<str> {
        Arc::clone(&self.files[&number].shown)
    }

    /// The symbol of the function that an address of a file's own is within.
    pub(super) fn symbol(&self, number: u32, address: u64) -> Option<&str> {
        self.tables(number).symbols.at(address)
    }
}

/// The file of a mapping, if it has one.
fn key(mapping: &Mapping) -> Option<Key> {
    let MappingKind::File(path) = &mapping.kind else {
        return None;
    };
    Some((path.clone(), mapping.device, mapping.inode))
}

#[cfg(test)]
mod tests {
    use profiler_testing::child::Child;
    use profiler_testing::wait::eventually;

    use super::*;

    #[test]
    fn a_file_that_is_being_read_is_waited_for_only_as_long_as_there_is_time() {
        let child = Child::python("print(1, flush=True); input()");
        assert_eq!(child.first_line(), "1");
        let target = Target::open(child.pid()).expect("our own child");
        let mappings = target.mappings().expect("it runs");
        let is_libc = |of: &&Mapping| {
            of.execute && matches!(&of.kind, MappingKind::File(path) if path.contains("libc.so"))
        };
        let libc = mappings.iter().find(is_libc).expect("a C library");
        let address = libc.range.start().get() + (64 << 10);
        let mut code = MappedCode::of(target);
        let began = Instant::now();
        assert_eq!(
            code.locate(address, 0, Some(began)),
            Err(NativeEnd::BeingRead)
        );
        let (number, own) = code.locate(address, 0, None).expect("read within a second");
        assert!(code.path(number).contains("libc.so"));
        assert!(own > 0 && code.bytes > 0 && code.unread().is_empty());
        // Nobody waits any more once all the time for that is spent.
        code.may_wait = Duration::ZERO;
        let is_python = |of: &&Mapping| {
            of.execute && matches!(&of.kind, MappingKind::File(path) if path.contains("python"))
        };
        let python = mappings.iter().find(is_python).expect("a Python");
        let in_python = python.range.start().get();
        assert_eq!(code.locate(in_python, 0, None), Err(NativeEnd::BeingRead));
        eventually("the file to be read", || {
            (code.locate(in_python, 0, None) != Err(NativeEnd::BeingRead)).then_some(())
        });
        // What is mapped as before keeps its number.
        code.look_again();
        assert_eq!(code.locate(address, 0, None), Ok((number, own)));
    }
}
