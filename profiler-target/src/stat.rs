//! `/proc/N/stat` of any process or thread, without holding it, and the clock ticks in which it
//! counts times.

use std::time::Duration;

use super::kernel_file::bytes;

/// More than the longest `stat` file has, in bytes.
const MAX_BYTES: u64 = 16 << 10;

/// The contents of `/proc/N/stat` for a process or a thread (proc_pid_stat(5)).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stat {
    /// Its name, at most 15 bytes. Untrusted text.
    pub name: String,
    /// Its state, such as `R`; `Z` and `X` if it has ended.
    pub state: char,
    pub(super) parent: i32,
    pub(super) session: i32,
    /// `PF_*` of `include/linux/sched.h`.
    pub(super) flags: u32,
    pub(super) began_ticks: u64,
    /// 0 if we may not know it.
    pub(super) stack: u64,
    /// The start and end of its arguments; 0 if we may not know them, and `None` if the kernel has
    /// no such fields.
    pub(super) arguments: Option<(usize, usize)>,
}

impl Stat {
    /// Of the process or thread with this number; `None` when there is none.
    pub fn of(number: i32) -> Option<Self> {
        Self::read(&format!("/proc/{number}/stat"))
    }

    pub(super) fn read(path: &str) -> Option<Self> {
        Self::parse(&bytes(path, MAX_BYTES).ok()?)
    }

    /// Parses the file's contents.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        // The name in parentheses may hold any character.
        let (head, tail) = text.rsplit_once(") ")?;
        let mut fields = tail.split_ascii_whitespace();
        Some(Self {
            name: head.split_once(" (")?.1.to_owned(),
            // Field 3.
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            // Field 6.
            session: fields.nth(1)?.parse().ok()?,
            // Field 9.
            flags: fields.nth(2)?.parse().ok()?,
            // Field 22.
            began_ticks: fields.nth(12)?.parse().ok()?,
            // Field 28.
            stack: fields.nth(5)?.parse().ok()?,
            // Fields 48 and 49.
            arguments: fields
                .nth(19)
                .zip(fields.next())
                .and_then(|(start, end)| Some((start.parse().ok()?, end.parse().ok()?))),
        })
    }

    /// Whether it has ended: it is a zombie, or disappears at once.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// The duration of `ticks` clock ticks (`USER_HZ`), in which the kernel counts times for userspace.
pub fn time_of_ticks(ticks: u64) -> Duration {
    let per_second = procfs::ticks_per_second().max(1);
    let rest = (ticks % per_second).saturating_mul(1_000_000_000) / per_second;
    Duration::from_secs(ticks / per_second) + Duration::from_nanos(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_what_separates_fields() {
        let fields: Vec<String> = (7..=52).map(|field: u32| field.to_string()).collect();
        let text = format!("12 (a (b) R 1) ) S 3 12 5 {}\n", fields.join(" "));
        let stat = Stat::parse(text.as_bytes()).expect("well formed");
        let wanted = Stat {
            name: "a (b) R 1) ".into(),
            state: 'S',
            parent: 3,
            session: 5,
            flags: 9,
            began_ticks: 22,
            stack: 28,
            arguments: Some((48, 49)),
        };
        assert_eq!(stat, wanted);
        assert_eq!(Stat::parse(b"12 (a) S 3 12"), None);
    }

    #[test]
    fn the_kernel_gives_every_field_of_this_process() {
        let own = Stat::of(std::process::id() as i32).expect("it runs");
        assert!(!own.has_ended() && own.began_ticks > 0);
        let (start, end) = own.arguments.expect("given since Linux 3.5");
        assert!(start > 0 && end > start);
    }

    #[test]
    fn ticks_are_as_long_as_the_kernel_says() {
        let per_second = procfs::ticks_per_second();
        assert_eq!(time_of_ticks(per_second), Duration::from_secs(1));
        assert_eq!(
            time_of_ticks(3 * per_second + per_second / 2),
            Duration::from_millis(3500)
        );
    }
}
