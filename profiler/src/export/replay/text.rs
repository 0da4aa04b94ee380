//! A replay's report for people, at most [`WIDTH`] columns wide.

use profiler_common::program::{MAX_PROCESSES, MAX_THREADS};
use profiler_core::candidate::CandidateName;
use profiler_core::columns::TextColumn;
use profiler_core::text::visible;
use profiler_core::units::{bytes, count, nanoseconds};
use profiler_lab::calibrate::error;
use profiler_lab::report::{CandidateReport, Measured, Report, TraceFacts};
use profiler_trace::limits::Incomplete;

use super::columns::{self, Compared, MIB};
use crate::export::names::cut;

/// Columns at most.
const WIDTH: usize = 80;
/// A candidate's name, in the width that the figures leave.
const NAME: TextColumn = TextColumn::left("MiB of malloc", WIDTH - columns::WIDTH);
/// The saving of a cause.
const SAVED_FINAL: TextColumn = TextColumn::right("final", 8);
const SAVED_PEAK: TextColumn = TextColumn::right("peak", 8);
/// Candidates that are named by their peaks.
const PEAKS: usize = 4;
/// Candidates whose lines to copy are shown.
const REMEDIES: usize = 3;
/// The last checkpoint is late enough when it comes after this percentage of the recording.
const LATE_PERCENT: u64 = 90;

/// A report as text; with terminal colours if requested.
pub fn text(report: &Report, colours: bool) -> String {
    let mut text = Text {
        out: String::new(),
        colours,
    };
    heading(&mut text, report);
    table(&mut text, report);
    shares(&mut text, report);
    text.blank();
    text.paragraph("", &report.verdict);
    remedies(&mut text, report);
    text.out
}

struct Text {
    out: String,
    colours: bool,
}

/// The appearance of a line, as terminal codes.
#[derive(Copy, Clone)]
enum TextStyle {
    Plain,
    Bold,
    Good,
    Bad,
    Faint,
}

impl Text {
    fn line(&mut self, line: &str) {
        self.styled(TextStyle::Plain, line);
    }

    /// One line, cut at the width.
    fn styled(&mut self, style: TextStyle, line: &str) {
        let mut shown = cut(line, WIDTH);
        let code = match style {
            TextStyle::Bold => "1",
            TextStyle::Good => "32",
            TextStyle::Bad => "31",
            TextStyle::Faint => "2",
            TextStyle::Plain => "",
        };
        if self.colours && !code.is_empty() {
            shown = format!("\x1b[{code}m{shown}\x1b[0m");
        }
        self.out.push_str(&shown);
        self.out.push('\n');
    }

    fn blank(&mut self) {
        self.out.push('\n');
    }

    fn paragraph(&mut self, indent: &str, words: &str) {
        self.wrapped(TextStyle::Plain, indent, words);
    }

    fn wrapped(&mut self, style: TextStyle, indent: &str, words: &str) {
        let wrapping = textwrap::Options::new(WIDTH)
            .initial_indent(indent)
            .subsequent_indent(indent);
        for line in textwrap::wrap(&visible(words).to_string(), wrapping) {
            self.styled(style, &line);
        }
    }
}

fn heading(text: &mut Text, report: &Report) {
    let trace = &report.trace;
    let command = trace.command.as_deref().unwrap_or("unknown program");
    text.styled(TextStyle::Bold, command);
    text.paragraph("  ", &facts(trace).join(", "));
    about_objects(text, trace);
    what_is_missing(text, trace);
    for what in &report.not_confined {
        text.wrapped(
            TextStyle::Bold,
            "  ",
            &format!("not fully confined: {what}"),
        );
    }
    calibration(text, report);
    if trace.last_checkpoint_ns < trace.duration_ns / 100 * LATE_PERCENT {
        let when = nanoseconds(trace.last_checkpoint_ns);
        let words = format!("\"final\" is the memory at {when}, the last checkpoint");
        text.wrapped(TextStyle::Bold, "  ", &words);
    }
    if report.interrupted {
        text.wrapped(
            TextStyle::Bad,
            "  ",
            "interrupted: only finished candidates are shown",
        );
    }
    text.blank();
}

