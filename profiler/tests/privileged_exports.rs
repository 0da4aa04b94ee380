//! Exports onto disks that are full or read-only: needs root, to mount them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use fragscope::export;
use profiler_core::report::FragReport;
use profiler_core::sample::Sample;
use profiler_core::view::View;

/// A small disk of its own, unmounted when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        run(
            "mount",
            &["-t", "tmpfs", "-o", "size=64k", "none"],
            folder.path(),
        );
        Self(folder)
    }

    fn files(&self) -> Vec<String> {
        let listed = fs::read_dir(self.0.path()).expect("listed");
        listed
            .map(|entry| {
                let name = entry.expect("an entry").file_name();
                name.to_string_lossy().into_owned()
            })
            .collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &[], self.0.path());
    }
}

fn run(program: &str, args: &[&str], path: &Path) {
    let status = Command::new(program).args(args).arg(path).status();
    assert!(status.expect("it runs").success(), "{program} {args:?}");
}

/// A view that takes more than the disk has.
fn large_view() -> View {
    View {
        report: Arc::new(FragReport::from_sample(&Sample::default())),
        activity: None,
        notices: vec!["x".repeat(256 << 10)],
        history: Arc::default(),
        ended: None,
    }
}

#[test]
fn a_full_disk_is_said_and_the_file_there_stays_whole() {
    let disk = Disk::mount();
    let path = disk.0.path().join("out.json");
    fs::write(&path, "before").expect("there is room");
    export::check(&path).expect("nothing speaks against it yet");
    let error = export::write(&path, &large_view()).expect_err("no room");
    let message = error.to_string();
    assert!(message.contains("free some space"), "{message}");
    assert_eq!(fs::read_to_string(&path).expect("read"), "before");
    assert_eq!(disk.files(), ["out.json"], "no part of a file is left");
}

#[test]
fn a_read_only_disk_is_said_before_attaching() {
    let disk = Disk::mount();
    run("mount", &["-o", "remount,ro"], disk.0.path());
    for name in ["out.json", "out.csv", "out.hlog"] {
        let error = export::check(&disk.0.path().join(name)).expect_err("read-only");
        let message = error.to_string();
        assert!(
            message.contains("name a place that you may write to"),
            "{message}"
        );
    }
}
