//! `serve --web-config`: TLS and passwords, with curl and a real Prometheus as clients.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use profiler_testing::child::{Child, KillOnDrop};
use profiler_testing::wait::{WAIT_LIMIT, eventually};
use support::prometheus::ask;
use support::serving::{Serving, certify};
use support::{fragscope, stderr, stdout};

/// A folder with a certificate for this host, its key, and a config with them and with the user `prom`.
struct Web(tempfile::TempDir);

const PASSWORD: &str = "correct: horse";

/// Asks with wrong passwords from twenty addresses as often as it can, over TLS, and says when one was not even checked.
const GUESSES: &str = "
import base64, itertools, socket, ssl, sys, threading
context = ssl.create_default_context(cafile=sys.argv[2])
context.check_hostname = False
def guess(number):
    for n in itertools.count():
        try:
            plain = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 20, (f'127.0.2.{2 + number}', 0))
            with context.wrap_socket(plain) as connection:
                both = base64.b64encode(f'prom:guess {number} {n}'.encode())
                connection.sendall(b'GET /metrics HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: Basic ' + both + b'\\r\\n\\r\\n')
                head = connection.recv(4096).lower()
                if head.startswith(b'http/1.1 503 ') and b'\\r\\nretry-after: ' in head:
                    busy.set()
        except OSError:
            pass
busy = threading.Event()
for number in range(20):
    threading.Thread(target=guess, args=(number,), daemon=True).start()
busy.wait()
print('BUSY', flush=True)
sys.stdin.read()
";

impl Web {
    fn new() -> Self {
        let web = Self(tempfile::tempdir().expect("a folder"));
        certify(web.0.path());
        let hash = bcrypt::hash(PASSWORD, 5).expect("hashed");
        web.write(&format!(
            "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\nbasic_auth_users:\n  prom: {hash}\n"
        ));
        web
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self) -> String {
        let path = self.path("web.yml");
        path.to_str().expect("UTF-8").to_owned()
    }

    fn write(&self, config: &str) {
        fs::write(self.config(), config).expect("written");
    }

    /// `serve` with it, on a port of its own.
    fn serve(&self) -> Serving {
        self.serve_at("127.0.0.1:0", &[])
    }

    fn serve_at(&self, listen: &str, flags: &[&str]) -> Serving {
        let config = self.config();
        Serving::at(listen, &[&["--web-config", &config], flags].concat())
    }

    /// The status that curl gets, which checks the certificate, and what is served.
    fn curl(&self, serving: &Serving, flags: &[&str]) -> (String, String) {
        let output = Command::new("curl")
            .args(["--silent", "--write-out", "\n%{http_code}", "--cacert"])
            .arg(self.path("cert.pem"))
            .args(flags)
            .arg(format!(
                "https://127.0.0.1:{}/metrics",
                serving.address.port()
            ))
            .output()
            .expect("curl is installed");
        let text = stdout(&output);
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (status.into(), body.into())
    }
}

#[test]
fn who_has_the_password_is_served_over_tls_and_nobody_else() {
    let web = Web::new();
    let serving = web.serve();
    let right = format!("prom:{PASSWORD}");
    let (status, body) = web.curl(&serving, &["--user", &right]);
    assert_eq!(status, "200");
    assert!(body.contains("fragscope_build_info"), "{body}");
    for wrong in [&["--user", "prom:wrong"][..], &["--user", "bob:x"], &[]] {
        let (status, body) = web.curl(&serving, wrong);
        assert_eq!(status, "401", "{wrong:?}");
        assert!(!body.contains("fragscope_"), "{body}");
    }
    // TLS 1.3 and 1.2, and no older.
    for (version, expected) in [("1.3", "200"), ("1.2", "200"), ("1.1", "000")] {
        let flags = [
            "--user",
            &right,
            &format!("--tlsv{version}"),
            "--tls-max",
            version,
        ];
        assert_eq!(web.curl(&serving, &flags).0, expected, "TLS {version}");
    }
    // Who speaks no TLS gets nothing, and is nobody's loss.
    let mut plain = TcpStream::connect(("127.0.0.1", serving.address.port())).expect("it listens");
    plain.set_read_timeout(Some(WAIT_LIMIT)).expect("set");
    plain
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("taken");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.windows(4).any(|at| at == b"frag"), "{answer:?}");
    assert_eq!(web.curl(&serving, &["--user", &right]).0, "200");
}

