//! The settings in force against glibc's defaults and against what the environment requests.
//!
//! Sources: `elf/dl-tunables.list` (names and the environment variables that they replace) and the
//! `do_set_*` functions of `malloc/malloc.c`, 2.17 to 2.43.

use super::state::MallocPar;
use crate::allocator::MMAP_THRESHOLDS;
use crate::heap::RequestedSetting;

/// Environment variable, tunable under `glibc.malloc.`, and the setting that shows its effect;
/// `None` where it shows nowhere that is read.
const NAMES: [(&str, &str, Option<&str>); 13] = [
    ("MALLOC_ARENA_MAX", "arena_max", Some("arena_max")),
    ("MALLOC_ARENA_TEST", "arena_test", Some("arena_test")),
    (
        "MALLOC_MMAP_THRESHOLD_",
        "mmap_threshold",
        Some("mmap_threshold"),
    ),
    ("MALLOC_MMAP_MAX_", "mmap_max", Some("n_mmaps_max")),
    (
        "MALLOC_TRIM_THRESHOLD_",
        "trim_threshold",
        Some("trim_threshold"),
    ),
    ("MALLOC_TOP_PAD_", "top_pad", Some("top_pad")),
    ("MALLOC_PERTURB_", "perturb", None),
    ("MALLOC_CHECK_", "check", None),
    ("", "mxfast", None),
    ("", "tcache_count", Some("tcache_count")),
    ("", "tcache_max", Some("tcache_max_bytes")),
    ("", "tcache_unsorted_limit", Some("tcache_unsorted_limit")),
    ("", "hugetlb", Some("hugetlb")),
];

/// The defaults of a release, by the names of [`MallocPar::settings`].
pub(super) fn defaults((major, minor): (u32, u32)) -> Vec<(String, String)> {
    let since = |minor_then| (major, minor) >= (2, minor_then);
    let mut defaults = vec![
        ("trim_threshold", 128 << 10),
        ("top_pad", 128 << 10),
        ("mmap_threshold", 128 << 10),
        // NARENAS_FROM_NCORES (1).
        ("arena_test", 8),
        ("arena_max", 0),
        ("n_mmaps_max", 65536),
        ("no_dyn_threshold", 0),
    ];
    if since(26) {
        defaults.extend([
            ("tcache_bins", 64),
            // MAX_TCACHE_SIZE; from 2.42 on MAX_TCACHE_SMALL_SIZE + 1.
            ("tcache_max_bytes", if since(42) { 1041 } else { 1032 }),
            // TCACHE_FILL_COUNT.
            ("tcache_count", if since(43) { 16 } else { 7 }),
            ("tcache_unsorted_limit", 0),
        ]);
    }
    let text = |(name, value): (&str, u64)| (name.to_owned(), value.to_string());
    defaults.into_iter().map(text).collect()
}

/// What the environment requests, each against what is in force. `environment` are entries
/// `NAME=VALUE` as the program got them.
pub(super) fn requested(
    environment: &[String],
    par: &MallocPar,
    settings: &[(String, String)],
) -> Vec<RequestedSetting> {
    let mut requested = Vec::new();
    for entry in environment {
        let Some((variable, value)) = entry.split_once('=') else {
            continue;
        };
        if variable == "GLIBC_TUNABLES" {
            for tunable in value.split(':') {
                let Some((name, value)) = tunable.split_once('=') else {
                    continue;
                };
                if let Some(name) = name.strip_prefix("glibc.malloc.") {
                    let known = NAMES.iter().find(|(_, tunable, _)| *tunable == name);
                    let setting = known.map(|(.., setting)| *setting);
                    let request = format!("GLIBC_TUNABLES={tunable}");
                    requested.push(judge(request, setting, value, par, settings));
                }
            }
        } else if variable.starts_with("MALLOC_") {
            let known = NAMES.iter().find(|(name, ..)| *name == variable);
            let setting = known.map(|(.., setting)| *setting);
            requested.push(judge(entry.clone(), setting, value, par, settings));
        }
    }
    requested
}

