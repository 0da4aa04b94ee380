use super::rules::{COMMAND, LIBRARIES};
use super::*;

/// A file of a crate.
fn source(krate: &str, inside: &str, text: &str) -> Source {
    let module = module_of(Path::new(inside));
    Source {
        file: format!("{krate}/src/{inside}"),
        references: References::of(text, &module, krate).expect("a Rust file"),
        module,
    }
}

/// The violations of one file, as `line: what` up to the first colon of the reason.
fn check_file(krate: &str, inside: &str, text: &str) -> Vec<(usize, String)> {
    let source = |inside: &str, text| source(krate, inside, text);
    let walkers = ["glibc/mod.rs", "pymalloc/mod.rs", "tcmalloc/mod.rs"];
    let mut sources = Vec::from(walkers.map(|walker| source(walker, "")));
    sources.push(source(inside, text));
    violations(krate, &sources)
        .into_iter()
        .map(|v| {
            let what = v.what.split(':').filter(|p| !p.starts_with(' '));
            (v.line, what.collect::<Vec<_>>().join(":"))
        })
        .collect()
}

#[track_caller]
fn assert_bad(krate: &str, inside: &str, text: &str, line: usize, what: &str) {
    let found = check_file(krate, inside, text);
    assert!(
        found.contains(&(line, what.to_string())),
        "{text}\n{found:?}"
    );
}

#[track_caller]
fn assert_good(krate: &str, inside: &str, text: &str) {
    assert_eq!(check_file(krate, inside, text), [], "{text}");
}

#[test]
fn the_workspace_itself_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    check(root).expect("no layer is crossed");
}

#[test]
fn no_file_is_read_as_text_that_one_name_in_it_can_spoil() {
    for krate in ["profiler_target", "profiler_trace", COMMAND] {
        for bad in [
            "fn f() { std::fs::read_to_string(\"/proc/self/mounts\"); }",
            "use std::fs; fn f() { fs::read_to_string(\"/proc/self/mounts\"); }",
            "use std::fs::read_to_string as text;",
        ] {
            assert_bad(krate, "a.rs", bad, 1, "names std::fs::read_to_string");
        }
        let good = "use std::fs; fn f() { fs::read(\"/proc/self/mounts\"); }";
        assert_good(krate, "a.rs", good);
        let of_tests = "#[cfg(test)] mod tests { fn f() { std::fs::read_to_string(\"a\"); } }";
        assert_good(krate, "a.rs", of_tests);
    }
}

#[test]
fn the_core_is_pure() {
    let bad = [
        ("use std::fs;", "names std::fs"),
        ("use std::{fmt, fs::File};", "names std::fs"),
        ("fn f() { std::process::exit(1) }", "names std::process"),
        ("fn f(t: std::time::Instant) {}", "names std::time::Instant"),
        (
            "use std::time::SystemTime as Clock;",
            "names std::time::SystemTime",
        ),
        ("use std::*;", "names std::fs"),
        (
            "use std as s; fn f() { s::net::lookup() }",
            "names std::net",
        ),
        (
            "use std::time; fn f() { time::Instant::now(); }",
            "names std::time::Instant",
        ),
        (
            "fn f() { println!(\"{}\", ::std::process::id()) }",
            "names std::process",
        ),
        (
            "mod m { fn f() { let _ = vec![std::process::Command::new(\"x\")]; } }",
            "names std::process",
        ),
    ];
    for (text, what) in bad {
        assert_bad("profiler_core", "heap.rs", text, 1, what);
    }
    for good in [
        "use std::time::Duration;",
        "use std::collections::BTreeMap;",
        "#[cfg(test)] mod tests { use std::fs; }",
        "// std::fs\nconst S: &str = \"std::fs\";",
        "mod fs {} fn f() { fs::f() }",
        "fn f(csv: &str) { g(format!(\"{}\", csv)); g(csv) }",
    ] {
        assert_good("profiler_core", "heap.rs", good);
    }
}

#[test]
fn a_weaker_cfg_than_test_does_not_hide() {
    let text = "#[cfg(any(test, unix))] mod m { use std::fs; }";
    assert_bad("profiler_core", "heap.rs", text, 1, "names std::fs");
}

#[test]
fn a_crate_without_unsafe_forbids_it() {
    let what = "the crate must say #![forbid(unsafe_code)]";
    for krate in ["profiler_core", "profiler_sampling", "fragscope"] {
        assert_bad(krate, "lib.rs", "mod a;", 1, what);
    }
    assert_good("profiler_target", "lib.rs", "mod a;");
    assert_bad("profiler_core", "lib.rs", "#![deny(unsafe_code)]", 1, what);
    assert_good("profiler_core", "lib.rs", "#![forbid(unsafe_code)]");
}

