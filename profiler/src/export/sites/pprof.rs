//! The pprof format: a Protocol Buffers message compressed with gzip
//! (<https://github.com/google/pprof/blob/main/proto/profile.proto>, the used part of which is
//! written here).

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use profiler_core::sites::{Estimate, Frame, Site, SiteFigures, Sites};
use prost::Message;

use super::NO_FUNCTION;

#[derive(Clone, PartialEq, Message)]
pub(in crate::export) struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Copy, Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Copy, Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Copy, Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// A name, a unit, and the figure of a stack.
type Value = (
    &'static str,
    &'static str,
    fn(&Sites, &SiteFigures) -> Estimate,
);

/// The values of each stack, as heap profiles of Go have them: their names, their units, and the figures.
const VALUES: [Value; 4] = [
    ("alloc_objects", "count", |_, of| of.allocations),
    ("alloc_space", "bytes", |_, of| of.bytes),
    ("inuse_objects", "count", |sites, of| match sites.walk {
        Some(_) => of.at_walk.blocks,
        None => of.live_blocks,
    }),
    ("inuse_space", "bytes", |sites, of| match sites.walk {
        Some(_) => of.at_walk.bytes,
        None => of.live_bytes,
    }),
];

/// All sites as a profile, taken at `taken_at_ns`.
pub(in crate::export) fn pprof(sites: &Sites, taken_at_ns: u64) -> std::io::Result<Vec<u8>> {
    let of_site = |site: &Site| VALUES.map(|(_, _, figure)| figure(sites, &site.figures).rounded());
    let samples = sites.sites.iter().map(|site| (site, of_site(site)));
    packed(&of_sites(sites, samples, taken_at_ns, sites.armed_ns))
}

/// The [`VALUES`] that only grow: allocations since the probes were first active.
const GROWING: [usize; 2] = [0, 1];

/// Allocations at each site at the time of a profile, by the site's stack and why that ends.
pub(in crate::export) type Allocated = HashMap<(Arc<[u32]>, u32), [u64; GROWING.len()]>;

/// A profile of what was allocated at the sites since `before`, of the same session, and of what is
/// live. It has at most `most` stacks, those with the most bytes; the others are summed as one.
/// `None` if it would be empty. Also returns what has been allocated so far.
pub(in crate::export) fn pprof_since(
    sites: &Sites,
    before: &Allocated,
    moment: Moment,
    most: usize,
) -> (Option<Profile>, Allocated) {
    let mut allocated = Allocated::new();
    let mut all: Vec<(&Site, [u64; VALUES.len()])> = Vec::new();
    for site in &sites.sites {
        let mut values = VALUES.map(|(_, _, figure)| figure(sites, &site.figures).rounded());
        let key = (Arc::clone(&site.stack), site.end as u32);
        let until_now = GROWING.map(|at| values[at]);
        let known = before.get(&key).copied().unwrap_or_default();
        for (at, known) in GROWING.into_iter().zip(known) {
            values[at] = values[at].saturating_sub(known);
        }
        allocated.insert(key, until_now);
        if values.iter().any(|value| *value > 0) {
            all.push((site, values));
        }
    }
    all.sort_by_key(|(_, values)| std::cmp::Reverse(values[1].max(values[3])));
    let mut rest = [0u64; VALUES.len()];
    for (_, values) in all.drain(most.min(all.len())..) {
        for (sum, value) in rest.iter_mut().zip(values) {
            *sum = sum.saturating_add(value);
        }
    }
    let is_empty = all.is_empty();
    let mut profile = of_sites(sites, all.into_iter(), moment.time_ns, moment.duration_ns);
    if rest.iter().any(|value| *value > 0) {
        profile.add_other(rest.map(signed).to_vec());
    }
    ((!is_empty).then_some(profile), allocated)
}

/// Of when a profile is.
#[derive(Copy, Clone, Debug, Default)]
pub(in crate::export) struct Moment {
    /// In nanoseconds since 1970-01-01 UTC.
    pub(in crate::export) time_ns: u64,
    /// The length of its interval, in ns.
    pub(in crate::export) duration_ns: u64,
}

/// A stack of names, the outermost first, and its figures.
pub(in crate::export) type NamedStack<const N: usize> = (Vec<String>, [u64; N]);

/// A profile of stacks that only have names, with the names and units of their figures; `None` if
/// all figures are 0.
pub(in crate::export) fn of_names<const N: usize>(
    types: [(&str, &str); N],
    stacks: Vec<NamedStack<N>>,
    moment: Moment,
    most: usize,
) -> Option<Profile> {
    let is_something = |(_, values): &NamedStack<N>| values.iter().any(|value| *value > 0);
    let mut stacks: Vec<_> = stacks.into_iter().filter(is_something).collect();
    stacks.sort_by_key(|(_, values)| std::cmp::Reverse(values.iter().copied().max()));
    let mut rest = [0u64; N];
    for (_, values) in stacks.drain(most.min(stacks.len())..) {
        for (sum, value) in rest.iter_mut().zip(values) {
            *sum = sum.saturating_add(value);
        }
    }
    let mut making = Making::begin(&types);
    for (names, values) in &stacks {
        let frames = names.iter().rev().map(|name| making.tables.named(name));
        let location_id = frames.collect();
        making.samples.push(Sample {
            location_id,
            value: values.map(signed).to_vec(),
        });
    }
    let is_empty = making.samples.is_empty();
    let mut profile = making.finish(moment, 1);
    if rest.iter().any(|value| *value > 0) {
        profile.add_other(rest.map(signed).to_vec());
    }
    (!is_empty).then_some(profile)
}

