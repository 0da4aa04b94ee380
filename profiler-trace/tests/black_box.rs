//! The black box: what is kept, what goes first, and what is never touched.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use profiler_core::heap::HeapSnapshot;
use profiler_core::sample::{Sample, Target};
use profiler_trace::black_box::{BlackBox, BlackBoxError, BlackBoxLimits};
use profiler_trace::limits::Meter;
use profiler_trace::snapshot::{Fate, Observation, Reader, Record};
use profiler_trace::whole_file::WriteError;

const MUCH: BlackBoxLimits = BlackBoxLimits {
    bytes: 1 << 20,
    files: 100,
};

/// A walk whose bytes do not shrink, so that files have sizes that can be foreseen.
fn walk(pid: i32, taken_at_ns: u64, bytes: usize) -> Sample {
    let mut random = fastrand::Rng::with_seed(taken_at_ns);
    let noise = std::iter::repeat_with(|| random.alphanumeric()).take(bytes);
    Sample {
        taken_at_ns,
        target: Target {
            pid,
            comm: noise.collect(),
            began_ticks: Some(1),
            ..Target::default()
        },
        heaps: Vec::<HeapSnapshot>::new(),
        ..Sample::default()
    }
}

fn ended(how: &str) -> Observation {
    Observation {
        ended: Some(how.into()),
        ..Observation::default()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("read")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    names.sort();
    names
}

/// Numbers and moments of the walks in a file, and how it ended; the file is whole.
fn held(file: &Path) -> (Vec<(u64, u64)>, Option<String>) {
    let bytes = fs::read(file).expect("there");
    let mut reader = Reader::new(bytes.as_slice(), Meter::default()).expect("a session");
    let (mut walks, mut how) = (Vec::new(), None);
    while let Some(record) = reader.next_record().expect("read") {
        match record {
            Record::Walk { number, sample } => {
                walks.push((number, sample.taken_at_ns().expect("sound")));
            }
            Record::Observation { observation, .. } => how = observation.ended,
        }
    }
    assert_eq!(reader.trouble(), None);
    (walks, how)
}

#[test]
fn the_last_walks_of_a_process_are_kept_under_their_numbers_with_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("box");
    let mut black_box = BlackBox::open(&place, MUCH).expect("made");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&place), 0o700);
    let name = black_box.name("worker.py", &walk(7, 1, 0).target);
    let name = name.expect("free");
    assert_eq!(name, "worker-7.fragsnap");
    for moment in 1..=20 {
        let sample = walk(7, moment, 100);
        let kept = black_box.walk(&name, &sample, &Observation::default());
        kept.expect("written");
    }
    let file = place.join(&name);
    assert_eq!(mode(&file), 0o600);
    let (walks, how) = held(&file);
    assert_eq!(how, None);
    let last = walks.len() as u64;
    assert!((2..20).contains(&last), "{walks:?}");
    assert_eq!(
        walks,
        ((21 - last)..=20).map(|n| (n, n)).collect::<Vec<_>>()
    );
    let end = black_box.end(&name, 7, &ended("it was killed"), Fate::Killed);
    end.expect("written");
    assert_eq!(held(&file), (walks.clone(), Some("it was killed".into())));
    // Another fragscope goes on with it, and has another name for another process of this number.
    drop(black_box);
    let mut black_box = BlackBox::open(&place, MUCH).expect("opened");
    let same = walk(7, 21, 100);
    assert_eq!(
        black_box.name("worker.py", &same.target).expect("its own"),
        name
    );
    let mut other = same.target;
    other.began_ticks = Some(2);
    let second = black_box.name("worker.py", &other).expect("free");
    assert_eq!(second, "worker-7-2.fragsnap");
    assert_eq!(held(&file).0, walks);
}

