//! The guest's disks: a small Debian with the tests in it, and the initial files loaded before it
//! can be read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::packages::Kernel;
use super::plan::{Row, TEST_SECONDS};
use crate::{debootstrap, output, root, run as run_command};

/// The guest's distribution: the programs are built against its C library or an older one.
const SUITE: &str = "bookworm";
/// Packages that the tests use there.
const PACKAGES: [&str; 13] = [
    "busybox-static",
    "g++",
    "gcc",
    "libc6-dev",
    "libcap2-bin",
    "libjemalloc2",
    "libmimalloc2.0",
    "libtcmalloc-minimal4",
    "musl-tools",
    "procps",
    "python3",
    "tmux",
    "util-linux",
];
/// Folders that tests read programs and workers from.
const SOURCES: [&str; 6] = [
    "deploy",
    "profiler/tests",
    "profiler-probe/tests",
    "profiler-sampling/tests",
    "profiler-target/tests",
    "profiler-testing/programs",
];
/// Kernel modules that a disk needs, unless they are built into the kernel: the last of them mounts
/// it.
const MODULES: [&str; 5] = [
    "virtio_pci",
    "virtio_blk",
    "crc32c",
    "crc32c_generic",
    "ext4",
];
/// Bytes of the disk: most of it is a hole.
const DISK_BYTES: &str = "4G";

const GUEST: &str = include_str!("guest.py");
const SETTINGS: &str = include_str!("settings.py");
const INIT: &str = include_str!("init.sh");

/// The contents of a guest.
pub(crate) struct Guest<'g> {
    /// A Debian with the packages that the tests use.
    pub(crate) clean: &'g Path,
    /// cargo, for its machine.
    pub(crate) cargo: &'g dyn Fn() -> Command,
    /// The tool that strips its programs.
    pub(crate) strip: &'g str,
    /// The tests that are run there.
    pub(crate) rows: &'g [Row],
}

/// The image of a Debian with cargo's output and the tests' sources where the tests expect them.
pub(crate) fn image(of: &Guest<'_>, folder: &Path) -> Result<PathBuf> {
    let draft = tempfile::tempdir_in(folder)?;
    let guest = draft.path().join("root");
    run_command(
        Command::new("cp")
            .arg("-a")
            .arg("--reflink=auto")
            .arg(of.clean)
            .arg(&guest),
    )?;
    let plan = copy_tests(of, &guest)?;
    let checks = guest.join("checks");
    fs::create_dir_all(&checks)?;
    fs::write(checks.join("plan.json"), serde_json::to_string(&plan)?)?;
    fs::write(checks.join("main.py"), GUEST)?;
    fs::write(checks.join("settings.py"), SETTINGS)?;
    let image = folder.join("disk.img");
    let _not_there = fs::remove_file(&image);
    run_command(
        Command::new("/sbin/mkfs.ext4")
            .args(["-q", "-d"])
            .arg(&guest)
            .arg(&image)
            .arg(DISK_BYTES),
    )?;
    Ok(image)
}

/// A Debian with those packages, made once.
pub(super) fn clean_root(folder: &Path) -> Result<PathBuf> {
    let made = folder.join("root");
    if !made.exists() {
        // Under another name until it is complete.
        let draft = tempfile::tempdir_in(folder)?;
        let new = draft.path().join("root");
        debootstrap(SUITE, &PACKAGES, &new)?;
        let cache = new.join("var/cache/apt/archives");
        fs::remove_dir_all(&cache)?;
        fs::rename(&new, &made)?;
    }
    Ok(made)
}

/// Builds the tests, copies them and the files that they read to the same places below `guest`, and
/// returns the guest's plan.
fn copy_tests(of: &Guest<'_>, guest: &Path) -> Result<Value> {
    let built = built(of)?;
    let mut tests = Vec::new();
    for row in of.rows {
        let found = built.iter().find(|one| {
            one.is_test && (one.package(), one.name.as_str()) == (row.package, row.binary)
        });
        let found = found.with_context(|| format!("cargo built no test {}", row.binary))?;
        stripped_copy(of.strip, &found.path, guest)?;
        tests.push(json!({
            "title": row.title,
            "path": found.path,
            "folder": found.folder,
            "without": row.without,
            "seconds": TEST_SECONDS,
        }));
    }
    let fragscope = built
        .iter()
        .find(|one| one.name == "fragscope" && !one.is_test);
    let fragscope = fragscope.context("cargo built no fragscope")?;
    stripped_copy(of.strip, &fragscope.path, guest)?;
    let root = root();
    for folder in SOURCES {
        copy_folder(&root.join(folder), guest)?;
    }
    // Where tests create directories that players may not look into.
    let scratch = crate::target_folder()?.join("tmp");
    fs::create_dir_all(below(guest, &scratch))?;
    Ok(json!({
        "fragscope": fragscope.path,
        "environment": {"FRAGSCOPE_TEST_PYTHON": "/usr/bin/python3"},
        "tests": tests,
    }))
}

