//! Files of a black box that cannot be removed. Needs root to make them so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use profiler_core::sample::{Sample, Target};
use profiler_trace::black_box::{BlackBox, BlackBoxError, BlackBoxLimits};
use profiler_trace::snapshot::Observation;

/// A file that cannot be changed or removed, until this goes.
struct Immutable(PathBuf);

impl Immutable {
    fn new(path: &Path) -> Self {
        let done = chattr("+i", path);
        assert!(
            done,
            "the file system of {} has no chattr +i",
            path.display()
        );
        Self(path.to_owned())
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        chattr("-i", &self.0);
    }
}

fn chattr(what: &str, path: &Path) -> bool {
    let status = Command::new("chattr").arg(what).arg(path).status();
    status.is_ok_and(|status| status.success())
}

fn walk(pid: i32) -> Sample {
    Sample {
        taken_at_ns: 1,
        target: Target {
            pid,
            ..Target::default()
        },
        ..Sample::default()
    }
}

#[test]
fn what_cannot_be_removed_counts_is_said_and_nothing_is_written_beyond_the_limit() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("box");
    let limits = BlackBoxLimits {
        bytes: 1 << 20,
        files: 2,
    };
    let mut black_box = BlackBox::open(&place, limits).expect("made");
    let mut add = |pid: i32| {
        let name = format!("w-{pid}.fragsnap");
        let kept = black_box.walk(&name, &walk(pid), &Observation::default());
        let there = fs::read_dir(&place).expect("a folder");
        let sizes = there.map(|entry| entry.expect("read").metadata().expect("there").len());
        let sizes: Vec<u64> = sizes.collect();
        assert_eq!(black_box.size(), (sizes.len(), sizes.iter().sum()));
        assert!(sizes.len() <= limits.files);
        (kept, black_box.notice())
    };
    add(1).0.expect("written");
    add(2).0.expect("written");
    let first = Immutable::new(&place.join("w-1.fragsnap"));
    // The next that may go goes instead.
    let (kept, notice) = add(3);
    kept.expect("written");
    let notice = notice.expect("said");
    assert!(
        notice.contains("w-1.fragsnap cannot be removed: "),
        "{notice}"
    );
    let third = Immutable::new(&place.join("w-3.fragsnap"));
    let (refused, _) = add(4);
    assert!(
        matches!(refused, Err(BlackBoxError::NoRoom { pid: 4, .. })),
        "{refused:?}"
    );
    drop((first, third));
    let (kept, notice) = add(5);
    kept.expect("written");
    // The first goes, which should have gone before; the third could.
    assert!(notice.is_some_and(|notice| notice.contains("w-3")));
    add(6).0.expect("written");
    assert_eq!(black_box.notice(), None);
}
