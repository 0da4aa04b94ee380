//! Compares the settings in force with glibc's defaults and with those requested by the
//! environment.
//!
//! Their names are in [`GlibcSetting`].

use super::state::MallocPar;
use crate::allocator::{
    Allocator, GlibcSetting, INITIAL_TRIM_THRESHOLD, MMAP_THRESHOLDS, reader_of,
};
use crate::heap::RequestedSetting;

/// A walk's list of values by glibc's names of them.
pub(super) fn listed(values: &[(GlibcSetting, u64)]) -> Vec<(String, String)> {
    let named = values.iter();
    let named = named.filter_map(|(setting, value)| Some((setting.field()?, value)));
    named
        .map(|(name, value)| (name.to_owned(), value.to_string()))
        .collect()
}

/// The defaults of a release, by the names of [`MallocPar::settings`].
pub(super) fn defaults((major, minor): (u32, u32)) -> Vec<(String, String)> {
    let since = |minor_then| (major, minor) >= (2, minor_then);
    let mut defaults = vec![
        (GlibcSetting::TrimThreshold, INITIAL_TRIM_THRESHOLD),
        // DEFAULT_TOP_PAD.
        (GlibcSetting::TopPad, 128 << 10),
        (GlibcSetting::MmapThreshold, *MMAP_THRESHOLDS.start()),
        // NARENAS_FROM_NCORES (1).
        (GlibcSetting::ArenaTest, 8),
        (GlibcSetting::ArenaMax, 0),
        (GlibcSetting::MmapMax, 65536),
        (GlibcSetting::NoDynThreshold, 0),
    ];
    if since(26) {
        defaults.extend([
            (GlibcSetting::TcacheBins, 64),
            // MAX_TCACHE_SIZE; from 2.42 on MAX_TCACHE_SMALL_SIZE + 1.
            (GlibcSetting::TcacheMax, if since(42) { 1041 } else { 1032 }),
            // TCACHE_FILL_COUNT.
            (GlibcSetting::TcacheCount, if since(43) { 16 } else { 7 }),
            (GlibcSetting::TcacheUnsortedLimit, 0),
        ]);
    }
    listed(&defaults)
}

/// The settings requested by the environment, each compared with the one in force. `environment`
/// contains entries `NAME=VALUE` as the program received them.
pub(super) fn requested(
    environment: &[String],
    par: &MallocPar,
    settings: &[(String, String)],
) -> Vec<RequestedSetting> {
    let of_glibc = &Allocator::Glibc.row().settings;
    let mut requested = Vec::new();
    for entry in environment {
        let Some((variable, value)) = entry.split_once('=') else {
            continue;
        };
        let list = of_glibc.list.as_ref();
        if let Some(list) = list.filter(|list| list.variable == variable) {
            for tunable in value.split(list.separator) {
                let Some((name, value)) = tunable.split_once(list.assignment) else {
                    continue;
                };
                if let Some(name) = name.strip_prefix(of_glibc.prefix) {
                    let request = format!("{variable}={tunable}");
                    let setting = GlibcSetting::of_tunable(name);
                    requested.push(judge(request, setting, value, par, settings));
                }
            }
        } else if reader_of(variable) == Some(Allocator::Glibc) {
            let setting = GlibcSetting::of_variable(variable);
            requested.push(judge(entry.clone(), setting, value, par, settings));
        }
    }
    requested
}

fn judge(
    request: String,
    setting: Option<GlibcSetting>,
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
    if setting.field().is_none() && setting != GlibcSetting::Hugetlb {
        return result(None, "its effect is not read".into());
    }
    let Some(wanted) = number(value) else {
        return result(
            Some(false),
            "the value is not a number, so it is ignored".into(),
        );
    };
    if setting == GlibcSetting::Hugetlb {
        let now = match (par.hp_pagesize, par.thp_pagesize) {
            (0, 0) => 0,
            (0, _) => 1,
            _ => 2,
        };
        let note = format!("hugetlb mode {now} is in force");
        return result(Some((wanted.min(2)) == now), note);
    }
    let mut all = settings.iter();
    let Some((name, now)) = all.find(|(name, _)| setting.field() == Some(name)) else {
        return result(Some(false), "this release has no such setting".into());
    };
    let in_force = match setting {
        // Kept as the largest size that is cached, rounded up in some releases.
        GlibcSetting::TcacheMax => now
            .parse::<u64>()
            .is_ok_and(|now| now.abs_diff(wanted) <= 32),
        _ => *now == wanted.to_string(),
    };
    let note = if in_force {
        format!("{name} is {now}")
    } else if setting == GlibcSetting::MmapThreshold && wanted > *MMAP_THRESHOLDS.end() {
        format!("{name} is {now}: values above 32 MiB are refused")
    } else {
        format!(
            "{name} is {now}: refused, out of range, or changed since by mallopt (a program \
             with file capabilities or set-user-id ignores its environment)"
        )
    };
    result(Some(in_force), note)
}

/// A number in the format of glibc's tunables: decimal, octal with 0, hexadecimal with 0x.
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
            // jemalloc's.
            "MALLOC_CONF=narenas:1",
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
