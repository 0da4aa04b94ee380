//! As much of HTTP as a scraper needs, within limits: one request per connection, a bounded number
//! of connections ([`super::connections`]), and bounded time for each.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::connections::{ALL, Answered, OpenConnections, Pace, Source, Sources};
use super::published::Published;
use super::users::{Users, Verdict};
use super::web_config::WebConfig;
use crate::export::Exposition;

/// A connection is closed after this long, whatever is in progress.
const MAX_TIME: Duration = Duration::from_secs(10);
/// A request's head has to come within this time.
const MAX_HEAD_TIME: Duration = Duration::from_secs(5);
/// Bytes of a request's head at most.
const MAX_HEAD: usize = 16 << 10;
/// Lines of a request's head at most.
const MAX_HEADERS: usize = 64;
/// At most this many connections wait in the kernel.
const BACKLOG: u32 = 1024;
/// After an error, such as too many open files, nothing is accepted for this long.
const REST: Duration = Duration::from_millis(100);

/// What a listener answers.
pub(super) enum Content {
    /// Everything, to clients permitted by the web config.
    All(Option<WebConfig>),
    /// Only whether it is alive and ready, to anybody.
    Health,
}

/// A listener and its connections.
pub(super) struct Server {
    listener: TcpListener,
    site: Arc<Site>,
    open: OpenConnections,
    pace: Pace,
    sources: Sources,
}

/// State shared by all connections of a listener.
struct Site {
    published: Arc<Published>,
    content: Content,
    answered: Answered,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn bind(
        address: SocketAddr,
        published: Arc<Published>,
        content: Content,
    ) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Remains of earlier connections must not prevent using the port.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self {
            listener: socket.listen(BACKLOG)?,
            site: Arc::new(Site {
                published,
                content,
                answered: Answered::default(),
            }),
            open: OpenConnections::default(),
            pace: Pace::new(ALL, Instant::now()),
            sources: Sources::default(),
        })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// When the kernel does not return it.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves for ever.
    pub(super) async fn run(mut self) {
        loop {
            self.accept().await;
            // A connection reads data that came with it before others are accepted, which may take
            // its place.
            yield_now().await;
        }
    }

    /// Accepts the next connection, which is served concurrently, or closed if its source has too
    /// many.
    async fn accept(&mut self) {
        sleep_until(self.pace.next()).await;
        match self.listener.accept().await {
            Ok((stream, from)) => {
                let now = Instant::now();
                let source = Source::of(from.ip());
                self.pace.took(now);
                if !self.sources.may(source, now) {
                    self.site.published.dropped();
                    return;
                }
                self.open.make_room(&self.site.answered);
                let has_asked = Arc::<AtomicBool>::default();
                let connection = Connection {
                    site: Arc::clone(&self.site),
                    source,
                    has_asked: Arc::clone(&has_asked),
                    is_answered: AtomicBool::new(false),
                };
                let serving = tokio::spawn(connection.serve(stream));
                self.open.add(source, has_asked, serving.abort_handle());
            }
            Err(_) => self.pace.rest(Instant::now() + REST),
        }
    }
}

/// A connection, which is counted when it ends, for whatever reason.
struct Connection {
    site: Arc<Site>,
    source: Source,
    has_asked: Arc<AtomicBool>,
    is_answered: AtomicBool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        match self.is_answered.load(Ordering::Relaxed) {
            true => self.site.published.answered(),
            false => self.site.published.dropped(),
        }
    }
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        let web = match &self.site.content {
            Content::All(web) => web.as_ref(),
            Content::Health => None,
        };
        let tls = web.and_then(WebConfig::tls);
        let users = web.and_then(WebConfig::users);
        match tls {
            None => self.answer_one(stream, users.as_deref()).await,
            Some(tls) => self.encrypted(stream, &tls, users.as_deref()).await,
        }
    }

    async fn encrypted(&self, stream: TcpStream, tls: &TlsAcceptor, users: Option<&Users>) {
        // Clients that do not speak TLS are dropped.
        if let Ok(Ok(stream)) = timeout(MAX_HEAD_TIME, tls.accept(stream)).await {
            self.answer_one(stream, users).await;
        }
    }

    async fn answer_one<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        users: Option<&Users>,
    ) {
        let answer = async |request: Request<Incoming>| {
            self.has_asked.store(true, Ordering::Relaxed);
            let response = self.response(&request, users).await;
            self.is_answered.store(true, Ordering::Relaxed);
            Ok::<_, Infallible>(response)
        };
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(MAX_HEAD_TIME)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        // A client that does not read in time, or sends an invalid request, only harms itself.
        let _ = timeout(MAX_TIME, serving).await;
    }

    async fn response<B>(
        &self,
        request: &Request<B>,
        users: Option<&Users>,
    ) -> Response<Full<Bytes>> {
        let verdict = match users {
            Some(users) => {
                let said = request.headers().get(AUTHORIZATION);
                users.permit(said, self.source).await
            }
            None => Verdict::Permitted,
        };
        match verdict {
            Verdict::Permitted => {
                self.site.answered.note(self.source);
                answer(request, &self.site)
            }
            Verdict::Refused => unauthorised(),
            Verdict::Busy => busy(),
        }
    }
}