/// What cargo built.
struct Built {
    name: String,
    is_test: bool,
    path: PathBuf,
    /// Its crate's directory.
    folder: PathBuf,
}

impl Built {
    fn package(&self) -> &str {
        match self.folder.file_name().and_then(|name| name.to_str()) {
            Some("profiler") => "fragscope",
            name => name.unwrap_or_default(),
        }
    }
}

fn built(of: &Guest<'_>) -> Result<Vec<Built>> {
    let mut command = (of.cargo)();
    command
        .args(["test", "--no-run", "--message-format=json"])
        .current_dir(root())
        .stderr(Stdio::inherit());
    command.args(["-p", "fragscope", "--bins"]);
    for row in of.rows {
        command.args(["-p", row.package, "--test", row.binary]);
    }
    let said = output(&mut command)?;
    let mut all = Vec::new();
    for line in said.lines() {
        let message: Value = serde_json::from_str(line)?;
        let (Some(path), Some(name), Some(manifest)) = (
            message["executable"].as_str(),
            message["target"]["name"].as_str(),
            message["manifest_path"].as_str(),
        ) else {
            continue;
        };
        let folder = Path::new(manifest)
            .parent()
            .context("a manifest's folder")?;
        all.push(Built {
            name: name.to_owned(),
            is_test: message["profile"]["test"] == true,
            path: path.into(),
            folder: folder.to_path_buf(),
        });
    }
    Ok(all)
}

/// The corresponding path in the guest.
fn below(guest: &Path, path: &Path) -> PathBuf {
    guest.join(path.strip_prefix("/").unwrap_or(path))
}

/// Strips debug information, which makes programs several times as large.
fn stripped_copy(strip: &str, program: &Path, guest: &Path) -> Result<()> {
    let copy = below(guest, program);
    fs::create_dir_all(copy.parent().context("a program's folder")?)?;
    run_command(
        Command::new(strip)
            .args(["--strip-debug", "-o"])
            .arg(copy)
            .arg(program),
    )
}

fn copy_folder(folder: &Path, guest: &Path) -> Result<()> {
    let copy = below(guest, folder);
    fs::create_dir_all(copy.parent().context("a folder's folder")?)?;
    run_command(Command::new("cp").arg("-a").arg(folder).arg(copy))
}

/// What the kernel unpacks before it has a disk: a shell, and the modules that the disk needs.
pub(crate) fn initramfs(kernel: &Kernel, clean: &Path, folder: &Path) -> Result<PathBuf> {
    let draft = tempfile::tempdir_in(folder)?;
    let inside = draft.path();
    fs::create_dir_all(inside.join("bin"))?;
    fs::create_dir_all(inside.join("modules"))?;
    fs::copy(clean.join("bin/busybox"), inside.join("bin/busybox"))?;
    let init = inside.join("init");
    fs::write(&init, INIT)?;
    run_command(Command::new("chmod").arg("755").arg(&init))?;
    let mut order = String::new();
    for path in needed_modules(kernel)? {
        let name = path.file_name().context("a module's name")?;
        let name = name.to_string_lossy();
        let plain = name.trim_end_matches(".xz");
        if order.lines().any(|known| known == plain) {
            continue;
        }
        let bytes = match name.ends_with(".xz") {
            true => Command::new("xz").args(["-dc"]).arg(&path).output()?.stdout,
            false => fs::read(&path)?,
        };
        fs::write(inside.join("modules").join(plain), bytes)?;
        order += &format!("{plain}\n");
    }
    fs::write(inside.join("modules/order"), order)?;
    let made = folder.join(format!("initramfs-{}", kernel.release));
    let script = "cd \"$0\" && find . | cpio --quiet -o -H newc > \"$1\"";
    run_command(
        Command::new("sh")
            .args(["-c", script])
            .arg(inside)
            .arg(&made),
    )?;
    Ok(made)
}

/// The files of these modules, in the order in which they are loaded.
fn needed_modules(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for name in MODULES {
        let said = Command::new("/sbin/modprobe")
            .args(["-d".as_ref(), kernel.modules.as_os_str()])
            .args(["-S", &kernel.release, "--show-depends", name])
            .output()?;
        // A module that is built in, or no longer exists, needs nothing; the disk reports what is
        // missing.
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let paths = said.lines().filter_map(|line| line.strip_prefix("insmod "));
        all.extend(paths.map(|path| PathBuf::from(path.trim())));
    }
    if all.is_empty() {
        bail!("modprobe knows no module of {}", kernel.release);
    }
    Ok(all)
}
