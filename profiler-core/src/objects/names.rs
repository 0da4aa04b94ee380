//! Names that hold objects: entries of modules' and classes' dictionaries, variables of running
//! functions, and data that threads keep for themselves.
//!
//! Each name is a node of its own between the dictionary and the value, so that it dominates what
//! only this name keeps.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use hashbrown::HashMap;

use super::dict::{DictParts, entries};
use super::edges::Resolver;
use super::frames::{Held, Suspended, Variable};
use super::graph::NONE;
use super::holder::NameKind;
use super::layout::{Layout, MODULE_DICT};
use super::scan::{Noted, Source};
use super::text::{str_name, str_text};
use super::types::{Role, TypeTable};
use super::words::{read_word, words};
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;

/// The most names; a large program has a few hundred thousand.
const MAX_NAMES: usize = 1 << 22;
/// The most entries that refer to no block of the walk.
const MAX_NEWER: usize = 1 << 14;
/// The most entries of a module that are searched for its name.
pub(super) const NAME_ENTRIES: usize = 1 << 12;
/// Characters of a module's file that are read.
const MAX_FILE: usize = 1 << 10;
/// Bytes of a module's table that are searched for a name.
const MAX_TABLE: u64 = 1 << 20;
/// The most entries of one module or class.
const MAX_ENTRIES: u64 = 1 << 18;

/// The kind of a name.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Name {
    /// A module's global or a class's attribute: the space, and the address of the key.
    Entry { space: u32, key: u64 },
    /// A variable of a running function.
    Variable(Variable),
    /// A variable of a generator or coroutine, which is reached from that.
    Suspended(Variable),
    /// The `threading.local` data of a thread.
    ThreadLocal,
    /// A place where references were found that no name of the program holds.
    Root(Root),
}

impl Name {
    /// Its kind for a holder.
    pub(super) fn kind(self) -> NameKind {
        match self {
            Self::Entry { .. } => NameKind::Entry,
            Self::Variable(_) | Self::Suspended(_) => NameKind::Variable,
            Self::ThreadLocal | Self::Root(_) => NameKind::Place,
        }
    }
}

/// The origin of references that have no name in the program.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Root {
    /// The evaluation stacks of running functions.
    Frames,
    /// What `tracemalloc` has for itself.
    Tracing,
    /// Python's own data: the interpreter's state, built-in types, interned strings.
    Interpreter,
    /// Data of other libraries and extension modules.
    Libraries,
    /// Threads' stacks.
    Stacks,
}

impl Root {
    /// All of them, in the order in which they claim what is left.
    pub(super) const ALL: [Self; 5] = [
        Self::Frames,
        Self::Tracing,
        Self::Interpreter,
        Self::Libraries,
        Self::Stacks,
    ];

    /// Its name in output and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frames => "(running frames)",
            Self::Tracing => "(tracemalloc)",
            Self::Interpreter => "(interpreter)",
            Self::Libraries => "(data of libraries)",
            Self::Stacks => "(thread stacks)",
        }
    }
}

/// A module or a class: a dictionary whose entries are names.
#[derive(Clone, Debug)]
struct Space {
    name: String,
    is_class: bool,
    /// For a module, the file that it was loaded from.
    file: Option<String>,
    /// The numbers of its first name, and of the one after its last.
    names: (u32, u32),
}

/// All names, and what they refer to.
#[derive(Debug, Default)]
pub(super) struct Names {
    spaces: Vec<Space>,
    /// The space whose names this block's table has.
    tables: HashMap<u32, u32>,
    /// By the block of a generator: its first name, the one after its last, and the position of its
    /// variables.
    suspended: HashMap<u32, (u32, u32, Range<u64>)>,
    /// Modules and classes, their dictionaries and tables, with the space of those that have names.
    blocks: HashMap<u32, Option<u32>>,
    /// Modules and classes alone.
    owners: Vec<u32>,
    /// What each place without names refers to.
    roots: Vec<(Root, Vec<u32>)>,
    /// Each name with the block of its value; [`NONE`] for [`Name::Root`].
    names: Vec<(Name, u32)>,
    /// Entries of modules and classes that referred to no block of the walk, with what they referred to: it is newer.
    newer: Vec<(Name, u64)>,
    /// Where the variables of functions are in memory, and the thread of each, by the position of their names.
    variables_at: HashMap<u32, (u64, Option<u32>)>,
    /// The node of the first name: nodes before are blocks.
    first_node: u32,
}