/// Facts about the recording, in a few words each.
fn facts(trace: &TraceFacts) -> Vec<String> {
    let malloc = trace.malloc.as_ref().map(ToString::to_string);
    let known = [&trace.python, &malloc];
    let known: Vec<&str> = known.iter().filter_map(|one| one.as_deref()).collect();
    let format = trace.format.as_deref();
    let mut facts =
        vec![format.map_or_else(|| trace.path.clone(), |f| format!("{} ({f})", trace.path))];
    facts.extend(known.iter().map(|one| (*one).to_owned()));
    facts.push(format!(
        "{} events in {}",
        count(trace.events),
        nanoseconds(trace.duration_ns)
    ));
    facts.push(many(u64::from(trace.threads), "thread", "threads"));
    if trace.processes > 1 {
        facts.push(format!("{} processes", trace.processes));
    }
    facts.extend(trace.cpus.map(|cpus| many(cpus, "CPU", "CPUs")));
    if trace.trims > 0 {
        facts.push(many(
            trace.trims,
            "call of malloc_trim",
            "calls of malloc_trim",
        ));
    }
    facts.push(format!("at most {} live", bytes(trace.peak_live_bytes)));
    facts
}

/// Whether Python's object allocator is in the figures.
fn about_objects(text: &mut Text, trace: &TraceFacts) {
    if trace.has_objects {
        let words = format!(
            "all figures include Python's object allocator, which {} does without",
            CandidateName::WithoutObjectAllocator(None)
        );
        text.paragraph("  ", &words);
    } else if trace.lacks_objects {
        text.wrapped(
            TextStyle::Bold,
            "  ",
            &format!(
                "{} is not played: what Python asks of its object allocator, or what that had at the end, is not in \
                 the recording",
                CandidateName::WithoutObjectAllocator(None)
            ),
        );
    }
}

/// What is missing in the recording, or was not used.
fn what_is_missing(text: &mut Text, trace: &TraceFacts) {
    if !trace.lacks.is_empty() {
        let words = format!("the format does not record {}", trace.lacks.join(", "));
        text.wrapped(TextStyle::Bold, "  ", &words);
    }
    if let Some(trouble) = &trace.trouble {
        text.wrapped(TextStyle::Bad, "  ", &format!("incomplete: {trouble}"));
    }
    if trace.lost > 0 {
        let lost = format!("incomplete: {}", Incomplete::of_lost(trace.lost).why);
        text.wrapped(TextStyle::Bad, "  ", &lost);
    }
    if trace.left_out > 0 {
        let left_out = format!(
            "incomplete: {} events were left out: more than {} processes or {} threads",
            count(trace.left_out),
            count(MAX_PROCESSES.into()),
            count(MAX_THREADS.into())
        );
        text.wrapped(TextStyle::Bad, "  ", &left_out);
    }
    if let Some(reason) = trace.environment_unknown {
        let words = format!(
            "the baseline has default settings, those of the program are unknown: {}",
            reason.because()
        );
        text.wrapped(TextStyle::Bold, "  ", &words);
    }
    for what in &trace.not_taken {
        let words = format!("in the recording, but not applied: {what}");
        text.wrapped(TextStyle::Bold, "  ", &words);
    }
    if let Some(failure) = &trace.not_loaded {
        text.wrapped(TextStyle::Bold, "  ", &failure.why);
    }
}

