//! Objects read from a target that has run on since its walk.

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

/// Containers that each get another table, or other items, when more is added on request.
const GROWING: &str = "
import sys
class Item:
    __slots__ = 'number'
    def __init__(self, number): self.number = number

def grow(container, add):
    size = sys.getsizeof(container)
    while sys.getsizeof(container) == size:
        add(Item(len(container)))

DICT, SET, LIST = {}, set(), []
def into_dict(item): DICT[item.number] = item
while len(DICT) < 200_000: into_dict(Item(len(DICT)))
while len(SET) < 200_000: SET.add(Item(len(SET)))
while len(LIST) < 200_000: LIST.append(Item(len(LIST)))
print('READY', flush=True)
for line in sys.stdin:
    grow(DICT, into_dict)
    grow(SET, SET.add)
    # Where it is appended to it may stay where it is.
    LIST[:] = LIST + LIST[:1000]
    print('grown', flush=True)
";

fn holder<'c>(census: &'c Census, name: &str) -> &'c Holder {
    let found = census.holders.iter().find(|holder| holder.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {:#?}", census.holders))
}

#[test]
fn a_container_that_moves_after_the_walk_keeps_what_it_had() {
    let mut child = Child::python(GROWING);
    let sampler = Sampler::open(child.pid()).expect("our own child");
    let sample = sampler.take(OPTIONS).expect("alive");
    let before = sampler.census(&sample, None, OPTIONS).expect("a census");
    assert_eq!(child.ask("grow"), "grown");
    let after = sampler.census(&sample, None, OPTIONS).expect("a census");
    for name in ["__main__.DICT", "__main__.SET", "__main__.LIST"] {
        let [before, after] = [&before, &after].map(|census| holder(census, name).retained_bytes);
        let least = before - before / 100;
        assert!(
            (least..=before).contains(&after),
            "{name}: {after} of {before}"
        );
    }
    assert_eq!(before.live, after.live);
}
