//! From which size on a difference is worth mentioning.

/// A share of the whole and a number of bytes; the larger of the two applies.
#[derive(Copy, Clone, Debug)]
pub struct Worth {
    share: f64,
    bytes: u64,
}

/// At least this share counts as most.
pub(crate) const MOST: f64 = 0.5;
/// From this share of resident memory on, fragmentation is mentioned.
pub(crate) const MUCH_FREE: f64 = 0.2;
/// From this share of a name's memory on, sharing of it between processes is mentioned.
const SHARED: f64 = 0.02;
/// Something that gains at least this share of all growth is named as what grows.
const GAINED: f64 = 0.2;
/// A holder of at least this share of live memory is named as a main holder.
const HELD: f64 = 0.1;

/// Whether something that gains `gained` of `all` growth, both in bytes per second, is named as
/// what grows.
pub(crate) fn is_named_for_gaining(gained: f64, all: f64) -> bool {
    gained >= all * GAINED
}

/// Whether a holder of `held` of the `live` bytes is named as a main holder.
pub(crate) fn is_named_for_holding(held: u64, live: u64) -> bool {
    held as f64 >= live as f64 * HELD
}

/// Whether `shared` of the `held` bytes of a name are worth mentioning as shared.
pub(crate) fn is_said_to_be_shared(shared: u64, held: u64) -> bool {
    shared as f64 >= held as f64 * SHARED
}

/// For a finding: what a mechanism holds, relative to RSS.
pub const OF_RSS: Worth = Worth {
    share: 0.05,
    bytes: 4 << 20,
};

/// For a prediction: its difference, relative to malloc's heap. Its band says how certain it is.
pub const OF_MALLOC: Worth = Worth {
    share: 0.03,
    bytes: 1 << 20,
};

/// For a replay: the final saving, relative to the baseline's memory.
pub const OF_REPLAY: Worth = Worth {
    share: 0.05,
    bytes: 5 << 20,
};

impl Worth {
    /// The smallest difference that matters, in bytes, in a whole of `whole` bytes.
    pub fn least(&self, whole: u64) -> u64 {
        self.bytes.max((whole as f64 * self.share) as u64)
    }

    /// The share alone, for figures that are compared as shares.
    pub const fn share(&self) -> f64 {
        self.share
    }
}