fn calibration(text: &mut Text, report: &Report) {
    let (trace, found) = (&report.trace, &report.calibration);
    let (style, words) = match (found.trusted, found.compared) {
        (true, Some(_)) => (TextStyle::Good, "calibrated"),
        (_, Some(_)) => (TextStyle::Bad, "NOT CALIBRATED"),
        (_, None) => (TextStyle::Bad, "NOT CALIBRATED: nothing to compare with"),
    };
    let mut line = words.to_owned();
    if let Some(compared) = found.compared {
        let all = compared.zip(found.replayed).zip(found.is_compared);
        let one = |what: &str, ((both, all), is_compared): (((u64, u64), u64), bool)| {
            let both = format!(
                "recorded {}, replayed {} ({:+.1} %)",
                bytes(both.0),
                bytes(both.1),
                error(both) * 100.0
            );
            match is_compared {
                true => format!("{what} {both}"),
                false => format!(
                    "{what} not compared: {} as replayed, where nothing was recorded; that of the checkpoints \
                     {both}",
                    bytes(all)
                ),
            }
        };
        line.push_str(&format!(
            ": {}; {}; median error {:.1} % over {}",
            one("final", all.at_end),
            one("peak", all.peak),
            found.median_error.unwrap_or(0.0) * 100.0,
            many(trace.checkpoints, "checkpoint", "checkpoints"),
        ));
    }
    text.wrapped(style, "  ", &line);
    // Without trust they are in the verdict.
    if found.trusted {
        for reason in &found.reasons {
            text.paragraph("  ", &format!("but {reason}"));
        }
    }
}

