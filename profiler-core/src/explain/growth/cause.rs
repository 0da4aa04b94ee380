//! What makes live blocks grow.

use std::cmp::Reverse;

use super::gains::gains_unreached;
use super::growing::{Growing, NEARLY_ALL};
use super::words::{LEAK, Place, gains, rate};
use crate::allocator::Allocator;
use crate::objects::{
    Binding, Census, Course, Growth, Holder, HolderGrowth, NativeGrowth, TypeGrowth,
};
use crate::units::{bytes, count};
use crate::worth::{MOST, is_named_for_gaining};

/// Modules created at run time are mentioned from this number on.
const LEAST_MODULES: f64 = 16.0;
/// Fewer blocks than this, of this size each or more, may be one that is made anew: both looks find it or a copy of it.
const FEW_BLOCKS: f64 = 16.0;
const LARGE_BYTES: f64 = (1 << 20) as f64;
/// A name was bound to a new object this often, so that it is said to be,
const LEAST_REBOUND: u64 = 2;
/// and this many such names are named.
const MAX_NAMED: usize = 3;
/// Two names that gain more than this share of everything together gain the same bytes.
const BOTH: f64 = 1.2;

/// What makes live blocks grow: a name that gains, else a type, else native blocks.
pub(super) fn cause(census: &Census, growth: &Growth, growing: &Growing) -> String {
    let native = growth.live.bytes - growth.typed.bytes - growing.unowned;
    let is_native = native > growth.typed.bytes;
    let of_native = || {
        is_native
            .then(|| of_native_blocks(census, growth, growing))
            .flatten()
    };
    if let Some(text) = of_native().or_else(|| of_names(census, growth, growing)) {
        return text;
    }
    // Items of a table that moved between a walk and its reading may appear to have no holder, so
    // names that gain them come first.
    if growing.unreached >= growing.live * MOST {
        return of_nobody(census, growth);
    }
    if let Some(text) = of_one_that_becomes_larger(census, growth, growing) {
        return text;
    }
    match is_native {
        true => {
            "native blocks that no Python object owns: of many sizes, or a few that become larger"
                .to_owned()
        }
        false => more_modules(growth).unwrap_or_else(|| of_types(census, growth, growing)),
    }
}

/// Modules created while the program runs: each is a name of its own and holds little.
fn more_modules(growth: &Growth) -> Option<String> {
    let modules = growth.of_type("module").blocks;
    let gained = modules * growth.seconds();
    let own = ["function", "code", "dict", "type"].map(|of| growth.of_type(of).bytes);
    let own: f64 = own.into_iter().filter(|bytes| *bytes > 0.0).sum();
    (gained >= LEAST_MODULES && own >= growth.typed.bytes * MOST).then(|| {
        format!(
            "{} more `module` a second with functions and classes of their own, which `sys.modules` has: made while \
             the program runs, as by `exec` or `importlib`, and not taken out again",
            count(modules.round().max(1.0) as u64)
        )
    })
}

/// Native blocks of one size that become more.
fn of_native_blocks(census: &Census, growth: &Growth, growing: &Growing) -> Option<String> {
    // What does not become more blocks becomes larger.
    let is_more = |of: &&NativeGrowth| {
        let is_freed = growing.unowned > 0.0 && of.allocator == Allocator::Pymalloc;
        // One more is a block that moved to a larger class.
        of.rate.blocks * growth.seconds() >= 2.0
            && is_named_for_gaining(of.rate.bytes, growing.live)
            && !is_freed
    };
    let of = growth.native.iter().find(is_more)?;
    let is_few = of.rate.blocks * growth.seconds() < FEW_BLOCKS;
    if !census.exact && is_few && of.rate.bytes >= of.rate.blocks * LARGE_BYTES {
        // What an object had at the walk, and has no more when objects are read, looks as if nobody owned it.
        return Some(format!(
            "a few blocks of up to {} in {}, of which no owner was found when objects were read: native code has them, or an \
             object that is made anew again and again, each time larger{}; a look at objects while the target stands still \
             shows which",
            bytes(of.class.upper_bytes()),
            of.allocator.name(),
            made_anew(census)
        ));
    }
    Some(format!(
        "native blocks of up to {} in {} that no Python object owns, {}: what allocates \
         them is in native code (`fragscope attach`, screen Activity, shows whether any is freed)",
        bytes(of.class.upper_bytes()),
        of.allocator.name(),
        more_blocks(of.rate.blocks, growth)
    ))
}

