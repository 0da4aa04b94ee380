//! The black box: the last walks of each watched process, in a directory with a bounded number of
//! files and bytes.
//!
//! Each file is a saved session and always complete: it is rewritten with each walk. When space
//! runs out, files of processes that have ended go first, and files of processes that were killed
//! for lack of memory go last; within each kind the oldest goes first. A file is marked as
//! belonging to a black box, and no other file is removed or replaced. A file that cannot be read
//! stays until it has to go, and its successor gets another name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::sys::stat::FileStat;
use profiler_core::sample::{Sample, Target};
use profiler_core::text::visible;
use profiler_core::units;

use crate::snapshot::{Fate, KeptWalks, Observation};
use crate::whole_file::{Found, OwnFolder, WriteError};

/// Walks of a process that are kept.
const WALKS: usize = 4;
/// A file with more than one walk takes at most 1/N of the allowed bytes.
const PART: u64 = 8;
/// The ending of their names.
const ENDING: &str = ".fragsnap";
/// The most names in the directory that are looked at.
const MAX_NAMES: usize = 65_536;
/// Processes of one name and number that are distinguished, after one another.
const MAX_SAME: u32 = 100;

/// How much is kept.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct BlackBoxLimits {
    /// The most bytes of all files.
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
        /// The size that it would have.
        bytes: u64,
        /// The limit of all files.
        limit: u64,
    },
    /// All names for the process are taken by files that are not the black box's.
    #[error("{MAX_SAME} files are named after process {pid} already")]
    NoName {
        /// The process.
        pid: i32,
    },
    /// The file of that name is not the black box's, or not any more.
    #[error("{} is not a file of the black box", visible(path.display()))]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// The content of a file cannot be read, so it is not replaced.
    #[error("{} cannot be read: {source}", visible(path.display()))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Files that must make room for it cannot be removed.
    #[error("there is no room for {} of process {pid}: {why}", units::bytes(*bytes))]
    NoRoom {
        /// The process.
        pid: i32,
        /// The size that it would have.
        bytes: u64,
        /// What cannot be removed.
        why: String,
    },
}

impl BlackBoxError {
    /// Whether only the name is the problem: the file's content stays, and another name may work.
    pub fn is_of_name(&self) -> bool {
        matches!(self, Self::NotOurs { .. } | Self::Unreadable { .. })
    }
}

/// The directory and what is known of its files.
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
    /// Why it cannot be read.
    unreadable: Option<String>,
    /// Why it is still there although it had to be removed.
    stuck: Option<String>,
}

impl Kept {
    fn new(bytes: u64, fate: Fate, order: u64) -> Self {
        Self {
            bytes,
            fate,
            order,
            unreadable: None,
            stuck: None,
        }
    }
}

/// A file that may be the black box's.
#[derive(Debug)]
enum Looked {
    /// There is nothing of this name.
    Nothing,
    /// Something else has this name.
    Foreign,
    /// It is one, with the fate of its process and the file from its beginning.
    Ours(Fate, File, FileStat),
}

impl BlackBox {
    /// Opens or creates the directory, and finds what an earlier fragscope has left there.
    ///
    /// # Errors
    /// If it cannot be opened or created, others can write to it, or another fragscope writes to
    /// it.
    pub fn open(path: &Path, limits: BlackBoxLimits) -> Result<Self, WriteError> {
        let folder = OwnFolder::open(path)?;
        let names = folder.names(MAX_NAMES).map_err(|source| WriteError::Io {
            path: path.to_owned(),
            source,
        })?;
        let mut found = Vec::new();
        for name in names.into_iter().filter(|name| name.ends_with(ENDING)) {
            let (moment, kept) = match look(&folder, &name) {
                Ok(Looked::Nothing | Looked::Foreign) => continue,
                Ok(Looked::Ours(fate, _, about)) => (
                    (about.st_mtime, about.st_mtime_nsec),
                    Kept::new(about.st_size.cast_unsigned(), fate, 0),
                ),
                Err(error) => {
                    let kept = Kept {
                        unreadable: Some(error.to_string()),
                        ..Kept::new(folder.bytes(&name), Fate::default(), 0)
                    };
                    ((0, 0), kept)
                }
            };
            found.push((moment, name, kept));
        }
        found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let mut files = BTreeMap::new();
        for (order, (_, name, kept)) in (1..).zip(found) {
            files.insert(name, Kept { order, ..kept });
        }
        let order = files.len() as u64;
        let mut opened = Self {
            folder,
            limits,
            files,
            order,
        };
        // What cannot go is counted, and is in the notice.
        opened.make_room("", 0);
        Ok(opened)
    }