#[test]
fn a_certificate_and_a_password_that_change_are_used_without_a_restart() {
    let web = Web::new();
    let serving = web.serve();
    let right = format!("prom:{PASSWORD}");
    assert_eq!(web.curl(&serving, &["--user", &right]).0, "200");
    certify(web.0.path());
    let other = bcrypt::hash("other", 5).expect("hashed");
    web.write(&format!(
        "tls_server_config: {{cert_file: cert.pem, key_file: key.pem}}\nbasic_auth_users: {{prom: {other}}}\n"
    ));
    eventually("the new certificate and password", || {
        (web.curl(&serving, &["--user", "prom:other"]).0 == "200").then_some(())
    });
    assert_eq!(web.curl(&serving, &["--user", &right]).0, "401");
    // One that is wrong does not hold, and ends nothing.
    web.write("basic_auth_users: [");
    serving.wait_for("cannot be used");
    assert_eq!(web.curl(&serving, &["--user", "prom:other"]).0, "200");
}

#[test]
fn who_was_found_right_waits_for_no_wrong_passwords_and_these_are_not_all_checked() {
    let web = Web::new();
    let tls = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";
    // As `htpasswd -C 10` makes it.
    let hash = bcrypt::hash(PASSWORD, 10).expect("hashed");
    let config = format!("{tls}basic_auth_users:\n  prom: {hash}\n");
    web.write(&config);
    let serving = web.serve_at("127.0.0.1:0", &["--health-listen", "127.0.0.1:0"]);
    let right = format!("prom:{PASSWORD}");
    assert_eq!(web.curl(&serving, &["--user", &right]).0, "200");
    let mut guesses = Command::new("python3");
    guesses.args(["-c", GUESSES, &serving.address.port().to_string()]);
    let guesses = Child::run({
        guesses.arg(web.path("cert.pem"));
        guesses
    });
    assert_eq!(guesses.first_line(), "BUSY");
    for _ in 0..10 {
        assert_eq!(web.curl(&serving, &["--user", &right]).0, "200");
    }
    // Nor once the file was read anew.
    web.write(&format!("{config}# changed\n"));
    serving.wait_for("was read anew");
    for _ in 0..10 {
        assert_eq!(web.curl(&serving, &["--user", &right]).0, "200");
    }
    // Whether it lives is asked without a password, and without TLS.
    let health = serving.health().expect("it says where");
    let healthy = Command::new("curl")
        .args(["--silent", &format!("http://{health}/-/healthy")])
        .output();
    assert_eq!(stdout(&healthy.expect("curl is installed")), "healthy\n");
}

#[test]
fn a_config_that_becomes_a_pipe_is_not_opened_and_keeps_no_signal() {
    let web = Web::new();
    let mut serving = web.serve();
    fs::remove_file(web.config()).expect("ours");
    mkfifo(web.config().as_str(), Mode::S_IRWXU).expect("made");
    serving.wait_for("it is not a regular file");
    let right = format!("prom:{PASSWORD}");
    assert_eq!(web.curl(&serving, &["--user", &right]).0, "200");
    kill(
        Pid::from_raw(serving.fragscope.id() as i32),
        Signal::SIGTERM,
    )
    .expect("ours");
    eventually("its end", || serving.fragscope.try_wait().expect("ours"));
}

