use super::super::model::tests::process;
use super::super::{Memory, WalkFigures};
use super::*;
use crate::report::FragReport;

const MIB: u64 = 1 << 20;

fn row(pid: i32, parent: i32, command: &[&str], path: Option<&str>) -> ProcessRow {
    let mut process = process(pid, parent, 30 * MIB);
    process.memory = Memory {
        pss_bytes: Some(20 * MIB),
        uss_bytes: Some(10 * MIB),
        ..process.memory
    };
    process.cmdline = command.iter().map(|word| (*word).into()).collect();
    process.group = path.map(|path| {
        Arc::new(MemoryGroup {
            path: path.into(),
            ..MemoryGroup::default()
        })
    });
    ProcessRow {
        process,
        ..ProcessRow::default()
    }
}

fn walked(mut row: ProcessRow, free: u64, shared: u64, taken_at_ns: u64) -> ProcessRow {
    row.walk = Some(WalkFigures {
        taken_at_ns,
        live_bytes: Some(5 * MIB),
        ledger: Some(
            [LedgerRow {
                resident_bytes: free,
                shared_bytes: shared,
                swapped_bytes: MIB,
                ..LedgerRow::empty(LedgerClass::FreePinned)
            }]
            .into(),
        ),
        fragmentation_bytes: Some(free),
        shared_fragmentation_bytes: shared,
        trim_returnable_bytes: None,
        ..WalkFigures::of(&FragReport::from_sample(&Default::default()))
    });
    row
}

const CELERY: &str = "/system.slice/celery.service";

#[test]
fn a_master_and_its_children_are_summed_up_and_what_they_share_counts_once() {
    let command = ["/usr/bin/python3", "-m", "celery", "worker"];
    let rows = [
        walked(row(1, 0, &command, Some(CELERY)), 4 * MIB, 0, 70),
        walked(row(2, 1, &command, Some(CELERY)), 5 * MIB, 3 * MIB, 50),
        row(3, 1, &command, Some(CELERY)),
        row(4, 0, &["python3", "job.py"], None),
    ];
    let found = groups(&rows, 9);
    assert_eq!(found.len(), 2);
    let celery = &found[0];
    let names = |group: &ProcessGroup| (group.name.group.clone(), group.name.program.clone());
    assert_eq!(names(celery), ("celery.service".into(), "celery".into()));
    assert_eq!((celery.processes, celery.walked), (3, 2));
    assert_eq!(celery.rss_bytes, 90 * MIB);
    assert_eq!(celery.pss_bytes, Some(60 * MIB));
    assert_eq!(celery.live_bytes, Some(10 * MIB));
    assert_eq!(celery.free_bytes, Some(6 * MIB));
    assert_eq!(celery.fragmentation, Some(6.0 / 40.0));
    assert_eq!(celery.oldest_walk_ns, Some(50));
    assert_eq!(celery.verdicts.values().sum::<u64>(), 2);
    assert_eq!(celery.path.words(), Some(CELERY));
    // By classes too; of the third process, which was not walked, only the size is known.
    let held = celery.ledger[&LedgerClass::FreePinned];
    assert_eq!(
        (held.resident_bytes, held.swapped_bytes),
        (6 * MIB, 2 * MIB)
    );
    assert_eq!(
        (celery.ledger.len(), celery.unwalked_bytes),
        (1, Some(20 * MIB))
    );
    // Nothing is made up.
    assert_eq!((celery.swap_bytes, celery.trim_bytes), (None, None));
    assert_eq!(celery.growth, None);
    assert_eq!(names(&found[1]), ("job.py".into(), "job.py".into()));
    assert_eq!((found[1].free_bytes, found[1].fragmentation), (None, None));
}

#[test]
fn a_sum_is_unknown_where_a_part_of_it_is() {
    let mut rows = [row(1, 0, &["a"], None), row(2, 1, &["a"], None)];
    rows[1].process.memory.pss_bytes = None;
    assert_eq!(groups(&rows, 9)[0].pss_bytes, None);
    assert_eq!(groups(&rows, 9)[0].uss_bytes, Some(20 * MIB));
}

