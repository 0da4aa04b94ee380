//! Signals, a closing terminal, and a closing pipe, at random moments in all modes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::aftermath::{self, How};
use super::running::{MODES, Mode, Running, Setting, Streams};
use super::stage::Stage;
use super::worker::{USUAL, Worker};
use super::{BRIEF_WINDOW, Round, Tally, WAIT_LIMIT, processes, small_trace};
use std::os::unix::process::ExitStatusExt;

/// Instants are within this time from the start.
const WINDOW: Duration = Duration::from_secs(2);
/// A signal ends fragscope within this, on a busy host too.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// And in half of the rounds within this, in seconds, as is promised.
const PROMISED: f64 = 0.2;
/// In half of the rounds of each mode within this: a walk that is under way is finished first.
const PROMISED_EACH: f64 = 0.4;
/// A median of fewer gives no verdict: one session that was about to finish a walk would decide it.
const ENOUGH_FOR_A_MEDIAN: usize = 8;
/// The figure that is judged.
const TO_THE_END: &str = "seconds from a signal to the end";
/// What has not ended by then hangs.
const HANGS: Duration = Duration::from_secs(20);
/// The default of `--max-stop`.
const MAX_STOP: Duration = Duration::from_secs(2);
/// Added to it for a busy host.
const MARGIN: Duration = Duration::from_millis(1500);
/// A target with no thread seen stopped for this long is not held by a suspended fragscope.
const NOT_KEPT: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(1);

/// What is done to fragscope.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Harm {
    /// A signal that ends it.
    End(Signal),
    /// `pkill -STOP fragscope`, then `-CONT`.
    Suspend,
    CloseTerminal,
    ClosePipe,
    /// SIGTERM, with its terminal stopped from the start.
    StopTerminal,
}

/// The same for one mode.
fn to_the_end_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Headless => "seconds from a signal to the end, attach --headless",
        Mode::Unlimited => {
            "seconds from a signal to the end, attach --headless with probes that stay"
        }
        Mode::Screen => "seconds from a signal to the end, attach on a terminal",
        Mode::WhatIf => "seconds from a signal to the end, attach --what-if",
        Mode::RecordProcess => "seconds from a signal to the end, record --pid",
        Mode::RecordCommand => {
            "seconds from a signal to the end, record of a command, which ends by the signal"
        }
        Mode::Replay => "seconds from a signal to the end, replay",
        Mode::Snapshot => "seconds from a signal to the end, snapshot",
        Mode::Objects => "seconds from a signal to the end, snapshot --objects",
        Mode::Core => "seconds from a signal to the end, snapshot --core",
        Mode::Repair => "seconds from a signal to the end, doctor --repair",
        Mode::View => "seconds from a signal to the end, view",
        Mode::Export => "seconds from a signal to the end, export",
        Mode::Top => "seconds from a signal to the end, top",
        Mode::Serve => "seconds from a signal to the end, serve",
        Mode::BlackBox => "seconds from a signal to the end, attach --black-box",
        Mode::AttachTree => "seconds from a signal to the end, attach --tree",
        Mode::Native => "seconds from a signal to the end, attach --native",
        Mode::GrowthSites => "seconds from a signal to the end, attach --growth-sites",
        Mode::Explain => "seconds from a signal to the end, explain",
        Mode::ExplainTree => "seconds from a signal to the end, explain --tree",
        Mode::Check => "seconds from a signal to the end, check",
        Mode::Diff => "seconds from a signal to the end, diff",
    }
}

/// The row.
pub(super) fn run(stage: &Stage, tally: &mut Tally) -> Result<()> {
    let trace = small_trace(stage)?;
    let all = combinations();
    let mut worker = None;
    tally.each(|round| one(stage, round, &all, &trace, &mut worker))?;
    judge(tally, TO_THE_END, PROMISED);
    for name in MODES.map(to_the_end_of) {
        judge(tally, name, PROMISED_EACH);
    }
    Ok(())
}

/// Checks whether the median of a figure is as promised, if there are enough values.
fn judge(tally: &mut Tally, name: &'static str, promised: f64) {
    match tally.median(name, ENOUGH_FOR_A_MEDIAN) {
        Some(median) if median > promised => {
            tally.fault(format!("{name}: {median:.3} in the median, not {promised}"));
        }
        Some(_) => {}
        None => tally.note(format!(
            "{name}: not judged, as there are fewer than {ENOUGH_FOR_A_MEDIAN}"
        )),
    }
}

