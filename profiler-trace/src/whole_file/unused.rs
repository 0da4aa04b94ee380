//! Objects of other versions of fragscope that nobody loads any more.
//!
//! A program that was recorded has the object's path in its environment and passes that on. So one is needed
//! as long as a process that can be seen from here has the path in the environment that it was started with, or
//! has the file mapped. One that was used within the last hour is kept as well: its program may be about to
//! start. A process that took the path out of its environment, or that runs where this host's processes are not
//! seen, is not counted: what it executes later starts with a line of the loader's that the object is
//! missing, and runs. The same holds where so many are needed that there would be more than [`MOST`].

use std::fs::{self, DirEntry, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::unistd::geteuid;

/// One that was used within this time is kept.
const RECENT: Duration = Duration::from_secs(3600);
/// So many are kept beside the one that is used, the latest.
const MOST: usize = 16;
/// As much of a process's environment is searched: the kernel's own limit is a quarter of that of the stack.
const ENVIRONMENT_BYTES: u64 = 6 << 20;

/// Removes the objects in this folder whose names begin so, but for the one that is `used` now, unless they
/// are needed. What cannot be removed is in nobody's way.
pub(super) fn remove_unused(folder: &Path, begin: &str, used: &Path) -> io::Result<()> {
    let mut others: Vec<(SystemTime, DirEntry)> = fs::read_dir(folder)?
        .flatten()
        .filter(|entry| is_object(entry, begin) && entry.path() != used)
        .filter_map(|entry| Some((own(&entry)?.modified().ok()?, entry)))
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    others.sort_by_key(|(modified, _)| std::cmp::Reverse(*modified));
    let names: Vec<_> = others.iter().map(|(_, entry)| entry.path()).collect();
    let mut needed: Vec<bool> = others.iter().map(|(at, _)| is_recent(*at)).collect();
    for process in fs::read_dir("/proc")?.flatten() {
        if needed.iter().all(|needed| *needed) {
            break;
        }
        let holds = what_it_holds(&process.path());
        for (needed, path) in needed.iter_mut().zip(&names) {
            *needed |= path.to_str().is_none_or(|path| holds.contains(path));
        }
    }
    let mut kept = 0;
    for (path, needed) in names.iter().zip(needed) {
        kept += usize::from(needed);
        if !needed || kept > MOST {
            // Another fragscope may have done it.
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

fn is_object(entry: &DirEntry, begin: &str) -> bool {
    let name = entry.file_name();
    name.to_str()
        .is_some_and(|name| name.starts_with(begin) && name.ends_with(".so"))
}

/// What is known of a file of our own.
fn own(entry: &DirEntry) -> Option<Metadata> {
    let about = entry.metadata().ok()?;
    (about.is_file() && about.uid() == geteuid().as_raw()).then_some(about)
}

/// A time to come is that of a clock that was set.
fn is_recent(at: SystemTime) -> bool {
    at.elapsed().is_ok_and(|age| age < RECENT)
}

/// The environment of a process and its mappings, as far as they can be read.
fn what_it_holds(process: &Path) -> String {
    let mut bytes = Vec::new();
    for (file, most) in [("environ", ENVIRONMENT_BYTES), ("maps", u64::MAX)] {
        let opened = fs::File::open(process.join(file));
        // One that has ended holds nothing.
        let _ = opened.and_then(|file| file.take(most).read_to_end(&mut bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Puts an object there that was used so long ago.
    fn put(folder: &Path, name: &str, age: Duration) -> std::path::PathBuf {
        let path = folder.join(name);
        fs::write(&path, "an object").expect("ours");
        let file = fs::File::options().write(true).open(&path).expect("ours");
        file.set_modified(SystemTime::now() - age).expect("ours");
        path
    }

    #[test]
    fn an_object_is_removed_once_no_process_can_load_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let old = RECENT * 2;
        let used = put(folder, "it-3.so", old);
        let named = put(folder, "it-1.so", old);
        let unused = put(folder, "it-2.so", old);
        let recent = put(folder, "it-4.so", RECENT / 2);
        let other = put(folder, "another-1.so", old);
        let mut process = Command::new("sleep")
            .arg("1000")
            .env("FRAGSCOPE_TEST", &named)
            .spawn()
            .expect("it starts");
        remove_unused(folder, "it-", &used).expect("listed");
        let is_there = [&used, &named, &unused, &recent, &other].map(|path| path.exists());
        assert_eq!(is_there, [true, true, false, true, true]);
        process.kill().expect("ours");
        process.wait().expect("ours");
        remove_unused(folder, "it-", &used).expect("listed");
        assert!(!named.exists());
    }

    #[test]
    fn there_are_never_more_than_a_few() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let used = put(folder, "it-used.so", RECENT * 2);
        for number in 0..2 * MOST as u64 {
            put(
                folder,
                &format!("it-{number}.so"),
                Duration::from_secs(number),
            );
        }
        remove_unused(folder, "it-", &used).expect("listed");
        assert_eq!(fs::read_dir(folder).expect("listed").count(), MOST + 1);
        assert!(folder.join("it-0.so").exists() && used.exists());
    }
}