    /// The name of the file for a process: the one that it has, or a free one. A harmless form of
    /// `program` becomes part of it.
    ///
    /// # Errors
    /// If all names are taken.
    pub fn name(&mut self, program: &str, target: &Target) -> Result<String, BlackBoxError> {
        let pid = target.pid;
        let base = format!("{}-{pid}", harmless(program));
        for number in 1..=MAX_SAME {
            let name = match number {
                1 => format!("{base}{ENDING}"),
                number => format!("{base}-{number}{ENDING}"),
            };
            // An unread file may contain walks of this very process, which would be lost.
            let is_free = match self.read(&name) {
                Ok(None) => true,
                Ok(Some(kept)) => {
                    let last = kept.last_sample();
                    last.is_some_and(|last| last.target.may_be(target))
                }
                Err(_) => false,
            };
            if is_free {
                return Ok(name);
            }
        }
        Err(BlackBoxError::NoName { pid })
    }

    /// The path of the file of this name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }

    /// Files, and their bytes.
    pub fn size(&self) -> (usize, u64) {
        let bytes = self.files.values().map(|kept| kept.bytes).sum();
        (self.files.len(), bytes)
    }

    /// What is wrong with kept files, if anything is: they count, and stay as they are.
    pub fn notice(&self) -> Option<String> {
        let unreadable = self.files.iter().filter_map(|(name, kept)| {
            let why = kept.unreadable.as_ref()?;
            Some((name, "cannot be read", why))
        });
        let stuck = self.files.iter().filter_map(|(name, kept)| {
            let why = kept.stuck.as_ref()?;
            Some((name, "cannot be removed", why))
        });
        let mut all = stuck.chain(unreadable);
        let (name, what, why) = all.next()?;
        let others = match all.count() {
            0 => String::new(),
            1 => ", and 1 more file is like that".to_owned(),
            others => format!(", and {others} more files are like that"),
        };
        let path = self.folder.path(name);
        Some(format!(
            "{} {what}: {why}{others}; it counts for the size of the black box",
            visible(path.display())
        ))
    }

    /// Adds a walk of a process and the observations made with it; the process's oldest walks go.
    ///
    /// # Errors
    /// If it cannot be written, or the present file must not be replaced: the previous content is
    /// then still there.
    pub fn walk(
        &mut self,
        name: &str,
        sample: &Sample,
        observation: &Observation,
    ) -> Result<(), BlackBoxError> {
        let mut kept = self.read(name)?.unwrap_or_default();
        let added = kept.walk(sample, observation, WALKS, self.limits.bytes / PART);
        added.map_err(|error| self.failed(name, error))?;
        self.write(name, &kept, Fate::Running, sample.target.pid)
    }

    /// Adds how a process ended; nothing if none of its walks is kept.
    ///
    /// # Errors
    /// As for [`Self::walk`].
    pub fn end(
        &mut self,
        name: &str,
        pid: i32,
        observation: &Observation,
        fate: Fate,
    ) -> Result<(), BlackBoxError> {
        let Some(mut kept) = self.read(name)?.filter(|kept| !kept.is_empty()) else {
            return Ok(());
        };
        let added = kept.observe(observation);
        added.map_err(|error| self.failed(name, error))?;
        self.write(name, &kept, fate, pid)
    }

