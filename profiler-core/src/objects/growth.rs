//! What grows: compares two censuses of one process.

mod counterparts;
mod passing;
mod swings;

use std::cmp::Ordering;

use hashbrown::HashMap;

use self::counterparts::counterparts;
use super::census::{Amount, Census, NativeRow, SHOWN, TypeRow};
use super::holder::{Branch, Holder, MAX_BRANCHES, PathStep};
use super::lengths::{Course, Pace};
use crate::allocator::Allocator;
use crate::size_class::SizeClass;
use crate::units::growth;

/// Growth of less than this between two censuses is what any program's memory does.
const NOISE_BYTES: f64 = 64.0 * 1024.0;
/// Gains smaller than this between two censuses do not affect the sort order.
const RANKED_BYTES: f64 = NOISE_BYTES / 16.0;
/// A holder that was not kept before had none of its items if what was kept of others is at most this part of what it has.
const NEARLY_NONE: u64 = 8;
/// A branch that was not there before gains no more than this many times what its holder does.
const MOST_OF_NEW: f64 = 1.1;
/// Growth by less than this share of live memory also counts as noise.
const NOISE_SHARE: f64 = 0.001;

/// A gain per second; negative for a loss.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Rate {
    /// Blocks per second: for a type, objects without their storage.
    pub blocks: f64,
    /// Bytes per second: for a type, including its storage.
    pub bytes: f64,
}

/// The gain per second of a census row, as far as known: without an earlier census nothing is
/// known.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Gain {
    /// Bytes.
    pub bytes: Option<f64>,
    /// Objects or blocks; for a holder, its items.
    pub objects: Option<f64>,
}

impl From<Option<Rate>> for Gain {
    fn from(rate: Option<Rate>) -> Self {
        Self {
            bytes: rate.map(|rate| rate.bytes),
            objects: rate.map(|rate| rate.blocks),
        }
    }
}

/// Growth of one type.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeGrowth {
    /// The type, as in [`TypeRow::name`].
    pub name: String,
    /// Its rate.
    pub rate: Rate,
}

/// What a table shows a holder to gain.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum HolderGain {
    /// Bytes a second: growth, or what it lost.
    Bytes(f64),
    /// It is what running functions have in hand, of which two looks show two moments.
    InHand,
    /// It becomes longer and shorter in turn.
    UpAndDown,
}

impl HolderGain {
    /// Bytes a second that are growth.
    pub fn bytes(self) -> f64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::InHand | Self::UpAndDown => 0.0,
        }
    }

    /// In a cell of a table: nothing where nothing changes.
    pub fn text(self) -> String {
        match self {
            Self::Bytes(bytes) => growth(bytes),
            Self::InHand => "in hand".to_owned(),
            Self::UpAndDown => "up and down".to_owned(),
        }
    }

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes(_) => "stays",
            Self::InHand => "in_hand",
            Self::UpAndDown => "up_and_down",
        }
    }
}

/// Growth of the blocks of one size class that no object owns.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct NativeGrowth {
    /// Whose.
    pub allocator: Allocator,
    /// Their sizes.
    pub class: SizeClass,
    /// Its rate.
    pub rate: Rate,
}

/// Growth of what a name holds.
#[derive(Clone, Debug, PartialEq)]
pub struct HolderGrowth {
    /// Its index in [`Census::holders`] of the later census.
    pub holder: usize,
    /// Growth of its retained block bytes per second. If it was not among the largest holders
    /// before, this is the least possible value.
    pub bytes: f64,
    /// In addition, growth per second of the resident bytes mapped by its `mmap` objects, by the
    /// same rule; `None` unless they were recorded both times.
    pub mapped_bytes: Option<f64>,
    /// Whether it retains more blocks, or the place where its bytes spread out has more entries.
    /// Otherwise something it holds became larger, as a table does in one step.
    pub has_more: bool,
    /// The index in [`Holder::branches`] of the branch that gains most; `None` if that is where the
    /// path leads.
    pub branch: Option<usize>,
    /// Objects of its items' type gained per second by the place that gains most; `None` if most
    /// items were of another type before.
    pub items: Option<f64>,
    /// The same for its largest container, whichever gains most.
    pub at_largest: Option<f64>,
    /// Whether it is temporary data of a running function: without a name in the program, as on the
    /// function's stack, or only in variables of functions.
    pub is_passing: bool,
    /// Whether it refers to the same object as before, by the address.
    pub is_same: bool,
    /// How the number of items went on of the container that gains most, where that was counted in between.
    pub course: Option<Course>,
    /// How fast that rose, and by how much it fell.
    pub pace: Option<Pace>,
    /// Bytes a second that it has more at the second look without being growth: it becomes longer and shorter in turn.
    /// [`Self::bytes`] and [`Self::items`] are without these where its lowest counts rise.
    pub swing_bytes: f64,
}

