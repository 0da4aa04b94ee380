//! What is served: the last view, and its text, which is made once for all clients.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use profiler_core::host::{HostView, ServedHost, ServerFigures, groups};
use profiler_sampling::now_ns;
use profiler_target::host::{own_cpu, own_resident};

use super::ServeOptions;
use crate::export::{Exposition, exposition};
use crate::session::push::PushCounts;

/// Something is wrong if there was no observation for this many intervals and for at least this
/// long.
const OVERDUE: (u32, Duration) = (5, Duration::from_secs(60));

/// What is served at present.
pub(super) struct Published {
    max_groups: usize,
    overdue: Duration,
    began_at_ns: u64,
    pushes: Option<PushCounts>,
    state: Mutex<State>,
}

struct State {
    view: Option<HostView>,
    /// When the view was last of a look that was not there before.
    looked: Instant,
    /// The text of the view in each format, after it was first requested.
    texts: Vec<(Exposition, Bytes)>,
    answers: u64,
    dropped_connections: u64,
}

impl Published {
    pub(super) fn new(options: &ServeOptions, pushes: Option<PushCounts>) -> Self {
        Self {
            max_groups: options.max_groups,
            overdue: (options.interval * OVERDUE.0).max(OVERDUE.1),
            began_at_ns: now_ns(),
            pushes,
            state: Mutex::new(State {
                view: None,
                looked: Instant::now(),
                texts: Vec::new(),
                answers: 0,
                dropped_connections: 0,
            }),
        }
    }

    /// Entries are replaced as a whole, so a panic elsewhere left nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a view from now on.
    pub(super) fn show(&self, view: HostView) {
        let mut state = self.state();
        let before = state.view.as_ref().map(|view| view.taken_at_ns);
        if before != Some(view.taken_at_ns) {
            state.looked = Instant::now();
        }
        state.view = Some(view);
        state.texts.clear();
    }

    /// Groups that are served at most.
    pub(super) fn max_groups(&self) -> usize {
        self.max_groups
    }

    /// Counts an answer.
    pub(super) fn answered(&self) {
        self.state().answers += 1;
    }

    /// Counts a connection that was closed before it was answered.
    pub(super) fn dropped(&self) {
        self.state().dropped_connections += 1;
    }

    /// Whether there is something to serve.
    pub(super) fn is_ready(&self) -> bool {
        self.state().view.is_some()
    }

    /// Whether the host is still being observed.
    pub(super) fn is_healthy(&self) -> bool {
        self.state().looked.elapsed() < self.overdue
    }

    /// The metrics, as a body shared by all clients.
    pub(super) fn metrics(&self, format: Exposition) -> Full<Bytes> {
        let mut state = self.state();
        let known = state.texts.iter().find(|(known, _)| *known == format);
        if let Some((_, text)) = known {
            return Full::new(text.clone());
        }
        let rows = state.view.as_ref().map_or(&[][..], |view| &view.rows);
        let served = ServedHost {
            groups: groups(rows, self.max_groups),
            view: state.view.clone(),
            server: ServerFigures {
                version: env!("CARGO_PKG_VERSION"),
                cpu_ns: own_cpu().as_nanos() as u64,
                resident_bytes: own_resident(),
                began_at_ns: self.began_at_ns,
                answers: state.answers,
                dropped_connections: state.dropped_connections,
                pushes: self.pushes.as_ref().map(PushCounts::get),
            },
        };
        let text = Bytes::from(exposition(&served, format));
        // Before the first observation there are only its own figures, which are always new.
        if state.view.is_some() {
            state.texts.push((format, text.clone()));
        }
        Full::new(text)
    }
}