/// The type that gained most objects.
fn most_objects(growth: &Growth) -> Option<&TypeGrowth> {
    growth.types.iter().find(|of| of.rate.blocks >= 1.0)
}

/// A name that gains, or several of one name together.
fn of_names(census: &Census, growth: &Growth, growing: &Growing) -> Option<String> {
    let grown = growth.holders.iter();
    let grown = grown.filter(|of| of.counts(growing.counts_passing));
    let grown = grown.filter(|of| of.has_more || growing.in_steps);
    let grown = grown.filter_map(|of| Some((of, census.holders.get(of.holder)?)));
    let mut grown: Vec<_> = grown.collect();
    // What stays comes before what may only be temporary.
    grown.sort_by_key(|(of, _)| of.is_passing);
    let by_bytes = |(of, _): &&(&HolderGrowth, _)| is_named_for_gaining(of.bytes, growing.live);
    let by_items = || {
        let mut grown = grown.iter();
        grown.find(|(of, holder)| has_most_objects(of, holder, growth))
    };
    let by_bytes = grown.iter().find(by_bytes);
    if growing.has_more_threads && by_bytes.is_none_or(|(of, _)| of.is_passing) {
        return Some(of_threads(&grown));
    }
    let Some((of, holder)) = by_bytes.or_else(by_items) else {
        return of_one_name(&grown, growing.live);
    };
    if let Some(text) = of_copies(of, holder, census, growth) {
        return Some(text);
    }
    let what = match (holder.is_name, of.is_passing) {
        (true, false) => LEAK,
        (true, true) => "a leak, or work that has not ended",
        (false, _) => "what holds them has no name in the program",
    };
    let said = |of: &HolderGrowth, holder: &Holder| {
        let gained = gains(of, holder, growth, growing.live);
        format!("{} gains {gained}", holder.titled())
    };
    let second = second_of(&grown, (of, holder), growing.live);
    let second = second.map_or_else(String::new, |(of, holder)| {
        format!(", and {}", said(of, holder))
    });
    Some(format!("{}{second}: {what}", said(of, holder)))
}

/// The cause of growth of a process with an increasing number of threads. Each thread's part is
/// small, and the sum is unknown, because names that hold little are not kept.
fn of_threads(grown: &[(&HolderGrowth, &Holder)]) -> String {
    let mut variables: Vec<(&Holder, u64, u64)> = Vec::new();
    let passing = |(of, holder): &&(&HolderGrowth, &Holder)| of.is_passing && holder.is_name;
    for (_, holder) in grown.iter().filter(passing) {
        let mut known = variables.iter_mut();
        match known.find(|(one, ..)| one.name == holder.name) {
            Some((_, many, bytes)) => {
                *many += holder.calls.count;
                *bytes += holder.retained_bytes;
            }
            None => variables.push((holder, holder.calls.count, holder.retained_bytes)),
        }
    }
    let several = variables.into_iter().filter(|(_, many, _)| *many > 1);
    let most = several.max_by_key(|(_, _, bytes)| *bytes);
    let has = most.map_or_else(String::new, |(holder, ..)| {
        format!(", among them {}", holder.titled())
    });
    format!("threads become more, and with them what their functions have in hand{has}")
}

