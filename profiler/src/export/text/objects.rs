//! Python's objects in the report for people: types, and who holds them.

use profiler_core::columns::{cells, headings};
use profiler_core::objects::{Census, Holder, LayoutBasis, NativeRow, PathStep, TypeRow};
use profiler_core::units::{bytes, count, nanoseconds, percent};

use super::Text;

/// Types, holders and size classes shown before the rest is only counted.
const TOP_TYPES: usize = 16;
const TOP_HOLDERS: usize = 16;
const TOP_CLASSES: usize = 4;
/// Names shown of those who share something.
const TOP_SHARERS: usize = 3;

pub(super) fn objects(text: &mut Text, census: &Census) {
    text.title(&format!(
        "OBJECTS of Python: {} of {} in live blocks named ({})",
        bytes(census.typed_bytes()),
        bytes(census.live.bytes),
        percent(census.typed_bytes(), census.live.bytes)
    ));
    text.line(&format!("  {} type", headings(&TypeRow::SHOWN, " ")));
    for row in census.types.iter().take(TOP_TYPES) {
        text.line(&format!(
            "  {} {}",
            cells(&TypeRow::SHOWN, row, " "),
            row.name
        ));
    }
    if let Some(rest) = census.types.len().checked_sub(TOP_TYPES + 1) {
        text.line(&format!("  and {} more types (--json)", rest + 1));
    }
    native(text, census);
    text.blank();
    holders(text, census);
    basis(text, census);
    text.blank();
}

fn native(text: &mut Text, census: &Census) {
    if census.native.is_empty() {
        return;
    }
    let titles = headings(&NativeRow::COLUMNS, " ");
    let up_to = NativeRow::UP_TO.heading("");
    text.line(&format!("  {titles} {up_to} of blocks that no object owns"));
    for row in census.native.iter().take(TOP_CLASSES) {
        text.line(&format!(
            "  {} {} {}",
            cells(&NativeRow::COLUMNS, row, " "),
            NativeRow::UP_TO.cell(row),
            row.allocator.name()
        ));
    }
}

fn holders(text: &mut Text, census: &Census) {
    text.title("WHO HOLDS THEM");
    let heading = Holder::RETAINED.heading("");
    text.line(&format!("  {heading} would go with"));
    for holder in census.holders.iter().take(TOP_HOLDERS) {
        let mut name = holder.name.clone();
        if let Some((first, more)) = holder.shared_with.split_first() {
            name = format!("{name}, shared with {first}");
            let shown = more.len().min(TOP_SHARERS - 1);
            for other in &more[..shown] {
                name = format!("{name}, {other}");
            }
            if more.len() > shown {
                name = format!("{name} and {} more", more.len() - shown);
            }
        }
        text.line(&format!("  {} {name}", Holder::RETAINED.cell(holder)));
        let way = way(holder);
        if !way.is_empty() {
            text.paragraph("             ", &way);
        }
    }
    text.line(&format!(
        "  {} are held by names of the program, {} have no root that was found",
        bytes(census.held_by_names.bytes),
        bytes(census.unreached.bytes)
    ));
}

/// The way from a name to where its bytes spread out: `dict of 412,003 → app.Session`.
fn way(holder: &Holder) -> String {
    let mut parts: Vec<String> = holder.path.iter().map(step).collect();
    parts.extend(holder.item_type.clone());
    parts.join(" → ")
}

fn step(step: &PathStep) -> String {
    let via = step.via.map_or_else(String::new, |via| format!("{via}: "));
    let length = step.length;
    let length = length.map_or_else(String::new, |length| format!(" of {}", count(length)));
    let times = match step.times {
        0 | 1 => String::new(),
        times => format!(" ({} in a row)", count(times)),
    };
    format!("{via}{}{length}{times}", step.type_name)
}

/// What the figures rest on.
fn basis(text: &mut Text, census: &Census) {
    let (major, minor) = census.python;
    let layout = match census.layout {
        LayoutBasis::Exact => format!("by the layout of CPython {major}.{minor}"),
        LayoutBasis::Newest => format!(
            "CPython {major}.{minor} is newer than what is known, so the newest known layout was used"
        ),
    };
    let moment = match census.exact {
        true => "while the target stood still".to_owned(),
        false => format!(
            "while the target ran on ({} objects had changed meanwhile)",
            count(census.changed)
        ),
    };
    text.paragraph(
        "  ",
        &format!(
            "Read in {} {moment}, {layout}: {} references. Items of lists, tuples, dictionaries and \
             sets are exact; of other objects each word that points to an object counts as a \
             reference. {} are freed objects that Python keeps, {} could not be read.",
            nanoseconds(census.took_ns),
            count(census.references),
            bytes(census.spare.bytes),
            bytes(census.unreadable.bytes)
        ),
    );
    for gap in &census.gaps {
        text.paragraph("  ", gap);
    }
}
