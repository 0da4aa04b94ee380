//! The map of the heap: every page as one byte, for the script that draws it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, PreEscaped, html};
use profiler_core::report::{FragReport, MapExtent, MapPage};
use profiler_core::units::{bytes, count};
use serde::Serialize;

use super::Section;
use super::held::{Held, held};
use super::table::{heading, rest, share};

/// The most cells: in a larger heap a cell is several pages.
const MAX_CELLS: usize = 400_000;
/// The most extents: those with the most pages in memory.
const MAX_EXTENTS: usize = 10_000;
/// Rows of the table next to the map.
const ROWS: usize = 12;

/// A cell without a page in memory or swap; otherwise the low half of its byte says how full it is,
/// in tenths.
const EMPTY: u8 = 15;
const SWAPPED: u8 = 16;
const HUGE: u8 = 32;
const SHARED: u8 = 64;
const BLANK: u8 = 128;

/// The data for the script.
#[derive(Serialize)]
struct Map {
    /// Pages of 4096 bytes in a cell.
    pages_a_cell: usize,
    owners: Vec<String>,
    /// Start (in hexadecimal), pages and owner of each extent.
    extents: Vec<(String, usize, usize)>,
    /// The cells of all extents, one after another: each byte is followed by the number of its
    /// further repetitions in 7-bit groups; all in base 64.
    cells: String,
    held: Option<Held>,
}

/// The map; `None` if no heap was walked.
pub(super) fn section(report: &FragReport) -> Option<Section> {
    if report.map.is_empty() {
        return None;
    }
    let extents = shown(&report.map);
    let map = encoded(&extents, report);
    // Nothing inside a script may look like its end, whatever names it contains.
    let data = serde_json::to_string(&map)
        .unwrap_or_default()
        .replace('<', "\\u003c");
    let body = html! {
        div.map-controls {
            label { "Colour by " select #map-mode {
                option value="fullness" { "live bytes" }
                option value="state" { "state of the page" }
                option value="owner" { "arena" }
                @if let Some(held) = &map.held {
                    option value="held" { "who holds it" @if let Some(age) = &held.age { " (read " (age) " before)" } }
                }
            } }
            button #map-out type="button" aria-label="smaller" { "−" }
            button #map-in type="button" aria-label="larger" { "+" }
            span #map-key { }
        }
        div #heap-map tabindex="0" role="application" aria-label="Map of the heap: arrows move, plus and minus zoom" {
            canvas #map-canvas { }
            div #map-room { }
        }
        p #map-where aria-live="polite" {
            "Each cell is " (bytes(4096 * map.pages_a_cell as u64)) " of a heap, by address."
        }
        noscript { p { "The map is drawn by a script; the table has the same in figures." } }
        (table(report, &extents))
        script #map-data type="application/json" { (PreEscaped(data)) }
    };
    Some(Section {
        id: "map",
        title: "Map of the heap",
        body,
    })
}

fn resident(extent: &MapExtent) -> usize {
    extent
        .pages
        .iter()
        .filter(|page| page.state.is_resident())
        .count()
}

/// The extents that are drawn, by address.
fn shown(all: &[MapExtent]) -> Vec<&MapExtent> {
    let mut extents: Vec<&MapExtent> = all.iter().collect();
    if extents.len() > MAX_EXTENTS {
        extents.sort_by_cached_key(|extent| std::cmp::Reverse(resident(extent)));
        extents.truncate(MAX_EXTENTS);
        extents.sort_by_key(|extent| extent.range.start());
    }
    extents
}

/// Whose an extent is, in words.
fn owner(extent: &MapExtent) -> String {
    format!("{} arena {}", extent.allocator.name(), extent.arena)
}

