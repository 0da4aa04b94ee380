//! Which names gain objects, and whether many blocks without a known root were gained.

use crate::objects::{Census, Growth, Holder, HolderGrowth};

/// A gain counts from this number of objects (for a name) or blocks (without a known root) on.
const LEAST_ITEMS: f64 = 16.0;
/// Blocks without a known root count only if their mean size is at most this many bytes.
const MAX_BYTES_OF_ONE: f64 = 16.0 * 1024.0;
/// A name's gain is reported from this many bytes on even if live blocks as a whole do not grow.
pub(super) const LEAST_GAIN: f64 = 64.0 * 1024.0;

/// Whether many blocks without a known root were gained: a large object that is recreated has
/// become another one by the time objects are read.
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

/// Names that gain at least this rate, and objects; the largest gain first.
pub(super) fn gain_items<'a>(
    growth: &'a Growth,
    census: &'a Census,
    least: f64,
) -> impl Iterator<Item = (&'a HolderGrowth, &'a Holder)> {
    let grown = growth.holders.iter().filter(move |of| of.bytes >= least);
    let grown = grown.filter_map(|of| Some((of, census.holders.get(of.holder)?)));
    grown.filter(|(of, holder)| {
        let gained = match of.items {
            Some(rate) => rate * growth.seconds(),
            // If the holder was too small to be listed before, all its items may be new.
            None if of.has_more => holder.items as f64,
            None => 0.0,
        };
        holder.is_name && gained >= LEAST_ITEMS
    })
}

/// The least that a name gains a second, in bytes, to be reported where live blocks as a whole do not grow.
pub(super) fn least_gain(growth: &Growth) -> f64 {
    // An enlarged table does not mean more objects.
    let stepped = growth.notable_step().map_or(0.0, |step| step.bytes);
    (LEAST_GAIN + stepped) / growth.seconds()
}

/// The name that gains most objects even though live blocks as a whole do not grow, either because
/// data held by running functions shrank meanwhile or because the gain is a small part of live
/// memory. `None` if no name gains enough.
pub(super) fn unhidden_gain<'a>(
    growth: &'a Growth,
    census: &'a Census,
) -> Option<(&'a HolderGrowth, &'a Holder)> {
    let least = least_gain(growth);
    // A gain that is part of the gain of all live blocks is judged with them, unless that is too
    // small to be judged.
    let whole = growth.steady_bytes - growth.passing_bytes.max(0.0);
    let is_little = whole * growth.seconds() <= growth.noise_bytes;
    // What was not listed before may have been there all the same.
    let is_known = |of: &HolderGrowth| of.counts(of.is_same) && of.items.is_some();
    gain_items(growth, census, least)
        .find(|(of, _)| is_known(of) && (is_little || of.bytes > whole))
}
