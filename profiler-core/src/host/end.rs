//! How a watched process ended.

use super::MemoryGroup;
use crate::text::visible;
use crate::units::bytes;

/// How a process ended, as far as it is known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ProcessEnd {
    /// It no longer exists.
    #[default]
    Exited,
    /// The kernel's out-of-memory killer chose it.
    OutOfMemory {
        /// Its memory control group at that time; `None` if it could not be read.
        group: Option<MemoryGroup>,
        /// At least this much was resident when it was chosen: some may have been freed before it
        /// was read.
        rss_bytes: Option<u64>,
    },
    /// It no longer exists, and meanwhile the kernel has killed processes of its memory control
    /// group for lack of memory; it is not known which.
    WhenOthersWere {
        /// The group.
        group: MemoryGroup,
        /// How many processes.
        kills: u64,
    },
}

impl ProcessEnd {
    /// Whether it was, or may have been, killed for lack of memory.
    pub fn is_for_memory(&self) -> bool {
        *self != Self::Exited
    }

    /// A sentence about the end of the process with this pid.
    pub fn sentence(&self, pid: i32) -> String {
        match self {
            Self::Exited => format!("process {pid} has exited"),
            Self::OutOfMemory { group, rss_bytes } => {
                let place = group.as_ref().map_or_else(String::new, |group| {
                    format!(" in the memory control group {}", place(group))
                });
                let resident = rss_bytes.map_or_else(String::new, |rss| {
                    format!("; at least {} of it were resident then", bytes(rss))
                });
                format!("process {pid} was killed by the OOM killer{place}{resident}")
            }
            Self::WhenOthersWere { group, kills } => {
                let many = match kills {
                    1 => "a process".to_owned(),
                    kills => format!("{kills} processes"),
                };
                format!(
                    "process {pid} has exited, and meanwhile the OOM killer has killed {many} of its memory control \
                     group {}",
                    place(group)
                )
            }
        }
    }
}

fn place(group: &MemoryGroup) -> String {
    let path = visible(&group.path);
    match group.max_bytes {
        Some(limit) => format!("{path}, whose limit is {}", bytes(limit)),
        None => format!("{path}, which has no limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_for_want_of_memory_names_the_group_and_its_limit() {
        let group = MemoryGroup {
            path: "/shop.slice".into(),
            current_bytes: Some(150 << 20),
            max_bytes: Some(150 << 20),
            left_bytes: Some(0),
        };
        let end = ProcessEnd::OutOfMemory {
            group: Some(group.clone()),
            rss_bytes: Some(140 << 20),
        };
        assert_eq!(
            end.sentence(7),
            "process 7 was killed by the OOM killer in the memory control group /shop.slice, whose limit is \
             150.0 MiB; at least 140.0 MiB of it were resident then"
        );
        let end = ProcessEnd::WhenOthersWere {
            group: MemoryGroup {
                max_bytes: None,
                ..group
            },
            kills: 2,
        };
        assert_eq!(
            end.sentence(7),
            "process 7 has exited, and meanwhile the OOM killer has killed 2 processes of its memory control \
             group /shop.slice, which has no limit"
        );
        assert!(end.is_for_memory() && !ProcessEnd::Exited.is_for_memory());
    }
}
