//! Candidates: allocators and settings to try instead of the current ones, and their names.

use std::fmt;

use crate::allocator::{Allocator, AllocatorTitle, BuildId};
use crate::tuning::Tuning;

/// A candidate's name for people and files. Files contain the text of its [`fmt::Display`];
/// [`CandidateName::parse`] is the inverse.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CandidateName {
    /// A build with its defaults, such as `jemalloc`.
    Build(BuildId),
    /// A change of settings, such as `mmap_threshold=128K` or `jemalloc background`.
    Tuning(&'static Tuning),
    /// One of these, or the baseline, while Python also requests its objects from malloc
    /// ([`PYTHON_MALLOC`]).
    WithoutObjectAllocator(Option<Box<CandidateName>>),
    /// Anything else: the baseline, or the user's choice.
    Other(String),
}

/// The variable that makes Python request its objects from malloc, and its value.
pub const PYTHON_MALLOC: (&str, &str) = ("PYTHONMALLOC", "malloc");
/// The same as text.
const PYTHON_MALLOC_TEXT: &str = "PYTHONMALLOC=malloc";

impl CandidateName {
    /// Parses its text.
    pub fn parse(text: &str) -> Self {
        if let Some(build) = BuildId::named(text) {
            return Self::Build(build);
        }
        match text.strip_suffix(PYTHON_MALLOC_TEXT) {
            Some("") => return Self::WithoutObjectAllocator(None),
            Some(of) if of.ends_with(' ') => {
                let of = Self::parse(&of[..of.len() - 1]);
                return Self::WithoutObjectAllocator(Some(Box::new(of)));
            }
            _ => {}
        }
        match Tuning::named(text) {
            Some(tuning) => Self::Tuning(tuning),
            None => Self::Other(text.to_owned()),
        }
    }

    /// Its allocator; `None` if the name does not say.
    pub fn allocator(&self) -> Option<Allocator> {
        match self {
            Self::Build(build) => Some(build.kind()),
            Self::Tuning(tuning) => Some(tuning.allocator),
            Self::WithoutObjectAllocator(of) => of.as_ref()?.allocator(),
            Self::Other(_) => None,
        }
    }

    /// The same as a title without a version; the name itself if it does not say the allocator.
    pub fn title(&self) -> AllocatorTitle {
        match self.allocator() {
            Some(kind) => AllocatorTitle::Known {
                kind,
                version: None,
            },
            None => AllocatorTitle::Other(self.to_string()),
        }
    }

    /// Whether it is this build with its defaults.
    pub fn is_default_of(&self, build: BuildId) -> bool {
        *self == Self::Build(build)
    }
}

impl fmt::Display for CandidateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build(build) => f.pad(build.build().name),
            Self::Tuning(tuning) => f.pad(&tuning.name()),
            Self::WithoutObjectAllocator(None) => f.pad(PYTHON_MALLOC_TEXT),
            Self::WithoutObjectAllocator(Some(of)) => f.pad(&format!("{of} {PYTHON_MALLOC_TEXT}")),
            Self::Other(name) => f.pad(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuning;

    #[test]
    fn a_name_comes_back_from_its_text() {
        let builds = BuildId::ALL.map(CandidateName::Build);
        let tunings = tuning::ALL.map(CandidateName::Tuning);
        for name in builds.into_iter().chain(tunings) {
            assert_eq!(CandidateName::parse(&name.to_string()), name);
            assert!(name.allocator().is_some(), "{name}");
        }
        let (name, value) = PYTHON_MALLOC;
        assert_eq!(PYTHON_MALLOC_TEXT, format!("{name}={value}"));
        for text in [
            "PYTHONMALLOC=malloc",
            "jemalloc background PYTHONMALLOC=malloc",
            "malloc_trim each 10s PYTHONMALLOC=malloc",
        ] {
            let name = CandidateName::parse(text);
            assert!(matches!(name, CandidateName::WithoutObjectAllocator(_)));
            assert_eq!(name.to_string(), text);
            let of_jemalloc = text.starts_with("jemalloc").then_some(Allocator::Jemalloc);
            assert_eq!(name.allocator(), of_jemalloc);
        }
        for text in [
            "",
            "NOPYTHONMALLOC=malloc",
            "baseline: glibc 2.36",
            "malloc_trim each 10s",
            "jemalloc ",
        ] {
            let name = CandidateName::parse(text);
            assert_eq!(name, CandidateName::Other(text.to_owned()));
            assert_eq!((name.to_string().as_str(), name.allocator()), (text, None));
        }
    }
}
