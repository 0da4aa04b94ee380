//! `serve`: the processes of the host as metrics over HTTP. The last observation is served: a
//! request never causes an observation, and an observation never waits for a client.

mod connections;
mod http;
mod published;
mod users;
mod web_config;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use profiler_sampling::{HostOptions, SamplingOptions};
use profiler_target::{ErrorKind, ListenProblem, give_back_free_memory};
use tokio::time::{MissedTickBehavior, interval};

use self::http::{Content, Server};
use self::published::Published;
use self::web_config::WebConfig;
use super::black_box::{BlackBoxOptions, HostBlackBox};
use super::options::Budget;
use super::push::{PushOptions, Pusher, news};
use super::settings::SettingsError;
use super::signals::Signals;
use super::top::watcher::Watcher;
use super::{Ending, SessionError, event_loop};
use crate::say;

/// What `serve` does.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// An additional address that answers whether it is alive and ready, without TLS and a
    /// password.
    pub health_listen: Option<SocketAddr>,
    /// Whether other hosts may reach it without TLS and a password.
    pub allow_remote: bool,
    /// The file with the certificate and the passwords.
    pub web_config: Option<PathBuf>,
    /// Time between two looks.
    pub interval: Duration,
    /// Its cost limit for the host.
    pub budget: Budget,
    /// Whether heaps are walked.
    pub walks: bool,
    /// Groups that are served at most.
    pub max_groups: usize,
    /// How a process is walked.
    pub sampling: SamplingOptions,
    /// Where the last walks of each process are kept.
    pub black_box: Option<BlackBoxOptions>,
    /// Where profiles are pushed to.
    pub push: Option<PushOptions>,
}

/// Why serving is impossible.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is reachable from other hosts.
    #[error("{0} can be reached by other hosts: nothing was served")]
    Remote(SocketAddr),
    /// The web config cannot be used.
    #[error("web config {0}")]
    WebConfig(#[from] SettingsError),
    /// The kernel rejects it.
    #[error("cannot listen on {address}: {source}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl ListenError {
    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Remote(_) => ErrorKind::Listen(ListenProblem::Remote),
            Self::WebConfig(_) => ErrorKind::Listen(ListenProblem::WebConfig),
            Self::Refused { address, source } => match source.kind() {
                io::ErrorKind::AddrInUse => ErrorKind::Listen(ListenProblem::InUse {
                    port: address.port(),
                }),
                io::ErrorKind::PermissionDenied => ErrorKind::Listen(ListenProblem::Denied),
                io::ErrorKind::AddrNotAvailable => ErrorKind::Listen(ListenProblem::NotHere),
                _ => ErrorKind::of_io(source),
            },
        }
    }
}

/// Serves until a signal ends it.
///
/// # Errors
/// When it cannot listen, or the host cannot be inspected.
pub fn serve(options: &ServeOptions) -> Result<Ending, SessionError> {
    let is_local = options.listen.ip().to_canonical().is_loopback();
    let web = options.web_config.as_deref().map(WebConfig::load);
    let web = web.transpose().map_err(ListenError::WebConfig)?;
    let has_tls = web.as_ref().is_some_and(|web| web.tls().is_some());
    let has_users = web.as_ref().is_some_and(|web| web.users().is_some());
    let is_open = !(is_local || has_tls && has_users);
    if is_open && !options.allow_remote {
        return Err(ListenError::Remote(options.listen).into());
    }
    let black_box = options.black_box.as_ref().map(HostBlackBox::open);
    let black_box = black_box.transpose().map_err(SessionError::BlackBox)?;
    let (runtime, mut signals) = event_loop()?;
    let mut pusher = options.push.as_ref().map(Pusher::start).transpose()?;
    let published = Arc::new(Published::new(options, pusher.as_ref().map(Pusher::counts)));
    let bind = |address, content| {
        let _entered = runtime.enter();
        Server::bind(address, Arc::clone(&published), content)
            .map_err(|source| ListenError::Refused { address, source })
    };
    let server = bind(options.listen, Content::All(web))?;
    let health = options.health_listen;
    let health = health.map(|address| bind(address, Content::Health));
    let health = health.transpose()?;
    let address = server.address()?;
    if is_open {
        say::line(format_args!(
            "warning: {}",
            openness(address, has_tls, has_users)
        ));
    }
    let scheme = if has_tls { "https" } else { "http" };
    let mut watcher = Watcher::start(host_options(options), options.walks, black_box)?;
    if let Some(health) = health {
        let address = health.address()?;
        say::line(format_args!("serving http://{address}/-/healthy"));
        runtime.spawn(health.run());
    }
    say::line(format_args!("serving {scheme}://{address}/metrics"));
    runtime.spawn(server.run());
    let by = runtime.block_on(watch(
        options.interval,
        &mut signals,
        &mut watcher,
        &published,
        pusher.as_mut(),
    ));
    // It does not wait for tasks.
    runtime.shutdown_background();
    let by = by?;
    say::line(format_args!("ended by {by}"));
    Ok(Ending::Interrupted(by))
}