fn judge(
    request: String,
    setting: Option<Option<&str>>,
    value: &str,
    par: &MallocPar,
    settings: &[(String, String)],
) -> RequestedSetting {
    let result = |in_force, note: String| RequestedSetting {
        request: request.clone(),
        in_force,
        note,
    };
    let Some(setting) = setting else {
        return result(Some(false), "glibc has no setting of this name".into());
    };
    let Some(setting) = setting else {
        return result(None, "its effect is not read".into());
    };
    let Some(wanted) = number(value) else {
        return result(
            Some(false),
            "the value is not a number, so it is ignored".into(),
        );
    };
    if setting == "hugetlb" {
        let now = match (par.hp_pagesize, par.thp_pagesize) {
            (0, 0) => 0,
            (0, _) => 1,
            _ => 2,
        };
        let note = format!("hugetlb mode {now} is in force");
        return result(Some((wanted.min(2)) == now), note);
    }
    let mut all = settings.iter();
    let Some((_, now)) = all.find(|(name, _)| name == setting) else {
        return result(Some(false), "this release has no such setting".into());
    };
    let in_force = match setting {
        // Kept as the largest size that is cached, rounded up in some releases.
        "tcache_max_bytes" => now
            .parse::<u64>()
            .is_ok_and(|now| now.abs_diff(wanted) <= 32),
        _ => *now == wanted.to_string(),
    };
    let note = if in_force {
        format!("{setting} is {now}")
    } else if setting == "mmap_threshold" && wanted > *MMAP_THRESHOLDS.end() {
        format!("{setting} is {now}: values above 32 MiB are refused")
    } else {
        format!(
            "{setting} is {now}: refused, out of range, or changed since by mallopt (a program \
             with file capabilities or set-user-id ignores its environment)"
        )
    };
    result(Some(in_force), note)
}

/// A number as glibc's tunables take it: decimal, octal with 0, hexadecimal with 0x.
fn number(text: &str) -> Option<u64> {
    let text = text.trim_start();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(environment: &[&str], par: &MallocPar) -> Vec<(String, Option<bool>)> {
        let environment: Vec<_> = environment.iter().map(|&entry| entry.to_owned()).collect();
        let requested = requested(&environment, par, &par.settings());
        requested
            .into_iter()
            .map(|requested| (requested.request, requested.in_force))
            .collect()
    }

    #[test]
    fn what_was_asked_for_is_compared_with_what_is_in_force() {
        let par = MallocPar {
            thresholds: [128 << 10, 128 << 10, 65536, 8, 2],
            tcache: Some([64, 1032, 0, 0]),
            ..MallocPar::default()
        };
        let environment = [
            "MALLOC_ARENA_MAX=2",
            "MALLOC_TRIM_THRESHOLD_=65536",
            "MALLOC_ARENAS=1",
            "MALLOC_PERTURB_=3",
            "GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.rtld.nns=4:glibc.malloc.mmap_threshold=0x10000",
        ];
        let expected = [
            ("MALLOC_ARENA_MAX=2", Some(true)),
            ("MALLOC_TRIM_THRESHOLD_=65536", Some(false)),
            ("MALLOC_ARENAS=1", Some(false)),
            ("MALLOC_PERTURB_=3", None),
            ("GLIBC_TUNABLES=glibc.malloc.tcache_count=0", Some(true)),
            (
                "GLIBC_TUNABLES=glibc.malloc.mmap_threshold=0x10000",
                Some(true),
            ),
        ];
        let expected = expected.map(|(text, in_force)| (text.to_owned(), in_force));
        assert_eq!(judged(&environment, &par), expected);
    }

    #[test]
    fn numbers_are_read_as_glibc_reads_them() {
        let cases = [
            ("131072", 131_072),
            ("0x20000", 131_072),
            ("010", 8),
            ("0", 0),
            (" 7", 7),
        ];
        for (text, value) in cases {
            assert_eq!(number(text), Some(value), "{text}");
        }
        for text in ["", "2 arenas", "-1", "0xg"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
