//! Finds the object that serves the target's malloc calls.
//!
//! The dynamic loader binds a call to the first object in load order that defines the function. So
//! a preloaded allocator wins over libc, and a private copy in a library that was loaded later with
//! `dlopen` does not.

mod elf;

use std::collections::HashMap;

use profiler_core::addr::RemoteAddr;
use profiler_core::memory::TargetMemory;
use profiler_core::residency::{Mapping, MappingKind};
use profiler_target::link_map::{ChainError, ProgramHeaders};
use profiler_target::{FileError, Process, Source, Target};

use self::elf::{Definition, ElfObject, Table};
use super::plan::{Function, MallocObject, PlanError};
use super::sites::{Code, ENDINGS, Symbols};

/// What a plan is made from.
pub struct Inputs<'a, M> {
    /// `/proc/PID/maps`.
    pub mappings: &'a [Mapping],
    /// `/proc/PID/auxv`.
    pub auxv: &'a [u8],
    /// Its memory.
    pub memory: &'a M,
    /// Whose files they are.
    pub target: &'a Target,
}

/// The object that serves malloc, with what is needed to place probes in it.
#[derive(Debug)]
pub(super) struct Server {
    pub object: MallocObject,
    pub code: Code,
    pub symbols: Symbols,
    functions: ElfObjectFunctions,
}

type ElfObjectFunctions = HashMap<String, Definition>;

impl Server {
    /// The function of that name that the object defines.
    pub(super) fn named(&self, name: &str) -> Option<Definition> {
        self.functions.get(name).copied()
    }
}

/// Finds the object that serves malloc.
pub(super) fn find<M: TargetMemory>(inputs: &Inputs<'_, M>) -> Result<Server, PlanError> {
    let program = ProgramHeaders::from_auxv(inputs.auxv);
    let own = program.and_then(|p| file_mapping_at(inputs.mappings, p.headers));
    match (program.map(|p| p.chain(inputs.memory)), own) {
        (Some(Ok(chain)), _) => serve_first(
            inputs,
            each_once(
                inputs.mappings,
                chain
                    .iter()
                    .filter_map(|dynamic| file_mapping_at(inputs.mappings, *dynamic)),
            ),
        ),
        // This also happens if a loader was started with the program as its argument; the program
        // and its objects are then found by address.
        (Some(Err(ChainError::Static)), Some(own)) => serve_static(inputs, own).or_else(|error| {
            serve_first(inputs, by_address(inputs.mappings, Some(own))).or(Err(error))
        }),
        _ => serve_first(inputs, by_address(inputs.mappings, own)),
    }
}

/// The first of `objects` that defines malloc.
fn serve_first<'m, M>(
    inputs: &Inputs<'_, M>,
    objects: impl IntoIterator<Item = &'m Mapping>,
) -> Result<Server, PlanError> {
    let mut unreadable = None;
    for mapping in objects {
        match open(inputs, mapping, Table::Dynamic) {
            Ok(object) if defines_malloc(&object.functions) => {
                return Ok(server(inputs, mapping, object));
            }
            Ok(_) => {}
            Err(error) => unreadable = unreadable.or(Some(error)),
        }
    }
    Err(unreadable.unwrap_or(PlanError::NoMalloc))
}

fn serve_static<M>(inputs: &Inputs<'_, M>, own: &Mapping) -> Result<Server, PlanError> {
    // A program that exports malloc has it in its dynamic symbols even if nothing loads it.
    for table in [Table::Full, Table::Dynamic] {
        let object = open(inputs, own, table)?;
        if defines_malloc(&object.functions) {
            return Ok(server(inputs, own, object));
        }
    }
    Err(PlanError::StaticWithoutSymbols {
        path: path(own).to_string(),
    })
}

fn open<M>(
    inputs: &Inputs<'_, M>,
    mapping: &Mapping,
    table: Table,
) -> Result<ElfObject, PlanError> {
    let unreadable = |why, is_too_large| PlanError::Unreadable {
        path: path(mapping).to_string(),
        why,
        is_too_large,
    };
    let target = inputs.target;
    let read = move |source: &Source| elf::read(source, table, is_of_use);
    let object = target
        .files()
        .read(path(mapping), target.file_of(mapping), read);
    let object = object.map_err(|error| {
        let is_too_large = matches!(&error, FileError::Limit(limit) if limit.is_of_bytes());
        unreadable(error.to_string(), is_too_large)
    })?;
    object.map_err(|error| unreadable(error.to_string(), false))
}

fn is_of_use(name: &str) -> bool {
    Function::ALL.iter().any(|f| f.name() == name) || ENDINGS.contains(&name)
}

fn defines_malloc(functions: &ElfObjectFunctions) -> bool {
    functions.contains_key(Function::Malloc.name())
}

fn server<M>(inputs: &Inputs<'_, M>, mapping: &Mapping, object: ElfObject) -> Server {
    let target = inputs.target;
    let file = target.file_of(mapping);
    Server {
        object: MallocObject {
            identity: target.files().malloc_in(path(mapping), file.clone()),
            host_path: file.find(),
        },
        code: object.code,
        symbols: Symbols {
            endings: ENDINGS
                .iter()
                .filter_map(|name| Some(object.functions.get(*name)?.body.start))
                .collect(),
            starts: object.starts,
        },
        functions: object.functions,
    }
}

/// Without the loader's list: the program, then the other files from high addresses to low, nearly
/// the order in which loaders map them, and the loader itself last.
fn by_address<'a>(mappings: &'a [Mapping], own: Option<&'a Mapping>) -> Vec<&'a Mapping> {
    let code = mappings.iter().filter(|m| m.execute && !path(m).is_empty());
    let mut files = each_once(mappings, code);
    files.reverse();
    let rank = |m: &&Mapping| {
        let name = path(m).rsplit('/').next().unwrap_or_default();
        match own {
            Some(own) if path(own) == path(m) => 0,
            _ if name.starts_with("ld-") => 2,
            _ => 1,
        }
    };
    files.sort_by_key(rank);
    files
}

/// The files of `of`, each once, by their first mappings: the mapping of a file's head stays as it
/// is, while the loader changes others.
fn each_once<'m>(
    mappings: &'m [Mapping],
    of: impl Iterator<Item = &'m Mapping>,
) -> Vec<&'m Mapping> {
    let mut firsts = HashMap::new();
    for mapping in mappings {
        firsts.entry(path(mapping)).or_insert(mapping);
    }
    of.filter_map(|m| firsts.remove(path(m))).collect()
}

/// The mapping of a file at `addr`; `mappings` are ascending.
fn file_mapping_at(mappings: &[Mapping], addr: RemoteAddr) -> Option<&Mapping> {
    let next = mappings.partition_point(|m| m.range.end() <= addr);
    let found = mappings.get(next)?;
    (found.range.contains(addr) && !path(found).is_empty()).then_some(found)
}

/// The path of a file mapping, empty for others.
fn path(mapping: &Mapping) -> &str {
    match &mapping.kind {
        MappingKind::File(path) => path,
        _ => "",
    }
}
