//! What grows: two censuses of one process, compared.

use std::cmp::Ordering;

use hashbrown::HashMap;

use super::census::{Amount, Census, Holder, NativeRow, TypeRow};
use super::holders::REPORTED;
use crate::allocator::Allocator;
use crate::size_class::SizeClass;

/// Growth of less than this between two censuses is what any program's memory does.
const NOISE_BYTES: f64 = 64.0 * 1024.0;
/// So is growth by less than this share of what is live.
const NOISE_SHARE: f64 = 0.001;

/// What is gained a second, or lost where it is below zero.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Rate {
    /// Blocks a second: of a type, objects without their storage.
    pub blocks: f64,
    /// Bytes a second: of a type, with its storage.
    pub bytes: f64,
}

/// Growth of one type.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeGrowth {
    /// The type, as [`TypeRow::name`] has it.
    pub name: String,
    /// Its rate.
    pub rate: Rate,
}

/// Growth of the blocks of one size class that no object owns.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct NativeGrowth {
    /// Whose.
    pub allocator: Allocator,
    /// Of which sizes.
    pub class: SizeClass,
    /// Its rate.
    pub rate: Rate,
}

/// Growth of what a name holds.
#[derive(Clone, Debug, PartialEq)]
pub struct HolderGrowth {
    /// Its place in [`Census::holders`] of the later census.
    pub holder: usize,
    /// Bytes that it retains more a second. Of one that was not among the largest before it is the
    /// least that it can be.
    pub bytes: f64,
    /// Objects of its items' type that the place where its bytes spread out gains a second; `None` where
    /// most were of another type before.
    pub items: Option<f64>,
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
    /// Types whose bytes changed, the most first.
    pub types: Vec<TypeGrowth>,
    /// Native blocks whose bytes changed, the most first.
    pub native: Vec<NativeGrowth>,
    /// Holders whose bytes changed, the most first.
    pub holders: Vec<HolderGrowth>,
    /// Whether all live blocks together grew by more than a program's memory does by itself.
    pub is_growing: bool,
}

impl Growth {
    /// What grew from one census to a later one of the same process; `None` where no time has passed
    /// between them.
    pub fn between(earlier: &Census, later: &Census) -> Option<Self> {
        let elapsed_ns = later.taken_at_ns.checked_sub(earlier.taken_at_ns)?;
        let clock = Clock::of(elapsed_ns)?;
        let live = clock.rate(earlier.live, later.live);
        let gained = live.bytes * elapsed_ns as f64 / 1e9;
        let typed = |census: &Census| Amount {
            blocks: (census.types.iter().map(|row| row.objects.blocks))
                .fold(0, u64::saturating_add),
            bytes: census.typed_bytes(),
        };
        Some(Self {
            elapsed_ns,
            live,
            typed: clock.rate(typed(earlier), typed(later)),
            types: types(earlier, later, clock),
            native: native(earlier, later, clock),
            holders: holders(earlier, later, clock),
            is_growing: gained > NOISE_BYTES.max(later.live.bytes as f64 * NOISE_SHARE),
        })
    }

    /// Bytes a second of a type; 0 where they did not change.
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

