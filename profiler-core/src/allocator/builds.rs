//! The allocator builds that the lab can replay into: their names and where they come from.

use super::Allocator;

/// The builds of allocators that the lab can play into.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum BuildId {
    /// The C library's own.
    Glibc,
    /// jemalloc 5.
    Jemalloc,
    /// mimalloc 3.
    Mimalloc3,
    /// mimalloc 2.
    Mimalloc2,
    /// tcmalloc of gperftools.
    Tcmalloc,
}

impl BuildId {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Glibc,
        Self::Jemalloc,
        Self::Mimalloc3,
        Self::Mimalloc2,
        Self::Tcmalloc,
    ];

    /// The allocator of this build.
    pub const fn kind(self) -> Allocator {
        match self {
            Self::Glibc => Allocator::Glibc,
            Self::Jemalloc => Allocator::Jemalloc,
            Self::Mimalloc3 | Self::Mimalloc2 => Allocator::Mimalloc,
            Self::Tcmalloc => Allocator::Tcmalloc,
        }
    }

    /// The declaration of this build.
    pub const fn build(self) -> &'static Build {
        match self {
            Self::Glibc => &GLIBC,
            Self::Jemalloc => &JEMALLOC,
            Self::Mimalloc3 => &MIMALLOC_3,
            Self::Mimalloc2 => &MIMALLOC_2,
            Self::Tcmalloc => &TCMALLOC,
        }
    }

    /// The build that a user calls by this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|id| id.build().name == name)
    }
}

/// A build of an allocator.
#[derive(Debug)]
pub struct Build {
    /// The name by which users select it. An allocator's first build has the allocator's name.
    pub name: &'static str,
    /// File names of its library for `LD_PRELOAD`, the preferred one first; empty for the C
    /// library's own.
    pub libraries: &'static [&'static str],
    /// Where it comes from.
    pub source: Source,
}

/// Where a build comes from.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// Every program has it.
    CLibrary,
    /// It is embedded in fragscope.
    Carried,
    /// This package of Debian.
    Package(&'static str),
}

static GLIBC: Build = Build {
    name: "glibc",
    libraries: &[],
    source: Source::CLibrary,
};

static JEMALLOC: Build = Build {
    name: "jemalloc",
    libraries: &["libjemalloc.so.2"],
    source: Source::Carried,
};

static MIMALLOC_3: Build = Build {
    name: "mimalloc",
    libraries: &["libmimalloc.so.3"],
    source: Source::Carried,
};

static MIMALLOC_2: Build = Build {
    name: "mimalloc2",
    // Debian names the file by its release.
    libraries: &["libmimalloc.so.2", "libmimalloc.so.2.0"],
    source: Source::Carried,
};

static TCMALLOC: Build = Build {
    name: "tcmalloc",
    // The library without a profiler comes first.
    libraries: &["libtcmalloc_minimal.so.4", "libtcmalloc.so.4"],
    source: Source::Package("libtcmalloc-minimal4"),
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::ROWS;

    #[test]
    fn every_build_is_of_its_allocator_and_the_first_has_its_name() {
        let all = ROWS.iter().flat_map(|row| row.builds);
        assert_eq!(all.count(), BuildId::ALL.len());
        for row in ROWS {
            let first = row.builds.first().map(|id| id.build().name);
            assert!(first.is_none_or(|name| name == row.name), "{first:?}");
            for id in row.builds {
                assert_eq!(id.kind(), row.kind);
                assert_eq!(BuildId::named(id.build().name), Some(*id));
            }
        }
    }
}
