//! Flags of `serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values::{budget, interval};
use super::{BlackBoxArgs, PushArgs, SamplingArgs};
use crate::session::options::Budget;
use crate::session::serve::ServeOptions;

pub(super) const HELP: &str = "\
Examples:
  sudo fragscope serve
  curl -s localhost:9464/metrics | promtool check metrics
  sudo fragscope serve --black-box /var/lib/fragscope
  sudo fragscope serve --listen '[::1]:9464' --interval 30s --budget 1%
  sudo fragscope serve --push-profiles https://pyroscope.example:4040 --push-config /etc/fragscope/push.yml
  sudo fragscope serve --listen 0.0.0.0:9464 --web-config /etc/fragscope/web.yml
  sudo fragscope serve --listen 0.0.0.0:9464 --allow-remote --health-listen 0.0.0.0:9465

/metrics has the figures of `fragscope top` as sums by group: a master with all that descends from
it, named by its unit or container and its program. No probes are used, and nothing is stored but what
--black-box keeps. A dashboard for Grafana, alert rules and a systemd unit are in deploy/.";

#[derive(Debug, Args)]
pub(in crate::cli) struct ServeArgs {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9464", value_parser = address)]
    listen: SocketAddr,
    /// Serve with the certificate, and to the users with the passwords, of this file
    ///
    /// It is a web config file as Prometheus' exporters have it, with tls_server_config.cert_file and key_file,
    /// and basic_auth_users with bcrypt hashes. It is read anew when it changes.
    #[arg(long, value_name = "FILE")]
    web_config: Option<PathBuf>,
    /// Answer /-/healthy and /-/ready at this address, too, without TLS and a password, and nothing else there
    ///
    /// For probes, such as the kubelet's: a flood of the other address does not reach it. Other hosts may reach it without
    /// --allow-remote, because it reveals nothing about any process.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    health_listen: Option<SocketAddr>,
    /// Permit an address that other hosts reach without a password or without encryption
    #[arg(long)]
    allow_remote: bool,
    /// Time between two measurements, e.g. 10s, 1m; at least 100ms
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = interval)]
    interval: Duration,
    /// Share of one core that fragscope may take for the whole host, or `unlimited`
    ///
    /// It also bounds stops: all processes together are stopped for at most this share of the time, and
    /// each of them for at most a fifth of that. Walks are delayed to stay within it.
    #[arg(long, value_name = "SHARE", default_value = "2%", value_parser = budget)]
    budget: Budget,
    /// Do not walk heaps; no process is stopped
    #[arg(long)]
    no_walks: bool,
    /// Groups that are served at most, the largest; the others are summed up as `other`
    #[arg(long, value_name = "COUNT", default_value = "200", value_parser = clap::value_parser!(u16).range(1..))]
    max_groups: u16,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    black_box: BlackBoxArgs,
    #[command(flatten)]
    push: PushArgs,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong = "give an address and a port, such as 127.0.0.1:9464 or [::1]:9464";
    text.parse().map_err(|_| wrong.into())
}

impl ServeArgs {
    /// Whether it keeps a black box.
    pub(super) fn keeps_black_box(&self) -> bool {
        self.black_box.is_kept()
    }

    pub(in crate::cli) fn options(&self) -> ServeOptions {
        ServeOptions {
            listen: self.listen,
            health_listen: self.health_listen,
            allow_remote: self.allow_remote,
            web_config: self.web_config.clone(),
            interval: self.interval,
            budget: self.budget,
            walks: !self.no_walks,
            max_groups: self.max_groups.into(),
            sampling: self.sampling.options_of_many(),
            black_box: self.black_box.options(),
            push: self.push.options(),
        }
    }
}
