//! Parses `/proc/PID/maps` into mappings.
//!
//! We have our own parser because the `procfs` crate reads lines as UTF-8 and rejects the whole
//! file if the name of one mapped file is not UTF-8, and a target may map any file.
//!
//! A target can have 65,530 mappings, each with a name of 4 KiB. So lines are read one by one, a name is kept once, and
//! all of it has limits; what is beyond them is in [`Cut`].

use std::collections::HashSet;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::residency::{Mapping, MappingKind};

use super::kernel_file::{Lines, each_line};
use super::proc_dir::ProcDir;
use super::tmpfs::Device;

/// Bytes of a list of mappings that are read. The kernel's default limit is 65,530 mappings a process
/// (`vm.max_map_count`) of about 100 bytes each; hosts that raise it go to some hundred thousands.
pub(super) const MAX_BYTES: u64 = 64 << 20;
/// The same of `smaps`, which has a kibibyte for each mapping.
const MAX_ACCOUNT_BYTES: u64 = 512 << 20;
/// Such a list is read for no longer.
const READ_FOR: Duration = Duration::from_secs(5);
/// Bytes of different names that are kept.
const MAX_NAMES: usize = 32 << 20;
/// Bytes that the names of all mappings have together, each counted as often as it is there: as much is written to a
/// saved session.
const MAX_ALL_NAMES: usize = 64 << 20;
/// What stands for a name that is not kept.
const NOT_KEPT: &str = "(its name is not kept)";

/// The mappings of a process.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// Ascending. It does not say whether files are in memory.
    pub(super) mappings: Vec<Mapping>,
    pub(super) cut: Cut,
}

/// What limits left out of a list of mappings.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Cut {
    /// So many mappings were read, and more follow.
    pub(super) after: Option<usize>,
    /// The names of so many mappings were not kept.
    pub(super) names: u64,
}

impl Cut {
    /// In one sentence; `None` if nothing was left out.
    pub(super) fn what(self) -> Option<String> {
        let list = self.after.map(|after| {
            format!("its list of mappings is too long to be read: what follows the first {after} is unknown")
        });
        let names = (self.names > 0).then(|| {
            format!(
                "the names of its mappings are too long to be kept: those of {} are unknown, so that an allocator or a \
                 Python in them may not be recognised",
                self.names
            )
        });
        match (list, names) {
            (Some(list), Some(names)) => Some(format!("{list}; {names}")),
            (list, names) => list.or(names),
        }
    }
}

/// The mappings of a process.
///
/// # Errors
/// When they cannot be read: it has exited, or the kernel does not permit it.
pub(super) fn read(dir: &ProcDir) -> io::Result<Listed> {
    let listed = listed(dir.file("maps")?, Some(Instant::now() + READ_FOR));
    listed.map_err(|error| dir.why(error))
}

/// The mappings in a `maps` file. Lines that are not mappings are left out.
fn listed(maps: impl Read, deadline: Option<Instant>) -> io::Result<Listed> {
    let (mut mappings, mut names) = (Vec::new(), Names::default());
    let lines = each_line(maps, MAX_BYTES, deadline, |line| {
        mappings.extend(parse_line(line, &mut names));
        ControlFlow::Continue(())
    })?;
    let cut = Cut {
        after: (lines == Lines::Cut).then_some(mappings.len()),
        names: names.left_out,
    };
    Ok(Listed { mappings, cut })
}

/// The mapped ranges of a process, as far as they are read.
///
/// # Errors
/// When they cannot be read: it has exited, or the kernel does not permit it.
pub(super) fn ranges(dir: &ProcDir) -> io::Result<Vec<AddrRange>> {
    let mut ranges = Vec::new();
    let deadline = Some(Instant::now() + READ_FOR);
    let read = each_line(dir.file("maps")?, MAX_BYTES, deadline, |line| {
        ranges.extend(range_of(line));
        ControlFlow::Continue(())
    });
    read.map_err(|error| dir.why(error))?;
    Ok(ranges)
}

