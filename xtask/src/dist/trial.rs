//! Installs each package where nothing else is installed, and inspects a real process from there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Profile, SUMS, only_file};
use crate::{debootstrap, output, root, run as run_command};

/// The distribution whose clean root file system the Debian package is installed in.
const SUITE: &str = "bookworm";
/// The program that is looked at: it prints a line when it has its memory.
const WORKER: &str = "
import time
kept = [bytes(1000 + n % 500) for n in range(50_000)]
del kept[::2]
print('ready', flush=True)
time.sleep(600)
";

/// Tries every file in `folder`, as root.
///
/// # Errors
/// The first file that does not work.
pub(super) fn run(profile: Profile, folder: &Path) -> Result<()> {
    run_command(
        Command::new("sha256sum")
            .args(["--check", "--strict", "--quiet", SUMS])
            .current_dir(folder),
    )?;
    let worker = Worker::start()?;
    // Only a statically linked program runs where there is no C library.
    if profile == Profile::Dist {
        tarball(folder, &worker).context("the tar in an empty root")?;
    }
    debian(profile, folder, &worker).context("the Debian package")?;
    wheel(folder, &worker).context("the wheel in a new virtual environment")?;
    println!(
        "every package in {} works where it was installed",
        folder.display()
    );
    Ok(())
}

/// A Python with a fragmented heap.
struct Worker(Child);

impl Worker {
    fn start() -> Result<Self> {
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", WORKER])
            .stdout(Stdio::piped())
            .spawn()?;
        let said = child.stdout.take().context("its output is a pipe")?;
        let worker = Self(child);
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        ensure!(line == "ready\n", "the worker did not start");
        Ok(worker)
    }

