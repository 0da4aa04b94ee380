//! The kernel's counts for a memory control group: how a container's memory is used, in addition to
//! the account of one process.

use crate::text::visible;
use crate::trend::Trend;
use crate::units::{bytes, nanoseconds};

/// The account, in bytes, of the memory control group that limits a process: of its own group and
/// those above, the one with the lowest limit, or its own group if none has a limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupAccount {
    /// Its path in the hierarchy as seen by fragscope; untrusted text.
    pub path: String,
    /// Memory charged to it and the groups below.
    pub current_bytes: u64,
    /// Its limit; `None` if it has none.
    pub max_bytes: Option<u64>,
    /// Anonymous memory of processes.
    pub anon_bytes: Option<u64>,
    /// The page cache, without shared memory.
    pub file_bytes: Option<u64>,
    /// Shared memory: tmpfs, System V, shared anonymous memory.
    pub shmem_bytes: Option<u64>,
    /// The kernel's own objects: slabs; in cgroup v1 all of the kernel's memory.
    pub slab_bytes: Option<u64>,
    /// Bytes in swap.
    pub swap_bytes: Option<u64>,
    /// The part of the page cache that the kernel reclaims before it refuses memory.
    pub reclaimable_bytes: Option<u64>,
    /// Share of the last minute in which some process waited for memory (`memory.pressure`, `some
    /// avg60`).
    pub pressure: Option<f64>,
    /// Processes that were ended for want of memory since the group is there.
    pub oom_kills: Option<u64>,
}

/// The account is mentioned from this share of the limit on,
const NEAR: f64 = 0.8;
/// or if the limit will be reached within this time, in seconds.
const SOON: f64 = 86_400.0;

impl GroupAccount {
    /// How much more it can get before the kernel kills a process; `None` without a limit, or if it
    /// is unknown how much can be reclaimed.
    pub fn left_bytes(&self) -> Option<u64> {
        let needed = self.current_bytes.saturating_sub(self.reclaimable_bytes?);
        Some(self.max_bytes?.saturating_sub(needed))
    }

    /// What this means for a process with `rss_bytes` resident; `None` while the limit is far.
    pub fn explanation(&self, rss_bytes: u64, trend: Option<&Trend>) -> Option<String> {
        let (max, left) = (self.max_bytes?, self.left_bytes());
        let growth = trend.filter(|trend| trend.grows.is_some());
        let seconds = growth
            .zip(left)
            .map(|(trend, left)| left as f64 / trend.rss.bytes_per_second);
        let seconds = seconds.filter(|seconds| (0.0..SOON).contains(seconds));
        if (self.current_bytes as f64) < max as f64 * NEAR && seconds.is_none() {
            return None;
        }
        let parts = [
            (self.anon_bytes, "anonymous memory"),
            (self.file_bytes, "page cache"),
            (self.shmem_bytes, "shared memory"),
            (self.slab_bytes, "of the kernel"),
        ];
        let parts = parts.iter().filter_map(|(amount, what)| {
            let amount = amount.filter(|amount| *amount > 0)?;
            Some(format!("{} {what}", bytes(amount)))
        });
        let parts: Vec<String> = parts.collect();
        let parts = match parts.is_empty() {
            true => String::new(),
            false => format!(": {}", parts.join(", ")),
        };
        let mut text = format!(
            "The memory control group {} has {} of the {} that it may have{parts}.",
            visible(&self.path),
            bytes(self.current_bytes),
            bytes(max),
        );
        let is_cache = self
            .reclaimable_bytes
            .is_some_and(|of| of >= self.current_bytes / 2);
        if let Some(left) = left.filter(|_| is_cache) {
            text += &format!(
                " It is full of page cache, not of what its processes have allocated: the kernel takes that back before it \
                 ends a process, and {} are left until then.",
                bytes(left)
            );
        } else if rss_bytes < self.current_bytes / 2 {
            text += &format!(
                " At most {} of that are of this process: most is of others in the group, or of the kernel.",
                bytes(rss_bytes)
            );
        }
        if let Some(seconds) = seconds {
            text += &format!(
                " As this process grows, the limit is reached in {}.",
                nanoseconds((seconds * 1e9) as u64)
            );
        }
        if let Some(kills @ 1..) = self.oom_kills {
            let times = match kills {
                1 => "a process".to_owned(),
                kills => format!("{kills} processes"),
            };
            text += &format!(" The OOM killer has killed {times} of it so far.");
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trend::{Grows, RssGrowth};

    const MIB: u64 = 1 << 20;

    fn account(anon: u64, file: u64) -> GroupAccount {
        GroupAccount {
            path: "/job".into(),
            current_bytes: (anon + file) * MIB,
            max_bytes: Some(100 * MIB),
            anon_bytes: Some(anon * MIB),
            file_bytes: Some(file * MIB),
            reclaimable_bytes: Some(file * MIB),
            ..GroupAccount::default()
        }
    }

    #[test]
    fn a_group_full_of_page_cache_is_said_to_be_and_what_is_left_is_without_it() {
        let full = account(10, 85);
        assert_eq!(full.left_bytes(), Some(90 * MIB));
        let said = full.explanation(9 * MIB, None).expect("near its limit");
        assert_eq!(
            said,
            "The memory control group /job has 95.0 MiB of the 100.0 MiB that it may have: 10.0 MiB anonymous memory, \
             85.0 MiB page cache. It is full of page cache, not of what its processes have allocated: the kernel takes \
             that back before it ends a process, and 90.0 MiB are left until then."
        );
    }

    #[test]
    fn others_in_the_group_and_growth_are_said_and_nothing_far_from_the_limit() {
        let of_others = account(90, 2);
        let said = of_others.explanation(30 * MIB, None).expect("near");
        assert!(
            said.contains("At most 30.0 MiB of that are of this process"),
            "{said}"
        );
        let own = of_others.explanation(80 * MIB, None).expect("near");
        assert!(!own.contains("of this process"), "{own}");
        let far = account(50, 2);
        assert_eq!(far.explanation(50 * MIB, None), None);
        let trend = Trend {
            rss: RssGrowth {
                elapsed_ns: 60_000_000_000,
                bytes_per_second: MIB as f64,
                is_growing: true,
            },
            live_bytes_per_second: None,
            grows: Some(Grows::NotKnown),
        };
        let soon = far.explanation(50 * MIB, Some(&trend)).expect("soon");
        assert!(soon.contains("the limit is reached in 50"), "{soon}");
        let unlimited = GroupAccount {
            max_bytes: None,
            ..far
        };
        assert_eq!(unlimited.explanation(50 * MIB, Some(&trend)), None);
    }
}
