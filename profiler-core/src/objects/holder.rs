//! A holder: a name, the path from it, and what would be freed with it.

use super::lengths::{Course, LengthAt, Pace};
use super::pins::Dropped;
use crate::addr::RemoteAddr;
use crate::units::{bytes, count};

/// The role of an object for the function that holds it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Via {
    /// Its default arguments.
    Defaults,
    /// Variables of enclosing functions.
    Closure,
}

impl Via {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Defaults, Self::Closure];

    /// Its name for people and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Defaults => "default arguments",
            Self::Closure => "closure",
        }
    }
}

/// One step on the path from a name to what is held.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PathStep {
    /// The role in which the previous step holds it, if it is not a plain item.
    pub via: Option<Via>,
    /// The attribute of the previous step that refers to it, if that is an instance; the variable that has it, if the previous
    /// step is a function with a closure. Untrusted text.
    pub attribute: Option<String>,
    /// The type.
    pub type_name: String,
    /// The number of its items, for containers.
    pub length: Option<u64>,
    /// Whether that is a number of bytes.
    pub length_is_bytes: bool,
    /// How many objects of the type follow one another in this way, as in a linked list.
    pub times: u64,
    /// For an `lru_cache`, the function whose results it holds; for an `mmap` object, the file that
    /// it maps. Untrusted text.
    pub subject: Option<String>,
}

impl PathStep {
    /// The variable of an enclosing function in which a function has it: "closure variable `kept`".
    fn captured(&self) -> Option<String> {
        let name = self.attribute.as_ref();
        let name = name.filter(|_| self.via == Some(Via::Closure))?;
        Some(format!("{} variable `{name}`", Via::Closure.name()))
    }

    /// Its text: `closure: dict of 412.0k (3 in a row)`, `mmap.mmap of 1.0 MiB [orders.bin]`.
    pub fn text(&self) -> String {
        let via = match (self.captured(), self.via) {
            (Some(variable), _) => format!("{variable}: "),
            (None, Some(via)) => format!("{}: ", via.name()),
            (None, None) => String::new(),
        };
        let attribute = self.attribute.as_ref().filter(|_| self.via.is_none());
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

/// A place below a holder where bytes spread out, other than the one its path leads to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Branch {
    /// The object in which it leaves the path; it identifies the same branch in another census.
    pub object: RemoteAddr,
    /// Bytes of blocks that would be freed with it.
    pub retained_bytes: u64,
    /// The path from what the name refers to down to there.
    pub path: Vec<PathStep>,
    /// The type of most items there.
    pub item_type: Option<String>,
    /// How many of that type are right there.
    pub items: u64,
    /// Where the number of items of the container is that its path ends in.
    pub length_at: Option<LengthAt>,
    /// How that number went on since the census before; `None` where it was not counted, or shows nothing.
    pub course: Option<Course>,
    /// How fast it rose meanwhile, and by how much it fell; `None` where its course is.
    pub pace: Option<Pace>,
}

/// The kind of a holder's name.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum NameKind {
    /// A global of a module, or an attribute of a class.
    Entry,
    /// A variable of a function, which goes when that returns.
    Variable,
    /// Not a name in the program, but a place where references were found.
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

    /// The kind of a name for which a file contains only the text, as files of older versions do.
    fn of_text(text: &str) -> Self {
        match text {
            _ if text.starts_with('(') => Self::Place,
            _ if text.contains("(): ") => Self::Variable,
            _ => Self::Entry,
        }
    }
}

/// Running calls of a function, each with a value of its own under one name.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Calls {
    /// How many.
    pub count: u64,
    /// Threads that run them; `None` where that is not known.
    pub threads: Option<u64>,
}

impl Calls {
    /// One, or something else than a variable of a function.
    pub const ONE: Self = Self {
        count: 1,
        threads: None,
    };

    /// "in 8 threads"; `None` of one.
    pub fn text(self) -> Option<String> {
        let all = count(self.count);
        (self.count > 1).then(|| match self.threads {
            Some(threads) if threads == self.count => format!("in {all} threads"),
            _ => format!("in {all} running calls"),
        })
    }
}

impl Default for Calls {
    fn default() -> Self {
        Self::ONE
    }
}