#[test]
fn widths_of_columns_are_not_counted_by_hand() {
    let what = "counts a column's width by hand";
    for bad in [
        "fn f(a: u8) -> String { format!(\"{a:<24}\") }",
        "fn f(a: u8) -> String { format!(\"  {:>10} of\", a) }",
        "fn f(a: f64) -> String { format!(\"{a:7.2}\") }",
    ] {
        for krate in ["profiler_core", "profiler_target", "fragscope"] {
            assert_bad(krate, "a.rs", bad, 1, what);
        }
    }
    for good in [
        "fn f(a: f64) -> String { format!(\"{a:.1} %: {a}, {a:+.1}\") }",
        "fn f(a: u8) -> String { format!(\"{a:02}:{a:016x}, {a:>width$}\", width = WIDTH) }",
        "/// `{name:<24}`\nfn f() -> &'static str { \"at 12:30 or 12:5\" }",
    ] {
        assert_good("fragscope", "a.rs", good);
    }
}

#[test]
fn a_crate_that_the_layers_do_not_know_is_found() {
    let manifest = |more: &str| {
        format!("[workspace]\nmembers = [\"profiler\", \"profiler-core\"{more}, \"xtask\"]\n")
    };
    assert_eq!(unlisted(&manifest("")), Vec::<&str>::new());
    assert_eq!(unlisted(&manifest(", \"profiler-new\"")), ["profiler-new"]);
}

#[test]
fn reports_see_no_layout_exports_read_nothing_and_the_core_prints_nothing() {
    for module in [
        "report.rs",
        "columns/heaps.rs",
        "host/model.rs",
        "sites/walk.rs",
    ] {
        let text = "use crate::glibc::CHUNK_HEADER;";
        assert_bad("profiler_core", module, text, 1, "names crate::glibc");
    }
    let text = "fn f() { let _ = std::fs::read(\"/proc/self/status\"); }";
    assert_bad("fragscope", "export/text/mod.rs", text, 1, "names std::fs");
    for module in ["tui/theme.rs", "tui/screens/sites.rs", "tui/mod.rs"] {
        assert_bad("fragscope", module, text, 1, "names std::fs");
        for (text, what) in [
            ("use std::env;", "names std::env"),
            ("fn f() { nix::unistd::getpid(); }", "names nix"),
            ("fn f() { unsafe { libc::getpid() }; }", "names libc"),
        ] {
            assert_bad("fragscope", module, text, 1, what);
        }
    }
    assert_good("fragscope", "tui/terminal.rs", "use std::fs::File;");
    let text = "fn f() { println!(); }";
    assert_bad("profiler_core", "heap.rs", text, 1, "names println!");
}

#[test]
fn top_level_modules_that_need_each_other_are_found() {
    let check = |remaining: &[(&str, &[&str])], files: &[(&str, &str)]| -> Vec<(String, String)> {
        let sources: Vec<Source> = files
            .iter()
            .map(|(inside, text)| source("profiler_core", inside, text))
            .collect();
        let found = circles::circles_but(remaining, "profiler_core", &sources);
        found.into_iter().map(|one| (one.file, one.what)).collect()
    };
    let found = |file: &str, what: &str| (file.to_owned(), what.to_owned());
    let line = [
        ("lib.rs", "pub use self::report::Report; pub mod report;"),
        ("report.rs", "use crate::metrics::Metric; use super::rows;"),
        ("metrics/mod.rs", "mod ledger; use self::ledger::Ledger;"),
        (
            "metrics/ledger.rs",
            "use super::Metric; use crate::rows::Row;",
        ),
        (
            "rows.rs",
            "#[cfg(test)] mod tests { use crate::report::Report; }",
        ),
    ];
    assert_eq!(check(&[], &line), [], "a tree and its tests");
    let mut circle = line;
    circle[3].1 = "use crate::rows::Row; fn f() { crate::report::conclude() }";
    let both = [
        found(
            "profiler_core/src/metrics/ledger.rs",
            "modules in a circle: metrics names report, and back by report -> metrics",
        ),
        found(
            "profiler_core/src/report.rs",
            "modules in a circle: report names metrics, and back by metrics -> report",
        ),
    ];
    assert_eq!(check(&[], &circle), both);
    let remaining: [(&str, &[&str]); 1] = [("profiler_core", &["metrics", "report"])];
    assert_eq!(check(&remaining, &circle), [], "it is in the list");
    let cut = check(&remaining, &line);
    assert_eq!(cut.len(), 2, "the list only shrinks: {cut:?}");
    let of_another: [(&str, &[&str]); 1] = [("profiler_lab", &["metrics", "report"])];
    assert_eq!(check(&of_another, &circle), both);
}