impl Names {
    /// Names in the loaded modules, in the classes named there, and so on. Other classes and
    /// modules, created while the program runs, are objects of whoever holds them.
    pub(super) fn find<M: TargetMemory + Sync>(
        resolve: &Resolver<'_, M>,
        noted: &[Noted],
        types: &Mutex<TypeTable<&M>>,
        is_dict: impl Fn(u32) -> bool,
    ) -> Self {
        let mut names = Self {
            first_node: resolve.source.index.len() as u32,
            ..Self::default()
        };
        let mut possible = possible_spaces(resolve, noted, types, is_dict);
        let mut waiting = loaded_modules(resolve, &possible);
        while let Some(block) = waiting.pop() {
            let Some(of) = possible.remove(&block) else {
                continue;
            };
            names.owners.push(block);
            let first = names.names.len();
            let space = names.add_space(resolve, of.dict, of.dict_block, of.class);
            names.blocks.insert(block, space);
            let values = names.names[first..].iter().map(|(_, value)| *value);
            waiting.extend(values.filter(|value| possible.contains_key(value)));
        }
        names.owners.sort_unstable();
        names
    }

    fn add_space<M: TargetMemory>(
        &mut self,
        resolve: &Resolver<'_, M>,
        dict: u64,
        dict_block: u32,
        name: Option<String>,
    ) -> Option<u32> {
        let source = resolve.source;
        let (memory, layout) = (source.memory, source.layout);
        let mut object = [0; 56];
        let read = memory.read(RemoteAddr::new(dict), &mut object);
        let parts = read.ok().and_then(|()| DictParts::of(layout, &object));
        let table = parts.and_then(|parts| source.index.at(parts.table));
        let (table, _) = table?;
        let own = self.tables.contains_key(&table);
        let entries = entries(memory, layout, dict, MAX_ENTRIES).filter(|_| !own)?;
        let is_class = name.is_some();
        let file = match is_class {
            true => None,
            false => module_file(memory, layout, &entries),
        };
        let name = name.or_else(|| module_name(memory, layout, &entries));
        let space = self.spaces.len() as u32;
        let first = self.names.len() as u32;
        for (key, value) in entries {
            let name = Name::Entry { space, key };
            match resolve.target(value) {
                Some(value) if self.names.len() < MAX_NAMES => self.names.push((name, value)),
                None if self.newer.len() < MAX_NEWER => self.newer.push((name, value)),
                _ => {}
            }
        }
        self.spaces.push(Space {
            name: name.unwrap_or_else(|| "?".to_owned()),
            is_class,
            file,
            names: (first, self.names.len() as u32),
        });
        self.tables.insert(table, space);
        self.blocks
            .extend([dict_block, table].map(|block| (block, Some(space))));
        Some(space)
    }

    /// Adds a name that is in no space.
    pub(super) fn add(&mut self, name: Name, target: u32) {
        if self.names.len() < MAX_NAMES {
            self.names.push((name, target));
        }
    }

    /// Adds a variable of a function.
    pub(super) fn add_variable(&mut self, name: Name, held: Held) {
        let at = self.names.len() as u32;
        self.variables_at.insert(at, (held.at, held.thread));
        self.add(name, held.value);
    }

    /// Adds the variables of a generator or coroutine.
    pub(super) fn add_suspended(&mut self, of: Suspended) {
        let first = self.names.len() as u32;
        for held in of.variables {
            self.add_variable(Name::Suspended(held.variable), held);
        }
        let names = (first, self.names.len() as u32, of.locals);
        self.suspended.insert(of.block, names);
    }

