//! Call sites of allocations: what a sample of them says of all.
//!
//! An allocation of `s` bytes is in the sample with the probability `p = 1 - exp(-s / mean)`
//! ([`profiler_common::sampling`]). So it stands for `1 / p` allocations of `s / p` bytes together, and the
//! sums of these are right on the average, whatever the sizes. Each adds `(1 - p) / p²` times the square
//! of what it counts to the variance of a sum, which is how far luck may have led.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::addr::RemoteAddr;

pub use profiler_common::sampling::StackEnd;

/// Stacks, and functions with their lines, that are kept apart.
const MAX_SITES: usize = 1 << 16;
const MAX_FRAMES: usize = 1 << 18;
/// Sampled blocks that are followed until they are freed.
const MAX_BLOCKS: usize = 1 << 20;

/// What a function is written in.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Language {
    /// Python.
    Python,
}

impl Language {
    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
        }
    }
}

/// A function of a stack, and where in it the thread was. Names are cleaned of what is harmful to show.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub struct Frame {
    /// What it is written in.
    pub language: Language,
    /// Its name, from Python 3.11 on with the classes and functions that it is in.
    pub function: Arc<str>,
    /// The file that it is written in; empty when not known.
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
    /// The variance of it.
    pub variance: f64,
}

impl Estimate {
    /// Its standard error: of three such sums two are no further than this from the truth.
    pub fn error(&self) -> f64 {
        self.variance.max(0.0).sqrt()
    }

    /// It as a whole number.
    pub fn rounded(&self) -> u64 {
        self.value.max(0.0).round() as u64
    }

    /// What one allocation adds that was sampled with the probability `p`.
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

/// What was allocated at one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Its stack: indices into [`Sites::frames`], the innermost function first.
    pub stack: Arc<[u32]>,
    /// Why the stack ends where it does.
    pub end: StackEnd,
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
}

/// Where allocations come from, as far as the probes were armed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sites {
    /// All of them, the most bytes first.
    pub sites: Vec<Site>,
    /// Every function with its line that is in a stack.
    pub frames: Vec<Frame>,
    /// Allocations that were sampled.
    pub samples: u64,
    /// Sampled allocations for which the ring buffer had no room: missing in all sums.
    pub samples_lost: u64,
    /// Mean bytes between two points of the sample at the last look.
    pub mean_bytes: u64,
    /// Wall time that taking samples took from the target, in ns.
    pub sampling_ns: u64,
    /// Time in which allocations were seen, in ns.
    pub armed_ns: u64,
    /// Bytes of all allocations that were seen, counted rather than estimated.
    pub counted_bytes: u64,
    /// Whether every free since the first window was seen, so that what is not freed lives: there was
    /// one window without a gap, and no event was lost.
    pub frees_complete: bool,
    /// Samples whose stack is not kept apart, because there are too many different ones.
    pub stacks_left_out: u64,
    /// Why there are no stacks, if there are none.
    pub no_stacks: Option<String>,
}

/// Adds samples up.
#[derive(Debug, Default)]
pub struct SiteTable {
    frames: Vec<Frame>,
    frame_numbers: HashMap<Frame, u32>,
    sites: Vec<Site>,
    site_numbers: HashMap<(Arc<[u32]>, u32), usize>,
    blocks: HashMap<RemoteAddr, Sampled>,
    samples: u64,
    stacks_left_out: u64,
    untracked: u64,
}

/// A sampled block that was not seen being freed.
#[derive(Copy, Clone, Debug)]
struct Sampled {
    site: usize,
    bytes: Estimate,
    blocks: Estimate,
}

impl SiteTable {
    /// Takes in a sampled allocation of `bytes`, of a sample with `mean_bytes` between its points.
    pub fn sampled(
        &mut self,
        block: RemoteAddr,
        bytes: u64,
        mean_bytes: u64,
        stack: Vec<Frame>,
        end: StackEnd,
    ) {
        if bytes == 0 || mean_bytes == 0 {
            return;
        }
        let p = -(-(bytes as f64) / mean_bytes as f64).exp_m1();
        let sampled = Sampled {
            site: self.site(stack, end),
            bytes: Estimate::of_one(bytes as f64, p),
            blocks: Estimate::of_one(1.0, p),
        };
        self.samples += 1;
        let site = &mut self.sites[sampled.site];
        site.samples += 1;
        site.bytes.add(sampled.bytes);
        site.allocations.add(sampled.blocks);
        self.gone(block);
        if self.blocks.len() >= MAX_BLOCKS {
            self.untracked += 1;
            return;
        }
        let site = &mut self.sites[sampled.site];
        site.live_bytes.add(sampled.bytes);
        site.live_blocks.add(sampled.blocks);
        self.blocks.insert(block, sampled);
    }

