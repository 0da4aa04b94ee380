//! Sentences about a view that appear in more than one kind of report.

use std::cmp::Reverse;

use profiler_core::activity::Activity;
use profiler_core::completeness::{Completeness, EndedEarly, Released, StandStill};
use profiler_core::heap::Allocator;
use profiler_core::objects::{Branch, Census, Growth, Holder, HolderGain, LayoutBasis, TypeRow};
use profiler_core::report::{ArenaReport, FragReport, HeapReport, Setting};
use profiler_core::sample::{PythonMalloc, Target};
use profiler_core::sites::{AGES, GrowthSampling, SiteFigures, SiteRow, Sites, StackStep};
use profiler_core::units::{age, bytes, count, nanoseconds};
use profiler_core::view::{View, WhatIf};

use crate::hints::Hint;

/// Defects that are named before the rest is only counted.
const TOP_DEFECTS: usize = 12;
/// The number of types named for memory copied since a fork.
const TOP_COPIED: usize = 5;
/// The number of functions named for memory growth.
const TOP_GROWN: usize = 3;
/// The number of sharers named.
const TOP_SHARERS: usize = 3;
/// Packages whose modules' own memory is given in a sentence.
const TOP_PACKAGES: usize = 6;

/// Memory mapped by `mmap` objects is mentioned from this many bytes on.
const LEAST_MAPPED: u64 = 1 << 20;

/// What the holder at each place of the census is shown to gain; `None` without a census before.
pub(crate) fn gains_of_holders(report: &FragReport) -> impl Fn(usize) -> Option<HolderGain> {
    // As the verdict has it: what running functions have in hand is no growth.
    let counts_passing = report.growing().is_some_and(|by| by.counts_passing);
    let growth = report.growth.as_ref();
    move |at| Some(growth?.shown_gain_of_holder(at, counts_passing))
}

/// Python's version and what serves its objects.
pub(super) fn python(target: &Target) -> String {
    let python = target.python.as_deref();
    let python = python.unwrap_or("not a Python process");
    match target.python_malloc {
        None => python.to_owned(),
        Some(PythonMalloc::Unknown) => format!("{python} on an unknown allocator"),
        Some(serves) => format!("{python} on {}", serves.name()),
    }
}

/// Facts about the ledger in addition to its rows.
pub(super) fn of_ledger(report: &FragReport) -> Vec<String> {
    let fork = report.fork.as_ref().map(|fork| {
        format!(
            "of anonymous memory: {} still shared with parent {}, {} copied since the fork (or mapped anew \
             by both), {} the parent does not have",
            bytes(fork.shared_bytes),
            fork.parent,
            bytes(fork.copied_bytes),
            bytes(fork.own_bytes)
        )
    });
    let kernel = [
        (
            report.kernel.lazy_free_bytes,
            "marked free (MADV_FREE): the kernel reclaims it when it needs memory",
        ),
        (report.kernel.anon_huge_bytes, "in transparent huge pages"),
        (report.kernel.ksm_bytes, "merged with equal pages by KSM"),
    ];
    let kernel = kernel.into_iter().filter_map(|(amount, what)| {
        let amount = amount.filter(|&amount| amount > 0)?;
        Some(format!("of RSS: {} {what}", bytes(amount)))
    });
    fork.into_iter().chain(kernel).collect()
}

/// Live bytes without pages that are fewer go unsaid: any large block ends with some.
const UNTOUCHED: u64 = 1 << 20;

/// What a heap would return on request, and what it would keep.
fn given_back(heap: &HeapReport) -> String {
    let sum = |of: fn(&ArenaReport) -> u64| bytes(heap.arenas.iter().map(of).sum());
    let pinned = sum(|arena| arena.pinned_free_bytes);
    let cached = sum(|arena| arena.arena.cached_bytes);
    let kept = match heap.arenas.iter().any(|arena| arena.arena.top_bytes > 0) {
        true => format!(
            "{pinned} free on pages with live blocks, {cached} in caches and up to {} in arenas' tops",
            sum(|arena| arena.arena.top_bytes)
        ),
        // Not every allocator has any.
        false => format!("{pinned} free on pages with live blocks and {cached} in caches"),
    };
    match heap.allocator.row().gives_back {
        Some(giving) => format!(
            "{giving} would return {}; it would leave {kept}",
            sum(|arena| arena.trimmable_bytes)
        ),
        None => {
            format!(
                "free pages are returned only once the live blocks beside them are freed: {kept}"
            )
        }
    }
}

