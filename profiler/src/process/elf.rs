//! What a mapped ELF file says of itself: exported symbols and strings in its read-only data.
//!
//! The files are the target's own and hostile: they are parsed by `object`, which checks, and read
//! within bounds.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use object::read::ReadCache;
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SegmentFlags};
use profiler_core::addr::PAGE_SIZE;

use super::jemalloc_options;

/// More read-only data than this is not searched. An unstripped Python has 4 MiB.
const MAX_SEARCHED_BYTES: u64 = 64 << 20;

/// An opened ELF file.
pub(super) struct ElfFile {
    cache: ReadCache<File>,
}

impl ElfFile {
    pub(super) fn open(path: &Path) -> Option<Self> {
        // What lies at a path of the target's may be a pipe meanwhile: never wait for its writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .ok()?;
        file.metadata().ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            cache: ReadCache::new(file),
        })
    }

    /// Its read-only data: `.rodata` where sections are named, else every segment that is not
    /// writable.
    pub(super) fn read_only_data(&self) -> Vec<&[u8]> {
        let Ok(elf) = object::File::parse(&self.cache) else {
            return Vec::new();
        };
        if let Some(section) = elf.section_by_name(".rodata")
            && section.size() <= MAX_SEARCHED_BYTES
            && let Ok(data) = section.data()
        {
            return vec![data];
        }
        let mut rest = MAX_SEARCHED_BYTES;
        let mut found = Vec::new();
        for segment in elf.segments() {
            let writable = matches!(
                segment.flags(),
                SegmentFlags::Elf { p_flags, .. } if (p_flags & object::elf::PF_W).0 != 0
            );
            let length = segment.file_range().1;
            if !writable
                && length <= rest
                && let Ok(data) = segment.data()
            {
                rest -= length;
                found.push(data);
            }
        }
        found
    }

    /// Whether it exports a symbol.
    pub(super) fn exports(&self, name: &str) -> bool {
        self.symbol(name).is_some()
    }

    /// The 32-bit number that an exported symbol in read-only data names.
    pub(super) fn exported_u32(&self, name: &str) -> Option<u32> {
        self.exported_bytes(name).map(u32::from_le_bytes)
    }

    /// The bytes that an exported symbol names.
    pub(super) fn exported_bytes<const N: usize>(&self, name: &str) -> Option<[u8; N]> {
        let (address, _) = self.symbol(name)?;
        let elf = object::File::parse(&self.cache).ok()?;
        let bytes = elf
            .segments()
            .find_map(|segment| segment.data_range(address, N as u64).ok()?)?;
        bytes.try_into().ok()
    }

    /// Variables of the jemalloc in it that hold options, by addresses of the file's own.
    pub(super) fn jemalloc_options(&self) -> Vec<jemalloc_options::Found> {
        object::File::parse(&self.cache)
            .map_or_else(|_| Vec::new(), |elf| jemalloc_options::find(&elf))
    }

    /// The address of its own at which the first page of the file belongs.
    pub(super) fn first_addr(&self) -> u64 {
        let Ok(elf) = object::File::parse(&self.cache) else {
            return 0;
        };
        elf.segments()
            .map(|segment| segment.address().wrapping_sub(segment.file_range().0))
            .next()
            .unwrap_or(0)
    }

    /// Bytes of whole pages that its writable segments have in memory beyond those of the file.
    pub(super) fn bss_bytes(&self) -> u64 {
        let Ok(elf) = object::File::parse(&self.cache) else {
            return 0;
        };
        let page_end = |at: u64| at.checked_next_multiple_of(PAGE_SIZE);
        elf.segments()
            .filter_map(|segment| {
                let end_of_file = page_end(segment.address().checked_add(segment.file_range().1)?)?;
                page_end(segment.address().checked_add(segment.size())?)?.checked_sub(end_of_file)
            })
            .max()
            .unwrap_or(0)
    }

    fn symbol(&self, name: &str) -> Option<(u64, u64)> {
        let elf = object::File::parse(&self.cache).ok()?;
        let symbol = elf
            .dynamic_symbols()
            .chain(elf.symbols())
            .find(|s| s.is_definition() && s.name_bytes() == Ok(name.as_bytes()))?;
        Some((symbol.address(), symbol.size()))
    }

    /// Whether it asks for a dynamic loader.
    pub(super) fn has_interpreter(&self) -> bool {
        object::File::parse(&self.cache).is_ok_and(|elf| elf.section_by_name(".interp").is_some())
    }
}

/// Every whole NUL-ended string of printable ASCII in `data` for which `wanted` gives something.
pub(super) fn strings<'d, T>(
    data: &'d [u8],
    wanted: impl Fn(&'d str) -> Option<T>,
) -> impl Iterator<Item = T> {
    data.split(|&byte| byte == 0)
        .filter_map(|bytes| std::str::from_utf8(bytes).ok())
        .filter_map(wanted)
}
