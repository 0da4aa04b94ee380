//! Call sites of allocations, in the file formats of tools that show stacks.

mod pprof;

use std::collections::HashMap;
use std::fmt::Write;

use profiler_core::sites::{Direction, Frame, Site, SiteFigures, Sites, StackEnd, end_name};
use serde::Serialize;

pub(super) use self::pprof::{
    Allocated, Moment, NamedStack, Profile, of_names, packed, pprof, pprof_since,
};

/// The label of a stack without a function.
const NO_FUNCTION: &str = "(no Python function)";

/// Stacks with the bytes that were allocated there, the outermost function first: what flame graph
/// scripts read.
pub(super) fn folded(sites: &Sites) -> Vec<u8> {
    let mut lines = String::new();
    // Others only grew.
    let allocating = sites.sites.iter().filter(|site| site.figures.samples > 0);
    for site in allocating {
        let steps = site.steps(sites, Direction::Inwards);
        // A semicolon would be the end of the function.
        let names: Vec<String> = steps
            .map(|step| sites.label(step).replace(';', ":"))
            .collect();
        let bytes = site.figures.bytes.rounded();
        let _never_fails = writeln!(lines, "{} {bytes}", names.join(";"));
    }
    lines.into_bytes()
}

#[derive(Serialize)]
struct Speedscope<'s> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: &'static str,
    name: &'static str,
    shared: Shared<'s>,
    profiles: Vec<SpeedscopeProfile>,
}

#[derive(Serialize)]
struct Shared<'s> {
    frames: Vec<SharedFrame<'s>>,
}

#[derive(Serialize)]
struct SharedFrame<'s> {
    name: &'s str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpeedscopeProfile {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'static str,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    samples: Vec<Vec<usize>>,
    weights: Vec<u64>,
}

/// A speedscope file: a profile of allocated bytes, one of allocations, one of bytes not seen being
/// freed, two of what the last walk found, and two of growth.
pub(super) fn speedscope(sites: &Sites) -> Result<Vec<u8>, serde_json::Error> {
    let own = |name| SharedFrame {
        name,
        file: None,
        line: None,
    };
    let mut frames: Vec<SharedFrame<'_>> = sites.frames.iter().map(shared).collect();
    let mut own_frames: HashMap<String, usize> = HashMap::new();
    let ends = StackEnd::ALL.into_iter().filter_map(end_name);
    for name in ends.chain([NO_FUNCTION]) {
        own_frames.insert(format!("({name})"), frames.len());
        own_frames.insert(name.to_owned(), frames.len());
        frames.push(own(name));
    }
    let stacks: Vec<Vec<usize>> = sites
        .sites
        .iter()
        .map(|site| stack(site, &own_frames))
        .collect();
    let profile = |name, unit, of: fn(&SiteFigures) -> u64| {
        let figures = sites.sites.iter().map(|site| of(&site.figures));
        let weights: Vec<u64> = figures.collect();
        SpeedscopeProfile {
            kind: "sampled",
            name,
            unit,
            start_value: 0,
            end_value: weights
                .iter()
                .fold(0, |sum: u64, one| sum.saturating_add(*one)),
            samples: stacks.clone(),
            weights,
        }
    };
    let mut profiles = vec![
        profile("allocated bytes", "bytes", |of| of.bytes.rounded()),
        profile("allocations", "none", |of| of.allocations.rounded()),
        profile("bytes not freed, as far as recorded", "bytes", |of| {
            of.live_bytes.rounded()
        }),
    ];
    if sites.walk.is_some() {
        profiles.push(profile("bytes live at the last walk", "bytes", |of| {
            of.at_walk.bytes.rounded()
        }));
        let pinned = "free bytes that those pin";
        profiles.push(profile(pinned, "bytes", |of| {
            of.at_walk.pinned_free_bytes.rounded()
        }));
    }
    if sites.growth.is_some() {
        profiles.push(profile("bytes got from the kernel", "bytes", |of| {
            of.growth.grown.rounded()
        }));
        profiles.push(profile("bytes of pages touched first", "bytes", |of| {
            of.growth.touched.rounded()
        }));
    }
    serde_json::to_vec(&Speedscope {
        schema: "https://www.speedscope.app/file-format-schema.json",
        exporter: concat!("fragscope ", env!("CARGO_PKG_VERSION")),
        name: "allocations by call site",
        profiles,
        shared: Shared { frames },
    })
}

fn shared(frame: &Frame) -> SharedFrame<'_> {
    SharedFrame {
        name: &frame.function,
        file: Some(&*frame.file).filter(|file| !file.is_empty()),
        line: frame.line,
    }
}