    /// Growth of the holder at this place; `None` where what it retains did not change.
    pub fn of_holder(&self, holder: usize) -> Option<&HolderGrowth> {
        self.holders.iter().find(|of| of.holder == holder)
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

/// Pairs of what was and what is, by a key; what is on one side alone was, or is, nothing.
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

fn types(earlier: &Census, later: &Census, clock: Clock) -> Vec<TypeGrowth> {
    fn amounts(census: &Census) -> impl Iterator<Item = (&str, Amount)> {
        census.types.iter().map(|row: &TypeRow| {
            let bytes = row.objects.bytes.saturating_add(row.storage.bytes);
            let blocks = row.objects.blocks;
            (row.name.as_str(), Amount { blocks, bytes })
        })
    }
    let all = pairs(amounts(earlier), amounts(later)).into_iter();
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

/// The names of a holder, in an order of their own: which of those who share something comes first may
/// change.
fn names(holder: &Holder) -> Vec<&str> {
    let others = holder.shared_with.iter();
    let mut names: Vec<&str> = others.chain([&holder.name]).map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn holders(earlier: &Census, later: &Census, clock: Clock) -> Vec<HolderGrowth> {
    // Variables of a function that runs in several threads have one name: the largest with the largest.
    let mut before: HashMap<Vec<&str>, Vec<&Holder>> = HashMap::new();
    for holder in earlier.holders.iter().rev() {
        before.entry(names(holder)).or_default().push(holder);
    }
    // What was not reported retained no more than the least that was.
    let unseen = match earlier.holders.last() {
        Some(least) if earlier.holders.len() >= REPORTED => least.retained_bytes,
        _ => 0,
    };
    let mut grown = Vec::new();
    for (at, holder) in later.holders.iter().enumerate() {
        let was = before.get_mut(&names(holder)).and_then(Vec::pop);
        let bytes = match was {
            Some(was) => clock.gained(was.retained_bytes, holder.retained_bytes),
            None => clock.gained(unseen.min(holder.retained_bytes), holder.retained_bytes),
        };
        if bytes != 0.0 {
            grown.push(HolderGrowth {
                holder: at,
                bytes,
                items: was.and_then(|was| items(was, holder, clock)),
            });
        }
    }
    grown.sort_by(|a, b| most_first(a.bytes, b.bytes).then(a.holder.cmp(&b.holder)));
    grown
}

/// What the place where a holder's bytes spread out gains, if it has the same type of items as before.
/// Lengths of containers are of when they were read, which is later than the walk.
fn items(was: &Holder, now: &Holder, clock: Clock) -> Option<f64> {
    let same = now.item_type.is_some() && was.item_type == now.item_type;
    same.then(|| clock.gained(was.items, now.items))
}

/// The most growth first, what shrinks last.
fn most_first(a: f64, b: f64) -> Ordering {
    b.total_cmp(&a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, objects: u64, bytes: u64) -> TypeRow {
        TypeRow {
            name: name.into(),
            objects: Amount {
                blocks: objects,
                bytes,
            },
            ..TypeRow::default()
        }
    }

    fn holder(name: &str, shared_with: &[&str], retained_bytes: u64, items: u64) -> Holder {
        Holder {
            name: name.into(),
            shared_with: shared_with.iter().map(|&name| name.to_owned()).collect(),
            retained_bytes,
            item_type: Some("Order".into()),
            items,
            ..Holder::default()
        }
    }

    fn census(taken_at_ns: u64, live: u64) -> Census {
        Census {
            taken_at_ns,
            live: Amount {
                blocks: live / 64,
                bytes: live,
            },
            ..Census::default()
        }
    }

    #[test]
    fn what_is_gained_is_given_by_the_second_and_the_most_first() {
        let mut earlier = census(1_000_000_000, 1 << 20);
        let mut later = census(5_000_000_000, 3 << 20);
        earlier.types = vec![row("dict", 10, 1000), row("gone", 4, 400)];
        later.types = vec![
            row("Order", 40, 4000),
            row("dict", 10, 1000),
            row("set", 1, 4),
        ];
        earlier.holders = vec![holder("b", &["a"], 100, 7), holder("c", &[], 900, 9)];
        later.holders = vec![holder("a", &["b"], 4100, 47), holder("d", &[], 40, 1)];
        let class = SizeClass::of(88);
        later.native = vec![NativeRow {
            allocator: Allocator::Glibc,
            class,
            native: Amount {
                blocks: 8,
                bytes: 704,
            },
        }];
        let growth = Growth::between(&earlier, &later).expect("time has passed");
        assert!(growth.is_growing);
        assert_eq!(growth.live.bytes, (2u64 << 20) as f64 / 4.0);
        let types: Vec<_> = growth.types.iter().map(|of| of.name.as_str()).collect();
        assert_eq!(types, ["Order", "set", "gone"]);
        let order = growth.of_type("Order");
        assert_eq!((order.blocks, order.bytes), (10.0, 1000.0));
        assert_eq!(growth.of_type("gone").bytes, -100.0);
        assert_eq!(growth.of_type("dict"), Rate::default());
        assert_eq!(growth.of_native(Allocator::Glibc, class).blocks, 2.0);
        let shared = growth.of_holder(0).expect("it grew");
        assert_eq!((shared.bytes, shared.items), (1000.0, Some(10.0)));
        let new = growth.of_holder(1).expect("it is new");
        assert_eq!((new.bytes, new.items), (10.0, None));
    }

    #[test]
    fn what_was_not_among_the_largest_grew_by_what_it_must_have() {
        let mut earlier = census(0, 0);
        let mut later = census(1_000_000_000, 0);
        earlier.holders = (0..REPORTED)
            .map(|nth| holder(&nth.to_string(), &[], 500, 1))
            .collect();
        later.holders = vec![holder("new", &[], 800, 1), holder("small", &[], 300, 1)];
        let growth = Growth::between(&earlier, &later).expect("time has passed");
        assert_eq!(growth.of_holder(0).map(|of| of.bytes), Some(300.0));
        assert_eq!(growth.of_holder(1), None);
    }

    #[test]
    fn a_little_is_no_growth_and_no_time_gives_none() {
        let (earlier, later) = (
            census(5, 1 << 30),
            census(2_000_000_005, (1 << 30) + 70_000),
        );
        let growth = Growth::between(&earlier, &later).expect("time has passed");
        assert!(!growth.is_growing);
        assert_eq!(Growth::between(&later, &earlier), None);
        assert_eq!(Growth::between(&later, &later), None);
    }
}