/// Every harm in every mode in which it can be done, in an order that mixes them.
fn combinations() -> Vec<(Mode, Harm)> {
    let harms = [
        Harm::End(Signal::SIGTERM),
        Harm::End(Signal::SIGINT),
        Harm::End(Signal::SIGHUP),
        Harm::End(Signal::SIGQUIT),
        Harm::Suspend,
        Harm::CloseTerminal,
        Harm::ClosePipe,
        Harm::StopTerminal,
    ];
    let mut all = Vec::new();
    for harm in harms {
        for mode in MODES {
            let can_be = match harm {
                Harm::CloseTerminal => mode.has_screen(),
                Harm::ClosePipe => {
                    let records = matches!(mode, Mode::RecordProcess | Mode::RecordCommand);
                    !mode.has_screen() && !records
                }
                _ => true,
            };
            if can_be {
                all.push((mode, harm));
            }
        }
    }
    // Closing a terminal is one mode's alone, and has failed most.
    all.extend([(Mode::Screen, Harm::CloseTerminal); 4]);
    fastrand::Rng::with_seed(0).shuffle(&mut all);
    all
}

fn one(
    stage: &Stage,
    round: &mut Round,
    all: &[(Mode, Harm)],
    trace: &Path,
    kept: &mut Option<Worker>,
) -> Result<()> {
    let (mode, harm) = round.turn(all);
    round.kind(match harm {
        Harm::End(signal) => signal.to_string(),
        other => format!("{other:?}"),
    });
    round.kind(format!("{mode:?}"));
    let worker = match kept {
        Some(worker) => worker,
        None => kept.insert(Worker::start(stage, USUAL)?),
    };
    let setting = Setting {
        streams: match harm {
            Harm::ClosePipe => Streams::Pipe,
            Harm::StopTerminal => Streams::StoppedTerminal,
            _ => Streams::Files,
        },
        ..Setting::of(worker.pid, trace)
    };
    let mut running = Running::start(stage, mode, &setting)?;
    let instant = round.instant(if mode.is_brief() {
        BRIEF_WINDOW
    } else {
        WINDOW
    });
    round.what = format!(
        "{harm:?}, {mode:?}, {:.3} s from its start",
        instant.as_secs_f64()
    );
    stage.let_pass(instant)?;
    if running.ended().is_some() && !mode.is_brief() {
        round.fault("it ended by itself", "before anything was done to it");
    }
    let how = match harm {
        Harm::StopTerminal => end(stage, round, &mut running, Signal::SIGTERM)?,
        Harm::End(signal) => end(stage, round, &mut running, signal)?,
        Harm::Suspend => suspend(stage, round, &mut running, worker)?,
        Harm::CloseTerminal => close_terminal(stage, round, &mut running)?,
        Harm::ClosePipe => close_pipe(stage, round, &mut running)?,
    };
    aftermath::check(stage, round, &running, Some(worker), how)?;
    round.hear(running.errors());
    // The recorded command goes with the round.
    if let Some(counters) = &running.counters {
        drop(Worker::recorded(stage, USUAL, counters)?);
    }
    if round.has_failed() {
        *kept = None;
    }
    Ok(())
}

/// Sends a terminating signal, and checks how soon and how it ends.
fn end(stage: &Stage, round: &mut Round, running: &mut Running, signal: Signal) -> Result<How> {
    // Before it has taken over the signals, their default action is as good: nothing is attached.
    let caught = running.catches(signal);
    let sent = Instant::now();
    if running.mode == Mode::RecordCommand && signal == Signal::SIGINT {
        // Like the terminal: the same key ends the command.
        for pid in running.group_and_session() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    } else {
        running.signal(signal);
    }
    let Some(status) = running.wait(stage, HANGS)? else {
        round.fault("it does not end", format!("within {HANGS:?} of {signal}"));
        return give_up(stage, round, running);
    };
    let took = sent.elapsed();
    round.figure(TO_THE_END, took.as_secs_f64());
    round.figure(to_the_end_of(running.mode), took.as_secs_f64());
    // A recorded command ends at its own pace.
    if took > ENDS_WITHIN && running.mode != Mode::RecordCommand {
        round.fault("it ends late", format!("{took:.1?} after {signal}"));
    }
    let by_default = status.signal() == Some(signal as i32);
    // If its last messages block on a terminal that accepts nothing, the signal's default action
    // ends it after all.
    if by_default && (!caught || !running.is_heard()) {
        return Ok(How::Killed);
    }
    let mut codes = vec![130];
    if running.mode == Mode::RecordCommand {
        // The command's own, which gets SIGTERM for all but SIGINT.
        codes.extend([128 + signal as i32, 128 + Signal::SIGTERM as i32]);
    }
    if running.mode.is_brief() {
        // It may have finished.
        codes.push(0);
    }
    match status.code() {
        Some(code) if codes.contains(&code) => {
            aftermath::promised_output(stage, round, running)?;
        }
        _ => round.fault(
            "a wrong exit code",
            format!("{status}, not one of {codes:?}"),
        ),
    }
    Ok(How::ByItself)
}