#[test]
fn there_are_no_more_groups_than_asked_for_and_nothing_is_lost() {
    let names: Vec<String> = (0..50).map(|n| format!("job{n:02}")).collect();
    let mut rows: Vec<_> = (0..50)
        .map(|n| row(n + 1, 0, &[names[n as usize].as_str()], None))
        .collect();
    rows[40].process.memory.rss_bytes = 900 * MIB;
    let found = groups(&rows, 3);
    let found_names: Vec<_> = found.iter().map(|group| &*group.name.group).collect();
    assert_eq!(found_names, ["job00", "job01", "job40", "other"]);
    assert_eq!(found.iter().map(|group| group.processes).sum::<u64>(), 50);
    assert_eq!(found[3].name.program, "");
    // A process that chose this name is another.
    let rows = [row(1, 0, &["other"], None), row(2, 0, &["b"], None)];
    let found = groups(&rows, 1);
    assert!(found.len() == 2 && found[0].name != found[1].name);
    assert!(groups(&[], 3).is_empty());
}

#[test]
fn the_control_group_that_is_nearest_to_its_limit_is_the_one_that_counts() {
    let mut rows = [row(1, 0, &["a"], None), row(2, 1, &["a"], None)];
    let group = |current_bytes, max_bytes| {
        Some(Arc::new(MemoryGroup {
            path: "/x".into(),
            current_bytes,
            max_bytes,
            left_bytes: None,
        }))
    };
    rows[0].process.group = group(Some(900), None);
    rows[1].process.group = group(Some(90), Some(100));
    let found = groups(&rows, 9)[0].cgroup.clone().expect("one");
    assert_eq!(found.max_bytes, Some(100));
}

#[test]
fn names_are_those_of_units_and_containers() {
    let id = "0123456789abcdef".repeat(4);
    let docker = format!("/system.slice/docker-{id}.scope");
    let pod = format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope");
    let podman = format!("/machine.slice/libpod-{id}.scope/container");
    let plain = format!("/kubepods/burstable/pod1/{id}");
    for (path, expected) in [
        (CELERY, Some("celery.service")),
        (docker.as_str(), Some("docker-0123456789ab")),
        (pod.as_str(), Some("cri-containerd-0123456789ab")),
        (podman.as_str(), Some("libpod-0123456789ab")),
        (plain.as_str(), Some("0123456789ab")),
        (
            "/user.slice/user-1.slice/user@1.service/app.slice/job.service",
            Some("job.service"),
        ),
        ("/user.slice/user-1.slice/session-3.scope", None),
        ("/user.slice", None),
        ("/workers/a", Some("a")),
        ("/", None),
        ("", None),
    ] {
        assert_eq!(place_of(path).as_deref(), expected, "{path}");
    }
}

#[test]
fn a_program_is_named_without_flags_code_and_titles() {
    for (command, expected) in [
        (
            &["/venv/bin/python3", "-u", "-X", "dev", "/srv/job.py", "3"][..],
            "job.py",
        ),
        (&["python3", "-u", "-m", "celery", "worker"], "celery"),
        (&["python3", "-c", "import secrets"], "python1"),
        (&["gunicorn: master [shop]"], "gunicorn"),
        (&["python3", "/srv/my jobs/a: b.py"], "a: b.py"),
        (&["python3", "jobs/a.py"], "a.py"),
        (
            &["[celeryd: celery@h/1:MainProcess] -active- (a)"],
            "celeryd",
        ),
        (&["/usr/bin/python3"], "python3"),
        (&[], "python1"),
    ] {
        assert_eq!(program(&row(1, 0, command, None).process), expected);
    }
}

#[test]
fn names_of_others_are_harmless_and_bounded() {
    let long = "x".repeat(5000);
    let rows = [
        row(1, 0, &["a\x1b[2J\nb\"c\\"], Some(&long)),
        row(2, 0, &[&long], Some("/a\u{202e}\n.service")),
    ];
    for group in groups(&rows, 9) {
        for name in [&group.name.group, &group.name.program] {
            assert!(name.chars().count() <= MAX_NAME + 1, "{name}");
            assert!(!name.chars().any(char::is_control), "{name:?}");
        }
    }
}
