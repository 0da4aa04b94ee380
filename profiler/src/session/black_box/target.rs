//! The black box of one target.

use profiler_core::host::ProcessEnd;
use profiler_core::sample::Sample;
use profiler_core::text::visible;
use profiler_core::view::{Point, View};
use profiler_trace::black_box::{BlackBox, BlackBoxError};
use profiler_trace::snapshot::Observation;
use profiler_trace::whole_file::WriteError;

use super::VictimWatch;
use super::{BlackBoxOptions, KeptProcess};
use crate::say;

/// The last walks of the one target of a session.
#[derive(Debug)]
pub(crate) struct TargetBlackBox {
    black_box: BlackBox,
    victims: Option<VictimWatch>,
    kept: KeptProcess,
    trouble: Option<String>,
}

impl TargetBlackBox {
    /// Opens the directory.
    ///
    /// # Errors
    /// When it is not usable.
    pub(crate) fn open(options: &BlackBoxOptions) -> Result<Self, WriteError> {
        Ok(Self {
            black_box: options.open()?,
            victims: VictimWatch::start(),
            kept: KeptProcess::default(),
            trouble: None,
        })
    }

    /// The watch for processes killed for lack of memory.
    pub(crate) fn victims(&self) -> Option<&VictimWatch> {
        self.victims.as_ref()
    }

    pub(crate) fn point(&mut self, point: Point) {
        self.kept.point(point);
    }

    pub(crate) fn walk(&mut self, sample: &Sample, view: &View) {
        let before = self.kept.name.clone();
        let observation = Observation::of(view, Vec::new());
        let kept = self.kept.walk(&mut self.black_box, sample, observation);
        self.took(kept);
        if let Some(name) = self
            .kept
            .name
            .as_ref()
            .filter(|name| before.as_ref() != Some(name))
        {
            let path = self.black_box.path(name);
            say::line(format_args!(
                "the last walks are kept in {}",
                visible(path.display())
            ));
        }
    }

    /// The target has ended.
    pub(crate) fn end(&mut self, view: &View, end: &ProcessEnd) {
        let pid = view.report.target.pid;
        let observation = Observation::of(view, Vec::new());
        let kept = self.kept.end(&mut self.black_box, pid, end, observation);
        self.took(kept);
    }

    fn took(&mut self, kept: Result<(), BlackBoxError>) {
        let trouble = kept.err().map(|error| error.to_string());
        let trouble = trouble.or_else(|| self.black_box.notice());
        self.trouble = trouble.map(|what| format!("the black box: {what}"));
    }

    /// Why the last walk is not in it, or which problem its files have.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}
