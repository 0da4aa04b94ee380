//! Information from mapped ELF files: exported symbols, and strings in read-only data.
//!
//! The files belong to the target and are hostile: the `object` crate parses and checks their
//! headers, only what is needed is read, and reading is limited.

mod path;
mod reader;
mod source;

use std::sync::LazyLock;

use object::elf::{
    DT_NEEDED, FileHeader64, PF_W, PT_INTERP, PT_LOAD, ProgramHeader64, SHN_XINDEX, SHT_DYNSYM,
    SHT_NOBITS, SHT_SYMTAB, STT_FUNC, STT_NOTYPE, STT_OBJECT, SectionHeader64, Sym64,
};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};
use object::{LittleEndian, ReadRef};
use profiler_core::addr::PAGE_SIZE;
use profiler_core::allocator::{self, Allocator, Contents};

pub use self::path::FilePath;
pub use self::reader::file_limit;
pub use self::reader::{FILE_LIMIT, FileError, FileLimit, UnreadFiles, set_file_limit};
pub(super) use self::reader::{FILE_TIME, MAX_FILES, Reader};
pub(super) use self::source::Version;
pub use self::source::{Source, open_checked, open_regular};
use super::jemalloc_options;

/// More read-only data than this is not searched. An unstripped Python has 4 MiB.
const MAX_SEARCHED_BYTES: u64 = 64 << 20;
/// How many bytes glibc keeps of each thread, which debuggers ask for (`nptl_db/structs.def`).
pub(super) const THREAD_BYTES: &str = "_thread_db_sizeof_pthread";
/// The symbols that anybody asks for.
static WANTED: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let others = ["malloc", "Py_GetVersion", "Py_Version", THREAD_BYTES];
    others.into_iter().chain(allocator::functions()).collect()
});
/// Symbols of Python's data whose addresses are looked up.
const PLACES: [&str; 3] = ["_PyRuntime", "_PyThreadState_Current", "PyCode_Type"];
/// Bytes kept of what a symbol names.
const SYMBOL_BYTES: u64 = 16;

const ENDIAN: LittleEndian = LittleEndian;

/// Something of each symbol that was found.
type Named<T> = Vec<(&'static str, T)>;

/// What is known about an ELF file.
#[derive(Debug, Default)]
pub(super) struct ElfFile {
    read_only: Vec<Vec<u8>>,
    /// The symbols of [`WANTED`] that it exports, with the first bytes of what they name.
    symbols: Named<Vec<u8>>,
    /// The symbols of [`PLACES`] that it has, with their addresses in the file's own address space.
    places: Named<u64>,
    allocators: Vec<(Allocator, Option<String>)>,
    options: Vec<jemalloc_options::Found>,
    first_addr: u64,
    bss_bytes: u64,
    has_interpreter: bool,
    /// Whether there is more read-only data than is searched.
    is_cut: bool,
}

impl ElfFile {
    /// Reads it from `source`.
    pub(super) fn read(source: &Source) -> Self {
        Headers::of(source).map_or_else(Self::default, |headers| headers.file())
    }

    /// Its read-only data: `.rodata` if sections are named, else every segment that is not
    /// writable.
    pub(super) fn read_only_data(&self) -> Vec<&[u8]> {
        self.read_only.iter().map(Vec::as_slice).collect()
    }

    /// The data that identifies allocators in it; `path` is the path from which the target maps it.
    pub(super) fn contents<'f>(&'f self, path: &'f str) -> Contents<'f> {
        Contents {
            path,
            functions: &self.symbols,
            read_only: self.read_only_data(),
        }
    }

    /// The allocators in it with their versions, except those of C libraries and Python's own.
    pub(super) fn allocators(&self) -> &[(Allocator, Option<String>)] {
        &self.allocators
    }

    fn holds(&self, allocator: Allocator) -> bool {
        self.allocators.iter().any(|(kind, _)| *kind == allocator)
    }

    /// Whether it exports a symbol, one of [`WANTED`].
    pub(super) fn exports(&self, name: &str) -> bool {
        debug_assert!(WANTED.contains(&name), "{name} is not looked for");
        self.symbols.iter().any(|(found, _)| *found == name)
    }

    /// The 32-bit number that an exported symbol in read-only data names.
    pub(super) fn exported_u32(&self, name: &str) -> Option<u32> {
        let (_, bytes) = self.symbols.iter().find(|(found, _)| *found == name)?;
        bytes.first_chunk().copied().map(u32::from_le_bytes)
    }

    /// The address, in the file's own address space, of a symbol of [`PLACES`].
    pub(super) fn place(&self, name: &str) -> Option<u64> {
        let found = self.places.iter().find(|(found, _)| *found == name);
        found.map(|(_, place)| *place)
    }

    /// Variables of the jemalloc in it that hold options, by addresses in the file's own address
    /// space.
    pub(super) fn jemalloc_options(&self) -> Vec<jemalloc_options::Found> {
        self.options.clone()
    }

    /// The address, in the file's own address space, of its first page.
    pub(super) fn first_addr(&self) -> u64 {
        self.first_addr
    }

    /// Bytes of whole pages that its writable segments have in memory in addition to those in the
    /// file.
    pub(super) fn bss_bytes(&self) -> u64 {
        self.bss_bytes
    }

    /// Whether it requests a dynamic loader.
    pub(super) fn has_interpreter(&self) -> bool {
        self.has_interpreter
    }
}

/// Whether an ELF file asks the loader for a library whose name begins with one of these.
pub(super) fn asks_for(source: &Source, names: &[&str]) -> bool {
    let asks = || {
        let header = FileHeader64::<LittleEndian>::parse(source).ok()?;
        let sections = header.sections(ENDIAN, source).ok()?;
        let table = sections.dynamic_table(ENDIAN, source).ok()?;
        let mut needed = table.iter().filter(|entry| entry.tag == DT_NEEDED);
        needed.find(|entry| {
            let name = table.string(*entry).unwrap_or_default();
            names.iter().any(|begin| name.starts_with(begin.as_bytes()))
        })
    };
    asks().is_some()
}

/// The tables at the head of a file that is being read.
struct Headers<'s> {
    source: &'s Source,
    segments: &'s [ProgramHeader64<LittleEndian>],
    sections: &'s [SectionHeader64<LittleEndian>],
    names: &'s [u8],
}

