//! The view as a text for people: what `snapshot` prints.

use std::fmt::Write;

use profiler_core::report::{FragReport, HeapReport, LedgerRow};
use profiler_core::units::{bytes, count, percent};
use profiler_core::view::View;

use super::json::{confidence, rfc3339};

/// Columns that the text keeps to.
const WIDTH: usize = 100;
/// The widest bar, in characters.
const BAR: usize = 30;
/// Size classes shown: those with the most bytes.
const CLASSES: usize = 12;

/// A report of at most 100 columns, without colour.
pub fn text(view: &View) -> String {
    let report = &*view.report;
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_all(&mut out, view, report);
    out
}

fn write_all(out: &mut String, view: &View, report: &FragReport) -> std::fmt::Result {
    let target = &report.target;
    writeln!(
        out,
        "{} (pid {}), {} threads",
        target.comm, target.pid, target.threads
    )?;
    let command = target.cmdline.join(" ");
    writeln!(
        out,
        "  {}",
        command.chars().take(WIDTH - 2).collect::<String>()
    )?;
    let name = |of: &Option<String>| of.clone().unwrap_or_else(|| "unknown".into());
    let python = target
        .python
        .clone()
        .unwrap_or_else(|| "not a Python process".into());
    writeln!(
        out,
        "  {python}, libc {}, malloc {}",
        name(&target.libc),
        name(&target.malloc)
    )?;
    writeln!(out, "  taken at {}", rfc3339(report.taken_at_ns))?;
    writeln!(out, "\n{}\n", report.verdict)?;

    let (rss, swap) = (report.kernel.rss_bytes, report.kernel.swap_bytes);
    writeln!(out, "RSS {}, swap {}: where it is", bytes(rss), bytes(swap))?;
    let rows = report
        .ledger
        .iter()
        .filter(|r| r.resident_bytes + r.swapped_bytes > 0);
    for row in rows {
        ledger_row(out, row, rss)?;
    }
    for heap in &report.heaps {
        writeln!(out)?;
        heap_lines(out, heap)?;
    }
    occupancy(out, report)?;
    size_classes(out, report)?;
    writeln!(out, "\nMetrics")?;
    for metric in &report.metrics {
        let value = match metric.value {
            None => "unknown".to_owned(),
            Some(value) if metric.name.ends_with("_bytes") => bytes(value as u64),
            Some(value) if value.fract() == 0.0 => count(value as u64),
            Some(value) => format!("{value:.3}"),
        };
        writeln!(out, "  {:<26} {:>10}", metric.name, value)?;
    }
    writeln!(out, "\nWhy\n")?;
    wrap(out, &report.explanation)?;
    writeln!(out)?;
    sureness(out, view, report)
}

fn ledger_row(out: &mut String, row: &LedgerRow, rss: u64) -> std::fmt::Result {
    let filled = (row.resident_bytes as f64 / rss.max(1) as f64 * BAR as f64).round() as usize;
    write!(
        out,
        "  {:<18} {:>10} {:>7}  {:<BAR$}",
        row.class.name(),
        bytes(row.resident_bytes),
        percent(row.resident_bytes, rss),
        "#".repeat(filled.min(BAR)),
    )?;
    if row.swapped_bytes > 0 {
        write!(out, " swapped {}", bytes(row.swapped_bytes))?;
    }
    if row.shared_bytes > 0 {
        write!(out, " shared {}", bytes(row.shared_bytes))?;
    }
    trim_end(out);
    writeln!(out)
}

