//! Parses `/proc/PID/maps` into mappings.
//!
//! We have our own parser because the `procfs` crate reads lines as UTF-8 and rejects the whole
//! file if the name of one mapped file is not UTF-8, and a target may map any file.

use profiler_core::addr::{AddrRange, RemoteAddr};
use profiler_core::residency::{Mapping, MappingKind};

use super::tmpfs::Device;

/// The kernel's default limit is 65,530 mappings a process (`vm.max_map_count`); hosts that raise
/// it go to a few millions.
const MAX_MAPPINGS: usize = 4 << 20;

/// The mappings in the text of a `maps` file, ascending. Lines that are not mappings are left out.
/// It does not say whether files are in memory.
pub(super) fn parse(text: &str) -> Vec<Mapping> {
    let lines = text.lines().take(MAX_MAPPINGS);
    lines.filter_map(parse_line).collect()
}

/// The device that a mapping's file is of.
pub(super) fn device(mapping: &Mapping) -> Device {
    ((mapping.device >> 32) as u32, mapping.device as u32)
}

/// One line, as printed by `show_map_vma` in `fs/proc/task_mmu.c`: `start-end perms offset
/// major:minor inode   name`.
pub(super) fn parse_line(line: &str) -> Option<Mapping> {
    let mut rest = line;
    let mut word = || {
        rest = rest.trim_start_matches(' ');
        let (word, tail) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = tail;
        word
    };
    let range = parse_range(word())?;
    let permissions = word().as_bytes();
    let &[read, write, execute, sharing] = permissions else {
        return None;
    };
    let offset = u64::from_str_radix(word(), 16).ok()?;
    let device = parse_device(word())?;
    let inode = word().parse().ok()?;
    let shared = sharing == b's';
    Some(Mapping {
        range,
        kind: kind(rest.trim_start_matches(' '), shared),
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

/// The kind of a mapping, by its name as printed by the kernel.
pub(super) fn kind(name: &str, shared: bool) -> MappingKind {
    if let Some(special) = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        return match special.split_once(':') {
            Some(("anon", given)) => MappingKind::NamedAnonymous(given.to_owned()),
            Some(("anon_shmem", given)) => MappingKind::SharedAnonymous(given.to_owned()),
            _ if special == "heap" => MappingKind::Brk,
            _ if special == "stack" => MappingKind::Stack,
            _ => MappingKind::Special(name.to_owned()),
        };
    }
    let path = name.strip_suffix(" (deleted)").unwrap_or(name);
    // A private mapping of these only has pages of its own: plain anonymous memory.
    let anonymous = matches!(path, "" | "/dev/zero" | "/anon_hugepage");
    match path {
        _ if anonymous && !shared => MappingKind::Anonymous,
        _ if anonymous || path.starts_with("/memfd:") || path.starts_with("/SYSV") => {
            MappingKind::SharedAnonymous(path.to_owned())
        }
        _ if path.starts_with('/') => MappingKind::File(path.to_owned()),
        _ => MappingKind::Special(path.to_owned()),
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
        let kinds: Vec<_> = parse(text).into_iter().map(|m| m.kind).collect();
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

    #[test]
    fn one_line_in_full() {
        let mapping = parse_line(
            "7f5e40000000-7f5e40021000 r-xs 00001000 fe:00 4242                       /lib/libc.so.6",
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
