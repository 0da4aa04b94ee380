//! The table in which samples are accumulated.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{
    Estimate, Frame, GrowthKind, MmapThreshold, Site, SiteFigures, Sites, SitesWalk, StackEnd,
};
use crate::addr::RemoteAddr;
use crate::allocator::GlibcSetting;

/// Stacks, and functions with their lines, that are kept apart.
const MAX_SITES: usize = 1 << 16;
const MAX_FRAMES: usize = 1 << 18;
/// Sampled blocks that are followed until they are freed.
const MAX_BLOCKS: usize = 1 << 20;
/// Sizes of blocks with a mapping of their own that are tracked separately: all up to the largest
/// threshold.
const MAX_RAISERS: usize = 1 << 13;

/// A sampled allocation.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Allocation {
    /// The block's address.
    pub block: RemoteAddr,
    /// Its bytes.
    pub bytes: u64,
    /// Whether those are the usable bytes, rather than the requested ones.
    pub is_usable_size: bool,
    /// Mean bytes between two points of the sample that it belongs to.
    pub mean_bytes: u64,
    /// Its time on the events' clock, in ns.
    pub at_ns: u64,
}

/// Adds samples up.
#[derive(Debug, Default)]
pub struct SiteTable {
    frames: Vec<Frame>,
    frame_numbers: HashMap<Frame, u32>,
    pub(super) sites: Vec<Site>,
    site_numbers: HashMap<(Arc<[u32]>, u32), usize>,
    pub(super) blocks: HashMap<RemoteAddr, Sampled>,
    /// Blocks freed since a walk began, with the times; `None` if there is no walk.
    pub(super) departed: Option<Vec<(Sampled, u64)>>,
    /// How often each site had been sampled when a walk was begun; `None` while there is none.
    pub(super) before_walk: Option<Vec<u64>>,
    samples: u64,
    stacks_left_out: u64,
    untracked: u64,
    pub(super) walk: Option<SitesWalk>,
    /// glibc's mmap threshold at that walk, if it has adapted.
    pub(super) mmap_threshold: Option<u64>,
    /// For each value to which freeing a block raises that threshold: the site of the first such
    /// block.
    pub(super) raisers: HashMap<u64, usize>,
}

/// The probability that an allocation of `bytes` is sampled.
fn probability(bytes: u64, mean_bytes: u64) -> f64 {
    -(-(bytes as f64) / mean_bytes as f64).exp_m1()
}

/// A sampled block that was not seen being freed.
#[derive(Copy, Clone, Debug)]
pub(super) struct Sampled {
    pub(super) allocation: Allocation,
    /// The probability with which it was sampled.
    pub(super) p: f64,
    pub(super) site: usize,
}

impl Sampled {
    fn bytes(&self) -> Estimate {
        Estimate::of_one(self.allocation.bytes as f64, self.p)
    }

    fn blocks(&self) -> Estimate {
        Estimate::of_one(1.0, self.p)
    }

    /// The value to which freeing it raises glibc's mmap threshold, if it does.
    pub(super) fn raises_threshold_to(&self) -> Option<u64> {
        let usable = self
            .allocation
            .is_usable_size
            .then_some(self.allocation.bytes)?;
        GlibcSetting::threshold_raised_to(usable)
    }
}

impl SiteTable {
    /// Adds a sampled allocation with its stack, the innermost function first.
    pub fn sampled(&mut self, allocation: Allocation, stack: Vec<Frame>, end: StackEnd) {
        let (bytes, mean_bytes) = (allocation.bytes, allocation.mean_bytes);
        if bytes == 0 || mean_bytes == 0 {
            return;
        }
        let sampled = Sampled {
            allocation,
            p: probability(bytes, mean_bytes),
            site: self.site(stack, end),
        };
        self.samples += 1;
        let figures = &mut self.sites[sampled.site].figures;
        figures.samples += 1;
        figures.bytes.add(sampled.bytes());
        figures.allocations.add(sampled.blocks());
        self.gone(allocation.block, allocation.at_ns);
        if self.blocks.len() >= MAX_BLOCKS {
            self.untracked += 1;
            return;
        }
        let figures = &mut self.sites[sampled.site].figures;
        figures.live_bytes.add(sampled.bytes());
        figures.live_blocks.add(sampled.blocks());
        self.blocks.insert(allocation.block, sampled);
    }

    /// Adds sampled growth with its stack.
    pub fn grew(
        &mut self,
        kind: GrowthKind,
        bytes: u64,
        mean_bytes: u64,
        stack: Vec<Frame>,
        end: StackEnd,
    ) {
        if bytes == 0 || mean_bytes == 0 {
            return;
        }
        let site = self.site(stack, end);
        let growth = &mut self.sites[site].figures.growth;
        growth.samples += 1;
        let of_one = Estimate::of_one(bytes as f64, probability(bytes, mean_bytes));
        growth.of_kind(kind).add(of_one);
    }

    /// The block at this address ceased to exist at `at_ns`, on the events' clock: it was freed, or
    /// another block is there.
    pub fn gone(&mut self, block: RemoteAddr, at_ns: u64) {
        if self.blocks.is_empty() {
            return;
        }
        if let Some(sampled) = self.blocks.remove(&block) {
            let figures = &mut self.sites[sampled.site].figures;
            figures.live_bytes.subtract(sampled.bytes());
            figures.live_blocks.subtract(sampled.blocks());
            self.freed_mapping(&sampled);
            if let Some(departed) = &mut self.departed
                && departed.len() < MAX_BLOCKS
            {
                departed.push((sampled, at_ns));
            }
        }
    }

    /// Notes that a block is freed that may raise the mmap threshold.
    pub(super) fn freed_mapping(&mut self, block: &Sampled) {
        if let Some(bytes) = block.raises_threshold_to()
            && self.raisers.len() < MAX_RAISERS
        {
            self.raisers.entry(bytes).or_insert(block.site);
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
            figures: SiteFigures::default(),
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
        let bytes = |site: &Site| site.figures.bytes.value;
        let grown = |site: &Site| site.figures.growth.grown.value;
        let order = |a: &Site, b: &Site| bytes(b).total_cmp(&bytes(a));
        sites.sort_by(|a, b| order(a, b).then_with(|| grown(b).total_cmp(&grown(a))));
        Sites {
            sites,
            frames: self.frames.clone(),
            samples: self.samples,
            stacks_left_out: self.stacks_left_out,
            frees_complete: self.untracked == 0,
            walk: self.walk,
            mmap_threshold: self.mmap_threshold.map(|bytes| MmapThreshold {
                bytes,
                raised_by: self.raisers.get(&bytes).and_then(|site| {
                    let site = self.sites.get(*site)?;
                    Some((Arc::clone(&site.stack), site.end))
                }),
            }),
            ..Sites::default()
        }
    }
}
