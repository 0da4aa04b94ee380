//! A process as stored in an ELF core file: one written by the kernel (`fs/binfmt_elf.c`,
//! `elf_core_dump`) or by gdb's `gcore`.
//!
//! Only headers, notes and requested ranges are read; a core may be larger than memory. Memory that
//! a core leaves out because of a filter (`/proc/PID/coredump_filter`) is read from the mapped
//! files, if their first page equals the one in the core.

mod error;
mod files;
mod memory;
mod notes;
mod pages;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use object::LittleEndian;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr, USER_END};
use profiler_core::allocator::UnknownEnvironment;
use profiler_core::machine::Machine;
use profiler_core::residency::{Mapping, MappingKind};
use profiler_core::sample;
use profiler_core::threads::Thread;

use super::elf::{FilePath, Source, open_regular};
use super::environment::StartEnvironment;
use super::link_map;
use super::process::{Files, Process};
use error::check_kind;
use files::MappedFiles;
use notes::Notes;

pub use error::CoreError;
pub use memory::CoreMemory;
pub use pages::CorePages;

/// Headers and notes of more bytes than this are not read. Notes of a thousand threads take some
/// 10 MiB, headers of a million mappings 56 MiB.
const MAX_HEADER_BYTES: u64 = 192 << 20;
/// More bytes than this are not read of the parts of one file whose content the core has.
const MAX_FILE_PARTS_BYTES: u64 = 128 << 20;

/// A part of the address space in the core.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
struct Segment {
    /// Its addresses, to the page.
    range: AddrRange,
    /// The offset of its bytes in the file.
    offset: u64,
    /// The number of its bytes that the core should contain.
    planned: u64,
    /// Bytes that the file has.
    filled: u64,
    read: bool,
    write: bool,
    execute: bool,
}

/// A core file, opened.
#[derive(Debug)]
pub struct CoreFile {
    file: Arc<File>,
    taken_at_ns: u64,
    segments: Vec<Segment>,
    mappings: Vec<Mapping>,
    notes: Notes,
    mapped_files: MappedFiles,
    missing_bytes: u64,
    files: Files,
}

impl CoreFile {
    /// Opens the core at `path`. `exe` is the program that ran, in case it is no longer at its old
    /// path.
    ///
    /// # Errors
    /// When it cannot be read, is not a core, or is from an unsupported kind of machine.
    pub fn open(path: &Path, exe: Option<&Path>) -> Result<Self, CoreError> {
        let failed = |error| CoreError::Io {
            path: path.to_owned(),
            error,
        };
        let file = open_regular(path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => CoreError::not_a_file(path),
            _ => failed(error),
        })?;
        let about = file.metadata().map_err(failed)?;
        let machine = check_kind(path, &file)?;
        let taken = about.modified().ok();
        let taken = taken.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let (segments, notes) = headers(path, &file, about.len(), machine)?;
        let missing_bytes = segments.iter().map(|s| s.planned - s.filled).sum();
        let mappings = pages::mappings(&segments, &notes);
        let has_memory = segments.iter().any(|s| s.write && s.filled > 0);
        if !has_memory {
            return Err(CoreError::NoMemory {
                path: path.to_owned(),
            });
        }
        let file = Arc::new(file);
        let mapped_files = MappedFiles::find(&file, &segments, &notes, exe)?;
        Ok(Self {
            file,
            taken_at_ns: taken.map_or(0, |time| time.as_nanos() as u64),
            segments,
            mappings,
            notes,
            mapped_files,
            missing_bytes,
            files: Files::default(),
        })
    }

    /// When the file was written, in ns since 1970.
    pub fn taken_at_ns(&self) -> u64 {
        self.taken_at_ns
    }

    /// The path under which its program was mapped.
    pub fn program(&self) -> Option<&str> {
        self.notes.program()
    }

    /// Its threads.
    pub fn threads(&self) -> &[Thread] {
        &self.notes.threads
    }

    /// Its memory, by address.
    pub fn memory(&self) -> CoreMemory<'_> {
        CoreMemory::new(&self.file, &self.segments, &self.mapped_files)
    }

    /// The state of its pages, as far as a core shows it.
    ///
    /// # Errors
    /// When the file is no longer readable.
    pub fn pages(&self) -> io::Result<CorePages> {
        pages::read(&self.file, &self.segments, &self.mappings, &self.notes)
    }

    /// Bytes that the core was to have and has not: the file is cut off.
    pub fn missing_bytes(&self) -> u64 {
        self.missing_bytes
    }

    /// Mapped files whose content could not be had: not there, or not the ones that were mapped.
    pub fn missing_files(&self) -> &[String] {
        self.mapped_files.missing()
    }
}

impl Process for CoreFile {
    fn mappings(&self) -> io::Result<Vec<Mapping>> {
        Ok(self.mappings.clone())
    }

    fn auxv(&self) -> io::Result<Vec<u8>> {
        Ok(self.notes.auxv.clone())
    }

    fn load_order(&self) -> Vec<RemoteAddr> {
        let auxv = self.auxv().unwrap_or_default();
        link_map::chain(&auxv, &self.memory()).unwrap_or_default()
    }

