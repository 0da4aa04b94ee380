//! Messages where privileges or parts of the system are missing. Needs root, to take them away.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use profiler_testing::child::{self, Child, open_folder};
use support::{FRAGSCOPE, are_all, stderr, stdout, text};

/// Owner of the target, and a user who looks at it.
const ALICE: u32 = 12_345;
const BOB: u32 = 54_321;

/// A process of Alice's.
fn target() -> Child {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo ready; read line"]);
    command.uid(ALICE).gid(ALICE).current_dir("/");
    let child = Child::run(command);
    assert_eq!(child.first_line(), "ready");
    child
}

/// fragscope where everybody may run it.
fn installed() -> (tempfile::TempDir, PathBuf) {
    let folder = open_folder();
    let copy = child::install(FRAGSCOPE.as_ref(), &folder);
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&copy, all).expect("ours");
    (folder, copy)
}

/// Runs it where everybody may be.
fn run(mut command: Command) -> Output {
    support::run(command.current_dir("/"))
}

/// Runs it as root with these capabilities alone.
fn with(capabilities: &str, args: &[&str]) -> Output {
    let set = format!("-all{capabilities}");
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", &set, "--inh-caps", &set]);
    command.arg(FRAGSCOPE).args(args);
    run(command)
}

/// Runs a shell's words in a mount namespace of its own; `$FRAGSCOPE` is the command.
fn elsewhere(words: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", words]);
    command.env("FRAGSCOPE", FRAGSCOPE);
    run(command)
}

#[track_caller]
fn ends(output: &Output, code: i32, words: &[&str]) {
    let both = [&*output.stderr, &*output.stdout].concat();
    let said = String::from_utf8_lossy(&both);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!said.contains("security module"), "{said}");
}

#[test]
fn root_without_a_capability_learns_which_one_is_lacking() {
    let child = target();
    let pid = child.pid().to_string();
    for args in [
        &["snapshot", "--pid", &pid][..],
        &["attach", "--headless", "--pid", &pid, "--duration", "100ms"],
        &[
            "record",
            "--pid",
            &pid,
            "--duration",
            "100ms",
            "-o",
            "/tmp/none",
        ],
    ] {
        let lacks = ["without CAP_DAC_READ_SEARCH\n", "--cap-add=DAC_READ_SEARCH"];
        ends(&with(",+sys_ptrace", args), 4, &lacks);
        ends(&with(",+sys_ptrace,+bpf,+perfmon", args), 4, &lacks);
        let lacks = ["without CAP_SYS_PTRACE\n", "--cap-add=SYS_PTRACE "];
        ends(&with(",+dac_read_search", args), 4, &lacks);
        let lacks = ["without CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"];
        ends(&with("", args), 4, &lacks);
    }
    // What is said to be lacking is what mends it.
    let args = ["snapshot", "--pid", &pid];
    ends(&with(",+sys_ptrace,+dac_read_search", &args), 0, &[]);
    let doctor = with(",+sys_ptrace,+bpf,+perfmon,+sys_admin", &["doctor"]);
    let said = stdout(&doctor);
    assert!(said.contains("without CAP_DAC_READ_SEARCH"), "{said}");
}

#[test]
fn what_probes_lack_is_named_exactly_and_with_the_way_without_them() {
    let child = target();
    let pid = child.pid().to_string();
    let record = ["record", "--pid", &pid, "-o", "/tmp/none"];
    let look = ",+sys_ptrace,+dac_read_search";
    for (more, lacks, flags) in [
        (
            ",+bpf",
            "root but without CAP_PERFMON\n",
            "--cap-add=PERFMON (",
        ),
        (",+perfmon", "root but without CAP_BPF\n", "--cap-add=BPF ("),
        (
            "",
            "root but without CAP_BPF and CAP_PERFMON\n",
            "--cap-add=BPF --cap-add=PERFMON (",
        ),
    ] {
        let output = with(&format!("{look}{more}"), &record);
        let way = "or record it from its start by `fragscope record -o FILE -- COMMAND`";
        ends(&output, 4, &[lacks, flags, way]);
        let doctor = with(&format!("{look}{more}"), &["doctor"]);
        ends(&doctor, 1, &["not permitted to load BPF", lacks, flags]);
        let said = stdout(&doctor);
        assert!(!said.contains("seccomp"), "{said}");
    }
    // What a look lacks is said first, and the fix has all that the command needs.
    let output = with(",+bpf", &record);
    let all = "--cap-add=SYS_PTRACE --cap-add=DAC_READ_SEARCH --cap-add=PERFMON (";
    ends(&output, 4, &[all]);
}