fn close_terminal(stage: &Stage, round: &mut Round, running: &mut Running) -> Result<How> {
    let caught = running.catches(Signal::SIGHUP);
    let closed = Instant::now();
    running.close();
    let Some(status) = running.wait(stage, HANGS)? else {
        let spent = processor_time(running.pid);
        stage.let_pass(Duration::from_secs(1))?;
        // Ticks are a hundredth of a second.
        let percent = processor_time(running.pid).saturating_sub(spent);
        round.fault(
            "it does not end",
            format!("within {HANGS:?} of its terminal's closing, and takes {percent} % of a core"),
        );
        return give_up(stage, round, running);
    };
    let took = closed.elapsed();
    round.figure(
        "seconds from a closed terminal to the end",
        took.as_secs_f64(),
    );
    if took > ENDS_WITHIN {
        round.fault(
            "it ends late",
            format!("{took:.1?} after its terminal's closing"),
        );
    }
    Ok(if caught && status.signal().is_none() {
        How::ByItself
    } else {
        How::Killed
    })
}

fn close_pipe(stage: &Stage, round: &mut Round, running: &mut Running) -> Result<How> {
    running.close();
    // Nobody needs to read a service's output.
    if running.mode == Mode::Serve {
        stage.let_pass(BRIEF_WINDOW)?;
        if running.ended().is_some() {
            round.fault("it ended by itself", "when its pipe was closed");
        }
        return end(stage, round, running, Signal::SIGTERM);
    }
    let Some(status) = running.wait(stage, WAIT_LIMIT)? else {
        round.fault(
            "it does not end",
            format!("within {WAIT_LIMIT:?} of its pipe's closing"),
        );
        return give_up(stage, round, running);
    };
    let said = running.errors();
    if status.code() != Some(0) || said.contains("roken pipe") {
        round.fault("a closed pipe is no quiet end", status.to_string());
    }
    Ok(How::ByItself)
}

/// Suspends it like `pkill -STOP fragscope`, and measures how long the target is held.
fn suspend(
    stage: &Stage,
    round: &mut Round,
    running: &mut Running,
    worker: &Worker,
) -> Result<How> {
    // Half of the time in the midst of a stop; the other modes have none, or soon end.
    if running.mode.attaches() && round.random.bool() {
        let seen = stage.wait_for(WAIT_LIMIT, Duration::from_micros(100), || {
            let seen = processes::is_held(worker.pid) || running.ended().is_some();
            Ok(seen.then_some(()))
        })?;
        round.what.push_str(", in a stop");
        round.kind(if seen.is_some() {
            "in a stop"
        } else {
            "no stop seen"
        });
    }
    let suspended = running.by_name(stage);
    for &pid in &suspended {
        let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
    }
    let kept = longest_stop(stage, worker.pid)?;
    round.figure(
        "longest stop of the target while fragscope was suspended, s",
        kept.as_secs_f64(),
    );
    if kept > MAX_STOP + MARGIN {
        round.fault(
            "the target is kept stopped",
            format!("for {kept:.1?} and more"),
        );
    }
    for &pid in &suspended {
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
    let goes_on = stage.wait_for(WAIT_LIMIT, PAUSE, || {
        let state = processes::process(running.pid).map(|process| process.state);
        Ok((state != Some('T') || running.ended().is_some()).then_some(()))
    })?;
    if goes_on.is_none() {
        round.fault("it does not go on", "by SIGCONT");
    }
    end(stage, round, running, Signal::SIGTERM)
}

/// How long a thread of the target stays stopped by a tracer. Watches until none has been for a
/// while, or one has been for too long.
pub(super) fn longest_stop(stage: &Stage, pid: i32) -> Result<Duration> {
    let mut since: BTreeMap<i32, Instant> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    let mut last_seen = Instant::now();
    stage.wait_for(WAIT_LIMIT, PAUSE, || {
        let now = Instant::now();
        let threads = processes::threads(pid);
        let held: Vec<_> = threads
            .iter()
            .filter(|t| t.state == 't')
            .map(|t| t.tid)
            .collect();
        since.retain(|tid, _| held.contains(tid));
        for tid in held {
            last_seen = now;
            longest = longest.max(now - *since.entry(tid).or_insert(now));
        }
        let over = now - last_seen > NOT_KEPT || longest > MAX_STOP + MARGIN;
        Ok(over.then_some(()))
    })?;
    Ok(longest)
}

/// It does not end when it should.
pub(super) fn give_up(stage: &Stage, round: &mut Round, running: &mut Running) -> Result<How> {
    running.signal(Signal::SIGKILL);
    if running.wait(stage, WAIT_LIMIT)?.is_none() {
        round.fault("it does not end", "by SIGKILL");
    }
    Ok(How::Killed)
}

/// Ticks that a process has used.
fn processor_time(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    let stat = stat.unwrap_or_default();
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    let fields = after.split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// How a round ended, for those that only ask fragscope to end.
pub(super) fn ends_by_interrupt(
    stage: &Stage,
    round: &mut Round,
    running: &mut Running,
) -> Result<How> {
    end(stage, round, running, Signal::SIGINT)
}

/// Whether this is how a shell would see a death by a signal.
pub(super) fn is_death(status: ExitStatus) -> bool {
    status.signal().is_some()
}
