//! Information about code in a mapped file: how to find the caller of each place, and the names of
//! functions.
//!
//! The files belong to the target and are hostile: each table is bounded, and nothing in one is
//! trusted.

use gimli::{BaseAddresses, CieOrFde, EhFrame, EndianSlice, UnwindSection};
use object::LittleEndian;
use object::elf::{
    FileHeader64, PT_GNU_EH_FRAME, PT_LOAD, ProgramHeader64, SHN_UNDEF, SHT_DYNSYM, SHT_NOBITS,
    SHT_SYMTAB, STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, Sym64,
};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};
use profiler_common::PAGE_BYTES;
use profiler_target::Source;

const ENDIAN: LittleEndian = LittleEndian;
/// A larger table in a file is not read. libtorch's has 30 MiB.
const MAX_TABLE: u64 = 64 << 20;
/// The most functions kept of one file: those of a table without an index, and those with names.
const MAX_FUNCTIONS: usize = 1 << 20;
/// The most segments; libraries have about ten.
const MAX_SEGMENTS: usize = 64;
/// The most bytes of the common part of entries in a table of frames: compilers make about ten.
const MAX_COMMON: usize = 4096;
/// The most bytes of a function's name in the file.
const MAX_NAME: usize = 16 << 10;
/// Bytes of names of one file.
const MAX_NAMES: usize = 64 << 20;
/// How many symbols back to look for the one that contains an address: others may lie inside it.
const NEARBY: usize = 8;
/// Bytes of code that are compared with the mapped ones.
const CODE: u64 = PAGE_BYTES as u64;

/// Bytes of a table, read by gimli.
pub(super) type Bytes<'b> = EndianSlice<'b, gimli::LittleEndian>;

/// The code of a file.
#[derive(Debug, Default)]
pub(super) struct CodeFile {
    /// The page of code that was asked for.
    pub(super) code: Vec<u8>,
    segments: Vec<Segment>,
    frames: Vec<u8>,
    /// Where functions begin, ascending, and their entries in `frames`. The file's own index is not
    /// used: the crate that reads tables trusts it.
    index: Vec<(u64, u32)>,
    /// Where the tables are, as the file's own addresses.
    pub(super) bases: BaseAddresses,
}

/// A part of the file that is mapped.
#[derive(Copy, Clone, Debug)]
struct Segment {
    offset: u64,
    bytes: u64,
    address: u64,
}

impl CodeFile {
    /// Reads an ELF file, with its page at `code_offset`; `None` if it is not one.
    pub(super) fn read(source: &Source, code_offset: u64) -> Option<Self> {
        let header = FileHeader64::<LittleEndian>::parse(source).ok()?;
        if !header.is_little_endian() {
            return None;
        }
        let segments = header.program_headers(ENDIAN, source).ok()?;
        if segments.len() > MAX_SEGMENTS {
            return None;
        }
        let loads = segments.iter().filter(|of| of.p_type(ENDIAN) == PT_LOAD);
        let mut file = Self {
            code: source.piece_within(code_offset, CODE)?,
            segments: loads
                .map(|of| Segment {
                    offset: of.p_offset(ENDIAN),
                    bytes: of.p_filesz(ENDIAN),
                    address: of.p_vaddr(ENDIAN),
                })
                .collect(),
            ..Self::default()
        };
        let hint = segments
            .iter()
            .find(|of| of.p_type(ENDIAN) == PT_GNU_EH_FRAME);
        let hint = hint.and_then(|of| frames_address(source, of));
        file.read_frames(source, header, hint);
        Some(file)
    }

