//! Table rows and stack trees: sums over all sites with the same functions on the path.

use hashbrown::HashMap;

use super::{Frame, Language, Site, SiteFigures, Sites, StackEnd, end_name};

/// The end from which stacks are traversed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the allocating function to its callers.
    Outwards,
    /// From the outermost function to its callees.
    Inwards,
}

/// One step along a stack.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum StackStep {
    /// A function, by its index in [`Sites::frames`].
    Function(u32),
    /// A native function that allocates, and the innermost Python function that called it, both by
    /// index: the same native functions allocate for all Python functions, so the name alone says
    /// little.
    Called {
        /// The native one.
        function: u32,
        /// Python's.
        from: u32,
    },
    /// A place where functions are missing, or where there are none, and why.
    Rest(StackEnd),
}

/// A function or place in a tree of stacks, with the sums over all sites there.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteRow {
    /// The function or place.
    pub step: StackStep,
    /// The sums.
    pub figures: SiteFigures,
    /// Whether further functions follow in some of the stacks.
    pub leads_on: bool,
    /// Bytes that were allocated at all sites.
    pub whole_bytes: f64,
    /// Whether the sampled blocks were looked up in a walk.
    pub is_walked: bool,
    /// Whether growth was watched.
    pub is_growth_watched: bool,
}

impl SiteRow {
    /// Whether a walk has covered any of it: not if everything was sampled after the last one.
    pub fn is_known_of_walk(&self) -> bool {
        let of = &self.figures;
        let is_looked_at = of.samples_before_walk > 0 || of.at_walk.blocks.value > 0.0;
        self.is_walked && (is_looked_at || of.samples == 0)
    }
}

impl Frame {
    /// The function and its position.
    pub fn label(&self) -> String {
        self.label_with(&self.file)
    }

    /// The same with only the end of a long path: the file and its directory.
    pub fn short_label(&self) -> String {
        let mut slashes = self.file.rmatch_indices('/');
        let from = slashes.nth(1).map_or(0, |(at, _)| at + 1);
        self.label_with(&self.file[from..])
    }

    fn label_with(&self, file: &str) -> String {
        match (file, self.line) {
            ("", _) => self.function.to_string(),
            (file, None) => format!("{} ({file})", self.function),
            (file, Some(line)) => format!("{} ({file}:{line})", self.function),
        }
    }
}

impl StackStep {
    /// The step as numbers, for sorting.
    fn key(self) -> (u32, u32, u32) {
        match self {
            Self::Rest(end) => (0, end as u32, 0),
            Self::Function(number) => (1, number, 0),
            Self::Called { function, from } => (2, function, from),
        }
    }

    /// Its label if there is no function.
    fn rest_label(end: StackEnd) -> String {
        match (end, end_name(end)) {
            (StackEnd::NoThreadState, _) | (_, None) => "(no Python function)".to_owned(),
            (_, Some(name)) => format!("({name})"),
        }
    }
}

impl Site {
    /// The step at this depth of its stack, from 0 on. `sites` contains this site.
    pub fn step(&self, sites: &Sites, direction: Direction, depth: usize) -> Option<StackStep> {
        let functions = self.stack.len();
        // A thread without a state in Python has no functions of Python's that could be missing, nor has a program
        // without Python.
        let is_whole = match self.end {
            StackEnd::Whole | StackEnd::NoThreadState => true,
            StackEnd::NoPython => functions > 0,
            StackEnd::Cut | StackEnd::Unreadable => false,
        };
        let lacks = functions == 0 || !is_whole;
        let rest = lacks.then_some(StackStep::Rest(self.end));
        let function = |at: usize| self.stack.get(at).copied().map(StackStep::Function);
        match direction {
            Direction::Outwards if depth == 0 && functions > 0 => sites.innermost(&self.stack),
            Direction::Outwards if depth == functions => rest,
            Direction::Outwards => function(depth),
            Direction::Inwards if depth == 0 && lacks => rest,
            Direction::Inwards => function(functions.checked_sub(1 + depth - usize::from(lacks))?),
        }
    }

