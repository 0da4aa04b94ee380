//! The processes of a host: `fragscope.top/1`.

use profiler_core::columns::Datum;
use profiler_core::host::{
    COLUMNS, Cost, HostView, IN_FILES_ALONE, PID, ProcessRow, Totals, TreeHistory, TreeHolder,
    TreeView,
};
use profiler_core::units::Value;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::{Host, Number, Object};
use crate::export::names::{milliseconds, rfc3339};

#[derive(Serialize)]
pub(super) struct Top<'a> {
    schema: &'static str,
    taken_at: String,
    host: Host<'a>,
    processes: Vec<Row<'a>>,
    total: TotalRow,
    /// With `--tree`.
    #[serde(skip_serializing_if = "Option::is_none")]
    tree: Option<TreeRow>,
    cost: CostRow,
    notices: &'a [String],
}

/// A master and its descendants.
#[derive(Serialize)]
struct TreeRow {
    master: i32,
    fragmentation_bytes: Option<u64>,
    not_walked_bytes: u64,
    fork_copied_bytes: Option<u64>,
    worst: Option<i32>,
    verdict: Vec<String>,
    objects: Option<ObjectsRow>,
    history: Option<HistoryRow>,
}

/// The processes that came and ended since the tree is watched.
#[derive(Serialize)]
struct HistoryRow {
    came: u64,
    ended: u64,
    /// The last of them.
    last: Vec<EndedRow>,
}

#[derive(Serialize)]
struct EndedRow {
    pid: i32,
    is_python: bool,
    rss_bytes: u64,
    uss_bytes: Option<u64>,
    fragmentation_bytes: Option<u64>,
    age_ms: Option<f64>,
}

impl HistoryRow {
    fn of(history: &TreeHistory) -> Self {
        let last = history.last.iter().map(|of| EndedRow {
            pid: of.pid,
            is_python: of.is_python,
            rss_bytes: of.rss_bytes,
            uss_bytes: of.uss_bytes,
            fragmentation_bytes: of.fragmentation_bytes,
            age_ms: of.age_ns.map(milliseconds),
        });
        Self {
            came: history.came,
            ended: history.ended,
            last: last.collect(),
        }
    }
}

/// Python objects of the processes for which they were read.
#[derive(Serialize)]
struct ObjectsRow {
    read: Vec<ReadRow>,
    not_read: Vec<NotReadRow>,
    growth: Option<GrowthRow>,
    holders: Vec<HolderRow>,
}

#[derive(Serialize)]
struct ReadRow {
    pid: i32,
    taken_at: Option<String>,
    live_bytes: Option<u64>,
    exact: Option<bool>,
    growth_bytes_per_second: Option<f64>,
}

#[derive(Serialize)]
struct NotReadRow {
    pid: i32,
    why: String,
}

#[derive(Serialize)]
struct GrowthRow {
    compared: usize,
    growing: usize,
    unclear: usize,
    bytes_per_second: f64,
    live_bytes_per_second: f64,
    elapsed_ms: f64,
}

/// A name, and what it holds in the processes that were read.
#[derive(Serialize)]
struct HolderRow {
    name: Option<String>,
    shared_with: Vec<String>,
    is_name: bool,
    r#type: Option<String>,
    path: Vec<String>,
    item_type: Option<String>,
    bytes: u64,
    shared_bytes: Option<u64>,
    master_bytes: Option<u64>,
    children: usize,
    least_bytes: Option<u64>,
    most_bytes: Option<u64>,
    growing: usize,
    growth_bytes_per_second: Option<f64>,
    growth_objects_per_second: Option<f64>,
}

/// Holders of a tree that are in the document at most.
const MOST_HOLDERS: usize = 200;

impl ObjectsRow {
    fn of(view: &TreeView) -> Option<Self> {
        let objects = view.objects.as_ref()?;
        let growth = objects.growth();
        let read = objects.read.iter().map(|read| {
            let census = read.report.objects.as_deref();
            ReadRow {
                pid: read.id.pid,
                taken_at: census.map(|census| rfc3339(census.taken_at_ns)),
                live_bytes: census.map(|census| census.live.bytes),
                exact: census.map(|census| census.exact),
                growth_bytes_per_second: read.report.growing().map(|of| of.bytes_per_second()),
            }
        });
        let not_read = objects.not_read.iter().map(|(pid, why)| NotReadRow {
            pid: *pid,
            why: why.clone(),
        });
        Some(Self {
            read: read.collect(),
            not_read: not_read.collect(),
            growth: (growth.compared > 0).then(|| GrowthRow {
                compared: growth.compared,
                growing: growth.growing,
                unclear: growth.unclear,
                bytes_per_second: growth.bytes_per_second,
                live_bytes_per_second: growth.live_bytes_per_second,
                elapsed_ms: milliseconds(growth.elapsed_ns),
            }),
            holders: view
                .holders()
                .into_iter()
                .take(MOST_HOLDERS)
                .map(HolderRow::of)
                .collect(),
        })
    }
}

