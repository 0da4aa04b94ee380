//! Packages of Debian's other suites and architectures, unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::{output, run as run_command};

/// Suites that get no security updates of their own.
const UNSTABLE: [&str; 2] = ["forky", "sid"];

/// apt with separate lists, which contain one suite.
pub(crate) struct Apt {
    folder: PathBuf,
    architectures: Vec<String>,
}

impl Apt {
    /// From the host's package source, for these architectures, the first of which is used for
    /// packages without one. Lists and packages are kept below `folder` until they are unpacked.
    pub(crate) fn of(suite: &str, architectures: &[&str], folder: &Path) -> Result<Self> {
        let packages = folder.join("packages");
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(packages.join(part))?;
        }
        let known = output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(LABEL)|$(REPO_URI)",
        ]))?;
        let of = |label: &str| {
            let found = known.lines().find_map(|line| line.strip_prefix(label));
            found.map(ToOwned::to_owned)
        };
        let archive = of("Debian|").context("apt knows no archive of Debian's")?;
        let all = architectures.join(",");
        let mut lines = format!("deb [arch={all}] {archive} {suite} main\n");
        // Stable Debian suites get fixes there; backports have none, nor have suites that are not
        // stable.
        let is_mended = !suite.contains('-') && !UNSTABLE.contains(&suite);
        if let Some(security) = of("Debian-Security|").filter(|_| is_mended) {
            lines += &format!("deb [arch={all}] {security} {suite}-security main\n");
        }
        fs::write(packages.join("sources.list"), lines)?;
        fs::write(packages.join("status"), "")?;
        let apt = Self {
            folder: packages,
            architectures: architectures.iter().map(|&one| one.to_owned()).collect(),
        };
        apt.run("apt-get", &["update", "-qq"])?;
        Ok(apt)
    }

    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        let places = [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State", "state"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ];
        for (option, place) in places {
            let place = self.folder.join(place);
            command.arg(format!("-o{option}={}", place.display()));
        }
        command
            .arg(format!("-oAPT::Architecture={}", self.architectures[0]))
            .args(
                self.architectures
                    .iter()
                    .map(|one| format!("-oAPT::Architectures::={one}")),
            )
            .args(["-oDir::Etc::sourceparts=-", "-oAcquire::Languages=none"])
            .arg("-oAPT::Sandbox::User=root")
            .args(words)
            .current_dir(&self.folder);
        command
    }

    /// Downloads packages and unpacks them into a folder; nothing is installed.
    pub(crate) fn unpack(self, packages: &[&str], into: &Path) -> Result<()> {
        self.run("apt-get", &[&["download", "-qq"], packages].concat())?;
        self.unpack_all(&self.folder, into)?;
        fs::remove_dir_all(&self.folder)?;
        Ok(())
    }

    /// The same with all their dependencies.
    pub(crate) fn unpack_with_dependencies(self, packages: &[&str], into: &Path) -> Result<()> {
        let words = [
            "install",
            "-y",
            "-qq",
            "--download-only",
            "--no-install-recommends",
        ];
        self.run("apt-get", &[&words[..], packages].concat())?;
        self.unpack_all(&self.folder.join("cache/archives"), into)?;
        fs::remove_dir_all(&self.folder)?;
        Ok(())
    }

    fn unpack_all(&self, from: &Path, into: &Path) -> Result<()> {
        for entry in fs::read_dir(from)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                run_command(Command::new("dpkg-deb").arg("-x").arg(&path).arg(into))?;
            }
        }
        Ok(())
    }

    fn run(&self, program: &str, words: &[&str]) -> Result<()> {
        run_command(self.command(program, words).stdout(Stdio::null()))
    }

    /// The dependencies of a package.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let said = output(&mut self.command("apt-cache", &["depends", package]))?;
        let names = said.lines().filter_map(|line| {
            let name = line
                .trim_start_matches([' ', '|'])
                .strip_prefix("Depends: ")?;
            Some(name.to_owned())
        });
        Ok(names.collect())
    }
}