    /// The position of a generator's variables, in bytes from the object, and the nodes of their
    /// names.
    pub(super) fn variables_of(&self, block: u32) -> Option<(Range<u64>, Range<u32>)> {
        let (first, end, locals) = self.suspended.get(&block)?;
        let node = self.first_node;
        Some((locals.clone(), node + first..node + end))
    }

    /// The nodes of all names of generators' variables, with the blocks of their values.
    pub(super) fn suspended_values(&self) -> impl Iterator<Item = (u32, u32)> {
        let names = (self.first_node..).zip(&self.names);
        names.filter_map(|(node, (name, value))| {
            matches!(name, Name::Suspended(_)).then_some((node, *value))
        })
    }

    /// Adds the places where references without a name were found, with the blocks of each.
    pub(super) fn add_roots(&mut self, mut blocks: impl FnMut(Root) -> Vec<u32>) {
        for root in Root::ALL {
            self.names.push((Name::Root(root), NONE));
            self.roots.push((root, blocks(root)));
        }
    }

    /// The first node of a place without names: they are the last.
    pub(super) fn first_root(&self) -> u32 {
        self.first_node + (self.names.len() - self.roots.len()) as u32
    }

    /// The node of a place without names.
    pub(super) fn node_of_root(&self, root: Root) -> Option<u32> {
        let at = self.roots.iter().position(|(own, _)| *own == root)?;
        Some(self.first_root() + at as u32)
    }

    /// The blocks that are referred to from a place without names.
    pub(super) fn of_root(&self, root: Root) -> &[u32] {
        let of = self.roots.iter().find(|(own, _)| *own == root);
        of.map_or(&[], |(_, blocks)| blocks)
    }

    /// The space whose names a block's table has.
    pub(super) fn space(&self, block: u32) -> Option<u32> {
        self.tables.get(&block).copied()
    }

    /// The nodes of a space's names.
    pub(super) fn nodes_of(&self, space: u32) -> impl Iterator<Item = u32> + use<> {
        let (first, end) = self.spaces[space as usize].names;
        let node = self.first_node;
        (first..end).map(move |name| node + name)
    }

    /// The outputs that an interactive session keeps: the first node is IPython's dictionary of
    /// them, `Out`; the others are the names that it gives to each (`_`, `__`, `___`, `_7`, `_oh`).
    pub(super) fn outputs<M: TargetMemory>(&self, memory: &M, layout: &Layout) -> Vec<u32> {
        let mut found = Vec::new();
        let mains = self.spaces.iter().filter(|of| of.name == "__main__");
        for space in mains.filter(|of| !of.is_class) {
            let (first, end) = space.names;
            let all = (first..end).filter_map(|at| {
                let (Name::Entry { key, .. }, _) = self.names[at as usize] else {
                    return None;
                };
                Some((self.first_node + at, str_name(memory, layout, key)?))
            });
            let mut own: Vec<(u32, String)> = all.filter(|(_, name)| is_output(name)).collect();
            own.sort_by_key(|(node, name)| (name != "Out", *node));
            let has_both = ["Out", "_oh"].map(|known| own.iter().any(|(_, name)| name == known));
            if found.is_empty() && has_both == [true; 2] {
                found = own.into_iter().map(|(node, _)| node).collect();
            }
        }
        found
    }

