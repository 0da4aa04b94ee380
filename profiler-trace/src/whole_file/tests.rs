use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn write(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    Place::reserve(path)?.write(bytes)
}

/// Begins a file as where the file system has none without a name.
fn begin_named(place: &Place) -> Result<Output, WriteError> {
    place.output(Draft::begin_named(&place.0.folder, &place.0.temporary))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).expect("listed").count()
}

#[test]
fn a_new_file_is_its_owners_alone_and_a_replaced_one_keeps_its_mode() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.json");
    write(&path, b"first").expect("written");
    assert_eq!(mode(&path), 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).expect("mode");
    write(&path, b"second").expect("written");
    assert_eq!(fs::read(&path).expect("read"), b"second");
    assert_eq!(mode(&path), 0o664);
    assert_eq!(entries(dir.path()), 1, "nothing left behind");
}

#[test]
fn other_names_of_a_replaced_file_keep_what_it_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, other) = (dir.path().join("out.csv"), dir.path().join("other.csv"));
    fs::write(&path, "before").expect("written");
    fs::hard_link(&path, &other).expect("linked");
    write(&path, b"after").expect("written");
    assert_eq!(fs::read(&path).expect("read"), b"after");
    assert_eq!(fs::read(&other).expect("read"), b"before");
}

#[test]
fn an_error_names_the_file_that_was_asked_for_and_no_other() {
    let error = Place::reserve(Path::new("/proc/out.json")).expect_err("no place for files");
    assert!(error.to_string().starts_with("cannot write /proc/out.json"));
    assert!(!error.to_string().contains(".fragscope-"), "{error}");
    let error = Place::reserve(Path::new("/no\n\x1b[2J/out.json")).expect_err("no folder");
    assert!(!error.to_string().contains(['\n', '\x1b']), "{error}");
}

#[test]
fn links_devices_pipes_and_folders_are_not_replaced() {
    let dir = tempfile::tempdir().expect("a folder");
    let (link, file) = (dir.path().join("link.csv"), dir.path().join("file.csv"));
    fs::write(&file, b"before").expect("written");
    symlink(&file, &link).expect("linked");
    let pipe = dir.path().join("pipe.csv");
    nix::unistd::mkfifo(&pipe, Mode::S_IRUSR).expect("a pipe");
    let written = write(&link, b"after");
    assert!(matches!(written, Err(WriteError::IsLink(_))), "{link:?}");
    for path in [&*pipe, Path::new("/dev/null")] {
        let written = write(path, b"after");
        assert!(matches!(written, Err(WriteError::NotAFile(_))), "{path:?}");
    }
    for path in [dir.path(), &dir.path().join("out/")] {
        let written = write(path, b"after");
        assert!(
            matches!(written, Err(WriteError::NamesFolder(_))),
            "{path:?}"
        );
    }
    assert_eq!(fs::read(&file).expect("read"), b"before");
    let missing = dir.path().join("no/out.json");
    assert!(matches!(
        write(&missing, b""),
        Err(WriteError::NoFolder { .. })
    ));
    let within = file.join("out.json");
    assert!(matches!(
        write(&within, b""),
        Err(WriteError::NoFolder { .. })
    ));
}

#[test]
fn a_link_of_our_own_in_the_path_is_followed_and_one_that_others_could_plant_is_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    fs::create_dir(&real).expect("made");
    symlink("real", &link).expect("linked");
    write(&link.join("../link/out.json"), b"through").expect("written");
    assert_eq!(fs::read(real.join("out.json")).expect("read"), b"through");
    // Anybody can put a link into such a folder, or move one there.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("mode");
    let refused = write(&link.join("other.json"), b"");
    assert!(
        matches!(refused, Err(WriteError::Link { .. })),
        "{refused:?}"
    );
    assert_eq!(entries(&real), 1);
}

#[test]
fn a_refused_link_is_named_by_a_path_that_leads_to_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let own = dir.path().canonicalize().expect("there");
    let (real, open) = (own.join("real"), own.join("open"));
    fs::create_dir_all(real.join("in")).expect("made");
    fs::create_dir(&open).expect("made");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("mode");
    let planted = open.join("planted");
    symlink(&real, &planted).expect("linked");
    symlink("../open", real.join("relative")).expect("linked");
    symlink(&open, real.join("absolute")).expect("linked");
    for (through, named) in [
        (planted.clone(), planted.clone()),
        (real.join("relative/planted"), real.join("../open/planted")),
        (real.join("absolute/planted/in"), planted.clone()),
        (
            real.join("in/../relative/planted"),
            real.join("in/../../open/planted"),
        ),
    ] {
        match Place::reserve(&through.join("out.json")) {
            Err(WriteError::Link { link, .. }) => assert_eq!(link, named, "{through:?}"),
            other => panic!("{through:?}: {other:?}"),
        }
    }
}