impl HolderGrowth {
    /// Growth of blocks and, as far as known, of memory mapped by `mmap` objects: the sort key of
    /// tables.
    pub fn held_bytes(&self) -> f64 {
        self.bytes + self.mapped_bytes.unwrap_or(0.0)
    }

    /// Whether it becomes longer below what it goes up and down by.
    pub fn is_below_swing(&self) -> bool {
        self.course == Some(Course::RisesBelow)
    }

    /// Whether what it gains is growth: what becomes longer and shorter in turn is none, and what running functions have in hand
    /// only where all memory shows that it stays, or counts in between show that the container becomes longer.
    pub fn counts(&self, counts_passing: bool) -> bool {
        match self.course {
            Some(course) if course.is_up_and_down() => false,
            Some(course) if course.rises() => true,
            _ => counts_passing || !self.is_passing,
        }
    }
}

/// Something that became larger in one step between two censuses: tables enlarged in advance, or a
/// single block. It is not growth until it repeats.
#[derive(Clone, Debug, PartialEq)]
pub struct GrowthStep {
    /// The type whose objects or storage that is; `None` for a native block.
    pub type_name: Option<String>,
    /// Bytes more than objects and entries account for.
    pub bytes: f64,
}

/// What grew between two censuses.
#[derive(Clone, Debug, PartialEq)]
pub struct Growth {
    /// The time between their walks, in ns.
    pub elapsed_ns: u64,
    /// All live blocks.
    pub live: Rate,
    /// Objects and their storage.
    pub typed: Rate,
    /// Blocks without a known root: cycles not yet freed by the garbage collector, and memory that
    /// native code refers to, or has forgotten.
    pub unreached: Rate,
    /// Of that, cycles ([`Census::cycles`]).
    pub cycles: Rate,
    /// The part of that held from places that were not read ([`Census::held_unseen`]).
    pub held_unseen: Rate,
    /// The growth of that in the most informative type: the type that is not built in and gains
    /// most, else the type that gains most of all.
    pub most_unreached: Option<TypeGrowth>,
    /// Types whose bytes changed, the largest gain first.
    pub types: Vec<TypeGrowth>,
    /// Native blocks whose bytes changed, the largest gain first.
    pub native: Vec<NativeGrowth>,
    /// Holders whose bytes changed, the largest gain first.
    pub holders: Vec<HolderGrowth>,
    /// Bytes a second that holders gained which [pass](HolderGrowth::is_passing) and do not become longer all the time;
    /// below 0 where they had more before.
    pub passing_bytes: f64,
    /// Bytes a second that containers had more at the second look which become longer and shorter in turn; below 0 where they
    /// had more before.
    pub swinging_bytes: f64,
    /// What became larger in one step, the most first.
    pub steps: Vec<GrowthStep>,
    /// Bytes per second gained by all live blocks, without those steps.
    pub steady_bytes: f64,
    /// Whether that is more than a program's memory normally varies.
    pub is_growing: bool,
    /// Growth of live blocks by less than this between the two is what any program's memory does.
    pub noise_bytes: f64,
}

