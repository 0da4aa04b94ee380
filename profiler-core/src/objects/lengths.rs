//! How many items containers have between two censuses: counted several times while the process runs on. Two censuses alone
//! cannot tell a container that becomes longer all the time from one that becomes longer and shorter in turn.
//!
//! A container is found by the word through which its name refers to it: a program that binds the name to a new container
//! each time is counted as one that clears it.

mod course;

use std::cmp::Reverse;

use super::census::{Binding, Census, Holder};
use super::words::{read_word, word};
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;

pub use self::course::{Course, Pace};

/// Containers that are counted at most, those of the holders that retain most.
const MAX_COUNTED: usize = 256;
/// Counts of each that are kept: of a session that lasts, every other one goes.
const MAX_COUNTS: usize = 256;
/// Where a number of items is as large as this, it is none: the container is gone.
const MAX_LENGTH: u64 = 1 << 40;
/// The largest head of an object that has its number of items.
const MAX_HEAD: usize = 64;
/// The lowest bits of a word on a frame's stack say how it refers to an object (since 3.14).
const TAG: u64 = 7;

/// Where the number of a container's items is.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct LengthAt {
    /// In memory, when the census was taken.
    pub at: RemoteAddr,
    /// The container that has it, so that it can be found again; `None` in files, and where nothing but the number is
    /// known.
    pub container: Option<Container>,
}

/// How a container is found again.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Container {
    /// Where it was when the census was taken.
    pub at: RemoteAddr,
    /// The address of its type.
    pub of_type: u64,
    /// The word that refers to it: what that refers to later is the container then. `None` where that was not found.
    pub place: Option<RemoteAddr>,
}

impl LengthAt {
    /// The number as it is now; `None` where the container is gone, or another type of object is in its place.
    fn read<M: TargetMemory>(&self, memory: &M) -> Option<u64> {
        let Some(container) = self.container else {
            return read_word(memory, self.at.get());
        };
        let now = match container.place {
            Some(place) => read_word(memory, place.get())? & !TAG,
            None => container.at.get(),
        };
        let offset = self.at.get().checked_sub(container.at.get())?;
        let mut head = [0; MAX_HEAD];
        let head = head.get_mut(..usize::try_from(offset).ok()?.checked_add(8)?)?;
        memory.read(RemoteAddr::new(now), head).ok()?;
        let is_same = word(head, 8) == Some(container.of_type);
        // It may have been freed just now.
        let is_there = container.place.is_none_or(|place| {
            read_word(memory, place.get()).is_some_and(|word| word & !TAG == now)
        });
        (is_same && is_there).then(|| word(head, offset))?
    }

    /// Whether its name refers by the same word to the container of a later census.
    fn is_followed_to(&self, later: &Self) -> bool {
        let place = |of: &Self| of.container?.place;
        place(self).is_some() && place(self) == place(later)
    }

    /// Whether the container of a later census is at the same address.
    fn is_at(&self, later: &Self) -> bool {
        let of_type = |of: &Self| of.container.map(|container| container.of_type);
        self.at == later.at && of_type(self) == of_type(later)
    }
}

/// Counts of the items of containers since a census.
#[derive(Clone, Debug, Default)]
pub struct Lengths {
    /// When the walk of that census was.
    since_ns: u64,
    all: Vec<Counted>,
    /// Names of the program, and the words that each was last seen to be.
    bindings: Vec<(Binding, Option<u64>)>,
}

/// A container that is counted.
#[derive(Clone, Debug)]
struct Counted {
    length: LengthAt,
    /// The names that have it.
    names: Vec<String>,
    /// What the first of them refers to.
    object: Option<RemoteAddr>,
    counts: Counts,
}

/// Counts of one container, evenly spread over the time.
#[derive(Clone, Debug, Default)]
struct Counts {
    /// When, and what.
    kept: Vec<(u64, u64)>,
    /// Of 2 to the power of this many counts one is kept.
    thinned: u32,
    /// How many there were.
    seen: u64,
}