impl<'s> Headers<'s> {
    fn of(source: &'s Source) -> Option<Self> {
        let header = FileHeader64::<LittleEndian>::parse(source).ok()?;
        if !header.is_little_endian() {
            return None;
        }
        let sections = header.section_headers(ENDIAN, source).unwrap_or_default();
        let names = header.section_strings_index(ENDIAN, source).ok();
        let names = names.and_then(|index| sections.get(index.0));
        Some(Self {
            source,
            segments: header.program_headers(ENDIAN, source).ok()?,
            sections,
            names: names
                .and_then(|names| section_bytes(names, source))
                .unwrap_or_default(),
        })
    }

    fn file(&self) -> ElfFile {
        let loads = || {
            let all = self.segments.iter();
            all.filter(|segment| segment.p_type(ENDIAN) == PT_LOAD)
        };
        let first = loads().next();
        let (symbols, places) = self.symbols();
        let mut file = ElfFile {
            symbols,
            places,
            first_addr: first.map_or(0, |segment| {
                segment
                    .p_vaddr(ENDIAN)
                    .wrapping_sub(segment.p_offset(ENDIAN))
            }),
            bss_bytes: loads().filter_map(bss_bytes).max().unwrap_or(0),
            has_interpreter: self.segments.iter().any(|s| s.p_type(ENDIAN) == PT_INTERP),
            ..ElfFile::default()
        };
        (file.read_only, file.is_cut) = self.read_only();
        file.allocators = allocator::allocators_in(&file.contents(""));
        if file.holds(Allocator::Jemalloc) {
            file.options = object::File::parse(self.source)
                .map_or_else(|_| Vec::new(), |elf| jemalloc_options::find(&elf));
        }
        file
    }

    /// Read-only data, and whether there is more of it.
    fn read_only(&self) -> (Vec<Vec<u8>>, bool) {
        let named = |section: &&SectionHeader64<_>| self.is_named(section, b".rodata");
        if let Some(section) = self.sections.iter().find(named)
            && section.sh_type(ENDIAN) != SHT_NOBITS
            && section.sh_size(ENDIAN) <= MAX_SEARCHED_BYTES
            && let Some(data) = self
                .source
                .piece(section.sh_offset(ENDIAN), section.sh_size(ENDIAN))
        {
            return (vec![data], false);
        }
        let mut rest = MAX_SEARCHED_BYTES;
        let mut is_cut = false;
        let mut found = Vec::new();
        for segment in self.segments {
            let length = segment.p_filesz(ENDIAN);
            if segment.p_type(ENDIAN) != PT_LOAD || segment.p_flags(ENDIAN).contains(PF_W) {
                continue;
            }
            if length > rest {
                is_cut = true;
            } else if let Some(data) = self.source.piece(segment.p_offset(ENDIAN), length) {
                rest -= length;
                found.push(data);
            }
        }
        (found, is_cut)
    }

