//! The part of an environment that allocators read.

use std::fmt::{self, Display};

use super::{Allocator, Assignment, GlibcSetting, List, reader_of};

/// The variable that makes the dynamic loader load an allocator before everything else (ld.so(8)).
pub const PRELOAD: &str = "LD_PRELOAD";

/// Why it is unknown what the environment of a process held when its program was started, which is when allocators
/// read it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum UnknownEnvironment {
    /// The kernel does not give it, or only a part of it.
    Unreadable,
    /// The process has written something else where its environment was, as programs do that change their title
    /// (`setproctitle`).
    Overwritten,
    /// A core file records no environment that is sure to be that of the start.
    InCore,
    /// The file that is read does not hold it: its format does not, or the version that wrote it did not keep it.
    NotRecorded,
}

impl UnknownEnvironment {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Unreadable,
        Self::Overwritten,
        Self::InCore,
        Self::NotRecorded,
    ];

    /// The name in output and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Overwritten => "overwritten",
            Self::InCore => "core_file",
            Self::NotRecorded => "not_recorded",
        }
    }

    /// The reason of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// Why, in words that follow a colon.
    pub const fn because(self) -> &'static str {
        match self {
            Self::Unreadable => "the environment cannot be read",
            Self::Overwritten => {
                "its environment is not of the usual form: programs that change their title overwrite it"
            }
            Self::InCore => "a core file does not record the environment of the start",
            Self::NotRecorded => "the file does not hold the environment",
        }
    }
}

/// Variables with their values, in order. [`PRELOAD`] is not among them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// These variables.
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut environment = Self::default();
        for (name, value) in variables {
            environment.set(name, value);
        }
        environment
    }

    /// Its variables.
    pub fn variables(&self) -> &[(String, String)] {
        &self.0
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.0.iter();
        all.find(|(n, _)| n == name).map(|(_, value)| &**value)
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some(variable) => value.clone_into(&mut variable.1),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    /// A copy without the variables that an allocator reads.
    pub fn without(&self, allocator: Allocator) -> Self {
        let mut rest = self.clone();
        rest.0
            .retain(|(name, _)| reader_of(name) != Some(allocator));
        rest
    }

    /// An allocator's setting by its name without prefix, such as `mmap_threshold`. A list variable
    /// takes precedence over the setting's own variable.
    pub fn setting(&self, of: Allocator, name: &str) -> Option<&str> {
        let settings = &of.row().settings;
        let Some(list) = &settings.list else {
            return self.get(&format!("{}{name}", settings.prefix));
        };
        let mut members = self.members(list, settings.prefix);
        let listed = members.find(|(member, _)| *member == name);
        listed
            .map(|(_, value)| value)
            .or_else(|| self.get((settings.own_variable)(name)?))
    }

    /// A setting of glibc's.
    pub fn glibc_setting(&self, wanted: GlibcSetting) -> Option<&str> {
        self.setting(Allocator::Glibc, wanted.tunable()?)
    }

    /// Changes a glibc setting; does nothing if it is not a tunable.
    pub fn set_glibc_setting(&mut self, of: GlibcSetting, value: &str) {
        if let Some(tunable) = of.tunable() {
            self.set_setting(Allocator::Glibc, tunable, value);
        }
    }

    /// Changes an allocator's setting, in the place where it is already set, if it is.
    pub fn set_setting(&mut self, of: Allocator, name: &str, value: &str) {
        let settings = &of.row().settings;
        let Some(list) = &settings.list else {
            return self.set(&format!("{}{name}", settings.prefix), value);
        };
        let is_listed = {
            let mut listed = self.members(list, settings.prefix);
            listed.any(|(member, _)| member == name)
        };
        match (settings.own_variable)(name) {
            Some(variable) if !is_listed => self.set(variable, value),
            _ => self.set_member(list, &format!("{}{name}", settings.prefix), value),
        }
    }

    /// Changes the settings of an allocator, one after the other.
    pub fn assign(&mut self, of: Allocator, all: &[Assignment]) {
        for Assignment { name, value } in all {
            self.set_setting(of, name, value);
        }
    }

    fn set_member(&mut self, list: &List, name: &str, value: &str) {
        let had = self.get(list.variable).unwrap_or_default();
        let others = had.split(list.separator).filter(|one| {
            let own = one.split(list.assignment).next().unwrap_or_default();
            !one.is_empty() && own != name
        });
        let new = format!("{name}{}{value}", list.assignment);
        let all: Vec<&str> = others.chain([&*new]).collect();
        let all = all.join(list.separator.encode_utf8(&mut [0; 4]));
        self.set(list.variable, &all);
    }

    /// The settings of a list whose names have a prefix.
    fn members<'e>(
        &'e self,
        list: &'e List,
        prefix: &'e str,
    ) -> impl Iterator<Item = (&'e str, &'e str)> {
        let all = self.get(list.variable).unwrap_or_default();
        let with_prefix = all.split(list.separator);
        with_prefix.filter_map(move |one| one.strip_prefix(prefix)?.split_once(list.assignment))
    }
}

impl Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            let between = if at > 0 { " " } else { "" };
            write!(f, "{between}{name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_changed_where_it_was_set() {
        let mut env = Environment::of([
            ("MALLOC_ARENA_MAX", "8"),
            (
                "GLIBC_TUNABLES",
                "glibc.malloc.mmap_threshold=4096:glibc.rtld.nns=3",
            ),
        ]);
        assert_eq!(env.setting(Allocator::Glibc, "arena_max"), Some("8"));
        env.set_setting(Allocator::Glibc, "arena_max", "1");
        env.set_setting(Allocator::Glibc, "mmap_threshold", "131072");
        env.set_setting(Allocator::Glibc, "tcache_count", "0");
        assert_eq!(env.get("MALLOC_ARENA_MAX"), Some("1"));
        assert_eq!(
            env.get("GLIBC_TUNABLES"),
            Some("glibc.rtld.nns=3:glibc.malloc.mmap_threshold=131072:glibc.malloc.tcache_count=0")
        );
        assert_eq!(env.get("MALLOC_MMAP_THRESHOLD_"), None);
    }

    #[test]
    fn settings_of_each_allocator_stand_where_it_reads_them() {
        let mut env = Environment::default();
        env.set_setting(Allocator::Jemalloc, "narenas", "1");
        env.set_setting(Allocator::Jemalloc, "tcache", "false");
        env.set_setting(Allocator::Jemalloc, "narenas", "2");
        env.set_setting(Allocator::Mimalloc, "PURGE_DELAY", "0");
        assert_eq!(env.get("MALLOC_CONF"), Some("tcache:false,narenas:2"));
        assert_eq!(env.get("MIMALLOC_PURGE_DELAY"), Some("0"));
        assert_eq!(env.setting(Allocator::Jemalloc, "narenas"), Some("2"));
        assert_eq!(env.setting(Allocator::Mimalloc, "PURGE_DELAY"), Some("0"));
    }

    #[test]
    fn an_allocators_own_variables_can_be_left_out() {
        let env = Environment::of([("MIMALLOC_VERBOSE", "1"), ("MALLOC_CONF", "narenas:1")]);
        let rest = env.without(Allocator::Mimalloc);
        assert_eq!(
            rest.variables(),
            [("MALLOC_CONF".into(), "narenas:1".into())]
        );
    }
}