impl Growth {
    /// What grew from one census to a later one of the same process; `None` if no time passed
    /// between them.
    pub fn between(earlier: &Census, later: &Census) -> Option<Self> {
        let elapsed_ns = later.taken_at_ns.checked_sub(earlier.taken_at_ns)?;
        let clock = Clock::of(elapsed_ns)?;
        let live = clock.rate(earlier.live, later.live);
        let steps = steps(earlier, later);
        let in_steps: f64 = steps.iter().map(|step| step.bytes).sum();
        let steady_bytes = live.bytes - in_steps / clock.seconds;
        let noise_bytes = NOISE_BYTES.max(later.live.bytes as f64 * NOISE_SHARE);
        let holders = holders(earlier, later, clock);
        let typed = |census: &Census| Amount {
            blocks: (census.types.iter().map(|row| row.objects.blocks))
                .fold(0, u64::saturating_add),
            bytes: census.typed_bytes(),
        };
        Some(Self {
            elapsed_ns,
            live,
            typed: clock.rate(typed(earlier), typed(later)),
            unreached: clock.rate(earlier.unreached, later.unreached),
            cycles: clock.rate(earlier.cycles, later.cycles),
            held_unseen: clock.rate(earlier.held_unseen, later.held_unseen),
            most_unreached: most_unreached(earlier, later, clock),
            types: types_by(earlier, later, clock, |row| Amount {
                blocks: row.objects.blocks,
                bytes: row.objects.bytes.saturating_add(row.storage.bytes),
            }),
            native: native(earlier, later, clock),
            passing_bytes: passing::gained(earlier, later, &holders) / clock.seconds,
            swinging_bytes: swings::swung(earlier, later, &holders) / clock.seconds,
            holders,
            is_growing: steady_bytes * clock.seconds > noise_bytes,
            noise_bytes,
            steps,
            steady_bytes,
        })
    }

    /// The largest one-step growth, if it exceeds normal variation.
    pub fn notable_step(&self) -> Option<&GrowthStep> {
        self.steps.first().filter(|step| step.bytes > NOISE_BYTES)
    }

    /// The time between the two, in seconds.
    pub fn seconds(&self) -> f64 {
        self.elapsed_ns as f64 / 1e9
    }

    /// The sort key of tables that show growth: a small gain counts as none.
    pub fn rank(&self, bytes_a_second: f64) -> u64 {
        ranked(bytes_a_second, self.elapsed_ns) as u64
    }

    /// The growth of a type, per second; 0 if it did not change.
    pub fn of_type(&self, name: &str) -> Rate {
        let found = self.types.iter().find(|of| of.name == name);
        found.map(|of| of.rate).unwrap_or_default()
    }

    /// The rate of native blocks of a size class.
    pub fn of_native(&self, allocator: Allocator, class: SizeClass) -> Rate {
        let mut all = self.native.iter();
        let found = all.find(|of| (of.allocator, of.class) == (allocator, class));
        found.map(|of| of.rate).unwrap_or_default()
    }

    /// The gain of the holder at this index: no bytes if its retained size did not change.
    pub fn gain_of_holder(&self, holder: usize) -> Gain {
        let of = self.of_holder(holder);
        Gain {
            bytes: Some(of.map_or(0.0, |of| of.bytes)),
            objects: of.and_then(|of| of.items),
        }
    }

    /// What a table shows the holder at this place to gain; what running functions have in hand counts where the verdict
    /// counts it.
    pub fn shown_gain_of_holder(&self, holder: usize, counts_passing: bool) -> HolderGain {
        let Some(of) = self.of_holder(holder) else {
            return HolderGain::Bytes(0.0);
        };
        let bytes = of.held_bytes();
        let is_little = self.rank(bytes.abs()) == 0;
        match of.course {
            _ if is_little || of.counts(counts_passing) => HolderGain::Bytes(bytes),
            Some(course) if course.is_up_and_down() => HolderGain::UpAndDown,
            _ => HolderGain::InHand,
        }
    }

    /// What a container loses at once that becomes longer and shorter in turn, in bytes; `None` where that was not counted.
    pub fn swing_of(&self, of: &HolderGrowth, holder: &Holder) -> Option<f64> {
        swings::swing_of(of, holder)
    }

