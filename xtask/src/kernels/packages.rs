//! Debian's kernels: downloaded by apt, with separate package lists so that the host's stay
//! unchanged, and unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::Apt;
use crate::run as run_command;

/// Debian's suites, each with the newest kernel of its own.
pub(super) const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", "trixie-backports"];

/// Which kernel of Debian's.
pub(crate) struct Origin {
    /// The suite.
    pub(crate) suite: &'static str,
    /// Debian's name of the machine.
    pub(crate) architecture: &'static str,
    /// The suffix of its package's name: `-16k`, or nothing.
    pub(crate) flavour: &'static str,
}

impl Origin {
    /// A suite's kernel for x86-64.
    pub(super) const fn amd64(suite: &'static str) -> Self {
        Self {
            suite,
            architecture: "amd64",
            flavour: "",
        }
    }

    fn package(&self) -> String {
        format!("linux-image-{}{}", self.architecture, self.flavour)
    }

    fn folder(&self) -> String {
        match self.architecture {
            "amd64" => self.suite.to_owned(),
            other => format!("{}-{other}{}", self.suite, self.flavour),
        }
    }
}

/// A kernel that was unpacked.
pub(crate) struct Kernel {
    /// Its release, as printed by `uname -r`.
    pub(crate) release: String,
    /// The image to boot.
    pub(super) image: PathBuf,
    /// Where `lib/modules` is, with `modules.dep`.
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// Its version, such as 6.1.
    pub(super) fn version(&self) -> String {
        let mut parts = self.release.split('.');
        let (major, minor) = (parts.next(), parts.next());
        format!("{}.{}", major.unwrap_or("?"), minor.unwrap_or("?"))
    }
}

/// The newest such kernel, in a directory below `folder` that is created once.
pub(crate) fn kernel(origin: &Origin, folder: &Path) -> Result<Kernel> {
    let made = folder.join(origin.folder());
    if !made.exists() {
        // Under another name until it is complete.
        let draft = tempfile::tempdir_in(folder)?;
        download(origin, draft.path())
            .with_context(|| format!("the kernel of {}", origin.suite))?;
        fs::rename(draft.keep(), &made)?;
    }
    // Where /lib and /usr/lib are merged, the packages only have the second.
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

fn download(origin: &Origin, folder: &Path) -> Result<()> {
    let apt = Apt::of(origin.suite, &[origin.architecture], folder)?;
    let package = origin.package();
    // The newest is the dependency of the package without a version, which is split since about
    // Linux 7.0.
    let image = apt.depends(&package)?;
    let image = image.iter().find(|name| name.starts_with("linux-image-"));
    let image = image.with_context(|| format!("{package} depends on no kernel"))?;
    let mut parts = vec![image.clone()];
    let is_part = |name: &String| {
        ["linux-binary-", "linux-modules-"]
            .iter()
            .any(|part| name.starts_with(part))
    };
    parts.extend(apt.depends(image)?.into_iter().filter(is_part));
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    apt.unpack(&parts, folder)?;
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
