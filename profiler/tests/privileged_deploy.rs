//! The container files in `deploy/`: fragscope runs with the capabilities that the DaemonSet
//! grants, and each of them permits what the documents say.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use profiler_testing::child::{Child, KillOnDrop, open_folder};
use profiler_testing::wait::{WAIT_LIMIT, eventually};
use support::FRAGSCOPE;

fn daemonset() -> String {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    fs::read_to_string(deploy.join("daemonset.yaml")).expect("it is there")
}

/// The capabilities that it gives, as setpriv names them.
fn capabilities() -> Vec<String> {
    let text = daemonset();
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("add: ["));
    let names = line.expect("capabilities").trim_end_matches(']');
    names.split(", ").map(str::to_lowercase).collect()
}

/// What it starts fragscope with.
fn arguments() -> Vec<String> {
    let text = daemonset();
    let after = text.split("          args:\n").nth(1).expect("arguments");
    let lines = after.lines().map(str::trim);
    let lines = lines.take_while(|line| line.starts_with("- ") || line.starts_with('#'));
    lines
        .filter_map(|line| line.strip_prefix("- "))
        .map(str::to_owned)
        .collect()
}

/// A Python process of another user.
fn of_another_user() -> Child {
    let folder = open_folder();
    let script = folder.path().join("deploy_worker.py");
    let program = "import sys\nkept = [bytes(900) for _ in range(9000)]\nprint(1, flush=True)\nsys.stdin.read()\n";
    fs::write(&script, program).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).expect("ours");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args(["/usr/bin/python3", "-S"]).arg(&script);
    Child::run(command).keep(folder)
}

/// `serve` as in the DaemonSet, with these capabilities alone: the metrics once the processes were looked at and
/// `is_enough` of them, and what was said.
fn serve(capabilities: &[String], is_enough: impl Fn(&str) -> bool) -> (String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let bounds: String = capabilities
        .iter()
        .map(|name| format!(",+{name}"))
        .collect();
    let mut command = Command::new("setpriv");
    command.args(["--no-new-privs", "--inh-caps=-all"]);
    command
        .arg(format!("--bounding-set=-all{bounds}"))
        .arg(FRAGSCOPE);
    for argument in arguments() {
        // Its own places are those of a node.
        let box_of_test = folder.path().join("box");
        let argument = argument.replace("0.0.0.0:9464", "127.0.0.1:0");
        let argument = argument.replace("0.0.0.0:9465", "127.0.0.1:0");
        let argument = argument.replace("/var/lib/fragscope", box_of_test.to_str().expect("UTF-8"));
        command.arg(argument);
    }
    command.args(["--interval=200ms", "--budget=unlimited"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("setpriv");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let _fragscope = KillOnDrop(child);
    let mut said = String::new();
    let address = lines.find_map(|line| {
        let line = line.expect("UTF-8");
        said += &(line.clone() + "\n");
        let address = line
            .strip_prefix("serving http://")?
            .strip_suffix("/metrics");
        address.map(str::to_owned)
    });
    let address = address.unwrap_or_else(|| panic!("it serves: {said}"));
    std::thread::spawn(move || lines.for_each(drop));
    let metrics = eventually("what is served", || {
        let mut stream = TcpStream::connect(&address).ok()?;
        stream.set_read_timeout(Some(WAIT_LIMIT)).ok()?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        is_enough(&text).then_some(text)
    });
    (metrics, said)
}

/// A metric of the process of another user.
fn of_worker<'a>(metrics: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = metrics.lines().filter(|line| line.starts_with(name));
    let line = lines.find(|line| line.contains("deploy_worker.py"))?;
    line.rsplit(' ').next()
}

#[test]
fn with_what_the_daemonset_gives_processes_of_others_are_walked_and_the_oom_killer_is_heard() {
    let _worker = of_another_user();
    let walked = "fragscope_group_walked_processes";
    let (_, said) = serve(&capabilities(), |text| of_worker(text, walked) == Some("1"));
    assert!(!said.contains("chooses is not reported"), "{said}");
}

#[test]
fn each_capability_gives_what_is_said_of_it() {
    let _worker = of_another_user();
    let all = capabilities();
    assert_eq!(all, ["sys_ptrace", "dac_read_search", "bpf", "perfmon"]);
    for left_out in &all {
        let rest: Vec<String> = all
            .iter()
            .filter(|name| *name != left_out)
            .cloned()
            .collect();
        let (metrics, said) = serve(&rest, |text| {
            text.contains("fragscope_unreadable_processes")
        });
        let is_read = of_worker(&metrics, "fragscope_group_resident_bytes").is_some();
        let is_heard = !said.contains("which process the OOM killer chooses is not reported");
        let expected = match left_out.as_str() {
            "bpf" | "perfmon" => (true, false),
            _ => (false, true),
        };
        assert_eq!((is_read, is_heard), expected, "without {left_out}: {said}");
    }
}
