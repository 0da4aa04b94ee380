//! `top`: the processes of the host, on a screen, as lines of JSON, or once.

mod front;
mod once;
mod tree;
mod tree_objects;
pub(in crate::session) mod watcher;

use std::io;
use std::time::{Duration, Instant};

use profiler_core::host::{Arrangement, WalkFigures};
use profiler_sampling::{HostOptions, SamplingOptions};
use profiler_target::{Gone, Target};
use tokio::runtime::Runtime;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

pub use self::once::once;
pub use self::tree::{TreeOptions, TreeSeen, tree};

use self::front::Front;
use self::watcher::Watcher;
use super::attach::attach_seen;
use super::options::{AttachOptions, Budget};
use super::screen::CLOSED;
use super::signals::Signals;
use super::{Ending, SessionError, event_loop};
use crate::say;
use crate::tui::top::Effect;

/// What `top` does.
#[derive(Clone, Debug)]
pub struct TopOptions {
    /// Whether other processes than Python's are shown, too.
    pub all: bool,
    /// Only this process and its descendants, as one unit.
    pub tree_of: Option<i32>,
    /// Print a line an interval instead of drawing a screen…
    pub headless: bool,
    /// … of JSON.
    pub json: bool,
    /// Time between two looks.
    pub interval: Duration,
    /// End after this long.
    pub duration: Option<Duration>,
    /// Its cost limit for the host.
    pub budget: Budget,
    /// Whether heaps are walked.
    pub walks: bool,
    /// How a process is walked.
    pub sampling: SamplingOptions,
    /// How the table is arranged.
    pub arrangement: Arrangement,
    /// How a process is attached to; its pid is filled in.
    pub attach: AttachOptions,
}

impl TopOptions {
    fn host(&self) -> HostOptions {
        HostOptions {
            all: self.all || self.tree_of.is_some(),
            tree_of: self.tree_of,
            interval: self.interval,
            budget: match self.budget {
                Budget::Share(share) => Some(share),
                Budget::Unlimited => None,
            },
            sampling: self.sampling,
        }
    }
}

/// Watches a master and its descendants, as [`top`] watches an entire host.
///
/// # Errors
/// When there is no such process, or as [`top`].
pub fn watch_tree(options: &TopOptions, master: i32) -> Result<Ending, SessionError> {
    // An invalid pid gives the same errors as in other commands.
    drop(Target::open(master)?);
    top(options)
}

/// What ended the watching for now.
enum Next {
    End(Ending),
    Attach(i32),
}

/// Watches the processes of the host until the user or a signal ends it, or the duration is over.
///
/// # Errors
/// When there is no screen, or stdout fails.
pub fn top(options: &TopOptions) -> Result<Ending, SessionError> {
    let (runtime, mut signals) = event_loop()?;
    let mut front = Front::open(options)?;
    let mut watcher = Watcher::start(options.host(), options.walks, None)?;
    let end = options.duration.map(|duration| Instant::now() + duration);
    loop {
        let watched = runtime.block_on(watch(options, end, &mut signals, &mut front, &mut watcher));
        let in_haste = matches!(&watched, Ok(Next::End(Ending::Interrupted(_))));
        let closed = front.close(in_haste);
        let pid = match watched? {
            Next::End(ending) => {
                closed?;
                match &ending {
                    Ending::Interrupted(by) => say::line(format_args!("ended by {by}")),
                    Ending::TargetGone(how) => say::line(how),
                    Ending::Done => {}
                }
                return Ok(ending);
            }
            Next::Attach(pid) => pid,
        };
        closed?;
        let note = match attach(options, pid, &runtime, &mut signals, &mut watcher)? {
            Attached::Over(note) => note,
            Attached::Interrupted(ending) => return Ok(ending),
        };
        front = Front::open(options)?;
        if let Some(note) = note {
            front.note(note);
        }
    }
}

/// What attaching from the screen came to.
enum Attached {
    /// The user came back, or it failed: a line for the screen.
    Over(Option<String>),
    /// A signal ends everything.
    Interrupted(Ending),
}

/// Attaches to a process while watching is paused, so that it is not stopped by both at a time.
fn attach(
    options: &TopOptions,
    pid: i32,
    runtime: &Runtime,
    signals: &mut Signals,
    watcher: &mut Watcher,
) -> io::Result<Attached> {
    // A walk that is under way ends first.
    let interrupted = runtime.block_on(async {
        tokio::select! {
            biased;
            name = signals.next() => Some(name),
            () = watcher.rest() => None,
        }
    });
    if let Some(name) = interrupted {
        say::line(format_args!("ended by {name}"));
        return Ok(Attached::Interrupted(Ending::Interrupted(name)));
    }
    let options = AttachOptions {
        pid,
        ..options.attach.clone()
    };
    let (attached, seen) = attach_seen(&options, runtime, signals);
    // Its last walk there counts here, too.
    let walk = seen.map(|report| WalkFigures::of(&report));
    watcher.resume(pid, walk);
    Ok(match attached {
        Ok(Ending::Done) => Attached::Over(None),
        Ok(Ending::TargetGone(how)) => Attached::Over(Some(how)),
        Ok(ending @ Ending::Interrupted(_)) => Attached::Interrupted(ending),
        Err(error) => Attached::Over(Some(format!("process {pid}: {error}"))),
    })
}

async fn watch(
    options: &TopOptions,
    end: Option<Instant>,
    signals: &mut Signals,
    front: &mut Front,
    watcher: &mut Watcher,
) -> Result<Next, SessionError> {
    let far = Instant::now() + Duration::from_secs(u64::from(u32::MAX));
    let over = sleep_until(end.unwrap_or(far).into());
    tokio::pin!(over);
    let mut ticks = interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // However short the duration, something is shown.
    let mut has_shown = false;
    loop {
        tokio::select! {
            biased;
            name = signals.next() => return Ok(Next::End(Ending::Interrupted(name))),
            wish = front.wish() => match wish {
                Effect::Quit => return Ok(Next::End(Ending::Done)),
                Effect::Interrupt => return Ok(Next::End(Ending::Interrupted("Ctrl-C"))),
                Effect::Closed => return Ok(Next::End(Ending::Interrupted(CLOSED))),
                Effect::Attach(pid) => return Ok(Next::Attach(pid)),
                Effect::Walk(pid) => watcher.walk(pid),
            },
            () = &mut over, if has_shown => return Ok(Next::End(Ending::Done)),
            seen = watcher.next() => {
                let view = seen?;
                let master = options.tree_of;
                let is_gone = |master: &i32| {
                    let mut rows = view.rows.iter();
                    rows.all(|row| row.process.id.pid != *master)
                };
                let gone = master.filter(is_gone);
                front.show(view)?;
                has_shown = true;
                if let Some(master) = gone {
                    let how = Gone::Exited(master).to_string();
                    return Ok(Next::End(Ending::TargetGone(how)));
                }
            }
            _ = ticks.tick() => watcher.tick(),
        }
    }
}
