//! A virtual machine that boots a kernel, runs the checks and switches itself off.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::packages::Kernel;

/// Of the guest.
const MEMORY: &str = "2048";
const PROCESSORS: &str = "2";
/// A guest that takes longer hangs: its checks have their own limits.
const ENDS_WITHIN: Duration = Duration::from_secs(3 * 3600);

/// Which machine is emulated.
#[derive(Copy, Clone)]
pub(crate) enum Processor {
    X86_64,
    Aarch64,
}

/// The machine to boot.
pub(crate) struct Machine<'m> {
    pub(crate) processor: Processor,
    pub(crate) kernel: &'m Kernel,
    pub(crate) initramfs: &'m Path,
    pub(crate) disk: &'m Path,
    /// Where the console's output and the report go.
    pub(crate) folder: &'m Path,
}

impl Machine<'_> {
    /// Boots it with these words on the kernel's command line, and returns the guest's reports.
    pub(crate) fn run(&self, name: &str, words: &str) -> Result<Vec<Value>> {
        let (console, report) = (self.place(name, "console"), self.place(name, "report"));
        let mut child = self.command(words, &console, &report).spawn()?;
        let began = Instant::now();
        loop {
            if child.try_wait()?.is_some() {
                break;
            }
            if began.elapsed() > ENDS_WITHIN {
                child.kill()?;
                child.wait()?;
                bail!(
                    "the guest did not end; its console is in {}",
                    console.display()
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let all = read(&report);
        let all = all.with_context(|| format!("the console is in {}", console.display()))?;
        if !all.iter().any(|one| one["kind"] == "end") {
            let broken = all.iter().find(|one| one["kind"] == "broken");
            let said = broken.and_then(|one| one["said"].as_str());
            bail!(
                "the checks did not come to their end: {}",
                said.unwrap_or("the guest ended before")
            );
        }
        Ok(all)
    }

    /// The reports of the last run of this name, complete or not; none if there was no run.
    pub(super) fn kept(&self, name: &str) -> Result<Vec<Value>> {
        let report = self.place(name, "report");
        match report.exists() {
            true => read(&report),
            false => Ok(Vec::new()),
        }
    }

    fn place(&self, name: &str, what: &str) -> PathBuf {
        let file = format!("{}-{name}.{what}", self.kernel.release);
        self.folder.join(file)
    }

    fn command(&self, words: &str, console: &Path, report: &Path) -> Command {
        let (mut command, words) = match self.processor {
            Processor::X86_64 => x86_64(console, report, words),
            Processor::Aarch64 => aarch64(console, report, words),
        };
        command
            .args(["-m", MEMORY, "-smp", PROCESSORS, "-no-reboot"])
            .args(["-display", "none", "-monitor", "none", "-nic", "none"])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(self.initramfs)
            // What the guest writes is discarded with it.
            .args(["-snapshot", "-drive"])
            .arg(format!("file={},if=virtio,format=raw", self.disk.display()))
            .arg("-append")
            .arg(words)
            .stdin(Stdio::null());
        command
    }
}

/// The emulator of such a machine, and its kernel's command line, which says where the console and
/// the report are.
fn x86_64(console: &Path, report: &Path, words: &str) -> (Command, String) {
    let file = |path: &Path| format!("file:{}", path.display());
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-machine", "q35", "-accel", accelerator()])
        // Five levels of page tables only make an emulated one slower.
        .args(["-cpu", "max,la57=off"])
        .args(["-serial", &file(console), "-serial", &file(report)]);
    let words = format!("console=ttyS0 report=ttyS1 panic=-1 no_timer_check loglevel=4 {words}");
    (command, words)
}

/// The same for a machine with one serial port; the report has one on the bus.
fn aarch64(console: &Path, report: &Path, words: &str) -> (Command, String) {
    let mut command = Command::new("qemu-system-aarch64");
    command
        .args(["-machine", "virt", "-accel", SOFTWARE])
        // Signed return addresses, as new processors have them, by a hash that software computes quickly. The rest is
        // what older kernels do not boot with.
        .args(["-cpu", "max,pauth-impdef=on,sve=off,lpa2=off"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-chardev")
        .arg(format!("file,id=report,path={}", report.display()))
        .args(["-device", "pci-serial,chardev=report"]);
    let words = format!("console=ttyAMA0 report=ttyS0 panic=-1 loglevel=4 {words}");
    (command, words)
}

/// Emulation by software.
const SOFTWARE: &str = "tcg,thread=multi";

/// The processor's virtualisation, or software emulation, which takes ten times as long. A
/// `/dev/kvm` on a processor without virtualisation is for specially prepared guests, which these
/// are not.
fn accelerator() -> &'static str {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag| processors.split_whitespace().any(|word| word == flag);
    let may = fs::File::options().read(true).write(true).open("/dev/kvm");
    if may.is_ok() && (has("vmx") || has("svm")) {
        "kvm"
    } else {
        SOFTWARE
    }
}

/// The lines of a report.
fn read(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let of = |line: &str| serde_json::from_str(line).with_context(|| line.to_owned());
    lines.map(of).collect()
}