fn encoded(extents: &[&MapExtent], report: &FragReport) -> Map {
    let pages: usize = extents.iter().map(|extent| extent.pages.len()).sum();
    let pages_a_cell = pages.div_ceil(MAX_CELLS).max(1);
    let mut owners: Vec<String> = Vec::new();
    let mut cells = Vec::new();
    let rows = extents.iter().map(|extent| {
        let name = owner(extent);
        let known = owners.iter().position(|one| *one == name);
        let at = known.unwrap_or_else(|| {
            owners.push(name);
            owners.len() - 1
        });
        cells.extend(extent.pages.chunks(pages_a_cell).map(cell));
        (
            format!("{:x}", extent.range.start().get()),
            extent.pages.len(),
            at,
        )
    });
    let rows = rows.collect();
    Map {
        pages_a_cell,
        owners,
        extents: rows,
        cells: packed(&cells),
        held: held(report, extents, pages_a_cell),
    }
}

/// Several pages as one cell: how full the non-empty ones are, and flags that are set for any of
/// them.
fn cell(pages: &[MapPage]) -> u8 {
    let held = pages.iter().filter(|page| page.state.has_data());
    let (mut count, mut live, mut flags) = (0u32, 0u32, 0u8);
    for page in held {
        count += 1;
        live += u32::from(page.live_bytes);
        for (is_so, flag) in [
            (page.state.is_swapped(), SWAPPED),
            (page.state.is_huge(), HUGE),
            (page.state.is_shared(), SHARED),
            (page.state.is_blank(), BLANK),
        ] {
            flags |= if is_so { flag } else { 0 };
        }
    }
    match count {
        0 => EMPTY,
        // Live memory is never drawn as empty.
        _ => flags | (live * 10).div_ceil(count * 4096).min(10) as u8,
    }
}

/// Cells as the script reads them.
pub(super) fn packed(cells: &[u8]) -> String {
    STANDARD.encode(run_lengths(cells))
}

/// Each byte, and the number of its further repetitions, in groups of 7 bits, the lowest first.
fn run_lengths(cells: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for run in cells.chunk_by(|one, next| one == next) {
        out.push(run[0]);
        let mut more = run.len() - 1;
        while more > 127 {
            out.push(more as u8 & 127 | 128);
            more >>= 7;
        }
        out.push(more as u8);
    }
    out
}

/// The largest extents in figures.
fn table(report: &FragReport, extents: &[&MapExtent]) -> Markup {
    let mut largest: Vec<_> = extents
        .iter()
        .map(|extent| (resident(extent), *extent))
        .collect();
    largest.sort_by_key(|(pages, _)| std::cmp::Reverse(*pages));
    let most = largest.first().map_or(0, |(pages, _)| *pages as u64);
    html! {
        details {
            summary { "The largest extents in figures" }
            div.wide { table {
                thead { tr {
                    th scope="col" { "extent" }
                    th { }
                    (heading("arena", "the allocator, and which of its arenas"))
                    (heading("pages", "pages of 4096 bytes in memory"))
                    (heading("live", "live bytes on them"))
                } }
                tbody {
                    @for (pages, extent) in largest.iter().take(ROWS) {
                        @let live: u64 = extent.pages.iter().filter(|page| page.state.is_resident())
                            .map(|page| u64::from(page.live_bytes)).sum();
                        tr {
                            th scope="row" { (extent.range) }
                            td.bar aria-hidden="true" {
                                span style=(format!("width:{:.2}%", 100.0 * share(*pages as u64, most))) { }
                            }
                            td { (owner(extent)) }
                            td { (count(*pages as u64)) }
                            td { (bytes(live)) }
                        }
                    }
                }
            } }
            (rest(report.map.len(), ROWS.min(largest.len()), "extents"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_as_long_as_they_were() {
        let cells = [vec![3; 1], vec![4; 128], vec![5; 129], vec![6; 70_000]].concat();
        let mut packed = run_lengths(&cells).into_iter();
        let mut read = Vec::new();
        while let Some(cell) = packed.next() {
            let (mut more, mut shift) = (0, 0);
            loop {
                let byte = packed.next().expect("its length");
                more |= usize::from(byte & 127) << shift;
                shift += 7;
                if byte < 128 {
                    break;
                }
            }
            read.extend(std::iter::repeat_n(cell, more + 1));
        }
        assert_eq!(read, cells);
    }
}
