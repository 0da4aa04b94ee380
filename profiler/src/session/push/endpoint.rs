//! The endpoint that profiles are pushed to, and one attempt: a request over a new connection.
//! Redirects are not followed.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::http::uri::Scheme;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use profiler_core::text::visible;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::settings::PushSettings;
use crate::hints::Hint;
use crate::session::settings::SettingsError;

/// The service that accepts profiles (`api/push/v1/push.proto` of grafana/pyroscope), with the
/// Connect protocol: a POST of a Protocol Buffers message.
const PATH: &str = "/push.v1.PusherService/Push";
/// The version of that protocol, which a client names.
const CONNECT_VERSION: (&str, &str) = ("connect-protocol-version", "1");
/// The time limit of an attempt, including all waits.
const MAX_TIME: Duration = Duration::from_secs(10);
/// The largest head of an answer, in bytes.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// Bytes of an answer's body that are read: it is only a reason.
const MAX_ANSWER: usize = 4 << 10;
/// The number of its characters that are shown.
const MAX_REASON: usize = 200;

/// The endpoint for profiles.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    is_encrypted: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    /// The authority, as written in the request.
    authority: HeaderValue,
    path: Uri,
    shown: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "give a URL, such as https://pyroscope.example:4040".to_owned();
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_encrypted = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?.as_str();
        if authority.contains('@') {
            return Err(format!(
                "a password on the command line can be read by everybody on this host: {}",
                Hint::PasswordInFile.words()
            ));
        }
        if uri.query().is_some() {
            return Err("give a URL without a query".into());
        }
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(wrong)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let port = uri.port_u16();
        if port.is_none() && authority.len() > host.len() {
            return Err("the port is none".into());
        }
        let base = uri.path().trim_end_matches('/');
        Ok(Self {
            is_encrypted,
            host: bare.unwrap_or(host).to_owned(),
            port: port.unwrap_or(if is_encrypted { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority).map_err(|_| wrong())?,
            path: format!("{base}{PATH}").parse().map_err(|_| wrong())?,
            shown: visible(text.trim_end_matches('/')).to_string(),
        })
    }
}

/// Why profiles were not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum PushError {
    #[error("it did not answer within {} s", MAX_TIME.as_secs())]
    Slow,
    #[error("its address is not known: {0}")]
    Unknown(io::Error),
    #[error("it cannot be reached: {0}")]
    Unreachable(io::Error),
    #[error("no TLS with it: {0}")]
    Tls(io::Error),
    #[error("its answer is no HTTP, or was cut: {0}")]
    Broken(hyper::Error),
    #[error(
        "it answers {status}, which leads to {to}: nobody is followed elsewhere with passwords and profiles"
    )]
    Elsewhere { status: StatusCode, to: String },
    #[error("it answers {status}{}", reason.as_ref().map_or(String::new(), |reason| format!(": {reason}")))]
    Refused {
        status: StatusCode,
        reason: Option<String>,
        after: Option<Duration>,
    },
    #[error("settings {0}")]
    Settings(#[from] SettingsError),
    #[error("they cannot be packed: {0}")]
    Packing(io::Error),
}

impl PushError {
    /// How long the endpoint asks not to be contacted.
    pub(super) fn after(&self) -> Option<Duration> {
        match self {
            Self::Refused { after, .. } => *after,
            _ => None,
        }
    }
}

impl Endpoint {
    /// Whether data sent there is encrypted, or stays on this host.
    pub(super) fn keeps_secrets(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        let is_local = address.map_or(self.host == "localhost", |address| {
            address.to_canonical().is_loopback()
        });
        self.is_encrypted || is_local
    }

    /// Pushes a message once.
    pub(super) async fn push(
        &self,
        settings: &PushSettings,
        message: Vec<u8>,
    ) -> Result<(), PushError> {
        let pushing = self.push_in_time(settings, message);
        timeout(MAX_TIME, pushing)
            .await
            .unwrap_or(Err(PushError::Slow))
    }

