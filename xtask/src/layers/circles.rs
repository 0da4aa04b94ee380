//! Cycles between the top-level modules of a crate: modules that need each other cannot be read,
//! tested or moved separately.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::{Source, Violation};

/// Which module refers to which, and the first place where it does.
type Edges<'a> = BTreeMap<&'a str, BTreeMap<&'a str, (&'a str, usize)>>;

/// Circles that are there still, by crate: this list only shrinks. The recorder and the player are each one
/// program that runs inside of another's, whose parts wait for each other.
const REMAINING: [(&str, &[&str]); 6] = [
    ("profiler_record", &["open", "status"]),
    ("profiler_record", &["ring", "thread", "wait"]),
    ("profiler_replay", &["play", "process", "thread"]),
    (
        "profiler_target",
        &["allocators", "elf", "identity", "known_files"],
    ),
    ("profiler_target", &["elf", "file_reader"]),
    ("profiler_target", &["file_reader", "forked", "guard"]),
];

/// The places where top-level modules of one crate depend on each other, except for the known
/// remaining circles; and which of those no longer exist.
///
/// Each step of a circle from one module to the next is reported: any of them may be the one to
/// cut.
pub(super) fn circles(krate: &str, sources: &[Source]) -> Vec<Violation> {
    circles_but(&REMAINING, krate, sources)
}

pub(super) fn circles_but(
    remaining: &[(&str, &[&str])],
    krate: &str,
    sources: &[Source],
) -> Vec<Violation> {
    let edges = edges(sources);
    let remaining: Vec<&[&str]> = remaining
        .iter()
        .filter(|(of, _)| *of == krate)
        .map(|(_, modules)| *modules)
        .collect();
    let mut found = Vec::new();
    for modules in &remaining {
        let is_in_one = |module: &&&str| {
            let mut others = modules.iter().filter(|other| other != module);
            others.any(|other| {
                way(&edges, module, other).is_some() && way(&edges, other, module).is_some()
            })
        };
        for cut in modules.iter().filter(|module| !is_in_one(module)) {
            found.push(Violation {
                file: krate.to_owned(),
                line: 1,
                what: format!("{cut} is in no circle any more: take it from the list of those"),
            });
        }
    }
    for (from, targets) in &edges {
        for (to, (file, line)) in targets {
            let remains = |modules: &&[&str]| modules.contains(from) && modules.contains(to);
            if remaining.iter().any(remains) {
                continue;
            }
            if let Some(back) = way(&edges, to, from) {
                found.push(Violation {
                    file: (*file).to_owned(),
                    line: *line,
                    what: format!(
                        "modules in a circle: {from} names {to}, and back by {}",
                        back.join(" -> ")
                    ),
                });
            }
        }
    }
    found
}

fn edges(sources: &[Source]) -> Edges<'_> {
    let modules: BTreeSet<&str> = sources
        .iter()
        .filter_map(|source| source.module.first())
        .map(String::as_str)
        .collect();
    let mut edges = Edges::new();
    for source in sources {
        let Some(from) = source.module.first() else {
            continue;
        };
        for named in &source.references.named {
            let [root, to, ..] = named.path.as_slice() else {
                continue;
            };
            if root == "crate" && to != from && modules.contains(to.as_str()) {
                let targets = edges.entry(from).or_default();
                targets.entry(to).or_insert((&source.file, named.line));
            }
        }
    }
    edges
}

/// The shortest way from one module to another, both ends included.
fn way<'a>(edges: &Edges<'a>, from: &'a str, to: &'a str) -> Option<Vec<&'a str>> {
    let mut ways = vec![vec![from]];
    let mut seen = BTreeSet::from([from]);
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = *way.last()?;
            if last == to {
                return Some(way);
            }
            for &next in edges.get(last).into_iter().flat_map(BTreeMap::keys) {
                if seen.insert(next) {
                    longer.push([way.as_slice(), &[next]].concat());
                }
            }
        }
        ways = longer;
    }
    None
}