fn answer<B>(request: &Request<B>, site: &Site) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = words(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    let path = request.uri().path();
    match (health(path, &site.published), &site.content) {
        (Some(health), _) => health,
        (None, Content::All(_)) => all_else(path, request, &site.published),
        (None, Content::Health) => words(StatusCode::NOT_FOUND, HEALTH_INDEX),
    }
}

/// The answer whether it is alive and ready, if that was requested.
fn health(path: &str, published: &Published) -> Option<Response<Full<Bytes>>> {
    Some(match path {
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
        _ => return None,
    })
}

fn all_else<B>(path: &str, request: &Request<B>, published: &Published) -> Response<Full<Bytes>> {
    match path {
        "/metrics" => {
            // Several lines of a header are one list.
            let accept = request.headers().get_all(ACCEPT).iter();
            let accept: Vec<&str> = accept.filter_map(|line| line.to_str().ok()).collect();
            let format = Exposition::accepted(&accept.join(","));
            let body = published.metrics(format);
            with_type(StatusCode::OK, format.content_type(), body)
        }
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

/// Too many passwords wait to be checked.
fn busy() -> Response<Full<Bytes>> {
    let mut response = words(
        StatusCode::SERVICE_UNAVAILABLE,
        "too many passwords wait to be checked: ask again in some seconds\n",
    );
    let seconds = HeaderValue::from_static("5");
    response.headers_mut().insert(RETRY_AFTER, seconds);
    response
}

/// The index of a listener that only answers health checks.
const HEALTH_INDEX: &str = "/-/healthy or /-/ready\n";

/// The index.
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
    // Browsers must not interpret it as anything else, because it contains untrusted names.
    let name = hyper::header::X_CONTENT_TYPE_OPTIONS;
    headers.insert(name, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(content: Content) -> Site {
        let published = Published::new(&crate::session::serve::tests::options(), None);
        Site {
            published: Arc::new(published),
            content,
            answered: Answered::default(),
        }
    }

    fn ask(site: &Site, method: Method, path: &str) -> StatusCode {
        let request = Request::builder().method(method).uri(path).body(());
        answer(&request.expect("a request"), site).status()
    }

    #[test]
    fn what_is_asked_for_is_answered_and_all_else_refused() {
        let site = site(Content::All(None));
        let ask = |method, path| ask(&site, method, path);
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
        site.published.show(Default::default());
        assert_eq!(ask(Method::HEAD, "/-/ready"), StatusCode::OK);
    }

    #[test]
    fn where_health_alone_is_served_nothing_else_is() {
        let site = site(Content::Health);
        let ask = |path| ask(&site, Method::GET, path);
        assert_eq!(ask("/-/healthy"), StatusCode::OK);
        assert_eq!(ask("/-/ready"), StatusCode::SERVICE_UNAVAILABLE);
        site.published.show(Default::default());
        assert_eq!(ask("/-/ready"), StatusCode::OK);
        for path in ["/metrics", "/", "/-/", "/-/healthy/"] {
            assert_eq!(ask(path), StatusCode::NOT_FOUND, "{path}");
        }
    }
}
