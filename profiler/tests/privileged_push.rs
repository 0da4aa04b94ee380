//! Pushed profiles: an endpoint receives what fragscope knows, and a broken endpoint delays nothing
//! else.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_testing::child::Child;
use profiler_testing::wait::eventually;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::pyroscope::{Answer, Endpoint, Profile, Taken};
use support::serving::{Serving, certify, own, prefork, value};
use support::{command, fragscope, script, stderr};

/// Allocates all the time, and keeps some of it.
const BUSY: &str = "
import time
class Order:
    def __init__(self):
        self.rows = bytearray(3000)
ORDERS = [Order() for _ in range(500)]
def burn():
    return [bytearray(2000) for _ in range(50)]
print(1, flush=True)
while True:
    burn()
    time.sleep(0.01)
";

/// `serve` while it pushes.
fn pushing(url: &str, flags: &[&str]) -> Serving {
    let push = ["--push-interval", "1s", "--push-profiles", url];
    Serving::start(&[&push, flags].concat())
}

/// The profile of a program in a request.
fn of_program<'t>(taken: &'t Taken, program: &str) -> Option<&'t Profile> {
    let mut profiles = taken.profiles.iter();
    profiles.find(|profile| profile.label("program") == program)
}

#[test]
fn serve_pushes_the_ledger_of_each_group_as_it_serves_it() {
    let master = script("push_sums.py", &prefork(2));
    let endpoint = Endpoint::start(Answer::Take, None);
    let serving = pushing(&endpoint.url(), &["--budget", "unlimited"]);
    let group = |metric: &str| {
        value(
            &serving.metrics(),
            &format!("fragscope_group_{metric}"),
            "push_sums.py",
        )
    };
    eventually("the walks", || {
        (group("walked_processes") == Some(3.0)).then_some(())
    });
    let free = eventually("figures that agree", || {
        let taken = endpoint.next();
        let profile = of_program(&taken, "push_sums.py")?;
        let pushed = profile.sum("resident", Some("fragmentation"));
        (group("free_resident_bytes") == Some(pushed as f64)).then(|| (pushed, taken.clone()))
    });
    let (pushed, taken) = free;
    assert!(pushed > 2 << 20, "one child has freed 3 MB: {pushed}");
    let head = taken.head.to_ascii_lowercase();
    assert!(
        head.starts_with("post /push.v1.pusherservice/push http/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains("content-type: application/proto\r\n"),
        "{head}"
    );
    let profile = of_program(&taken, "push_sums.py").expect("it was there");
    let labels = ["__name__", "__delta__", "pyroscope_spy"].map(|name| profile.label(name));
    assert_eq!(labels, ["fragscope_ledger", "false", "fragscope"]);
    assert!(!profile.label("service_name").is_empty() && !profile.label("hostname").is_empty());
    let types = [("resident", "bytes"), ("swapped", "bytes")];
    let types = types.map(|(name, unit)| (name.to_owned(), unit.to_owned()));
    assert_eq!(profile.types, types);
    // All that a group has is in it: about as much as its PSS, in which each of many shares counts in parts.
    let whole = profile.sum("resident", Some("push_sums.py"));
    assert_eq!(whole, profile.sum("resident", None));
    let live = profile.sum("resident", Some("live"));
    assert!(live > 5 << 20 && live < whole, "{:?}", profile.stacks);
    assert_eq!(profile.sum("resident", Some("(heap not known)")), 0);
    assert!(own(&serving.metrics(), "fragscope_pushes_total") >= Some(1.0));
    assert_eq!(
        own(&serving.metrics(), "fragscope_push_failures_total"),
        Some(0.0)
    );
    drop(master);
}

#[test]
fn what_was_not_walked_is_pushed_as_unknown_and_names_are_harmless() {
    let idle = "print(1, flush=True); input()";
    let evil = script("evil\"},{a=b \\ \n\u{1b}[2J.py", idle);
    let endpoint = Endpoint::start(Answer::Take, None);
    let _serving = pushing(&endpoint.url(), &["--no-walks"]);
    let profile = eventually("its profile", || {
        let taken = endpoint.next();
        let mut all = taken.profiles.iter();
        let found = all.find(|profile| profile.label("program").starts_with("evil"))?;
        (found.sum("resident", None) > 0).then(|| found.clone())
    });
    let name = "evil\"},{a=b \\ \\n\\x1b[2J.py";
    assert_eq!(profile.label("program"), name);
    let unknown = [name, "(heap not known)"].map(str::to_owned);
    let stacks: Vec<_> = profile
        .stacks
        .iter()
        .map(|(stack, _)| stack.clone())
        .collect();
    assert_eq!(stacks, [unknown.to_vec()]);
    drop(evil);
}

/// Watches a process for some seconds, and gives what `attach` said.
fn attach(child: &Child, url: &str, seconds: &str, flags: &[&str]) -> String {
    let pid = child.pid().to_string();
    let fixed = ["attach", "--headless", "--pid", &pid, "--duration", seconds];
    let push = ["--push-profiles", url, "--push-interval", "1s"];
    let output = fragscope(&[&fixed, &push[..], flags].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn attach_pushes_what_its_file_has_each_allocation_once() {
    let child = script("push_sites.py", BUSY);
    let endpoint = Endpoint::start(Answer::Take, None);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sites.pb.gz");
    let pid = child.pid().to_string();
    let fixed = [
        "attach",
        "--headless",
        "--pid",
        &pid,
        "--budget",
        "unlimited",
    ];
    let url = endpoint.url();
    let push = ["--push-profiles", &url, "--push-interval", "1s"];
    let output = ["-o", support::text(&file)];
    let attached = command(&[&fixed[..], &push, &output].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // On a busy host probes take a while.
    let mut taken = Vec::new();
    let is_of_sites = |profile: &&Profile| profile.label("__name__") == "memory";
    let has_types = |taken: &[Taken]| {
        let mut all = taken.iter().flat_map(|taken| &taken.profiles);
        all.any(|profile| profile.label("__name__") == "fragscope_holders")
    };
    let sites = |taken: &[Taken]| {
        let all = taken.iter().flat_map(|taken| &taken.profiles);
        all.filter(is_of_sites).count()
    };
    while sites(&taken) < 3 || !has_types(&taken) {
        taken.push(endpoint.next());
    }
    drop(child);
    let ended = attached
        .wait_with_output()
        .expect("it ends with its target");
    assert_eq!(ended.status.code(), Some(5), "{}", stderr(&ended));
    let said = stderr(&ended);
    assert!(!said.contains("not taken"), "{said}");
    taken.extend(endpoint.all());
    let file = Profile::of_file(&fs::read(&file).expect("written"));
    let named = |name: &str| -> Vec<&Profile> {
        let all = taken.iter().flat_map(|taken| &taken.profiles);
        all.filter(|profile| profile.label("__name__") == name)
            .collect()
    };
    let sites = named("memory");
    assert!(sites.len() >= 3, "{}", sites.len());
    assert_eq!(sites[0].types, file.types);
    // What was allocated is in one profile each, so that sums over time are right.
    for figure in ["alloc_objects", "alloc_space"] {
        let pushed: i64 = sites
            .iter()
            .map(|profile| profile.sum(figure, Some("burn")))
            .sum();
        let whole = file.sum(figure, Some("burn"));
        assert!(whole > 0 && pushed == whole, "{figure}: {pushed} {whole}");
    }
    let last = sites.last().expect("some");
    assert!(sites[1].sum("alloc_space", None) < file.sum("alloc_space", None));
    for figure in ["inuse_objects", "inuse_space"] {
        assert_eq!(last.sum(figure, None), file.sum(figure, None), "{figure}");
    }
    assert_eq!(last.label("program"), "push_sites.py");
    assert_eq!(last.label("pid"), pid);
    assert!(sites.windows(2).all(|two| two[0].time_ns < two[1].time_ns));
    let ledger = named("fragscope_ledger");
    assert!(ledger[0].sum("resident", Some("live")) > 500 * 3000);
    assert!(
        ledger.windows(2).all(|two| two[0].time_ns < two[1].time_ns),
        "each walk once"
    );
    let types = named("fragscope_types");
    assert_eq!(types[0].sum("objects", Some("__main__.Order")), 500);
    let holders = named("fragscope_holders");
    assert!(holders[0].sum("size", Some("__main__.ORDERS")) > 500 * 3000);
}

#[test]
fn without_probes_there_are_no_call_sites_and_all_else() {
    let child = script("push_passive.py", BUSY);
    let endpoint = Endpoint::start(Answer::Take, None);
    attach(
        &child,
        &endpoint.url(),
        "2s",
        &["--no-probes", "--no-objects"],
    );
    let taken = endpoint.all();
    let names = taken.iter().flat_map(|taken| &taken.profiles);
    let mut names: Vec<_> = names.map(|profile| profile.label("__name__")).collect();
    names.dedup();
    assert_eq!(names, ["fragscope_ledger"]);
}

/// A configuration to serve with a certificate for this host.
fn tls_config(folder: &Path) -> Arc<ServerConfig> {
    certify(folder);
    let chain = CertificateDer::from_pem_file(folder.join("cert.pem")).expect("PEM");
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).expect("PEM");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key);
    Arc::new(config.expect("a configuration"))
}

fn secret(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("ours");
}

#[test]
fn over_tls_it_is_known_whom_to_trust_and_the_password_comes_from_a_file() {
    let child = script("push_tls.py", BUSY);
    let folder = tempfile::tempdir().expect("a folder");
    let endpoint = Endpoint::start(Answer::Take, Some(tls_config(folder.path())));
    let url = format!("https://{}", endpoint.address);
    let config = folder.path().join("push.yml");
    secret(&folder.path().join("password"), "correct: horse\n");
    let auth =
        "basic_auth: {username: '42', password_file: password}\nheaders: {X-Scope-OrgID: shop}\n";
    secret(
        &config,
        &format!("{auth}tls_config: {{ca_file: cert.pem}}\n"),
    );
    let flags = [
        "--no-probes",
        "--no-objects",
        "--push-config",
        support::text(&config),
    ];
    let said = attach(&child, &url, "2s", &flags);
    assert!(
        !said.contains("not taken") && !said.contains("horse"),
        "{said}"
    );
    let taken = endpoint.next();
    let head = taken.head.to_ascii_lowercase();
    assert!(head.contains("x-scope-orgid: shop\r\n"), "{head}");
    let basic = "Authorization: Basic NDI6Y29ycmVjdDogaG9yc2U=\r\n";
    assert!(
        taken
            .head
            .contains(&basic.replace("Authorization", "authorization")),
        "{}",
        taken.head
    );
    endpoint.all();
    // Without the file nobody vouches for it.
    let said = attach(&child, &url, "2s", &["--no-probes", "--no-objects"]);
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("not taken by"))
        .collect();
    assert!(
        lines.len() == 1 && lines[0].contains("no TLS with it"),
        "{said}"
    );
    assert!(endpoint.all().is_empty());
    // What cannot be used is an error before anything is attached.
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).expect("ours");
    let pid = child.pid().to_string();
    let fixed = [
        "attach",
        "--headless",
        "--pid",
        &pid,
        "--push-profiles",
        &url,
    ];
    let output = fragscope(&[&fixed, &["--push-config", support::text(&config)][..]].concat());
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("everybody can read it") && said.contains("fix: "),
        "{said}"
    );
}

