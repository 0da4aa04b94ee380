//! What the notes of a core hold: threads, names, the auxiliary vector, mapped files.
//!
//! Layouts of x86-64: `struct elf_prstatus`, `struct elf_prpsinfo` (`include/linux/elfcore.h`),
//! `user_regs_struct` (`arch/x86/include/asm/user_64.h`), `NT_FILE` (`fill_files_note` in
//! `fs/binfmt_elf.c`).

use object::elf::NoteType;
use profiler_common::PID_BITS;
use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::threads::Thread;

use crate::auxv::{AT_PHDR, auxv_value};

const NT_PRSTATUS: u32 = 1;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_FILE: u32 = 0x4649_4c45;
/// `pr_pid` of `elf_prstatus`.
const STATUS_PID: usize = 32;
/// `pr_reg` of `elf_prstatus`.
const STATUS_REGISTERS: usize = 112;
/// Places of `rip`, `rsp` and `fs_base` in `user_regs_struct`.
const RIP: usize = 16;
const RSP: usize = 19;
const FS_BASE: usize = 21;
/// `pr_pid`, `pr_fname` and `pr_psargs` of `elf_prpsinfo`.
const INFO_PID: usize = 24;
const INFO_NAME: (usize, usize) = (40, 16);
const INFO_ARGUMENTS: (usize, usize) = (56, 80);
/// Threads kept at most: as many as there are numbers.
const MAX_THREADS: usize = 1 << PID_BITS;

/// A part of a file that was mapped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct MappedFile {
    pub(super) range: AddrRange,
    /// Offset into the file, in bytes.
    pub(super) offset: u64,
    /// Its path as the kernel wrote it.
    pub(super) path: String,
}

/// What all notes hold.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) pid: i32,
    pub(super) comm: String,
    /// The first 80 bytes of the command line, as one word: a core does not show where words end.
    pub(super) cmdline: Vec<String>,
    pub(super) threads: Vec<Thread>,
    pub(super) auxv: Vec<u8>,
    /// Ascending.
    pub(super) mapped: Vec<MappedFile>,
}

impl Notes {
    /// Takes in one note; other owners' and unknown ones are passed over.
    pub(super) fn take(&mut self, kind: NoteType, owner: &[u8], content: &[u8]) {
        if owner != b"CORE" {
            return;
        }
        match kind.0 {
            NT_PRSTATUS if self.threads.len() < MAX_THREADS => {
                self.threads.extend(thread(content));
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

    /// The path of the program, as it was mapped.
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

/// A text that ends at a NUL or with its field.
fn text(bytes: &[u8], (at, len): (usize, usize)) -> String {
    let field = bytes.get(at..at + len).unwrap_or_default();
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(len);
    let text = String::from_utf8_lossy(field.get(..end).unwrap_or_default());
    text.trim_end().to_owned()
}

fn thread(status: &[u8]) -> Option<Thread> {
    let register = |n: usize| word(status, STATUS_REGISTERS + 8 * n).map(RemoteAddr::new);
    Some(Thread {
        tid: int(status, STATUS_PID)? as u32,
        stack_pointer: register(RSP)?,
        program_counter: register(RIP)?,
        thread_pointer: register(FS_BASE)?,
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
    // The entries are inside the note, so there are no more of them than it has bytes.
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
        assert_eq!(thread(&status), Some(expected));
        assert_eq!(thread(&status[..200]), None);
    }
}