/// A second holder that is named too, provided that its gain is not part of the first one's.
fn second_of<'a>(
    grown: &[(&'a HolderGrowth, &'a Holder)],
    (first, of_first): (&HolderGrowth, &Holder),
    live: f64,
) -> Option<(&'a HolderGrowth, &'a Holder)> {
    let is_around = |holder: &Holder| holder.inner_bytes.unwrap_or(0) > 0;
    if !of_first.is_name || first.is_passing || is_around(of_first) {
        return None;
    }
    let is_second = |(of, holder): &&(&HolderGrowth, &Holder)| {
        let is_one = of.has_more && !of.is_passing && holder.is_name && !is_around(holder);
        is_one && is_named_for_gaining(of.bytes, live) && first.bytes + of.bytes <= live * BOTH
    };
    let mut others = grown.iter().filter(|(of, _)| of.holder != first.holder);
    others.find(is_second).copied()
}

/// Whether it gains most of the objects of the type that gained most. A holder whose table moved
/// since the walk lacks the bytes, but its number of items is known.
fn has_most_objects(of: &HolderGrowth, holder: &Holder, growth: &Growth) -> bool {
    most_objects(growth).is_some_and(|more| {
        let place = Place::of(of, holder, growth);
        place.item_type == Some(more.name.as_str())
            && of.items.unwrap_or(0.0) >= more.rate.blocks * MOST
    })
}

/// One object that becomes larger without more objects being added.
fn of_one_that_becomes_larger(
    census: &Census,
    growth: &Growth,
    growing: &Growing,
) -> Option<String> {
    let counted = growth.holders.iter();
    let counted = counted.filter(|of| of.counts(growing.counts_passing));
    let counted = counted.filter(|of| of.bytes >= growing.live * MOST);
    let mut counted = counted.filter_map(|of| Some((of, census.holders.get(of.holder)?)));
    // A stack that refers to a large block for a moment does not hold it.
    let (larger, holder) = counted.find(|(_, holder)| holder.is_name)?;
    let a_second = rate(larger.bytes.min(growing.live));
    Some(format!(
        "{} becomes larger by {a_second} a second",
        holder.titled()
    ))
}

/// A type whose objects no name holds.
fn of_types(census: &Census, growth: &Growth, growing: &Growing) -> String {
    let names = census.holders.len();
    let is_much = |of: &&TypeGrowth| is_named_for_gaining(of.rate.bytes, growing.live);
    let more = most_objects(growth).filter(is_much);
    let larger = growth.types.first().filter(is_much);
    match (more, larger) {
        (Some(of), _) => format!(
            "{} more `{}` a second, and none of the {names} names that hold most alone holds them",
            count(of.rate.blocks.round() as u64),
            of.name,
        ),
        (None, Some(of)) => format!(
            "`{}` that become larger, and none of the {names} names that hold most alone holds them{}",
            of.name,
            match census.exact {
                true => String::new(),
                false => format!(
                    ", as far as objects show that were read while the target ran: one that is made anew again and again may \
                     have been another by then{}",
                    made_anew(census)
                ),
            }
        ),
        (None, None) => "no single place gains most of it".to_owned(),
    }
}

/// A function that runs in many threads has the same variable name in each, each holding little:
/// the name that gains most in total.
pub(super) fn of_one_name(grown: &[(&HolderGrowth, &Holder)], live: f64) -> Option<String> {
    let mut sums: Vec<(&Holder, f64, usize)> = Vec::new();
    for (of, holder) in grown.iter().filter(|(_, holder)| holder.is_name) {
        match sums.iter_mut().find(|(one, ..)| one.name == holder.name) {
            Some((_, bytes, many)) => {
                *bytes += of.bytes;
                *many += 1;
            }
            None => sums.push((holder, of.bytes, 1)),
        }
    }
    let most = sums.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let (holder, bytes, many) =
        most.filter(|(_, bytes, many)| is_named_for_gaining(*bytes, live) && *many > 1)?;
    // The variables of a recursive function may be nested in one another.
    let gained = rate(bytes.min(live));
    Some(format!(
        "{}, in {} threads or objects, gains {gained} a second: more of these, or more in each",
        holder.titled(),
        count(many as u64)
    ))
}