    /// Of a holder and its place, the branch that gains most of what it gains; `None` where that is where
    /// its path leads.
    pub fn branch_of<'h>(&self, at: usize, holder: &'h Holder) -> Option<&'h Branch> {
        holder.branches.get(self.of_holder(at)?.branch?)
    }

    /// Growth of the holder at this index; `None` if its retained size did not change.
    pub fn of_holder(&self, holder: usize) -> Option<&HolderGrowth> {
        self.holders.iter().find(|of| of.holder == holder)
    }
}

/// The key for sorting a gain in bytes per second that lasted `elapsed_ns`: a small total gain
/// counts as 0.
pub(crate) fn ranked(bytes_a_second: f64, elapsed_ns: u64) -> f64 {
    match bytes_a_second * elapsed_ns as f64 / 1e9 > RANKED_BYTES {
        true => bytes_a_second,
        false => 0.0,
    }
}

/// The time between two censuses.
#[derive(Copy, Clone)]
struct Clock {
    seconds: f64,
}

impl Clock {
    fn of(elapsed_ns: u64) -> Option<Self> {
        (elapsed_ns > 0).then(|| Self {
            seconds: elapsed_ns as f64 / 1e9,
        })
    }

    fn gained(self, before: u64, now: u64) -> f64 {
        (now as f64 - before as f64) / self.seconds
    }

    fn rate(self, before: Amount, now: Amount) -> Rate {
        Rate {
            blocks: self.gained(before.blocks, now.blocks),
            bytes: self.gained(before.bytes, now.bytes),
        }
    }
}

/// Pairs of old and new amounts, by key; an amount missing on one side is zero there.
fn pairs<K: Eq + std::hash::Hash + Copy>(
    before: impl Iterator<Item = (K, Amount)>,
    now: impl Iterator<Item = (K, Amount)>,
) -> HashMap<K, (Amount, Amount)> {
    let mut all: HashMap<K, (Amount, Amount)> = HashMap::new();
    for (key, amount) in before {
        all.entry(key).or_default().0 = amount;
    }
    for (key, amount) in now {
        all.entry(key).or_default().1 = amount;
    }
    all
}

fn most_unreached(earlier: &Census, later: &Census, clock: Clock) -> Option<TypeGrowth> {
    let mut all = types_by(earlier, later, clock, |row| row.unreached);
    all.retain(|of| of.rate.bytes > 0.0);
    // Types of modules have the module's name in theirs.
    let own = all.iter().position(|of| of.name.contains('.'));
    let at = own.unwrap_or(0);
    (at < all.len()).then(|| all.swap_remove(at))
}

/// Types whose value changed, the largest gain first.
fn types_by(
    earlier: &Census,
    later: &Census,
    clock: Clock,
    of: impl Fn(&TypeRow) -> Amount,
) -> Vec<TypeGrowth> {
    let of = &of;
    let before = earlier.types.iter().map(|row| (row.name.as_str(), of(row)));
    let now = later.types.iter().map(|row| (row.name.as_str(), of(row)));
    let all = pairs(before, now).into_iter();
    let changed = all.filter(|(_, (before, now))| before != now);
    let mut grown: Vec<TypeGrowth> = changed
        .map(|(name, (before, now))| TypeGrowth {
            name: name.to_owned(),
            rate: clock.rate(before, now),
        })
        .collect();
    grown.sort_by(|a, b| most_first(a.rate.bytes, b.rate.bytes).then_with(|| a.name.cmp(&b.name)));
    grown
}

fn native(earlier: &Census, later: &Census, clock: Clock) -> Vec<NativeGrowth> {
    fn amounts(census: &Census) -> impl Iterator<Item = ((Allocator, SizeClass), Amount)> + '_ {
        let rows = census.native.iter();
        rows.map(|row: &NativeRow| ((row.allocator, row.class), row.native))
    }
    let all = pairs(amounts(earlier), amounts(later)).into_iter();
    let changed = all.filter(|(_, (before, now))| before != now);
    let mut grown: Vec<NativeGrowth> = changed
        .map(|((allocator, class), (before, now))| NativeGrowth {
            allocator,
            class,
            rate: clock.rate(before, now),
        })
        .collect();
    let key = |of: &NativeGrowth| (of.allocator, of.class);
    grown.sort_by(|a, b| most_first(a.rate.bytes, b.rate.bytes).then(key(a).cmp(&key(b))));
    grown
}

