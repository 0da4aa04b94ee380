//! Allocator settings accepted from a recording: those whose name is in a row of [`ROWS`] and whose
//! value has the form that the row requires.

use profiler_core::allocator::{Allocator, AllocatorRow, GlibcSetting, ROWS, ValueForm};

/// The kept part of a variable.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Kept {
    /// The settings of known names and forms; empty when there are none.
    pub(super) value: String,
    /// The others.
    pub(super) rest: Option<String>,
}

/// The kept part of the variable `name`.
pub(super) fn kept(name: &str, value: &str) -> Kept {
    let whole = |is_kept: bool| match is_kept {
        true => Kept {
            value: value.to_owned(),
            rest: None,
        },
        false => Kept {
            value: String::new(),
            rest: Some(value.to_owned()),
        },
    };
    for AllocatorRow { settings, .. } in ROWS {
        let is_of_form = |value: &str| match settings.form {
            ValueForm::Number => is_number(value),
            ValueForm::Plain => is_plain(value),
            ValueForm::Word => is_word(value),
        };
        if let Some(list) = settings.list.as_ref().filter(|list| list.variable == name) {
            return members(value, list.separator, |one| {
                let setting = one.split_once(list.assignment);
                setting.is_some_and(|(name, value)| {
                    settings.has(name) && is_of_form(value) && !takes_pool(name, value)
                })
            });
        }
        if settings.is_variable_of_one(name) {
            return whole(is_of_form(value));
        }
    }
    whole(false)
}

/// Keeps the members of a list that are known.
fn members(value: &str, separator: char, is_known: impl Fn(&str) -> bool) -> Kept {
    let members = value.split(separator).filter(|one| !one.is_empty());
    let (known, others): (Vec<&str>, Vec<&str>) = members.partition(|one| is_known(one));
    let mut between = [0; 4];
    let between: &str = separator.encode_utf8(&mut between);
    Kept {
        value: known.join(between),
        rest: (!others.is_empty()).then(|| others.join(between)),
    }
}

/// Whether a setting of glibc's takes huge pages from the host's pool, which others may have been
/// promised: `hugetlb` other than 0, and 1, which is advice (`malloc/malloc.c`, `ptmalloc_init`).
fn takes_pool(name: &str, value: &str) -> bool {
    let tunable = name.strip_prefix(Allocator::Glibc.row().settings.prefix);
    let is_hugetlb = tunable.and_then(GlibcSetting::of_tunable) == Some(GlibcSetting::Hugetlb);
    is_hugetlb && !["0", "1"].contains(&value)
}

/// No setting is longer.
const LONGEST: usize = 128;

/// A number: decimal, octal or hexadecimal, as `strtoul` reads it.
fn is_number(value: &str) -> bool {
    let value = value.strip_prefix('-').unwrap_or(value);
    let digits = value.strip_prefix("0x").unwrap_or(value);
    let of_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    !digits.is_empty() && value.len() <= LONGEST && of_digits
}

/// A number with a unit, a word, or a list of them: nothing that could contain a path.
fn is_plain(value: &str) -> bool {
    let is_one = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.|:".contains(&byte);
    !value.is_empty() && value.len() <= LONGEST && value.bytes().all(is_one)
}

fn is_word(value: &str) -> bool {
    let is_one = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    !value.is_empty() && value.len() <= LONGEST && value.bytes().all(is_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of(name: &str, value: &str) -> bool {
        let kept = kept(name, value);
        kept.value == value && kept.rest.is_none()
    }

    #[test]
    fn settings_that_recordings_have_are_kept() {
        for (name, value) in [
            ("MALLOC_ARENA_MAX", "2"),
            ("MALLOC_MMAP_THRESHOLD_", "0x20000"),
            (
                "GLIBC_TUNABLES",
                "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1",
            ),
            (
                "MALLOC_CONF",
                "background_thread:true,dirty_decay_ms:-1,narenas:4",
            ),
            ("MALLOC_CONF", "slab_sizes:1-4096:17|100-200:1,dss:primary"),
            ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
            ("MIMALLOC_PURGE_DELAY", "0"),
            ("MIMALLOC_ARENA_RESERVE", "1GiB"),
            ("TCMALLOC_RELEASE_RATE", "2.5"),
            ("PYTHONMALLOC", "malloc"),
        ] {
            assert!(all_of(name, value), "{name}={value}");
        }
    }

    #[test]
    fn what_has_another_name_or_form_is_not() {
        for (name, value) in [
            ("MALLOC_ARENA_MAX", "2;sh"),
            ("MALLOC_ARENA_MAX", ""),
            ("MALLOC_TRACE", "trace"),
            ("MALLOC_CONF", "prof_prefix:jeprof"),
            ("MALLOC_CONF", "stats_print:true"),
            ("MALLOC_CONF", "narenas:/x"),
            ("MIMALLOC_VERBOSE", "1"),
            ("MIMALLOC_RESERVE_HUGE_OS_PAGES", "9999"),
            ("MIMALLOC_ALLOW_LARGE_OS_PAGES", "1"),
            ("MIMALLOC_LARGE_OS_PAGES", "1"),
            ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=2"),
            ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0x2"),
            ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1073741824"),
            ("MIMALLOC_PURGE_DELAY", "$(id)"),
            ("TCMALLOC_MEMFS_MALLOC_PATH", "x"),
            ("HEAPPROFILE", "x"),
            ("CPUPROFILE", "x"),
            ("LD_AUDIT", "x"),
            ("GCONV_PATH", "x"),
            ("GLIBC_TUNABLES", "glibc.malloc.arena_max=x"),
            ("GLIBC_TUNABLES", "glibc.mem.tagging=1"),
        ] {
            assert_eq!(kept(name, value).value, "", "{name}={value}");
        }
    }
}