    /// What was at this address is no more: it is freed, or another block is there.
    pub fn gone(&mut self, block: RemoteAddr) {
        if self.blocks.is_empty() {
            return;
        }
        if let Some(sampled) = self.blocks.remove(&block) {
            let site = &mut self.sites[sampled.site];
            site.live_bytes.subtract(sampled.bytes);
            site.live_blocks.subtract(sampled.blocks);
        }
    }

    fn site(&mut self, stack: Vec<Frame>, end: StackEnd) -> usize {
        let is_full = self.sites.len() >= MAX_SITES || self.frames.len() >= MAX_FRAMES;
        let numbers: Option<Arc<[u32]>> = stack
            .into_iter()
            .map(|frame| self.frame(frame, is_full))
            .collect();
        let known = numbers.and_then(|stack| {
            let key = (stack, end as u32);
            let known = self.site_numbers.get(&key).copied();
            known.or_else(|| (!is_full).then(|| self.new_site(key, end)))
        });
        known.unwrap_or_else(|| {
            self.stacks_left_out += 1;
            let key = (Arc::from([]), StackEnd::Cut as u32);
            let rest = self.site_numbers.get(&key).copied();
            rest.unwrap_or_else(|| self.new_site(key, StackEnd::Cut))
        })
    }

    fn new_site(&mut self, key: (Arc<[u32]>, u32), end: StackEnd) -> usize {
        let number = self.sites.len();
        self.sites.push(Site {
            stack: Arc::clone(&key.0),
            end,
            samples: 0,
            bytes: Estimate::default(),
            allocations: Estimate::default(),
            live_bytes: Estimate::default(),
            live_blocks: Estimate::default(),
        });
        self.site_numbers.insert(key, number);
        number
    }

    /// The number of a frame; `None` for a new one when no more are taken.
    fn frame(&mut self, frame: Frame, is_full: bool) -> Option<u32> {
        if let Some(known) = self.frame_numbers.get(&frame) {
            return Some(*known);
        }
        let number = u32::try_from(self.frames.len()).ok().filter(|_| !is_full)?;
        self.frames.push(frame.clone());
        self.frame_numbers.insert(frame, number);
        Some(number)
    }

    /// The sums so far.
    pub fn sites(&self) -> Sites {
        let mut sites = self.sites.clone();
        sites.sort_by(|a, b| b.bytes.value.total_cmp(&a.bytes.value));
        Sites {
            sites,
            frames: self.frames.clone(),
            samples: self.samples,
            stacks_left_out: self.stacks_left_out,
            frees_complete: self.untracked == 0,
            ..Sites::default()
        }
    }
}

/// What the functions of all stacks allocated themselves, at one line.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionSum<'s> {
    /// The innermost function; `None` of allocations outside Python's functions.
    pub frame: Option<&'s Frame>,
    /// Bytes allocated.
    pub bytes: Estimate,
    /// Allocations.
    pub allocations: Estimate,
    /// Bytes not seen being freed.
    pub live_bytes: Estimate,
}

impl Sites {
    /// The frames of a site, the innermost first.
    pub fn stack<'s>(&'s self, site: &'s Site) -> impl DoubleEndedIterator<Item = &'s Frame> {
        let frames = site.stack.iter();
        frames.filter_map(|number| self.frames.get(*number as usize))
    }

    /// Bytes allocated, by the sample: near [`Self::counted_bytes`] if the sample is right.
    pub fn bytes(&self) -> Estimate {
        let mut sum = Estimate::default();
        self.sites.iter().for_each(|site| sum.add(site.bytes));
        sum
    }

    /// The sums by innermost function and line, the most bytes first.
    pub fn by_innermost(&self) -> Vec<FunctionSum<'_>> {
        let mut places: HashMap<Option<u32>, usize> = HashMap::new();
        let mut sums: Vec<FunctionSum<'_>> = Vec::new();
        for site in &self.sites {
            let number = site.stack.first().copied();
            let place = *places.entry(number).or_insert_with(|| {
                sums.push(FunctionSum {
                    frame: number.and_then(|number| self.frames.get(number as usize)),
                    bytes: Estimate::default(),
                    allocations: Estimate::default(),
                    live_bytes: Estimate::default(),
                });
                sums.len() - 1
            });
            let sum = &mut sums[place];
            sum.bytes.add(site.bytes);
            sum.allocations.add(site.allocations);
            sum.live_bytes.add(site.live_bytes);
        }
        sums.sort_by(|a, b| b.bytes.value.total_cmp(&a.bytes.value));
        sums
    }
}

