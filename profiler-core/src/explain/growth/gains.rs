//! Which names gain objects, and whether what no root was found for gains many.

use crate::objects::{Census, Growth, Holder, HolderGrowth};

/// Unless a name has gained so many objects meanwhile, or what no root was found for so many blocks,
const LEAST_ITEMS: f64 = 16.0;
/// of at most so many bytes each.
const MAX_BYTES_OF_ONE: f64 = 16.0 * 1024.0;
/// What a name gains is worth a sentence from so many bytes on, although live blocks as a whole do not grow.
const LEAST_GAIN: f64 = 64.0 * 1024.0;

/// Whether what no root was found for gains many blocks: a large object that is made anew is another by the time
/// that objects are read.
pub(super) fn gains_unreached(growth: &Growth) -> bool {
    let of = growth.unreached;
    of.blocks * growth.seconds() >= LEAST_ITEMS && of.bytes <= of.blocks * MAX_BYTES_OF_ONE
}

/// Whether a name that gains at least this rate gains objects, which a full cache does not.
pub(super) fn gains_items(
    growth: &Growth,
    census: &Census,
    least: f64,
    counts_passing: bool,
) -> bool {
    let mut of_names = gain_items(growth, census, least);
    of_names.any(|(of, _)| of.counts(counts_passing))
}

/// Names that gain at least this rate, and objects, the most first.
fn gain_items<'a>(
    growth: &'a Growth,
    census: &'a Census,
    least: f64,
) -> impl Iterator<Item = (&'a HolderGrowth, &'a Holder)> {
    let grown = growth.holders.iter().filter(move |of| of.bytes >= least);
    let grown = grown.filter_map(|of| Some((of, census.holders.get(of.holder)?)));
    grown.filter(|(of, holder)| {
        let gained = match of.items {
            Some(rate) => rate * growth.seconds(),
            // Of one that had fewer than to be listed before, all may be new.
            None if of.has_more => holder.items as f64,
            None => 0.0,
        };
        holder.is_name && gained >= LEAST_ITEMS
    })
}

/// The name that gains most objects though live blocks as a whole do not grow, which may be because what running functions
/// have in hand became less, or because it is little of what is live; `None` where none gains enough.
pub(super) fn unhidden_gain<'a>(
    growth: &'a Growth,
    census: &'a Census,
) -> Option<(&'a HolderGrowth, &'a Holder)> {
    // A table that was enlarged is no more objects.
    let stepped = growth.notable_step().map_or(0.0, |step| step.bytes);
    let least = (LEAST_GAIN + stepped) / growth.seconds();
    // What all live blocks gained as well is judged with them, unless that is too little to be judged.
    let whole = growth.steady_bytes - growth.passing_bytes.max(0.0);
    let is_little = whole * growth.seconds() <= growth.noise_bytes;
    // What was not listed before may have been there all the same.
    let is_known = |of: &HolderGrowth| of.counts(of.is_same) && of.items.is_some();
    gain_items(growth, census, least)
        .find(|(of, _)| is_known(of) && (is_little || of.bytes > whole))
}
