//! From what size on a difference is worth a word.

/// A share of the whole and a number of bytes, of which the larger counts.
#[derive(Copy, Clone, Debug)]
pub struct Worth {
    share: f64,
    bytes: u64,
}

/// What a mechanism holds, of RSS, for a finding.
pub const OF_RSS: Worth = Worth {
    share: 0.05,
    bytes: 4 << 20,
};

/// What a prediction differs, of malloc's heap: its band says how sure it is.
pub const OF_MALLOC: Worth = Worth {
    share: 0.03,
    bytes: 1 << 20,
};

/// What a replay saves at the end, of the baseline's memory.
pub const OF_REPLAY: Worth = Worth {
    share: 0.05,
    bytes: 5 << 20,
};

impl Worth {
    /// The least bytes that matter, of a whole of so many.
    pub fn least(&self, whole: u64) -> u64 {
        self.bytes.max((whole as f64 * self.share) as u64)
    }

    /// The share alone, for figures that are compared as shares.
    pub const fn share(&self) -> f64 {
        self.share
    }
}