    fn names(&self) -> sample::Target {
        sample::Target {
            pid: self.notes.pid,
            comm: self.notes.comm.clone(),
            cmdline: self.notes.cmdline.clone(),
            threads: self.notes.threads.len() as u32,
            ..sample::Target::default()
        }
    }

    fn environment(&self) -> Result<StartEnvironment, UnknownEnvironment> {
        Err(UnknownEnvironment::InCore)
    }

    fn file_of(&self, mapping: &Mapping) -> FilePath {
        let path = match &mapping.kind {
            MappingKind::File(mapped) => self.mapped_files.path_of(mapped),
            _ => None,
        };
        path.unwrap_or_default().into()
    }

    fn files(&self) -> &Files {
        &self.files
    }

    fn is_program(&self, mapped: &str) -> bool {
        self.notes.program() == Some(mapped)
    }

    fn read_only_memory(&self, mapped: &str) -> Vec<Vec<u8>> {
        let kind = MappingKind::File(mapped.into());
        let is_wanted = |m: &&Mapping| m.kind == kind && !m.write;
        let memory = self.memory();
        let parts = self.mappings.iter().filter(is_wanted);
        let mut rest = MAX_FILE_PARTS_BYTES;
        let mut read = |m: &Mapping| {
            let bytes = memory.filled(m.range, rest)?;
            rest -= bytes.len() as u64;
            Some(bytes)
        };
        parts.filter_map(&mut read).collect()
    }
}

/// Reads the program headers and the notes.
fn headers(
    path: &Path,
    file: &File,
    len: u64,
    machine: Machine,
) -> Result<(Vec<Segment>, Notes), CoreError> {
    let damaged = |what| CoreError::Damaged {
        path: path.to_owned(),
        what,
    };
    let io = |error| CoreError::Io {
        path: path.to_owned(),
        error,
    };
    let source = Source::of(file.try_clone().map_err(io)?, MAX_HEADER_BYTES).map_err(io)?;
    let cache = &source;
    let damaged = |what| match source.is_exceeded() {
        true => CoreError::TooLarge {
            path: path.to_owned(),
            what,
        },
        false => damaged(what),
    };
    let header = FileHeader64::<LittleEndian>::parse(cache).map_err(|_| damaged("header"))?;
    let headers = header
        .program_headers(LittleEndian, cache)
        .map_err(|_| damaged("program headers"))?;
    let loads = headers
        .iter()
        .filter(|h| h.p_type(LittleEndian) == elf::PT_LOAD);
    let mut segments: Vec<_> = loads.filter_map(|header| segment(header, len)).collect();
    segments.sort_by_key(|segment| segment.range.start());
    segments.dedup_by(|next, before| next.range.start() < before.range.end());
    // No byte of the file belongs to two segments, so that a small file cannot represent a large
    // memory.
    let mut rest = len;
    for segment in &mut segments {
        segment.filled = segment.filled.min(rest / PAGE_SIZE * PAGE_SIZE);
        rest -= segment.filled;
    }

    let of_notes = |h: &&ProgramHeader64<_>| h.p_type(LittleEndian) == elf::PT_NOTE;
    let of_notes: Vec<_> = headers.iter().filter(of_notes).collect();
    if overlap(&of_notes) {
        return Err(damaged("notes"));
    }
    let mut notes = Notes::of(machine);
    for header in of_notes {
        let found = header.notes(LittleEndian, cache);
        let Ok(Some(mut found)) = found else {
            return Err(damaged("notes"));
        };
        while let Some(note) = found.next().map_err(|_| damaged("notes"))? {
            notes.take(note.n_type(LittleEndian), note.name(), note.desc());
        }
    }
    if notes.threads.is_empty() {
        return Err(damaged("notes"));
    }
    Ok((segments, notes))
}

/// Whether any two of them share bytes of the file: then the work of parsing each would not be
/// bounded by the size of the file.
fn overlap(headers: &[&ProgramHeader64<LittleEndian>]) -> bool {
    let mut ranges: Vec<_> = headers.iter().map(|h| h.file_range(LittleEndian)).collect();
    ranges.sort_unstable();
    let mut pairs = ranges.windows(2);
    pairs.any(|pair| pair[0].0.saturating_add(pair[0].1) > pair[1].0)
}

/// A segment in user addresses, cut to pages and to the file.
fn segment(header: &ProgramHeader64<LittleEndian>, len: u64) -> Option<Segment> {
    let start = RemoteAddr::new(header.p_vaddr(LittleEndian));
    let memory = header
        .p_memsz(LittleEndian)
        .checked_next_multiple_of(PAGE_SIZE)?;
    let range = AddrRange::with_len(start, memory).filter(|range| !range.is_empty())?;
    if !start.is_aligned(PAGE_SIZE) || range.end() > USER_END {
        return None;
    }
    let offset = header.p_offset(LittleEndian);
    let planned = header.p_filesz(LittleEndian).min(memory);
    // A page that is cut off by the end of the file is lost.
    let there = len.saturating_sub(offset) / PAGE_SIZE * PAGE_SIZE;
    let flags = header.p_flags(LittleEndian);
    let has = |flag| (flags & flag).0 != 0;
    Some(Segment {
        range,
        offset,
        planned,
        filled: planned.min(there) / PAGE_SIZE * PAGE_SIZE,
        read: has(elf::PF_R),
        write: has(elf::PF_W),
        execute: has(elf::PF_X),
    })
}