#[test]
fn with_tls_and_a_password_another_address_needs_no_permission_and_with_one_of_them_it_does() {
    let web = Web::new();
    let serving = web.serve_at("0.0.0.0:0", &[]);
    assert!(
        !serving.said.iter().any(|line| line.contains("warning")),
        "{:?}",
        serving.said
    );
    let tls = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n";
    web.write(tls);
    let refused = fragscope(&[
        "serve",
        "--listen",
        "0.0.0.0:0",
        "--web-config",
        &web.config(),
    ]);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("--web-config"),
        "{}",
        stderr(&refused)
    );
    let serving = web.serve_at("0.0.0.0:0", &["--allow-remote"]);
    let warning = "may read what is served: there is no password";
    assert!(
        serving.said.iter().any(|line| line.ends_with(warning)),
        "{:?}",
        serving.said
    );
}

#[test]
fn what_is_wrong_with_the_files_is_said_at_the_start() {
    let web = Web::new();
    let tls = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";
    let start = |config: &str| {
        web.write(config);
        let listen = ["serve", "--listen", "127.0.0.1:0", "--web-config"];
        let output = fragscope(&[&listen[..], &[&web.config()]].concat());
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        stderr(&output)
    };
    let said = start(&tls.replace("key.pem", "cert.pem"));
    assert!(
        said.contains("web.yml line 3: tls_server_config.key_file: "),
        "{said}"
    );
    let said = start(&tls.replace("cert.pem", "key.pem"));
    assert!(
        said.contains("web.yml line 2: tls_server_config.cert_file: "),
        "{said}"
    );
    let said = start("basic_auth_users:\n  prom: plain\n");
    assert!(
        said.contains("web.yml line 2: basic_auth_users.prom: "),
        "{said}"
    );
    assert!(said.contains("fix: mend what is named"), "{said}");
    // The key of another certificate.
    let other = Web::new();
    fs::copy(other.path("key.pem"), web.path("other.pem")).expect("copied");
    let said = start(&tls.replace("key.pem", "other.pem"));
    assert!(said.contains("tls_server_config.key_file: "), "{said}");
}

fn prometheus(web: &Web, port: u16) -> (KillOnDrop, u16) {
    let job = |name: &str, password: &str| {
        format!(
            "  - job_name: {name}\n    scheme: https\n    tls_config: {{ca_file: {:?}}}\n    \
             basic_auth: {{username: prom, password: {password:?}}}\n    static_configs:\n      - targets: ['127.0.0.1:{port}']\n",
            web.path("cert.pem")
        )
    };
    let config = format!(
        "global:\n  scrape_interval: 1s\nscrape_configs:\n{}{}",
        job("right", PASSWORD),
        job("wrong", "guessed")
    );
    let file = web.path("prometheus.yml");
    fs::write(&file, config).expect("written");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let own = listener.local_addr().expect("bound").port();
    drop(listener);
    let flag = |name: &str, value: &Path| format!("--{name}={}", value.display());
    let started = Command::new("prometheus")
        .arg(flag("config.file", &file))
        .arg(flag("storage.tsdb.path", &web.path("data")))
        .arg(format!("--web.listen-address=127.0.0.1:{own}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    (
        KillOnDrop(started.expect("Debian's prometheus is installed")),
        own,
    )
}

#[test]
fn a_real_prometheus_scrapes_it_with_the_password_and_is_refused_with_another() {
    let web = Web::new();
    let serving = web.serve();
    let (_prometheus, port) = prometheus(&web, serving.address.port());
    let health = |job: &str| {
        eventually("a scrape", || {
            let targets = ask(port, "/api/v1/targets")?;
            let targets = targets["activeTargets"].as_array()?.clone();
            let target = targets
                .into_iter()
                .find(|one| one["labels"]["job"] == job)?;
            (target["health"] != "unknown").then_some(target)
        })
    };
    let right = health("right");
    assert_eq!(right["health"], "up", "{right}");
    let wrong = health("wrong");
    assert_eq!(wrong["health"], "down", "{wrong}");
    let why = wrong["lastError"].as_str().expect("it says why");
    assert!(why.contains("401 Unauthorized"), "{why}");
}