    /// Modules with their files.
    pub(super) fn modules(&self) -> impl Iterator<Item = (String, Option<String>)> + '_ {
        let modules = self.spaces.iter().filter(|space| !space.is_class);
        modules.map(|space| (space.name.clone(), space.file.clone()))
    }

    /// Modules and classes, from which everything with a name is reached.
    pub(super) fn owners(&self) -> &[u32] {
        &self.owners
    }

    /// Whether a block is a module, a class, or the dictionary of one.
    pub(super) fn is_space(&self, block: u32) -> bool {
        self.blocks.contains_key(&block)
    }

    /// The space of a name, or of a module, a class, or the dictionary of one.
    pub(super) fn space_of_node(&self, node: u32) -> Option<u32> {
        match self.of_node(node) {
            Some((Name::Entry { space, .. }, _)) => Some(space),
            Some(_) => None,
            None => self.blocks.get(&node).copied().flatten(),
        }
    }

    /// The package at the top of a space's name: `sklearn` of `sklearn.base`.
    pub(super) fn package(&self, space: u32) -> &str {
        let space = &self.spaces[space as usize];
        match space.name.split_once('.') {
            Some((package, _)) => package,
            None if space.is_class => "builtins",
            None => &space.name,
        }
    }

    /// All names with their nodes.
    pub(super) fn with_nodes(&self) -> impl Iterator<Item = (u32, Name)> + '_ {
        (self.first_node..).zip(self.names.iter().map(|(name, _)| *name))
    }

    /// All names with the blocks of their values.
    pub(super) fn all(&self) -> &[(Name, u32)] {
        &self.names
    }

    /// The name at a node, with the block of its value.
    pub(super) fn of_node(&self, node: u32) -> Option<(Name, u32)> {
        let at = node.checked_sub(self.first_node)?;
        self.names.get(at as usize).copied()
    }

    /// The word by which a name refers to the object at `value`: it is where the name's next value will be, too.
    pub(super) fn place<M: TargetMemory>(
        &self,
        source: &Source<'_, M>,
        node: u32,
        value: u64,
    ) -> Option<u64> {
        let at = node.checked_sub(self.first_node)?;
        match self.names.get(at as usize)? {
            (Name::Entry { space, key }, _) => self.place_of_entry(source, *space, *key, value),
            _ => self.variables_at.get(&at).map(|(at, _)| *at),
        }
    }

    /// The same of an entry of a module or class.
    pub(super) fn place_of_entry<M: TargetMemory>(
        &self,
        source: &Source<'_, M>,
        space: u32,
        key: u64,
        value: u64,
    ) -> Option<u64> {
        let (table, _) = self.tables.iter().find(|(_, of)| **of == space)?;
        let range = source.index.range(*table);
        let mut bytes = vec![0; range.len().min(MAX_TABLE) as usize];
        source.memory.read_current(range.start(), &mut bytes).ok()?;
        let words: Vec<u64> = words(&bytes).collect();
        let entry = words.windows(2).position(|two| *two == [key, value])?;
        range.start().get().checked_add(entry as u64 * 8 + 8)
    }

    /// Entries of modules and classes whose values are no blocks of the walk, and these.
    pub(super) fn newer(&self) -> &[(Name, u64)] {
        &self.newer
    }

    /// The name of a module or class.
    pub(super) fn space_name(&self, space: u32) -> &str {
        &self.spaces[space as usize].name
    }

    /// The thread that has a variable of a running function.
    pub(super) fn thread(&self, node: u32) -> Option<u32> {
        let at = node.checked_sub(self.first_node)?;
        self.variables_at.get(&at)?.1
    }

    /// The text of a name.
    pub(super) fn text<M: TargetMemory>(&self, memory: &M, layout: &Layout, name: Name) -> String {
        match name {
            Name::Entry { space, key } => {
                let key = str_name(memory, layout, key);
                let key = key.as_deref().unwrap_or("?");
                format!("{}.{key}", self.spaces[space as usize].name)
            }
            Name::Variable(variable) | Name::Suspended(variable) => variable.text(memory, layout),
            Name::ThreadLocal => "(threading.local of a thread)".to_owned(),
            Name::Root(root) => root.name().to_owned(),
        }
    }
}

/// Whether a name of `__main__` is one under which IPython keeps its outputs.
fn is_output(name: &str) -> bool {
    let number = name.strip_prefix('_');
    matches!(name, "Out" | "_oh" | "_" | "__" | "___")
        || number.is_some_and(|of| !of.is_empty() && of.bytes().all(|of| of.is_ascii_digit()))
}

