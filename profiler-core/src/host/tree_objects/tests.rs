//! Sentences about the objects of a tree.

use super::super::model::tests::process;
use super::super::{HostView, Memory};
use super::*;
use crate::objects::{Amount, Census, Holder};

const MIB: u64 = 1 << 20;

fn holder(name: &str, mib: u64, shared_mib: Option<u64>) -> Holder {
    Holder {
        name: name.into(),
        is_name: true,
        type_name: Some("dict".into()),
        item_type: Some("app.Session".into()),
        retained_bytes: mib * MIB,
        items: mib * 1000,
        shared_bytes: shared_mib.map(|mib| mib * MIB),
        ..Holder::default()
    }
}

fn census(second: u64, live_mib: u64, holders: Vec<Holder>) -> Arc<Census> {
    Arc::new(Census {
        taken_at_ns: second * 1_000_000_000,
        live: Amount {
            blocks: 1000,
            bytes: live_mib * MIB,
        },
        holders,
        ..Census::default()
    })
}

#[test]
fn shared_pages_that_mmap_objects_map_count_once_in_a_tree_and_those_of_one_process_in_each() {
    let of = |shared_mib: u64| Holder {
        shared_bytes: Some(0),
        mapped_bytes: Some(200 * MIB),
        mapped_shared_bytes: Some(shared_mib * MIB),
        mapped_kept_bytes: Some(200 * MIB),
        ..holder("app.SHM", 0, Some(0))
    };
    let of_tree = |holder: &Holder| {
        let read = (1..=4).map(|pid| read(pid, census(1, 10, vec![holder.clone()]), None));
        let tree = tree(read.collect());
        let sum = tree.holders().remove(0);
        (sum.bytes, sum.shared_bytes, tree.held_sentences())
    };
    let (bytes, shared, said) = of_tree(&of(200));
    assert_eq!((bytes, shared), (200 * MIB, Some(200 * MIB)));
    assert_eq!(
        said,
        [
            "`app.SHM` (dict) holds 200.0 MiB in the master, in 3 of 3 children read 200.0 MiB each: 200.0 MiB in all; up \
             to 200.0 MiB are pages that they share, which count once."
        ]
    );
    // A file of each.
    let (bytes, shared, _) = of_tree(&of(0));
    assert_eq!((bytes, shared), (800 * MIB, Some(0)));
    let unknown = Holder {
        mapped_shared_bytes: None,
        ..of(0)
    };
    let (bytes, shared, _) = of_tree(&unknown);
    assert_eq!((bytes, shared), (800 * MIB, None));
}

fn read(pid: i32, census: Arc<Census>, before: Option<Arc<Census>>) -> ReadProcess {
    let report = FragReport::from_sample(&Default::default()).with_objects(census, before);
    ReadProcess {
        id: process(pid, 1, 0).id,
        report: Arc::new(report),
    }
}

fn tree(read: Vec<ReadProcess>) -> TreeView {
    let row = |pid: i32| ProcessRow {
        process: process(pid, i32::from(pid != 1), 100 * MIB),
        ..ProcessRow::default()
    };
    let pids = (1..=4).map(row).collect();
    TreeView {
        master: 1,
        processes: HostView {
            rows: pids,
            ..HostView::default()
        },
        objects: Some(TreeObjects {
            read,
            not_read: Vec::new(),
        }),
    }
}