#[test]
fn libraries_name_no_commands_but_in_the_sentences_of_the_list() {
    let text = r#"fn f() -> &'static str { "let `fragscope explain` read it" }"#;
    let what = "names a command of fragscope";
    for krate in LIBRARIES {
        assert_bad(krate, "a.rs", text, 1, what);
    }
    assert_good(COMMAND, "a.rs", text);
    let listed = |text: &str| {
        let inside = "explain/growth/cause.rs";
        let source = Source {
            file: "profiler-core/src/explain/growth/cause.rs".to_owned(),
            ..source("profiler_core", inside, text)
        };
        violations("profiler_core", &[source]).len()
    };
    assert_eq!(listed(text), 0, "it is in the list");
    assert_eq!(listed("fn f() {}"), 1, "the list only shrinks");
}

#[test]
fn only_the_command_line_and_its_hints_name_flags() {
    for bad in ["more by --file-limit", "(--budget allows more)", "--json"] {
        let text = format!("fn f() -> String {{ format!({bad:?}) }}");
        for krate in LIBRARIES.into_iter().chain([COMMAND]) {
            assert_bad(krate, "a.rs", &text, 1, "names a flag");
        }
        for inside in ["cli/advice.rs", "cli/mod.rs", "hints.rs"] {
            assert_good(COMMAND, inside, &text);
            assert_bad("profiler_core", inside, &text, 1, "names a flag");
        }
    }
    for good in ["`record -- COMMAND`", "a--b", "r--p", "not all -- of it"] {
        assert_good(
            "profiler_core",
            "a.rs",
            &format!("const A: &str = {good:?};"),
        );
    }
}

#[test]
fn walkers_do_not_import_each_other() {
    assert_bad(
        "profiler_core",
        "tcmalloc/mod.rs",
        "use crate::glibc;",
        1,
        "names crate::glibc",
    );
    for text in [
        "use crate::pymalloc::Pool;",
        "use super::super::pymalloc;",
        "use profiler_core::pymalloc;",
        "fn f() { crate::pymalloc::walk() }",
        "use crate::*;",
    ] {
        assert_bad(
            "profiler_core",
            "glibc/arena.rs",
            text,
            1,
            "names crate::pymalloc",
        );
    }
    assert_good(
        "profiler_core",
        "glibc/arena.rs",
        "use super::bins; use crate::glibc::x;",
    );
    assert_good(
        "profiler_core",
        "allocator/rows.rs",
        "use crate::glibc; use crate::pymalloc;",
    );
}

#[test]
fn metrics_know_no_layouts_and_no_explanations() {
    assert_bad(
        "profiler_core",
        "metrics/pages.rs",
        "\nuse crate::glibc::Chunk;",
        2,
        "names crate::glibc",
    );
    assert_bad(
        "profiler_core",
        "explain/rules.rs",
        "use crate::tcmalloc::walk;",
        1,
        "names crate::tcmalloc",
    );
    assert_bad(
        "profiler_core",
        "metrics.rs",
        "use super::explain::Rule;",
        1,
        "names crate::explain",
    );
    assert_bad(
        "profiler_core",
        "explain/mod.rs",
        "use crate::pymalloc;",
        1,
        "names crate::pymalloc",
    );
    assert_good(
        "profiler_core",
        "explain/mod.rs",
        "use crate::metrics::Page;",
    );
}

#[test]
fn each_library_has_its_place() {
    let places = [
        ("extern crate clap;", "cli/mod.rs", "names clap"),
        (
            "#[derive(serde::Serialize)] struct S;",
            "export/json.rs",
            "names serde",
        ),
        ("use ratatui::Frame;", "tui/pages.rs", "names ratatui"),
        ("use crossterm::event;", "tui.rs", "names crossterm"),
        ("use clap::Parser;", "cli/mod.rs", "names clap"),
        (
            "use serde_json::json;",
            "export/json.rs",
            "names serde_json",
        ),
    ];
    for (text, place, what) in places {
        assert_good("fragscope", place, text);
        assert_bad("fragscope", "session/mod.rs", text, 1, what);
        assert_bad("fragscope", "main.rs", text, 1, what);
    }
}