    async fn push_in_time(
        &self,
        settings: &PushSettings,
        message: Vec<u8>,
    ) -> Result<(), PushError> {
        let request = self.request(settings, message);
        let stream = self.connect().await?;
        if !self.is_encrypted {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(self.host.clone());
        let name = name.map_err(|why| PushError::Tls(io::Error::other(why)))?;
        let connector = TlsConnector::from(settings.tls()?);
        let stream = connector.connect(name, stream).await;
        exchange(stream.map_err(PushError::Tls)?, request).await
    }

    fn request(&self, settings: &PushSettings, message: Vec<u8>) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(Bytes::from(message)));
        *request.method_mut() = hyper::Method::POST;
        request.uri_mut().clone_from(&self.path);
        let headers = request.headers_mut();
        headers.extend(settings.headers().clone());
        headers.insert(HOST, self.authority.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/proto"));
        let agent = concat!("fragscope/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        let (name, version) = CONNECT_VERSION;
        headers.insert(name, HeaderValue::from_static(version));
        request
    }

    /// Connects to the first of its addresses that is reachable.
    async fn connect(&self) -> Result<TcpStream, PushError> {
        let addresses = lookup_host((self.host.as_str(), self.port)).await;
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses.map_err(PushError::Unknown)? {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(PushError::Unreachable(last))
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(), PushError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(PushError::Broken)?;
    // It ends with this attempt, whatever the result.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let response = sender.send_request(request).await;
    verdict(response.map_err(PushError::Broken)?).await
}

/// Interprets an answer.
async fn verdict(response: Response<Incoming>) -> Result<(), PushError> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let header = |name| response.headers().get(name);
    let text = |name| header(name).and_then(|value| value.to_str().ok());
    if status.is_redirection() {
        let to = text(LOCATION).map_or_else(|| "nowhere".to_owned(), cut);
        return Err(PushError::Elsewhere { status, to });
    }
    let after = text(RETRY_AFTER).and_then(|seconds| seconds.trim().parse().ok());
    Err(PushError::Refused {
        status,
        after: after.map(Duration::from_secs),
        reason: reason(response.into_body()).await,
    })
}

/// The beginning of the answer's text, as far as it arrives.
async fn reason(mut body: Incoming) -> Option<String> {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if bytes.len() >= MAX_ANSWER {
            bytes.truncate(MAX_ANSWER);
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    (!text.is_empty()).then(|| cut(text))
}

/// Words of the endpoint's, harmless and not too many.
fn cut(words: &str) -> String {
    let shown = visible(words).to_string();
    match shown.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().expect(text)
    }

    #[test]
    fn a_url_names_a_host_a_port_and_what_lies_below_it() {
        let plain = endpoint("http://pyroscope.example:4040/");
        assert_eq!(
            (plain.host.as_str(), plain.port),
            ("pyroscope.example", 4040)
        );
        assert_eq!(plain.path, PATH);
        assert!(!plain.keeps_secrets());
        let below = endpoint("https://[2001:db8::1]/profiles");
        assert_eq!((below.host.as_str(), below.port), ("2001:db8::1", 443));
        assert_eq!(below.path, format!("/profiles{PATH}").as_str());
        assert_eq!(below.authority, "[2001:db8::1]");
        assert!(below.keeps_secrets());
        for local in [
            "http://localhost:4040",
            "http://127.0.0.2",
            "http://[::1]:1",
        ] {
            assert!(endpoint(local).keeps_secrets(), "{local}");
        }
    }

    #[test]
    fn what_is_no_url_or_has_a_password_is_refused() {
        for wrong in [
            "",
            "host:4040",
            "ftp://host",
            "http://",
            "http://host:port",
            "http://host:99999",
            "http://host/a?b",
            "http://user:secret@host",
            "http://ho st",
        ] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_of_an_endpoint_are_harmless_and_cut() {
        let shown = cut(&format!("\x1b[2J{}", "x".repeat(9000)));
        assert!(shown.starts_with("\\x1b[2J") && shown.chars().count() == MAX_REASON + 1);
    }
}
