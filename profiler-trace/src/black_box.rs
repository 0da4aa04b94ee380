//! The black box: the last walks of each process that is watched, in a folder that holds a bounded number of
//! files and bytes.
//!
//! A file is a saved session, and always whole: with each walk it is written anew. Those of processes that have
//! ended go first when there is no more room, and last those of processes that were ended for want of memory; of
//! each kind the oldest. A file says itself that it is a black box's, and no other is removed or replaced.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::sys::stat::FileStat;
use profiler_core::sample::{Sample, Target};
use profiler_core::units;

use crate::snapshot::{Fate, KeptWalks, Observation};
use crate::whole_file::{OwnFolder, WriteError};

/// Walks of a process that are kept.
const WALKS: usize = 4;
/// A file takes at most this part of all, one in so many, as long as it has more walks than the last.
const PART: u64 = 8;
/// The ending of their names.
const ENDING: &str = ".fragsnap";
/// Names in the folder that are looked at.
const MAX_NAMES: usize = 65_536;
/// Processes of one name and number that are distinguished, after one another.
const MAX_SAME: u32 = 100;

/// How much is kept.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct BlackBoxLimits {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files.
    pub files: usize,
}

/// Why something is not in the black box.
#[derive(Debug, thiserror::Error)]
pub enum BlackBoxError {
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// One walk alone is more than may be kept.
    #[error("a walk of process {pid} takes {}, and all of the black box may take {}",
        units::bytes(*bytes), units::bytes(*limit))]
    TooLarge {
        /// The process.
        pid: i32,
        /// What it would take.
        bytes: u64,
        /// The limit of all files.
        limit: u64,
    },
    /// All names for the process are taken by what is not the black box's.
    #[error("{MAX_SAME} files are named after process {pid} already")]
    NoName {
        /// The process.
        pid: i32,
    },
}

/// The folder and what is known of its files.
#[derive(Debug)]
pub struct BlackBox {
    folder: OwnFolder,
    limits: BlackBoxLimits,
    /// The files that are the black box's, by their names.
    files: BTreeMap<String, Kept>,
    /// Of the file that was written last.
    order: u64,
}

#[derive(Debug)]
struct Kept {
    bytes: u64,
    fate: Fate,
    /// The least was written first.
    order: u64,
}

impl BlackBox {
    /// Opens the folder, or makes it, and finds what an earlier fragscope has left there.
    ///
    /// # Errors
    /// When it cannot be had, others can write to it, or another fragscope writes to it.
    pub fn open(path: &Path, limits: BlackBoxLimits) -> Result<Self, WriteError> {
        let folder = OwnFolder::open(path)?;
        let names = folder.names(MAX_NAMES).map_err(|source| WriteError::Io {
            path: path.to_owned(),
            source,
        })?;
        let mut found: Vec<_> = names
            .into_iter()
            .filter(|name| name.ends_with(ENDING))
            .filter_map(|name| {
                let (fate, _, about) = look(&folder, &name)?;
                Some(((about.st_mtime, about.st_mtime_nsec), name, fate, about))
            })
            .collect();
        found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let mut files = BTreeMap::new();
        for (order, (_, name, fate, about)) in (1..).zip(found) {
            let bytes = about.st_size.cast_unsigned();
            files.insert(name, Kept { bytes, fate, order });
        }
        let order = files.len() as u64;
        let mut opened = Self {
            folder,
            limits,
            files,
            order,
        };
        opened.make_room("", 0);
        Ok(opened)
    }

    /// The name of the file for a process: that which it has, or one that is free. `program` is made a harmless
    /// part of it.
    ///
    /// # Errors
    /// When all names are taken.
    pub fn name(&self, program: &str, target: &Target) -> Result<String, BlackBoxError> {
        let pid = target.pid;
        let base = format!("{}-{pid}", harmless(program));
        for number in 1..=MAX_SAME {
            let name = match number {
                1 => format!("{base}{ENDING}"),
                number => format!("{base}-{number}{ENDING}"),
            };
            if !self.folder.has(&name) {
                return Ok(name);
            }
            let last = self.read(&name).last_sample();
            if last.is_some_and(|last| last.target.may_be(target)) {
                return Ok(name);
            }
        }
        Err(BlackBoxError::NoName { pid })
    }

