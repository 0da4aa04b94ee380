//! An endpoint that accepts profiles like Pyroscope, and its message definitions, written
//! separately from `api/push/v1/push.proto` of grafana/pyroscope and pprof's `profile.proto`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use flate2::read::GzDecoder;
use profiler_testing::wait::WAIT_LIMIT;
use prost::Message;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

#[derive(Clone, PartialEq, Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    series: Vec<Series>,
}

#[derive(Clone, PartialEq, Message)]
struct Series {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<RawSample>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct RawSample {
    #[prost(bytes = "vec", tag = "1")]
    raw_profile: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PprofProfile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
}

#[derive(Copy, Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Copy, Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Copy, Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

/// A profile as a person sees it.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) labels: BTreeMap<String, String>,
    /// Names and units of the figures.
    pub(crate) types: Vec<(String, String)>,
    /// Stacks, the outermost function first, and their figures.
    pub(crate) stacks: Vec<(Vec<String>, Vec<i64>)>,
    pub(crate) time_ns: i64,
}

impl Profile {
    /// The profile of a file, packed by gzip.
    pub(crate) fn of_file(bytes: &[u8]) -> Self {
        let mut message = Vec::new();
        let unpacked = GzDecoder::new(bytes).read_to_end(&mut message);
        unpacked.expect("gzip");
        let read = PprofProfile::decode(&*message).expect("a profile");
        let text = |number: i64| read.string_table[number as usize].clone();
        let function = |id: &u64| {
            let location = read.location.iter().find(|location| location.id == *id);
            let of = location.expect("a location").line[0].function_id;
            let function = read.function.iter().find(|function| function.id == of);
            text(function.expect("a function").name)
        };
        assert_eq!(text(0), "");
        let stack = |sample: &Sample| {
            assert_eq!(sample.value.len(), read.sample_type.len());
            let names = sample.location_id.iter().rev().map(function);
            (names.collect(), sample.value.clone())
        };
        let types = read.sample_type.iter();
        Self {
            labels: BTreeMap::new(),
            types: types.map(|of| (text(of.kind), text(of.unit))).collect(),
            stacks: read.sample.iter().map(stack).collect(),
            time_ns: read.time_nanos,
        }
    }

    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The sum of a figure over the stacks with this function.
    pub(crate) fn sum(&self, figure: &str, with: Option<&str>) -> i64 {
        let at = self.types.iter().position(|(name, _)| name == figure);
        let at = at.unwrap_or_else(|| panic!("{figure}: {:?}", self.types));
        let is_with =
            |stack: &[String]| with.is_none_or(|with| stack.iter().any(|name| name == with));
        let stacks = self.stacks.iter().filter(|(stack, _)| is_with(stack));
        stacks.map(|(_, values)| values[at]).sum()
    }
}

/// What came in one request.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) head: String,
    pub(crate) profiles: Vec<Profile>,
}

impl Taken {
    fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.parse().expect("a number"))
        });
        let mut body = vec![0; length.expect("a length")];
        reader.read_exact(&mut body)?;
        let request = PushRequest::decode(&*body).expect("a message");
        let profile = |series: &Series| {
            assert_eq!(series.samples.len(), 1);
            let labels = series.labels.iter();
            let labels: Vec<_> = labels
                .map(|label| (label.name.clone(), label.value.clone()))
                .collect();
            let count = labels.len();
            let profile = Profile {
                labels: labels.into_iter().collect(),
                ..Profile::of_file(&series.samples[0].raw_profile)
            };
            assert_eq!(profile.labels.len(), count, "a label is there twice");
            profile
        };
        Ok(Self {
            head,
            profiles: request.series.iter().map(profile).collect(),
        })
    }
}

/// What the endpoint does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Takes it.
    Take,
    /// Answers this, and takes nothing.
    Refuse(&'static str),
    /// Reads it and says nothing.
    Hang,
}

/// The endpoint.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    taken: Receiver<Taken>,
    answer: Arc<Mutex<Answer>>,
    asked: Receiver<()>,
}

impl Endpoint {
    pub(crate) fn start(answer: Answer, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let answer = Arc::new(Mutex::new(answer));
        let (take, taken) = channel();
        let (ask, asked) = channel();
        let answers = Arc::clone(&answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answers, take, ask) = (Arc::clone(&answers), take.clone(), ask.clone());
                let (stream, tls) = (stream.expect("a connection"), tls.clone());
                thread::spawn(move || {
                    let served = serve(stream, tls, &answers, &take, &ask);
                    // One that trusts nobody here hangs up.
                    drop(served);
                });
            }
        });
        Self {
            address,
            taken,
            answer,
            asked,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn answers(&self, answer: Answer) {
        *self.answer.lock().expect("no panic") = answer;
    }

    /// What it takes next.
    pub(crate) fn next(&self) -> Taken {
        self.taken
            .recv_timeout(WAIT_LIMIT)
            .expect("it is pushed to")
    }

    /// All that it has taken.
    pub(crate) fn all(&self) -> Vec<Taken> {
        self.taken.try_iter().collect()
    }

    /// Waits until it was asked once more, whatever it answers.
    pub(crate) fn asked(&self) {
        self.asked
            .recv_timeout(WAIT_LIMIT)
            .expect("it is pushed to");
    }

    /// How often it was asked besides.
    pub(crate) fn times_asked(&self) -> usize {
        self.asked.try_iter().count()
    }
}

fn serve(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    answers: &Mutex<Answer>,
    take: &Sender<Taken>,
    ask: &Sender<()>,
) -> io::Result<()> {
    match tls {
        None => exchange(stream, answers, take, ask),
        Some(config) => {
            let connection = ServerConnection::new(config).expect("a configuration");
            exchange(StreamOwned::new(connection, stream), answers, take, ask)
        }
    }
}

fn exchange(
    mut stream: impl Read + Write,
    answers: &Mutex<Answer>,
    take: &Sender<Taken>,
    ask: &Sender<()>,
) -> io::Result<()> {
    let taken = Taken::read(&mut stream)?;
    let answer = answers.lock().expect("no panic").clone();
    // Who does not listen to the end is the end of the test.
    let _ = ask.send(());
    match answer {
        Answer::Take => {
            let _ = take.send(taken);
            stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\ncontent-length: 0\r\n\r\n",
            )?;
        }
        Answer::Refuse(answer) => stream.write_all(answer.as_bytes())?,
        Answer::Hang => {
            // Until the other side has had enough.
            let _ = stream.read(&mut [0; 1]);
        }
    }
    stream.flush()
}