    /// The wanted exported symbols: first from the table used by the loader, then from the table of
    /// all symbols; and those whose addresses are wanted.
    fn symbols(&self) -> (Named<Vec<u8>>, Named<u64>) {
        let (mut found, mut places) = (Named::new(), Named::new());
        for kind in [SHT_DYNSYM, SHT_SYMTAB] {
            let of_kind = |section: &&SectionHeader64<_>| section.sh_type(ENDIAN) == kind;
            let table = self.sections.iter().find(of_kind);
            let Some((symbols, names)) = table.and_then(|table| self.table(table)) else {
                continue;
            };
            for symbol in symbols.iter().filter(|symbol| is_definition(symbol)) {
                let name = names.get(symbol.st_name(ENDIAN) as usize..);
                let one_of = |wanted: &[&'static str]| {
                    let begins = |w: &&&'static str| {
                        name.and_then(|name| name.strip_prefix(w.as_bytes()))
                            .is_some_and(|rest| rest.first() == Some(&0))
                    };
                    wanted.iter().find(begins).copied()
                };
                if let Some(place) = one_of(&PLACES)
                    && places.iter().all(|(known, _)| *known != place)
                {
                    places.push((place, symbol.st_value(ENDIAN)));
                }
                let wanted = one_of(&WANTED);
                if let Some(wanted) = wanted
                    && found.iter().all(|(known, _)| *known != wanted)
                {
                    found.push((wanted, self.bytes_at(symbol.st_value(ENDIAN))));
                }
            }
        }
        (found, places)
    }

    /// A table of symbols and their names.
    fn table(
        &self,
        table: &SectionHeader64<LittleEndian>,
    ) -> Option<(&'s [Sym64<LittleEndian>], &'s [u8])> {
        let names = self.sections.get(table.sh_link(ENDIAN) as usize)?;
        let names = section_bytes(names, self.source)?;
        Some((table.data_as_array(ENDIAN, self.source).ok()?, names))
    }

    /// The first bytes at an address in the file's own address space.
    fn bytes_at(&self, addr: u64) -> Vec<u8> {
        let piece = self.segments.iter().find_map(|segment| {
            let into = addr.checked_sub(segment.p_vaddr(ENDIAN))?;
            let there = segment.p_filesz(ENDIAN).checked_sub(into)?;
            if segment.p_type(ENDIAN) != PT_LOAD || there == 0 {
                return None;
            }
            let offset = segment.p_offset(ENDIAN).checked_add(into)?;
            self.source.piece(offset, there.min(SYMBOL_BYTES))
        });
        piece.unwrap_or_default()
    }

    fn is_named(&self, section: &SectionHeader64<LittleEndian>, name: &[u8]) -> bool {
        self.names
            .get(section.sh_name(ENDIAN) as usize..)
            .and_then(|at| at.strip_prefix(name))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn section_bytes<'s>(
    section: &SectionHeader64<LittleEndian>,
    source: &'s Source,
) -> Option<&'s [u8]> {
    let (offset, size) = section.file_range(ENDIAN)?;
    source.read_bytes_at(offset, size).ok()
}

/// Whether a symbol names a function or data of this file.
fn is_definition(symbol: &Sym64<LittleEndian>) -> bool {
    let section = symbol.st_shndx(ENDIAN);
    (!section.is_special() || section == SHN_XINDEX)
        && [STT_FUNC, STT_OBJECT, STT_NOTYPE].contains(&symbol.st_type())
}

fn bss_bytes(segment: &ProgramHeader64<LittleEndian>) -> Option<u64> {
    let page_end = |at: u64| at.checked_next_multiple_of(PAGE_SIZE);
    let begin = segment.p_vaddr(ENDIAN);
    let end_of_file = page_end(begin.checked_add(segment.p_filesz(ENDIAN))?)?;
    page_end(begin.checked_add(segment.p_memsz(ENDIAN))?)?.checked_sub(end_of_file)
}

/// Every complete NUL-terminated string of printable ASCII in `data` for which `wanted` returns
/// something.
pub(super) fn strings<'d, T>(
    data: &'d [u8],
    wanted: impl Fn(&'d str) -> Option<T>,
) -> impl Iterator<Item = T> {
    data.split(|&byte| byte == 0)
        .filter_map(|bytes| std::str::from_utf8(bytes).ok())
        .filter_map(wanted)
}