fn heap_lines(out: &mut String, heap: &HeapReport) -> std::fmt::Result {
    writeln!(
        out,
        "{} {} ({} confidence): {} live blocks of {}, free {}, cached {}, large mapped {} of {}",
        heap.allocator.name(),
        heap.version,
        confidence(heap.confidence),
        count(heap.live_blocks),
        bytes(heap.live_bytes),
        bytes(heap.free_bytes),
        bytes(heap.cached_bytes),
        heap.mapped_large_blocks,
        bytes(heap.mapped_large_bytes),
    )?;
    writeln!(
        out,
        "  {:<10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "arena", "system", "resident", "live", "free", "cached", "top", "trimmable"
    )?;
    for of in &heap.arenas {
        let arena = &of.arena;
        writeln!(
            out,
            "  {:<10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            format!("{} {}", arena.kind, arena.id),
            bytes(arena.system_bytes),
            bytes(of.resident_bytes),
            bytes(arena.live_bytes),
            bytes(arena.free_bytes),
            bytes(arena.cached_bytes),
            bytes(arena.top_bytes),
            bytes(of.trimmable_bytes),
        )?;
    }
    for check in heap.checks.iter().filter(|check| !check.holds()) {
        writeln!(
            out,
            "  does not agree: {} is {} by the allocator's account, {} by the walk",
            check.name, check.expected, check.found
        )?;
    }
    Ok(())
}

fn occupancy(out: &mut String, report: &FragReport) -> std::fmt::Result {
    for heap in &report.heaps {
        let rows = || {
            report
                .page_occupancy
                .iter()
                .filter(|r| r.allocator == heap.allocator)
        };
        let all: u64 = rows().map(|row| row.resident_pages).sum();
        writeln!(
            out,
            "\n{}: resident pages by live bytes",
            heap.allocator.name()
        )?;
        for row in rows() {
            let filled = row.resident_pages as f64 / all.max(1) as f64 * BAR as f64;
            let range = if row.min_bytes == row.max_bytes {
                row.min_bytes.to_string()
            } else {
                format!("{}-{}", row.min_bytes, row.max_bytes)
            };
            write!(
                out,
                "  {range:>10} {:>10} {:>7}  {:<BAR$}",
                count(row.resident_pages),
                percent(row.resident_pages, all),
                "#".repeat(filled.round() as usize),
            )?;
            if row.swapped_pages > 0 {
                write!(out, " swapped {}", count(row.swapped_pages))?;
            }
            trim_end(out);
            writeln!(out)?;
        }
    }
    Ok(())
}

fn size_classes(out: &mut String, report: &FragReport) -> std::fmt::Result {
    let mut rows: Vec<_> = report.size_classes.iter().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.live_bytes + row.free_bytes));
    writeln!(
        out,
        "\nSize classes with the most bytes ({} of {})",
        rows.len().min(CLASSES),
        rows.len()
    )?;
    writeln!(
        out,
        "  {:<10} {:>12} {:>12} {:>10} {:>12} {:>10}",
        "allocator", "up to bytes", "live blocks", "live", "free blocks", "free"
    )?;
    for row in rows.into_iter().take(CLASSES) {
        writeln!(
            out,
            "  {:<10} {:>12} {:>12} {:>10} {:>12} {:>10}",
            row.allocator.name(),
            row.class.upper_bytes(),
            count(row.live_blocks),
            bytes(row.live_bytes),
            count(row.free_blocks),
            bytes(row.free_bytes),
        )?;
    }
    Ok(())
}

fn sureness(out: &mut String, view: &View, report: &FragReport) -> std::fmt::Result {
    let of = &report.completeness;
    if of.stopped {
        write!(out, "Stopped for {:.1} ms", of.stop_ns as f64 / 1e6)?;
    } else {
        write!(
            out,
            "Walked while running ({:.1} ms)",
            of.walk_ns as f64 / 1e6
        )?;
    }
    writeln!(
        out,
        "; layout confidence {}; unreadable {}.",
        confidence(of.layout_confidence),
        bytes(of.unreadable_bytes)
    )?;
    for defect in &of.defects {
        wrap(out, &format!("- {}", defect.what))?;
    }
    for notice in &view.notices {
        wrap(out, &format!("- {notice}"))?;
    }
    Ok(())
}

/// Writes paragraphs broken at [`WIDTH`].
fn wrap(out: &mut String, text: &str) -> std::fmt::Result {
    for paragraph in text.split('\n') {
        let mut column = 0;
        for word in paragraph.split_whitespace() {
            let length = word.chars().count();
            if column > 0 && column + 1 + length > WIDTH {
                writeln!(out)?;
                column = 0;
            }
            if column > 0 {
                write!(out, " ")?;
                column += 1;
            }
            write!(out, "{word}")?;
            column += length;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn trim_end(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
}