    /// Reads `.eh_frame`: by its section, or from `hint` on.
    fn read_frames(
        &mut self,
        source: &Source,
        header: &FileHeader64<LittleEndian>,
        hint: Option<u64>,
    ) -> Option<()> {
        let sections = header.sections(ENDIAN, source).ok();
        let section = sections.and_then(|all| {
            let found = all.section_by_name(ENDIAN, b".eh_frame")?.1;
            (found.sh_type(ENDIAN) != SHT_NOBITS).then_some(found)
        });
        let (address, bytes) = match section {
            Some(section) => {
                let (offset, size) = section.file_range(ENDIAN)?;
                (section.sh_addr(ENDIAN), table(source, offset, size)?)
            }
            None => {
                let address = hint?;
                let segment = self.segments.iter().find(|of| {
                    let into = address.checked_sub(of.address);
                    into.is_some_and(|into| into < of.bytes)
                })?;
                let into = address - segment.address;
                let offset = segment.offset.checked_add(into)?;
                (address, table(source, offset, segment.bytes - into)?)
            }
        };
        self.bases = self.bases.clone().set_eh_frame(address);
        self.frames = bytes;
        self.index = self.make_index();
        Some(())
    }

    fn make_index(&self) -> Vec<(u64, u32)> {
        let frames = self.frames();
        let mut entries = frames.entries(&self.bases);
        let mut found = Vec::new();
        let mut looked_at = 0;
        while let Ok(Some(entry)) = entries.next()
            && looked_at < MAX_FUNCTIONS
        {
            looked_at += 1;
            let CieOrFde::Fde(entry) = entry else {
                continue;
            };
            let Ok(entry) = entry.parse(EhFrame::cie_from_offset) else {
                continue;
            };
            // Parsing a table walks the common part of each entry: a huge one is a trap.
            if entry.cie().entry_len() > MAX_COMMON {
                break;
            }
            if let Ok(offset) = u32::try_from(entry.offset()) {
                found.push((entry.initial_address(), offset));
            }
        }
        found.sort_unstable();
        found
    }

    /// The table of frames.
    pub(super) fn frames(&self) -> EhFrame<Bytes<'_>> {
        let mut frames = EhFrame::new(&self.frames, gimli::LittleEndian);
        frames.set_address_size(8);
        frames
    }

    /// The entry of the function that an address of the file's own is within.
    pub(super) fn entry(&self, address: u64) -> Option<gimli::FrameDescriptionEntry<Bytes<'_>>> {
        let next = self.index.partition_point(|(start, _)| *start <= address);
        let (_, offset) = self.index.get(next.checked_sub(1)?)?;
        let offset = gimli::EhFrameOffset(*offset as usize);
        let get = EhFrame::cie_from_offset;
        let entry = self
            .frames()
            .fde_from_offset(&self.bases, offset, get)
            .ok()?;
        // An entry that claims to end beyond the last address is invalid.
        let within = address.checked_sub(entry.initial_address())?;
        (within < entry.len()).then_some(entry)
    }

    /// Whether the code at an address of the file's own is called by the kernel when a signal's handler returns.
    pub(super) fn is_of_signal(&self, address: u64) -> bool {
        self.entry(address)
            .is_some_and(|entry| entry.is_signal_trampoline())
    }

    /// The file's own address of a file offset.
    pub(super) fn address_of(&self, offset: u64) -> Option<u64> {
        self.segments.iter().find_map(|of| {
            let into = offset.checked_sub(of.offset)?;
            // The last page is mapped as a whole.
            (into < of.bytes).then(|| of.address.checked_add(into))?
        })
    }

    /// Bytes kept of it.
    pub(super) fn bytes(&self) -> usize {
        self.frames.len() + self.index.len() * size_of::<(u64, u32)>()
    }
}

/// Where `.eh_frame` is, according to the head of `.eh_frame_hdr`.
fn frames_address(source: &Source, segment: &ProgramHeader64<LittleEndian>) -> Option<u64> {
    /// Its version and its pointer encoding: `DW_EH_PE_pcrel | DW_EH_PE_sdata4`, as all linkers
    /// write it.
    const USUAL: [u8; 2] = [1, 0x1b];
    let (offset, size) = segment.file_range(ENDIAN);
    let head = source.piece_within(offset, size.min(8))?;
    let distance = head.get(4..)?.first_chunk()?;
    let at = segment.p_vaddr(ENDIAN).checked_add(4)?;
    let address = at.checked_add_signed(i32::from_le_bytes(*distance).into());
    address.filter(|_| head.starts_with(&USUAL))
}

