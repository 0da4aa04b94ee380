//! Profiles pushed to Pyroscope, and the message that contains them: `push.v1.PushRequest`
//! (<https://github.com/grafana/pyroscope/blob/main/api/push/v1/push.proto>).

use profiler_core::host::{HostView, MemoryGroup, ProcessGroup, ProcessSample, group_name, groups};
use profiler_core::objects::Census;
use profiler_core::report::FragReport;
use profiler_core::tables::{LedgerClass, LedgerRow};
use profiler_core::view::View;
use prost::Message;

use super::sites::{Allocated, Moment, NamedStack, Profile, of_names, packed, pprof_since};

/// Stacks of a profile at most: Pyroscope takes 16,000 (`validation.max-profile-stacktrace-samples`).
const MOST_STACKS: usize = 8_000;
/// The largest uncompressed profile, in bytes: Pyroscope accepts 4 MiB
/// (`validation.max-profile-size-bytes`).
const MOST_BYTES: usize = 7 << 19;
/// A profile that is too large is remade with its number of stacks divided by this.
const FEWER: usize = 4;
/// Characters of a name in a stack.
const MAX_NAME: usize = 200;

/// Pyroscope's name for a memory profile; it knows `inuse_space` and similar types.
const SITES: &str = "memory";
/// Profiles of ours.
const LEDGER: &str = "fragscope_ledger";
const TYPES: &str = "fragscope_types";
const HOLDERS: &str = "fragscope_holders";

/// The label for processes whose heaps are unknown.
const UNWALKED: &str = "(heap not known)";

#[derive(Clone, PartialEq, Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    series: Vec<Series>,
}

#[derive(Clone, PartialEq, Message)]
struct Series {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<RawSample>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct RawSample {
    #[prost(bytes = "vec", tag = "1")]
    raw_profile: Vec<u8>,
}

/// A request under construction.
#[derive(Clone, Debug, Default)]
pub struct Pushed(PushRequest);

impl Pushed {
    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.series.is_empty()
    }

