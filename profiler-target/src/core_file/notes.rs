//! The notes of a core: threads, names, the auxiliary vector, mapped files.
//!
//! Layouts are those of 64-bit machines: `struct elf_prstatus`, `struct elf_prpsinfo`
//! (`include/linux/elfcore.h`), `NT_FILE` (`fill_files_note` in `fs/binfmt_elf.c`); for registers
//! `user_regs_struct` (`arch/x86/include/asm/user_64.h`) and `user_pt_regs`
//! (`arch/arm64/include/uapi/asm/ptrace.h`).

use object::elf::NoteType;
use profiler_common::PID_BITS;
use profiler_core::addr::{AddrRange, PageSize, RemoteAddr};
use profiler_core::machine::Machine;
use profiler_core::threads::Thread;

use crate::auxv::{AT_PAGESZ, AT_PHDR, auxv_value};

const NT_PRSTATUS: u32 = 1;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_FILE: u32 = 0x4649_4c45;
/// `pr_pid` of `elf_prstatus`.
const STATUS_PID: usize = 32;
/// `pr_reg` of `elf_prstatus`.
const STATUS_REGISTERS: usize = 112;
/// `NT_ARM_TLS`: the thread pointer of aarch64, in a separate note after the thread's others.
const NT_ARM_TLS: u32 = 0x401;

/// Which of the registers are what, by their places.
struct Places {
    instruction: usize,
    stack: usize,
    /// The thread pointer, if it is one of them.
    thread: Option<usize>,
}

impl Places {
    const fn of(machine: Machine) -> Self {
        match machine {
            // `rip`, `rsp`, `fs_base`.
            Machine::X86_64 => Self {
                instruction: 16,
                stack: 19,
                thread: Some(21),
            },
            // `pc`, `sp`, behind 31 general ones.
            Machine::Aarch64 => Self {
                instruction: 32,
                stack: 31,
                thread: None,
            },
        }
    }
}
/// `pr_pid`, `pr_fname` and `pr_psargs` of `elf_prpsinfo`.
const INFO_PID: usize = 24;
const INFO_NAME: (usize, usize) = (40, 16);
const INFO_ARGUMENTS: (usize, usize) = (56, 80);
/// The most threads kept: as many as there are thread ids.
const MAX_THREADS: usize = 1 << PID_BITS;

/// A part of a file that was mapped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct MappedFile {
    pub(super) range: AddrRange,
    /// Offset into the file, in bytes.
    pub(super) offset: u64,
    /// Its path as written by the kernel.
    pub(super) path: String,
}

/// The contents of all notes.
#[derive(Debug)]
pub(super) struct Notes {
    pub(super) machine: Machine,
    pub(super) pid: i32,
    pub(super) comm: String,
    /// The first 80 bytes of the command line, as one word: a core does not show where arguments
    /// end.
    pub(super) cmdline: Vec<String>,
    pub(super) threads: Vec<Thread>,
    pub(super) auxv: Vec<u8>,
    /// Ascending.
    pub(super) mapped: Vec<MappedFile>,
}

impl Notes {
    /// None yet, of a process of this machine.
    pub(super) fn of(machine: Machine) -> Self {
        Self {
            machine,
            pid: 0,
            comm: String::new(),
            cmdline: Vec::new(),
            threads: Vec::new(),
            auxv: Vec::new(),
            mapped: Vec::new(),
        }
    }

    /// The size of the kernel's pages.
    pub(super) fn page_size(&self) -> PageSize {
        let bytes = auxv_value(&self.auxv, AT_PAGESZ);
        bytes.and_then(PageSize::new).unwrap_or_default()
    }

    /// Processes one note; notes of other owners and unknown ones are skipped.
    pub(super) fn take(&mut self, kind: NoteType, owner: &[u8], content: &[u8]) {
        if kind.0 == NT_ARM_TLS && self.machine == Machine::Aarch64 {
            let of = self.threads.last_mut().zip(word(content, 0));
            if let Some((thread, pointer)) = of {
                thread.thread_pointer = RemoteAddr::new(pointer);
            }
        }
        if owner != b"CORE" {
            return;
        }
        match kind.0 {
            NT_PRSTATUS if self.threads.len() < MAX_THREADS => {
                self.threads.extend(thread(self.machine, content));
            }
            NT_PRPSINFO => {
                self.pid = int(content, INFO_PID).unwrap_or(0);
                self.comm = text(content, INFO_NAME);
                let words = text(content, INFO_ARGUMENTS);
                self.cmdline = if words.is_empty() {
                    Vec::new()
                } else {
                    vec![words]
                };
            }
            NT_AUXV => self.auxv = content.to_vec(),
            NT_FILE => self.mapped = mapped_files(content),
            _ => {}
        }
    }

    /// The path under which the program was mapped.
    pub(super) fn program(&self) -> Option<&str> {
        let headers = RemoteAddr::new(auxv_value(&self.auxv, AT_PHDR)?);
        self.mapped_at(headers).map(|mapped| mapped.path.as_str())
    }

    /// The part of a file that was mapped at `addr`.
    pub(super) fn mapped_at(&self, addr: RemoteAddr) -> Option<&MappedFile> {
        let next = self.mapped.partition_point(|m| m.range.end() <= addr);
        self.mapped.get(next).filter(|m| m.range.contains(addr))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*word))
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    Some(i32::from_le_bytes(*word))
}

/// Text that ends at a NUL or at the end of its field.
fn text(bytes: &[u8], (at, len): (usize, usize)) -> String {
    let field = bytes.get(at..at + len).unwrap_or_default();
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(len);
    let text = String::from_utf8_lossy(field.get(..end).unwrap_or_default());
    text.trim_end().to_owned()
}

