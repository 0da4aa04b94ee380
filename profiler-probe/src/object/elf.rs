//! What the probes need from an ELF file: the functions it defines, and its machine code.

use std::collections::{HashMap, HashSet};

use object::LittleEndian;
use object::elf::{
    ET_DYN, ET_EXEC, FileHeader64, PF_X, PT_LOAD, SHT_DYNSYM, SHT_SYMTAB, STB_LOCAL, STT_FUNC,
    STT_GNU_IFUNC, Sym64,
};
use object::read::StringTable;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};
use profiler_core::machine::Machine;
use profiler_target::Source;

use crate::plan::Function;
use crate::sites::{Body, Code, Segment};

/// Which symbol table to read.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Table {
    /// `.dynsym`: the symbols to which the dynamic loader binds calls.
    Dynamic,
    /// `.symtab`: all symbols, gone from stripped files.
    Full,
}

/// A function that a file defines.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct Definition {
    /// Its code; for an indirect function, that of its resolver.
    pub body: Body,
    /// Whether the loader calls a resolver to choose the real function (`STT_GNU_IFUNC`).
    pub indirect: bool,
}

/// One ELF file's functions, and its code if asked for.
#[derive(Debug)]
pub(super) struct ElfObject {
    /// Defined functions by name.
    pub functions: HashMap<String, Definition>,
    /// The start of every function with a symbol.
    pub starts: HashSet<u64>,
    /// Its executable segments.
    pub code: Code,
}

/// A file that is not a 64-bit ELF file for this machine, or is damaged.
#[derive(Copy, Clone, Debug, thiserror::Error)]
#[error("it is not a 64-bit ELF file for {}, or it is damaged", Machine::OWN.name())]
pub(super) struct NotElf;

impl From<object::read::Error> for NotElf {
    fn from(_: object::read::Error) -> Self {
        Self
    }
}

/// Reads the functions of a file that `keep` names from `table`; with its code if `malloc` is one
/// of them.
pub(super) fn read(
    data: &Source,
    table: Table,
    keep: fn(&str) -> bool,
) -> Result<ElfObject, NotElf> {
    let endian = LittleEndian;
    let header = FileHeader64::<LittleEndian>::parse(data)?;
    let kind = header.e_type.get(endian);
    if !header.is_little_endian()
        || header.e_machine.get(endian).0 != Machine::OWN.elf_number()
        || !(kind == ET_DYN || kind == ET_EXEC)
    {
        return Err(NotElf);
    }
    let (functions, starts) = functions(data, header, table, keep)?;
    let segments = match functions.contains_key(Function::Malloc.name()) {
        true => code(data, header)?,
        false => Vec::new(),
    };
    Ok(ElfObject {
        functions,
        starts,
        code: Code::new(Machine::OWN, segments),
    })
}

/// The functions that `keep` names, and the starts of all functions.
fn functions(
    data: &Source,
    header: &FileHeader64<LittleEndian>,
    table: Table,
    keep: fn(&str) -> bool,
) -> Result<(HashMap<String, Definition>, HashSet<u64>), NotElf> {
    let endian = LittleEndian;
    let kind = match table {
        Table::Dynamic => SHT_DYNSYM,
        Table::Full => SHT_SYMTAB,
    };
    let sections = header.section_headers(endian, data)?;
    let (symbols, names) = match sections.iter().find(|one| one.sh_type(endian) == kind) {
        Some(table) => {
            let names = sections.get(table.sh_link(endian) as usize).ok_or(NotElf)?;
            // As a whole: read one by one, each name would be remembered by itself.
            let names = names.data(endian, data)?;
            (table.data_as_array(endian, data)?, names)
        }
        None => Default::default(),
    };
    let names = StringTable::new(names, 0, names.len() as u64);
    let symbols: &[Sym64<LittleEndian>] = symbols;
    let mut functions = HashMap::new();
    let mut starts = HashSet::new();
    for symbol in symbols {
        let indirect = symbol.st_type() == STT_GNU_IFUNC;
        if !(indirect || symbol.st_type() == STT_FUNC)
            || symbol.is_undefined(endian)
            || (table == Table::Dynamic && symbol.st_bind() == STB_LOCAL)
        {
            continue;
        }
        let start = symbol.st_value(endian);
        starts.insert(start);
        let name = symbol.name(endian, names).ok();
        let name = name.and_then(|name| std::str::from_utf8(name).ok());
        if let Some(name) = name.filter(|name| keep(name)) {
            let end = start.saturating_add(symbol.st_size(endian));
            functions.entry(name.to_string()).or_insert(Definition {
                body: Body { start, end },
                indirect,
            });
        }
    }
    Ok((functions, starts))
}

/// The segments that hold code.
fn code(data: &Source, header: &FileHeader64<LittleEndian>) -> Result<Vec<Segment>, NotElf> {
    let endian = LittleEndian;
    let segments = header.program_headers(endian, data)?.iter();
    let of_code = segments.filter(|segment| {
        segment.p_type(endian) == PT_LOAD && segment.p_flags(endian).contains(PF_X)
    });
    of_code
        .map(|segment| {
            let (offset, size) = segment.file_range(endian);
            Ok(Segment {
                address: segment.p_vaddr(endian),
                file_offset: offset,
                bytes: data.piece(offset, size).ok_or(NotElf)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use profiler_target::{FileError, Files};

    use super::*;
    use crate::damaged::{libc, random, source};
    use crate::sites::Symbols;

    #[test]
    fn damaged_files_are_errors_or_other_answers_but_never_panics() {
        let whole = libc();
        let mut random = random();
        let mut damaged = whole.clone();
        for round in 0..300 {
            // The header and the first tables, then anywhere; now and then cut short.
            let at = random(if round % 2 == 0 { 4096 } else { whole.len() });
            damaged[at] = random(256) as u8;
            let end = if round % 10 == 9 {
                random(whole.len())
            } else {
                whole.len()
            };
            for table in [Table::Dynamic, Table::Full] {
                if let Ok(object) = read(&source(&damaged[..end]), table, |name| name == "malloc") {
                    let malloc = object.functions.get("malloc");
                    if let Some(malloc) = malloc {
                        crate::sites::plan(
                            &object.code,
                            &malloc.body,
                            Function::Free,
                            crate::sites::SiteOptions {
                                chunk_header: false,
                                sizes: crate::plan::Sizes::Given,
                            },
                            &Symbols::default(),
                        );
                    }
                }
            }
            if round % 20 == 19 {
                damaged.clone_from(&whole);
            }
        }
    }

    #[test]
    fn what_is_no_elf_is_an_error() {
        for bytes in [&b""[..], b"\x7fELF", &[0; 4096]] {
            assert!(read(&source(bytes), Table::Dynamic, |_| true).is_err());
        }
    }

    /// Reads the file at a path in the way a target's files are read.
    fn read_at(path: PathBuf) -> Result<(), FileError> {
        let read = |source: &Source| read(source, Table::Dynamic, |_| true).is_ok();
        let found = Files::default().read("a file", path.into(), read)?;
        assert!(!found);
        Ok(())
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for path in ["/", "/nowhere/at/all"] {
            assert!(matches!(read_at(path.into()), Err(FileError::Io(_))));
        }
    }

    #[test]
    fn a_pipe_in_the_files_place_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("libc.so.6");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo").success());
        let read = read_at(pipe);
        assert!(matches!(read, Err(FileError::Io(_))), "{read:?}");
    }
}