    /// All steps of its stack. `sites` contains this site.
    pub fn steps<'s>(
        &'s self,
        sites: &'s Sites,
        direction: Direction,
    ) -> impl Iterator<Item = StackStep> + 's {
        (0..).map_while(move |depth| self.step(sites, direction, depth))
    }
}

impl Sites {
    /// The first step at the innermost end of a stack: a native function is combined with the
    /// Python function that called it. `None` for a stack without functions.
    pub fn innermost(&self, stack: &[u32]) -> Option<StackStep> {
        let function = *stack.first()?;
        let language = |number: &u32| Some(self.frames.get(*number as usize)?.language);
        if language(&function) != Some(Language::Native) {
            return Some(StackStep::Function(function));
        }
        let mut callers = stack.iter();
        let from = callers.find(|number| language(number) == Some(Language::Python));
        Some(match from {
            Some(&from) => StackStep::Called { function, from },
            None => StackStep::Function(function),
        })
    }

    /// The function of a step.
    pub fn function(&self, step: StackStep) -> Option<&Frame> {
        match step {
            StackStep::Function(number)
            | StackStep::Called {
                function: number, ..
            } => self.frames.get(number as usize),
            StackStep::Rest(_) => None,
        }
    }

    /// The Python function that the native one of a step was called from.
    pub fn called_from(&self, step: StackStep) -> Option<&Frame> {
        match step {
            StackStep::Called { from, .. } => self.frames.get(from as usize),
            StackStep::Function(_) | StackStep::Rest(_) => None,
        }
    }

    /// The text of a step.
    pub fn label(&self, step: StackStep) -> String {
        self.label_by(step, Frame::label)
    }

    /// The same where there is little space.
    pub fn short_label(&self, step: StackStep) -> String {
        self.label_by(step, Frame::short_label)
    }

    fn label_by(&self, step: StackStep, label: fn(&Frame) -> String) -> String {
        match (self.function(step), self.called_from(step), step) {
            (Some(frame), Some(from), _) => {
                format!("{}, called from {}", label(frame), label(from))
            }
            (Some(frame), None, _) => label(frame),
            (None, _, StackStep::Rest(end)) => StackStep::rest_label(end),
            (None, ..) => StackStep::rest_label(StackEnd::Unreadable),
        }
    }

    /// The rows of all sites, one for each, in their order.
    pub fn all_rows(&self) -> impl Iterator<Item = (&Site, SiteRow)> {
        let whole = self.bytes().value;
        self.sites.iter().map(move |site| {
            let step = site.step(self, Direction::Outwards, 0);
            let figures = site.figures;
            let row = self.new_row(site, step, whole);
            (site, SiteRow { figures, ..row })
        })
    }

    fn new_row(&self, site: &Site, step: Option<StackStep>, whole_bytes: f64) -> SiteRow {
        SiteRow {
            step: step.unwrap_or(StackStep::Rest(site.end)),
            figures: SiteFigures::default(),
            leads_on: false,
            whole_bytes,
            is_walked: self.walk.is_some(),
            is_growth_watched: self.growth.is_some(),
        }
    }

    /// The steps at this depth of those sites, the most bytes first; shares refer to all sites.
    pub fn rows(&self, direction: Direction, depth: usize, of: &[&Site]) -> Vec<SiteRow> {
        let whole = self.bytes().value;
        let mut places: HashMap<(u32, u32, u32), usize> = HashMap::new();
        let mut rows: Vec<SiteRow> = Vec::new();
        for site in of {
            let Some(step) = site.step(self, direction, depth) else {
                continue;
            };
            let place = *places.entry(step.key()).or_insert_with(|| {
                rows.push(self.new_row(site, Some(step), whole));
                rows.len() - 1
            });
            let row = &mut rows[place];
            row.figures.add(&site.figures);
            row.leads_on |= site.step(self, direction, depth + 1).is_some();
        }
        let bytes = |row: &SiteRow| row.figures.bytes.value;
        rows.sort_by(|a, b| bytes(b).total_cmp(&bytes(a)));
        rows
    }

    /// The sums by innermost function and line, native functions also by the Python function that
    /// called them; the most bytes first.
    pub fn by_innermost(&self) -> Vec<SiteRow> {
        let all: Vec<&Site> = self.sites.iter().collect();
        self.rows(Direction::Outwards, 0, &all)
    }
}
