//! The environment that a process was started with, as far as the kernel still shows it.
//!
//! The kernel shows the part of the stack where it put the environment at `execve` (`environ_read` in `fs/proc/base.c`).
//! That memory is the process's own: what changes a process's title (`setproctitle` of PyPI, of libbsd, of PostgreSQL;
//! perl's `$0`) copies the environment elsewhere, writes the title over the arguments and the environment, and fills
//! the rest with zeros. So what is read here is checked to have the form that the kernel left.

use profiler_core::allocator::UnknownEnvironment;

use crate::proc_dir::ProcDir;

/// The longest environment that is read. The kernel starts no program with arguments and an environment that are longer
/// together (`bprm_stack_limits` in `fs/exec.c`: three quarters of `_STK_LIM`).
const MAX_BYTES: u64 = 6 << 20;
/// This many entries of the environment of one kind are kept at most.
const MAX_SETTINGS: usize = 32;
/// The longest entry of the environment that is shown whole, in bytes.
const MAX_SETTING_BYTES: usize = 1024;

/// The entries that a program was started with, `NAME=VALUE` each.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StartEnvironment(Vec<u8>);

impl StartEnvironment {
    /// That of a process.
    pub(super) fn of(dir: &ProcDir) -> Result<Self, UnknownEnvironment> {
        let unreadable = |_| UnknownEnvironment::Unreadable;
        let stat = dir.stat().map_err(unreadable)?;
        // Both are 0 while a program is executed, and for those who may not know them (proc_pid_stat(5)).
        let places = stat.env_start.zip(stat.env_end);
        let places = places.filter(|(start, _)| *start > 0);
        let whole = places.and_then(|(start, end)| end.checked_sub(start));
        if whole.is_some_and(|bytes| bytes > MAX_BYTES) {
            // Not read at all: the kernel would bring in what is there, which costs the process page tables and memory.
            return Err(UnknownEnvironment::Overwritten);
        }
        let bytes = dir.first_bytes("environ", MAX_BYTES + 1);
        Self::checked(bytes.map_err(unreadable)?, whole)
    }

    /// From what the kernel gave of an area of `whole` bytes, where that is known.
    fn checked(bytes: Vec<u8>, whole: Option<u64>) -> Result<Self, UnknownEnvironment> {
        match whole {
            // Nothing was set: `env -i`.
            Some(0) if bytes.is_empty() => return Ok(Self(bytes)),
            Some(whole) if (bytes.len() as u64) < whole => {
                return Err(UnknownEnvironment::Unreadable);
            }
            None if bytes.is_empty() => return Err(UnknownEnvironment::Unreadable),
            _ => {}
        }
        let is_possible = bytes.len() as u64 <= MAX_BYTES;
        match is_possible && is_as_the_kernel_left_it(&bytes) {
            true => Ok(Self(bytes)),
            false => Err(UnknownEnvironment::Overwritten),
        }
    }

    /// The entries that begin so and are not empty, in a bounded number and cut to a bounded length.
    pub fn beginning_with(&self, begin: &str) -> Vec<String> {
        let entries = self.0.split(|&byte| byte == 0);
        entries
            .filter(|entry| entry.starts_with(begin.as_bytes()) && !entry.ends_with(b"="))
            .take(MAX_SETTINGS)
            .map(|entry| &entry[..entry.len().min(MAX_SETTING_BYTES)])
            .map(|entry| String::from_utf8_lossy(entry).into_owned())
            .collect()
    }
}

/// Whether an area holds entries with a name and a `=`, each ended by a zero, and nothing between them. Names may have
/// any character but control characters; a title that was written over the first entry has spaces.
fn is_as_the_kernel_left_it(area: &[u8]) -> bool {
    let Some(entries) = area.strip_suffix(b"\0") else {
        return false;
    };
    let mut entries = entries.split(|&byte| byte == 0).enumerate();
    entries.all(|(number, entry)| {
        let name = entry.split(|&byte| byte == b'=').next().unwrap_or_default();
        let is_ended = name.len() < entry.len();
        let has_space = number == 0 && name.contains(&b' ');
        !name.is_empty() && is_ended && !has_space && !name.iter().any(u8::is_ascii_control)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(area: &[u8], whole: Option<u64>) -> Result<Vec<String>, UnknownEnvironment> {
        let checked = StartEnvironment::checked(area.to_owned(), whole);
        checked.map(|environment| environment.beginning_with("MALLOC_"))
    }

    fn whole(area: &[u8]) -> Result<Vec<String>, UnknownEnvironment> {
        checked(area, Some(area.len() as u64))
    }

    #[test]
    fn what_is_set_is_known_and_so_is_that_nothing_is() {
        let area = b"HOME=/\0MALLOC_ARENA_MAX=2\0MALLOC_PERTURB_=\0BASH_FUNC_a%%=() { :; }\0an odd name=1\0";
        assert_eq!(whole(area), Ok(vec!["MALLOC_ARENA_MAX=2".to_owned()]));
        // Where the places are not shown, what was read is all that there is.
        assert_eq!(checked(area, None).map(|all| all.len()), Ok(1));
        assert_eq!(whole(b"HOME=/\0"), Ok(vec![]));
        assert_eq!(whole(b""), Ok(vec![]));
    }

    #[test]
    fn what_is_not_read_to_its_end_is_unknown() {
        let unreadable = Err(UnknownEnvironment::Unreadable);
        assert_eq!(checked(b"", None), unreadable);
        assert_eq!(checked(b"", Some(7)), unreadable);
        assert_eq!(checked(b"HOME=/\0", Some(8)), unreadable);
    }

    #[test]
    fn a_title_in_the_place_of_the_environment_is_no_environment() {
        let overwritten = Err(UnknownEnvironment::Overwritten);
        let areas: [&[u8]; 6] = [
            // All of it was filled with zeros; the title ends in it; it fills it.
            b"\0\0\0\0\0\0\0\0",
            b"er [app.wsgi]\0\0\0\0\0",
            b"worker for the queue of orders",
            // Nothing was filled: a rest of the entry follows.
            b"worker\0=/root\0PATH=/bin\0",
            b"worker of queue=orders\0PATH=/bin\0",
            b"HOME=/\0\0PATH=/bin\0",
        ];
        for area in areas {
            assert_eq!(whole(area), overwritten, "{}", area.escape_ascii());
        }
        // Longer than any that a program is started with.
        let entry = b"HOME=/\0";
        let long = entry.repeat(MAX_BYTES as usize / entry.len() + 1);
        assert_eq!(checked(&long, None), overwritten);
    }
}