#[test]
fn a_link_round_in_circles_is_an_error() {
    let dir = tempfile::tempdir().expect("a folder");
    symlink("b", dir.path().join("a")).expect("linked");
    symlink("a", dir.path().join("b")).expect("linked");
    let refused = write(&dir.path().join("a/out.json"), b"");
    assert!(matches!(refused, Err(WriteError::Io { .. })), "{refused:?}");
}

#[test]
fn two_writers_of_one_path_are_noticed_whatever_they_call_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.json");
    let first = Place::reserve(&path).expect("reserved");
    let again = dir.path().join(".").join("out.json");
    let second = Place::reserve(&again).expect_err("taken");
    assert!(matches!(second, WriteError::InUse { pid: Some(_), .. }));
    Place::reserve(&dir.path().join("other.json")).expect("another file");
    drop(first);
    Place::reserve(&path).expect("free again");
}

#[test]
fn what_grows_is_there_from_its_first_bytes_and_replaces_nothing_before() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.fragtrace");
    fs::write(&path, "before").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("mode");
    let place = Place::reserve(&path).expect("reserved");
    drop(place.begin_growing().expect("begun"));
    let mut output = place.begin_growing().expect("begun");
    assert_eq!(fs::read(&path).expect("read"), b"before");
    output.write_all(b"one ").expect("written");
    assert_eq!(fs::read(&path).expect("read"), b"one ");
    output.write_all(b"two").expect("written");
    assert_eq!(output.len().expect("its length"), 7);
    drop(output);
    assert_eq!(fs::read(&path).expect("read"), b"one two");
    assert_eq!(mode(&path), 0o640);
    assert_eq!(entries(dir.path()), 1);
}

#[test]
fn what_is_whole_is_not_there_before_it_is_finished() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.json");
    let place = Place::reserve(&path).expect("reserved");
    let mut output = place.begin().expect("begun");
    output.write_all(b"half").expect("written");
    assert_eq!(entries(dir.path()), 0);
    drop(output);
    assert_eq!(entries(dir.path()), 0);
    // What was made meanwhile is replaced, as what was there before is.
    let mut output = place.begin().expect("begun");
    output.write_all(b"whole").expect("written");
    fs::write(&path, "meanwhile").expect("written");
    output.finish().expect("finished");
    assert_eq!(fs::read(&path).expect("read"), b"whole");
}

#[test]
fn what_a_kill_left_under_the_temporary_name_is_cleared() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.json");
    let temporary = Place::reserve(&path).expect("reserved").0.temporary.clone();
    fs::write(dir.path().join(&temporary), "left").expect("written");
    write(&path, b"whole").expect("written");
    assert_eq!(entries(dir.path()), 1);
}

#[test]
fn what_somebody_planted_under_the_temporary_name_is_in_nobodys_way() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.json");
    fs::write(&path, "before").expect("written");
    let name = Place::reserve(&path).expect("reserved").0.temporary.clone();
    let planted = dir.path().join(name);
    for kind in ["link", "pipe", "folder"] {
        match kind {
            "link" => symlink("/etc/passwd", &planted).expect("linked"),
            "pipe" => nix::unistd::mkfifo(&planted, Mode::S_IRUSR).expect("a pipe"),
            _ => fs::create_dir(&planted).expect("made"),
        }
        let place = Place::reserve(&path).expect("reserved");
        place.write(kind.as_bytes()).expect("written");
        assert_eq!(fs::read(&path).expect("read"), kind.as_bytes());
        let mut output = begin_named(&place).expect("begun");
        output.write_all(b"named").expect("written");
        output.finish().expect("finished");
        assert_eq!(fs::read(&path).expect("read"), b"named");
        assert_eq!(entries(dir.path()), 2, "it and what was planted");
        match kind {
            "folder" => fs::remove_dir(&planted).expect("removed"),
            _ => fs::remove_file(&planted).expect("removed"),
        }
    }
    // Also after the place was reserved.
    let place = Place::reserve(&path).expect("reserved");
    fs::write(&planted, "").expect("written");
    place.write(b"last").expect("written");
    assert_eq!(fs::read(&path).expect("read"), b"last");
}