#[test]
fn those_that_ended_go_first_and_those_that_were_killed_last() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("box");
    let limits = BlackBoxLimits { files: 3, ..MUCH };
    let mut black_box = BlackBox::open(&place, limits).expect("made");
    let mut walked = |pid: i32, fate: Fate| {
        let name = format!("w-{pid}.fragsnap");
        let kept = black_box.walk(&name, &walk(pid, 1, 10), &Observation::default());
        kept.expect("written");
        if fate != Fate::Running {
            let end = black_box.end(&name, pid, &ended("over"), fate);
            end.expect("written");
        }
        names(&place).join(" ").replace(".fragsnap", "")
    };
    walked(1, Fate::Killed);
    walked(2, Fate::Running);
    assert_eq!(walked(3, Fate::Ended), "w-1 w-2 w-3");
    assert_eq!(walked(4, Fate::Ended), "w-1 w-2 w-4");
    assert_eq!(walked(5, Fate::Running), "w-1 w-2 w-5");
    assert_eq!(walked(6, Fate::Killed), "w-1 w-5 w-6");
    assert_eq!(walked(7, Fate::Killed), "w-1 w-6 w-7");
    assert_eq!(walked(8, Fate::Killed), "w-6 w-7 w-8");
    // What an earlier one left is bounded too.
    drop(black_box);
    let limits = BlackBoxLimits { files: 1, ..MUCH };
    let black_box = BlackBox::open(&place, limits).expect("opened");
    assert_eq!(names(&place), ["w-8.fragsnap"]);
    assert_eq!(black_box.size().0, 1);
}

#[test]
fn all_files_together_are_no_larger_than_they_may_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("box");
    let limits = BlackBoxLimits {
        bytes: 40_000,
        ..MUCH
    };
    let mut black_box = BlackBox::open(&place, limits).expect("made");
    for moment in 1..=30 {
        let pid = moment as i32 % 7;
        let name = format!("w-{pid}.fragsnap");
        let sample = walk(pid, moment, 5_000);
        let kept = black_box.walk(&name, &sample, &Observation::default());
        kept.expect("written");
        let size = |name: &String| fs::metadata(place.join(name)).expect("there").len();
        let bytes: u64 = names(&place).iter().map(size).sum();
        assert!(bytes <= limits.bytes, "{bytes}");
        assert_eq!(black_box.size(), (names(&place).len(), bytes));
        // The one that was written last is always there.
        assert_eq!(held(&place.join(&name)).0.last().expect("some").1, moment);
    }
    let too_large = walk(99, 99, 100_000);
    let refused = black_box.walk("w-99.fragsnap", &too_large, &Observation::default());
    assert!(matches!(
        refused,
        Err(BlackBoxError::TooLarge { pid: 99, .. })
    ));
    assert!(
        !names(&place).is_empty(),
        "nothing went for what cannot be kept"
    );
}

#[test]
fn what_is_not_its_own_is_neither_removed_nor_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("box");
    drop(BlackBox::open(&place, MUCH).expect("made"));
    let session = {
        let mut writer = profiler_trace::snapshot::Writer::new(Vec::new()).expect("memory");
        writer.walk(&walk(1, 1, 10)).expect("memory");
        writer.finish().expect("memory")
    };
    // A session that somebody saved here himself, another file, a link, a folder.
    fs::write(place.join("w-1.fragsnap"), &session).expect("written");
    fs::write(place.join("w-2.fragsnap"), "notes").expect("written");
    symlink("/etc/passwd", place.join("w-3.fragsnap")).expect("made");
    fs::create_dir(place.join("w-4.fragsnap")).expect("made");
    let limits = BlackBoxLimits { files: 1, ..MUCH };
    let mut black_box = BlackBox::open(&place, limits).expect("opened");
    for pid in 1..=4 {
        let sample = walk(pid, 9, 10);
        let name = black_box.name("w", &sample.target).expect("free");
        assert_eq!(name, format!("w-{pid}-2.fragsnap"));
        let kept = black_box.walk(&name, &sample, &Observation::default());
        kept.expect("written");
        let taken = format!("w-{pid}.fragsnap");
        let refused = black_box.walk(&taken, &sample, &Observation::default());
        assert!(matches!(refused, Err(BlackBoxError::NotOurs { .. })));
    }
    assert_eq!(
        names(&place),
        [
            "w-1.fragsnap",
            "w-2.fragsnap",
            "w-3.fragsnap",
            "w-4-2.fragsnap",
            "w-4.fragsnap"
        ]
    );
    assert_eq!(
        fs::read(place.join("w-1.fragsnap")).expect("there"),
        session
    );
    // One that was replaced since it was written is another's.
    fs::remove_file(place.join("w-4-2.fragsnap")).expect("removed");
    fs::write(place.join("w-4-2.fragsnap"), "mine").expect("written");
    let sample = walk(5, 9, 10);
    let kept = black_box.walk("w-5.fragsnap", &sample, &Observation::default());
    kept.expect("written");
    let mine = fs::read(place.join("w-4-2.fragsnap")).expect("there");
    assert_eq!(mine, b"mine");
}