fn of_sites<'s>(
    sites: &'s Sites,
    samples: impl Iterator<Item = (&'s Site, [u64; VALUES.len()])>,
    time_ns: u64,
    duration_ns: u64,
) -> Profile {
    let mut making = Making::begin(&VALUES.map(|(name, unit, _)| (name, unit)));
    // Locations of frames, by their numbers.
    let mut known: HashMap<u32, u64> = HashMap::new();
    for (site, values) in samples {
        let mut location_id = Vec::with_capacity(site.stack.len().max(1));
        for number in site.stack.iter() {
            let Some(frame) = sites.frames.get(*number as usize) else {
                continue;
            };
            let location = known.entry(*number);
            location_id.push(*location.or_insert_with(|| making.tables.location(frame)));
        }
        if location_id.is_empty() {
            location_id.push(making.tables.named(NO_FUNCTION));
        }
        making.samples.push(Sample {
            location_id,
            value: values.map(signed).to_vec(),
        });
    }
    let moment = Moment {
        time_ns,
        duration_ns,
    };
    let mut profile = making.finish(moment, sites.mean_bytes);
    profile.default_sample_type = profile.sample_type[1].kind;
    profile
}

/// A profile as the bytes of a file.
pub(in crate::export) fn packed(profile: &Profile) -> std::io::Result<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(&profile.encode_to_vec())?;
    packer.finish()
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A profile under construction.
struct Making {
    tables: Tables,
    sample_type: Vec<ValueType>,
    samples: Vec<Sample>,
    period_type: ValueType,
}

impl Making {
    fn begin(types: &[(&str, &str)]) -> Self {
        let mut tables = Tables::default();
        // The first string is the empty one.
        tables.string("");
        let mut value_type = |(name, unit): &(&str, &str)| ValueType {
            kind: tables.string(name),
            unit: tables.string(unit),
        };
        let period_type = value_type(&("space", "bytes"));
        Self {
            sample_type: types.iter().map(value_type).collect(),
            tables,
            samples: Vec::new(),
            period_type,
        }
    }

    fn finish(self, moment: Moment, period: u64) -> Profile {
        Profile {
            sample: self.samples,
            sample_type: self.sample_type,
            location: self.tables.locations,
            function: self.tables.functions,
            string_table: self.tables.strings,
            time_nanos: signed(moment.time_ns),
            duration_nanos: signed(moment.duration_ns),
            period_type: Some(self.period_type),
            period: signed(period),
            default_sample_type: 0,
        }
    }
}

/// The label for the stacks beyond the limit.
const OTHERS: &str = "(others)";

impl Profile {
    /// Adds the sum of all stacks that are not listed separately.
    fn add_other(&mut self, value: Vec<i64>) {
        let name = self.string_table.len() as i64;
        self.string_table.push(OTHERS.to_owned());
        let function_id = self.function.len() as u64 + 1;
        self.function.push(Function {
            id: function_id,
            name,
            system_name: name,
            filename: 0,
        });
        let id = self.location.len() as u64 + 1;
        self.location.push(Location {
            id,
            line: vec![Line {
                function_id,
                line: 0,
            }],
        });
        self.sample.push(Sample {
            location_id: vec![id],
            value,
        });
    }
}

/// The tables that samples refer to.
#[derive(Default)]
struct Tables {
    strings: Vec<String>,
    string_numbers: HashMap<String, i64>,
    functions: Vec<Function>,
    function_numbers: HashMap<(i64, i64), u64>,
    locations: Vec<Location>,
    /// Locations of functions that have a name alone.
    named: HashMap<String, u64>,
}

impl Tables {
    fn string(&mut self, text: &str) -> i64 {
        if let Some(number) = self.string_numbers.get(text) {
            return *number;
        }
        let number = self.strings.len() as i64;
        self.strings.push(text.to_owned());
        self.string_numbers.insert(text.to_owned(), number);
        number
    }

    fn named(&mut self, name: &str) -> u64 {
        if let Some(known) = self.named.get(name) {
            return *known;
        }
        let id = self.location(&Frame {
            function: name.into(),
            ..Frame::unreadable(profiler_core::sites::Language::Python)
        });
        self.named.insert(name.to_owned(), id);
        id
    }

