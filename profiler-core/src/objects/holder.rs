//! Who holds what: a name, the way from it, and what would go with it.

use super::lengths::Course;
use super::pins::Dropped;
use crate::addr::RemoteAddr;
use crate::units::{bytes, count};

/// What an object is to the function that has it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Via {
    /// Its default arguments.
    Defaults,
    /// Variables of the functions around it.
    Closure,
}

impl Via {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Defaults, Self::Closure];

    /// Its name, for people and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Defaults => "default arguments",
            Self::Closure => "closure",
        }
    }
}

/// One step on the way from a name to what is held.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PathStep {
    /// What the step before has it as, where that is no plain item.
    pub via: Option<Via>,
    /// The attribute that the step before has it as, where that is an instance. Foreign text.
    pub attribute: Option<String>,
    /// The type.
    pub type_name: String,
    /// How many items it has, for containers.
    pub length: Option<u64>,
    /// Whether that is a number of bytes.
    pub length_is_bytes: bool,
    /// How many objects of the type follow one another in this way, as in a linked list.
    pub times: u64,
    /// The function whose results it has, of an `lru_cache`; the file that it maps, of an `mmap` object. Foreign text.
    pub subject: Option<String>,
}

impl PathStep {
    /// As people read it: `closure: dict of 412.0k (3 in a row)`, `mmap.mmap of 1.0 MiB [orders.bin]`.
    pub fn text(&self) -> String {
        let via = self.via;
        let via = via.map_or_else(String::new, |via| format!("{}: ", via.name()));
        let attribute = self.attribute.as_ref();
        let attribute = attribute.map_or_else(String::new, |name| format!(".{name}: "));
        let length = self.length;
        let words = |length: u64| match self.length_is_bytes {
            true => bytes(length),
            false => count(length),
        };
        let length = length.map_or_else(String::new, |length| format!(" of {}", words(length)));
        let times = match self.times {
            0 | 1 => String::new(),
            times => format!(" ({} in a row)", count(times)),
        };
        let subject = self.subject.as_ref();
        let subject = subject.map_or_else(String::new, |name| format!(" [{name}]"));
        format!("{via}{attribute}{}{length}{subject}{times}", self.type_name)
    }
}

/// Branches of one holder that are kept.
pub(super) const MAX_BRANCHES: usize = 6;

/// Another place below a holder where bytes spread out than that which its path leads to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Branch {
    /// The object in which it leaves the path: by it, the same branch is found in another census.
    pub object: RemoteAddr,
    /// Bytes of blocks that would be freed with it.
    pub retained_bytes: u64,
    /// From what the name refers to down to there.
    pub path: Vec<PathStep>,
    /// The type of most of what is there.
    pub item_type: Option<String>,
    /// How many of that type are right there.
    pub items: u64,
    /// Where the number of items of the container is that its path ends in.
    pub length_at: Option<RemoteAddr>,
    /// How that number went on since the census before; `None` where it was not counted, or shows nothing.
    pub course: Option<Course>,
}

/// What a name of a holder is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum NameKind {
    /// A global of a module, or an attribute of a class.
    Entry,
    /// A variable of a function, which goes when that returns.
    Variable,
    /// No name in the program: a place where references were found.
    Place,
}

impl NameKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Entry, Self::Variable, Self::Place];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Variable => "variable",
            Self::Place => "place",
        }
    }

    /// Of a name in a file that has the text alone, as those of older versions have.
    fn of_text(text: &str) -> Self {
        match text {
            _ if text.starts_with('(') => Self::Place,
            _ if text.contains("(): ") => Self::Variable,
            _ => Self::Entry,
        }
    }
}

