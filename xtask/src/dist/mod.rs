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
/// What the packages are for. Named to cargo, so that flags for it are not those of build scripts.
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
/// The names and sums of all other files, as `sha256sum --check` reads them.
const SUMS: &str = "SHA256SUMS";

/// How the program is compiled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Profile {
    /// For people: optimised, and linked statically, so that neither the age of the C library nor
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

    /// What cargo, called by us or by maturin, compiles the same program by: both calls must be
    /// alike, or the second compiles everything once more.
    fn compile(self, command: &mut Command) -> &mut Command {
        command.args(["--locked", "--profile", self.name()]);
        match self {
            Self::Dist => command
                .args(["--target", TARGET])
                .env("RUSTFLAGS", "-Ctarget-feature=+crt-static"),
            Self::Development => command,
        }
    }

    /// Where cargo puts it.
    fn program(self, target: &Path) -> PathBuf {
        let folder = match self {
            Self::Dist => target.join(TARGET).join("dist"),
            Self::Development => target.join("debug"),
        };
        folder.join("fragscope")
    }
}

/// The date of everything in packages: that of the last commit, so that the same sources are the same
/// packages.
#[derive(Clone, Copy, Debug)]
struct Date(u64);

impl Date {
    /// The variable that tools read it from.
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

/// Makes every package, the bill of materials and the sums, and tries each where nothing else is.
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

/// Packages in `folder`, which is made anew.
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

/// The one file of `folder` whose name ends like that.
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
