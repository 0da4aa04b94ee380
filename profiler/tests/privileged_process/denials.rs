//! What denies fragscope access to a process, for users with less than root's privileges.

use crate::*;

/// What a copy of this program that runs as someone less than root says of `pid`.
fn opened_by(prefix: &[&str], pid: i32) -> String {
    said_by("helper_opens_the_target", prefix, pid)
}

const NOBODY: [&str; 4] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
];

fn as_nobody(mut program: Vec<String>) -> Child {
    let mut command = Command::new(NOBODY[0]);
    command.args(&NOBODY[1..]).args(program.drain(..));
    Child::run(command)
}

#[test]
fn each_denial_has_a_sentence_and_a_fix_of_its_own() {
    let ours = Child::c("signals");
    let said = opened_by(&NOBODY, ours.pid());
    assert!(said.starts_with("denied "), "{said}");
    assert!(
        said.contains("belongs to user 0, and fragscope runs as user 65534"),
        "{said}"
    );

    let folder = compiled("undumpable");
    let program = folder.path().join("undumpable").display().to_string();
    let undumpable = as_nobody(vec![program]);
    let said = opened_by(&NOBODY, undumpable.pid());
    assert!(said.contains("not dumpable"), "{said}");

    let folder = compiled("signals");
    let program = folder.path().join("signals").display().to_string();
    let theirs = as_nobody(vec![program]);
    let said = opened_by(&NOBODY, theirs.pid());
    match host::ptrace_scope() {
        None | Some(0) => assert_eq!(said, format!("opened {}", theirs.pid())),
        Some(scope) => assert!(said.contains(&format!("ptrace_scope is {scope}")), "{said}"),
    }

    let weak_root = [
        "setpriv",
        "--bounding-set=-sys_ptrace",
        "--inh-caps=-sys_ptrace",
    ];
    let said = opened_by(&weak_root, theirs.pid());
    assert!(said.contains("root but without CAP_SYS_PTRACE"), "{said}");

    let hide = "mount -t proc -o hidepid=2 proc /proc && exec \"$@\"";
    let mut hidden = vec!["unshare", "--mount", "sh", "-c", hide, "sh"];
    hidden.extend(NOBODY);
    let said = opened_by(&hidden, ours.pid());
    assert!(said.contains("hidepid"), "{said}");
}

#[test]
fn doctor_distinguishes_root_from_others() {
    let ours = Child::c("signals");
    let as_root = said_by("helper_runs_doctor", &["env"], ours.pid());
    assert_eq!(as_root, "", "root on the host has all that is needed");
    let as_nobody = said_by("helper_runs_doctor", &NOBODY, ours.pid());
    let expected = ["privilege", "BPF", "perf events", "target"];
    for name in expected {
        assert!(as_nobody.split(',').any(|bad| bad == name), "{as_nobody}");
    }
}

#[test]
fn a_kernel_thread_says_that_it_is_one() {
    assert!(
        host::sees_all_processes(),
        "run on the host or with --pid=host"
    );
    // `kthreadd`, the parent of all others, has this number on every Linux.
    let error = Target::open(2).expect_err("it has no memory");
    assert_eq!(error.kind(), ErrorKind::UnsupportedTarget);
    assert!(error.to_string().contains("kernel thread"), "{error}");
}
