//! `serve` on real processes: its figures are those of `top`, real Prometheus tools read it, and it
//! waits for no misbehaving client.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use profiler_core::host::{MetricKind, declared};
use profiler_testing::child::{Child, KillOnDrop};
use profiler_testing::wait::eventually;
use serde_json::Value;
use support::prometheus::ask;
use support::serving::{Serving, connect, get, own, prefork, value};
use support::{fragscope, json, script, stderr};

#[test]
fn the_figures_of_a_group_are_the_sums_of_its_tree() {
    let master = script("serve_sums.py", &prefork(3));
    let serving = Serving::start(&["--budget", "unlimited"]);
    let text = serving.walked("serve_sums.py", 4.0);
    let served = |metric: &str| value(&text, &format!("fragscope_group_{metric}"), "serve_sums.py");
    let pid = master.pid().to_string();
    let tree = json(&fragscope(&["snapshot", "--tree", "--json", "--pid", &pid]));
    let sum = |of: &dyn Fn(&Value) -> Option<u64>| {
        let rows = tree["processes"].as_array().expect("a list").iter();
        Some(rows.map(|row| of(row).expect("known")).sum::<u64>() as f64)
    };
    assert_eq!(served("processes"), Some(4.0));
    assert_eq!(
        served("resident_bytes"),
        sum(&|row| row["rss_bytes"].as_u64())
    );
    assert_eq!(served("swap_bytes"), sum(&|row| row["swap_bytes"].as_u64()));
    assert_eq!(served("live_bytes"), sum(&|row| row["live_bytes"].as_u64()));
    let trim = sum(&|row| row["metrics"]["trim_returnable_bytes"].as_u64());
    assert_eq!(served("trim_returnable_bytes"), trim);
    let free = tree["tree"]["fragmentation_bytes"].as_f64();
    assert_eq!(served("free_resident_bytes"), free);
    // Who else maps the files of Python comes and goes: PSS is between what is theirs alone and RSS.
    let [unique, proportional, resident] = ["unique_bytes", "proportional_bytes", "resident_bytes"]
        .map(|metric| served(metric).expect(metric));
    assert!(unique <= proportional && proportional < resident, "{text}");
    let ratio = served("fragmentation_ratio").expect("known");
    let expected = free.expect("known") / proportional;
    assert!((ratio - expected).abs() < 1e-9, "{ratio} {expected}");
    // One child of the three has something to trim.
    let verdict = "fragscope_group_verdict_processes";
    let trims = text.lines().any(|line| {
        line.starts_with(verdict)
            && line.contains("serve_sums.py")
            && line.contains("verdict=\"not trimmed\"} 1")
    });
    assert!(trims, "{text}");
    assert!(own(&text, "fragscope_walks_total") >= Some(4.0), "{text}");
    assert_eq!(
        own(&text, "fragscope_walk_stop_seconds_count"),
        own(&text, "fragscope_walks_total")
    );
}

#[test]
fn without_walks_nothing_is_stopped_and_nothing_made_up() {
    let _master = script("serve_unwalked.py", &prefork(3));
    let serving = Serving::start(&["--no-walks"]);
    let text = eventually("the first look", || {
        let text = serving.metrics();
        value(&text, "fragscope_group_processes", "serve_unwalked.py").map(|_| text)
    });
    let group = |metric: &str| {
        value(
            &text,
            &format!("fragscope_group_{metric}"),
            "serve_unwalked.py",
        )
    };
    assert_eq!(group("processes"), Some(4.0));
    assert_eq!(group("walked_processes"), Some(0.0));
    for unknown in [
        "live_bytes",
        "free_resident_bytes",
        "fragmentation_ratio",
        "oldest_walk_timestamp_seconds",
    ] {
        assert_eq!(group(unknown), None, "{unknown}");
    }
    assert_eq!(own(&text, "fragscope_walks_total"), Some(0.0));
    let (head, body) = serving.get("/-/ready", "*/*");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && body == "ready\n",
        "{head}"
    );
}

/// What promtool says of metrics.
fn promtool_check(text: &str) -> String {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (Debian's prometheus) is installed");
    let mut input = promtool.stdin.take().expect("piped");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}\n{text}", stderr(&output));
    format!("{}{}", support::stdout(&output), stderr(&output))
}

