//! Opens untrusted files, and reads memory that changes meanwhile, in a separate process. A file
//! system that does not answer blocks whoever waits for it, and a process with a blocked thread
//! does not end for those who wait for its end, whatever signal it gets.
//!
//! The helper process is forked when it is first needed and serves one request after another. It
//! opens the path and passes the descriptor back. For a file system whose reads cannot be
//! interrupted it passes back a copy in memory instead, as it does for pieces of a process's
//! memory. A helper that does not answer in time is killed, not waited for, and the next request
//! gets another one. When fragscope is gone a helper exits by itself, as soon as the kernel lets
//! it.

mod helpers;
mod life;
mod memory;
mod messages;

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use self::helpers::kill_all;
use self::helpers::{Helper, NoHelper, helpers};
pub(crate) use self::memory::{NotAnswered, PiecesRead, read_memory};
use self::messages::{Answer, Request};
pub(crate) use self::messages::{MAX_PIECES, MAX_READ_BYTES, Piece};
use crate::attributes::file_behind;
use crate::elf::{FILE_TIME, FileLimit, FilePath, Version, file_limit, open_regular};

/// The helpers' process name.
const NAME: &CStr = c"file-reader";
/// At most this many helpers exist at a time, even if most of them do not answer. Each holds a copy
/// of fragscope's memory as it was at the fork.
const MAX_STARTED: usize = 16;
/// At most this many helpers may be reading files that a process or another host serves. Anybody
/// can create such files that never answer; the remaining helpers are for all other files.
const MAX_AT_SERVED: usize = 8;
/// A file system that did not answer is not tried again for this long.
const SILENT_FOR: Duration = Duration::from_secs(60);

/// Why a file was not opened.
#[derive(Debug)]
pub(crate) enum NotOpened {
    /// It cannot be opened, or must not be read.
    Refused(io::Error),
    /// Its file system did not answer within the time.
    Unanswered,
    /// Its file system recently did not answer another request.
    Silent,
    /// This many helpers, the limit, are waiting for file systems or processes that do not answer.
    TooMany(usize),
}

/// How many processes there may be for a file at a time.
fn most_for(path: &FilePath) -> usize {
    match path.is_served() {
        true => MAX_AT_SERVED,
        false => MAX_STARTED,
    }
}

/// A file that was opened.
pub(crate) enum Opened {
    /// Itself.
    Here(File),
    /// By the process, which can be asked for a copy.
    There(Asked),
}

/// A process that has a file open.
pub(crate) struct Asked {
    helper: Helper,
    about: Version,
    deadline: Instant,
    device: Option<u64>,
}

/// Opens the regular file at `path`, or gives why not, before `deadline`.
pub(crate) fn open(path: &FilePath, deadline: Instant) -> Result<Opened, NotOpened> {
    if let Some(device) = path.device()
        && helpers().is_silent(device)
    {
        return Err(NotOpened::Silent);
    }
    // A helper that somebody killed is replaced once.
    for _ in 0..2 {
        let most = most_for(path);
        let mut helper = match Helper::idle_or_new(most) {
            Ok(helper) => helper,
            Err(NoHelper::TooMany) => return Err(NotOpened::TooMany(most)),
            Err(NoHelper::IsOver) => return Err(NotOpened::Unanswered),
            Err(NoHelper::NotStarted) => break,
        };
        match helper.ask(&Request::Open(path.clone()), deadline) {
            Ok(Answer::Open { file }) => {
                helper.put_back();
                return Ok(Opened::Here(file));
            }
            Ok(Answer::Kept { about }) => {
                return Ok(Opened::There(Asked {
                    helper,
                    about,
                    deadline,
                    device: path.device(),
                }));
            }
            Ok(Answer::Refused(why)) => {
                helper.put_back();
                return Err(NotOpened::Refused(why));
            }
            Err(why) if is_late(&why) => {
                helper.give_up(path.device());
                return Err(NotOpened::Unanswered);
            }
            // It ended, or its answer is invalid.
            Ok(Answer::Copied { .. } | Answer::Read { .. }) | Err(_) => helper.give_up(None),
        }
    }
    let opened = open_regular(&path.clone().find());
    opened.map(Opened::Here).map_err(NotOpened::Refused)
}

impl Asked {
    /// The file's version.
    pub(crate) fn about(&self) -> &Version {
        &self.about
    }