#[test]
fn an_endpoint_that_hangs_holds_up_neither_walks_nor_the_end() {
    let child = script("push_hangs.py", BUSY);
    let endpoint = Endpoint::start(Answer::Hang, None);
    let serving = pushing(&endpoint.url(), &["--budget", "unlimited"]);
    endpoint.asked();
    let look = || own(&serving.metrics(), "fragscope_look_timestamp_seconds");
    let walks = || own(&serving.metrics(), "fragscope_walks_total");
    let before = (look(), walks());
    eventually("looks and walks that go on", || {
        (look() > before.0 && walks() > before.1).then_some(())
    });
    let began = Instant::now();
    let said = attach(
        &child,
        &endpoint.url(),
        "2s",
        &["--no-probes", "--no-objects"],
    );
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    assert!(said.contains("profiles of 0 moments were pushed"), "{said}");
    let line = serving.wait_for("not taken by");
    assert!(line.contains("did not answer within 10 s"), "{line}");
    endpoint.answers(Answer::Take);
    let line = serving.wait_for("takes profiles again");
    assert!(!line.contains("those of 0 moments"), "{line}");
    assert!(own(&serving.metrics(), "fragscope_dropped_pushes_total") > Some(0.0));
    assert!(own(&serving.metrics(), "fragscope_push_failures_total") >= Some(1.0));
}