#[test]
fn names_of_others_are_escaped_and_promtool_has_nothing_to_object_to() {
    let idle = "print(1, flush=True); input()";
    let _evil = script("evil\"\\ \n}\u{1b}[2J.py", idle);
    let evil = r#"evil\"\\ \\n}\\x1b[2J.py"#;
    let serving = Serving::start(&["--budget", "unlimited", "--max-groups", "1000"]);
    let text = serving.walked(evil, 1.0);
    assert!(!text.contains('\u{1b}'), "{text}");
    assert_eq!(promtool_check(&text), "");
    // More groups than are asked for are one.
    let _another = script("serve_another.py", idle);
    let few = Serving::start(&["--no-walks", "--max-groups", "1"]);
    let text = eventually("a look", || {
        let text = few.metrics();
        text.contains("group=\"other\"").then_some(text)
    });
    let groups = text
        .lines()
        .filter(|line| line.starts_with("fragscope_group_processes{"));
    assert_eq!(groups.count(), 2, "{text}");
    assert_eq!(promtool_check(&text), "");
}

#[test]
fn nobody_who_asks_badly_is_waited_for() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most.min(4096), most).expect("raised");
    let _idle = script("serve_idle.py", "print(1, flush=True); input()");
    let serving = Serving::start(&["--no-walks"]);
    let looked = |text: &str| own(text, "fragscope_look_timestamp_seconds");
    let before = eventually("the first look", || {
        let text = serving.metrics();
        looked(&text).map(|_| text)
    });
    let memory = |text: &str| own(text, "process_resident_memory_bytes").expect("known");
    // A thousand that say nothing, and some that begin a request and go no further.
    let silent: Vec<TcpStream> = (0..1000).map(|_| serving.connect()).collect();
    let slow: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = serving.connect();
            // It may be gone already.
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ");
            stream
        })
        .collect();
    // One that asks and never reads, and one whose head has no end.
    let mut deaf = serving.connect();
    let _ = deaf.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut endless = serving.connect();
    let line = format!("X-{}: y\r\n", "x".repeat(4000));
    let _ = endless.write_all(b"GET /metrics HTTP/1.1\r\n");
    for _ in 0..100 {
        if endless.write_all(line.as_bytes()).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    // It is refused, or the connection is closed.
    let _ = endless.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    // Who asks as one should is answered, and the host was looked at all the time.
    let after = eventually("another look", || {
        let text = serving.metrics_now()?;
        (looked(&text) > looked(&before)).then_some(text)
    });
    assert!(
        own(&after, "fragscope_dropped_connections_total") > Some(900.0),
        "{after}"
    );
    for _ in 0..300 {
        eventually("an answer", || serving.metrics_now());
    }
    let last = eventually("an answer", || serving.metrics_now());
    let grown = memory(&last) - memory(&before);
    assert!(grown < f64::from(8 << 20), "{grown} bytes");
    // They hang, and it ends.
    let mut fragscope = serving.fragscope;
    kill(fragscope.pid(), Signal::SIGTERM).expect("it runs");
    assert_eq!(fragscope.ended().code(), Some(130));
    drop((silent, slow, deaf));
}

/// Connects as often as it can, and says nothing, from an address of its own.
const FLOODS: &str = "
import collections, socket, sys
kept = collections.deque(maxlen=200)
print('READY', flush=True)
while True:
    try:
        kept.append(socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5, ('127.0.0.2', 0)))
    except OSError:
        pass
";