#[test]
fn a_user_namespace_is_named_as_the_reason() {
    let child = target();
    let pid = child.pid().to_string();
    let inside = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-U", "-r", FRAGSCOPE]);
        command.args(args);
        run(command)
    };
    for (args, again) in [
        (&["snapshot", "--pid", &pid][..], "snapshot --pid"),
        (
            &["record", "--pid", &pid, "-o", "/tmp/none"],
            "record --pid",
        ),
    ] {
        let again = format!("sudo fragscope {again} {pid}");
        ends(
            &inside(args),
            4,
            &["in a user namespace", "--userns=host", &again],
        );
    }
    let doctor = inside(&["doctor"]);
    let said = stdout(&doctor);
    for check in ["privilege ", "BPF ", "perf events ", "processes "] {
        let line = said.lines().find(|line| line.contains(check));
        let line = line.expect("each is looked at");
        assert!(line.contains("user namespace"), "{said}");
    }
    assert!(!said.contains("seccomp"), "{said}");
}

#[test]
fn the_fix_is_the_command_line_that_was_used() {
    let child = target();
    let pid = child.pid().to_string();
    let (_folder, copy) = installed();
    let as_bob = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &BOB.to_string(), "--regid", &BOB.to_string()]);
        command.arg("--clear-groups").arg(&copy).args(args);
        command.args(["--pid", &pid]);
        run(command)
    };
    for (args, code, again) in [
        (&["snapshot"][..], 4, format!("snapshot --pid {pid}")),
        (&["explain"], 4, format!("explain --pid {pid}")),
        (&["attach", "--headless"], 4, format!("attach --pid {pid}")),
        (
            &["record", "-o", "x.fragtrace"],
            4,
            format!("record --pid {pid} -o x.fragtrace"),
        ),
        (&["doctor"], 1, format!("doctor --pid {pid}")),
        (
            &["doctor", "--repair"],
            4,
            format!("doctor --pid {pid} --repair"),
        ),
    ] {
        ends(
            &as_bob(args),
            code,
            &[&format!("fix: sudo fragscope {again}\n")],
        );
    }
}

/// Every command, ready to be run in a shell where something is lacking. None of them gets far.
fn every_command(pid: i32, folder: &std::path::Path) -> Vec<String> {
    let folder = folder.display();
    let all = vec![
        "doctor".to_owned(),
        format!("doctor --pid {pid}"),
        format!("doctor --pid {pid} --repair"),
        format!("snapshot --pid {pid} -o {folder}/s.json"),
        format!("explain --pid {pid}"),
        format!("attach --headless --duration 1s --pid {pid} -o {folder}/a.json"),
        "demo --headless --duration 1s".to_owned(),
        format!("record --pid {pid} -o {folder}/p.fragtrace"),
        format!("record -o {folder}/c.fragtrace -- /bin/sh -c 'touch {folder}/ran'"),
        format!("replay {folder}/c.fragtrace"),
        format!("export {folder}/c.fragtrace --format logalloc -o {folder}/e.txt"),
        format!("snapshot --tree --pid {pid}"),
        format!("explain --tree --pid {pid}"),
        format!("check --max-rss 900G --pid {pid}"),
        format!("diff {folder}/s.fragsnap --pid {pid}"),
        format!("attach --headless --duration 1s --pid {pid} --black-box {folder}/box"),
        "top --once".to_owned(),
        "serve --listen 127.0.0.1:0".to_owned(),
        format!("report {folder}/s.fragsnap -o {folder}/s.html"),
        format!("view {folder}/s.fragsnap"),
    ];
    are_all(&all, &["completions", "man"]);
    all
}

#[test]
fn without_proc_every_command_says_so_and_runs_nothing() {
    let child = target();
    let folder = tempfile::tempdir().expect("a folder");
    for command in every_command(child.pid(), folder.path()) {
        let output = elsewhere(&format!("umount -l /proc; $FRAGSCOPE {command}"));
        ends(
            &output,
            4,
            &["/proc is not mounted", "fix: sudo mount -t proc proc /proc"],
        );
        assert_eq!(output.stdout, b"", "{command}");
    }
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 0, "something was run or written");
}

/// Threads for which malloc finds no room for an arena ask the kernel for one again and again.
#[test]
fn a_session_with_probes_ends_in_time_where_addresses_are_limited() {
    let child = target();
    let pid = child.pid();
    for kib in [300_000, 500_000] {
        let output = elsewhere(&format!(
            "ulimit -v {kib}; $FRAGSCOPE attach --headless --duration 1s --no-predict --pid {pid}"
        ));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{kib}: {said}");
        assert!(stdout(&output).contains("malloc/s"), "{kib}: {said}");
    }
}

#[test]
fn a_limit_of_open_files_that_is_too_low_is_named_before_anything_is_run() {
    let child = target();
    let folder = tempfile::tempdir().expect("a folder");
    for command in every_command(child.pid(), folder.path()) {
        for limit in [4, 6, 8, 10, 40] {
            let output = elsewhere(&format!("ulimit -n {limit}; $FRAGSCOPE {command}"));
            let named = format!("no more than {limit} files may be open at a time (ulimit -n)");
            ends(&output, 1, &["nothing was run", &named]);
            let said = stderr(&output);
            assert!(!said.contains("panicked"), "{command}: {said}");
        }
    }
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 0, "something was run or written");
    let output = elsewhere(&format!(
        "ulimit -n 80; $FRAGSCOPE snapshot --pid {}",
        child.pid()
    ));
    ends(&output, 0, &[]);
}