/// The sentence for growth that is mostly in blocks without a known root.
fn of_nobody(census: &Census, growth: &Growth) -> String {
    let unreached = growth.unreached;
    if !gains_unreached(growth) && !census.exact {
        return match made_anew(census) {
            unknown if unknown.is_empty() => "a few large blocks that are made anew, each time larger; those of the walk were \
                                              gone when objects were read, so that whose they are is not known"
                .to_owned(),
            likely => format!(
                "a few large blocks that are made anew, each time larger{likely}; a look at objects while the target stands \
                 still shows which"
            ),
        };
    }
    let what = match &growth.most_unreached {
        Some(of) => format!(", among them `{}`", of.name),
        None => String::new(),
    };
    let made_anew = match census.exact {
        true => "",
        false => ", or an object that was made anew before they were read",
    };
    let most = unreached.bytes * NEARLY_ALL;
    let why = match (growth.cycles.bytes >= most, growth.held_unseen.bytes >= most) {
        (true, _) => {
            "cycles, in which objects refer to one another, that the garbage collector has not freed".to_owned()
        }
        (_, true) => format!(
            "more references to them are counted than were found: native code keeps them, or has forgotten to give them \
             back, or they are in memory that is not read{made_anew}"
        ),
        _ => format!(
            "cycles that the garbage collector has not freed, references that native code keeps or has \
             forgotten{made_anew}"
        ),
    };
    format!(
        "{} a second more are reached from no name{what}: {why}",
        rate(unreached.bytes)
    )
}

/// The names of the program that were bound to new objects between two looks: what is made anew may be theirs.
fn made_anew(census: &Census) -> String {
    let mut bound: Vec<&Binding> = census.bindings.iter().collect();
    bound.retain(|of| of.rebound >= LEAST_REBOUND);
    // What refers to the largest of things is most likely a name that lasts.
    bound.sort_by_key(|of| Reverse(of.rebound));
    let names = bound.iter().take(MAX_NAMED);
    let names: Vec<String> = names
        .map(|of| format!("`{}` ({})", of.name, of.type_name))
        .collect();
    match (names.is_empty(), bound.len() > MAX_NAMED) {
        (true, _) => String::new(),
        (false, more) => format!(
            ", as that of {}{}, which {} bound to a new one each time",
            names.join(" or "),
            if more { " or others" } else { "" },
            if bound.len() > 1 { "are" } else { "is" }
        ),
    }
}

/// A large block that a function had in hand at the second look, while names of the program were bound to new objects: it is
/// most likely the next one of these.
fn of_copies(
    of: &HolderGrowth,
    holder: &Holder,
    census: &Census,
    growth: &Growth,
) -> Option<String> {
    let is_in_hand = of.is_passing && !of.is_same && !of.course.is_some_and(Course::rises);
    let is_large = of.bytes * growth.seconds() >= LARGE_BYTES && holder.items < FEW_BLOCKS as u64;
    let likely = made_anew(census);
    (is_in_hand && is_large && !likely.is_empty()).then(|| {
        format!(
            "a few large blocks that are made anew, each time larger{likely}; at the second look {} had one in hand, and a look \
             at objects while the target stands still shows whose they are",
            holder.titled()
        )
    })
}

/// "N more blocks per second", or per interval where that rounds to 0.
fn more_blocks(a_second: f64, growth: &Growth) -> String {
    match a_second.round() {
        0.0 => format!(
            "{} more in {:.0} s",
            count((a_second * growth.seconds()).round() as u64),
            growth.seconds()
        ),
        more => format!("{} more a second", count(more as u64)),
    }
}
