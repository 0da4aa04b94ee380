use super::*;

fn described(named: &[(&str, &str)]) -> TraceDescription {
    named.iter().copied().collect()
}

fn facts(description: &TraceDescription, threads: u32) -> Facts<'_> {
    Facts {
        description,
        threads,
        duration: Duration::from_secs(60),
        env: recorded::environment(description).0,
        allow_recorded: false,
    }
}

fn named<'c>(all: &'c [Candidate], name: &str) -> &'c Candidate {
    let found = all
        .iter()
        .find(|candidate| candidate.name.to_string() == name);
    found.unwrap_or_else(|| panic!("{name} is not tried"))
}

/// What a line that preloads jemalloc here has.
fn jemalloc() -> String {
    let found = PlayableAllocator::to_preload(BuildId::Jemalloc, None).expect("carried");
    found.listed.expect("it is preloaded")
}

#[test]
fn each_setting_is_alone_and_the_trim_is_isolated_from_the_threshold() {
    let description = described(&[("malloc", "glibc 2.36"), ("thp", "madvise")]);
    let all = default_candidates(&facts(&description, 4));
    let set = |name: &str| named(&all, name).variables();
    let one = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    assert_eq!(
        set("mmap_threshold=128K"),
        one("MALLOC_MMAP_THRESHOLD_", "131072")
    );
    assert_eq!(
        set("trim_threshold=128K"),
        [
            one("MALLOC_TRIM_THRESHOLD_", "131072"),
            one("MALLOC_MMAP_THRESHOLD_", "33554432")
        ]
        .concat()
    );
    assert_eq!(set("arena_max=2"), one("MALLOC_ARENA_MAX", "2"));
    assert_eq!(
        set("tcache_count=0"),
        one("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
    );
    assert_eq!(
        set("hugetlb=1"),
        one("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    );
    assert_eq!(set("jemalloc"), one("LD_PRELOAD", &jemalloc()));
    let trimmed = named(&all, "malloc_trim each 6s");
    assert_eq!(trimmed.variables(), []);
    assert_eq!(trimmed.trim, Trim::Every(Duration::from_secs(6)));
    assert!(trimmed.step.is_some() && trimmed.same_as_now.is_none());
}

#[test]
fn what_cannot_differ_is_not_played() {
    let description = described(&[("malloc", "glibc 2.36"), ("thp", "always")]);
    let single = default_candidates(&facts(&description, 1));
    for name in ["arena_max=1", "arena_max=2", "hugetlb=1", "hugetlb=0"] {
        assert!(named(&single, name).same_as_now.is_some(), "{name}");
    }
    let threaded = default_candidates(&facts(&description, 2));
    assert!(named(&threaded, "arena_max=1").same_as_now.is_none());
    let set = described(&[
        ("env.MALLOC_ARENA_MAX", "2"),
        ("env.PYTHONMALLOC", "malloc"),
    ]);
    let set = default_candidates(&facts(&set, 3));
    assert!(named(&set, "arena_max=2").same_as_now.is_some());
    assert!(named(&set, "hugetlb=0").same_as_now.is_some());
    assert!(named(&set, "hugetlb=1").same_as_now.is_none());
}

#[test]
fn every_candidate_carries_what_the_program_had() {
    let description = described(&[
        ("env.PYTHONMALLOC", "malloc"),
        ("env.MALLOC_CONF", "narenas:1"),
        ("env.LD_PRELOAD", "libjemalloc.so.2"),
    ]);
    let facts = facts(&description, 1);
    let baseline = baseline(&facts).0;
    for candidate in default_candidates(&facts) {
        let python = ("PYTHONMALLOC".to_owned(), "malloc".to_owned());
        assert!(
            candidate.variables().contains(&python),
            "{}",
            candidate.name
        );
    }
    let (set, unset) = named(&default_candidates(&facts), "jemalloc").changes(&baseline);
    assert_eq!(set, [("LD_PRELOAD".into(), jemalloc())]);
    assert_eq!(
        unset,
        ["MALLOC_CONF"],
        "it would change jemalloc as it comes"
    );
}

#[test]
fn a_program_under_jemalloc_is_compared_with_plain_glibc_too() {
    let description = described(&[
        ("malloc", "jemalloc 5.3.0"),
        ("malloc_path", "/nowhere/libjemalloc.so.2"),
        ("env.MALLOC_CONF", "background_thread:true"),
    ]);
    let facts = facts(&description, 1);
    let baseline = baseline(&facts).0;
    assert_eq!(baseline.name.to_string(), "baseline: jemalloc 5.3.0");
    let allocator = baseline
        .allocator
        .clone()
        .expect("the embedded one stands in");
    assert!(allocator.identity.is(Allocator::Jemalloc));
    assert_eq!(
        baseline.env.get("MALLOC_CONF"),
        Some("background_thread:true")
    );
    let all = default_candidates(&facts);
    let (_, unset) = named(&all, "glibc").changes(&baseline);
    assert_eq!(unset, ["LD_PRELOAD"]);
}

#[test]
fn an_allocator_that_was_not_recorded_is_not_passed_off_as_glibc() {
    let (baseline, note) = baseline(&facts(&described(&[]), 1));
    assert_eq!(baseline.name.to_string(), "baseline: glibc (assumed)");
    assert!(note.expect("it is said").why.contains("assumed"));
    let another = described(&[("malloc", "libfast.so")]);
    let facts = facts(&another, 1);
    assert!(!facts.is_glibc());
    let (baseline, _) = super::baseline(&facts);
    assert_eq!(baseline.name.to_string(), "baseline: libfast.so");
    assert!(baseline.allocator.is_err(), "nothing stands in for it");
}

#[test]
fn each_candidate_has_settings_that_its_allocator_reads() {
    let description = described(&[("malloc", "glibc 2.36")]);
    let facts = facts(&description, 4);
    let steps = crate::ablation::steps(&facts)
        .into_iter()
        .map(|(_, candidate)| candidate);
    for candidate in default_candidates(&facts).into_iter().chain(steps) {
        let Ok(allocator) = &candidate.allocator else {
            continue;
        };
        for (name, _) in candidate.env.variables() {
            assert_eq!(reader_of(name), allocator.identity.kind, "{candidate:?}");
        }
    }
}

#[test]
fn a_field_of_ones_own_has_settings_where_they_are_read() {
    let description = described(&[("malloc", "glibc 2.36")]);
    let facts = facts(&description, 2);
    let tunable = |name: &str, value: &str| Tunable {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let own = chosen_candidates(
        &facts,
        &["jemalloc".to_owned(), "/nowhere/libfast.so".to_owned()],
        &[
            tunable("MALLOC_CONF", "narenas:1"),
            tunable("glibc.malloc.arena_max", "1"),
            tunable("tcache_count", "0"),
            tunable("FAST_LIMIT", "9"),
        ],
    );
    let names: Vec<_> = own
        .iter()
        .map(|candidate| candidate.name.to_string())
        .collect();
    assert_eq!(
        names,
        [
            "jemalloc MALLOC_CONF=narenas:1 FAST_LIMIT=9",
            "libfast.so FAST_LIMIT=9",
            "glibc glibc.malloc.arena_max=1 tcache_count=0 FAST_LIMIT=9",
        ]
    );
    assert_eq!(own[0].env.get("MALLOC_CONF"), Some("narenas:1"));
    assert_eq!(own[2].env.get("MALLOC_ARENA_MAX"), Some("1"));
    assert!(own[1].allocator.is_err(), "no such file");
}

#[test]
fn a_setting_that_no_known_allocator_reads_goes_to_the_programs_own() {
    let limit = [Tunable {
        name: "FAST_LIMIT".to_owned(),
        value: "9".to_owned(),
    }];
    let names = |named: &[(&str, &str)]| {
        let description = described(named);
        let chosen = chosen_candidates(&facts(&description, 1), &[], &limit);
        let names = chosen
            .into_iter()
            .map(|one| (one.name.to_string(), one.allocator.is_ok()));
        names.collect::<Vec<_>>()
    };
    let own = |name: &str, found| vec![(format!("{name} FAST_LIMIT=9"), found)];
    assert_eq!(names(&[]), own("glibc", true));
    assert_eq!(
        names(&[("malloc", "jemalloc 5.3.0")]),
        own("jemalloc", true)
    );
    assert_eq!(names(&[("malloc", "libfast.so")]), own("libfast.so", false));
}

#[test]
fn settings_that_are_unknown_are_not_taken_for_the_defaults() {
    let known = [("malloc", "glibc 2.36"), ("thp", "madvise")];
    let unknown = [&known[..], &[("environment_unknown", "overwritten")]].concat();
    let played = |named_in_file: &[(&str, &str)]| {
        let description = described(named_in_file);
        let all = default_candidates(&facts(&description, 4));
        named(&all, "hugetlb=0").same_as_now.is_none()
    };
    assert!(!played(&known), "nothing is advised by default");
    assert!(played(&unknown), "hugetlb=1 may be what the program had");
}

#[test]
fn each_candidate_that_is_played_is_once_more_without_an_object_allocator() {
    let description = described(&[("malloc", "glibc 2.36"), ("thp", "always")]);
    let facts = facts(&description, 1);
    let mut all = vec![baseline(&facts).0];
    all.extend(default_candidates(&facts));
    let again = without_object_allocator(&all);
    let variable = ("PYTHONMALLOC".to_owned(), "malloc".to_owned());
    assert_eq!(again[0].name.to_string(), "PYTHONMALLOC=malloc");
    assert_eq!(again[0].changes(&all[0]), (vec![variable.clone()], vec![]));
    for candidate in &again {
        assert!(candidate.objects);
        assert!(candidate.variables().contains(&variable), "{candidate:?}");
    }
    let jemalloc = named(&again, "jemalloc PYTHONMALLOC=malloc");
    assert!(jemalloc.variables().iter().any(|(name, _)| name == PRELOAD));
    // They need what the baseline needs, with it as without.
    let twice = |name: &str| {
        again
            .iter()
            .any(|one| one.name.to_string().starts_with(name))
    };
    assert!(!twice("arena_max=1") && !twice("hugetlb=1") && twice("tcache_count=0"));
    assert!(all.iter().all(|candidate| !candidate.objects));
}