    /// The message.
    pub fn message(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    /// Adds a profile with this name and these labels.
    fn add(&mut self, name: &str, of: &[(&str, &str)], profile: &Profile) -> std::io::Result<()> {
        // Pyroscope must not subtract profiles: figures of an interval already refer to the time
        // since the previous profile.
        let own = [
            ("__name__", name),
            ("__delta__", "false"),
            ("pyroscope_spy", "fragscope"),
        ];
        let labels = own.iter().chain(of);
        let labels = labels.filter(|(_, value)| !value.is_empty());
        let labels = labels.map(|(name, value)| Label {
            name: (*name).into(),
            value: (*value).into(),
        });
        self.0.series.push(Series {
            labels: labels.collect(),
            samples: vec![RawSample {
                raw_profile: packed(profile)?,
            }],
        });
        Ok(())
    }
}

/// A profile within Pyroscope's size limit, remade with fewer stacks until it fits.
fn fitting(mut make: impl FnMut(usize) -> Option<Profile>) -> Option<Profile> {
    let mut most = MOST_STACKS;
    loop {
        let profile = make(most)?;
        if profile.encoded_len() <= MOST_BYTES || most < FEWER {
            return Some(profile);
        }
        most /= FEWER;
    }
}

/// A profile for each group: the ledger of its processes.
///
/// # Errors
/// When a profile cannot be compressed.
pub fn of_host(view: &HostView, max_groups: usize, host: &str) -> std::io::Result<Pushed> {
    let mut pushed = Pushed::default();
    let moment = Moment {
        time_ns: view.taken_at_ns,
        duration_ns: 0,
    };
    for group in groups(&view.rows, max_groups) {
        let stacks = group_stacks(&group);
        let Some(profile) = ledger(stacks, moment) else {
            continue;
        };
        let labels = [
            ("service_name", group.name.group.as_str()),
            ("program", &group.name.program),
            ("hostname", host),
        ];
        pushed.add(LEDGER, &labels, &profile)?;
    }
    Ok(pushed)
}

fn group_stacks(group: &ProcessGroup) -> Vec<NamedStack<2>> {
    let name = &group.name;
    let root = if name.program.is_empty() {
        &name.group
    } else {
        &name.program
    };
    let mut stacks: Vec<_> = group
        .ledger
        .values()
        .map(|row| ledger_stack(root, row))
        .collect();
    let unwalked = group.unwalked_bytes.unwrap_or(0);
    stacks.push((vec![root.clone(), UNWALKED.into()], [unwalked, 0]));
    stacks
}

fn ledger_stack(root: &str, row: &LedgerRow) -> NamedStack<2> {
    let class: LedgerClass = row.class;
    let names = [root, class.part().words(), class.name()];
    let figures = [row.resident_bytes, row.swapped_bytes];
    (names.map(str::to_owned).into(), figures)
}

fn ledger(stacks: Vec<NamedStack<2>>, moment: Moment) -> Option<Profile> {
    // There are at most as many as classes.
    let types = [("resident", "bytes"), ("swapped", "bytes")];
    of_names(types, stacks, moment, MOST_STACKS)
}

/// What was pushed for a target: the next profiles cover what is new since.
#[derive(Clone, Debug, Default)]
pub struct TargetPushes {
    pushed_ns: Option<u64>,
    walk_ns: Option<u64>,
    objects_ns: Option<u64>,
    allocated: Allocated,
}

impl TargetPushes {
    /// The target's profiles that are new at this moment, and the state to keep once they are
    /// accepted.
    ///
    /// # Errors
    /// When a profile cannot be compressed.
    pub fn next(&self, view: &View, host: &str, now_ns: u64) -> std::io::Result<(Pushed, Self)> {
        let report = &view.report;
        let name = target_name(report);
        let pid = report.target.pid.to_string();
        let labels = [
            ("service_name", name.group.as_str()),
            ("program", &name.program),
            ("hostname", host),
            ("pid", &pid),
        ];
        let mut pushed = Pushed::default();
        let mut next = Self {
            pushed_ns: Some(now_ns),
            walk_ns: Some(report.taken_at_ns),
            ..self.clone()
        };
        if let Some(sites) = view.sites.as_deref().filter(|sites| sites.has_samples()) {
            let since = self
                .pushed_ns
                .unwrap_or(now_ns.saturating_sub(sites.armed_ns));
            let moment = Moment {
                time_ns: now_ns,
                duration_ns: now_ns.saturating_sub(since),
            };
            let profile = fitting(|most| {
                let (profile, allocated) = pprof_since(sites, &self.allocated, moment, most);
                next.allocated = allocated;
                profile
            });
            if let Some(profile) = profile {
                pushed.add(SITES, &labels, &profile)?;
            }
        }
        if self.walk_ns != next.walk_ns {
            let rows = report.ledger.iter();
            let stacks = rows.map(|row| ledger_stack(&name.program, row)).collect();
            if let Some(profile) = ledger(stacks, at(report.taken_at_ns)) {
                pushed.add(LEDGER, &labels, &profile)?;
            }
        }
        if let Some(census) = &report.objects
            && self.objects_ns != Some(census.taken_at_ns)
        {
            next.objects_ns = Some(census.taken_at_ns);
            objects(census, &labels, &mut pushed)?;
        }
        Ok((pushed, next))
    }
}

fn at(time_ns: u64) -> Moment {
    Moment {
        time_ns,
        duration_ns: 0,
    }
}

/// As `serve` calls the group of a process.
fn target_name(report: &FragReport) -> profiler_core::host::GroupName {
    let group = report.group.as_ref().map(|group| MemoryGroup {
        path: group.path.clone(),
        ..MemoryGroup::default()
    });
    group_name(&ProcessSample {
        comm: report.target.comm.clone(),
        cmdline: report.target.cmdline.clone(),
        group: group.map(Into::into),
        ..ProcessSample::default()
    })
}

/// Python types with everything live, and who holds it.
fn objects(census: &Census, of: &[(&str, &str)], pushed: &mut Pushed) -> std::io::Result<()> {
    let moment = at(census.taken_at_ns);
    let types = fitting(|most| {
        let types = [("objects", "count"), ("size", "bytes")];
        of_names(types, type_stacks(census), moment, most)
    });
    if let Some(profile) = types {
        pushed.add(TYPES, of, &profile)?;
    }
    let holders = fitting(|most| {
        let types = [("size", "bytes")];
        of_names(types, holder_stacks(census), moment, most)
    });
    if let Some(profile) = holders {
        pushed.add(HOLDERS, of, &profile)?;
    }
    Ok(())
}

fn type_stacks(census: &Census) -> Vec<NamedStack<2>> {
    let types = census.types.iter().map(|row| {
        let bytes = row.objects.bytes.saturating_add(row.storage.bytes);
        (vec![short(&row.name)], [row.objects.blocks, bytes])
    });
    let native = census.native.iter().map(|row| {
        let names = vec![
            "(native)".to_owned(),
            format!("up to {} bytes", row.class.upper_bytes()),
        ];
        (names, [row.native.blocks, row.native.bytes])
    });
    let others = [
        ("(freed, kept by Python)", census.spare),
        ("(unreadable)", census.unreadable),
    ];
    let others =
        others.map(|(name, amount)| (vec![name.to_owned()], [amount.blocks, amount.bytes]));
    types.chain(native).chain(others).collect()
}

/// Each holder's memory without that of holders inside it, which have stacks of their own, so that
/// the sum is right.
fn holder_stacks(census: &Census) -> Vec<NamedStack<1>> {
    let holders = census.holders.iter().map(|holder| {
        let own = holder.inner_bytes.unwrap_or(0);
        let own = holder.retained_bytes.saturating_sub(own);
        let names = std::iter::once(short(&holder.name));
        let names = names.chain(holder.steps().into_iter().map(|step| short(&step)));
        (names.collect(), [own])
    });
    holders.collect()
}

/// A name that is safe to show and of limited length.
fn short(name: &str) -> String {
    let shown = profiler_core::text::visible(name).to_string();
    match shown.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}