#[test]
fn what_is_shown_does_not_see_the_target() {
    assert_bad(
        "fragscope",
        "tui/app.rs",
        "use profiler_target::Target;",
        1,
        "names profiler_target",
    );
    assert_bad(
        "fragscope",
        "export/csv.rs",
        "use profiler_probe::Budget;",
        1,
        "names profiler_probe",
    );
    assert_good(
        "fragscope",
        "session/mod.rs",
        "use crate::{export, tui}; use profiler_target::Target;",
    );
}

#[test]
fn unsafe_has_its_place() {
    let what = "unsafe only where C or the kernel is called";
    for text in [
        "fn f() { unsafe { g() } }",
        "unsafe fn f() {}",
        "unsafe impl Send for S {}",
        "fn f() { m!(unsafe { g() }) }",
    ] {
        assert_bad("fragscope", "tui/mod.rs", text, 1, what);
        assert_good("profiler_target", "memory.rs", text);
        assert_good("profiler_probe", "links.rs", text);
        assert_good("profiler_lab", "play/child.rs", text);
        assert_bad("profiler_lab", "verdict.rs", text, 1, what);
    }
}

#[test]
fn test_modules_in_files_of_their_own_are_left_out() {
    let folder = std::env::temp_dir().join(format!("layers-{}", std::process::id()));
    let source = folder.join("profiler-core/src");
    fs::create_dir_all(source.join("a/tests")).expect("folders");
    let files = [
        ("lib.rs", "#![forbid(unsafe_code)] mod a;"),
        (
            "a/mod.rs",
            "#[cfg(test)] mod tests; #[cfg(test)] #[path = \"b_tests.rs\"] mod more; mod b;",
        ),
        ("a/tests/mod.rs", "use std::fs;"),
        ("a/b_tests.rs", "use std::fs;"),
        ("a/b.rs", "use std::net;"),
    ];
    for (file, text) in files {
        fs::write(source.join(file), text).expect("a file");
    }
    let sources = sources(&folder, "profiler-core", "profiler_core");
    fs::remove_dir_all(&folder).expect("removed");
    let found = violations("profiler_core", &sources.expect("sources"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].file, "profiler-core/src/a/b.rs");
}

#[test]
fn a_file_that_is_no_rust_is_an_error_and_not_passed_over() {
    assert!(References::of("fn f( {", &[], "profiler_core").is_err());
}

#[test]
fn all_that_is_printed_and_every_path_that_is_shown_is_cleaned() {
    for (text, what) in [
        ("fn f() { eprintln!(\"x\") }", "names eprintln!"),
        ("fn f() { if true { print!(\"x\") } }", "names print!"),
        ("fn f() { vec![{ println!() }]; }", "names println!"),
        (
            "use std::io; fn f() { let _ = writeln!(io::stderr(), \"x\"); }",
            "names std::io::stderr",
        ),
        ("use std::io::stdout;", "names std::io::stdout"),
        ("fn f(p: &Path) { p.display(); }", "shows a path as it is"),
        (
            "fn f(p: &Path) { format!(\"{}\", p.display()); }",
            "shows a path as it is",
        ),
        (
            "#[error(\"{}\", .0.display())] struct E(PathBuf);",
            "shows a path as it is",
        ),
        (
            "fn f(p: &Path) { visible(format!(\"{}\", g(p.display()))); }",
            "shows a path as it is",
        ),
    ] {
        assert_bad("fragscope", "session/save.rs", text, 1, what);
        assert_bad("profiler_lab", "field.rs", text, 1, what);
    }
    for good in [
        "fn f(p: &Path) { visible(p.display()); }",
        "fn f(p: &Path) { say::line(format_args!(\"{}\", visible(p.display()))); }",
        "#[error(\"{} {}\", visible(.path.display()), 1)] struct E { path: PathBuf }",
        "#[cfg(test)] mod tests { fn f() { println!() } }",
        "use std::io::{self, Write}; fn f(out: impl Write) { writeln!(out, \"x\"); }",
    ] {
        assert_good("fragscope", "session/save.rs", good);
    }
    assert_good("fragscope", "say.rs", "fn f() { std::io::stderr(); }");
    assert_good("fragscope", "tui/terminal.rs", "use std::io::stdout;");
}

#[test]
fn a_document_names_only_identifiers_that_a_source_has() {
    let words = ["whole_session", "FragReport", "from_sample"].map(str::to_owned);
    let check = |text: &str| -> Vec<(usize, String)> {
        let found = documents::unknown("CONTRIBUTING.md", text, &words.clone().into());
        found.into_iter().map(|one| (one.line, one.what)).collect()
    };
    let good = "`whole_session` and `FragReport::from_sample`, `NAME`, `MALLOC_CONF=x`, not_whole\n`cargo`";
    assert_eq!(check(good), []);
    let found = |line, name: &str| (line, format!("{name} is named, and in no source"));
    assert_eq!(check("one\nas `not_whole` says"), [found(2, "not_whole")]);
    assert_eq!(check("`FragReport::from_walk`"), [found(1, "from_walk")]);
    assert_eq!(check("`ReplayReport`"), [found(1, "ReplayReport")]);
}

