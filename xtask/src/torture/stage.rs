//! The environment of rounds: directories that nobody else writes to, a copy of the binary by which
//! its processes are identified, and this process as the reaper of orphans.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::kernel_log::KernelLog;
use super::processes::{self, Process};

/// Where programs leave files, with who may write there; each is mounted as a separate, empty file
/// system for the run.
const SCRATCH: [(&str, &str); 3] = [
    ("/tmp", "mode=1777"),
    ("/dev/shm", "mode=1777"),
    ("/run", "mode=0755"),
];
/// What fragscope may leave there, by docs/recording.md: an object that recorded programs load for as
/// long as they live, and empty files for locks.
const KEPT: [&str; 3] = [
    "/run/fragscope",
    "/run/fragscope/recorded",
    "/run/fragscope/written",
];

/// Somebody requested the end (Ctrl-C).
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// Children that are expected to live, by number.
pub(super) type Expected = Rc<RefCell<BTreeSet<i32>>>;

/// The stage. Its directory is removed with it.
pub(super) struct Stage {
    folder: tempfile::TempDir,
    /// The command: a copy, so that its processes can be told apart from others of the same name.
    pub(super) fragscope: PathBuf,
    identity: (u64, u64),
    /// The interpreter of the workers itself, not a script that starts it.
    pub(super) python: PathBuf,
    interrupted: Arc<AtomicBool>,
    pub(super) log: RefCell<KernelLog>,
    pub(super) expected: Expected,
    scratch: Vec<PathBuf>,
    left_before: RefCell<BTreeSet<PathBuf>>,
    names: Cell<u32>,
}

impl Stage {
    /// Sets it up; `target` is the build directory.
    pub(super) fn set_up(binary: &Path, target: &Path) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "probes, freezers and limits need root: run as root"
        );
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        set_child_subreaper(true)?;
        let folder = tempfile::Builder::new()
            .prefix("torture-")
            .tempdir_in(target)?;
        let fragscope = folder.path().join("fragscope");
        fs::copy(binary, &fragscope).with_context(|| format!("{}", binary.display()))?;
        let scratch = private_scratch(folder.path())?;
        let found = fs::metadata(&fragscope)?;
        let printed = crate::output(Command::new("python3").args([
            "-c",
            "import os, sys; print(os.path.realpath(sys.executable))",
        ]))?;
        Ok(Self {
            identity: (found.dev(), found.ino()),
            fragscope,
            python: PathBuf::from(printed.trim()),
            interrupted,
            log: RefCell::new(KernelLog::open()?),
            expected: Expected::default(),
            left_before: RefCell::new(BTreeSet::new()),
            scratch,
            names: Cell::new(0),
            folder,
        })
    }

    /// A path in the stage's folder that no other call gave.
    pub(super) fn fresh(&self, name: &str) -> PathBuf {
        let number = self.names.replace(self.names.get() + 1);
        self.folder.path().join(format!("{number}-{name}"))
    }

    /// A new folder in the stage's.
    pub(super) fn fresh_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.fresh(name);
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Set when the run shall end.
    pub(super) fn interrupted(&self) -> &Arc<AtomicBool> {
        &self.interrupted
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub(super) fn go_on(&self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::SeqCst), Interrupted);
        Ok(())
    }

    /// Checks every `pause` whether something has come, for at most `limit`; `None` if it has not.
    ///
    /// # Errors
    /// [`Interrupted`], and those of `look`.
    pub(super) fn wait_for<T>(
        &self,
        limit: Duration,
        pause: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let deadline = Instant::now() + limit;
        loop {
            let now = Instant::now();
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            self.go_on()?;
            if now >= deadline {
                return Ok(None);
            }
            thread::sleep(pause);
        }
    }

    /// Lets `time` pass: a random moment, never a wait for something.
    pub(super) fn let_pass(&self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            self.go_on()?;
            thread::sleep(left.min(Duration::from_millis(20)));
        }
        Ok(())
    }

    /// Whether a process runs our copy of the binary.
    pub(super) fn runs_fragscope(&self, pid: i32) -> bool {
        let exe = fs::metadata(format!("/proc/{pid}/exe"));
        exe.is_ok_and(|exe| (exe.dev(), exe.ino()) == self.identity)
    }

    /// fragscope's processes: those that run it, and orphans that were reparented to us.
    pub(super) fn left_processes(&self) -> Vec<Process> {
        let own = std::process::id() as i32;
        let expected = self.expected.borrow();
        let mut left = processes::all();
        left.retain(|process| {
            !expected.contains(&process.pid)
                && (process.parent == own || self.runs_fragscope(process.pid))
        });
        left
    }

    /// Reaps an orphan, as PID 1 would.
    pub(super) fn reap(&self, pid: i32) {
        // It may be another process's child that is a zombie for a moment.
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }

    /// New files in the scratch folders since the last call.
    pub(super) fn left_files(&self) -> Vec<PathBuf> {
        let mut found = BTreeSet::new();
        for folder in &self.scratch {
            list(folder, &mut found);
        }
        found.retain(|path| !KEPT.iter().any(|kept| path == Path::new(kept)));
        let object = |path: &PathBuf| {
            path.starts_with(KEPT[0]) && path.extension().is_some_and(|ending| ending == "so")
        };
        // Its name is derived from its content: a second one is one too many.
        if found.iter().filter(|path| object(path)).count() == 1 {
            found.retain(|path| !object(path));
        }
        let before = self.left_before.replace(found.clone());
        found.difference(&before).cloned().collect()
    }
}

/// Everything below a folder.
pub(super) fn list(folder: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), into);
        }
        into.insert(entry.path());
    }
}

/// Mounts empty file systems where programs leave files, visible only to this process and its
/// children, so that other programs' files there are not taken for fragscope's.
fn private_scratch(needed: &Path) -> Result<Vec<PathBuf>> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace of our own")?;
    let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, all, None::<&str>)?;
    let mut mounted = Vec::new();
    for (folder, mode) in SCRATCH {
        let folder = Path::new(folder);
        // Needed files must stay visible.
        if folder.is_dir() && !needed.starts_with(folder) {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(Some("torture"), folder, Some("tmpfs"), flags, Some(mode))
                .with_context(|| format!("{}", folder.display()))?;
            mounted.push(folder.to_owned());
        }
    }
    Ok(mounted)
}
