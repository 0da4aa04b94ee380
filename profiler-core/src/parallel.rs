//! Work on a target's memory that is split over a few cores or runs in parallel with other work.

use std::iter;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

/// Threads at most: others want processors too.
const MAX_THREADS: usize = 4;

/// Consecutive parts of about equal size, one for each thread; all but the last have `least` at least.
pub(crate) fn parts(all: usize, least: usize) -> impl Iterator<Item = Range<usize>> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let each = all.div_ceil(cores.min(MAX_THREADS)).max(least).max(1);
    let starts = (0..all).step_by(each);
    starts.map(move |start| start..(start + each).min(all))
}

/// The results of `work` for each part, in their order; the calling thread does its share.
pub(crate) fn each<P: Send, T: Send>(
    parts: impl IntoIterator<Item = P>,
    work: impl Fn(P) -> T + Sync,
) -> Vec<T> {
    let parts: Vec<P> = parts.into_iter().collect();
    let others = parts.len().saturating_sub(1);
    let left = Mutex::new(parts.into_iter().enumerate());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let share = || -> Vec<(usize, T)> {
        let parts = iter::from_fn(next);
        parts.map(|(number, part)| (number, work(part))).collect()
    };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (0..others)
            .map(|_| SideThread::begin(scope, share))
            .collect();
        let mut done = share();
        done.extend(others.into_iter().flat_map(SideThread::end));
        done
    });
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Work done in parallel with the caller, if a thread is available for it; otherwise at once. A
/// limit of tasks or of address space costs time, not the result.
pub enum SideThread<'scope, T> {
    /// It is in progress.
    UnderWay(ScopedJoinHandle<'scope, T>),
    /// There was no thread for it.
    Done(T),
}

impl<'scope, T: Send + 'scope> SideThread<'scope, T> {
    /// Starts it.
    pub fn begin<'env>(
        scope: &'scope Scope<'scope, 'env>,
        work: impl Fn() -> T + Send + Sync + 'scope,
    ) -> Self {
        // A rejected thread drops the closure it was given.
        let kept = Arc::new(work);
        let given = Arc::clone(&kept);
        match thread::Builder::new().spawn_scoped(scope, move || given()) {
            Ok(thread) => Self::UnderWay(thread),
            Err(_) => Self::Done(kept()),
        }
    }

    /// Its result.
    pub fn end(self) -> T {
        match self {
            Self::UnderWay(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Self::Done(result) => result,
        }
    }
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
            assert_eq!(sums.iter().sum::<usize>(), (0..all).sum::<usize>());
        }
    }
}
