//! A directory in which only our own user (and root) can put anything. It is for the recorder,
//! which programs load by its path, and for locks that nobody else can hold.
//!
//! Programs keep the recorder's path in their environment as long as they live, and pass it on to
//! programs that start after fragscope has ended. So the file stays where it is, under a name
//! derived from its content, until nobody has its path ([`super::unused`]), and its path must never
//! become somebody else's: each directory on the path belongs to root or to our own user, and
//! nobody else may write to it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::libc;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::sys::time::TimeSpec;
use nix::unistd::geteuid;
use profiler_core::text::visible;

use super::draft::{Draft, clear, temporary};
use super::folder::Folder;
use super::{hash, ownership};

/// Why there is no usable directory.
#[derive(Debug, thiserror::Error)]
#[error(
    "no directory for {what} that only {} can write to: {}",
    if *.root { "root" } else { "you and root" },
    if .tried.is_empty() {
        "none of XDG_RUNTIME_DIR, XDG_CACHE_HOME and HOME is set".to_owned()
    } else {
        .tried.join("; ")
    }
)]
pub struct NoRuntimeDir {
    /// Its purpose.
    what: &'static str,
    /// Whether it must belong to root.
    pub root: bool,
    /// Each place, with what is wrong with it.
    tried: Vec<String>,
}

/// The directory.
#[derive(Clone, Debug)]
pub struct RuntimeDir(PathBuf);

impl RuntimeDir {
    /// Uses the first usable directory, `/run/fragscope` for root, for `what`; it is created if it
    /// does not exist.
    ///
    /// # Errors
    /// What is wrong with each possible place, or why it could not be used there.
    pub fn first<T>(
        what: &'static str,
        mut using: impl FnMut(&Self) -> io::Result<T>,
    ) -> Result<T, NoRuntimeDir> {
        let root = geteuid().is_root();
        let mut tried = Vec::new();
        for place in places(root) {
            match Self::at(&place.path).and_then(|dir| using(&dir)) {
                Ok(used) => return Ok(used),
                Err(why) => tried.push(place.why_not(&why)),
            }
        }
        Err(NoRuntimeDir { what, root, tried })
    }

    /// Opens or creates it at this place.
    fn at(place: &Path) -> io::Result<Self> {
        let refused = |why: String| Err(io::Error::other(why));
        let parent = place.parent().ok_or(io::ErrorKind::InvalidInput)?;
        make_missing(parent)?;
        // Without links on the way, so that each directory can be checked.
        let name = place.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let path = ownership::only_ours(parent)?.join(name);
        match DirBuilder::new().mode(0o755).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = fs::symlink_metadata(&path)?;
        if !found.is_dir() {
            return refused("it is not a directory".to_owned());
        }
        if let Err(how) = ownership::check(found.uid(), found.mode()) {
            return refused(format!("it {how}"));
        }
        if found.uid() == geteuid().as_raw() && found.mode() & 0o555 != 0o555 {
            // Programs that become another user go on reading the recorder.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self(path))
    }

    /// Checks that programs can load what is here.
    fn check_loadable(&self) -> io::Result<()> {
        let mut signs = self.0.as_os_str().as_bytes().iter();
        if let Some(sign) = signs.find(|sign| b" :$".contains(sign)) {
            return Err(io::Error::other(format!(
                "LD_PRELOAD takes no path with '{}'",
                char::from(*sign)
            )));
        }
        match statvfs(&self.0)?.flags().contains(FsFlags::ST_NOEXEC) {
            false => Ok(()),
            true => Err(io::Error::other(
                "programs load nothing from there (it is mounted noexec)",
            )),
        }
    }

    /// The path of a shared object with this content, which is put there if it is missing. It stays
    /// for processes that still load it; [`remove_unused`](super::remove_unused) removes those of
    /// the same name, with other versions or contents, that nobody loads.
    ///
    /// # Errors
    /// If it cannot be written, or cannot be loaded from here.
    pub fn object(&self, name: &str, version: &str, content: &[u8]) -> io::Result<PathBuf> {
        self.check_loadable()?;
        let name = format!("{name}-{version}-{:016x}.so", hash(content.iter().copied()));
        let path = self.0.join(&name);
        // It is marked as used now: another fragscope that is about to remove it then leaves it, or
        // has removed it before it is looked up. Root's stays as it is.
        let _ = utimensat(
            AT_FDCWD,
            &path,
            &TimeSpec::UTIME_NOW,
            &TimeSpec::UTIME_NOW,
            UtimensatFlags::NoFollowSymlink,
        );
        if !is_there(&path, content)? {
            let folder = Arc::new(Folder::of(&path).map_err(io::Error::other)?);
            let temporary = temporary(hash(name.bytes()));
            clear(&folder, &temporary);
            let draft = Draft::begin(&folder, &temporary)?;
            put(draft, &name, content)?;
        }
        Ok(path)
    }

    /// A file for locks, which is created if it does not exist, and stays.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(super) fn lock_file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(self.0.join(name))
    }
}