fn table(source: &Source, offset: u64, size: u64) -> Option<Vec<u8>> {
    let size = Some(size).filter(|size| *size <= MAX_TABLE)?;
    source.piece_within(offset, size)
}

/// The name of a symbol, unless it is longer than the limit.
fn name_of<'n>(symbol: &Sym64<LittleEndian>, names: &'n [u8]) -> Option<&'n [u8]> {
    let rest = names.get(symbol.st_name(ENDIAN) as usize..)?;
    let rest = &rest[..rest.len().min(MAX_NAME)];
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some(&rest[..end])
}

/// The names of a file's functions.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    /// Ascending.
    functions: Vec<Function>,
    names: Vec<u8>,
}

#[derive(Copy, Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Function {
    start: u64,
    /// Of several names, the one with the lowest rank wins: a hidden name, or one that begins with
    /// underscores, is for the library's own use.
    rank: u8,
    name: u32,
    length: u32,
    bytes: u64,
}

impl Symbols {
    /// Reads an ELF file's functions: from the full symbol table, or from the exported symbols in a
    /// stripped file.
    pub(super) fn read(source: &Source) -> Self {
        [SHT_SYMTAB, SHT_DYNSYM]
            .into_iter()
            .filter_map(|kind| Self::of_table(source, kind))
            .find(|symbols| !symbols.functions.is_empty())
            .unwrap_or_default()
    }

    fn of_table(source: &Source, kind: object::elf::SectionType) -> Option<Self> {
        let header = FileHeader64::<LittleEndian>::parse(source).ok()?;
        let sections = header.section_headers(ENDIAN, source).ok()?;
        let table = sections.iter().find(|one| one.sh_type(ENDIAN) == kind)?;
        let names = sections.get(table.sh_link(ENDIAN) as usize)?;
        // As a whole: read one by one, each name would be remembered by itself.
        let names = names.data(ENDIAN, source).ok()?;
        let symbols: &[Sym64<LittleEndian>] = table.data_as_array(ENDIAN, source).ok()?;
        let mut found = Self::default();
        let functions = symbols.iter().filter(|symbol| is_function(symbol));
        for symbol in functions.take(MAX_FUNCTIONS) {
            let Some(name) = name_of(symbol, names) else {
                continue;
            };
            let is_full = found.functions.len() >= MAX_FUNCTIONS
                || found.names.len() + name.len() > MAX_NAMES;
            if is_full {
                break;
            }
            found.add(symbol, name);
        }
        found.functions.sort_unstable();
        found.functions.dedup_by_key(|function| function.start);
        found.functions.shrink_to_fit();
        Some(found)
    }

    fn add(&mut self, symbol: &Sym64<LittleEndian>, name: &[u8]) {
        if name.is_empty() {
            return;
        }
        let underscores = name.iter().take_while(|byte| **byte == b'_').count().min(3) as u8;
        self.functions.push(Function {
            start: symbol.st_value(ENDIAN),
            rank: underscores + 4 * u8::from(symbol.st_bind() == STB_LOCAL),
            name: self.names.len() as u32,
            length: name.len() as u32,
            bytes: symbol.st_size(ENDIAN),
        });
        self.names.extend_from_slice(name);
    }

    /// The symbol of the function that an address of the file's own is within.
    pub(super) fn at(&self, address: u64) -> Option<&str> {
        let next = self.functions.partition_point(|of| of.start <= address);
        let near = &self.functions[next.saturating_sub(NEARBY)..next];
        let mut near = near.iter().rev();
        let within = near.find(|of| address - of.start < of.bytes)?;
        let name = within.name as usize;
        let name = self.names.get(name..name + within.length as usize)?;
        std::str::from_utf8(name).ok()
    }

    /// Bytes kept of it.
    pub(super) fn bytes(&self) -> usize {
        self.names.len() + self.functions.len() * size_of::<Function>()
    }
}