/// Gives each line of a process's `smaps`, as far as it is read.
///
/// # Errors
/// When it cannot be read: it has exited, or the kernel does not permit it.
pub(super) fn each_account_line(dir: &ProcDir, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let deadline = Some(Instant::now() + READ_FOR);
    let read = each_line(dir.file("smaps")?, MAX_ACCOUNT_BYTES, deadline, |line| {
        each(line);
        ControlFlow::Continue(())
    });
    read.map_err(|error| dir.why(error))?;
    Ok(())
}

/// The device that a mapping's file is of.
pub(super) fn device(mapping: &Mapping) -> Device {
    ((mapping.device >> 32) as u32, mapping.device as u32)
}

/// The range of the mapping that a line of `maps` or `smaps` is about, if it is the first line of one.
pub(super) fn range_of(line: &[u8]) -> Option<AddrRange> {
    let word = line.split(|&byte| byte == b' ').next()?;
    parse_range(std::str::from_utf8(word).ok()?)
}

/// One line, as printed by `show_map_vma` in `fs/proc/task_mmu.c`: `start-end perms offset
/// major:minor inode   name`.
fn parse_line(line: &[u8], names: &mut Names) -> Option<Mapping> {
    let mut rest = line;
    let mut word = || {
        rest = rest.trim_ascii_start();
        let end = rest.iter().position(|&byte| byte == b' ');
        let (word, tail) = rest.split_at(end.unwrap_or(rest.len()));
        rest = tail;
        std::str::from_utf8(word).ok()
    };
    let range = parse_range(word()?)?;
    let permissions = word()?.as_bytes();
    let &[read, write, execute, sharing] = permissions else {
        return None;
    };
    let offset = u64::from_str_radix(word()?, 16).ok()?;
    let device = parse_device(word()?)?;
    let inode = word()?.parse().ok()?;
    let shared = sharing == b's';
    Some(Mapping {
        range,
        kind: names.kind(rest.trim_ascii_start(), shared),
        read: read == b'r',
        write: write == b'w',
        execute: execute == b'x',
        shared,
        is_tmpfs: false,
        offset,
        inode,
        device: u64::from(device.0) << 32 | u64::from(device.1),
    })
}

fn parse_device(word: &str) -> Option<Device> {
    let (major, minor) = word.split_once(':')?;
    let number = |digits| u32::from_str_radix(digits, 16).ok();
    Some((number(major)?, number(minor)?))
}

fn parse_range(word: &str) -> Option<AddrRange> {
    let (start, end) = word.split_once('-')?;
    let address = |digits| u64::from_str_radix(digits, 16).ok().map(RemoteAddr::new);
    AddrRange::new(address(start)?, address(end)?)
}

/// The names in one list of mappings, each kept once.
#[derive(Default)]
struct Names {
    known: HashSet<Arc<str>>,
    /// Bytes of those.
    bytes: usize,
    /// Bytes of the names of all mappings so far.
    all_bytes: usize,
    /// Mappings whose names were not kept.
    left_out: u64,
    /// The last line's name and whether its mapping is shared, and what that is.
    last: Option<(Vec<u8>, bool, MappingKind)>,
}

impl Names {
    /// The kind of a mapping with this name, which need not be UTF-8.
    fn kind(&mut self, name: &[u8], shared: bool) -> MappingKind {
        let last = self.last.take();
        let last = last.filter(|(of, was_shared, _)| of == name && *was_shared == shared);
        let (name, _, mut kind) = last.unwrap_or_else(|| {
            let kind = kind(&String::from_utf8_lossy(name), shared);
            (name.to_owned(), shared, kind)
        });
        if let MappingKind::NamedAnonymous(text)
        | MappingKind::File(text)
        | MappingKind::SharedAnonymous(text)
        | MappingKind::Special(text) = &mut kind
        {
            // Those of following lines share it.
            *text = self.known(text);
            let is_kept = self.is_kept(text);
            self.last = Some((name, shared, kind.clone()));
            if !is_kept {
                self.left_out += 1;
                return without_name(kind);
            }
        }
        kind
    }