/// A name, or several that share what they hold, and what would go if they went.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holder {
    /// The name: `app.tasks.SESSIONS`, `app.tasks.run(): rows`. Foreign text.
    pub name: String,
    /// Other names that hold the same; what is shared is retained by none of them alone.
    pub shared_with: Vec<String>,
    /// What each of its names is, in the order of [`Self::names_as_shown`].
    pub name_kinds: Vec<NameKind>,
    /// Whether it is a name in the program, rather than a place where references were found.
    pub is_name: bool,
    /// Type of what it refers to; of [`Self::name`] where several names share something.
    pub type_name: Option<String>,
    /// Items of it, for containers.
    pub length: Option<u64>,
    /// The object that it refers to, of [`Self::name`] where several names share something: by it, a variable is known to
    /// refer to what it did in another census. `None` where that was not recorded.
    pub object: Option<RemoteAddr>,
    /// Bytes of blocks that would be freed with it.
    pub retained_bytes: u64,
    /// Blocks that would be freed with it.
    pub retained_blocks: u64,
    /// From what it refers to down to the container in which the bytes spread out.
    pub path: Vec<PathStep>,
    /// The type of most of what is there.
    pub item_type: Option<String>,
    /// How many of that type are right there, of those that were live at the walk.
    pub items: u64,
    /// Free bytes on the resident pages where its blocks lie, divided evenly among the live blocks of a
    /// page.
    pub pinned_free_bytes: u64,
    /// What freeing it and trimming the allocator would return to the system; `None` where an allocator
    /// serves whose rules are not known.
    pub dropped: Option<Dropped>,
    /// Other places where its bytes spread out, the largest first.
    pub branches: Vec<Branch>,
    /// Where the number of items of the container is that its path ends in.
    pub length_at: Option<RemoteAddr>,
    /// How that number went on since the census before; `None` where it was not counted, or shows nothing.
    pub course: Option<Course>,
    /// Of the bytes that would be freed with it, those on pages that another process maps as well, as a forked worker
    /// has them with its parent; `None` where that was not recorded.
    pub shared_bytes: Option<u64>,
    /// Of the bytes that would be freed with it, those of other holders within it, which have rows of their own; `None`
    /// where that was not recorded.
    pub inner_bytes: Option<u64>,
    /// Beside the bytes of blocks, resident ones that its `mmap` objects map, of files and of anonymous memory, outside of
    /// all heaps; `None` where that was not recorded.
    pub mapped_bytes: Option<u64>,
    /// Of these, those on pages that are mapped elsewhere as well; `None` where that was not recorded.
    pub mapped_shared_bytes: Option<u64>,
    /// Of these, those on pages that may stay in memory when the objects go: of files, of shared mappings, and those that
    /// are mapped elsewhere as well; `None` where that was not recorded.
    pub mapped_kept_bytes: Option<u64>,
}

impl Branch {
    /// The steps from the name to where bytes spread out, and what is there: `dict of 412.0k`, `app.Session`.
    pub fn steps(&self) -> Vec<String> {
        steps(&self.path, self.item_type.as_ref())
    }
}

fn steps(path: &[PathStep], item_type: Option<&String>) -> Vec<String> {
    let path = path.iter().map(PathStep::text);
    path.chain(item_type.cloned()).collect()
}