fn is_function(symbol: &Sym64<LittleEndian>) -> bool {
    let kind = symbol.st_type();
    (kind == STT_FUNC || kind == STT_GNU_IFUNC)
        && symbol.st_shndx(ENDIAN) != SHN_UNDEF
        && symbol.st_size(ENDIAN) > 0
}

#[cfg(test)]
mod tests {
    use profiler_common::sampling::Registers;
    use profiler_core::machine::Machine;

    use super::super::unwind::{StackCopy, Step, Unwinder};
    use super::*;
    use crate::damaged::{libc, random, source};

    /// Unwinds from many places of a file with any contents, over a stack of anything.
    fn wander(
        file: &CodeFile,
        symbols: &Symbols,
        random: &mut impl FnMut(usize) -> usize,
    ) -> usize {
        let mut unwinder = Unwinder::new(Machine::OWN);
        let bytes: Vec<u8> = (0..4096).map(|_| random(256) as u8).collect();
        let start = 0x7fff_0000_0000;
        let stack = StackCopy {
            start,
            bytes: &bytes,
        };
        let mut callers = 0;
        for _ in 0..200 {
            let address = random(2 << 20) as u64;
            let _any = symbols.at(address);
            let mut registers = Registers {
                instruction: address,
                stack: start + random(4096) as u64,
                frame: start + random(4096) as u64,
                link: random(2 << 20) as u64,
            };
            let step = unwinder.step((0, file), address, &mut registers, &stack);
            callers += usize::from(step == Step::Caller);
        }
        callers
    }

    #[test]
    fn damaged_files_lead_somewhere_or_nowhere_but_never_panic_or_go_on_without_end() {
        let whole = libc();
        let mut random = random();
        let sound = CodeFile::read(&source(&whole), 4096).expect("it is one");
        let symbols = Symbols::read(&source(&whole));
        assert!(wander(&sound, &symbols, &mut random) > 20);
        // Without a section list (e_shoff, e_shnum, e_shstrndx) the table is where its index says.
        let mut bare = whole.clone();
        bare[0x28..0x30].fill(0);
        bare[0x3c..0x40].fill(0);
        let bare = CodeFile::read(&source(&bare), 4096).expect("it is one");
        assert_eq!(bare.index, sound.index);
        let tables = sound.frames.len();
        // Where the tables are in the file.
        let frames = sound.frames.first_chunk::<64>().expect("a table");
        let at = whole.windows(64).position(|bytes| bytes == frames);
        let at = at.expect("it is there");
        for round in 0..600 {
            let mut damaged = whole.clone();
            for _ in 0..1 + random(2000) {
                let place = match round % 3 {
                    0 => random(4096),
                    _ => at.saturating_sub(tables / 4) + random(tables + tables / 4),
                };
                let place = place.min(damaged.len() - 1);
                damaged[place] = random(256) as u8;
            }
            if round % 10 == 9 {
                damaged.truncate(random(whole.len()));
            }
            let source = source(&damaged);
            let symbols = Symbols::read(&source);
            if let Some(file) = CodeFile::read(&source, 4096) {
                wander(&file, &symbols, &mut random);
            }
        }
    }

    #[test]
    fn symbols_are_those_of_the_function_that_an_address_is_within() {
        let function = |start, rank, name: &str, bytes, names: &mut Vec<u8>| {
            let at = names.len() as u32;
            names.extend_from_slice(name.as_bytes());
            Function {
                start,
                rank,
                name: at,
                length: name.len() as u32,
                bytes,
            }
        };
        let mut names = Vec::new();
        let functions = vec![
            function(100, 0, "outer", 100, &mut names),
            function(120, 0, "inner", 10, &mut names),
            function(300, 0, "next", 8, &mut names),
        ];
        let symbols = Symbols { functions, names };
        for (address, name) in [
            (99, None),
            (100, Some("outer")),
            (125, Some("inner")),
            (150, Some("outer")),
            (200, None),
            (307, Some("next")),
            (308, None),
            (u64::MAX, None),
        ] {
            assert_eq!(symbols.at(address), name, "{address}");
        }
    }
}