/// Its changed settings; `None` if none was changed.
fn settings(heap: &HeapReport) -> Option<String> {
    let settings = heap.settings.iter().filter(|setting| !setting.is_counter);
    // If no default is known, any setting may have been changed.
    let are_known = heap
        .settings
        .iter()
        .any(|setting| setting.default.is_some());
    let listed = settings.filter(|setting| !are_known || setting.is_changed());
    let listed: Vec<_> = listed.map(Setting::text).collect();
    (!listed.is_empty()).then(|| {
        let which = if are_known {
            "settings"
        } else {
            "settings in effect"
        };
        format!("{which}: {}", listed.join(", "))
    })
}

/// Why it is unknown what the environment asks of a heap; `None` where that is known.
pub(crate) fn unknown_requests(heap: &HeapReport) -> Option<String> {
    let reason = heap.requested.as_ref().err()?;
    Some(format!(
        "settings that its environment asks for: unknown, {}",
        reason.because()
    ))
}

/// What a heap would give back, what is set of it, and what does not fit.
pub(super) fn of_heap(heap: &HeapReport) -> Vec<String> {
    let mut all = Vec::new();
    if heap.allocator != Allocator::Pymalloc {
        all.push(given_back(heap));
    }
    if let Some(untouched) = heap.untouched_bytes.filter(|of| *of >= UNTOUCHED) {
        all.push(format!(
            "{} of what is live has no pages: it was asked for and never written to, and takes no memory",
            bytes(untouched)
        ));
    }
    all.extend(settings(heap));
    all.extend(unknown_requests(heap));
    let requested = heap.requested.iter().flatten();
    all.extend(requested.map(|requested| {
        let word = match requested.in_force {
            Some(true) => "",
            Some(false) => "not ",
            None => "not known to be ",
        };
        let (request, note) = (&requested.request, &requested.note);
        format!("{request} is {word}in effect: {note}")
    }));
    let mismatches = heap.checks.iter().filter(|check| !check.holds());
    all.extend(mismatches.map(|check| {
        format!(
            "mismatch: {} is {} by the allocator's own counters, {} by the walk",
            check.name, check.expected, check.found
        )
    }));
    all
}

/// Why a stop ended before its walk, and how to avoid that.
pub(crate) fn ended_early(why: EndedEarly) -> String {
    match why {
        EndedEarly::Overdue => format!("{} ({})", why.because(), Hint::LongerStops.words()),
        EndedEarly::Suspended | EndedEarly::Lost => why.because().to_owned(),
    }
}

/// What replaced objects during the reading mean, and what helps; `None` if hardly any were
/// replaced.
pub(crate) fn unsteadiness(census: &Census) -> Option<String> {
    let unsteadiness = census.unsteadiness()?;
    Some(format!("{unsteadiness} {}", Hint::StopForObjects.words()))
}

/// How reliable a walk is, without its defects.
pub(super) fn of_reliability(view: &View) -> Vec<String> {
    let seen = &view.report.completeness;
    let stop = match seen.stand_still {
        StandStill::Throughout => {
            format!("the target was stopped for {}", nanoseconds(seen.stop_ns))
        }
        StandStill::Released(Released { why, after_ns }) => format!(
            "the target was stopped, and ran on after {}, {}: blocks may have been allocated or freed since",
            nanoseconds(after_ns),
            ended_early(why)
        ),
        StandStill::InSlices(slices) => {
            let (stood, slices) = (nanoseconds(seen.stop_ns), slices.described());
            format!("the target was {slices}; {stood} in all")
        }
        StandStill::Never => {
            "the target was not stopped: blocks may have been allocated or freed meanwhile".into()
        }
    };
    let mut all = vec![
        format!("walked in {}; {stop}", nanoseconds(seen.walk_ns)),
        format!(
            "{}, {} unreadable, {} events lost",
            seen.layout_confidence.heap_state(),
            bytes(seen.unreadable_bytes),
            count(view.events_lost())
        ),
    ];
    if seen.threads_in_allocator > 0 {
        let threads = seen.threads_in_allocator;
        all.push(format!(
            "{threads} threads were stopped inside the allocator: its state may be half written"
        ));
    }
    all.extend(out_of_time(seen));
    all.extend(file_limit(seen).map(str::to_owned));
    all
}

