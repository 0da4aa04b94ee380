//! HTTP, as little of it as a scraper needs, within limits: one request a connection, a bounded number of
//! connections of which the oldest goes first, and a bounded time for each.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::published::Published;
use super::web_config::{Users, WebConfig};
use crate::export::Exposition;

/// Connections at a time at most: of more, the oldest is closed. An honest one is over in milliseconds.
const MAX_CONNECTIONS: usize = 64;
/// A connection is closed after this long, whatever is under way.
const MAX_TIME: Duration = Duration::from_secs(10);
/// A request's head has to come within this time.
const MAX_HEAD_TIME: Duration = Duration::from_secs(5);
/// Bytes of a request's head at most.
const MAX_HEAD: usize = 16 << 10;
/// Lines of a request's head at most.
const MAX_HEADERS: usize = 64;
/// So many connections are accepted at once, and then one each `STEP`: more wait in the kernel. Accepting one and closing
/// it takes some ten microseconds.
const ALL: Limit = Limit {
    burst: 2000,
    step: Duration::from_micros(500),
};
/// The same of one source: more of it are closed, so that others do not wait behind them.
const EACH: Limit = Limit {
    burst: 200,
    step: Duration::from_millis(5),
};
/// So many sources are distinguished at a time.
const MAX_SOURCES: usize = 1024;
/// So many wait there at most.
const BACKLOG: u32 = 1024;
/// After an error, as of too many open files, nothing is accepted for so long.
const REST: Duration = Duration::from_millis(100);

/// The listener and its connections.
pub(super) struct Server {
    listener: TcpListener,
    published: Arc<Published>,
    web: Option<WebConfig>,
    open: OpenConnections,
    pace: Pace,
    sources: Sources,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn bind(
        address: SocketAddr,
        published: Arc<Published>,
        web: Option<WebConfig>,
    ) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // What is left of earlier connections is no reason to refuse the port.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self {
            listener: socket.listen(BACKLOG)?,
            published,
            web,
            open: OpenConnections::default(),
            pace: Pace::new(ALL, Instant::now()),
            sources: Sources::default(),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Takes the next connection, which is served beside, or closed where its source has too many.
    pub(super) async fn accept(&mut self) {
        sleep_until(self.pace.next()).await;
        match self.listener.accept().await {
            Ok((stream, from)) => {
                let now = Instant::now();
                self.pace.took(now);
                if !self.sources.may(from.ip(), now) {
                    self.published.dropped();
                    return;
                }
                self.open.make_room(MAX_CONNECTIONS);
                let web = self.web.as_ref();
                let tls = web.and_then(WebConfig::tls);
                let users = web.and_then(WebConfig::users);
                let published = Arc::clone(&self.published);
                let serving = tokio::spawn(connection(stream, tls, users, published));
                self.open
                    .0
                    .push((network(from.ip()), serving.abort_handle()));
            }
            Err(_) => self.pace.rest(Instant::now() + REST),
        }
    }
}

/// Connections that are open, each with its source, the oldest first.
#[derive(Default)]
struct OpenConnections(Vec<(IpAddr, AbortHandle)>);

impl OpenConnections {
    /// Closes one where there are so many: the oldest of the source that has most, which so loses its own alone.
    fn make_room(&mut self, most: usize) {
        self.0.retain(|(_, connection)| !connection.is_finished());
        if self.0.len() < most {
            return;
        }
        let sources: Vec<IpAddr> = self.0.iter().map(|(source, _)| *source).collect();
        if let Some(at) = first_of_most(&sources) {
            self.0.remove(at).1.abort();
        }
    }
}

/// The first place of what is there most often.
fn first_of_most(sources: &[IpAddr]) -> Option<usize> {
    let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for source in sources {
        *counts.entry(*source).or_default() += 1;
    }
    let most = counts.values().max()?;
    sources
        .iter()
        .position(|source| counts.get(source) == Some(most))
}

/// How many connections are accepted.
#[derive(Copy, Clone)]
struct Limit {
    burst: u32,
    step: Duration,
}