/// A module or a class that may have names.
struct PossibleSpace {
    /// The address of its dictionary.
    dict: u64,
    dict_block: u32,
    /// The name of a class; a module's name is in its dictionary.
    class: Option<String>,
}

/// All modules and classes that were noted, by their blocks.
fn possible_spaces<M: TargetMemory + Sync>(
    resolve: &Resolver<'_, M>,
    noted: &[Noted],
    types: &Mutex<TypeTable<&M>>,
    is_dict: impl Fn(u32) -> bool,
) -> HashMap<u32, PossibleSpace> {
    let memory = resolve.source.memory;
    let of = |noted: &Noted| {
        let (dict, class) = match noted.role {
            Role::Module => {
                let dict = read_word(memory, noted.object.wrapping_add(MODULE_DICT))?;
                (dict, None)
            }
            Role::Type => {
                let mut types = types.lock().unwrap_or_else(PoisonError::into_inner);
                let of = types.at(noted.object)?;
                let of = &types.types[of.id as usize];
                (of.dict, Some(of.name.clone()))
            }
            _ => return None,
        };
        let (dict_block, of) = resolve.object(dict)?;
        is_dict(of).then_some(PossibleSpace {
            dict,
            dict_block,
            class,
        })
    };
    let all = noted.iter();
    all.filter_map(|noted| Some((noted.block, of(noted)?)))
        .collect()
}

/// The blocks of the modules in `sys.modules`, the last first; all modules if that is not found.
fn loaded_modules<M: TargetMemory>(
    resolve: &Resolver<'_, M>,
    possible: &HashMap<u32, PossibleSpace>,
) -> Vec<u32> {
    let (memory, layout) = (resolve.source.memory, resolve.source.layout);
    let of_dict = |dict| entries(memory, layout, dict, MAX_ENTRIES).unwrap_or_default();
    let modules = possible.iter().filter(|(_, of)| of.class.is_none());
    let mut blocks = Vec::new();
    for (_, of) in modules.clone() {
        let own = of_dict(of.dict);
        // Each interpreter has its own.
        if module_name(memory, layout, &own).as_deref() != Some("sys") {
            continue;
        }
        for (key, value) in own {
            if str_name(memory, layout, key).as_deref() == Some("modules") {
                let loaded = of_dict(value).into_iter();
                blocks.extend(loaded.filter_map(|(_, module)| resolve.target(module)));
            }
        }
    }
    if blocks.is_empty() {
        blocks = modules.map(|(block, _)| *block).collect();
    }
    blocks.sort_unstable_by_key(|block| std::cmp::Reverse(*block));
    blocks
}

/// The name in a module's dictionary.
pub(super) fn module_name<M: TargetMemory>(
    memory: &M,
    layout: &Layout,
    entries: &[(u64, u64)],
) -> Option<String> {
    str_name(
        memory,
        layout,
        own_entry(memory, layout, entries, "__name__")?,
    )
}

/// The file that it claims to be loaded from.
fn module_file<M: TargetMemory>(
    memory: &M,
    layout: &Layout,
    entries: &[(u64, u64)],
) -> Option<String> {
    let file = own_entry(memory, layout, entries, "__file__")?;
    str_text::<_, MAX_FILE>(memory, layout, file)
}

/// The value of one of the entries that each module has.
fn own_entry<M: TargetMemory>(
    memory: &M,
    layout: &Layout,
    entries: &[(u64, u64)],
    name: &str,
) -> Option<u64> {
    // It is among the first entries that a module gets, but 2.7's tables are unordered.
    let mut first = entries.iter().take(NAME_ENTRIES);
    let (_, value) = first.find(|(key, _)| {
        let key = str_name(memory, layout, *key);
        key.is_some_and(|key| key == name)
    })?;
    Some(*value)
}
