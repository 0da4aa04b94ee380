//! The format of pprof: a message of Protocol Buffers, packed by gzip
//! (<https://github.com/google/pprof/blob/main/proto/profile.proto>, of which this is what is written).

use std::collections::HashMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use profiler_core::sites::{Estimate, Frame, SiteFigures, Sites};
use prost::Message;

use super::NO_FUNCTION;

#[derive(Clone, PartialEq, Message)]
struct Profile {
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
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(&profile(sites, taken_at_ns).encode_to_vec())?;
    packer.finish()
}

fn profile(sites: &Sites, taken_at_ns: u64) -> Profile {
    let mut tables = Tables::default();
    // The first string is the empty one.
    tables.string("");
    let [sample_type, unit] = ["alloc_space", "bytes"].map(|name| tables.string(name));
    let space = tables.string("space");
    let types = VALUES.map(|(name, unit, _)| ValueType {
        kind: tables.string(name),
        unit: tables.string(unit),
    });
    for frame in &sites.frames {
        tables.location(frame);
    }
    let no_function = tables.location(&Frame {
        function: NO_FUNCTION.into(),
        ..Frame::unreadable(profiler_core::sites::Language::Python)
    });
    let samples = sites.sites.iter().map(|site| Sample {
        location_id: match site.stack.is_empty() {
            true => vec![no_function],
            // Locations have the numbers of frames, from 1 on.
            false => site
                .stack
                .iter()
                .map(|number| u64::from(*number) + 1)
                .collect(),
        },
        value: VALUES
            .iter()
            .map(|(_, _, figure)| signed(figure(sites, &site.figures).rounded()))
            .collect(),
    });
    Profile {
        sample: samples.collect(),
        sample_type: types.to_vec(),
        location: tables.locations,
        function: tables.functions,
        string_table: tables.strings,
        time_nanos: signed(taken_at_ns),
        duration_nanos: signed(sites.armed_ns),
        period_type: Some(ValueType { kind: space, unit }),
        period: signed(sites.mean_bytes),
        default_sample_type: sample_type,
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The tables that samples refer to.
#[derive(Default)]
struct Tables {
    strings: Vec<String>,
    string_numbers: HashMap<String, i64>,
    functions: Vec<Function>,
    function_numbers: HashMap<(i64, i64), u64>,
    locations: Vec<Location>,
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
}
