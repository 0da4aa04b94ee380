//! `programs/blocks.c`, which knows all its blocks, and the comparison of a walked heap with its
//! list.

use std::collections::BTreeMap;
use std::process::Command;

use profiler_core::heap::HeapSnapshot;
use profiler_core::span::SpanState;

use tempfile::TempDir;

use crate::child::{Child, compiled_by};

/// A folder with the program `blocks`, made by this compiler.
pub fn compiled(compiler: &str, options: &[&str]) -> TempDir {
    compiled_by(compiler, "blocks", options)
}

/// The running program.
pub struct Blocks(Child);

impl Blocks {
    /// Starts it, up to the point where its threads run and no block is allocated.
    pub fn start(command: Command) -> Self {
        let child = Child::run(command);
        assert_eq!(child.first_line(), "ready");
        Self(child)
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// Lets it work, after which it pauses. Returns its live blocks, address to size.
    pub fn run(&mut self) -> BTreeMap<u64, u64> {
        self.0.send("go");
        let line = self.0.next_line();
        let blocks = line.split_whitespace().map(|block| {
            let (addr, size) = block.split_once(':').expect("addr:size");
            let hex = |text| u64::from_str_radix(text, 16).expect("hex");
            (hex(addr), hex(size))
        });
        let blocks: BTreeMap<_, _> = blocks.collect();
        assert!(blocks.len() > 300, "{}", blocks.len());
        blocks
    }
}

/// The live spans of a heap, start to end.
pub fn live(heap: &HeapSnapshot) -> BTreeMap<u64, u64> {
    let spans = heap
        .extents
        .iter()
        .flat_map(|e| e.spans.iter(e.range.start()));
    spans
        .filter(|span| span.state == SpanState::Live)
        .map(|span| (span.range.start().get(), span.range.end().get()))
        .collect()
}

/// Asserts that each block of `taken` is in a separate live span, and that every other live span is
/// one of `others`: those that were live before the program allocated any.
pub fn assert_exact(heap: &HeapSnapshot, taken: &BTreeMap<u64, u64>, others: &BTreeMap<u64, u64>) {
    let mut spans = live(heap);
    for (&block, &size) in taken {
        let (&start, &end) = spans
            .range(..=block)
            .next_back()
            .unwrap_or_else(|| panic!("{block:#x} lies in no live span"));
        assert!(
            block + size <= end,
            "{block:#x} of {size} bytes lies in no live span: {start:#x}..{end:#x} is nearest"
        );
        spans.remove(&start);
    }
    assert_eq!(spans, *others, "live spans that are not the program's");
}
