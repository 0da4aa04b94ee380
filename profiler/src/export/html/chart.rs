//! RSS, the heap and live bytes over a session, as SVG.

use maud::{Markup, html};
use profiler_core::units::{bytes, nanoseconds};
use profiler_core::view::{Point, View};

use super::Section;

/// Units of the drawing, which is scaled to the page.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 220.0;
/// Room for the amounts at the left, and for the times below.
const LEFT: f64 = 76.0;
const BELOW: f64 = 20.0;
/// The most points drawn for a curve: more could not be distinguished.
const MAX_POINTS: usize = 800;
/// Lines across.
const LINES: u64 = 4;

/// A curve: its name, its class in the style, and its bytes at a point.
type Curve = (&'static str, &'static str, fn(&Point) -> Option<u64>);

const CURVES: [Curve; 3] = [
    ("RSS", "rss", |point| Some(point.rss_bytes)),
    ("pages of heaps", "heap", |point| point.heap_bytes),
    ("live", "live", Point::shown_live_bytes),
];

/// The curves; `None` for a single moment.
pub(super) fn section(view: &View) -> Option<Section> {
    let (first, last) = view.history.first().zip(view.history.last())?;
    let span = last.time_ns.saturating_sub(first.time_ns);
    if span == 0 {
        return None;
    }
    let step = view.history.len().div_ceil(MAX_POINTS);
    let mut points: Vec<&Point> = view.history.iter().step_by(step).collect();
    points.push(last);
    let most = points
        .iter()
        .map(|point| point.rss_bytes.max(point.heap_bytes.unwrap_or(0)));
    let top = most.max().unwrap_or(0).max(1) as f64 * 1.05;
    let x = |time_ns: u64| {
        let part = time_ns.saturating_sub(first.time_ns) as f64 / span as f64;
        LEFT + part * (WIDTH - LEFT)
    };
    let y = |bytes: u64| (HEIGHT - BELOW) * (1.0 - bytes as f64 / top);
    let line = |of: fn(&Point) -> Option<u64>| {
        let known = points
            .iter()
            .filter_map(|point| Some((point.time_ns, of(point)?)));
        let places = known.map(|(time, bytes)| format!("{:.1},{:.1}", x(time), y(bytes)));
        places.collect::<Vec<_>>().join(" ")
    };
    let label = format!(
        "Over {}: RSS from {} to {}",
        nanoseconds(span),
        bytes(first.rss_bytes),
        bytes(last.rss_bytes)
    );
    let body = html! {
        figure {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(label) {
                @for step in 0..=LINES {
                    @let amount = (top * step as f64 / LINES as f64) as u64;
                    line.grid x1=(LEFT) x2=(WIDTH) y1=(y(amount)) y2=(y(amount)) { }
                    text.amount x=(LEFT - 6.0) y=(y(amount).max(8.0) + 3.0) { (bytes(amount)) }
                }
                text x=(LEFT) y=(HEIGHT - 4.0) { "0 s" }
                text.amount x=(WIDTH) y=(HEIGHT - 4.0) { (nanoseconds(span)) }
                @for (name, class, of) in CURVES {
                    polyline class=(class) points=(line(of)) { title { (name) } }
                }
            }
            figcaption { (legend()) (label) "." }
        }
    };
    Some(Section {
        id: "time",
        title: "Over time",
        body,
    })
}

fn legend() -> Markup {
    html! {
        @for (name, class, _) in CURVES {
            span.key { span class=(format!("swatch {class}")) { } (name) }
        }
    }
}
