//! Work on a target's memory that is split over a few cores.

use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;

/// Threads at most: others want processors too.
const MAX_THREADS: usize = 4;

/// Consecutive parts of about equal size, one for each thread; all but the last have `least` at least.
pub(crate) fn parts(all: usize, least: usize) -> impl Iterator<Item = Range<usize>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let each = all.div_ceil(cores.min(MAX_THREADS)).max(least).max(1);
    let starts = (0..all).step_by(each);
    starts.map(move |start| start..(start + each).min(all))
}

/// What `work` makes of each part, in their order; the first is done by the calling thread.
pub(crate) fn each<P: Send, T: Send>(
    parts: impl IntoIterator<Item = P>,
    work: impl Fn(P) -> T + Sync,
) -> Vec<T> {
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else {
        return Vec::new();
    };
    thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        let mut done = vec![work(first)];
        let joined = others.into_iter().map(|other| other.join());
        done.extend(joined.map(|part| part.unwrap_or_else(|panic| resume_unwind(panic))));
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_there_is_in_order_and_none_is_too_small() {
        for (all, least) in [(0, 4), (3, 4), (4, 4), (1000, 16), (17, 0)] {
            let parts: Vec<Range<usize>> = parts(all, least).collect();
            assert!(parts.len() <= MAX_THREADS);
            let whole: Vec<usize> = parts.iter().cloned().flatten().collect();
            assert_eq!(whole, (0..all).collect::<Vec<_>>());
            let but_the_last = parts.len().saturating_sub(1);
            assert!(
                parts
                    .iter()
                    .take(but_the_last)
                    .all(|part| part.len() >= least)
            );
            let sums = each(parts, |part| part.sum::<usize>());
            assert_eq!(sums.iter().sum::<usize>(), (0..all).sum());
        }
    }
}