/// A stack as numbers of frames, the outermost first.
fn stack(site: &Site, own: &HashMap<String, usize>) -> Vec<usize> {
    let cut = end_name(site.end).filter(|_| site.end != StackEnd::NoThreadState);
    let none = site.stack.is_empty().then_some(NO_FUNCTION);
    let first = cut
        .into_iter()
        .chain(none)
        .filter_map(|name| own.get(name).copied());
    first
        .chain(site.stack.iter().rev().map(|number| *number as usize))
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use profiler_core::addr::RemoteAddr;
    use profiler_core::sites::{Allocation, Language, MmapThreshold, SiteTable, SitesWalk};
    use serde_json::Value;

    use super::*;

    pub(in crate::export) fn sites() -> Sites {
        let frame = |function: &str, line| Frame {
            language: Language::Python,
            function: function.into(),
            file: "/app/a;b.py".into(),
            line,
        };
        let mut table = SiteTable::default();
        let (inner, outer) = (frame("Box.make", Some(7)), frame("run", Some(3)));
        let stack = || vec![inner.clone(), outer.clone()];
        // Sampled with certainty, so that the estimates are exact.
        let certain = |block, bytes| Allocation {
            block: RemoteAddr::new(block),
            bytes,
            mean_bytes: 1,
            ..Allocation::default()
        };
        for (block, bytes) in [(1, 4096), (2, 8192)] {
            table.sampled(certain(block, bytes), stack(), StackEnd::Whole);
        }
        table.gone(RemoteAddr::new(2), 1);
        table.sampled(certain(3, 4096), vec![outer.clone()], StackEnd::Cut);
        table.sampled(certain(4, 1024), Vec::new(), StackEnd::NoThreadState);
        let mut sites = Sites {
            mean_bytes: 1,
            armed_ns: 5_000_000_000,
            walk: Some(SitesWalk {
                taken_at_ns: 1_700_000_000_000_000_000,
                looked_up: 3,
                found: 1,
                unreadable: 1,
            }),
            ..table.sites()
        };
        let found = &mut sites.sites[0].figures.at_walk;
        (found.bytes.value, found.blocks.value) = (4096.0, 1.0);
        found.pinned_free_bytes.value = 512.0;
        found.by_age[1] = 4096.0;
        sites.mmap_threshold = Some(MmapThreshold {
            bytes: 1 << 20,
            raised_by: Some((sites.sites[0].stack.clone(), StackEnd::Whole)),
        });
        sites
    }

    #[test]
    fn folded_stacks_begin_outside_and_end_with_their_bytes() {
        let lines = String::from_utf8(folded(&sites())).expect("text");
        assert_eq!(
            lines,
            "run (/app/a:b.py:3);Box.make (/app/a:b.py:7) 12288\n\
             (cut);run (/app/a:b.py:3) 4096\n\
             (no Python function) 1024\n"
        );
    }

    #[test]
    fn a_file_of_speedscope_has_a_weight_for_each_stack_and_names_for_all_of_it() {
        let made = speedscope(&sites()).expect("JSON");
        let file: Value = serde_json::from_slice(&made).expect("JSON");
        let frames = file["shared"]["frames"].as_array().expect("frames");
        let bytes = &file["profiles"][0];
        assert_eq!(bytes["weights"], serde_json::json!([12288, 4096, 1024]));
        assert_eq!(bytes["endValue"], 12288 + 4096 + 1024);
        let names = |stack: &Value| -> Vec<String> {
            let numbers = stack.as_array().expect("numbers").iter();
            let frame = |number: &Value| &frames[number.as_u64().expect("a number") as usize];
            numbers
                .map(|n| frame(n)["name"].as_str().expect("a name").to_owned())
                .collect()
        };
        let stacks: Vec<_> = bytes["samples"]
            .as_array()
            .expect("stacks")
            .iter()
            .map(names)
            .collect();
        assert_eq!(
            stacks,
            [
                vec!["run", "Box.make"],
                vec!["cut", "run"],
                vec![NO_FUNCTION]
            ]
        );
        let weights = |index: usize| file["profiles"][index]["weights"].clone();
        assert_eq!(weights(1), serde_json::json!([2, 1, 1]));
        assert_eq!(weights(2), serde_json::json!([4096, 4096, 1024]));
        assert_eq!(weights(3), serde_json::json!([4096, 0, 0]));
        assert_eq!(weights(4), serde_json::json!([512, 0, 0]));
    }

    #[test]
    fn native_functions_have_their_library_in_every_file() {
        let native = Frame::native(
            "arrow::PoolBuffer::Resize".into(),
            "/lib/libarrow.so".into(),
        );
        let python = Frame {
            language: Language::Python,
            function: "load".into(),
            file: "app.py".into(),
            line: Some(3),
        };
        let mut table = SiteTable::default();
        let allocation = Allocation {
            block: RemoteAddr::new(1),
            bytes: 4096,
            mean_bytes: 1,
            ..Allocation::default()
        };
        table.sampled(allocation, vec![native, python], StackEnd::Whole);
        let sites = table.sites();
        let lines = String::from_utf8(folded(&sites)).expect("text");
        assert_eq!(
            lines,
            "load (app.py:3);arrow::PoolBuffer::Resize (/lib/libarrow.so) 4096\n"
        );
        let file: Value = serde_json::from_slice(&speedscope(&sites).expect("JSON")).expect("JSON");
        let frame = &file["shared"]["frames"][0];
        assert_eq!(frame["name"], "arrow::PoolBuffer::Resize");
        assert_eq!(frame["file"], "/lib/libarrow.so");
        assert_eq!(frame["line"], Value::Null);
    }
}