    /// The same name as it is known already.
    fn known(&self, name: &Arc<str>) -> Arc<str> {
        Arc::clone(self.known.get(name).unwrap_or(name))
    }

    /// Keeps a name, if there is room for it.
    fn is_kept(&mut self, name: &Arc<str>) -> bool {
        let is_new = !self.known.contains(name);
        let bytes = self.bytes + if is_new { name.len() } else { 0 };
        let all_bytes = self.all_bytes + name.len();
        if bytes > MAX_NAMES || all_bytes > MAX_ALL_NAMES {
            return false;
        }
        (self.bytes, self.all_bytes) = (bytes, all_bytes);
        if is_new {
            self.known.insert(Arc::clone(name));
        }
        true
    }
}

/// The kind of a mapping whose name is not kept.
fn without_name(kind: MappingKind) -> MappingKind {
    let name = NOT_KEPT.into();
    match kind {
        MappingKind::NamedAnonymous(_) => MappingKind::NamedAnonymous(name),
        MappingKind::File(_) => MappingKind::File(name),
        MappingKind::SharedAnonymous(_) => MappingKind::SharedAnonymous(name),
        MappingKind::Special(_) => MappingKind::Special(name),
        MappingKind::Brk | MappingKind::Stack | MappingKind::Anonymous => kind,
    }
}