fn holders(earlier: &Census, later: &Census, clock: Clock) -> Vec<HolderGrowth> {
    // A holder that was not kept retained at most as much as the smallest that was.
    let unseen = match earlier.holders.last() {
        Some(least) if earlier.holders.len() >= SHOWN => least.held_bytes(),
        _ => 0,
    };
    let mut all_before = earlier.holders.iter();
    let is_recorded = all_before.all(|holder| holder.mapped_bytes.is_some());
    // Courses are of the time between two censuses: of others they say nothing.
    let is_counted = later.counted_since_ns == Some(earlier.taken_at_ns);
    let mut grown = Vec::new();
    let before = counterparts(&earlier.holders, &later.holders);
    for (at, (holder, was)) in later.holders.iter().zip(before).enumerate() {
        let bytes = match was {
            Some(was) => clock.gained(was.retained_bytes, holder.retained_bytes),
            None => clock.gained(unseen.min(holder.retained_bytes), holder.retained_bytes),
        };
        let mapped_before = match was {
            Some(was) => was.mapped_bytes,
            None => is_recorded.then_some(unseen.min(holder.mapped_bytes.unwrap_or(0))),
        };
        let mapped = mapped_before.zip(holder.mapped_bytes);
        let mapped_bytes = mapped.map(|(before, now)| clock.gained(before, now));
        let branch = was.and_then(|was| growing_branch(was, holder, bytes, clock));
        let (course, pace) = match branch {
            Some((branch, _)) => (holder.branches[branch].course, holder.branches[branch].pace),
            None => (holder.course, holder.pace),
        };
        let (course, pace) = (course.filter(|_| is_counted), pace.filter(|_| is_counted));
        let is_changed = bytes != 0.0 || mapped_bytes.is_some_and(|gained| gained != 0.0);
        if is_changed || course.is_some() {
            let of = HolderGrowth {
                holder: at,
                bytes,
                mapped_bytes,
                has_more: was.is_none_or(|was| has_more(was, holder)),
                is_passing: passing::is_passing(holder),
                is_same: was.is_some_and(|was| passing::is_same(was, holder)),
                course,
                pace,
                swing_bytes: 0.0,
                branch: branch.map(|(branch, _)| branch),
                at_largest: was.and_then(|was| items(was, holder, clock)),
                items: match (branch, was) {
                    (Some((_, items)), _) => items,
                    (None, Some(was)) => items(was, holder, clock),
                    // What was smaller than all that were kept has nearly all its items anew.
                    (None, None) if unseen <= holder.retained_bytes / NEARLY_NONE => {
                        Some(clock.gained(0, holder.items))
                    }
                    (None, None) => None,
                },
            };
            grown.push(swings::without_swing(of, was, holder, clock));
        }
    }
    grown.sort_by(|a, b| most_first(a.bytes, b.bytes).then(a.holder.cmp(&b.holder)));
    grown
}

/// Whether more is held, rather than in larger tables.
fn has_more(was: &Holder, now: &Holder) -> bool {
    let length = |holder: &Holder| holder.path.last().and_then(|step| step.length);
    let entries = length(now) > length(was).map(|length| length.saturating_add(1));
    entries || now.retained_blocks > was.retained_blocks.saturating_add(1)
}

/// What became larger without more objects or entries: for each type, and for all single native
/// blocks.
fn steps(earlier: &Census, later: &Census) -> Vec<GrowthStep> {
    let before: HashMap<&str, &TypeRow> =
        (earlier.types.iter().map(|row| (row.name.as_str(), row))).collect();
    let nothing = TypeRow::default();
    let of_type = |now: &TypeRow| GrowthStep {
        type_name: Some(now.name.clone()),
        bytes: {
            let was = before.get(now.name.as_str()).copied().unwrap_or(&nothing);
            stepped(was.objects, now.objects) + enlarged(was, now)
        },
    };
    let mut steps: Vec<GrowthStep> = later.types.iter().map(of_type).collect();
    let class = |row: &NativeRow| (row.allocator, row.class);
    let rows = |census: &Census| census.native.clone().into_iter();
    let all = pairs(
        rows(earlier).map(|row| (class(&row), row.native)),
        rows(later).map(|row| (class(&row), row.native)),
    );
    let single = all
        .into_values()
        .filter(|(was, now)| was.blocks.abs_diff(now.blocks) <= 1);
    let native = single
        .map(|(was, now)| now.bytes as f64 - was.bytes as f64)
        .sum();
    steps.push(GrowthStep {
        type_name: None,
        bytes: native,
    });
    steps.retain(|step| step.bytes > 0.0);
    steps.sort_by(|a, b| most_first(a.bytes, b.bytes).then_with(|| a.type_name.cmp(&b.type_name)));
    steps
}

