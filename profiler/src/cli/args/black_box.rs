//! Flags of the black box.

use std::path::PathBuf;

use clap::Args;

use super::values::size;
use crate::session::black_box::{BlackBoxLimits, BlackBoxOptions};

#[derive(Debug, Args)]
pub(in crate::cli) struct BlackBoxArgs {
    /// Keep the last walks in this folder, which is made unless it is there, and how the process ended
    ///
    /// Each process has a file NAME-PID.fragsnap there, for `fragscope explain`. The folder has to be one that
    /// nobody else can write to.
    #[arg(long, value_name = "DIR")]
    black_box: Option<PathBuf>,
    /// Bytes of all files of the black box at most; the oldest go first
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = size, requires = "black_box")]
    black_box_size: u64,
    /// Files of the black box at most
    #[arg(long, value_name = "COUNT", default_value = "1000", requires = "black_box",
        value_parser = clap::value_parser!(u16).range(1..))]
    black_box_files: u16,
}

impl BlackBoxArgs {
    /// Whether a black box is requested.
    pub(super) fn is_kept(&self) -> bool {
        self.black_box.is_some()
    }

    pub(super) fn options(&self) -> Option<BlackBoxOptions> {
        let folder = self.black_box.clone()?;
        let limits = BlackBoxLimits {
            bytes: self.black_box_size,
            files: self.black_box_files.into(),
        };
        Some(BlackBoxOptions { folder, limits })
    }
}