/// Why a stack ends where it does, in files and for people; `None` for a whole one.
pub const fn end_name(end: StackEnd) -> Option<&'static str> {
    match end {
        StackEnd::Whole => None,
        StackEnd::Cut => Some("cut"),
        StackEnd::Unreadable => Some("unreadable"),
        StackEnd::NoThreadState => Some("no_python_thread"),
        StackEnd::NoPython => Some("no_python"),
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::sampling::is_sampled;

    use super::*;

    fn frame(function: &str, line: u32) -> Frame {
        Frame {
            language: Language::Python,
            function: function.into(),
            file: "a.py".into(),
            line: Some(line),
        }
    }

    /// Repeatable numbers that are equally distributed (splitmix64).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u32 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ mixed >> 31) >> 32) as u32
        }
    }

    /// Three sites with sizes from far below to far above the mean, sampled anew many times: the
    /// estimates are right on the average, and off by as much as they say.
    #[test]
    fn estimates_are_unbiased_and_their_errors_are_what_they_say() {
        const RUNS: u32 = 400;
        let sites: [(&str, u32, u32); 3] = [
            ("small", 24, 40_000),
            ("middle", 3000, 700),
            ("large", 40_000, 100),
        ];
        let mut random = Random(7);
        for (name, size, calls) in sites {
            let truth = f64::from(size * calls);
            let (mut sum, mut squares, mut within) = (0.0, 0.0, 0);
            for _ in 0..RUNS {
                let mut table = SiteTable::default();
                for call in 0..calls {
                    if is_sampled(random.next(), u64::from(size), 16 << 10) {
                        let block = RemoteAddr::new(u64::from(call) + 1);
                        let stack = vec![frame(name, 1)];
                        table.sampled(block, u64::from(size), 16 << 10, stack, StackEnd::Whole);
                    }
                }
                let found = table.sites().bytes();
                sum += found.value;
                squares += (found.value - truth).powi(2) / found.variance;
                within += u32::from((found.value - truth).abs() <= 2.0 * found.error() + 1e-6);
            }
            let mean = sum / f64::from(RUNS) / truth;
            assert!((mean - 1.0).abs() < 0.02, "{name}: {mean} of the truth");
            let ratio = squares / f64::from(RUNS);
            assert!(
                (0.8..1.25).contains(&ratio),
                "{name}: {ratio} of the variance"
            );
            let share = f64::from(within) / f64::from(RUNS);
            assert!(share > 0.92, "{name}: {share} within two errors");
        }
    }

    #[test]
    fn blocks_that_are_freed_or_replaced_live_no_more() {
        let mut table = SiteTable::default();
        let at = RemoteAddr::new;
        for (block, name) in [(16, "a"), (32, "a"), (48, "b"), (32, "b")] {
            table.sampled(
                at(block),
                1 << 20,
                1024,
                vec![frame(name, 3)],
                StackEnd::Whole,
            );
        }
        table.gone(at(16));
        table.gone(at(16));
        table.gone(at(999));
        let sites = table.sites();
        let live: Vec<_> = sites
            .sites
            .iter()
            .map(|site| {
                let name = sites
                    .stack(site)
                    .next()
                    .map(|frame| frame.function.to_string());
                (name, site.live_bytes.rounded(), site.bytes.rounded())
            })
            .collect();
        let of = |name: &str, live| (Some(name.to_owned()), live, 2 << 20);
        assert_eq!(live, [of("a", 0), of("b", 2 << 20)]);
    }

    #[test]
    fn stacks_that_differ_in_one_line_are_two_sites_of_one_outer_function() {
        let mut table = SiteTable::default();
        for line in [1, 2, 2] {
            let stack = vec![frame("inner", 5), frame("outer", line)];
            table.sampled(RemoteAddr::new(8), 4096, 1, stack, StackEnd::Whole);
        }
        table.sampled(
            RemoteAddr::new(8),
            4096,
            1,
            Vec::new(),
            StackEnd::NoThreadState,
        );
        let sites = table.sites();
        assert_eq!((sites.sites.len(), sites.frames.len()), (3, 3));
        let sums = sites.by_innermost();
        let bytes: Vec<_> = sums
            .iter()
            .map(|sum| (sum.frame.is_some(), sum.bytes.rounded()))
            .collect();
        assert_eq!(bytes, [(true, 3 * 4096), (false, 4096)]);
    }
}
