//! `cargo xtask dist`: everything that people install, all with the same program inside.

mod contents;
mod debian;
mod licences;
mod tarball;
mod trial;
mod wheel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{output, root, run as run_command, target_folder, test};
use contents::Contents;

/// The version of every package.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The target of the packages. Passed to cargo, so that flags for it do not apply to build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Debian packages that make packages, and try them.
const PACKAGES: [&str; 6] = [
    "debootstrap",
    "dpkg-dev",
    "gcc",
    "libc6-dev",
    "make",
    "python3-venv",
];
/// The names and checksums of all other files, in the format of `sha256sum --check`.
const SUMS: &str = "SHA256SUMS";

/// How the program is compiled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Profile {
    /// For users: optimised, and linked statically, so that neither the age of the C library nor
    /// musl in its place matters.
    Dist,
    /// To try the packages themselves in seconds, with what development has already compiled.
    Development,
}

impl Profile {
    const fn name(self) -> &'static str {
        match self {
            Self::Dist => "dist",
            Self::Development => "dev",
        }
    }

    /// The options with which cargo, called directly or by maturin, compiles the same program: both
    /// calls must be alike, or the second compiles everything again.
    fn compile(self, command: &mut Command) -> &mut Command {
        command.args(["--locked", "--profile", self.name()]);
        match self {
            Self::Dist => command
                .args(["--target", TARGET])
                .env("RUSTFLAGS", "-Ctarget-feature=+crt-static"),
            Self::Development => command,
        }
    }

    /// The path of cargo's output.
    fn program(self, target: &Path) -> PathBuf {
        let folder = match self {
            Self::Dist => target.join(TARGET).join("dist"),
            Self::Development => target.join("debug"),
        };
        folder.join("fragscope")
    }
}

/// The date of everything in packages: that of the last commit, so that the same sources give the
/// same packages.
#[derive(Clone, Copy, Debug)]
struct Date(u64);

impl Date {
    /// The variable from which tools read it.
    const VARIABLE: &str = "SOURCE_DATE_EPOCH";

    fn of_last_commit() -> Result<Self> {
        let mut git = Command::new("git");
        git.args(["log", "-1", "--format=%ct"]).current_dir(root());
        let seconds = output(&mut git)?.trim().parse();
        seconds.map(Self).context("git's date of a commit")
    }

    /// Since 1970.
    fn seconds(self) -> String {
        self.0.to_string()
    }
}

/// Makes every package, the bill of materials and the checksums, and tries each in an otherwise
/// empty place.
///
/// # Errors
/// What cannot be built, and what does not work where it was installed.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    let profile = match options {
        [] => Profile::Dist,
        ["--development"] => Profile::Development,
        _ => bail!("usage: cargo xtask dist [--development]"),
    };
    let target = target_folder()?;
    let folder = target.join("dist").join(profile.name());
    make(profile, &target, &folder)?;
    trial::run(profile, &folder)
}

/// Makes packages in `folder`, which is recreated.
fn make(profile: Profile, target: &Path, folder: &Path) -> Result<()> {
    test::install(&PACKAGES)?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "-p", "fragscope"]).current_dir(root());
    run_command(profile.compile(&mut cargo))?;

    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    let contents = Contents::of(&profile.program(target))?;
    let date = Date::of_last_commit()?;
    tarball::write(&contents, date, folder)?;
    debian::write(&contents, date, folder)?;
    wheel::write(&contents, profile, date, target, folder)?;
    write_sums(folder)
}

/// The sum of each file in `folder`.
fn write_sums(folder: &Path) -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name());
    }
    names.sort();
    let sums = output(
        Command::new("sha256sum")
            .arg("--")
            .args(&names)
            .current_dir(folder),
    )?;
    fs::write(folder.join(SUMS), sums)?;
    Ok(())
}

/// The only file of `folder` whose name has this ending.
fn only_file(folder: &Path, ending: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    ensure!(
        found.len() == 1,
        "{} files end in {ending} in {}",
        found.len(),
        folder.display()
    );
    found.pop().context("one was found")
}
