//! Which file the code at an address of the target's is of, and what that file says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use profiler_common::PAGE_BYTES;
use profiler_core::addr::RemoteAddr;
use profiler_core::memory::TargetMemory;
use profiler_core::residency::{Mapping, MappingKind};
use profiler_core::sites::NativeEnd;
use profiler_core::text::visible;
use profiler_target::{LiveMemory, Process, Target};

use super::files::{CodeFile, Symbols};

/// Files at the most. A large Python service maps some hundreds.
const MAX_FILES: usize = 4096;
/// Bytes of the tables of all files together.
const MAX_BYTES: usize = 256 << 20;
/// Between two looks at what is mapped because of an address that was unknown.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// Bytes of a page of code that may differ from the file's: breakpoints, those of probes among them.
const MAX_BREAKPOINTS: usize = 64;

/// The code that the target has mapped from files.
pub(super) struct MappedCode {
    target: Target,
    memory: LiveMemory,
    /// Ascending.
    pieces: Vec<Piece>,
    files: Vec<Known>,
    numbers: HashMap<Key, u32>,
    bytes: usize,
    looked_at: Option<Instant>,
}

/// Which file it is: while it is mapped, no other has its device and inode.
type Key = (String, u64, u64);

/// A mapping that may be executed.
struct Piece {
    start: u64,
    end: u64,
    /// Of its first byte in the file.
    offset: u64,
    file: u32,
}

/// A file that code is mapped from.
struct Known {
    mapping: Mapping,
    path: Arc<str>,
    shown: Arc<str>,
    code: Option<Result<CodeFile, NativeEnd>>,
    symbols: Option<Symbols>,
}

impl MappedCode {
    /// That of a target, which is looked at when the first place is asked for.
    pub(super) fn of(target: Target) -> Self {
        Self {
            memory: target.memory(),
            target,
            pieces: Vec::new(),
            files: Vec::new(),
            numbers: HashMap::new(),
            bytes: 0,
            looked_at: None,
        }
    }

    /// The number of the file that the code at an address is of, and the file's own address of it. The file is read.
    pub(super) fn locate(&mut self, address: u64) -> Result<(u32, u64), NativeEnd> {
        let piece = match self.piece(address) {
            Some(piece) => piece,
            None => {
                if self.looked_at.is_some_and(|at| at.elapsed() < LOOK_AFTER) {
                    return Err(NativeEnd::NoFile);
                }
                self.look();
                // From the end on: a look at very many mappings takes long.
                self.looked_at = Some(Instant::now());
                self.piece(address).ok_or(NativeEnd::NoFile)?
            }
        };
        let Piece {
            start,
            offset,
            file,
            ..
        } = self.pieces[piece];
        let offset = offset.wrapping_add(address - start);
        let known = &mut self.files[file as usize];
        if known.code.is_none() {
            let read = read(&self.target, &self.memory, known, address, offset);
            let read = read.filter(|code| self.bytes + code.bytes() <= MAX_BYTES);
            self.bytes += read.as_ref().map_or(0, CodeFile::bytes);
            known.code = Some(read.ok_or(NativeEnd::UnreadFile));
        }
        match &known.code {
            Some(Ok(code)) => {
                let own = code.address_of(offset);
                own.map(|own| (file, own)).ok_or(NativeEnd::Damaged)
            }
            _ => Err(NativeEnd::UnreadFile),
        }
    }

    fn piece(&self, address: u64) -> Option<usize> {
        let next = self.pieces.partition_point(|piece| piece.end <= address);
        let piece = self.pieces.get(next)?;
        (piece.start <= address).then_some(next)
    }

    /// Looks at what is mapped.
    fn look(&mut self) {
        // Of one that is gone what is known stays true of its samples.
        let Ok(mappings) = self.target.mappings() else {
            return;
        };
        self.pieces.clear();
        for mapping in mappings.into_iter().filter(|mapping| mapping.execute) {
            let (start, end) = (mapping.range.start().get(), mapping.range.end().get());
            let offset = mapping.offset;
            if let Some(file) = self.number(mapping) {
                self.pieces.push(Piece {
                    start,
                    end,
                    offset,
                    file,
                });
            }
        }
    }

    /// The number of the file of a mapping, if it is of one.
    fn number(&mut self, mapping: Mapping) -> Option<u32> {
        let MappingKind::File(path) = &mapping.kind else {
            return None;
        };
        let key = (path.clone(), mapping.device, mapping.inode);
        if let Some(number) = self.numbers.get(&key) {
            return Some(*number);
        }
        if self.files.len() >= MAX_FILES {
            return None;
        }
        let number = self.files.len() as u32;
        self.files.push(Known {
            path: path.as_str().into(),
            shown: visible(path).to_string().into(),
            mapping,
            code: None,
            symbols: None,
        });
        self.numbers.insert(key, number);
        Some(number)
    }

    /// A file that [`Self::locate`] gave.
    pub(super) fn file(&self, number: u32) -> &CodeFile {
        match &self.files[number as usize].code {
            Some(Ok(code)) => code,
            _ => unreachable!("it was located, and what was read is kept"),
        }
    }

    /// Where the target maps it from.
    pub(super) fn path(&self, number: u32) -> &Arc<str> {
        &self.files[number as usize].path
    }

    /// The same, as it is shown.
    pub(super) fn shown(&self, number: u32) -> Arc<str> {
        Arc::clone(&self.files[number as usize].shown)
    }

    /// The symbol of the function that an address of a file's own is within.
    pub(super) fn symbol(&mut self, number: u32, address: u64) -> Option<&str> {
        let known = &mut self.files[number as usize];
        if known.symbols.is_none() {
            let path = self.target.file_of(&known.mapping);
            let files = self.target.files();
            let read = files.read(&known.path, path, Symbols::read);
            // What cannot be read has no names.
            let read = read.unwrap_or_default();
            let has_room = self.bytes + read.bytes() <= MAX_BYTES;
            let read = if has_room { read } else { Symbols::default() };
            self.bytes += read.bytes();
            known.symbols = Some(read);
        }
        known.symbols.as_ref()?.at(address)
    }
}

/// Reads a file, in which the code at an address is at an offset; `None` where it cannot be read, or where that code is
/// not the file's.
fn read(
    target: &Target,
    memory: &LiveMemory,
    known: &Known,
    address: u64,
    offset: u64,
) -> Option<CodeFile> {
    let page = PAGE_BYTES as u64;
    let code_offset = offset - offset % page;
    let path = target.file_of(&known.mapping);
    let read = target.files().read(&known.path, path, move |source| {
        CodeFile::read(source, code_offset)
    });
    let file = read.ok()??;
    // Another file may have its name by now. The page of code that runs is one that is in memory.
    let mut mapped = vec![0; file.code.len()];
    let at = RemoteAddr::new(address - address % page);
    memory.read(at, &mut mapped).ok()?;
    let pairs = mapped.iter().zip(&file.code);
    let differing = pairs.filter(|(mapped, file)| mapped != file).count();
    (differing <= MAX_BREAKPOINTS).then_some(file)
}