#[test]
fn who_floods_it_keeps_no_other_address_from_an_answer() {
    let _idle = script("serve_idle.py", "print(1, flush=True); input()");
    let serving = Serving::start(&["--no-walks"]);
    eventually("the first look", || {
        own(&serving.metrics(), "fragscope_look_timestamp_seconds")
    });
    let mut flood = Command::new("python3");
    flood.args(["-c", FLOODS, &serving.address.port().to_string()]);
    let flood = Child::run(flood);
    assert_eq!(flood.first_line(), "READY");
    // From then on more come than are served.
    let dropped = || own(&serving.metrics(), "fragscope_dropped_connections_total");
    eventually("what is dropped", || {
        (dropped() > Some(500.0)).then_some(())
    });
    for _ in 0..20 {
        assert!(dropped() > Some(500.0));
        let (head, _) = serving.get("/-/healthy", "*/*");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
}

/// Connects as fast as it is served, from 400 addresses in turn, and says nothing (`silent`), or asks and reads nothing
/// (`deaf`), with buffers so small that an answer does not fit. It keeps more connections than are served.
const FLOODS_FROM_MANY: &str = "
import collections, itertools, socket, sys
kept = collections.deque(maxlen=1000)
print('READY', flush=True)
for n in itertools.count():
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    connection.settimeout(5)
    try:
        connection.bind((f'127.0.{1 + n % 2}.{2 + n // 2 % 200}', 0))
        connection.connect(('127.0.0.1', int(sys.argv[1])))
        if sys.argv[2] == 'deaf':
            connection.send(b'GET /metrics HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
    except OSError:
        pass
    kept.append(connection)
";

/// A flood from many addresses, and what was dropped of it so far; it began.
fn flood_from_many(to: SocketAddr, how: &str) -> Child {
    let mut flood = Command::new("python3");
    flood.args(["-c", FLOODS_FROM_MANY, &to.port().to_string(), how]);
    let flood = Child::run(flood);
    assert_eq!(flood.first_line(), "READY");
    flood
}

/// The status of an answer to one who asks from this address.
fn status_from(address: &str, url: &str) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--output", "/dev/null"])
        .args(["--write-out", "%{http_code}", "--interface", address, url])
        .output()
        .expect("curl is installed");
    support::stdout(&output)
}

#[test]
fn a_flood_from_many_addresses_keeps_no_scraper_from_an_answer() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most.min(4096), most).expect("raised");
    let _idle = script("serve_idle.py", "print(1, flush=True); input()");
    for how in ["silent", "deaf"] {
        let serving = Serving::start(&["--no-walks"]);
        eventually("the first look", || {
            own(&serving.metrics(), "fragscope_look_timestamp_seconds")
        });
        let ended = |text: &str| {
            let of = ["dropped_connections_total", "answers_total"]
                .map(|name| own(text, &format!("fragscope_{name}")).expect("it is there"));
            of[0] + of[1]
        };
        let before = ended(&serving.metrics());
        let _flood = flood_from_many(serving.address, how);
        let more_than = |count: f64| {
            eventually("what comes of the flood", || {
                let ended = ended(&serving.metrics());
                (ended > count).then_some(ended)
            })
        };
        let mut now = more_than(before + 1000.0);
        // Whoever asks at once, from whichever address, is answered.
        let url = format!("http://{}/metrics", serving.address);
        for number in 1..=20 {
            let from = format!("127.0.9.{number}");
            assert_eq!(status_from(&from, &url), "200", "{how} {from}");
        }
        // A scraper that was answered before has time for its request, however many come meanwhile.
        for _ in 0..3 {
            let slow = serving.connect();
            now = more_than(now + 400.0);
            let (head, _) = get(slow, "/metrics", "*/*");
            assert!(head.starts_with("HTTP/1.1 200 "), "{how}: {head}");
        }
    }
}

#[test]
fn health_is_answered_at_an_address_of_its_own_and_nothing_else_is() {
    let _idle = script("serve_idle.py", "print(1, flush=True); input()");
    let serving = Serving::start(&["--no-walks", "--health-listen", "127.0.0.1:0"]);
    let health = serving.health().expect("it says where");
    let ask = |path: &str| get(connect(health), path, "*/*");
    let ready = |(head, body): (String, String)| {
        (head.starts_with("HTTP/1.1 200 ") && body == "ready\n").then_some(())
    };
    eventually("the first look", || ready(ask("/-/ready")));
    assert_eq!(ask("/-/healthy").1, "healthy\n");
    for path in ["/metrics", "/", "/-/"] {
        let (head, body) = ask(path);
        assert!(head.starts_with("HTTP/1.1 404 "), "{path}: {head}");
        assert!(!body.contains("fragscope"), "{path}: {body}");
    }
    // Neither address is a way to keep the other from answering.
    for (flooded, other) in [(serving.address, health), (health, serving.address)] {
        let dropped = || own(&serving.metrics(), "fragscope_dropped_connections_total");
        let before = dropped().expect("it is there");
        let _flood = flood_from_many(flooded, "silent");
        eventually("what is dropped", || {
            (dropped() > Some(before + 500.0)).then_some(())
        });
        for _ in 0..20 {
            let (head, _) = get(connect(other), "/-/healthy", "*/*");
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        }
    }
}

#[test]
fn an_address_that_cannot_be_had_is_said_with_what_helps() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("bound").to_string();
    let port = taken.rsplit(':').next().expect("a port");
    for (listen, flags, code, words) in [
        (taken.as_str(), &[][..], 1, port),
        ("192.0.2.1:9464", &["--allow-remote"], 1, "ip address"),
        ("0.0.0.0:0", &[], 2, "--allow-remote"),
        ("localhost", &[], 2, "127.0.0.1:9464"),
        ("127.0.0.1:0", &["--health-listen", &taken], 1, port),
        (
            "127.0.0.1:0",
            &["--health-listen", "9465"],
            2,
            "127.0.0.1:9464",
        ),
    ] {
        let output = fragscope(&[&["serve", "--listen", listen], flags].concat());
        assert_eq!(
            output.status.code(),
            Some(code),
            "{listen}: {}",
            stderr(&output)
        );
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

/// The folder with what is deployed.
fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

/// What the panels of the dashboard ask for, with its variables filled in.
fn dashboard_queries() -> Vec<String> {
    let text = fs::read_to_string(deploy("dashboard.json")).expect("a dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let expressions = targets.map(|target| target["expr"].as_str().expect("a query"));
    expressions
        .map(|query| {
            let query = query.replace("$__rate_interval", "5m");
            query.replace("$instance", ".*").replace("$group", ".*")
        })
        .collect()
}

/// The words in a query that name a metric of fragscope's.
fn metrics_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("fragscope_") || word.starts_with("process_"))
}