/// How fast each source may connect.
#[derive(Default)]
struct Sources(BTreeMap<IpAddr, Pace>);

impl Sources {
    /// Whether another connection of this one is served.
    fn may(&mut self, source: IpAddr, now: Instant) -> bool {
        let mut source = network(source);
        if self.0.len() >= MAX_SOURCES && !self.0.contains_key(&source) {
            self.0.retain(|_, pace| pace.due > now);
            if self.0.len() >= MAX_SOURCES {
                // All others share one.
                source = Ipv4Addr::UNSPECIFIED.into();
            }
        }
        let pace = self.0.entry(source).or_insert_with(|| Pace::new(EACH, now));
        let may = pace.next() <= now;
        if may {
            pace.took(now);
        }
        may
    }
}

/// What one who connects cannot choose of his address: of IPv6 a host has a whole network of 64 bits.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// How fast connections are accepted.
struct Pace {
    limit: Limit,
    /// When the one after the last would be accepted, were there no burst.
    due: Instant,
    not_before: Instant,
}

impl Pace {
    fn new(limit: Limit, now: Instant) -> Self {
        Self {
            limit,
            due: now,
            not_before: now,
        }
    }

    fn next(&self) -> Instant {
        let burst = self.due.checked_sub(self.limit.step * self.limit.burst);
        burst.map_or(self.not_before, |burst| burst.max(self.not_before))
    }

    fn took(&mut self, now: Instant) {
        self.due = self.due.max(now) + self.limit.step;
    }

    fn rest(&mut self, until: Instant) {
        self.not_before = until;
    }
}

/// Counts a connection that ends without an answer, however that comes.
struct Counted {
    published: Arc<Published>,
    is_answered: AtomicBool,
}

