//! The settings that a walk read from an allocator's own structures, under the names by which an environment sets them.

use super::Allocator;
use crate::units::nanoseconds;

/// The names of jemalloc's decay times among its settings.
const DIRTY_DECAY: &str = "dirty_decay_ms";
const MUZZY_DECAY: &str = "muzzy_decay_ms";
/// The name of the setting for jemalloc's threads that purge.
const BACKGROUND_THREAD: &str = "background_thread";
/// `DIRTY_DECAY_MS_DEFAULT` (`include/jemalloc/internal/arena_types.h`).
const DEFAULT_DECAY_MS: i64 = 10_000;
/// The first release whose `MUZZY_DECAY_MS_DEFAULT` is 0; before, it was that of dirty pages.
const NO_MUZZY_DECAY: [u32; 3] = [5, 2, 1];

/// The thread sleeps for up to a decay time before it sees what was freed: of 104 MiB with decays of 10 and 3 s, 5.3.0 had
/// purged half after 16 and 5 s, and all after 20 and 8 s.
const THREAD_IS_LATE: u64 = 2;

/// How the values that a walk lists are set.
#[derive(Debug)]
pub struct AsSettings {
    /// The setting's name, from the name under which a walk lists it.
    pub name: fn(&str) -> Option<String>,
    /// Settings that are listed in KiB, and read in bytes where a number has no unit.
    pub in_kib: &'static [&'static str],
}

impl AsSettings {
    /// Of an allocator whose walk lists no settings that an environment sets in the same form.
    pub(super) const NONE: Self = Self {
        name: |_| None,
        in_kib: &[],
    };
}

/// `opt.narenas` as in `mallctl`, and the decay times that the arenas have.
pub(super) const JEMALLOC: AsSettings = AsSettings {
    name: |listed| match listed {
        DIRTY_DECAY | MUZZY_DECAY => Some(listed.to_owned()),
        _ => listed.strip_prefix("opt.").map(str::to_owned),
    },
    in_kib: &[],
};

/// The names of `mi_options`, which variables have in capitals. `mi_option_has_size_in_kib`
/// (`src/options.c`, 2.1 to 3.3) names those that are kept in KiB.
pub(super) const MIMALLOC: AsSettings = AsSettings {
    name: |listed| Some(listed.to_ascii_uppercase()),
    in_kib: &[
        "ARENA_RESERVE",
        "ARENA_MAX_OBJECT_SIZE",
        "MINIMAL_PURGE_SIZE",
    ],
};

/// Listed as the variables that set them.
pub(super) const TCMALLOC: AsSettings = AsSettings {
    name: |listed| listed.strip_prefix("TCMALLOC_").map(str::to_owned),
    in_kib: &[],
};

/// The settings of an allocator in force, each once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SettingsInForce(Vec<(&'static str, String)>);

impl SettingsInForce {
    /// From what a walk lists. What arenas have counts for more than the option that they began with.
    pub fn of<'s>(
        allocator: Allocator,
        listed: impl IntoIterator<Item = (&'s str, &'s str)>,
    ) -> Self {
        let row = allocator.row();
        let as_settings = &row.listed.as_settings;
        let mut all = Self::default();
        for (name, value) in listed {
            // Where arenas differ, the first one's.
            let value = value.split(',').next().unwrap_or(value);
            let short = (as_settings.name)(name);
            let mut known = row.settings.names.iter();
            let known = known.find(|known| short.as_deref() == Some(**known));
            // Words such as "not supported" are no values.
            let Some(known) = known.filter(|_| !value.is_empty() && !value.contains(' ')) else {
                continue;
            };
            all.set(known, as_settings.value(known, value));
        }
        all
    }

    /// Each, with its value as a variable has it.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, &**value))
    }

    /// The value of one.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.iter();
        all.find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    fn set(&mut self, name: &'static str, value: String) {
        match self.0.iter_mut().find(|(own, _)| *own == name) {
            Some(own) => own.1 = value,
            None => self.0.push((name, value)),
        }
    }
}

impl AsSettings {
    fn value(&self, name: &str, listed: &str) -> String {
        match self.in_kib.contains(&name) {
            true => format!("{listed}K"),
            false => listed.to_owned(),
        }
    }
}

/// When jemalloc purges pages that were freed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Purging {
    /// Milliseconds until all of them are, one after the other; `None` if they never are.
    pub within_ms: Option<u64>,
    /// Whether a thread of its own does that. Without one, jemalloc purges only when it is called.
    pub by_itself: bool,
}