#[test]
fn an_endpoint_that_refuses_is_said_once_and_asked_more_and_more_seldom() {
    let refusal = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 9\r\n\r\nfull \x1b[2J";
    let endpoint = Endpoint::start(Answer::Refuse(refusal), None);
    // There is always one to push profiles of.
    let _worker = script("push_refused.py", BUSY);
    let serving = pushing(&endpoint.url(), &["--no-walks"]);
    let line = serving.wait_for("not taken by");
    assert!(
        line.contains("it answers 500 Internal Server Error: full \\x1b[2J"),
        "{line}"
    );
    endpoint.asked();
    // Pauses of at least 0.5 s, 1 s and 2 s.
    std::thread::sleep(Duration::from_secs(5));
    let times = endpoint.times_asked();
    assert!((1..=4).contains(&times), "{times}");
    endpoint.answers(Answer::Refuse(
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\ncontent-length: 0\r\n\r\n",
    ));
    // Of another kind than before is none of these.
    endpoint.asked();
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a port");
    elsewhere.set_nonblocking(true).expect("set");
    let to = elsewhere.local_addr().expect("bound");
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{to}/\r\ncontent-length: 0\r\n\r\n"
    );
    endpoint.answers(Answer::Refuse(redirect.leak()));
    let line = serving.wait_for("not taken by");
    assert!(
        line.contains("307") && line.contains(&to.to_string()),
        "{line}"
    );
    assert!(elsewhere.accept().is_err(), "nobody is followed");
    endpoint.answers(Answer::Take);
    serving.wait_for("takes profiles again");
    endpoint.next();
}

#[test]
fn one_who_answers_no_http_or_is_not_there_is_said() {
    let child = script("push_broken.py", BUSY);
    let endpoint = Endpoint::start(Answer::Refuse("SSH-2.0-OpenSSH_9.2\r\n"), None);
    let flags = ["--no-probes", "--no-objects"];
    let said = attach(&child, &endpoint.url(), "2s", &flags);
    assert!(said.contains("its answer is no HTTP"), "{said}");
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = nobody.local_addr().expect("bound");
    drop(nobody);
    let said = attach(&child, &format!("http://{address}"), "2s", &flags);
    assert!(
        said.contains("it cannot be reached: Connection refused"),
        "{said}"
    );
    assert_eq!(said.matches("not taken by").count(), 1, "{said}");
}