/// Writes the object. An existing file of its name is another fragscope's, with the same content,
/// or damaged: it is replaced in one step, and processes that have loaded it keep the old one.
fn put(mut draft: Draft, name: &str, content: &[u8]) -> io::Result<()> {
    draft.file.write_all(content)?;
    draft
        .file
        .set_permissions(fs::Permissions::from_mode(0o755))?;
    match draft.place(OsStr::new(name)) {
        Err(Errno::EEXIST) => draft.replace(OsStr::new(name))?,
        placed => placed?,
    }
    Ok(())
}

/// Creates this directory and the missing ones above it, as private ones, if the existing part is a
/// directory of our own into which nobody else can put anything: a user's first cache.
fn make_missing(directory: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut there = directory;
    while let Err(error) = fs::metadata(there) {
        let above = there.parent().zip(there.file_name());
        match above.filter(|_| error.kind() == io::ErrorKind::NotFound) {
            Some((above, name)) => {
                missing.push(name);
                there = above;
            }
            None => return Err(error),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut path = ownership::only_ours(there)?;
    if fs::metadata(&path)?.uid() != geteuid().as_raw() {
        return Err(io::Error::other(format!(
            "{} is not there",
            visible(directory.display())
        )));
    }
    for name in missing.iter().rev() {
        path.push(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A possible place of the directory.
struct Candidate {
    path: PathBuf,
    /// The variable that gives it, with its value.
    by: Option<(&'static str, PathBuf)>,
}

impl Candidate {
    /// Why it is not usable. `setpriv`, `su` and cron may leave another user's variables, and some
    /// users have no home.
    fn why_not(&self, error: &io::Error) -> String {
        let own = geteuid().as_raw();
        let Some((name, base)) = &self.by else {
            return format!("{}: {error}", visible(self.path.display()));
        };
        let shown = format!("{name} is {}", visible(base.display()));
        match fs::metadata(base).map(|found| found.uid()) {
            Ok(owner) if owner != own => {
                format!("{shown}, which belongs to user {owner}, and fragscope runs as user {own}")
            }
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                format!("{shown}, which is not there")
            }
            _ => format!("{shown}, and {}: {error}", visible(self.path.display())),
        }
    }
}

/// The possible places, the best first.
fn places(root: bool) -> Vec<Candidate> {
    if root {
        // Some hosts load nothing from /run. Root's own variables may be another user's (sudo -E).
        return ["/run/fragscope", "/var/lib/fragscope"]
            .map(|path| Candidate {
                path: path.into(),
                by: None,
            })
            .into();
    }
    let all = [
        ("XDG_RUNTIME_DIR", "fragscope"),
        ("XDG_CACHE_HOME", "fragscope"),
        ("HOME", ".cache/fragscope"),
    ];
    let all = all.into_iter().filter_map(|(name, within)| {
        let base = PathBuf::from(std::env::var_os(name)?);
        base.is_absolute().then(|| Candidate {
            path: base.join(within),
            by: Some((name, base)),
        })
    });
    all.collect()
}

/// Whether this file exists with this content, and nobody else can change it.
fn is_there(path: &Path, content: &[u8]) -> io::Result<bool> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // A link: not ours, and replaced.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(false),
        Err(error) => return Err(error),
    };
    let found = file.metadata()?;
    let is_ours = found.is_file()
        && ownership::check(found.uid(), found.mode()).is_ok()
        && found.mode() & 0o555 == 0o555
        && found.len() == content.len() as u64;
    if !is_ours {
        return Ok(false);
    }
    let mut held = Vec::with_capacity(content.len() + 1);
    file.take(content.len() as u64 + 1).read_to_end(&mut held)?;
    Ok(held == content)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    /// A directory in which only our own user can write, at every level.
    fn own() -> tempfile::TempDir {
        let made = RuntimeDir::first("tests", |dir| tempfile::tempdir_in(&dir.0));
        made.expect("there is one")
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused_wherever_it_is_on_the_way() {
        let base = own();
        let open = base.path().join("open");
        fs::create_dir(&open).expect("made");
        let place = open.join("in").join("fragscope");
        fs::create_dir(open.join("in")).expect("made");
        RuntimeDir::at(&place).expect("only ours so far");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).expect("ours");
        let refused = RuntimeDir::at(&place).expect_err("anybody can rename what is in it");
        assert!(
            refused
                .to_string()
                .contains("can be written by other users (mode 1777)"),
            "{refused}"
        );
        assert!(RuntimeDir::at(Path::new("/tmp/fragscope")).is_err());
    }

    #[test]
    fn missing_directories_of_ones_own_are_made_for_oneself_alone() {
        let base = own();
        let cache = base.path().join("cache");
        RuntimeDir::at(&cache.join("deep/fragscope")).expect("made");
        for made in [cache.clone(), cache.join("deep")] {
            let mode = fs::metadata(made).expect("made").mode();
            assert_eq!(mode & 0o7777, 0o700);
        }
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o1777)).expect("ours");
        assert!(RuntimeDir::at(&base.path().join("other/fragscope")).is_err());
        assert!(!base.path().join("other").exists());
    }

    #[test]
    fn a_home_that_is_not_there_or_anothers_is_called_that() {
        let said = |base: &Path| {
            let home = Candidate {
                path: base.join(".cache/fragscope"),
                by: Some(("HOME", base.to_owned())),
            };
            home.why_not(&io::ErrorKind::PermissionDenied.into())
        };
        let nowhere = "HOME is /nowhere, which is not there";
        assert_eq!(said(Path::new("/nowhere")), nowhere);
        let base = own();
        assert!(said(base.path()).ends_with(": permission denied"));
        // Whoever is not root finds that / is another's.
        let (mut theirs, mut owner) = (Path::new("/"), 0);
        if geteuid().is_root() {
            (theirs, owner) = (base.path(), 7);
            std::os::unix::fs::chown(theirs, Some(owner), None).expect("we are root");
        }
        let expected = format!("which belongs to user {owner}, and");
        assert!(said(theirs).contains(&expected), "{}", said(theirs));
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_refused() {
        let base = own();
        let place = base.path().join("fragscope");
        std::os::unix::fs::symlink("/tmp", &place).expect("made");
        assert!(RuntimeDir::at(&place).is_err());
    }

    #[test]
    fn the_object_is_put_there_once_and_again_when_it_was_changed() {
        let base = own();
        let dir = RuntimeDir::at(&base.path().join("fragscope")).expect("ours");
        let path = dir.object("recorder", "1", b"content").expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"content");
        let inode = || fs::metadata(&path).expect("there").ino();
        let first = inode();
        assert_eq!(
            dir.object("recorder", "1", b"content").expect("there"),
            path
        );
        assert_eq!(inode(), first);
        let file = File::options().write(true).open(&path).expect("ours");
        file.set_modified(SystemTime::UNIX_EPOCH).expect("ours");
        dir.object("recorder", "1", b"content").expect("there");
        let used = fs::metadata(&path).expect("there").modified();
        let age = used.expect("known").elapsed().expect("past");
        assert!(age.as_secs() < 60, "{age:?}");
        fs::write(&path, b"CONTENT").expect("ours");
        assert_eq!(
            dir.object("recorder", "1", b"content").expect("again"),
            path
        );
        assert_ne!(inode(), first);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("ours");
        dir.object("recorder", "1", b"content").expect("again");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o755);
        fs::remove_file(&path).expect("ours");
        std::os::unix::fs::symlink("/etc/passwd", &path).expect("made");
        dir.object("recorder", "1", b"content").expect("again");
        assert_eq!(fs::read(&path).expect("there"), b"content");
    }

    #[test]
    fn the_object_is_put_there_also_without_nameless_files_and_over_what_is_damaged() {
        let base = own();
        let dir = RuntimeDir::at(&base.path().join("fragscope")).expect("ours");
        let path = dir.object("recorder", "1", b"content").expect("written");
        let name = path.file_name().and_then(OsStr::to_str).expect("text");
        let left = dir.0.join(temporary(hash(name.bytes())));
        for before in [None, Some("damaged")] {
            fs::remove_file(&path).expect("ours");
            // Files left by a kill are removed as well.
            fs::write(&left, "left").expect("ours");
            dir.object("recorder", "1", b"content").expect("written");
            fs::remove_file(&path).expect("ours");
            if let Some(before) = before {
                fs::write(&path, before).expect("ours");
            }
            let folder = Arc::new(Folder::of(&path).expect("ours"));
            let draft = Draft::begin_named(&folder, &temporary(0)).expect("begun");
            put(draft, name, b"content").expect("put");
            assert_eq!(fs::read(&path).expect("there"), b"content");
            assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o755);
            assert_eq!(fs::read_dir(&dir.0).expect("listed").count(), 1);
        }
    }

    #[test]
    fn many_that_find_a_damaged_object_at_once_all_get_a_whole_one() {
        let base = own();
        let dir = RuntimeDir::at(&base.path().join("fragscope")).expect("ours");
        let content = vec![7; 1 << 16];
        let path = dir.object("recorder", "1", &content).expect("written");
        for _ in 0..20 {
            fs::write(&path, "damaged").expect("ours");
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        dir.object("recorder", "1", &content).expect("whole");
                        assert!(is_there(&path, &content).expect("looked at"));
                    });
                }
            });
        }
        assert_eq!(fs::read_dir(&dir.0).expect("listed").count(), 1);
    }

    #[test]
    fn where_one_does_not_serve_the_next_is_used_and_all_are_named_when_none_does() {
        let mut asked = Vec::new();
        let second = RuntimeDir::first("tests", |dir| {
            asked.push(dir.0.clone());
            match asked.len() {
                1 => Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem)),
                _ => Ok(dir.0.clone()),
            }
        });
        match second {
            Ok(second) => assert_eq!(asked[1..], [second]),
            // A user may have one place only.
            Err(none) => assert!(none.to_string().contains("read-only"), "{none}"),
        }
        let none = RuntimeDir::first("tests", |_| Err::<(), _>(io::Error::other("no room")));
        let none = none.expect_err("none serves").to_string();
        assert!(none.contains("no directory for tests"), "{none}");
        assert!(none.contains(": no room"), "{none}");
    }
}