    /// Where the file of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }

    /// Files, and their bytes.
    pub fn size(&self) -> (usize, u64) {
        let bytes = self.files.values().map(|kept| kept.bytes).sum();
        (self.files.len(), bytes)
    }

    /// Adds a walk of a process and what was observed beside it; the oldest of it go.
    ///
    /// # Errors
    /// When it cannot be written: what was there before is there still.
    pub fn walk(
        &mut self,
        name: &str,
        sample: &Sample,
        observation: &Observation,
    ) -> Result<(), BlackBoxError> {
        let mut kept = self.read(name);
        let added = kept.walk(sample, observation, WALKS, self.limits.bytes / PART);
        added.map_err(|error| self.failed(name, error))?;
        self.write(name, &kept, Fate::Running, sample.target.pid)
    }

    /// Adds how a process ended; nothing where none of its walks is kept.
    ///
    /// # Errors
    /// As [`Self::walk`].
    pub fn end(
        &mut self,
        name: &str,
        pid: i32,
        observation: &Observation,
        fate: Fate,
    ) -> Result<(), BlackBoxError> {
        let mut kept = self.read(name);
        if kept.is_empty() {
            return Ok(());
        }
        let added = kept.observe(observation);
        added.map_err(|error| self.failed(name, error))?;
        self.write(name, &kept, fate, pid)
    }

    /// What is kept of a process; nothing where the file is not the black box's, or cannot be read.
    fn read(&self, name: &str) -> KeptWalks {
        let file = look(&self.folder, name).map(|(_, file, _)| file);
        let read = file.map(|file| KeptWalks::read(file.take(self.limits.bytes)));
        read.and_then(Result::ok).unwrap_or_default()
    }

    fn write(
        &mut self,
        name: &str,
        kept: &KeptWalks,
        fate: Fate,
        pid: i32,
    ) -> Result<(), BlackBoxError> {
        let file = kept.file(fate).map_err(|error| self.failed(name, error))?;
        let bytes = file.len() as u64;
        if bytes > self.limits.bytes {
            let limit = self.limits.bytes;
            return Err(BlackBoxError::TooLarge { pid, bytes, limit });
        }
        if self.folder.has(name) && look(&self.folder, name).is_none() {
            // Somebody has put something else there meanwhile.
            return Err(BlackBoxError::NoName { pid });
        }
        self.make_room(name, bytes);
        self.folder.write(name, &file)?;
        self.order += 1;
        let order = self.order;
        let kept = Kept { bytes, fate, order };
        self.files.insert(name.to_owned(), kept);
        Ok(())
    }

    /// Removes what has to go before a file of so many bytes is written.
    fn make_room(&mut self, name: &str, bytes: u64) {
        let own = usize::from(!name.is_empty());
        loop {
            let others = self.files.iter().filter(|(of, _)| *of != name);
            let total: u64 = others.clone().map(|(_, kept)| kept.bytes).sum();
            let is_too_much = total.saturating_add(bytes) > self.limits.bytes
                || others.clone().count() + own > self.limits.files;
            let next = others.min_by_key(|(_, kept)| (kept.fate, kept.order));
            let Some(next) = next.filter(|_| is_too_much) else {
                return;
            };
            let next = next.0.clone();
            // What cannot be removed, or is another's now, is not counted any more.
            if let Some((_, file, _)) = look(&self.folder, &next) {
                let _ = self.folder.remove(&next, &file);
            }
            self.files.remove(&next);
        }
    }

    fn failed(&self, name: &str, source: io::Error) -> WriteError {
        WriteError::Io {
            path: self.folder.path(name),
            source,
        }
    }
}

/// A file of the black box's: what became of its process, and it, from its beginning.
fn look(folder: &OwnFolder, name: &str) -> Option<(Fate, File, FileStat)> {
    let (file, about) = folder.open_file(name)?;
    let fate = Fate::of_file(&file)?;
    io::Seek::rewind(&mut &file).ok()?;
    Some((fate, file, about))
}

/// A part of a file's name, of a program's.
fn harmless(program: &str) -> String {
    let program = program.strip_suffix(".py").unwrap_or(program);
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let name: String = program.chars().filter(is_plain).take(64).collect();
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "process" } else { name }.to_owned()
}