/// The kind of a mapping, by its name as printed by the kernel.
pub(super) fn kind(name: &str, shared: bool) -> MappingKind {
    if let Some(special) = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        return match special.split_once(':') {
            Some(("anon", given)) => MappingKind::NamedAnonymous(given.into()),
            Some(("anon_shmem", given)) => MappingKind::SharedAnonymous(given.into()),
            _ if special == "heap" => MappingKind::Brk,
            _ if special == "stack" => MappingKind::Stack,
            _ => MappingKind::Special(name.into()),
        };
    }
    let path = name.strip_suffix(" (deleted)").unwrap_or(name);
    // A private mapping of these only has pages of its own: plain anonymous memory.
    let anonymous = matches!(path, "" | "/dev/zero" | "/anon_hugepage");
    match path {
        _ if anonymous && !shared => MappingKind::Anonymous,
        _ if anonymous || path.starts_with("/memfd:") || path.starts_with("/SYSV") => {
            MappingKind::SharedAnonymous(path.into())
        }
        _ if path.starts_with('/') => MappingKind::File(path.into()),
        _ => MappingKind::Special(path.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_kind() {
        let text = "\
00400000-00401000 r-xp 00001000 fe:00 42                                 /usr/bin/python3.11
00e00000-00e21000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0000021000 rw-p 00000000 00:00 0 
7f0000021000-7f0000022000 rw-s 00000000 00:01 7                          /dev/zero (deleted)
7f0000022000-7f0000023000 rw-p 00000000 00:01 7                          /dev/zero
7f0000023000-7f0000024000 r--p 00000000 fe:00 43                         /srv/a b\\012c (deleted)
7f0000024000-7f0000025000 rw-p 00000000 00:00 0                          [anon:glibc: malloc]
7f0000025000-7f0000026000 rw-s 00000000 00:01 9                          /memfd:x (deleted)
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
7ffd00030000-7ffd00032000 r-xp 00000000 00:00 0                          [vdso]
nonsense
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";
        let listed = listed(text.as_bytes(), None).expect("bytes");
        assert_eq!(listed.cut.what(), None);
        let kinds: Vec<_> = listed.mappings.into_iter().map(|m| m.kind).collect();
        assert_eq!(
            kinds,
            [
                MappingKind::File("/usr/bin/python3.11".into()),
                MappingKind::Brk,
                MappingKind::Anonymous,
                MappingKind::SharedAnonymous("/dev/zero".into()),
                MappingKind::Anonymous,
                MappingKind::File("/srv/a b\\012c".into()),
                MappingKind::NamedAnonymous("glibc: malloc".into()),
                MappingKind::SharedAnonymous("/memfd:x".into()),
                MappingKind::Stack,
                MappingKind::Special("[vdso]".into()),
                MappingKind::Special("[vsyscall]".into()),
            ]
        );
    }

    /// A list of `count` mappings, each with the name that `name` gives for its number.
    fn list(count: usize, name: impl Fn(usize) -> Vec<u8>) -> Listed {
        let mut text = Vec::new();
        for number in 1..=count {
            let start = number << 16;
            let line = format!("{start:x}-{:x} r--p 00000000 fe:00 42 ", start + 4096);
            text.extend(
                line.into_bytes()
                    .into_iter()
                    .chain(name(number))
                    .chain([b'\n']),
            );
        }
        listed(&text[..], None).expect("bytes")
    }

    #[test]
    fn a_name_is_kept_once_and_need_not_be_utf_8() {
        let name = |number| match number % 2 {
            0 => b"/a\xff".to_vec(),
            _ => b"/b".to_vec(),
        };
        let all = list(6, name).mappings;
        let names: Vec<_> = all
            .iter()
            .map(|mapping| match &mapping.kind {
                MappingKind::File(name) => name,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!((&**names[0], &**names[1]), ("/b", "/a\u{fffd}"));
        let is_one = |a: &Arc<str>, b: &Arc<str>| Arc::ptr_eq(a, b);
        assert!(is_one(names[0], names[4]) && is_one(names[1], names[5]));
    }

    #[test]
    fn names_beyond_the_limits_are_not_kept_and_that_is_said() {
        const LONG: usize = 4096;
        let long =
            |number: usize| [b"/".to_vec(), number.to_string().into(), vec![0xff; LONG]].concat();
        // As many as are kept of one name, and of different ones: three bytes stand for each.
        for (count, kept, name) in [
            (
                10_000,
                MAX_ALL_NAMES / (3 * LONG + 2),
                &(|_| long(1)) as &dyn Fn(usize) -> Vec<u8>,
            ),
            (5_000, MAX_NAMES / (3 * LONG + 5), &long),
        ] {
            let listed = list(count, name);
            assert_eq!((listed.mappings.len(), listed.cut.after), (count, None));
            let left_out = count - listed.cut.names as usize;
            assert!(left_out.abs_diff(kept) < 10, "{left_out} {kept}");
            let said = listed.cut.what().expect("a sentence");
            assert!(
                said.contains(&format!("those of {} are unknown", listed.cut.names)),
                "{said}"
            );
            let last = listed.mappings.last().expect("many");
            assert_eq!(last.kind, MappingKind::File(NOT_KEPT.into()));
        }
    }

    #[test]
    fn a_list_beyond_the_limit_is_cut_and_that_is_said() {
        let listed = list(20_000, |_| vec![b'x'; 4096]);
        let expected = MAX_BYTES / 4140;
        let read = listed.mappings.len();
        assert_eq!(listed.cut.after, Some(read));
        assert!((read as u64).abs_diff(expected) < 200, "{read} {expected}");
        let said = listed.cut.what().expect("a sentence");
        assert!(said.contains(&format!("the first {read}")), "{said}");
    }

    #[test]
    fn one_line_in_full() {
        let mapping = parse_line(
            b"7f5e40000000-7f5e40021000 r-xs 00001000 fe:00 4242                       /lib/libc.so.6",
            &mut Names::default(),
        );
        let expected = Mapping {
            range: AddrRange::new(
                RemoteAddr::new(0x7f5e_4000_0000),
                RemoteAddr::new(0x7f5e_4002_1000),
            )
            .unwrap_or_default(),
            kind: MappingKind::File("/lib/libc.so.6".into()),
            read: true,
            write: false,
            execute: true,
            shared: true,
            is_tmpfs: false,
            offset: 0x1000,
            inode: 4242,
            device: 0xfe << 32,
        };
        assert_eq!(device(&expected), (0xfe, 0));
        assert_eq!(mapping, Some(expected));
    }
}