/// How the host is sampled.
fn host_options(options: &ServeOptions) -> HostOptions {
    HostOptions {
        all: false,
        tree_of: None,
        interval: options.interval,
        budget: match options.budget {
            Budget::Share(share) => Some(share),
            Budget::Unlimited => None,
        },
        sampling: options.sampling,
    }
}

/// A notice about what other hosts can learn from a listener that they reach.
fn openness(address: SocketAddr, has_tls: bool, has_users: bool) -> String {
    match (has_tls, has_users) {
        (false, true) => format!(
            "whoever can listen in on the way to {address} learns the password and what is served: there is no encryption"
        ),
        (true, _) => {
            format!("whoever reaches {address} may read what is served: there is no password")
        }
        (false, false) => format!(
            "whoever reaches {address} may read what is served: there is no password and no encryption"
        ),
    }
}

async fn watch(
    every: Duration,
    signals: &mut Signals,
    watcher: &mut Watcher,
    published: &Published,
    mut pusher: Option<&mut Pusher>,
) -> Result<&'static str, SessionError> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_first = true;
    loop {
        tokio::select! {
            biased;
            name = signals.next() => return Ok(name),
            seen = watcher.next() => {
                let view = seen?;
                if std::mem::take(&mut is_first) {
                    view.notices.iter().for_each(say::line);
                }
                if let Some(pusher) = pusher.as_deref_mut() {
                    pusher.offer_host(&view, published.max_groups());
                }
                published.show(view);
                // It runs for months next to what it measures.
                give_back_free_memory();
            }
            _ = ticks.tick() => watcher.tick(),
            news = news(pusher.as_deref_mut()) => say::line(news),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn options() -> ServeOptions {
        ServeOptions {
            listen: ([127, 0, 0, 1], 0).into(),
            health_listen: None,
            allow_remote: false,
            web_config: None,
            interval: Duration::from_secs(10),
            budget: Budget::Share(0.02),
            walks: true,
            max_groups: 200,
            sampling: SamplingOptions {
                stop: true,
                swap_in: false,
                max_stop: Duration::from_secs(2),
                slices: false,
                max_walk: None,
            },
            black_box: None,
            push: None,
        }
    }

    #[test]
    fn an_address_that_others_reach_must_be_asked_for() {
        for listen in ["0.0.0.0:0", "[::]:0", "[::ffff:192.0.2.1]:0", "192.0.2.1:0"] {
            let listen = listen.parse().expect("an address");
            let options = ServeOptions {
                listen,
                ..options()
            };
            let error = serve(&options).expect_err("refused");
            let expected = ErrorKind::Listen(ListenProblem::Remote);
            assert_eq!(error.kind(), expected, "{listen}");
        }
    }
}
