//! What was measured at a checkpoint, and the names used in the file: `docs/trace-format.md` lists
//! them.

use profiler_core::report::LedgerClass;

/// Figures of one process at one moment. Values that were not measured are `None`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Figures {
    /// Resident bytes of malloc's own memory: what replays are compared with.
    pub malloc_resident_bytes: Option<u64>,
    /// Its swapped bytes.
    pub malloc_swapped_bytes: Option<u64>,
    /// Resident and swapped bytes of the arenas of Python's object allocator, which are not
    /// included above.
    pub pymalloc_bytes: Option<u64>,
    /// Resident bytes of the process, by the kernel.
    pub rss_bytes: Option<u64>,
    /// Swapped bytes of the process, by the kernel.
    pub swap_bytes: Option<u64>,
    /// Whether the process stood still.
    pub stopped: Option<bool>,
    /// For how long, in ns.
    pub stop_ns: Option<u64>,
    /// Live bytes of malloc, by the walk.
    pub live_bytes: Option<u64>,
    /// Live blocks of malloc, by the walk.
    pub live_blocks: Option<u64>,
    /// Resident bytes by class of the ledger.
    pub ledger: Vec<(LedgerClass, u64)>,
    /// The user requested this checkpoint.
    pub on_request: bool,
    /// The last one of a process that ran on.
    pub is_final: bool,
    /// Figures that are unknown here: from a later version, or another tool.
    pub other: Vec<(String, u64)>,
}

const MALLOC_RESIDENT_BYTES: &str = "malloc_resident_bytes";
const MALLOC_SWAPPED_BYTES: &str = "malloc_swapped_bytes";
const PYMALLOC_BYTES: &str = "pymalloc_bytes";
const RSS_BYTES: &str = "rss_bytes";
const SWAP_BYTES: &str = "swap_bytes";
const STOPPED: &str = "stopped";
const STOP_NS: &str = "stop_ns";
const LIVE_BYTES: &str = "live_bytes";
const LIVE_BLOCKS: &str = "live_blocks";
const LEDGER: &str = "ledger.";
const ON_REQUEST: &str = "asked";
const FINAL: &str = "final";

impl Figures {
    /// malloc's memory, including swapped bytes, if that is known.
    pub fn malloc_bytes(&self) -> Option<u64> {
        let swapped = self.malloc_swapped_bytes.unwrap_or(0);
        Some(self.malloc_resident_bytes?.saturating_add(swapped))
    }

    /// All known figures, each by its name in the file.
    pub(super) fn named(&self) -> Vec<(String, u64)> {
        let first = [
            (MALLOC_RESIDENT_BYTES, self.malloc_resident_bytes),
            (MALLOC_SWAPPED_BYTES, self.malloc_swapped_bytes),
            (PYMALLOC_BYTES, self.pymalloc_bytes),
            (RSS_BYTES, self.rss_bytes),
            (SWAP_BYTES, self.swap_bytes),
            (STOPPED, self.stopped.map(u64::from)),
            (STOP_NS, self.stop_ns),
            (LIVE_BYTES, self.live_bytes),
            (LIVE_BLOCKS, self.live_blocks),
        ];
        let ledger = self.ledger.iter();
        let ledger = ledger.map(|(class, bytes)| (format!("{LEDGER}{}", class.name()), *bytes));
        let last = [(ON_REQUEST, self.on_request), (FINAL, self.is_final)];
        let last = last.into_iter().filter(|(_, is)| *is);
        let known = |(name, value): (&str, Option<u64>)| Some((name.to_owned(), value?));
        first
            .into_iter()
            .filter_map(known)
            .chain(ledger)
            .chain(last.map(|(name, _)| (name.to_owned(), 1)))
            .chain(self.other.iter().cloned())
            .collect()
    }

    /// Takes a figure by its name in the file.
    pub(super) fn put(&mut self, name: String, value: u64) {
        match &*name {
            MALLOC_RESIDENT_BYTES => self.malloc_resident_bytes = Some(value),
            MALLOC_SWAPPED_BYTES => self.malloc_swapped_bytes = Some(value),
            PYMALLOC_BYTES => self.pymalloc_bytes = Some(value),
            RSS_BYTES => self.rss_bytes = Some(value),
            SWAP_BYTES => self.swap_bytes = Some(value),
            STOPPED => self.stopped = Some(value != 0),
            STOP_NS => self.stop_ns = Some(value),
            LIVE_BYTES => self.live_bytes = Some(value),
            LIVE_BLOCKS => self.live_blocks = Some(value),
            ON_REQUEST => self.on_request = value != 0,
            FINAL => self.is_final = value != 0,
            _ => match ledger_class(&name) {
                Some(class) => self.ledger.push((class, value)),
                None => self.other.push((name, value)),
            },
        }
    }

    /// Bytes that they occupy besides the struct itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        let other = self.other.iter();
        let other: usize = other
            .map(|(name, _)| name.len() + size_of::<(String, u64)>())
            .sum();
        other + self.ledger.len() * size_of::<(LedgerClass, u64)>()
    }
}

fn ledger_class(name: &str) -> Option<LedgerClass> {
    let name = name.strip_prefix(LEDGER)?;
    let mut all = LedgerClass::ALL.into_iter();
    all.find(|class| class.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_comes_back_by_its_name_and_is_documented() {
        let figures = Figures {
            malloc_resident_bytes: Some(1),
            malloc_swapped_bytes: Some(2),
            pymalloc_bytes: Some(2),
            rss_bytes: Some(3),
            swap_bytes: Some(4),
            stopped: Some(false),
            stop_ns: Some(5),
            live_bytes: Some(6),
            live_blocks: Some(7),
            ledger: LedgerClass::ALL.map(|class| (class, 8)).into(),
            on_request: true,
            is_final: true,
            other: vec![("of a later version".into(), 9)],
        };
        let mut back = Figures::default();
        let named = figures.named();
        for (name, value) in &named {
            back.put(name.clone(), *value);
        }
        assert_eq!(back, figures);
        let document = include_str!("../../../docs/trace-format.md");
        let (_, chapter) = document.split_once("## Checkpoints").expect("a chapter");
        for (name, _) in named.iter().filter(|(_, value)| *value < 8) {
            assert!(chapter.contains(&format!("`{name}`")), "{name}");
        }
    }
}