    /// The program that `command` runs must be able to take a snapshot of its heap.
    fn looked_at_by(&self, mut command: Command) -> Result<()> {
        let pid = self.0.id().to_string();
        let printed = output(command.args(["snapshot", "--json", "--pid", &pid]))?;
        let sample: serde_json::Value = serde_json::from_str(&printed)?;
        let classes = sample["ledger"].as_array().context("there is no ledger")?;
        let live = classes.iter().find(|class| class["class"] == "live");
        let live = live.and_then(|class| class["resident_bytes"].as_u64());
        // 25,000 objects of 1,033 bytes and more, which malloc serves.
        ensure!(
            live > Some(25_000_000),
            "of the live bytes were seen: {live:?}"
        );
        ensure!(
            sample["target"]["python"].is_string(),
            "no Python was seen: {}",
            sample["target"]
        );
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It sleeps, and has nothing to lose.
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}

/// A command inside another root, which has the host's processes and devices.
fn inside(root: &Path, program: &str) -> Command {
    // A separate mount namespace: whatever happens, nothing stays mounted.
    let script = r#"for shared in proc dev; do
            mkdir -p "$0/$shared" && mount --bind "/$shared" "$0/$shared" || exit
        done
        exec chroot "$0" "$@""#;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(root)
        .arg(program);
    command
}

fn tarball(folder: &Path, worker: &Worker) -> Result<()> {
    let empty = tempfile::tempdir_in(folder)?;
    run_command(
        Command::new("tar")
            .arg("--extract")
            .arg("--file")
            .arg(only_file(folder, ".tar.gz")?)
            .arg("--directory")
            .arg(empty.path()),
    )?;
    let program = format!("/{}/bin/fragscope", super::tarball::name());
    version(inside(empty.path(), &program))?;
    worker.looked_at_by(inside(empty.path(), &program))
}

fn debian(profile: Profile, folder: &Path, worker: &Worker) -> Result<()> {
    let package = only_file(folder, ".deb")?;
    match profile {
        Profile::Dist => {
            let clean = clean_root(folder)?;
            fs::copy(&package, clean.join("fragscope.deb"))?;
            let dpkg = || inside(&clean, "dpkg");
            let program = || inside(&clean, "fragscope");
            installed_and_removed(&clean, dpkg, "/fragscope.deb".as_ref(), program, worker)
        }
        // The program needs this system's libraries: the package goes into a folder.
        Profile::Development => {
            let root = tempfile::tempdir_in(folder)?;
            let root = root.path();
            fs::create_dir_all(root.join("var/lib/dpkg/updates"))?;
            fs::create_dir_all(root.join("var/lib/dpkg/info"))?;
            fs::write(root.join("var/lib/dpkg/status"), "")?;
            let dpkg = || {
                let mut dpkg = Command::new("dpkg");
                dpkg.arg("--root").arg(root).args(["--log", "/dev/null"]);
                dpkg
            };
            let program = || Command::new(root.join("usr/bin/fragscope"));
            installed_and_removed(root, dpkg, &package, program, worker)
        }
    }
}

/// The package works after dpkg has installed it below `root`, and leaves nothing behind when
/// removed.
fn installed_and_removed(
    root: &Path,
    dpkg: impl Fn() -> Command,
    package: &Path,
    program: impl Fn() -> Command,
    worker: &Worker,
) -> Result<()> {
    run_command(dpkg().arg("--install").arg(package).stdout(Stdio::null()))?;
    version(program())?;
    worker.looked_at_by(program())?;
    let listed = output(dpkg().args(["--listfiles", "fragscope"]))?;
    let listed = || listed.lines().filter(|path| path.contains("fragscope"));
    let file = |path: &str| root.join(path.trim_start_matches('/'));
    ensure!(
        listed().any(|path| path.ends_with("man1/fragscope-attach.1.gz")),
        "no manual"
    );
    for path in listed() {
        ensure!(file(path).exists(), "{path} was not installed");
    }
    run_command(dpkg().args(["--purge", "fragscope"]).stdout(Stdio::null()))?;
    for path in listed() {
        ensure!(
            !file(path).exists(),
            "{path} stays when the package is removed"
        );
    }
    Ok(())
}

/// A Debian with only its essential packages, made once.
fn clean_root(folder: &Path) -> Result<PathBuf> {
    let roots = folder
        .parent()
        .context("packages lie below target")?
        .join("roots");
    let made = roots.join(SUITE);
    if !made.exists() {
        fs::create_dir_all(&roots)?;
        // Under another name until it is complete.
        let draft = tempfile::tempdir_in(&roots)?;
        let new = draft.path().join(SUITE);
        debootstrap(SUITE, &[], &new)?;
        fs::rename(&new, &made)?;
    }
    Ok(made)
}

fn wheel(folder: &Path, worker: &Worker) -> Result<()> {
    let venv = tempfile::tempdir_in(folder)?;
    run_command(
        Command::new("/usr/bin/python3")
            .args(["-m", "venv"])
            .arg(venv.path()),
    )?;
    run_command(
        Command::new(venv.path().join("bin/pip"))
            .args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-index",
            ])
            .arg(only_file(folder, ".whl")?),
    )?;
    let program = venv.path().join("bin/fragscope");
    version(Command::new(&program))?;
    worker.looked_at_by(Command::new(&program))?;
    recorded(&program, venv.path())
}

/// The recorder and the player that the program carries work as well.
fn recorded(program: &Path, folder: &Path) -> Result<()> {
    let trace = folder.join("worker.trace");
    run_command(
        Command::new(program)
            .args(["record", "-o"])
            .arg(&trace)
            .args(["--", "/usr/bin/python3", "-c", "import json"]),
    )?;
    let replayed = output(Command::new(program).args(["replay", "--json"]).arg(&trace))?;
    let replayed: serde_json::Value = serde_json::from_str(&replayed)?;
    ensure!(
        replayed["trace"]["events"].as_u64() > Some(1000),
        "too few events were replayed"
    );
    Ok(())
}

/// It prints its version.
fn version(mut program: Command) -> Result<()> {
    let said = output(program.arg("--version").current_dir(root()))?;
    let expected = format!("fragscope {}", super::VERSION);
    ensure!(said.trim() == expected, "--version says {said:?}");
    Ok(())
}