#[test]
fn a_document_names_only_what_is_there() {
    let tree = [
        "profiler-core",
        "docs/metrics.md",
        "profiler-core/src/allocator/rows.rs",
        "profiler-core/src/glibc",
        "profiler-target/tests/glibc_walk.rs",
    ]
    .map(str::to_owned);
    let lacking = |document: &str, text: &str| {
        let found = documents::missing(document, text, &tree).into_iter();
        let what = found.map(|one| (one.line, one.what.split(' ').next().map(str::to_owned)));
        what.map(|(line, what)| (line, what.unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    let whole = "`profiler-core/src/allocator/rows.rs`, `allocator/rows`, `rows.rs`, \
                 `profiler-target/tests/NAME_walk.rs`, `/proc/PID/maps`, `fragscope.top/1 --json`, `Heap`";
    assert_eq!(lacking("CONTRIBUTING.md", whole), []);
    assert_eq!(
        lacking("CONTRIBUTING.md", "\n`allocator/row.rs` and `walls.rs`"),
        [(2, "allocator/row.rs".into()), (2, "walls.rs".into())]
    );
    let links = "[a](metrics.md#x), [b](../profiler-core/src/glibc/), [c](https://a.b/c), [d](#e)";
    assert_eq!(lacking("docs/architecture.md", links), []);
    assert_eq!(
        lacking("docs/architecture.md", "[a](docs/metrics.md)"),
        [(1, "docs/metrics.md".into())]
    );
    // Other documents name files of other projects as well.
    let foreign = "`Objects/dictobject.c`, `bytes/s`, `profiler-core/src/glibc/`";
    assert_eq!(lacking("docs/objects.md", foreign), []);
    assert_eq!(
        lacking(
            "docs/objects.md",
            "`objects/layout.rs`, `profiler-core/walls/`"
        ),
        [
            (1, "objects/layout.rs".into()),
            (1, "profiler-core/walls/".into())
        ]
    );
    let above = "[a](../metrics.md), [b](../../profiler-core/src/glibc/)";
    assert_eq!(lacking("docs/questions/swap.md", above), []);
    let map = "## Where things are\n| `profiler-core` | it |\n| — `glibc/`, `musl/` | `Heap` |";
    assert_eq!(
        lacking("docs/architecture.md", map),
        [(3, "musl/".into()), (3, "musl/".into())]
    );
}

#[test]
fn the_map_has_every_module_at_the_top_of_a_crate() {
    let tree = [
        "profiler-core/src",
        "profiler-core/src/glibc",
        "profiler-core/src/glibc/mod.rs",
        "profiler-core/src/musl",
        "profiler-core/src/musl/mod.rs",
        "profiler-core/src/musl/deep",
        "profiler-core/src/musl/deep/mod.rs",
        "profiler-core/src/lib.rs",
        "profiler-core/src/units.rs",
        "profiler/src/session",
        "profiler/src/session/mod.rs",
        "profiler/src/session/front.rs",
        "xtask/src/main_part.rs",
        "profiler-lab/src/bytes",
        "profiler-lab/src/bytes/object.o",
    ]
    .map(str::to_owned);
    let lacking = |rows: &str| {
        let map =
            format!("# Map\n\n## Where things are\n\n| `profiler-core` | it |\n{rows}\n## Next\n");
        let found = documents::not_in_map(&map, &tree).into_iter();
        found.map(|one| one.what).collect::<Vec<_>>()
    };
    let rest = "| — `units` | it |\n| `profiler` | it |\n| — `session/front` | it |\n";
    assert_eq!(
        lacking(&format!("| — `glibc/`, `musl/deep` | `Heap` |\n{rest}")),
        [""; 0]
    );
    assert_eq!(
        lacking(&format!("| — `glibc/` | not `musl/` |\n{rest}")),
        ["profiler-core/src/musl is not in the map"]
    );
    assert_eq!(
        lacking("| — `glibc/`, `musl/` | it |\n| `profiler` | it |\n| — `session/` | it |"),
        [
            "profiler-core/src/units is not in the map",
            "profiler/src/session/front is not in the map"
        ]
    );
}