/// What the sampling probes saw, and their cost.
pub(super) fn of_activity(activity: &Activity) -> Vec<String> {
    let mut all = vec![format!(
        "while sampled: {} malloc/s ({}/s), {} free/s",
        count(activity.alloc_rate.round() as u64),
        bytes(activity.alloc_byte_rate as u64),
        count(activity.free_rate.round() as u64)
    )];
    if !activity.lifetimes.is_empty() {
        let at = |quantile| nanoseconds(activity.lifetimes.value_at_quantile(quantile));
        all.push(format!(
            "lifetimes of freed blocks: median {}, 90th percentile {}, 99th {}",
            at(0.5),
            at(0.9),
            at(0.99)
        ));
    }
    all.push(format!(
        "sampled {} of {}; the probes take {:.1} % of one core",
        nanoseconds(activity.armed_ns),
        nanoseconds(activity.elapsed_ns),
        activity.cost.share * 100.0
    ));
    all
}

/// The defects that were found: the first of them, and how many more there are.
pub(super) fn of_defects(seen: &Completeness) -> Vec<String> {
    let named = seen.defects.iter().take(TOP_DEFECTS);
    let mut all: Vec<_> = named
        .map(|defect| format!("defect: {}", defect.what))
        .collect();
    if let Some(rest) = seen.defects.len().checked_sub(TOP_DEFECTS + 1) {
        let hint = Hint::AllRows.words();
        all.push(format!("and {} more defects ({hint})", rest + 1));
    }
    all
}

/// What the probes that record for shadows do, and their cost.
pub(crate) fn of_recording(what_if: &WhatIf) -> String {
    let now = match (what_if.cost(), &what_if.ended) {
        (_, Some(why)) => format!("; they have ended: {why}"),
        (Some(cost), None) => format!("; they take {:.1} % of one core", cost.share * 100.0),
        (None, None) => String::new(),
    };
    format!("{}{now}", Hint::RecordsAll.words())
}

/// A sentence saying that a walk's time limit was reached, and how to raise it; `None` if it was
/// not.
pub(crate) fn out_of_time(seen: &Completeness) -> Option<String> {
    let longest = nanoseconds(seen.out_of_time_ns?);
    Some(format!(
        "the walk was not done after {longest}, and was ended: what is missing counts as unknown. {}",
        Hint::LongerWalks.words()
    ))
}

/// How to read more of mapped files; `None` if no limit of their bytes was reached.
pub(crate) fn file_limit(seen: &Completeness) -> Option<&'static str> {
    (seen.files_over_limit).then_some(Hint::MoreOfFiles.words())
}

/// How to watch more growth; `None` unless the budget ended watching.
pub(crate) fn growth_budget(growth: &GrowthSampling) -> Option<&'static str> {
    (growth.is_over_budget).then_some(Hint::MoreGrowth.words())
}

/// All names of a holder, as far as there is space.
pub(super) fn names(holder: &Holder) -> String {
    let names = sharing_names(&holder.name, &holder.shared_with);
    match holder.calls.text() {
        Some(calls) => format!("{names}, {calls}"),
        None => names,
    }
}

/// A name and its sharers, as far as there is space.
pub(super) fn sharing_names(name: &str, others: &[String]) -> String {
    let mut name = name.to_owned();
    if let Some((first, more)) = others.split_first() {
        name = format!("{name}, shared with {first}");
        let shown = more.len().min(TOP_SHARERS - 1);
        for other in &more[..shown] {
            name = format!("{name}, {other}");
        }
        if more.len() > shown {
            name = format!("{name} and {} more", more.len() - shown);
        }
    }
    name
}

/// The path from a name to where its bytes spread out, or where most of its growth is.
pub(super) fn way(at: usize, holder: &Holder, growth: Option<&Growth>) -> String {
    let branch = growth.and_then(|growth| growth.branch_of(at, holder));
    let steps = branch.map_or_else(|| holder.steps(), Branch::steps);
    steps.join(" → ")
}

/// The text below the rows of holders: first, which bytes held by names are in none of them.
pub(super) fn below_holders(census: &Census) -> impl Iterator<Item = String> {
    let all = [unlisted(census), mapped(census), tracing(census)];
    all.into_iter().flatten()
}

/// Memory in no holder's row, and the packages whose modules hold it.
fn unlisted(census: &Census) -> Option<String> {
    if census.unlisted.bytes == 0 {
        return None;
    }
    let packages = census.packages.iter().take(TOP_PACKAGES);
    let packages: Vec<String> = packages
        .map(|row| format!("{} {}", row.name, bytes(row.unlisted.bytes)))
        .collect();
    let packages = match packages.is_empty() {
        true => String::new(),
        false => format!(", by package: {}", packages.join(", ")),
    };
    Some(format!(
        "Of that {} are in none of the holders' rows: code, functions, classes and what little names hold\
         {packages}.",
        bytes(census.unlisted.bytes)
    ))
}