fn thread(machine: Machine, status: &[u8]) -> Option<Thread> {
    let places = Places::of(machine);
    let register = |n: usize| word(status, STATUS_REGISTERS + 8 * n).map(RemoteAddr::new);
    Some(Thread {
        tid: int(status, STATUS_PID)? as u32,
        stack_pointer: register(places.stack)?,
        program_counter: register(places.instruction)?,
        thread_pointer: match places.thread {
            Some(place) => register(place)?,
            None => RemoteAddr::default(),
        },
    })
}

/// Count and page size; start, end and offset in pages of each; then as many names, each ended by a
/// NUL.
fn mapped_files(note: &[u8]) -> Vec<MappedFile> {
    let (Some(count), Some(unit)) = (word(note, 0), word(note, 8)) else {
        return Vec::new();
    };
    let Some(names) = count
        .checked_mul(24)
        .and_then(|bytes| bytes.checked_add(16))
        .and_then(|at| note.get(usize::try_from(at).ok()?..))
    else {
        return Vec::new();
    };
    // The entries are inside the note, so there are at most as many as it has bytes.
    let mut mapped: Vec<_> = names
        .split(|&byte| byte == 0)
        .take(count as usize)
        .enumerate()
        .filter_map(|(i, name)| {
            let at = 16 + 24 * i;
            let [start, end] = [word(note, at)?, word(note, at + 8)?].map(RemoteAddr::new);
            Some(MappedFile {
                range: AddrRange::new(start, end).filter(|range| !range.is_empty())?,
                offset: word(note, at + 16)?.checked_mul(unit)?,
                path: String::from_utf8_lossy(name).into_owned(),
            })
        })
        .collect();
    mapped.sort_by_key(|m| m.range.start());
    mapped.dedup_by(|next, before| next.range.start() < before.range.end());
    mapped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(entries: &[[u64; 3]], names: &[&str]) -> Vec<u8> {
        let mut words = vec![entries.len() as u64, 4096];
        words.extend(entries.iter().flatten());
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        for name in names {
            bytes.extend(name.bytes());
            bytes.push(0);
        }
        bytes
    }

    #[test]
    fn mapped_files_are_read_and_hostile_notes_give_what_is_sound() {
        let whole = note(
            &[[0x5000, 0x7000, 3], [0x1000, 0x2000, 0]],
            &["/usr/lib/libc.so.6", "/usr/bin/python3 (deleted)"],
        );
        let found = mapped_files(&whole);
        let paths: Vec<_> = found.iter().map(|m| (&*m.path, m.offset)).collect();
        let expected = [
            ("/usr/bin/python3 (deleted)", 0),
            ("/usr/lib/libc.so.6", 3 * 4096),
        ];
        assert_eq!(paths, expected);
        for cut in 0..whole.len() {
            assert!(mapped_files(&whole[..cut]).len() <= 2);
        }
        let mut lying = whole;
        lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(mapped_files(&lying), []);
    }

    #[test]
    fn registers_come_from_their_places() {
        let mut status = vec![0; 336];
        status[STATUS_PID..][..4].copy_from_slice(&77i32.to_le_bytes());
        for n in 0..27u64 {
            let at = STATUS_REGISTERS + 8 * n as usize;
            status[at..at + 8].copy_from_slice(&(1000 + n).to_le_bytes());
        }
        let expected = Thread {
            tid: 77,
            stack_pointer: RemoteAddr::new(1019),
            program_counter: RemoteAddr::new(1016),
            thread_pointer: RemoteAddr::new(1021),
        };
        assert_eq!(thread(Machine::X86_64, &status), Some(expected));
        assert_eq!(thread(Machine::X86_64, &status[..200]), None);
    }

    #[test]
    fn a_thread_pointer_of_aarch64_comes_in_a_note_behind_its_thread() {
        let status = |tid: i32| {
            let mut status = vec![0; 392];
            status[STATUS_PID..][..4].copy_from_slice(&tid.to_le_bytes());
            for n in 0..34u64 {
                let at = STATUS_REGISTERS + 8 * n as usize;
                status[at..at + 8].copy_from_slice(&(1000 + n).to_le_bytes());
            }
            status
        };
        let mut notes = Notes::of(Machine::Aarch64);
        // It belongs to no thread.
        notes.take(NoteType(NT_ARM_TLS), b"LINUX", &5u64.to_le_bytes());
        for tid in [77, 78] {
            notes.take(NoteType(NT_PRSTATUS), b"CORE", &status(tid));
            let pointer = 0x7f00_0000 + tid as u64;
            // Newer kernels append TPIDR2_EL0.
            let words = [pointer.to_le_bytes(), [0xff; 8]].concat();
            notes.take(NoteType(NT_ARM_TLS), b"LINUX", &words);
        }
        let expected = |tid: u32| Thread {
            tid,
            stack_pointer: RemoteAddr::new(1031),
            program_counter: RemoteAddr::new(1032),
            thread_pointer: RemoteAddr::new(0x7f00_0000 + u64::from(tid)),
        };
        assert_eq!(notes.threads, [expected(77), expected(78)]);
    }

    #[test]
    fn pages_are_as_large_as_the_kernel_says() {
        let mut notes = Notes::of(Machine::Aarch64);
        assert_eq!(notes.page_size().bytes(), 4096);
        for (said, expected) in [(16384u64, 16384), (65536, 65536), (5, 4096), (8192, 4096)] {
            notes.auxv = [AT_PAGESZ, said, 0, 0].map(u64::to_le_bytes).concat();
            assert_eq!(notes.page_size().bytes(), expected, "{said}");
        }
    }
}