#[test]
fn what_children_share_with_their_master_counts_once() {
    let tree = tree(vec![
        read(
            1,
            census(1, 30, vec![holder("app.TABLE", 30, Some(30))]),
            None,
        ),
        read(
            2,
            census(
                1,
                52,
                vec![
                    holder("app.TABLE", 30, Some(28)),
                    holder("app.SESSIONS", 22, Some(0)),
                ],
            ),
            None,
        ),
        read(
            3,
            census(
                1,
                48,
                vec![
                    holder("app.TABLE", 30, Some(20)),
                    holder("app.SESSIONS", 18, Some(0)),
                ],
            ),
            None,
        ),
    ]);
    let all = tree.holders();
    let of = |name: &str| {
        let mut all = all.iter();
        all.find(|of| of.names == [name]).expect("it is there")
    };
    // 2 and 10 MiB of their own besides the master's 30.
    let table = of("app.TABLE");
    assert_eq!(table.bytes, 42 * MIB);
    assert_eq!((table.master_bytes, table.children), (Some(30 * MIB), 2));
    let sessions = of("app.SESSIONS");
    assert_eq!((sessions.bytes, sessions.master_bytes), (40 * MIB, None));
    assert_eq!(
        (sessions.least_bytes, sessions.most_bytes),
        (18 * MIB, 22 * MIB)
    );
    let verdict = tree.verdict();
    let said = "`app.SESSIONS` (dict) holds in 2 of 2 children read 18.0 MiB to 22.0 MiB each: 40.0 MiB in all.";
    assert!(verdict.iter().any(|one| one == said), "{verdict:?}");
    let said = "`app.TABLE` (dict) holds 30.0 MiB in the master, in 2 of 2 children read 30.0 MiB each: 42.0 MiB \
                in all; up to 30.0 MiB are pages that they share, which count once.";
    assert!(verdict.iter().any(|one| one == said), "{verdict:?}");
    let said = "Objects were read of the master and of 2 of 3 children, the largest and those that grow fastest.";
    assert!(verdict.iter().any(|one| one == said), "{verdict:?}");
    assert!(
        !verdict[0].contains("rowing"),
        "none was read twice: {verdict:?}"
    );
}

#[test]
fn shares_that_are_not_known_count_in_each_and_that_is_said() {
    let of = |pid, shared| {
        read(
            pid,
            census(1, 30, vec![holder("app.TABLE", 30, shared)]),
            None,
        )
    };
    let tree = tree(vec![of(2, Some(30)), of(3, None)]);
    let table = &tree.holders()[0];
    assert_eq!((table.bytes, table.shared_bytes), (60 * MIB, None));
    assert!(table.held_sentence(2).contains("is not known"), "{table:?}");
}

#[test]
fn growth_is_that_of_all_and_what_gains_most_is_named_first() {
    let before = |mib| {
        Some(census(
            1,
            30 + mib,
            vec![
                holder("app.TABLE", 30, Some(30)),
                holder("app.SESSIONS", mib, Some(0)),
            ],
        ))
    };
    let after = |mib| {
        census(
            6,
            30 + mib,
            vec![
                holder("app.TABLE", 30, Some(30)),
                holder("app.SESSIONS", mib, Some(0)),
            ],
        )
    };
    let tree = tree(vec![
        read(2, after(20), before(10)),
        read(3, after(25), before(10)),
        read(4, after(10), before(10)),
    ]);
    assert_eq!(tree.holders()[0].names, ["app.SESSIONS"]);
    let growth = tree
        .objects
        .as_ref()
        .map(TreeObjects::growth)
        .expect("read");
    assert_eq!((growth.compared, growth.growing), (3, 2));
    assert_eq!(growth.bytes_per_second, (5 * MIB) as f64);
    let verdict = tree.verdict();
    assert_eq!(
        verdict[0],
        "Growing 5.0 MiB/s, in 2 of 3 processes that were read twice: `app.SESSIONS` (dict) gains 5000 \
         `app.Session` a second in 2 of 3: a leak, or a cache without a bound or not yet full; no allocator helps."
    );
    assert_eq!(
        tree.objects
            .as_ref()
            .and_then(TreeObjects::fastest)
            .map(|(id, _)| id.pid),
        Some(3)
    );
}

#[test]
fn the_worst_and_the_largest_are_read_with_what_they_grow() {
    let row = |pid: i32, rss_mib: u64, growth: Option<f64>| {
        let mut process = process(pid, i32::from(pid != 1), rss_mib * MIB);
        process.memory = Memory {
            rss_bytes: rss_mib * MIB,
            ..process.memory
        };
        ProcessRow {
            process,
            growth,
            ..ProcessRow::default()
        }
    };
    let mut refused = row(6, 900, None);
    refused.not_walked = Some("it is traced".into());
    let tree = TreeView {
        master: 1,
        processes: HostView {
            rows: vec![
                row(1, 10, None),
                row(2, 100, None),
                row(3, 300, None),
                row(4, 50, Some((2 * MIB) as f64)),
                row(5, 40, None),
                refused,
            ],
            ..HostView::default()
        },
        objects: None,
    };
    let pids = |most| {
        tree.to_read(most)
            .iter()
            .map(|id| id.pid)
            .collect::<Vec<_>>()
    };
    assert_eq!(pids(3), [1, 4, 3, 2]);
    assert_eq!(pids(9), [1, 4, 3, 2, 5]);
}