/// Memory mapped by `mmap` objects outside the heaps; `None` if that is next to nothing.
fn mapped(census: &Census) -> Option<String> {
    let mapped = census.mapped;
    (mapped.bytes >= LEAST_MAPPED).then(|| {
        let objects = match mapped.blocks {
            1 => "one mmap object maps".to_owned(),
            many => format!("{} mmap objects map", count(many)),
        };
        format!(
            "Beside the heaps, {objects} {} of resident pages, of files or of anonymous memory: who holds them has these \
             bytes in its row, and pages that several of them map are counted in each.",
            bytes(mapped.bytes)
        )
    })
}

/// Memory used by `tracemalloc`; `None` if it is off or unknown.
fn tracing(census: &Census) -> Option<String> {
    let own = census.tracing.filter(|own| own.bytes > 0)?;
    Some(format!(
        "tracemalloc is on, and has {} of the native blocks for itself: tracemalloc.stop() frees them.",
        bytes(own.bytes)
    ))
}

/// What a census lacks, one sentence each.
pub(crate) fn missing(census: &Census) -> impl Iterator<Item = String> {
    census.gaps.iter().map(|gap| format!("{gap}."))
}

/// The basis of a census's figures, and the contents of pages copied by writes since a fork.
pub(super) fn of_census(census: &Census) -> Vec<String> {
    let copied = copied(census).into_iter();
    copied
        .chain([basis(census)])
        .chain(missing(census))
        .collect()
}

fn copied(census: &Census) -> Option<String> {
    let copied = census.copied?;
    let mut types: Vec<&TypeRow> = census.types.iter().collect();
    types.sort_by_key(|row| Reverse(row.copied_bytes));
    let types = types.iter().take(TOP_COPIED);
    let types = types.filter(|row| row.copied_bytes > 0);
    let types: Vec<String> = types
        .map(|row| format!("{} {}", row.name, bytes(row.copied_bytes)))
        .collect();
    Some(format!(
        "Pages with {} of objects were copied since the fork: {}. On {} of them lie objects that the garbage \
         collector writes to: gc.freeze() before the fork would have kept at most those shared.",
        bytes(copied.bytes),
        types.join(", "),
        bytes(copied.collector_bytes)
    ))
}

fn basis(census: &Census) -> String {
    let (major, minor) = census.python;
    let layout = match census.layout {
        LayoutBasis::Exact => format!("by the layout of CPython {major}.{minor}"),
        LayoutBasis::Newest => "by the newest known layout".to_owned(),
    };
    let moment = match census.exact {
        true => "as they were at the moment of the walk".to_owned(),
        false => format!(
            "while the target ran on ({} had changed meanwhile)",
            count(census.changed)
        ),
    };
    format!(
        "Objects were read in {}, {moment}, {layout}: {} references. Items of lists, tuples, dictionaries and sets are \
         exact; of other objects each word that points to an object counts as a reference. {} are freed \
         objects that Python keeps, {} could not be read.",
        nanoseconds(census.took_ns),
        count(census.references),
        bytes(census.spare.bytes),
        bytes(census.unreadable.bytes)
    )
}

/// How reliable the figures of unfreed memory are, one sentence each.
pub(crate) fn what_stays(sites: &Sites) -> Vec<String> {
    let Some(walk) = &sites.walk else {
        if sites.samples == 0 {
            return Vec::new();
        }
        let unseen = "unfreed: no free was recorded of it; some of it was freed while the probes were not attached.";
        return Vec::from_iter((!sites.frees_complete).then(|| unseen.to_owned()));
    };
    if walk.looked_up == 0 {
        // If there is none, none can be found, which says nothing about what is live.
        let none = "live: the last walk had nothing to look up, as each block that was sampled before it was seen \
                    being freed.";
        return Vec::from_iter((sites.samples > 0).then(|| none.to_owned()));
    }
    let mut found = format!(
        "live: of {} sampled blocks that were not seen being freed the last walk found {} live, each at its \
         address and of its size.",
        count(walk.looked_up),
        count(walk.found)
    );
    if walk.unreadable > 0 {
        let unreadable = count(walk.unreadable);
        found.push_str(&format!(
            " {unreadable} more lie where nothing could be read."
        ));
    }
    if !sites.frees_complete {
        found.push_str(
            " Frees were missed while the probes were not attached: a freed block whose address another of the \
             same size has got since is counted too, so that this is an upper bound.",
        );
    }
    let ages = ages(&sites.total()).map(|ages| format!("Since they were allocated: {ages}."));
    [found].into_iter().chain(ages).collect()
}