/// The gain of blocks whose number grew by at most one.
fn stepped(was: Amount, now: Amount) -> f64 {
    match now.blocks <= was.blocks.saturating_add(1) {
        true => now.bytes.saturating_sub(was.bytes) as f64,
        false => 0.0,
    }
}

/// The gain of containers' storage beyond what their entries, or the number of its blocks, account
/// for.
fn enlarged(was: &TypeRow, now: &TypeRow) -> f64 {
    if now.entries == 0 {
        return 0.0;
    }
    let gained = now.storage.bytes.saturating_sub(was.storage.bytes) as f64;
    let share = |was: u64, now: u64| now.saturating_sub(was) as f64 / now.max(1) as f64;
    let entries = share(was.entries, now.entries);
    let blocks = share(was.storage.blocks, now.storage.blocks);
    (gained - entries.max(blocks) * now.storage.bytes as f64).max(0.0)
}

/// Items gained by the place where a holder's bytes spread out, if its items have the same type as
/// before. Container lengths are from the time they were read, which is later than the walk.
fn items(was: &Holder, now: &Holder, clock: Clock) -> Option<f64> {
    let same = now.item_type.is_some() && was.item_type == now.item_type;
    same.then(|| clock.gained(was.items, now.items))
}

/// The branch that gains at least half of the bytes that a holder gains per second, and the number
/// of items of its type.
fn growing_branch(
    was: &Holder,
    now: &Holder,
    gained: f64,
    clock: Clock,
) -> Option<(usize, Option<f64>)> {
    // A branch that was not kept had at most as much as the smallest that was, and nothing if all
    // were kept.
    let unseen = match was.branches.last() {
        Some(least) if was.branches.len() >= MAX_BRANCHES => least.retained_bytes,
        _ => 0,
    };
    let is_same = |a: &PathStep, b: &PathStep| {
        (&a.type_name, &a.attribute, a.via) == (&b.type_name, &b.attribute, b.via)
    };
    let gains = now.branches.iter().enumerate().filter_map(|(at, branch)| {
        let mut before = was.branches.iter();
        let before = before.find(|before| before.object == branch.object);
        // If this was the largest place before, there is no branch to compare with.
        let was_largest = was.path.len() == branch.path.len()
            && was
                .path
                .iter()
                .zip(&branch.path)
                .all(|(a, b)| is_same(a, b));
        if before.is_none() && was_largest {
            return None;
        }
        let least = before.map_or(unseen, |before| before.retained_bytes);
        let gain = clock.gained(least, branch.retained_bytes);
        // One that is not new was somewhere else below the holder before: it has more than the holder gained.
        let may_be_new = before.is_some() || gain <= gained * MOST_OF_NEW;
        may_be_new.then_some((at, before, gain))
    });
    let (at, before, gain) = gains.max_by(|a, b| a.2.total_cmp(&b.2).then(b.0.cmp(&a.0)))?;
    let branch = &now.branches[at];
    let before = before.filter(|before| before.item_type == branch.item_type);
    let items = before.filter(|before| before.item_type.is_some());
    (gain > 0.0 && gain * 2.0 >= gained).then(|| {
        let items = items.map(|before| clock.gained(before.items, branch.items));
        (at, items)
    })
}

/// The most growth first, what shrinks last.
fn most_first(a: f64, b: f64) -> Ordering {
    b.total_cmp(&a)
}

#[cfg(test)]
mod tests;