    /// What is kept of a process; `None` if there is no file.
    fn read(&mut self, name: &str) -> Result<Option<KeptWalks>, BlackBoxError> {
        let path = || self.folder.path(name);
        let read = match look(&self.folder, name) {
            Ok(Looked::Nothing) => return Ok(None),
            Ok(Looked::Foreign) => return Err(BlackBoxError::NotOurs { path: path() }),
            Ok(Looked::Ours(_, file, _)) => KeptWalks::read(file.take(self.limits.bytes)),
            Err(error) => Err(error),
        };
        if let Some(known) = self.files.get_mut(name) {
            known.unreadable = read.as_ref().err().map(ToString::to_string);
        }
        match read {
            Ok(kept) => Ok(Some(kept)),
            Err(source) => Err(BlackBoxError::Unreadable {
                path: self.folder.path(name),
                source,
            }),
        }
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
        // Somebody may have put something else there meanwhile.
        let looked = look(&self.folder, name);
        if let Looked::Foreign = looked.map_err(|error| self.failed(name, error))? {
            let path = self.folder.path(name);
            return Err(BlackBoxError::NotOurs { path });
        }
        if !self.make_room(name, bytes) {
            let why = self.notice().unwrap_or_default();
            return Err(BlackBoxError::NoRoom { pid, bytes, why });
        }
        self.folder.write(name, &file)?;
        self.order += 1;
        let kept = Kept::new(bytes, fate, self.order);
        self.files.insert(name.to_owned(), kept);
        Ok(())
    }

    /// Removes files until one of `bytes` bytes can be written; returns whether there is room.
    fn make_room(&mut self, name: &str, bytes: u64) -> bool {
        // First those that should have been removed earlier: if they alone are too much, nothing
        // else is removed in vain.
        let all = self.files.iter();
        let stuck = all.filter(|(of, kept)| *of != name && kept.stuck.is_some());
        let stuck: Vec<String> = stuck.map(|(of, _)| of.clone()).collect();
        for of in stuck {
            if self.has_room(name, bytes, |_| true) {
                return true;
            }
            self.remove(&of);
        }
        while !self.has_room(name, bytes, |_| true) {
            let others = self.files.iter().filter(|(of, _)| *of != name);
            let removable = others.filter(|(_, kept)| kept.stuck.is_none());
            let next = removable.min_by_key(|(_, kept)| (kept.fate, kept.order));
            let Some(next) = next.map(|(of, _)| of.clone()) else {
                return false;
            };
            if !self.has_room(name, bytes, |kept| kept.stuck.is_some()) {
                return false;
            }
            self.remove(&next);
        }
        true
    }

    /// Whether `bytes` fit besides the other files for which `counted` is true.
    fn has_room(&self, name: &str, bytes: u64, counted: impl Fn(&Kept) -> bool) -> bool {
        let others = self.files.iter();
        let others = others.filter(|(of, kept)| *of != name && counted(kept));
        let total: u64 = others.clone().map(|(_, kept)| kept.bytes).sum();
        let own = usize::from(!name.is_empty());
        total.saturating_add(bytes) <= self.limits.bytes
            && others.count() + own <= self.limits.files
    }

    /// Removes a file. A file that cannot be removed is still counted; one that now belongs to
    /// another is not.
    fn remove(&mut self, name: &str) {
        let removed = match look(&self.folder, name) {
            Ok(Looked::Nothing | Looked::Foreign) => Ok(()),
            Ok(Looked::Ours(_, file, _)) => self.folder.remove(name, &file),
            Err(error) => Err(error),
        };
        match (removed, self.files.get_mut(name)) {
            (Ok(()), _) => drop(self.files.remove(name)),
            (Err(error), Some(kept)) => kept.stuck = Some(error.to_string()),
            (Err(_), None) => {}
        }
    }

    fn failed(&self, name: &str, source: io::Error) -> WriteError {
        WriteError::Io {
            path: self.folder.path(name),
            source,
        }
    }
}

/// Whose a file is.
///
/// # Errors
/// When that cannot be read.
fn look(folder: &OwnFolder, name: &str) -> io::Result<Looked> {
    let (file, about) = match folder.find(name)? {
        Found::Nothing => return Ok(Looked::Nothing),
        Found::Foreign => return Ok(Looked::Foreign),
        Found::Ours(file, about) => (file, about),
    };
    let Some(fate) = Fate::of_file(&file)? else {
        return Ok(Looked::Foreign);
    };
    io::Seek::rewind(&mut &file)?;
    Ok(Looked::Ours(fate, file, about))
}

/// A part of a file's name, of a program's.
fn harmless(program: &str) -> String {
    let program = program.strip_suffix(".py").unwrap_or(program);
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let name: String = program.chars().filter(is_plain).take(64).collect();
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "process" } else { name }.to_owned()
}