/// A name, or several that share what they hold, and what would be freed with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holder {
    /// The name: `app.tasks.SESSIONS`, `app.tasks.run(): rows`. Foreign text.
    pub name: String,
    /// Other names that hold the same; none of them retains it alone.
    pub shared_with: Vec<String>,
    /// The kind of each of its names, in the order of [`Self::names_as_shown`].
    pub name_kinds: Vec<NameKind>,
    /// How many running calls have this variable, of which the row is the sum; its path is that of the largest.
    pub calls: Calls,
    /// Whether it is a name in the program, rather than a place where references were found.
    pub is_name: bool,
    /// The type of what it refers to, or of what [`Self::name`] refers to if several names share
    /// something.
    pub type_name: Option<String>,
    /// The number of items in that, for containers.
    pub length: Option<u64>,
    /// The object that it refers to, or that [`Self::name`] refers to if several names share
    /// something. It shows whether a variable refers to the same object in another census. `None`
    /// if it was not recorded.
    pub object: Option<RemoteAddr>,
    /// Bytes of blocks that would be freed with it.
    pub retained_bytes: u64,
    /// Blocks that would be freed with it.
    pub retained_blocks: u64,
    /// The path from what it refers to down to the container in which the bytes spread out.
    pub path: Vec<PathStep>,
    /// The type of most items there.
    pub item_type: Option<String>,
    /// How many of that type are right there, of those that were live at the walk.
    pub items: u64,
    /// Free bytes on the resident pages of its blocks, divided evenly among the live blocks of a
    /// page.
    pub pinned_free_bytes: u64,
    /// What freeing it and trimming the allocator would return to the system; `None` if the serving
    /// allocator's rules are unknown.
    pub dropped: Option<Dropped>,
    /// Other places where its bytes spread out, the largest first.
    pub branches: Vec<Branch>,
    /// Where the number of items of the container is that its path ends in.
    pub length_at: Option<LengthAt>,
    /// How that number went on since the census before; `None` where it was not counted, or shows nothing.
    pub course: Option<Course>,
    /// How fast it rose meanwhile, and by how much it fell; `None` where its course is.
    pub pace: Option<Pace>,
    /// Of the bytes that would be freed with it, those on pages that another process maps as well, as a forked worker
    /// has them with its parent; `None` where that was not recorded.
    pub shared_bytes: Option<u64>,
    /// The part of the bytes freed with it that belongs to other holders inside it, which have
    /// their own rows; `None` if it was not recorded.
    pub inner_bytes: Option<u64>,
    /// In addition to block bytes: resident bytes mapped by its `mmap` objects, of files and of
    /// anonymous memory, outside all heaps; `None` if they were not recorded.
    pub mapped_bytes: Option<u64>,
    /// The part of these on pages that are also mapped elsewhere; `None` if it was not recorded.
    pub mapped_shared_bytes: Option<u64>,
    /// The part of these on pages that may stay in memory when the objects are freed: pages of
    /// files, of shared mappings, and pages that are also mapped elsewhere; `None` if it was not
    /// recorded.
    pub mapped_kept_bytes: Option<u64>,
}

impl Branch {
    /// The steps from the name to where bytes spread out, and the items there: `dict of 412.0k`,
    /// `app.Session`.
    pub fn steps(&self) -> Vec<String> {
        steps(&self.path, self.item_type.as_ref())
    }
}

fn steps(path: &[PathStep], item_type: Option<&String>) -> Vec<String> {
    let path = path.iter().map(PathStep::text);
    path.chain(item_type.cloned()).collect()
}

impl Holder {
    /// Its names, sorted: the order of names that share something may differ between censuses.
    pub fn names(&self) -> Vec<&str> {
        let others = self.shared_with.iter();
        let mut names: Vec<&str> = others.chain([&self.name]).map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Its names as shown, and their kinds; a name without a kind counts as an entry.
    pub fn names_with_kinds(&self) -> impl Iterator<Item = (&str, NameKind)> {
        let names = std::iter::once(&self.name).chain(&self.shared_with);
        let kinds = self.name_kinds.iter().copied();
        let kinds = kinds.chain(std::iter::repeat(NameKind::Entry));
        names.map(String::as_str).zip(kinds)
    }

    /// Adds the kinds of its names if its source has none, or not one for each.
    #[must_use]
    pub fn with_kinds(mut self) -> Self {
        if self.name_kinds.len() != 1 + self.shared_with.len() {
            let names = std::iter::once(&self.name).chain(&self.shared_with);
            self.name_kinds = names.map(|name| NameKind::of_text(name)).collect();
        }
        self
    }

    /// Its names as shown, the first before the others.
    pub fn names_as_shown(&self) -> Vec<String> {
        let names = std::iter::once(&self.name).chain(&self.shared_with);
        names.cloned().collect()
    }

    /// The steps from the name to where most of its bytes spread out, as in [`Branch::steps`].
    pub fn steps(&self) -> Vec<String> {
        steps(&self.path, self.item_type.as_ref())
    }

    /// A sentence about what freeing it would return to the system; `None` if unknown, and for what
    /// no program can free.
    pub fn if_freed(&self) -> Option<String> {
        let unmapped = self.if_unmapped();
        match (self.blocks_if_freed(), unmapped) {
            // Of next to no blocks there is nothing to say.
            (_, Some(unmapped)) if self.retained_bytes < self.held_bytes() / 10 => Some(unmapped),
            (Some(of_blocks), Some(unmapped)) => Some(format!("{unmapped} {of_blocks}")),
            (of_blocks, unmapped) => of_blocks.or(unmapped),
        }
    }

    /// Whether a notable part of it is on pages that another process maps as well: they stay until that frees them too.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared_bytes
            .is_some_and(|shared| shared > self.retained_bytes / 10)
    }

