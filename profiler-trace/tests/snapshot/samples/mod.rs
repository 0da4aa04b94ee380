//! Samples and observations, made up by proptest.

mod heap;
mod objects;
mod observation;
mod sample;
mod sites;

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::completeness::{Confidence, Defect};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) use self::observation::observation;
pub(crate) use self::sample::sample;

const BASE: u64 = 0x5555_0000_0000;
const COUNT: std::ops::Range<u64> = 0..1 << 40;

fn range(start: u64, len: u64) -> AddrRange {
    AddrRange::with_len(RemoteAddr::new(start), len).expect("in range")
}

fn text() -> impl Strategy<Value = String> {
    "[a-zé \\n]{0,12}"
}

fn confidence() -> impl Strategy<Value = Confidence> {
    select(vec![
        Confidence::None,
        Confidence::Low,
        Confidence::Medium,
        Confidence::High,
    ])
}

fn defects() -> impl Strategy<Value = Vec<Defect>> {
    let defect = (option::of(any::<u64>()), text(), COUNT, any::<bool>());
    let defect = defect.prop_map(|(addr, what, bytes, unreadable)| Defect {
        addr: addr.map(RemoteAddr::new),
        what,
        bytes,
        unreadable,
    });
    vec(defect, 0..3)
}
