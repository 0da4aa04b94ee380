//! Objects read from memory that was copied during a walk's stop.

use std::time::Duration;

use profiler_core::objects::{Census, Holder};
use profiler_sampling::{Sampler, SamplingOptions};
use profiler_testing::child::Child;

const OPTIONS: SamplingOptions = SamplingOptions {
    stop: true,
    swap_in: false,
    max_stop: Duration::from_secs(60),
    slices: false,
    max_walk: None,
};

/// A program whose request handler holds thousands of objects that are replaced a moment later, in
/// addition to those it keeps.
const BUSY: &str = "
import json, threading
class Session:
    __slots__ = 'number'
    def __init__(self, number): self.number = number
SESSIONS = {n: Session(n) for n in range(5000)}
TEXT = json.dumps([{'a': n, 'b': str(n)} for n in range(5000)])
def handle():
    while True:
        rows = json.loads(TEXT)
threading.Thread(target=handle, daemon=True).start()
print('READY', flush=True)
import sys
sys.stdin.readline()
";

fn sessions(census: &Census) -> &Holder {
    let mut all = census.holders.iter();
    let found = all.find(|holder| holder.name == "__main__.SESSIONS");
    found.expect("it holds most that stays")
}

#[test]
fn what_was_copied_is_read_as_it_was_while_the_target_runs_on() {
    let child = Child::python(BUSY);
    let sampler = Sampler::open(child.pid()).expect("our own child");
    // On a busy host the time for copying may be over before all is copied.
    let mut tries = (0..50).map(|_| sampler.take_and_copy(OPTIONS).expect("alive"));
    let is_whole =
        |sample: &profiler_core::sample::Sample| sample.completeness.stand_still.is_throughout();
    let (sample, copied) = tries
        .find(|(sample, copied)| is_whole(sample) && copied.is_some())
        .expect("one of them is copied");
    let census = sampler
        .census(&sample, copied.as_ref(), OPTIONS)
        .expect("a census");
    assert!(census.exact);
    assert_eq!(census.taken_at_ns, sample.taken_at_ns);
    assert_eq!(census.replaced, 0, "of {}", census.compared);
    assert_eq!(census.unreadable.blocks, 0);
    let holder = sessions(&census);
    assert_eq!((holder.items, holder.length), (5000, Some(5000)));
    assert_eq!(holder.item_type.as_deref(), Some("__main__.Session"));
    // The same walk, with the present contents of its blocks.
    let now = sampler.census(&sample, None, OPTIONS).expect("a census");
    assert!(!now.exact && now.live == census.live);
    assert!(now.replaced > 0, "of {}", now.compared);
}

#[test]
fn a_large_target_is_not_held_up_to_be_copied() {
    let child = Child::python(
        "import sys\nkept = [bytes(2000) for _ in range(60_000)]\nprint('READY', flush=True)\nsys.stdin.readline()",
    );
    let sampler = Sampler::open(child.pid()).expect("our own child");
    let (_, copied) = sampler.take_and_copy(OPTIONS).expect("alive");
    assert!(copied.is_none());
}