#[test]
fn what_dashboard_and_alerts_ask_for_is_served() {
    let mut served: Vec<String> = Vec::new();
    for metric in declared() {
        let ends: &[&str] = match metric.kind {
            MetricKind::Histogram => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        served.extend(ends.iter().map(|end| format!("{}{end}", metric.name)));
    }
    let alerts = fs::read_to_string(deploy("alerts.yml")).expect("alerts");
    let texts = [dashboard_queries(), vec![alerts]].concat();
    let named: Vec<&str> = texts.iter().flat_map(|text| metrics_in(text)).collect();
    assert!(named.len() > 30, "{named:?}");
    for metric in &named {
        assert!(
            served.iter().any(|one| one == metric),
            "{metric} is not served"
        );
    }
    // All that is served of groups is shown.
    for metric in declared()
        .iter()
        .filter(|metric| metric.kind != MetricKind::Info)
    {
        let is_shown = named.iter().any(|name| name.starts_with(metric.name));
        assert!(
            is_shown || !metric.name.starts_with("fragscope_group_"),
            "{}",
            metric.name
        );
    }
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

#[test]
fn a_real_prometheus_scrapes_it_and_evaluates_alerts_and_dashboard() {
    let _master = script("serve_scraped.py", &prefork(3));
    let serving = Serving::start(&["--budget", "unlimited"]);
    serving.walked("serve_scraped.py", 4.0);
    let folder = tempfile::tempdir().expect("a folder");
    // Each query of the dashboard as a rule, which Prometheus parses and evaluates.
    let mut rules = "groups:\n  - name: dashboard\n    interval: 1s\n    rules:\n".to_owned();
    for (number, query) in dashboard_queries().iter().enumerate() {
        let query = Value::from(query.as_str());
        rules += &format!("      - record: dashboard:query:n{number}\n        expr: {query}\n");
    }
    fs::write(folder.path().join("dashboard.yml"), rules).expect("written");
    let alerts = fs::read_to_string(deploy("alerts.yml")).expect("alerts");
    fs::write(folder.path().join("alerts.yml"), alerts).expect("written");
    let config = format!(
        "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: [alerts.yml, dashboard.yml]\n\
         scrape_configs:\n  - job_name: fragscope\n    static_configs:\n      - targets: ['{}']\n",
        serving.address
    );
    let config_file = folder.path().join("prometheus.yml");
    fs::write(&config_file, config).expect("written");
    let checked = Command::new("promtool")
        .args(["check", "config"])
        .arg(&config_file)
        .output()
        .expect("promtool (Debian's prometheus) is installed");
    assert!(checked.status.success(), "{}", stderr(&checked));
    let port = free_port();
    let prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", config_file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.path().join("data").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus");
    let _prometheus = KillOnDrop(prometheus);
    // All of it, as OpenMetrics, with the type that it has.
    let resident = eventually("a scrape", || {
        let data = ask(
            port,
            "/api/v1/query?query=fragscope_group_resident_bytes%7Bprogram=%22serve_scraped.py%22%7D",
        )?;
        let value = data["result"][0]["value"][1].as_str()?.parse::<f64>();
        value.ok()
    });
    let served = value(
        &serving.metrics(),
        "fragscope_group_resident_bytes",
        "serve_scraped.py",
    );
    assert_eq!(Some(resident), served);
    let targets = ask(port, "/api/v1/targets").expect("targets");
    let target = &targets["activeTargets"][0];
    assert_eq!(
        (&target["health"], &target["lastError"]),
        (&"up".into(), &"".into()),
        "{targets}"
    );
    let metadata = ask(port, "/api/v1/metadata").expect("metadata");
    assert_eq!(
        metadata["fragscope_walk_stop_seconds"][0]["type"], "histogram",
        "{metadata}"
    );
    assert_eq!(
        metadata["fragscope_group_resident_bytes"][0]["unit"], "bytes",
        "{metadata}"
    );
    let rules = eventually("an evaluation of all rules", || {
        let rules = ask(port, "/api/v1/rules")?;
        let groups = rules["groups"].as_array()?.iter();
        let rules: Vec<Value> = groups
            .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
            .collect();
        let is_done = |rule: &Value| rule["health"] != "unknown";
        (!rules.is_empty() && rules.iter().all(is_done)).then_some(rules)
    });
    assert!(rules.len() > 20, "{rules:?}");
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}
