//! Reads in slices. Each slice looks up again which pages are present, because the target has run
//! since the previous one.

use std::cell::RefCell;
use std::sync::{Arc, PoisonError};

use nix::sys::uio::RemoteIoVec;
use nix::unistd::Pid;
use profiler_core::addr::{AddrRange, PAGE_SIZE, RemoteAddr};
use profiler_core::memory::{ReadError, TargetMemory};

use super::{Answers, LiveMemory, MAX_PIECES, MappedFiles, files_within};
use crate::pagemap::Entry;
use crate::slices::{Region, Slice, Slices, entry_of, region_of};

/// How a page is read at this moment.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Reading {
    /// It was never written to, or was returned.
    Zeros,
    /// The faster way: no other process maps it.
    Unshared,
    Plain,
}

/// The pages of one slice.
struct Pages<'a> {
    memory: &'a LiveMemory,
    slices: &'a Slices,
    slice: &'a Slice,
    may_pin: bool,
    /// The entries last looked up.
    region: Option<(u64, Region)>,
}

impl Pages<'_> {
    /// How the bytes at `at` are read, and up to where, before `end`, others are read in the same
    /// way.
    fn alike(
        &mut self,
        files: &MappedFiles,
        at: RemoteAddr,
        end: RemoteAddr,
    ) -> Result<(RemoteAddr, Reading), ReadError> {
        let first = self.reading(files, at)?;
        let mut next = at.align_down(PAGE_SIZE);
        loop {
            next = next.checked_add(PAGE_SIZE).unwrap_or(end);
            if next >= end {
                return Ok((end, first));
            }
            if self.reading(files, next) != Ok(first) {
                return Ok((next, first));
            }
        }
    }

    /// How the page of `at` is read; `files` are the files it may belong to.
    fn reading(&mut self, files: &MappedFiles, at: RemoteAddr) -> Result<Reading, ReadError> {
        let entry = self.entry(at)?;
        if entry.is_swapped() {
            return Err(ReadError::Swapped(at));
        }
        if !entry.is_present() {
            return match self.slices.is_mapped(self.slice, at)? {
                true => Ok(Reading::Zeros),
                false => Err(ReadError::Unmapped(at)),
            };
        }
        let file = files.iter().find(|(file, _)| file.contains(at));
        let may_not_answer = match file {
            Some((_, Answers::Always)) => false,
            Some((_, Answers::Never)) => true,
            // A file mapped since the last look was not examined.
            Some((_, Answers::UnlessCopied)) | None => entry.is_file(),
        };
        if may_not_answer {
            return Err(ReadError::NotRead(at));
        }
        Ok(match entry.is_exclusive() && !entry.is_file() {
            true if self.may_pin => Reading::Unshared,
            _ => Reading::Plain,
        })
    }

    fn entry(&mut self, at: RemoteAddr) -> Result<Entry, ReadError> {
        let number = region_of(at);
        if let Some((known, region)) = &self.region
            && *known == number
        {
            return Ok(entry_of(region, at));
        }
        let pagemap = self.memory.pagemap.as_deref();
        let pagemap = pagemap.ok_or(ReadError::NotRead(at))?;
        let region = self.slice.region(pagemap, at.align_down(PAGE_SIZE))?;
        let entry = entry_of(&region, at);
        self.region = Some((number, region));
        Ok(entry)
    }
}

impl LiveMemory {
    /// Reads present memory, all of it within one slice. Pages without memory are zeros.
    pub(super) fn read_in_slice(
        &self,
        of: &(Pid, Arc<Slices>),
        addr: RemoteAddr,
        buf: &mut [u8],
    ) -> Result<(), ReadError> {
        let range = AddrRange::with_len(addr, buf.len() as u64).ok_or(ReadError::Unmapped(addr))?;
        let files = self.files_in(range)?;
        of.1.read(|slice| match slice.stands() {
            true => self.read_pages(of, slice, &files, range, buf),
            false => self.read_running(addr, buf),
        })
    }

    /// Reads `range` while the target is stopped.
    fn read_pages(
        &self,
        (pid, slices): &(Pid, Arc<Slices>),
        slice: &Slice,
        files: &MappedFiles,
        range: AddrRange,
        buf: &mut [u8],
    ) -> Result<(), ReadError> {
        let mut pages = self.pages(slices, slice);
        let mut at = range.start();
        let mut rest = buf;
        while at < range.end() {
            let (end, how) = pages.alike(files, at, range.end())?;
            let (part, others) = rest.split_at_mut((end.get() - at.get()) as usize);
            match how {
                Reading::Zeros => part.fill(0),
                Reading::Unshared => self.read_pinned(*pid, at, part)?,
                Reading::Plain => self.read_unchecked(at, part)?,
            }
            (at, rest) = (end, others);
        }
        Ok(())
    }

