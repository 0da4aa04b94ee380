//! Kernels of Debian's: downloaded by apt, with lists of its own so that the host's stay as they are, and unpacked
//! without being installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{output, run as run_command};

/// Debian's suites, each with the kernel of its own that is the newest there.
pub(super) const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", "trixie-backports"];

/// A kernel that was unpacked.
pub(super) struct Kernel {
    /// As `uname -r` gives it.
    pub(super) release: String,
    /// What is booted.
    pub(super) image: PathBuf,
    /// Where `lib/modules` is, with `modules.dep`.
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// Its version, as 6.1.
    pub(super) fn version(&self) -> String {
        let mut parts = self.release.split('.');
        let (major, minor) = (parts.next(), parts.next());
        format!("{}.{}", major.unwrap_or("?"), minor.unwrap_or("?"))
    }
}

/// The newest kernel of a suite, in a folder below `folder` that is made once.
pub(super) fn kernel(suite: &str, folder: &Path) -> Result<Kernel> {
    let made = folder.join(suite);
    if !made.exists() {
        // Under another name until it is whole.
        let draft = tempfile::tempdir_in(folder)?;
        download(suite, draft.path()).with_context(|| format!("the kernel of {suite}"))?;
        fs::rename(draft.keep(), &made)?;
    }
    // Where /lib and /usr/lib are one, the packages have the second alone.
    let release = only_entry(&made.join("lib/modules"))?;
    let beside = made.join("lib/modules").join(&release).join("vmlinuz");
    let booted = made.join(format!("boot/vmlinuz-{release}"));
    let image = if booted.exists() { booted } else { beside };
    Ok(Kernel {
        release,
        image,
        modules: made,
    })
}

fn download(suite: &str, folder: &Path) -> Result<()> {
    let apt = Apt::of(suite, folder)?;
    apt.run("apt-get", &["update", "-qq"])?;
    // The newest is what the package without a version depends on, which is in parts since Linux 7.0 or so.
    let image = apt.depends("linux-image-amd64")?;
    let image = image.iter().find(|name| name.starts_with("linux-image-"));
    let image = image.context("linux-image-amd64 depends on no kernel")?;
    let mut parts = vec![image.clone()];
    let is_part = |name: &String| {
        ["linux-binary-", "linux-modules-"]
            .iter()
            .any(|part| name.starts_with(part))
    };
    parts.extend(apt.depends(image)?.into_iter().filter(is_part));
    let mut words = vec!["download", "-qq"];
    words.extend(parts.iter().map(String::as_str));
    apt.run("apt-get", &words)?;
    for entry in fs::read_dir(folder.join("packages"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run_command(Command::new("dpkg-deb").arg("-x").arg(&path).arg(folder))?;
        }
    }
    fs::remove_dir_all(folder.join("packages"))?;
    if !folder.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", folder.join("lib"))?;
    }
    let release = only_entry(&folder.join("lib/modules"))?;
    run_command(
        Command::new("/sbin/depmod")
            .arg("-b")
            .arg(folder)
            .arg(release),
    )
}

/// The name of the one entry of a folder.
fn only_entry(folder: &Path) -> Result<String> {
    let entries: Vec<_> = fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .collect::<Result<_, _>>()?;
    match entries.as_slice() {
        [one] => Ok(one.file_name().to_string_lossy().into_owned()),
        all => bail!("{} entries in {}", all.len(), folder.display()),
    }
}

/// apt with lists of its own, which know one suite.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// From where the host has its packages.
    fn of(suite: &str, folder: &Path) -> Result<Self> {
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
        let mut lines = format!("deb {archive} {suite} main\n");
        // Kernels of a stable Debian are mended there; backports have none.
        if let Some(security) = of("Debian-Security|").filter(|_| !suite.contains('-')) {
            lines += &format!("deb {security} {suite}-security main\n");
        }
        fs::write(packages.join("sources.list"), lines)?;
        fs::write(packages.join("status"), "")?;
        Ok(Self { folder: packages })
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
            .args(["-oDir::Etc::sourceparts=-", "-oAcquire::Languages=none"])
            .arg("-oAPT::Sandbox::User=root")
            .args(words)
            .current_dir(&self.folder);
        command
    }

    fn run(&self, program: &str, words: &[&str]) -> Result<()> {
        run_command(self.command(program, words).stdout(Stdio::null()))
    }

    /// What a package depends on.
    fn depends(&self, package: &str) -> Result<Vec<String>> {
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
