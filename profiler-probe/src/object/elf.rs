//! What the probes need of an ELF file: which functions it defines, and its machine code.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use object::LittleEndian;
use object::elf::{
    EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, PF_X, PT_LOAD, SHT_DYNSYM, SHT_SYMTAB, STB_LOCAL,
    STT_FUNC, STT_GNU_IFUNC,
};
use object::read::ReadRef;
use object::read::elf::{FileHeader, ProgramHeader, Sym};
use profiler_target::{Source, open_regular};

use crate::plan::Function;
use crate::sites::{Body, Code, Segment};

/// Files up to here are read as a whole, larger ones in pieces.
const WHOLE_BYTES: u64 = 16 << 20;
/// More of a file is not read into memory.
const MAX_READ_BYTES: u64 = 384 << 20;
/// No object has more code than this.
const MAX_CODE_BYTES: u64 = 256 << 20;

/// Which symbol table to look at.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Table {
    /// `.dynsym`: what the dynamic loader binds calls to.
    Dynamic,
    /// `.symtab`: all symbols, gone from stripped files.
    Full,
}

/// A function that a file defines.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct Definition {
    /// Its code; for an indirect function that of its resolver.
    pub body: Body,
    /// Whether the loader calls a resolver to choose the real function (`STT_GNU_IFUNC`).
    pub indirect: bool,
}

/// One ELF file's functions, and its code where asked for.
#[derive(Debug, Default)]
pub(super) struct ElfObject {
    /// Defined functions by name.
    pub functions: HashMap<String, Definition>,
    /// Where any function with a symbol begins.
    pub starts: HashSet<u64>,
    /// Its executable segments.
    pub code: Code,
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ElfError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("it is not a 64-bit x86 ELF file, or it is damaged")]
    Format,
    #[error("its tables of symbols or its code are larger than fragscope reads")]
    TooLarge,
}

impl From<object::read::Error> for ElfError {
    fn from(_: object::read::Error) -> Self {
        Self::Format
    }
}

/// Reads those functions of the file at `path` from `table` that `keep` names; with its code when
/// `malloc` is one of them.
pub(super) fn read(
    path: &Path,
    table: Table,
    keep: fn(&str) -> bool,
) -> Result<ElfObject, ElfError> {
    let mut file = open_regular(path)?;
    if file.metadata()?.len() > WHOLE_BYTES {
        let source = Source::of(file, MAX_READ_BYTES)?;
        let object = parse(&source, table, keep);
        // A table that was read in part would hide the malloc that is in the rest.
        return match source.is_exceeded() {
            true => Err(ElfError::TooLarge),
            false => object,
        };
    }
    let mut bytes = Vec::new();
    file.by_ref().take(WHOLE_BYTES).read_to_end(&mut bytes)?;
    parse(bytes.as_slice(), table, keep)
}

fn parse<'data, R: ReadRef<'data>>(
    data: R,
    table: Table,
    keep: fn(&str) -> bool,
) -> Result<ElfObject, ElfError> {
    let endian = LittleEndian;
    let header = FileHeader64::<LittleEndian>::parse(data)?;
    let kind = header.e_type.get(endian);
    if !header.is_little_endian()
        || header.e_machine.get(endian) != EM_X86_64
        || !(kind == ET_DYN || kind == ET_EXEC)
    {
        return Err(ElfError::Format);
    }
    let sections = header.sections(endian, data)?;
    let kind = match table {
        Table::Dynamic => SHT_DYNSYM,
        Table::Full => SHT_SYMTAB,
    };
    let symbols = sections.symbols(endian, data, kind)?;
    let mut functions = HashMap::new();
    let mut starts = HashSet::new();
    for symbol in symbols.iter() {
        let indirect = symbol.st_type() == STT_GNU_IFUNC;
        if !(indirect || symbol.st_type() == STT_FUNC)
            || symbol.is_undefined(endian)
            || (table == Table::Dynamic && symbol.st_bind() == STB_LOCAL)
        {
            continue;
        }
        starts.insert(symbol.st_value(endian));
        let Ok(name) = symbol.name(endian, symbols.strings()) else {
            continue;
        };
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| keep(name)) else {
            continue;
        };
        let start = symbol.st_value(endian);
        let end = start.saturating_add(symbol.st_size(endian));
        functions.entry(name.to_string()).or_insert(Definition {
            body: Body { start, end },
            indirect,
        });
    }
    let mut segments = Vec::new();
    if functions.contains_key(Function::Malloc.name()) {
        for segment in header.program_headers(endian, data)? {
            if segment.p_type(endian) != PT_LOAD || !segment.p_flags(endian).contains(PF_X) {
                continue;
            }
            if segment.p_filesz(endian) > MAX_CODE_BYTES {
                return Err(ElfError::Format);
            }
            segments.push(Segment {
                address: segment.p_vaddr(endian),
                file_offset: segment.p_offset(endian),
                bytes: segment
                    .data(endian, data)
                    .map_err(|()| ElfError::Format)?
                    .to_vec(),
            });
        }
    }
    Ok(ElfObject {
        functions,
        starts,
        code: Code::new(segments),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sites::Symbols;

    fn libc() -> Vec<u8> {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let path = maps
            .lines()
            .filter_map(|line| line.split_ascii_whitespace().nth(5))
            .find(|path| path.contains("libc.") || path.contains("ld-musl"))
            .expect("a libc");
        std::fs::read(path).expect("the file")
    }

    #[test]
    fn damaged_files_are_errors_or_other_answers_but_never_panics() {
        let whole = libc();
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize % below
        };
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
                if let Ok(object) = parse(&damaged[..end], table, |name| name == "malloc") {
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
            assert!(parse(bytes, Table::Dynamic, |_| true).is_err());
        }
        assert!(read(Path::new("/"), Table::Dynamic, |_| true).is_err());
        assert!(read(Path::new("/nowhere/at/all"), Table::Dynamic, |_| true).is_err());
    }

    #[test]
    fn a_pipe_in_the_files_place_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("libc.so.6");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo").success());
        let read = read(&pipe, Table::Dynamic, |_| true);
        assert!(matches!(read, Err(ElfError::Io(_))), "{read:?}");
    }
}