impl HolderRow {
    fn of(holder: TreeHolder) -> Self {
        let of_children = |bytes: u64| (holder.children > 0).then_some(bytes);
        let (least_bytes, most_bytes) = (
            of_children(holder.least_bytes),
            of_children(holder.most_bytes),
        );
        let mut names = holder.names.into_iter();
        Self {
            name: names.next(),
            shared_with: names.collect(),
            is_name: holder.is_name,
            r#type: holder.type_name,
            path: holder.steps,
            item_type: holder.item_type,
            bytes: holder.bytes,
            shared_bytes: holder.shared_bytes,
            master_bytes: holder.master_bytes,
            children: holder.children,
            least_bytes,
            most_bytes,
            growing: holder.growing,
            growth_bytes_per_second: holder.growth,
            growth_objects_per_second: holder.items_growth,
        }
    }
}

impl TreeRow {
    fn of(view: &TreeView) -> Self {
        let sums = view.sums();
        Self {
            master: view.master,
            fragmentation_bytes: sums.fragmentation_bytes,
            not_walked_bytes: sums.not_walked_bytes,
            fork_copied_bytes: sums.copied_bytes,
            worst: view.worst().map(|row| row.process.id.pid),
            verdict: view.verdict(),
            objects: ObjectsRow::of(view),
            history: view.processes.history.as_ref().map(HistoryRow::of),
        }
    }
}

#[derive(Serialize)]
struct TotalRow {
    processes: usize,
    walked: usize,
    pss_bytes: u64,
    uss_bytes: u64,
    swap_bytes: u64,
    trim_returnable_bytes: u64,
}

#[derive(Serialize)]
struct CostRow {
    elapsed_ms: f64,
    cpu_ms: f64,
    walks: u64,
    stop_ms: f64,
    longest_stop_ms: f64,
}

impl<'a> Top<'a> {
    pub(super) fn of(view: &'a HostView) -> Self {
        let total = Totals::of(view.rows.iter());
        Self {
            schema: "fragscope.top/1",
            taken_at: rfc3339(view.taken_at_ns),
            host: Host::from(&view.host),
            processes: view.rows.iter().map(Row).collect(),
            total: TotalRow {
                processes: total.processes,
                walked: total.walked,
                pss_bytes: total.pss_bytes,
                uss_bytes: total.uss_bytes,
                swap_bytes: total.swap_bytes,
                trim_returnable_bytes: total.trim_returnable_bytes,
            },
            tree: None,
            cost: CostRow::of(view.cost),
            notices: &view.notices,
        }
    }

    pub(super) fn of_tree(view: &'a TreeView) -> Self {
        Self {
            tree: Some(TreeRow::of(view)),
            ..Self::of(&view.processes)
        }
    }
}

impl CostRow {
    fn of(cost: Cost) -> Self {
        Self {
            elapsed_ms: milliseconds(cost.elapsed_ns),
            cpu_ms: milliseconds(cost.cpu_ns),
            walks: cost.walks,
            stop_ms: milliseconds(cost.stop_ns),
            longest_stop_ms: milliseconds(cost.longest_stop_ns),
        }
    }
}

/// A process: its id, then its columns; those with a point in their key are in objects.
struct Row<'a>(&'a ProcessRow);

/// A value of a row.
#[derive(Serialize)]
#[serde(untagged)]
enum Cell {
    Number(Number),
    Fraction(f64),
    Text(String),
    Nothing(()),
}

impl From<Option<Datum>> for Cell {
    fn from(datum: Option<Datum>) -> Self {
        match datum {
            None => Self::Nothing(()),
            Some(Datum::Text(text)) => Self::Text(text),
            Some(Datum::Number(Value::Fraction(value))) if value < 0.0 => Self::Fraction(value),
            Some(Datum::Number(value)) => Self::Number(value.into()),
        }
    }
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = self.0;
        let (process, walk) = (&row.process, row.walk.as_ref());
        let mut map = serializer.serialize_map(None)?;
        let mut objects: Vec<(&str, Vec<(&str, Cell)>)> = Vec::new();
        for column in COLUMNS.iter().chain(&IN_FILES_ALONE) {
            let cell = Cell::from(column.datum(row));
            match column.key.split_once('.') {
                None => map.serialize_entry(column.key, &cell)?,
                Some((object, key)) => into(&mut objects, object).push((key, cell)),
            }
            if column.key == PID.key {
                map.serialize_entry("parent", &process.parent)?;
                map.serialize_entry("comm", &process.comm)?;
                map.serialize_entry("cmdline", &process.cmdline)?;
            }
        }
        for (key, object) in objects {
            map.serialize_entry(key, &Object(object))?;
        }
        map.serialize_entry("walked_at", &walk.map(|walk| rfc3339(walk.taken_at_ns)))?;
        map.serialize_entry("not_walked", &row.not_walked)?;
        let completeness = walk.map(|walk| Completeness {
            stop_ms: milliseconds(walk.stop_ns),
            layout_confidence: walk.confidence.name(),
        });
        map.serialize_entry("completeness", &completeness)?;
        map.end()
    }
}

#[derive(Serialize)]
struct Completeness {
    stop_ms: f64,
    layout_confidence: &'static str,
}

/// The entries of the object with this key, which is created if it does not exist.
fn into<K: PartialEq + Copy, V>(objects: &mut Vec<(K, Vec<V>)>, key: K) -> &mut Vec<V> {
    let at = objects
        .iter()
        .position(|(known, _)| *known == key)
        .unwrap_or_else(|| {
            objects.push((key, Vec::new()));
            objects.len() - 1
        });
    &mut objects[at].1
}