    /// A copy in memory of at most `limit` bytes, and its length.
    pub(crate) fn copy(mut self, limit: u64) -> Result<(File, u64), NotOpened> {
        match self.helper.ask(&Request::Copy(limit), self.deadline) {
            Ok(Answer::Copied { file, bytes }) => {
                self.helper.put_back();
                Ok((file, bytes))
            }
            Ok(Answer::Refused(why)) => {
                self.helper.put_back();
                Err(NotOpened::Refused(why))
            }
            Err(why) if is_late(&why) => {
                self.helper.give_up(self.device);
                Err(NotOpened::Unanswered)
            }
            Ok(_) => {
                self.helper.give_up(None);
                let why = io::Error::other("the process that reads files does not make sense");
                Err(NotOpened::Refused(why))
            }
            Err(why) => {
                self.helper.give_up(None);
                Err(NotOpened::Refused(why))
            }
        }
    }

    /// Gives up the file without a copy.
    pub(crate) fn forget(self) {
        self.helper.put_back();
    }
}

/// Whether a time limit was met (`SO_RCVTIMEO`).
fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Opens the regular file at an untrusted path, or a copy of its first bytes ([`file_limit`]) if
/// its file system may block readers.
///
/// # Errors
/// When it cannot be opened, is not a regular file, or its file system does not answer.
pub fn open_foreign(path: &FilePath) -> io::Result<File> {
    let opened = open(path, Instant::now() + FILE_TIME).and_then(|opened| match opened {
        Opened::Here(file) => Ok(file),
        Opened::There(asked) => asked.copy(file_limit()).map(|(file, _)| file),
    });
    opened.map_err(|why| match why {
        NotOpened::Refused(why) => why,
        NotOpened::TooMany(waiting) => {
            io::Error::new(io::ErrorKind::TimedOut, FileLimit::Waiting(waiting))
        }
        NotOpened::Unanswered | NotOpened::Silent => {
            io::Error::new(io::ErrorKind::TimedOut, "its file system does not answer")
        }
    })
}

/// Whether there is a regular file at `path` below the root directory of a process,
/// `/proc/PID/root`, as far as its file system answers.
pub fn is_file_below(root: &Path, path: &Path) -> bool {
    let Ok((device, _)) = file_behind(root) else {
        return false;
    };
    let device = u64::from(libc::major(device)) << 32 | u64::from(libc::minor(device));
    let below = root.join(path.strip_prefix("/").unwrap_or(path));
    let path = FilePath::from(below).on(device).served(true);
    match open(&path, Instant::now() + FILE_TIME) {
        Ok(Opened::Here(_)) => true,
        Ok(Opened::There(asked)) => {
            asked.forget();
            true
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crate::forked::end_forked;
    use crate::privileges::Rights;
    use crate::tree::children_of;

    use super::*;

    #[test]
    fn those_that_are_in_use_when_fragscope_ends_are_no_zombies() {
        let in_use: Vec<Helper> = (0..MAX_STARTED)
            .map(|_| Helper::start(Rights::of_this_thread()).expect("a process"))
            .collect();
        let children = || children_of(std::process::id());
        helpers()
            .started
            .extend(in_use.iter().map(|helper| helper.process.clone()));
        assert_eq!(children().len(), in_use.len());
        assert_eq!(end_forked(Duration::ZERO), []);
        assert_eq!(children(), []);
        let refused = open(
            &std::env::current_exe().expect("its path").into(),
            Instant::now() + FILE_TIME,
        );
        assert!(
            matches!(refused, Err(NotOpened::Unanswered)),
            "it is read here"
        );
    }

    #[test]
    fn files_that_others_answer_for_leave_processes_for_all_other_files() {
        let busy: Vec<Helper> = (0..MAX_AT_SERVED)
            .map(|_| Helper::start(Rights::of_this_thread()).expect("a process"))
            .collect();
        let all = busy.iter().map(|helper| helper.process.clone());
        helpers().started.extend(all);
        let own = std::env::current_exe().expect("its path");
        let open = |is_served| {
            let path = FilePath::linked(PathBuf::from("/none"), own.clone(), None);
            open(&path.served(is_served), Instant::now() + FILE_TIME)
        };
        assert!(matches!(open(true), Err(NotOpened::TooMany(MAX_AT_SERVED))));
        assert!(matches!(open(false), Ok(Opened::Here(_))));
        // Even if there is an idle one.
        assert!(matches!(open(true), Err(NotOpened::TooMany(MAX_AT_SERVED))));
        assert_eq!(end_forked(Duration::ZERO), []);
    }
}