/// How the target's memory grew and where, and what could not be watched, one sentence each.
pub(crate) fn growth(sites: &Sites, label: fn(&Sites, StackStep) -> String) -> Vec<String> {
    let Some(growth) = &sites.growth else {
        return Vec::new();
    };
    let mut said = format!(
        "grew: in {} the program got {} from the kernel and gave {} back, and touched {} of pages first",
        nanoseconds(growth.watched_ns),
        bytes(growth.grown_bytes),
        bytes(growth.returned_bytes),
        bytes(growth.touched_bytes)
    );
    let mut rows = sites.by_innermost();
    let grown = |row: &SiteRow| row.figures.growth.grown;
    rows.retain(|row| grown(row).rounded() > 0);
    rows.sort_by(|a, b| grown(b).value.total_cmp(&grown(a).value));
    let of = |row: &SiteRow| {
        let (grown, error) = (grown(row).rounded(), grown(row).rounded_error());
        format!(
            "{} {} ± {}",
            label(sites, row.step),
            bytes(grown),
            bytes(error)
        )
    };
    let top: Vec<String> = rows.iter().take(TOP_GROWN).map(of).collect();
    if !top.is_empty() {
        said.push_str(&format!("; most was got by {}", top.join(", ")));
    }
    said.push('.');
    let missing = growth.missing.iter();
    let missing = missing.map(|what| format!("growth that is not watched: {what}."));
    let more = growth_budget(growth).map(|more| format!("{more}."));
    [said].into_iter().chain(missing).chain(more).collect()
}

/// How many stacks have native functions, and the cost of finding them; `None` if they are not
/// shown.
pub(crate) fn native(sites: &Sites) -> Option<String> {
    let native = sites.native.as_ref()?;
    let all = native.copied.saturating_add(native.not_copied);
    if all == 0 {
        return None;
    }
    let each = native.unwinding_ns.checked_div(native.copied);
    let took = each.map_or_else(String::new, |each| {
        format!(", {} of fragscope's time each", nanoseconds(each))
    });
    let of_all = match native.not_copied {
        0 => String::new(),
        _ => format!(" of {}", count(all)),
    };
    let unread = match native.unread_files.is_empty() {
        true => String::new(),
        false => format!(
            "; files that are not read: {}",
            native.unread_files.join(", ")
        ),
    };
    Some(format!(
        "native functions of {}{of_all} stacks{took}{unread}",
        count(native.copied)
    ))
}

/// What raised glibc's mmap threshold; `None` if it has not adapted.
pub(crate) fn mmap_threshold(
    sites: &Sites,
    label: fn(&Sites, StackStep) -> String,
) -> Option<String> {
    let threshold = sites.mmap_threshold.as_ref()?;
    let grown = format!("the mmap threshold has grown to {}", bytes(threshold.bytes));
    let Some((stack, end)) = &threshold.raised_by else {
        return Some(format!(
            "{grown}: before the probes were attached, or by a block that was not sampled"
        ));
    };
    let whose = match sites.innermost(stack) {
        None => sites.label(StackStep::Rest(*end)),
        Some(step @ StackStep::Called { .. }) => label(sites, step),
        // The caller distinguishes one call of the function from another.
        Some(step) => {
            let caller = stack.get(1).map(|caller| StackStep::Function(*caller));
            let functions = [Some(step), caller].into_iter().flatten();
            let functions: Vec<String> = functions.map(|step| label(sites, step)).collect();
            functions.join(", called by ")
        }
    };
    Some(format!(
        "{grown} when a block was freed that was allocated by {whose}"
    ))
}

/// Bytes that a walk found live, by the age of their blocks; `None` if there are none.
pub(crate) fn ages(figures: &SiteFigures) -> Option<String> {
    let limits = AGES
        .into_iter()
        .map(|limit| format!("up to {}", age(limit)));
    let limits = limits.chain(["older".to_owned()]);
    let ages = limits.zip(figures.at_walk.by_age);
    let ages = ages.filter(|(_, bytes)| *bytes >= 0.5);
    let ages: Vec<String> = ages
        .map(|(limit, amount)| format!("{limit} {}", bytes(amount.round() as u64)))
        .collect();
    (!ages.is_empty()).then(|| ages.join(", "))
}
