//! Where the dynamic loader finds a library given by its bare name: in its cache, then in its
//! default directories. Never in the current directory or in `LD_LIBRARY_PATH`: players get
//! neither.

use std::fs;
use std::path::{Path, PathBuf};

use profiler_target::is_file_below;

/// The loader's cache, which `ldconfig` writes (glibc, `sysdeps/generic/dl-cache.h`).
const CACHE: &str = "/etc/ld.so.cache";
/// The folders that loaders search by themselves, of the distributions there are.
const FOLDERS: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];
/// How the cache begins, alone or after one of the old form.
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// The length of its head: the name, the number of entries, the bytes of texts, flags and reserved
/// ones.
const HEAD: usize = 48;
/// Bytes of an entry: flags, the places of the name and of the path, a version, a mask of hardware.
const ENTRY: usize = 24;
/// Of an entry for this processor (`FLAG_ELF_LIBC6` with `FLAG_X8664_LIB64` or `FLAG_AARCH64_LIB64`).
#[cfg(target_arch = "x86_64")]
const OURS: u32 = 0x0303;
#[cfg(not(target_arch = "x86_64"))]
const OURS: u32 = 0x0a03;
/// No cache is longer.
const LONGEST: u64 = 64 << 20;

/// The library `name` below another root directory, only in the directories that loaders search by
/// themselves. What is there was put there by others, and on a file system that may not answer.
pub(super) fn find_below(root: &Path, name: &str) -> Option<PathBuf> {
    let mut all = FOLDERS.iter().map(|folder| Path::new(folder).join(name));
    all.find(|path| is_file_below(root, path))
}

/// The library `name`.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let is_sound = fs::metadata(CACHE).is_ok_and(|cache| cache.len() <= LONGEST);
    let cache = is_sound.then(|| fs::read(CACHE).ok()).flatten();
    let cached = cache.and_then(|cache| in_cache(&cache, name));
    let mut all = cached
        .into_iter()
        .chain(FOLDERS.map(|folder| Path::new(folder).join(name)));
    all.find(|path| path.is_absolute() && path.is_file())
}

/// The path of a library by the cache's own bytes.
fn in_cache(bytes: &[u8], name: &str) -> Option<PathBuf> {
    let begins = bytes.windows(MAGIC.len()).position(|at| at == MAGIC)?;
    // Offsets are relative to this.
    let cache = &bytes[begins..];
    let word = |at: usize| {
        let bytes = cache.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let text = |at: u32| cache.get(at as usize..)?.split(|byte| *byte == 0).next();
    // It claims a number of entries; there cannot be more than there is room for.
    let room = cache.len().saturating_sub(HEAD) / ENTRY;
    let entries = room.min(word(MAGIC.len())? as usize);
    (0..entries).find_map(|number| {
        let at = HEAD + number * ENTRY;
        let is_it = word(at)? == OURS && text(word(at + 4)?)? == name.as_bytes();
        let path = is_it.then(|| text(word(at + 8)?)).flatten()?;
        Some(PathBuf::from(std::str::from_utf8(path).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_is_found_where_the_loader_finds_it() {
        let maps = fs::read_to_string("/proc/self/maps").expect("maps");
        let mut paths = maps
            .lines()
            .filter_map(|line| line.split_whitespace().nth(5));
        let loaded = paths.find(|path| path.ends_with("/libc.so.6"));
        let found = find("libc.so.6").expect("there is one");
        let real = found.canonicalize().expect("it is there");
        assert_eq!(Some(real.as_path()), loaded.map(Path::new));
    }

    #[test]
    fn no_bytes_of_a_cache_are_trusted() {
        let cache = fs::read(CACHE).expect("this host has one");
        assert!(in_cache(&cache, "libc.so.6").is_some());
        for cut in [0, MAGIC.len(), HEAD, HEAD + ENTRY + 5, cache.len() / 2] {
            let _ = in_cache(&cache[..cut], "libc.so.6");
        }
        let mut all_ones = cache.clone();
        all_ones[MAGIC.len()..].fill(0xff);
        assert_eq!(in_cache(&all_ones, "libc.so.6"), None);
    }
}
