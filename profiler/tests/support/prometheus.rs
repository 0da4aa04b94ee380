//! Queries Prometheus.

use std::io::{Read, Write};
use std::net::TcpStream;

use profiler_testing::wait::WAIT_LIMIT;
use serde_json::Value;

/// What Prometheus answers to a question of its API.
pub(crate) fn ask(port: u16, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(WAIT_LIMIT)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let answer: Value = serde_json::from_str(body).ok()?;
    (answer["status"] == "success").then(|| answer["data"].clone())
}