/// The place as a process has it that finds no folder for locks, or another one than we do.
fn unlocked(path: &Path) -> Place {
    let none = RuntimeDir::first("tests", |_| Err::<(), _>(io::Error::other("none")));
    let lock = Err(none.expect_err("none serves"));
    let (folder, name) = (Folder::of(path).expect("ours"), path.file_name());
    let place = Place::under(lock, path, folder, name.expect("a name")).expect("a place");
    assert!(place.unlocked().is_some());
    place
}

#[test]
fn what_another_one_writes_under_other_locks_is_left_alone_and_both_are_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.json");
    // As on a file system that has no files without a name.
    let mut first = begin_named(&unlocked(&path)).expect("begun");
    first.write_all(b"first").expect("written");
    let locked = Place::reserve(&path).expect("reserved");
    assert!(locked.unlocked().is_none());
    let mut second = begin_named(&locked).expect("begun");
    second.write_all(b"second").expect("written");
    let mut third = begin_named(&unlocked(&path)).expect("begun");
    third.write_all(b"third").expect("written");
    assert_eq!(entries(dir.path()), 3);
    for (output, whole) in [(first, "first"), (second, "second"), (third, "third")] {
        output.finish().expect("finished");
        assert_eq!(fs::read_to_string(&path).expect("read"), whole);
    }
    assert_eq!(entries(dir.path()), 1);
}

#[test]
fn what_a_dead_one_left_is_removed_with_and_without_a_lock() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.json");
    let left = dir.path().join(&unlocked(&path).0.temporary);
    for reserve in [unlocked, |path: &Path| {
        Place::reserve(path).expect("reserved")
    }] {
        fs::write(&left, "left").expect("written");
        drop(reserve(&path));
        assert!(!left.exists());
    }
}

#[test]
fn a_draft_that_somebody_replaced_is_not_put_into_its_place() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.json");
    fs::write(&path, "before").expect("written");
    for replaced in [false, true] {
        let place = Place::reserve(&path).expect("reserved");
        let mut output = begin_named(&place).expect("begun");
        output.write_all(b"ours").expect("written");
        let draft = dir.path().join(&place.0.temporary);
        fs::remove_file(&draft).expect("ours");
        if replaced {
            fs::write(&draft, "another's").expect("written");
        }
        let refused = output.finish().expect_err("it is not there").to_string();
        assert!(
            refused.contains("removed or replaced the file"),
            "{refused}"
        );
        assert_eq!(fs::read(&path).expect("read"), b"before");
        assert_eq!(draft.exists(), replaced, "another's is left alone");
    }
}

#[test]
fn an_error_says_what_is_wrong_with_the_place() {
    let error = Place::reserve(Path::new("/proc/out.json")).expect_err("no place for files");
    assert!(error.to_string().contains("takes no new files"), "{error}");
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.json");
    let _first = Place::reserve(&path).expect("reserved");
    let error = Place::reserve(&path).expect_err("taken").to_string();
    assert!(error.ends_with("it is named twice"), "{error}");
}

#[test]
fn without_nameless_files_a_temporary_name_does_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out.json");
    let place = Place::reserve(&path).expect("reserved");
    for before in [None, Some(0o644)] {
        if let Some(mode) = before {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode");
        }
        let mut output = begin_named(&place).expect("begun");
        assert!(matches!(output.draft.state, State::Temporary(_)));
        output.write_all(b"whole").expect("written");
        output.finish().expect("finished");
        assert_eq!(mode(&path), before.unwrap_or(0o600));
        drop(begin_named(&place).expect("begun"));
        assert_eq!(entries(dir.path()), 1);
    }
}

#[test]
fn one_place_by_two_paths_is_noticed_without_locks_too() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir(dir.path().join("within")).expect("made");
    let first = unlocked(&dir.path().join("out.json"));
    let again = unlocked(&dir.path().join("within/../out.json"));
    let other = unlocked(&dir.path().join("within/out.json"));
    let error = again.apart_from_place(&first).expect_err("the same");
    assert!(error.to_string().ends_with("it is named twice"), "{error}");
    other.apart_from_place(&first).expect("another one");
}
