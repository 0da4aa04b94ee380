//! The mapped files, if they still exist and are unchanged.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use object::elf::ELFMAG;
use profiler_core::addr::{PAGE_SIZE, RemoteAddr};

use super::notes::{MappedFile, Notes};
use super::{CoreError, Segment};
use crate::file_reader::open_foreign;

/// The most files that are looked for.
const MAX_FILES: usize = 4096;
const PAGE: usize = PAGE_SIZE as usize;

/// The mapped files whose content can be had.
#[derive(Debug, Default)]
pub(super) struct MappedFiles {
    opened: Vec<File>,
    paths: BTreeMap<String, PathBuf>,
    /// Mapped parts with the index of their file, ascending.
    parts: Vec<(MappedFile, usize)>,
    missing: Vec<String>,
}

impl MappedFiles {
    /// Looks for each file that was mapped. A file is used if it begins with the same page as in
    /// the core; kernel and gcore write the first page of mapped ELF files for this purpose.
    pub(super) fn find(
        core: &File,
        segments: &[Segment],
        notes: &Notes,
        exe: Option<&Path>,
    ) -> Result<Self, CoreError> {
        let mut found = Self::default();
        let mut indices: BTreeMap<&str, Option<usize>> = BTreeMap::new();
        let program = notes.program();
        for mapped in notes.mapped.iter().filter(|m| m.offset == 0) {
            if indices.contains_key(&*mapped.path) || indices.len() == MAX_FILES {
                continue;
            }
            let given = exe.filter(|_| program == Some(&mapped.path));
            let wanted = first_page(core, segments, mapped.range.start());
            let path = match given {
                Some(exe) => exe.to_owned(),
                None => PathBuf::from(mapped.path.trim_end_matches(" (deleted)")),
            };
            let file = open_foreign(&path.clone().into());
            let file = file.ok().filter(|file| match &wanted {
                Some(wanted) => {
                    let mut page = [0; PAGE];
                    file.read_exact_at(&mut page, 0).is_ok() && page == **wanted
                }
                // With nothing to compare, only the user's word is taken.
                None => given.is_some(),
            });
            if file.is_none()
                && let Some(exe) = given
            {
                return Err(CoreError::OtherProgram {
                    exe: exe.to_owned(),
                    program: mapped.path.clone(),
                });
            }
            let is_elf = wanted.is_some_and(|page| page.starts_with(&ELFMAG));
            if file.is_none() && is_elf {
                found.missing.push(mapped.path.clone());
            }
            let index = file.map(|file| {
                found.opened.push(file);
                found.paths.insert(mapped.path.clone(), path);
                found.opened.len() - 1
            });
            indices.insert(&mapped.path, index);
        }
        let index = |m: &MappedFile| Some((m.clone(), indices.get(&*m.path).copied()??));
        found.parts = notes.mapped.iter().filter_map(index).collect();
        Ok(found)
    }

    /// The present path of the file that was mapped under this path.
    pub(super) fn path_of(&self, mapped: &str) -> Option<PathBuf> {
        self.paths.get(mapped).cloned()
    }

    /// The programs and libraries that are missing or have changed.
    pub(super) fn missing(&self) -> &[String] {
        &self.missing
    }

    /// The file mapped at `addr`, the offset in it and the number of bytes mapped from there on.
    pub(super) fn piece(&self, addr: RemoteAddr) -> Option<(&File, u64, u64)> {
        let next = self.parts.partition_point(|(m, _)| m.range.end() <= addr);
        let (mapped, file) = self.parts.get(next)?;
        let into = addr.offset_from(mapped.range.start())?;
        let offset = mapped.offset.checked_add(into)?;
        Some((self.opened.get(*file)?, offset, mapped.range.len() - into))
    }
}

/// The page at `addr`, if the core contains it.
fn first_page(core: &File, segments: &[Segment], addr: RemoteAddr) -> Option<Box<[u8; PAGE]>> {
    let at = segments
        .binary_search_by_key(&addr, |s| s.range.start())
        .ok()?;
    let segment = segments.get(at).filter(|s| s.filled >= PAGE_SIZE)?;
    let mut page = Box::new([0; PAGE]);
    core.read_exact_at(&mut *page, segment.offset).ok()?;
    Some(page)
}