    fn location(&mut self, frame: &Frame) -> u64 {
        let (name, filename) = (self.string(&frame.function), self.string(&frame.file));
        let next = self.functions.len() as u64 + 1;
        let number = *self
            .function_numbers
            .entry((name, filename))
            .or_insert(next);
        if number == next {
            self.functions.push(Function {
                id: next,
                name,
                system_name: name,
                filename,
            });
        }
        let id = self.locations.len() as u64 + 1;
        self.locations.push(Location {
            id,
            line: vec![Line {
                function_id: number,
                line: frame.line.map_or(0, i64::from),
            }],
        });
        id
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn a_profile_has_the_stacks_innermost_first_and_four_figures_of_each() {
        let packed = pprof(&super::super::tests::sites(), 7).expect("in memory");
        let mut message = Vec::new();
        GzDecoder::new(&*packed)
            .read_to_end(&mut message)
            .expect("gzip");
        let read = Profile::decode(&*message).expect("a message");
        let text = |number: i64| read.string_table[number as usize].as_str();
        assert_eq!(text(0), "");
        let types: Vec<_> = read
            .sample_type
            .iter()
            .map(|t| (text(t.kind), text(t.unit)))
            .collect();
        assert_eq!(types, VALUES.map(|(name, unit, _)| (name, unit)));
        assert_eq!(text(read.default_sample_type), "alloc_space");
        let names = |sample: &Sample| -> Vec<String> {
            let lines = sample
                .location_id
                .iter()
                .map(|id| read.location[*id as usize - 1].line[0]);
            lines
                .map(|line| {
                    let function = read.function[line.function_id as usize - 1];
                    format!("{}:{}", text(function.name), line.line)
                })
                .collect()
        };
        let stacks: Vec<_> = read.sample.iter().map(names).collect();
        let none = format!("{NO_FUNCTION}:0");
        assert_eq!(
            stacks,
            [vec!["Box.make:7", "run:3"], vec!["run:3"], vec![&*none]]
        );
        let values: Vec<_> = read
            .sample
            .iter()
            .map(|sample| sample.value.clone())
            .collect();
        assert_eq!(values[0], [2, 12288, 1, 4096]);
        assert_eq!((read.time_nanos, read.duration_nanos), (7, 5_000_000_000));
    }

    fn text(profile: &Profile, number: i64) -> &str {
        &profile.string_table[number as usize]
    }

    /// The innermost function of a stack, and its figures.
    fn innermost(profile: &Profile) -> Vec<(&str, Vec<i64>)> {
        let of = |sample: &Sample| {
            let location = &profile.location[sample.location_id[0] as usize - 1];
            let function = profile.function[location.line[0].function_id as usize - 1];
            (text(profile, function.name), sample.value.clone())
        };
        profile.sample.iter().map(of).collect()
    }

    #[test]
    fn the_second_profile_has_what_was_allocated_since_the_first_and_all_that_lives() {
        let mut sites = super::super::tests::sites();
        let moment = Moment::default();
        let (first, allocated) = pprof_since(&sites, &Allocated::new(), moment, 9);
        let first = first.expect("there is something");
        let own = innermost(&first);
        let made = own.iter().find(|(name, _)| *name == "Box.make");
        assert_eq!(made.expect("there").1, [2, 12288, 1, 4096]);
        sites.sites[0].figures.bytes.value += 5000.0;
        let (second, _) = pprof_since(&sites, &allocated, moment, 9);
        let second = second.expect("something lives");
        let made = innermost(&second)
            .into_iter()
            .find(|(name, _)| *name == "Box.make");
        assert_eq!(made.expect("there").1, [0, 5000, 1, 4096]);
    }

    #[test]
    fn stacks_that_are_too_many_are_added_up() {
        let sites = super::super::tests::sites();
        let moment = Moment::default();
        let whole = pprof_since(&sites, &Allocated::new(), moment, 9).0;
        let cut = pprof_since(&sites, &Allocated::new(), moment, 1).0;
        let sums = |profile: &Profile| {
            let mut sums = [0; VALUES.len()];
            for sample in &profile.sample {
                sums.iter_mut()
                    .zip(&sample.value)
                    .for_each(|(sum, value)| *sum += value);
            }
            sums
        };
        let (whole, cut) = (whole.expect("some"), cut.expect("some"));
        assert_eq!(sums(&whole), sums(&cut));
        let names: Vec<&str> = innermost(&cut).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["Box.make", OTHERS]);
        let stacks = (0..5).map(|n| (vec!["a".to_owned(), n.to_string()], [n]));
        let named = of_names([("resident", "bytes")], stacks.collect(), moment, 2);
        let named = named.expect("some");
        let figures: Vec<_> = innermost(&named);
        assert_eq!(figures, [("4", vec![4]), ("3", vec![3]), (OTHERS, vec![3])]);
        let nothing = of_names([("resident", "bytes")], vec![(vec![], [0])], moment, 2);
        assert!(nothing.is_none());
    }
}
