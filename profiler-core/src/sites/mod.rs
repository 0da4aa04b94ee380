//! Call sites of allocations: what a sample of them says of all.
//!
//! An allocation of `s` bytes is sampled with the probability `p = 1 - exp(-s / mean)`
//! ([`profiler_common::sampling`]). So it stands for `1 / p` allocations of `s / p` bytes in total,
//! and sums of these are unbiased for all sizes. Each sample adds `(1 - p) / p²` times the square
//! of what it counts to the variance of a sum, which is the square of the sampling error.

mod native;
mod rows;
mod table;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::Arc;

pub use profiler_common::growth::GrowthKind;
pub use profiler_common::sampling::StackEnd;

pub use self::native::{NativeEnd, NativeFrame, NativeRole, with_native};
pub use self::rows::{Direction, SiteRow, StackStep};
pub use self::table::{Allocation, SiteTable};
pub use self::walk::{Found, Lookup};

/// The language of a function.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Language {
    /// Python.
    Python,
    /// Compiled to machine code: C, C++, Rust and others.
    Native,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Python, Self::Native];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Native => "native",
        }
    }
}

/// A function in a stack, and the thread's position in it. Names are cleaned of characters that are
/// harmful to show.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub struct Frame {
    /// Its language.
    pub language: Language,
    /// Its name, from Python 3.11 on including enclosing classes and functions. For a native
    /// function without a symbol, the name of its file and the offset of the code in it.
    pub function: Arc<str>,
    /// The file that contains its source or its code; empty if unknown.
    pub file: Arc<str>,
    /// The number of the line, the first being 1.
    pub line: Option<u32>,
}

impl Frame {
    /// One whose code could not be read.
    pub fn unreadable(language: Language) -> Self {
        Self {
            language,
            function: "(unreadable)".into(),
            file: "".into(),
            line: None,
        }
    }
}

/// A sum that a sample gives.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Estimate {
    /// The sum.
    pub value: f64,
    /// Its variance.
    pub variance: f64,
}

impl Estimate {
    /// Its standard error: about two of three such sums are within this distance of the true value.
    pub fn error(&self) -> f64 {
        self.variance.max(0.0).sqrt()
    }

    /// Its value as an integer.
    pub fn rounded(&self) -> u64 {
        self.value.max(0.0).round() as u64
    }

    /// Its error as an integer.
    pub fn rounded_error(&self) -> u64 {
        self.error().round() as u64
    }

    /// The contribution of one allocation sampled with the probability `p`.
    fn of_one(amount: f64, p: f64) -> Self {
        Self {
            value: amount / p,
            variance: amount * amount * (1.0 - p) / (p * p),
        }
    }

    fn add(&mut self, other: Self) {
        self.value += other.value;
        self.variance += other.variance;
    }

    fn subtract(&mut self, other: Self) {
        self.value -= other.value;
        self.variance -= other.variance;
    }
}

/// The bounds, in seconds, of the ages of blocks that are distinguished; older blocks form one more
/// class.
pub const AGES: [u64; 5] = [1, 10, 60, 600, 3600];

/// Sampling figures for the native functions of all stacks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NativeSampling {
    /// Samples with a copy of the top of the native stack.
    pub copied: u64,
    /// Samples without one, because the ring buffer was full or the stack was unreadable.
    pub not_copied: u64,
    /// Processor time that fragscope took to find the functions, in ns: not the target's.
    pub unwinding_ns: u64,
    /// Files whose tables are not read, and why, a sentence each.
    pub unread_files: Vec<String>,
}

/// What a walk found of a site's blocks.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct AtWalk {
    /// Bytes of blocks that were allocated in the windows before the walk, are live in it, and were
    /// not seen being freed before they were looked up.
    pub bytes: Estimate,
    /// How many those are.
    pub blocks: Estimate,
    /// Free bytes on the resident pages of those blocks: each block gets an even share among all
    /// live blocks of a page.
    pub pinned_free_bytes: Estimate,
    /// The bytes by age: of blocks up to each of [`AGES`] and older than the previous one, then of
    /// older blocks.
    pub by_age: [f64; AGES.len() + 1],
}

/// Growth of the target's memory at a site, by its requests to the kernel since the probes were
/// first armed.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct SiteGrowth {
    /// Calls and page faults that were sampled.
    pub samples: u64,
    /// Bytes of memory that was got.
    pub grown: Estimate,
    /// Bytes of memory that was given back.
    pub returned: Estimate,
    /// Bytes of pages that were written to when they were not there.
    pub touched: Estimate,
}

impl SiteGrowth {
    fn add(&mut self, other: &Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.grown.add(other.grown);
        self.returned.add(other.returned);
        self.touched.add(other.touched);
    }

    /// The sum of a kind.
    fn of_kind(&mut self, kind: GrowthKind) -> &mut Estimate {
        match kind {
            GrowthKind::Grown => &mut self.grown,
            GrowthKind::Returned => &mut self.returned,
            GrowthKind::Touched => &mut self.touched,
        }
    }
}

/// Sampling figures for the growth of all sites.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GrowthSampling {
    /// How long growth was watched, in ns.
    pub watched_ns: u64,
    /// Mean bytes between two points of the sample at the last look.
    pub mean_bytes: u64,
    /// Bytes that were got, counted rather than estimated.
    pub grown_bytes: u64,
    /// Bytes that were given back.
    pub returned_bytes: u64,
    /// Bytes of pages that were touched first.
    pub touched_bytes: u64,
    /// What could not be watched, and why.
    pub missing: Vec<String>,
    /// Whether some of that would have been watched with a larger budget for probes.
    pub is_over_budget: bool,
}