impl Holder {
    /// Its names, in an order of their own: which of those who share something comes first may change from one census
    /// to the next.
    pub fn names(&self) -> Vec<&str> {
        let others = self.shared_with.iter();
        let mut names: Vec<&str> = others.chain([&self.name]).map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Its names as they are shown, and what each is; one of which that is not given counts as an entry.
    pub fn names_with_kinds(&self) -> impl Iterator<Item = (&str, NameKind)> {
        let names = std::iter::once(&self.name).chain(&self.shared_with);
        let kinds = self.name_kinds.iter().copied();
        let kinds = kinds.chain(std::iter::repeat(NameKind::Entry));
        names.map(String::as_str).zip(kinds)
    }

    /// With the kinds of its names, where what it was read from has none, or not one for each.
    #[must_use]
    pub fn with_kinds(mut self) -> Self {
        if self.name_kinds.len() != 1 + self.shared_with.len() {
            let names = std::iter::once(&self.name).chain(&self.shared_with);
            self.name_kinds = names.map(|name| NameKind::of_text(name)).collect();
        }
        self
    }

    /// Its names as they are shown, the first of them before the others.
    pub fn names_as_shown(&self) -> Vec<String> {
        let names = std::iter::once(&self.name).chain(&self.shared_with);
        names.cloned().collect()
    }

    /// The steps from the name to where most of its bytes spread out, as [`Branch::steps`] has them.
    pub fn steps(&self) -> Vec<String> {
        steps(&self.path, self.item_type.as_ref())
    }

    /// What freeing it would return to the system, in a sentence; `None` where that is not known, and for
    /// what no program can free.
    pub fn if_freed(&self) -> Option<String> {
        let unmapped = self.if_unmapped();
        match (self.blocks_if_freed(), unmapped) {
            // Of next to no blocks there is nothing to say.
            (_, Some(unmapped)) if self.retained_bytes < self.held_bytes() / 10 => Some(unmapped),
            (Some(of_blocks), Some(unmapped)) => Some(format!("{unmapped} {of_blocks}")),
            (of_blocks, unmapped) => of_blocks.or(unmapped),
        }
    }

    /// The first of its names and what it is: `app.tasks.SESSIONS` (dict).
    pub fn titled(&self) -> String {
        match &self.type_name {
            Some(of) => format!("`{}` ({of})", self.name),
            None => format!("`{}`", self.name),
        }
    }

    /// Bytes of blocks, and resident ones that `mmap` objects map: what tables are ordered by.
    pub fn held_bytes(&self) -> u64 {
        let mapped = self.mapped_bytes.unwrap_or(0);
        self.retained_bytes.saturating_add(mapped)
    }

    /// What goes, or may stay, of what its `mmap` objects map; `None` where that is nothing, and for what no program can
    /// free.
    fn if_unmapped(&self) -> Option<String> {
        let mapped = self.mapped_bytes.filter(|_| self.is_name)?;
        let kept = self.mapped_kept_bytes.map(|kept| kept.min(mapped));
        let own = match kept {
            Some(kept) => mapped - kept,
            None => 0,
        };
        let own = (own > 0).then(|| {
            format!(
                "{} of it are pages of private memory that its mmap objects map, and are freed with these.",
                bytes(own)
            )
        });
        let kept = kept.unwrap_or(mapped);
        let kept = (kept > 0).then(|| {
            format!(
                "{} of it are pages that its mmap objects map and that are unmapped with these: the pages stay while the \
                 file or another process has them.",
                bytes(kept)
            )
        });
        let both: Vec<String> = [own, kept].into_iter().flatten().collect();
        (!both.is_empty()).then(|| both.join(" "))
    }

    /// What freeing its blocks would return.
    fn blocks_if_freed(&self) -> Option<String> {
        let retained = self.retained_bytes;
        let freeing = match retained == self.held_bytes() {
            true => "Freeing it",
            false => "Freeing its blocks",
        };
        let Dropped {
            live_bytes: live,
            unpinned_bytes: unpinned,
            untouched,
        } = self.dropped.filter(|_| self.is_name)?;
        let untouched = untouched.bytes;
        // A tenth of what it is said to hold is worth a sentence.
        let is_untouched = untouched > 0 && untouched >= retained / 10;
        let sentence = match (live, is_untouched) {
            (0, false) => {
                format!(
                    "{freeing} would return nothing to the system: its pages hold other blocks too, or are not resident."
                )
            }
            (0, true) => format!("{freeing} would return nothing to the system."),
            _ => format!(
                "{freeing} would return {} to the system: {} of its own and {} of free memory and headers beside them.",
                bytes(live.saturating_add(unpinned)),
                bytes(live),
                bytes(unpinned)
            ),
        };
        Some(match is_untouched {
            true => format!(
                "{sentence} {} of it was asked for and never written to, and takes no memory.",
                bytes(untouched)
            ),
            false => sentence,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::residency::NeverWritten;

    #[test]
    fn names_of_files_without_kinds_get_them_from_their_text() {
        let of = |name_kinds| Holder {
            name: "app.run(): rows".into(),
            shared_with: vec!["app.CACHE".into(), "(interpreter)".into()],
            name_kinds,
            ..Holder::default()
        };
        let derived = [NameKind::Variable, NameKind::Entry, NameKind::Place];
        for lacking in [vec![], vec![NameKind::Entry]] {
            assert_eq!(of(lacking).with_kinds().name_kinds, derived);
        }
        // What was recorded stays, whatever the text is.
        let recorded = vec![NameKind::Entry; 3];
        assert_eq!(of(recorded.clone()).with_kinds().name_kinds, recorded);
    }

    #[test]
    fn pages_that_are_mapped_are_not_said_to_be_freed_where_they_may_stay() {
        let of = |mapped, kept| Holder {
            is_name: true,
            mapped_bytes: Some(mapped),
            mapped_kept_bytes: kept,
            ..Holder::default()
        };
        let stay = "30.0 MiB of it are pages that its mmap objects map and that are unmapped with these: the pages stay \
                    while the file or another process has them.";
        for kept in [Some(30 << 20), None] {
            assert_eq!(of(30 << 20, kept).if_freed().as_deref(), Some(stay));
        }
        let private = "2.0 MiB of it are pages of private memory that its mmap objects map, and are freed with these.";
        let both = format!("{private} {stay}");
        assert_eq!(of(32 << 20, Some(30 << 20)).if_freed(), Some(both));
        assert_eq!(of(0, Some(0)).if_freed(), None);
    }

    #[test]
    fn the_length_of_what_has_bytes_is_given_as_bytes() {
        let mut step = PathStep {
            type_name: "mmap.mmap".into(),
            length: Some(200 << 20),
            length_is_bytes: true,
            ..PathStep::default()
        };
        assert_eq!(step.text(), "mmap.mmap of 200.0 MiB");
        (step.length, step.length_is_bytes) = (Some(412_000), false);
        assert_eq!(step.text(), "mmap.mmap of 412.0k");
    }

    #[test]
    fn only_a_name_can_be_dropped_and_nothing_that_goes_back_has_its_reason() {
        let mut holder = Holder {
            is_name: true,
            dropped: Some(Dropped::default()),
            ..Holder::default()
        };
        let sentence = holder.if_freed().expect("a sentence");
        assert!(
            sentence.contains("would return nothing to the system: its pages"),
            "{sentence}"
        );
        holder.retained_bytes = 2 << 30;
        holder.dropped = Some(Dropped {
            untouched: NeverWritten {
                bytes: 2 << 30,
                unknown_bytes: 0,
            },
            ..Dropped::default()
        });
        assert_eq!(
            holder.if_freed().as_deref(),
            Some(
                "Freeing it would return nothing to the system. 2.0 GiB of it was asked for and never written to, and \
                 takes no memory."
            )
        );
        holder.is_name = false;
        assert_eq!(holder.if_freed(), None);
    }
}