impl Drop for Counted {
    fn drop(&mut self) {
        match self.is_answered.load(Ordering::Relaxed) {
            true => self.published.answered(),
            false => self.published.dropped(),
        }
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    users: Option<Arc<Users>>,
    published: Arc<Published>,
) {
    let counted = Counted {
        published,
        is_answered: AtomicBool::new(false),
    };
    match tls {
        None => serve(stream, users.as_deref(), &counted).await,
        Some(tls) => {
            // Who speaks no TLS is dropped.
            if let Ok(Ok(stream)) = timeout(MAX_HEAD_TIME, tls.accept(stream)).await {
                serve(stream, users.as_deref(), &counted).await;
            }
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    users: Option<&Users>,
    counted: &Counted,
) {
    let answer = async |request: Request<Incoming>| {
        let is_permitted = match users {
            Some(users) => users.permit(request.headers().get(AUTHORIZATION)).await,
            None => true,
        };
        let response = match is_permitted {
            true => answer(&request, &counted.published),
            false => unauthorised(),
        };
        counted.is_answered.store(true, Ordering::Relaxed);
        Ok::<_, Infallible>(response)
    };
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(MAX_HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    // What a reader does not take in time, or asks in a way that is none, is its own loss.
    let _ = timeout(MAX_TIME, serving).await;
}

fn answer<B>(request: &Request<B>, published: &Published) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = words(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    match request.uri().path() {
        "/metrics" => {
            // Several lines of a header are one list.
            let accept = request.headers().get_all(ACCEPT).iter();
            let accept: Vec<&str> = accept.filter_map(|line| line.to_str().ok()).collect();
            let format = Exposition::accepted(&accept.join(","));
            let body = published.metrics(format);
            with_type(StatusCode::OK, format.content_type(), body)
        }
        "/-/healthy" if published.is_healthy() => words(StatusCode::OK, "healthy\n"),
        "/-/healthy" => words(
            StatusCode::SERVICE_UNAVAILABLE,
            "the processes have not been looked at for a while\n",
        ),
        "/-/ready" if published.is_ready() => words(StatusCode::OK, "ready\n"),
        "/-/ready" => words(
            StatusCode::SERVICE_UNAVAILABLE,
            "the processes have not been looked at yet\n",
        ),
        "/" => words(StatusCode::OK, INDEX),
        _ => words(StatusCode::NOT_FOUND, INDEX),
    }
}

fn unauthorised() -> Response<Full<Bytes>> {
    let mut response = words(
        StatusCode::UNAUTHORIZED,
        "a name and a password are needed\n",
    );
    let asked = HeaderValue::from_static("Basic realm=\"fragscope\", charset=\"UTF-8\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, asked);
    response
}

/// What is here.
const INDEX: &str = "fragscope serves metrics of the Python processes of this host.\n\n\
    /metrics    for Prometheus: OpenMetrics, or its own text format\n\
    /-/healthy  whether the processes are still looked at\n\
    /-/ready    whether they were looked at once\n";

fn words(status: StatusCode, words: &'static str) -> Response<Full<Bytes>> {
    let body = Full::new(Bytes::from_static(words.as_bytes()));
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(
    status: StatusCode,
    content_type: &'static str,
    body: Full<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // No browser takes it for anything else, because names in it are anybody's.
    let name = hyper::header::X_CONTENT_TYPE_OPTIONS;
    headers.insert(name, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_at_the_expense_of_the_source_that_has_most() {
        let [a, b] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        assert_eq!(first_of_most(&[a, b, b]), Some(1));
        assert_eq!(first_of_most(&[a, b]), Some(0), "the oldest of all");
        assert_eq!(first_of_most(&[]), None);
    }

    #[test]
    fn many_connections_are_taken_at_once_and_then_one_each_step() {
        let Limit { burst, step } = ALL;
        let now = Instant::now() + step * burst * 2;
        let mut pace = Pace::new(ALL, Instant::now());
        let mut taken = 0;
        while pace.next() <= now {
            pace.took(now);
            taken += 1;
            assert!(taken <= burst + 1, "no bound");
        }
        assert!(taken >= burst, "{taken}");
        let next = pace.next();
        assert!(next > now && next <= now + step);
        pace.rest(now + REST);
        assert_eq!(pace.next(), now + REST);
    }

    #[test]
    fn a_source_that_connects_too_often_takes_nothing_from_another() {
        let mut sources = Sources::default();
        let now = Instant::now();
        let mut may = |source: &str| sources.may(source.parse().expect("an address"), now);
        let served = (0..10 * EACH.burst).filter(|_| may("10.0.0.1")).count();
        assert!((200..=201).contains(&served), "{served}");
        assert!(may("10.0.0.2"));
        // The same host, whatever address of its network it takes.
        let served = (0..10 * EACH.burst).filter(|n| may(&format!("2001:db8::{n:x}")));
        assert!(served.count() <= 201);
        assert!(!may("::ffff:10.0.0.1") && may("2001:db8:0:1::1"));
        // However many there are, a bounded number is kept.
        for number in 0..2 * MAX_SOURCES {
            sources.may(Ipv4Addr::from_bits(number as u32 + 1).into(), now);
        }
        assert!(sources.0.len() <= MAX_SOURCES + 1);
        let later = now + Duration::from_secs(60);
        assert!(sources.may([10, 9, 9, 9].into(), later) && sources.0.len() < 3);
    }

    #[test]
    fn what_is_asked_for_is_answered_and_all_else_refused() {
        let published = Published::new(&crate::session::serve::tests::options(), None);
        let ask = |method: Method, path: &str| {
            let request = Request::builder().method(method).uri(path).body(());
            answer(&request.expect("a request"), &published).status()
        };
        assert_eq!(ask(Method::GET, "/"), StatusCode::OK);
        assert_eq!(ask(Method::GET, "/-/healthy"), StatusCode::OK);
        assert_eq!(
            ask(Method::GET, "/-/ready"),
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(ask(Method::GET, "/metrics?name=x"), StatusCode::OK);
        assert_eq!(
            ask(Method::POST, "/metrics"),
            StatusCode::METHOD_NOT_ALLOWED
        );
        assert_eq!(ask(Method::GET, "/../etc"), StatusCode::NOT_FOUND);
        published.show(Default::default());
        assert_eq!(ask(Method::HEAD, "/-/ready"), StatusCode::OK);
    }
}