    /// Reads present memory, in the current slice or while the target runs.
    pub(super) fn read_between_slices(
        &self,
        of: &(Pid, Arc<Slices>),
        addr: RemoteAddr,
        buf: &mut [u8],
    ) -> Result<(), ReadError> {
        let range = AddrRange::with_len(addr, buf.len() as u64).ok_or(ReadError::Unmapped(addr))?;
        let files = self.files_in(range)?;
        let buf = RefCell::new(buf);
        of.1.read_now(
            |slice| self.read_pages(of, slice, &files, range, &mut buf.borrow_mut()),
            || {
                let mut buf = buf.borrow_mut();
                let read = self.read_running(addr, &mut buf);
                if read.is_ok() {
                    of.1.count_running(buf.len() as u64);
                }
                read
            },
        )
        // Whether a page that is not there is zeros, or of a file, is known in a slice alone.
        .or_else(|error| match error {
            ReadError::NotRead(_) => self.read_in_slice(of, addr, &mut buf.borrow_mut()),
            error => Err(error),
        })
    }

    /// Reads pieces: each within one slice, and as many as possible within the same.
    pub(super) fn read_scattered_in_slices<const N: usize>(
        &self,
        of: &(Pid, Arc<Slices>),
        addrs: &[RemoteAddr],
        out: &mut Vec<Option<[u8; N]>>,
    ) {
        out.clear();
        let mut buffer = vec![0; N * addrs.len().min(MAX_PIECES)];
        for addrs in addrs.chunks(MAX_PIECES) {
            let many = match self.is_out_of_time() {
                true => 0,
                false => self.read_pieces_in_slice(of, addrs, N, &mut buffer),
            };
            let whole = buffer.as_chunks::<N>().0[..many].iter();
            out.extend(whole.map(|&piece| Some(piece)));
            // If one of them prevents reading the rest together, they are read one by one.
            out.extend(addrs[many..].iter().map(|&addr| {
                let mut piece = [0; N];
                let read = self.check_time();
                let read = read.and_then(|()| self.read_in_slice(of, addr, &mut piece));
                read.is_ok().then_some(piece)
            }));
        }
    }

    /// Reads pieces of `len` bytes in one slice, if all of them may be pinned; returns how many
    /// were read.
    fn read_pieces_in_slice(
        &self,
        (pid, slices): &(Pid, Arc<Slices>),
        addrs: &[RemoteAddr],
        len: usize,
        buffer: &mut [u8],
    ) -> usize {
        let no_files = MappedFiles::new();
        slices.read(|slice| {
            let mut pages = self.pages(slices, slice);
            let mut is_unshared = |addr: &RemoteAddr| {
                let end = addr.checked_add(len as u64);
                let alike = end.and_then(|end| {
                    let (alike, how) = pages.alike(&no_files, *addr, end).ok()?;
                    Some(alike == end && how == Reading::Unshared)
                });
                alike == Some(true) && self.files_at(*addr, len)
            };
            if !slice.stands() || !addrs.iter().all(&mut is_unshared) {
                return 0;
            }
            let pieces = addrs.iter().map(|addr| RemoteIoVec {
                base: addr.get() as usize,
                len,
            });
            let pieces: Vec<_> = pieces.collect();
            let read = self.read_pieces(*pid, &mut buffer[..len * pieces.len()], &pieces);
            read.unwrap_or(0) / len
        })
    }

    fn pages<'a>(&'a self, slices: &'a Slices, slice: &'a Slice) -> Pages<'a> {
        Pages {
            memory: self,
            slices,
            slice,
            may_pin: slice.may_pin(),
            region: None,
        }
    }

    /// Whether no file is mapped at these bytes.
    fn files_at(&self, addr: RemoteAddr, len: usize) -> bool {
        let range = AddrRange::with_len(addr, len as u64);
        let files = range.and_then(|range| self.files_in(range).ok());
        files.is_some_and(|files| files.is_empty())
    }

    /// The files that are mapped in this range.
    fn files_in(&self, range: AddrRange) -> Result<MappedFiles, ReadError> {
        let known = self.files.read().unwrap_or_else(PoisonError::into_inner);
        Ok(files_within(known.as_deref(), range)?.copied().collect())
    }

    /// Reads pages that no other process maps, of a stopped process.
    fn read_pinned(&self, pid: Pid, at: RemoteAddr, buf: &mut [u8]) -> Result<(), ReadError> {
        let whole = RemoteIoVec {
            base: at.get() as usize,
            len: buf.len(),
        };
        let read = self.read_pieces(pid, buf, &[whole]).unwrap_or(0);
        match (at.checked_add(read as u64), buf.get_mut(read..)) {
            (Some(rest), Some(left)) if !left.is_empty() => self.read_unchecked(rest, left),
            _ => Ok(()),
        }
    }
}