fn many(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

fn table(text: &mut Text, report: &Report) {
    text.styled(TextStyle::Bold, &(NAME.heading() + &columns::headings()));
    let now = report.now().and_then(|row| row.measured);
    let unlike = |row: &&CandidateReport| row.same_as_now.is_none() && row.failure.is_none();
    let shown = report.candidates.iter().filter(unlike);
    let (with_malloc, others): (Vec<&CandidateReport>, Vec<&CandidateReport>) =
        shown.partition(|row| row.objects);
    others.iter().for_each(|row| measured(text, row, now));
    if !with_malloc.is_empty() {
        let title = format!("with {}", CandidateName::WithoutObjectAllocator(None));
        text.styled(TextStyle::Bold, &title);
    }
    with_malloc.iter().for_each(|row| measured(text, row, now));
    let same: Vec<String> = report
        .candidates
        .iter()
        .filter(|row| row.same_as_now.is_some() && row.failure.is_none())
        .map(|row| row.name.to_string())
        .collect();
    if !same.is_empty() {
        text.wrapped(
            TextStyle::Faint,
            "",
            &format!("same as baseline: {}", same.join(", ")),
        );
    }
    by_peak(text, report);
    releases(text, report);
    failures(text, report);
}

/// Candidates without figures; those with the same failure are listed together.
fn failures(text: &mut Text, report: &Report) {
    let mut alike: Vec<(&str, Vec<String>)> = Vec::new();
    for row in &report.candidates {
        let Some(why) = row.failure.as_ref().map(|failure| &*failure.why) else {
            continue;
        };
        match alike.iter_mut().find(|(other, _)| *other == why) {
            Some((_, names)) => names.push(row.name.to_string()),
            None => alike.push((why, vec![row.name.to_string()])),
        }
    }
    for (why, names) in alike {
        text.wrapped(TextStyle::Bad, "", &format!("{}: {why}", names.join(", ")));
    }
}

/// The candidates with the smallest peaks: rows are ordered by the final size.
fn by_peak(text: &mut Text, report: &Report) {
    let is_unknown = |row: &CandidateReport| row.measured.is_some_and(|own| own.peak_is_unknown);
    if report.candidates.iter().any(is_unknown) {
        let why = "peak unknown (-): too few checkpoints were recorded of children, of what they had of Python's object allocator";
        return text.wrapped(TextStyle::Faint, "", why);
    }
    let unlike = |row: &&CandidateReport| row.same_as_now.is_none();
    let ranked = report.candidates.iter().filter(unlike);
    let mut ranked: Vec<(usize, String)> = ranked
        .filter_map(|row| Some((row.rank?.peak, row.name.to_string())))
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    let first: Vec<String> = ranked
        .into_iter()
        .take(PEAKS)
        .map(|(_, name)| name)
        .collect();
    if first.len() > 1 {
        text.wrapped(
            TextStyle::Plain,
            "",
            &format!("lowest peaks: {}", first.join(", ")),
        );
    }
}

/// Which releases were played, and whose: another may need another amount.
fn releases(text: &mut Text, report: &Report) {
    let mut played: Vec<String> = Vec::new();
    let rows = report
        .candidates
        .iter()
        .filter(|row| row.measured.is_some());
    for allocator in rows.filter_map(|row| row.allocator.as_ref()) {
        if allocator.object.is_none() {
            continue;
        }
        let title = allocator.identity.title();
        let release = match (&allocator.listed, allocator.is_installed) {
            (Some(path), true) => format!("{title} ({})", visible(path)),
            _ => format!("{title} (inside fragscope)"),
        };
        if !played.contains(&release) {
            played.push(release);
        }
    }
    if !played.is_empty() {
        let played = played.join(", ");
        text.wrapped(TextStyle::Faint, "", &format!("played: {played}"));
    }
}

fn measured(text: &mut Text, row: &CandidateReport, now: Option<Measured>) {
    if row.measured.is_none() {
        return;
    }
    // Candidates without Python's object allocator come after their counterparts with it.
    let whole = match &row.name {
        CandidateName::WithoutObjectAllocator(None) => "the baseline's malloc".to_owned(),
        CandidateName::WithoutObjectAllocator(Some(of)) => of.to_string(),
        other => other.to_string(),
    };
    let mut name: String = whole.chars().take(NAME.width).collect();
    if whole.chars().count() > NAME.width {
        name.pop();
        name.push('…');
    }
    let style = if row.is_baseline {
        TextStyle::Bold
    } else {
        TextStyle::Plain
    };
    let compared = Compared::of(row, now);
    text.styled(style, &(NAME.cell(&name) + &columns::cells(&compared)));
}

fn shares(text: &mut Text, report: &Report) {
    if report.shares.is_empty() {
        return;
    }
    let gap = |part: fn(&profiler_lab::ablation::Share) -> i64| -> i64 {
        report.shares.iter().map(part).sum()
    };
    let (last, peak) = (
        gap(|share| share.bytes.at_end),
        gap(|share| share.bytes.peak),
    );
    text.blank();
    let row = |at_end: &str, peak: &str, words: &str| {
        let (at_end, peak) = (SAVED_FINAL.cell(at_end), SAVED_PEAK.cell(peak));
        format!("{at_end} {peak}  {words}")
    };
    let title = "MiB SAVED FROM GLIBC TO JEMALLOC, BY CAUSE";
    text.styled(
        TextStyle::Bold,
        &row(SAVED_FINAL.title, SAVED_PEAK.title, title),
    );
    let mib = |bytes: i64| format!("{:.1}", bytes as f64 / MIB);
    for share in &report.shares {
        let (at_end, peak) = (mib(share.bytes.at_end), mib(share.bytes.peak));
        text.line(&row(&at_end, &peak, share.cause.in_words()));
    }
    text.line(&row(&mib(last), &mib(peak), "total"));
}

fn remedies(text: &mut Text, report: &Report) {
    for row in report.worthwhile().take(REMEDIES) {
        text.blank();
        let price = match &*row.price {
            "" => String::new(),
            price => format!(" (cost: {price})"),
        };
        text.wrapped(TextStyle::Bold, "", &format!("To use {}{price}:", row.name));
        for (name, value) in &row.set {
            text.line(&format!("  {name}={value}"));
        }
        for name in &row.unset {
            text.line(&format!("  unset {name}"));
        }
        if let Some(step) = &row.step {
            text.paragraph("  ", step);
        }
    }
}
