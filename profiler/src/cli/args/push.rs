//! Flags for pushing profiles.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values::duration;
use crate::session::push::{Endpoint, PushOptions};

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// Push profiles to this Pyroscope, or a compatible server, e.g. https://pyroscope.example:4040
    ///
    /// `serve` pushes the ledger of each group of processes, `attach` call sites, the ledger, and Python's types and
    /// holders. What it does not take is dropped for newer profiles; nothing else waits for it.
    #[arg(long, value_name = "URL")]
    push_profiles: Option<Endpoint>,
    /// Push with the password, the headers and the certificates of this file
    ///
    /// YAML with basic_auth, headers and tls_config.ca_file; it must not be readable by everybody. It is read anew after
    /// a push that failed.
    #[arg(long, value_name = "FILE", requires = "push_profiles")]
    push_config: Option<PathBuf>,
    /// Time between two pushes, e.g. 15s, 1m; at least 1s
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = interval, requires = "push_profiles")]
    push_interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    match interval < Duration::from_secs(1) {
        true => Err("profiles are pushed at most once a second".into()),
        false => Ok(interval),
    }
}

impl PushArgs {
    pub(super) fn options(&self) -> Option<PushOptions> {
        Some(PushOptions {
            endpoint: self.push_profiles.clone()?,
            settings: self.push_config.clone(),
            interval: self.push_interval,
        })
    }
}