impl Counts {
    fn add(&mut self, time_ns: u64, length: u64) {
        let is_kept = self.seen.trailing_zeros() >= self.thinned;
        self.seen += 1;
        if !is_kept {
            return;
        }
        if self.kept.len() >= MAX_COUNTS {
            let mut nth = 0;
            self.kept.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
            self.thinned += 1;
        }
        self.kept.push((time_ns, length));
    }
}

impl Lengths {
    /// Of the containers in which the bytes of the largest holders spread out, none counted yet.
    pub fn of(census: &Census) -> Self {
        let mut places: Vec<(u64, LengthAt, &Holder)> = Vec::new();
        for holder in &census.holders {
            places.extend(
                holder
                    .length_at
                    .map(|at| (holder.retained_bytes, at, holder)),
            );
            let branches = holder.branches.iter();
            places
                .extend(branches.filter_map(|of| Some((of.retained_bytes, of.length_at?, holder))));
        }
        places.sort_by_key(|(bytes, length, _)| (Reverse(*bytes), length.at));
        places.truncate(MAX_COUNTED);
        let all = places.into_iter().map(|(_, length, holder)| Counted {
            length,
            names: holder.names_as_shown(),
            object: holder.object,
            counts: Counts::default(),
        });
        Self {
            since_ns: census.taken_at_ns,
            all: all.collect(),
            bindings: census
                .bindings
                .iter()
                .map(|of| (of.clone(), None))
                .collect(),
        }
    }

    /// Counts them once more, at this time.
    pub fn count<M: TargetMemory>(&mut self, time_ns: u64, memory: &M) {
        for counted in &mut self.all {
            let length = counted.length.read(memory);
            if let Some(length) = length.filter(|length| *length < MAX_LENGTH) {
                counted.counts.add(time_ns, length);
            }
        }
        for (binding, last) in &mut self.bindings {
            let now = read_word(memory, binding.place.get());
            let is_other = now.is_some_and(|now| last.is_some_and(|last| last != now));
            binding.rebound += u64::from(is_other);
            *last = now.or(*last);
        }
    }

    /// Gives the containers of a later census their courses: those that are where they were, and those that the same name
    /// refers to in the same place.
    pub fn give_courses(&self, census: &mut Census) {
        census.counted_since_ns = Some(self.since_ns);
        for binding in &mut census.bindings {
            let mut before = self.bindings.iter().map(|(before, _)| before);
            let before = before.find(|of| of.place == binding.place && of.name == binding.name);
            binding.rebound = before.map_or(0, |before| before.rebound);
        }
        census.bindings.retain(|of| of.rebound > 0);
        for holder in &mut census.holders {
            let drawn = self.drawn(holder, holder.length_at);
            let of_branches: Vec<_> = (holder.branches.iter())
                .map(|branch| self.drawn(holder, branch.length_at))
                .collect();
            (holder.course, holder.pace) = drawn.unzip();
            for (branch, drawn) in holder.branches.iter_mut().zip(of_branches) {
                (branch.course, branch.pace) = drawn.unzip();
            }
        }
    }

    /// The course of a container of a holder.
    fn drawn(&self, holder: &Holder, length: Option<LengthAt>) -> Option<(Course, Pace)> {
        let length = length?;
        // An address, and a place, may be something else's by now: the name says whose it is.
        let names = holder.names();
        let is_it = |counted: &&Counted| {
            let is_same = counted.object == holder.object && counted.length.is_at(&length);
            (is_same || counted.length.is_followed_to(&length))
                && counted
                    .names
                    .iter()
                    .any(|name| names.contains(&name.as_str()))
        };
        let counted = self.all.iter().find(is_it)?;
        Course::of(&counted.counts.kept)
    }
}

#[cfg(test)]
mod tests;