    /// The first of its names and its type: `app.tasks.SESSIONS` (dict). Of a function that keeps something for itself, the
    /// variable that it has it in.
    pub fn titled(&self) -> String {
        let name = &self.name;
        if let [function, captured, ..] = self.path.as_slice()
            && self.calls.count == 1
            && Some(&function.type_name) == self.type_name.as_ref()
            && let Some(variable) = captured.captured()
        {
            return format!("`{name}` → {variable} ({})", captured.type_name);
        }
        let titled = match &self.type_name {
            Some(of) => format!("`{name}` ({of})"),
            None => format!("`{name}`"),
        };
        match self.calls.text() {
            Some(calls) => format!("{titled} {calls}"),
            None => titled,
        }
    }

    /// Bytes of blocks, and resident ones that `mmap` objects map: what tables are ordered by.
    pub fn held_bytes(&self) -> u64 {
        let mapped = self.mapped_bytes.unwrap_or(0);
        self.retained_bytes.saturating_add(mapped)
    }

    /// What is returned, or may stay, of the memory mapped by its `mmap` objects; `None` if there
    /// is none, and for what no program can free.
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
        // A tenth of what it is said to hold is worth mentioning.
        let is_untouched = untouched > 0 && untouched >= retained / 10;
        let sentence = match (live, is_untouched) {
            (0, false) => {
                format!(
                    "{freeing} would return nothing to the system: its pages hold other blocks too, or are not resident."
                )
            }
            (0, true) => format!("{freeing} would return nothing to the system."),
            _ if self.is_shared() => format!(
                "{freeing} would take {} more off RSS than a trim alone. {} of it are on pages that other processes share: \
                 these stay in memory until they free it too.",
                bytes(live.saturating_add(unpinned)),
                bytes(self.shared_bytes.unwrap_or(0))
            ),
            _ => format!(
                "{freeing} would return {} more to the system than a trim alone: {} of its own and {} of free memory and \
                 headers beside them.",
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
        // Recorded kinds are kept, whatever the text is.
        let recorded = vec![NameKind::Entry; 3];
        assert_eq!(of(recorded.clone()).with_kinds().name_kinds, recorded);
    }

    #[test]
    fn a_holder_is_titled_by_the_variable_of_a_closure_and_with_its_calls() {
        let step = |type_name: &str, via, attribute: Option<&str>| PathStep {
            via,
            attribute: attribute.map(str::to_owned),
            type_name: type_name.into(),
            ..PathStep::default()
        };
        let mut holder = Holder {
            name: "app.hook".into(),
            type_name: Some("function".into()),
            path: vec![
                step("function", None, None),
                step("list", Some(Via::Closure), Some("kept")),
            ],
            ..Holder::default()
        };
        assert_eq!(
            holder.titled(),
            "`app.hook` → closure variable `kept` (list)"
        );
        assert_eq!(
            holder.steps(),
            ["function", "closure variable `kept`: list"]
        );
        holder.path[1].attribute = None;
        assert_eq!(holder.titled(), "`app.hook` (function)");
        let calls = |count, threads| Calls { count, threads }.text();
        assert_eq!(calls(1, Some(1)), None);
        assert_eq!(calls(8, Some(8)).as_deref(), Some("in 8 threads"));
        assert_eq!(calls(9, Some(8)).as_deref(), Some("in 9 running calls"));
        assert_eq!(calls(8, None).as_deref(), Some("in 8 running calls"));
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
        holder.dropped = Some(Dropped {
            live_bytes: 1 << 30,
            ..Dropped::default()
        });
        let alone = holder.if_freed().expect("a sentence");
        assert!(
            alone.contains("would return 1.0 GiB more to the system than a trim alone"),
            "{alone}"
        );
        // A forked worker has it with its parent.
        holder.shared_bytes = Some(1 << 30);
        let shared = holder.if_freed().expect("a sentence");
        assert!(
            shared.contains("1.0 GiB of it are on pages that other processes share"),
            "{shared}"
        );
        holder.is_name = false;
        assert_eq!(holder.if_freed(), None);
    }
}