#[test]
fn a_file_with_capabilities_says_which_are_lacking_or_why_they_are_not_granted() {
    let child = target();
    let pid = child.pid().to_string();
    let (folder, copy) = installed();
    let give = |capabilities: &str| {
        let given = Command::new("setcap").arg(capabilities).arg(&copy).status();
        assert!(given.expect("setcap").success());
    };
    let as_bob = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &BOB.to_string(), "--regid", &BOB.to_string()]);
        command.arg("--clear-groups").arg(&copy);
        command.args(["snapshot", "--pid", &pid]);
        run(command)
    };
    give("cap_sys_ptrace=ep");
    let mends = "setcap cap_sys_ptrace,cap_dac_read_search=ep";
    ends(&as_bob(), 4, &["without CAP_DAC_READ_SEARCH", mends]);
    give("cap_bpf=ep");
    let lacks = "without CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH";
    ends(&as_bob(), 4, &["a user with capabilities", lacks]);
    give("cap_sys_ptrace,cap_dac_read_search=ep");
    ends(&as_bob(), 0, &[]);
    give("cap_sys_ptrace,cap_dac_read_search=p");
    ends(&as_bob(), 4, &["permits CAP_SYS_PTRACE", "+ep"]);
    give("cap_sys_ptrace,cap_dac_read_search=ep");
    let output = elsewhere(&format!(
        "mount --bind {0} {0} && mount -o remount,bind,nosuid {0} && setpriv --reuid {BOB} \
         --regid {BOB} --clear-groups {0}/copy snapshot --pid {pid}",
        folder.path().display()
    ));
    ends(&output, 4, &["not as root; ", "mounted nosuid"]);
}

#[test]
fn capabilities_of_the_file_read_no_file_that_the_caller_may_not() {
    let child = target();
    let pid = child.pid().to_string();
    let (folder, copy) = installed();
    let (trace, session) = (
        folder.path().join("secret.fragtrace"),
        folder.path().join("secret.fragsnap"),
    );
    let mut record = Command::new(FRAGSCOPE);
    record
        .args(["record", "-o"])
        .arg(&trace)
        .args(["--", "true"]);
    ends(&run(record), 0, &[]);
    let mut snapshot = Command::new(FRAGSCOPE);
    snapshot
        .args(["snapshot", "--pid", &pid, "-o"])
        .arg(&session);
    ends(&run(snapshot), 0, &[]);
    let given = Command::new("setcap")
        .arg("cap_sys_ptrace,cap_dac_read_search,cap_bpf,cap_perfmon=ep")
        .arg(&copy)
        .status();
    assert!(given.expect("setcap").success());
    let (trace, session) = (text(&trace), text(&session));
    let attach = ["attach", "--headless", "--duration", "1s", "--pid", &pid];
    for words in [
        &["export", "--format", "logalloc", trace][..],
        &["replay", trace],
        &["explain", session],
        // A process is looked at as well.
        &["diff", session, "--pid", &pid],
        &[&attach[..], &["--what-if", session]].concat(),
    ] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &BOB.to_string(), "--regid", &BOB.to_string()]);
        command.arg("--clear-groups").arg(&copy).args(words);
        ends(&run(command), 1, &["Permission denied"]);
    }
}

#[test]
fn a_missing_sys_or_proc_is_named() {
    let child = target();
    let pid = child.pid();
    let no_sys = "umount -l /sys";
    let output = elsewhere(&format!(
        "{no_sys}; $FRAGSCOPE record --pid {pid} --duration 100ms -o /tmp/none"
    ));
    ends(&output, 4, &["/sys is not mounted", "mount -t sysfs"]);
    let output = elsewhere(&format!(
        "{no_sys}; $FRAGSCOPE attach --headless --pid {pid} --duration 1s --what-if glibc"
    ));
    ends(&output, 4, &["/sys is not mounted", "mount -t sysfs"]);
    let output = elsewhere(&format!(
        "{no_sys}; $FRAGSCOPE attach --headless --pid {pid} --duration 5s"
    ));
    ends(&output, 0, &["no probes", "/sys is not mounted"]);
    let output = elsewhere(&format!("{no_sys}; $FRAGSCOPE doctor"));
    ends(&output, 1, &["BTF          /sys is not mounted"]);
    let output = elsewhere(&format!("umount -l /proc; $FRAGSCOPE snapshot --pid {pid}"));
    ends(&output, 4, &["/proc is not mounted", "mount -t proc"]);
    let (_folder, copy) = installed();
    let hidden = "mount -t proc -o hidepid=2 proc /proc";
    let output = elsewhere(&format!(
        "{hidden}; setpriv --reuid {BOB} --regid {BOB} --clear-groups {} snapshot --pid {pid}",
        copy.display()
    ));
    ends(&output, 4, &["hidepid"]);
}