impl Purging {
    /// By the value of each setting of jemalloc's, `None` where that is the default of its version. A forked process
    /// has no threads of jemalloc's.
    pub fn of<'s>(
        version: Option<&str>,
        is_forked: bool,
        setting: impl Fn(&str) -> Option<&'s str>,
    ) -> Self {
        let decay = |name, default| {
            let set = setting(name).and_then(|value| value.parse().ok());
            u64::try_from(set.unwrap_or(default)).ok()
        };
        let muzzy = match version.and_then(numbers) {
            Some(version) if version >= NO_MUZZY_DECAY => 0,
            _ => DEFAULT_DECAY_MS,
        };
        let (dirty, muzzy) = (
            decay(DIRTY_DECAY, DEFAULT_DECAY_MS),
            decay(MUZZY_DECAY, muzzy),
        );
        Self {
            within_ms: dirty
                .zip(muzzy)
                .map(|(dirty, muzzy)| dirty.saturating_add(muzzy)),
            by_itself: !is_forked && setting(BACKGROUND_THREAD) == Some("true"),
        }
    }

    /// When that is after a free, in words that follow the allocator's name.
    pub fn words(self) -> String {
        let when = |ms: u64| format!("within about {}", nanoseconds(ms.saturating_mul(1_000_000)));
        match (self.within_ms, self.by_itself) {
            (None, _) => "never by itself".to_owned(),
            (Some(0), _) => "at once".to_owned(),
            (Some(ms), true) => when(ms.saturating_mul(THREAD_IS_LATE)),
            (Some(ms), false) => format!("{}, and only while it is called", when(ms)),
        }
    }
}

/// The three numbers that a version begins with.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let is_of_number = |c: char| c.is_ascii_digit() || c == '.';
    let end = version.find(|c| !is_of_number(c)).unwrap_or(version.len());
    let mut parts = version.get(..end)?.split('.').map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_force(allocator: Allocator, listed: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        SettingsInForce::of(allocator, listed.iter().copied()).0
    }

    #[test]
    fn listed_values_are_settings_as_variables_have_them() {
        let of_jemalloc = in_force(
            Allocator::Jemalloc,
            &[
                ("opt.abort_conf", "false"),
                ("opt.dirty_decay_ms", "10000"),
                ("opt.narenas", "3"),
                ("opt.thp", "not supported"),
                ("arenas", "2"),
                ("dirty_decay_ms", "-1, other arenas differ"),
            ],
        );
        let expected = [("dirty_decay_ms", "-1".into()), ("narenas", "3".into())];
        assert_eq!(of_jemalloc, expected);
        let of_mimalloc = in_force(
            Allocator::Mimalloc,
            &[
                ("show_errors", "0"),
                ("purge_delay", "-1"),
                ("arena_reserve", "1048576"),
            ],
        );
        let expected = [
            ("PURGE_DELAY", "-1".into()),
            ("ARENA_RESERVE", "1048576K".into()),
        ];
        assert_eq!(of_mimalloc, expected);
        let listed = [
            ("page size", "8192"),
            ("TCMALLOC_AGGRESSIVE_DECOMMIT", "true"),
        ];
        let expected = [("AGGRESSIVE_DECOMMIT", "true".into())];
        assert_eq!(in_force(Allocator::Tcmalloc, &listed), expected);
        assert_eq!(in_force(Allocator::Glibc, &[("arena_max", "2")]), []);
    }

    #[test]
    fn jemalloc_purges_when_its_options_say() {
        let purging = |version, is_forked, all: &[(&str, &'static str)]| {
            let setting = |name: &str| {
                let mut all = all.iter();
                all.find(|(own, _)| *own == name).map(|(_, value)| *value)
            };
            let Purging {
                within_ms,
                by_itself,
            } = Purging::of(version, is_forked, setting);
            (within_ms, by_itself)
        };
        assert_eq!(purging(Some("5.3.0"), false, &[]), (Some(10_000), false));
        assert_eq!(purging(Some("5.1.0"), false, &[]), (Some(20_000), false));
        assert_eq!(purging(None, false, &[]), (Some(20_000), false));
        let background = [("background_thread", "true"), ("dirty_decay_ms", "60000")];
        let version = Some("5.3.1-0-g81034ce1");
        assert_eq!(purging(version, false, &background), (Some(60_000), true));
        assert_eq!(purging(version, true, &background), (Some(60_000), false));
        let never = [("dirty_decay_ms", "-1")];
        assert_eq!(purging(version, false, &never), (None, false));
        let muzzy = [("muzzy_decay_ms", "-1")];
        assert_eq!(purging(version, false, &muzzy), (None, false));
    }
}