#[test]
fn a_folder_that_others_can_write_to_or_another_uses_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("box");
    let first = BlackBox::open(&place, MUCH).expect("made");
    let second = BlackBox::open(&place, MUCH);
    assert!(
        matches!(second, Err(WriteError::InUse { .. })),
        "{second:?}"
    );
    drop(first);
    for mode in [0o777, 0o720, 0o1777] {
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).expect("set");
        let refused = BlackBox::open(&place, MUCH);
        let is_it = matches!(refused, Err(WriteError::NotOurFolder { .. }));
        assert!(is_it, "{mode:o}: {refused:?}");
    }
    let missing = BlackBox::open(&place.join("a/b"), MUCH);
    assert!(
        matches!(missing, Err(WriteError::NoFolder { .. })),
        "{missing:?}"
    );
}

#[test]
fn a_name_is_harmless_whatever_a_program_is_called() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut black_box = BlackBox::open(&folder.path().join("box"), MUCH).expect("made");
    let target = walk(7, 1, 0).target;
    for (program, expected) in [
        ("../../etc/x", "etcx-7.fragsnap"),
        (".hidden", "hidden-7.fragsnap"),
        ("\u{1b}[2J", "2J-7.fragsnap"),
        ("…", "process-7.fragsnap"),
    ] {
        assert_eq!(black_box.name(program, &target).expect("free"), expected);
    }
}

/// Damage in the midst of a file, behind what says whose it is.
fn damage(file: &Path) -> Vec<u8> {
    let mut bytes = fs::read(file).expect("there");
    let at = bytes.len() / 2;
    bytes[at] ^= 0xff;
    fs::write(file, &bytes).expect("written");
    bytes
}

#[test]
fn a_file_that_cannot_be_read_stays_as_it_is_and_what_follows_has_another_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("box");
    let mut black_box = BlackBox::open(&place, MUCH).expect("made");
    let first = black_box.name("w", &walk(1, 1, 0).target).expect("free");
    for moment in 1..=3 {
        let kept = black_box.walk(&first, &walk(1, moment, 500), &Observation::default());
        kept.expect("written");
    }
    assert_eq!(black_box.notice(), None);
    for cut in [false, true] {
        let file = place.join(&first);
        let damaged = match cut {
            false => damage(&file),
            true => {
                let bytes = fs::read(&file).expect("there");
                let half = bytes[..bytes.len() / 2].to_owned();
                fs::write(&file, &half).expect("written");
                half
            }
        };
        let sample = walk(1, 4, 500);
        let refused = black_box.walk(&first, &sample, &Observation::default());
        let refused = refused.expect_err("it has walks that would be lost");
        assert!(refused.is_of_name(), "{refused}");
        let end = black_box.end(&first, 1, &ended("over"), Fate::Killed);
        assert!(
            matches!(end, Err(BlackBoxError::Unreadable { .. })),
            "{end:?}"
        );
        assert_eq!(fs::read(&file).expect("there"), damaged);
        let notice = black_box.notice().expect("said");
        assert!(notice.contains("w-1.fragsnap cannot be read: "), "{notice}");
    }
    let second = black_box.name("w", &walk(1, 1, 0).target).expect("free");
    assert_eq!(second, "w-1-2.fragsnap");
    let kept = black_box.walk(&second, &walk(1, 4, 500), &Observation::default());
    kept.expect("written");
    assert_eq!(held(&place.join(&second)).0, [(1, 4)]);
    // It counts, and goes when there is no more room, as others do: the oldest first.
    let older = SystemTime::now() - Duration::from_secs(60);
    let damaged = fs::File::options().append(true).open(place.join(&first));
    damaged.expect("there").set_modified(older).expect("ours");
    assert_eq!(black_box.size().0, 2);
    drop(black_box);
    let limits = BlackBoxLimits { files: 1, ..MUCH };
    let black_box = BlackBox::open(&place, limits).expect("opened");
    assert_eq!((names(&place).len(), black_box.size().0), (1, 1));
    assert_eq!(names(&place), [second]);
    assert_eq!(black_box.notice(), None);
}
