//! The part of an environment that allocators read.

/// Variables with their values, in order. `LD_PRELOAD` is not among them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Environment(Vec<(String, String)>);

/// glibc's tunables that have a variable of their own (glibc, `elf/dl-tunables.list`).
const ALIASES: [(&str, &str); 8] = [
    ("mmap_threshold", "MALLOC_MMAP_THRESHOLD_"),
    ("trim_threshold", "MALLOC_TRIM_THRESHOLD_"),
    ("top_pad", "MALLOC_TOP_PAD_"),
    ("mmap_max", "MALLOC_MMAP_MAX_"),
    ("arena_max", "MALLOC_ARENA_MAX"),
    ("arena_test", "MALLOC_ARENA_TEST"),
    ("perturb", "MALLOC_PERTURB_"),
    ("check", "MALLOC_CHECK_"),
];

const TUNABLES: &str = "GLIBC_TUNABLES";
const MALLOC: &str = "glibc.malloc.";

impl Environment {
    /// These variables.
    #[cfg(test)]
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

    /// The same without the variables whose names begin so.
    pub fn without(&self, begins: &str) -> Self {
        let mut rest = self.clone();
        rest.0.retain(|(name, _)| !name.starts_with(begins));
        rest
    }

    /// A setting of glibc's malloc by the name of its tunable, `mmap_threshold` say; what
    /// `GLIBC_TUNABLES` says goes before a variable of its own.
    pub fn glibc(&self, tunable: &str) -> Option<&str> {
        let listed = self.tunables().find(|(name, _)| *name == tunable);
        listed
            .map(|(_, value)| value)
            .or_else(|| self.get(alias(tunable)?))
    }

    /// Sets a setting of glibc's malloc, where it was set if it was.
    pub fn set_glibc(&mut self, tunable: &str, value: &str) {
        let is_listed = self.tunables().any(|(name, _)| name == tunable);
        match alias(tunable) {
            Some(variable) if !is_listed => self.set(variable, value),
            _ => self.set_tunable(tunable, value),
        }
    }

    fn set_tunable(&mut self, tunable: &str, value: &str) {
        let key = format!("{MALLOC}{tunable}");
        let list = self.get(TUNABLES).unwrap_or_default();
        let others = list.split(':').filter(|one| {
            let name = one.split('=').next().unwrap_or_default();
            !one.is_empty() && name != key
        });
        let mut all: Vec<String> = others.map(str::to_owned).collect();
        all.push(format!("{key}={value}"));
        self.set(TUNABLES, &all.join(":"));
    }

    fn tunables(&self) -> impl Iterator<Item = (&str, &str)> {
        let list = self.get(TUNABLES).unwrap_or_default();
        list.split(':')
            .filter_map(|one| one.strip_prefix(MALLOC)?.split_once('='))
    }
}

fn alias(tunable: &str) -> Option<&'static str> {
    let mut all = ALIASES.iter();
    all.find(|(name, _)| *name == tunable)
        .map(|(_, variable)| *variable)
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
        assert_eq!(env.glibc("arena_max"), Some("8"));
        env.set_glibc("arena_max", "1");
        env.set_glibc("mmap_threshold", "131072");
        env.set_glibc("tcache_count", "0");
        assert_eq!(env.get("MALLOC_ARENA_MAX"), Some("1"));
        assert_eq!(
            env.get("GLIBC_TUNABLES"),
            Some("glibc.rtld.nns=3:glibc.malloc.mmap_threshold=131072:glibc.malloc.tcache_count=0")
        );
        assert_eq!(env.get("MALLOC_MMAP_THRESHOLD_"), None);
    }

    #[test]
    fn an_allocators_own_variables_can_be_left_out() {
        let env = Environment::of([("MIMALLOC_VERBOSE", "1"), ("MALLOC_CONF", "narenas:1")]);
        let rest = env.without("MIMALLOC_");
        assert_eq!(
            rest.variables(),
            [("MALLOC_CONF".into(), "narenas:1".into())]
        );
    }
}