/// Figures of a site, or sums over several.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct SiteFigures {
    /// Allocations that were sampled.
    pub samples: u64,
    /// Bytes allocated in the windows.
    pub bytes: Estimate,
    /// Allocations in the windows.
    pub allocations: Estimate,
    /// Bytes of blocks that were not seen being freed.
    pub live_bytes: Estimate,
    /// How many those are.
    pub live_blocks: Estimate,
    /// What the last walk found; empty if [`Sites::walk`] is `None`.
    pub at_walk: AtWalk,
    /// Allocations sampled before the last walk: if there are none, the walk says nothing about the
    /// site.
    pub samples_before_walk: u64,
    /// Growth of memory there; empty if [`Sites::growth`] is `None`.
    pub growth: SiteGrowth,
}

impl SiteFigures {
    /// Adds another site's figures.
    pub fn add(&mut self, other: &Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.bytes.add(other.bytes);
        self.allocations.add(other.allocations);
        self.live_bytes.add(other.live_bytes);
        self.live_blocks.add(other.live_blocks);
        self.at_walk.add(&other.at_walk);
        let before = other.samples_before_walk;
        self.samples_before_walk = self.samples_before_walk.saturating_add(before);
        self.growth.add(&other.growth);
    }
}

/// Allocations at one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Its stack: indices into [`Sites::frames`], the innermost function first.
    pub stack: Arc<[u32]>,
    /// Why the stack ends where it does.
    pub end: StackEnd,
    /// Its figures.
    pub figures: SiteFigures,
}

/// The walk in which sampled blocks were looked up.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct SitesWalk {
    /// Its time, in ns since 1970-01-01 UTC.
    pub taken_at_ns: u64,
    /// Sampled blocks that were not seen being freed before it.
    pub looked_up: u64,
    /// Of those the ones that are live blocks of their size.
    pub found: u64,
    /// Those of them in unreadable memory, which are in no sum.
    pub unreadable: u64,
}

/// The value that glibc's mmap threshold has adapted to, and what raised it.
#[derive(Clone, Debug, PartialEq)]
pub struct MmapThreshold {
    /// The threshold at the last walk.
    pub bytes: u64,
    /// The stack of the first sampled block of exactly this size that was freed, and why that stack
    /// ends; `None` if none was seen.
    pub raised_by: Option<(Arc<[u32]>, StackEnd)>,
}

/// The origins of allocations, as far as the probes were armed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sites {
    /// All of them, the most bytes first.
    pub sites: Vec<Site>,
    /// Every function and line that is in a stack.
    pub frames: Vec<Frame>,
    /// Allocations that were sampled.
    pub samples: u64,
    /// Sampled allocations lost because the ring buffer was full: missing in all sums.
    pub samples_lost: u64,
    /// Mean bytes between two points of the sample at the last look.
    pub mean_bytes: u64,
    /// Wall time that taking samples took from the target, in ns.
    pub sampling_ns: u64,
    /// Time during which allocations were seen, in ns.
    pub armed_ns: u64,
    /// Bytes of all allocations that were seen, counted rather than estimated.
    pub counted_bytes: u64,
    /// Whether every free since the first window was seen, so that everything not freed is live:
    /// there was one window without a gap, and no event was lost.
    pub frees_complete: bool,
    /// Samples whose stack is not kept apart, because there are too many different ones.
    pub stacks_left_out: u64,
    /// Why there are no stacks, if there are none.
    pub no_stacks: Option<String>,
    /// The walk in which the sampled blocks were looked up, if there was one since the first was
    /// sampled.
    pub walk: Option<SitesWalk>,
    /// The mmap threshold at that walk, if it has adapted.
    pub mmap_threshold: Option<MmapThreshold>,
    /// Growth of the target's memory; `None` if it was not watched.
    pub growth: Option<GrowthSampling>,
    /// Sampling figures for native functions; `None` if stacks have none.
    pub native: Option<NativeSampling>,
}

impl Sites {
    /// The frames of a site, the innermost first.
    pub fn stack<'s>(&'s self, site: &'s Site) -> impl DoubleEndedIterator<Item = &'s Frame> {
        self.frames_of(&site.stack)
    }

    /// The frames of a stack, in its order.
    pub fn frames_of<'s>(&'s self, stack: &'s [u32]) -> impl DoubleEndedIterator<Item = &'s Frame> {
        let numbers = stack.iter();
        numbers.filter_map(|number| self.frames.get(*number as usize))
    }

    /// The sums over all sites.
    pub fn total(&self) -> SiteFigures {
        let mut total = SiteFigures::default();
        self.sites.iter().for_each(|site| total.add(&site.figures));
        total
    }

    /// Whether there is anything to show of any site.
    pub fn has_samples(&self) -> bool {
        self.samples > 0 || !self.sites.is_empty()
    }

    /// Bytes allocated, by the sample: near [`Self::counted_bytes`] if the sample is right.
    pub fn bytes(&self) -> Estimate {
        self.total().bytes
    }
}

/// Why a stack ends where it does, in files and for people; `None` for a complete one.
pub const fn end_name(end: StackEnd) -> Option<&'static str> {
    match end {
        StackEnd::Whole => None,
        StackEnd::Cut => Some("cut"),
        StackEnd::Unreadable => Some("unreadable"),
        StackEnd::NoThreadState => Some("no_python_thread"),
        StackEnd::NoPython => Some("no_python"),
    }
}
