//! A running `serve`, programs for it to group, and certificates.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use profiler_testing::child::KillOnDrop;
use profiler_testing::wait::{WAIT_LIMIT, eventually};

use super::{command, run, stderr};

/// A master that forks `children` children, one of which frees most of what it took, and that
/// prints a line once all have what they hold.
pub(crate) fn prefork(children: u32) -> String {
    format!(
        "
import os, sys
shared = [bytes(1000) for _ in range(5000)]
ready = os.pipe()
for n in range({children}):
    if os.fork() == 0:
        mine = [bytes(900) for _ in range((n + 1) * 4000)]
        if n == 1:
            mine = mine[::50]
        os.write(ready[1], b'.')
        sys.stdin.read()
        os._exit(0)
for _ in range({children}):
    os.read(ready[0], 1)
print(1, flush=True)
sys.stdin.read()
"
    )
}

/// `serve`, which looks every 200 ms.
pub(crate) struct Serving {
    pub(crate) fragscope: KillOnDrop,
    pub(crate) address: SocketAddr,
    /// What it said up to where it serves.
    pub(crate) said: Vec<String>,
    /// What it says from then on.
    says: Receiver<String>,
}

impl Serving {
    /// On a port of its own on this host.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::at("127.0.0.1:0", flags)
    }

    /// There.
    pub(crate) fn at(listen: &str, flags: &[&str]) -> Self {
        let fixed = ["serve", "--interval", "200ms", "--listen", listen];
        let spawned = command(&[&fixed, flags].concat())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.expect("it starts");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let fragscope = KillOnDrop(child);
        let (say, says) = channel();
        std::thread::spawn(move || {
            // Who does not listen to the end is the end of the test.
            lines
                .map_while(Result::ok)
                .for_each(|line| drop(say.send(line)));
        });
        let mut said = Vec::new();
        let address = loop {
            let line = says.recv_timeout(WAIT_LIMIT);
            let line = line.unwrap_or_else(|_| panic!("it says where it serves: {said:?}"));
            let place = line.strip_prefix("serving http");
            let place = place.and_then(|rest| rest.trim_start_matches('s').strip_prefix("://"));
            let address = place.and_then(|rest| rest.strip_suffix("/metrics")?.parse().ok());
            said.push(line);
            if let Some(address) = address {
                break address;
            }
        };
        Self {
            fragscope,
            address,
            said,
            says,
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// The head and the body of an answer.
    pub(crate) fn get(&self, path: &str, accept: &str) -> (String, String) {
        get(self.connect(), path, accept)
    }

    /// Where its health is answered, if that is elsewhere: host and port.
    pub(crate) fn health(&self) -> Option<SocketAddr> {
        self.said.iter().find_map(|line| {
            let at = line.strip_prefix("serving http://")?;
            at.strip_suffix("/-/healthy")?.parse().ok()
        })
    }

    pub(crate) fn metrics(&self) -> String {
        self.metrics_now().expect("an answer")
    }

    /// The metrics, or `None` if the connection was closed because there were too many from this
    /// address.
    pub(crate) fn metrics_now(&self) -> Option<String> {
        let mut stream = self.connect();
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        if answer.is_empty() {
            return None;
        }
        let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        Some(body.to_owned())
    }

    /// The metrics once all processes of this program were walked.
    pub(crate) fn walked(&self, program: &str, processes: f64) -> String {
        eventually("the walks", || {
            let text = self.metrics();
            let walked = value(&text, "fragscope_group_walked_processes", program);
            (walked == Some(processes)).then_some(text)
        })
    }

    /// Waits until it says something with these words.
    pub(crate) fn wait_for(&self, words: &str) -> String {
        loop {
            let line = self.says.recv_timeout(WAIT_LIMIT).expect(words);
            if line.contains(words) {
                return line;
            }
        }
    }
}

pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("it listens");
    stream.set_read_timeout(Some(WAIT_LIMIT)).expect("set");
    stream
}

/// The head and the body of an answer.
pub(crate) fn get(mut stream: TcpStream, path: &str, accept: &str) -> (String, String) {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n"
    )
    .expect("it takes it");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    (head.into(), body.into())
}

/// The value of a metric of the group of a program.
pub(crate) fn value(text: &str, metric: &str, program: &str) -> Option<f64> {
    let program = format!("program=\"{program}\"");
    let mut samples = text.lines().filter_map(|line| line.strip_prefix(metric));
    let sample = samples.find(|rest| rest.starts_with('{') && rest.contains(&program))?;
    sample.rsplit(' ').next()?.parse().ok()
}

/// The value of a metric without labels.
pub(crate) fn own(text: &str, metric: &str) -> Option<f64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(metric));
    lines.find_map(|rest| rest.strip_prefix(' ')?.parse().ok())
}

/// Makes a certificate for this host, which signs itself: `cert.pem` in the folder, and its key in `key.pem`.
pub(crate) fn certify(folder: &Path) {
    let made = run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=fragscope"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(folder.join("key.pem"))
        .arg("-out")
        .arg(folder.join("cert.pem")));
    assert!(made.status.success(), "{}", stderr(&made));
}
