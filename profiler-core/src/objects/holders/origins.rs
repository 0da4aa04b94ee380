//! Where a name comes from: the program itself, a library, or Python's standard library.

use hashbrown::HashMap;

use super::super::holder::NameKind;

/// Packages that run a program's functions: it says little that variables of their own functions
/// also refer to something.
const RUNNERS: [&str; 14] = [
    "asyncio",
    "billiard",
    "celery",
    "concurrent",
    "gunicorn",
    "importlib",
    "kombu",
    "multiprocessing",
    "runpy",
    "socketserver",
    "threading",
    "uvicorn",
    "uvloop",
    "wsgiref",
];

/// The origin of a module's code; the program's own comes first.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(in crate::objects) enum Origin {
    /// The program's own.
    Program,
    /// A package that was installed.
    Installed,
    /// What comes with Python.
    Python,
    /// Variables of the functions that run a program's own.
    Runner,
    /// Not a name of a module, but a place where references were found.
    Place,
}

impl Origin {
    /// The origin of the module with this file; a module without one is built in.
    fn of_file(file: Option<&str>) -> Self {
        let Some(file) = file else {
            return Self::Python;
        };
        let folders: Vec<&str> = file.split('/').collect();
        let (_, folders) = folders.split_last().unwrap_or((&"", &[]));
        if folders
            .iter()
            .any(|of| matches!(*of, "site-packages" | "dist-packages"))
        {
            return Self::Installed;
        }
        let is_version = |of: &str| {
            let version = of.strip_prefix("python").unwrap_or("");
            let mut parts = version.split('.');
            parts.clone().count() == 2 && parts.all(|part| part.parse::<u8>().is_ok())
        };
        let in_lib = folders
            .windows(2)
            .any(|of| matches!(of[0], "lib" | "lib64") && is_version(of[1]));
        match in_lib || file.starts_with('<') {
            true => Self::Python,
            false => Self::Program,
        }
    }
}

/// The origin of each module's code.
#[derive(Debug, Default)]
pub(in crate::objects) struct Origins(HashMap<String, Origin>);

impl Origins {
    /// Of modules with their files.
    pub(in crate::objects) fn of(modules: impl Iterator<Item = (String, Option<String>)>) -> Self {
        let mut all = HashMap::new();
        for (name, file) in modules {
            let origin = match name.as_str() {
                "__main__" => Origin::Program,
                _ => Origin::of_file(file.as_deref()),
            };
            let known = all.entry(name).or_insert(origin);
            *known = origin.min(*known);
        }
        Self(all)
    }

    /// The origin of a name as shown: that of the innermost module that it begins with.
    pub(super) fn rank(&self, name: &str, kind: NameKind) -> Origin {
        let package = name.split('.').next().unwrap_or("");
        match kind {
            NameKind::Place => return Origin::Place,
            NameKind::Variable if RUNNERS.contains(&package) => return Origin::Runner,
            NameKind::Variable | NameKind::Entry => {}
        }
        let mut module = name;
        while let Some((outer, _)) = module.rsplit_once('.') {
            if let Some(origin) = self.0.get(outer) {
                return *origin;
            }
            module = outer;
        }
        // Of a module whose file is not known.
        Origin::Program
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_program_come_before_those_of_libraries() {
        let all = [
            ("__main__", None),
            ("app.tasks", Some("/srv/app/tasks.py")),
            ("app", Some("/srv/app/__init__.py")),
            (
                "pandas.core",
                Some("/srv/v/lib/python3.11/site-packages/pandas/core.py"),
            ),
            ("logging", Some("/usr/lib/python3.11/logging/__init__.py")),
            ("sys", None),
            ("asyncio", Some("/usr/lib/python3.11/asyncio/__init__.py")),
        ];
        let owned = |(name, file): (&str, Option<&str>)| (name.to_owned(), file.map(str::to_owned));
        let origins = Origins::of(all.into_iter().map(owned));
        let mut names = [
            ("(interpreter)", NameKind::Place),
            ("asyncio.runners.run(): main", NameKind::Variable),
            ("sys.modules", NameKind::Entry),
            ("logging.Logger.manager", NameKind::Entry),
            ("pandas.core.Frame.CACHE", NameKind::Entry),
            ("app.tasks.Order.CACHE", NameKind::Entry),
            ("__main__.run(): rows", NameKind::Variable),
        ];
        names.sort_by_key(|(name, kind)| origins.rank(name, *kind));
        let sorted = [
            "app.tasks.Order.CACHE",
            "__main__.run(): rows",
            "pandas.core.Frame.CACHE",
            "sys.modules",
            "logging.Logger.manager",
            "asyncio.runners.run(): main",
            "(interpreter)",
        ];
        assert_eq!(names.map(|(name, _)| name), sorted);
    }
}
