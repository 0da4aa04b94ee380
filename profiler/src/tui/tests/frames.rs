//! Golden frames, and frames of all sizes.

use std::path::Path;
use std::sync::Arc;

use crossterm::event::KeyCode;

use profiler_core::activity::ProbeCost;
use profiler_core::allocator::AllocatorTitle;
use profiler_core::sites::Sites;
use profiler_core::text::is_harmful;
use profiler_core::view::{Shadow, View, WhatIf};

use super::super::app::{App, Message, Tab, update};
use super::super::theme::Theme;
use super::{PAGES, app, fixture, frame, saved, text};

/// Compares with the file of this name, or writes it when `UPDATE_GOLDEN` is set.
pub(in crate::tui) fn golden(name: &str, found: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tui");
    let file = folder.join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(&folder).expect("a folder for the frames");
        std::fs::write(&file, found).expect("a writable tree");
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        expected == found,
        "{name} differs; UPDATE_GOLDEN=1 accepts this frame:\n{found}"
    );
}

/// The screens by name, help as the last.
fn screens() -> Vec<(&'static str, Option<Tab>)> {
    let tabs = Tab::ALL.map(|tab| (tab.name(), Some(tab)));
    tabs.into_iter().chain([("Help", None)]).collect()
}

fn choose(app: &mut App, screen: Option<Tab>) {
    app.help = screen.is_none();
    app.tab = screen.unwrap_or_default();
}

#[test]
fn every_screen_at_both_sizes() {
    for (width, height) in [(80, 24), (120, 40)] {
        for (name, screen) in screens() {
            let mut app = app(width, height);
            choose(&mut app, screen);
            let name = format!("{}_{width}x{height}", name.to_lowercase());
            golden(&name, &text(&frame(&app, width, height)));
        }
    }
}

#[test]
fn an_opened_holder_shows_the_way_to_what_it_holds() {
    let mut app = app(80, 24);
    choose(&mut app, Some(Tab::Objects));
    for code in [KeyCode::Down, KeyCode::Enter] {
        update(&mut app, Message::Key(code.into()));
    }
    golden("objects_opened_80x24", &text(&frame(&app, 80, 24)));
    for code in [KeyCode::Char('t'), KeyCode::Char('s')] {
        update(&mut app, Message::Key(code.into()));
    }
    golden("objects_types_80x24", &text(&frame(&app, 80, 24)));
}

#[test]
fn functions_open_to_their_callers_and_stacks_to_what_they_called() {
    let mut app = app(80, 24);
    choose(&mut app, Some(Tab::Sites));
    for code in [KeyCode::Down, KeyCode::Enter] {
        update(&mut app, Message::Key(code.into()));
    }
    golden("sites_opened_80x24", &text(&frame(&app, 80, 24)));
    for code in [
        KeyCode::Char('t'),
        KeyCode::Enter,
        KeyCode::Down,
        KeyCode::Enter,
    ] {
        update(&mut app, Message::Key(code.into()));
    }
    golden("sites_stacks_80x24", &text(&frame(&app, 80, 24)));
}

#[test]
fn where_no_site_was_sampled_the_reason_is_said() {
    let said = |change: &dyn Fn(&mut View)| {
        let mut view = fixture::view(PAGES);
        change(&mut view);
        let mut app = app(80, 24);
        update(&mut app, Message::View(Box::new(view)));
        choose(&mut app, Some(Tab::Sites));
        let words = text(&frame(&app, 80, 24));
        words.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let without = |view: &mut View| (view.activity, view.sites) = (None, None);
    let off = said(&|view| {
        without(view);
        view.probes_wanted = false;
    });
    assert!(off.contains("and none were requested"), "{off}");
    let none = said(&without);
    assert!(
        none.contains("from probes, and none are attached"),
        "{none}"
    );
    let nothing = said(&|view| {
        view.sites = Some(Arc::new(Sites {
            armed_ns: 2_000_000_000,
            counted_bytes: 4096,
            samples_lost: 3,
            ..Sites::default()
        }));
    });
    let wanted = "No allocation was sampled in the 2.0 s that the probes were armed: 4.0 KiB were";
    assert!(nothing.contains(wanted), "{nothing}");
    assert!(nothing.contains("3 samples are lost"), "{nothing}");
    let functions = said(&|view| {
        let sites = view.sites.as_mut().map(Arc::make_mut).expect("some");
        sites.no_stacks = Some("the target runs no Python".into());
    });
    assert!(
        functions.contains("no functions of Python: the target runs no Python"),
        "{functions}"
    );
}

#[test]
fn pages_can_be_counted_by_two_mebibytes() {
    let mut app = app(80, 24);
    choose(&mut app, Some(Tab::Pages));
    update(&mut app, Message::Key(KeyCode::Char('t').into()));
    golden("pages_2m_80x24", &text(&frame(&app, 80, 24)));
    update(&mut app, Message::Key(KeyCode::Char('t').into()));
    golden("pages_80x24", &text(&frame(&app, 80, 24)));
}

#[test]
fn shadows_stand_beside_the_worker_on_every_screen() {
    let mut view = fixture::view(PAGES);
    let shadow = |name: &str, resident_bytes, ended: Option<&str>| Shadow {
        name: name.into(),
        resident_bytes,
        worker_bytes: Some(320 << 20),
        ended: ended.map(Into::into),
        is_baseline: name.starts_with("baseline"),
    };
    view.what_if = Some(WhatIf {
        environment_unknown: None,
        shadows: vec![
            shadow("baseline: glibc 2.36", Some(400 << 20), None),
            shadow("jemalloc 5.3.1", Some(208 << 20), None),
            shadow("mimalloc 3.3.2", None, None),
            shadow("libbad.so", None, Some("crashed (SIGSEGV)")),
        ],
        turned_over: Some(0.4),
        events_lost: 12,
        gone_share: Some(0.25),
        allocated_bytes: 5 << 20,
        cost: Some(ProbeCost {
            hits: 1 << 20,
            ns_per_hit: 1700.0,
            share: 0.123,
            budget: None,
        }),
        ended: None,
    });
    // The probes record for the shadows, and nothing else.
    (view.activity, view.sites, view.probes_wanted) = (None, None, false);
    view.notices = vec![crate::hints::Hint::RecordsAll.words().to_owned()];
    let mut app = app(80, 24);
    update(&mut app, Message::View(Box::new(view.clone())));
    golden("what_if_80x24", &text(&frame(&app, 80, 24)));
    choose(&mut app, Some(Tab::Why));
    assert!(text(&frame(&app, 80, 24)).contains("jemalloc 5.3.1 208.0 MiB (-35 %)"));
    choose(&mut app, Some(Tab::Activity));
    golden("what_if_activity_80x24", &text(&frame(&app, 80, 24)));
    choose(&mut app, Some(Tab::Sites));
    let sites = text(&frame(&app, 80, 24));
    assert!(
        sites.contains("With --what-if they record every call"),
        "{sites}"
    );
    let what_if = view.what_if.as_mut().expect("set above");
    what_if.ended = Some("no shadow is left".into());
    update(&mut app, Message::View(Box::new(view)));
    let ended = text(&frame(&app, 80, 24));
    assert!(ended.contains("probes ended"), "{ended}");
    assert!(!ended.contains("probe cost"), "{ended}");
}

#[test]
fn a_saved_session_says_which_walk_it_shows_on_every_screen() {
    for (width, height) in [(80, 24), (120, 40)] {
        for (name, screen) in screens() {
            let mut app = saved(width, height);
            choose(&mut app, screen);
            let found = text(&frame(&app, width, height));
            let first = found.lines().next();
            assert_eq!(
                first,
                Some("saved session, walk 3 of 17, 2026-01-02 03:04:05 UTC"),
                "{name}"
            );
            assert!(found.contains("[ ] walk"), "{name}: {found}");
            if matches!(name, "Overview" | "Pages" | "Help") {
                let name = format!("saved_{}_{width}x{height}", name.to_lowercase());
                golden(&name, &found);
            }
        }
    }
}

#[test]
fn nothing_known_is_said_on_every_screen() {
    for (name, screen) in screens() {
        let mut app = app(80, 24);
        update(&mut app, Message::View(Box::new(fixture::unknown())));
        choose(&mut app, screen);
        let name = format!("{}_unknown", name.to_lowercase());
        golden(&name, &text(&frame(&app, 80, 24)));
    }
}

#[test]
fn what_the_numbers_rest_on_is_on_every_screen() {
    for (name, screen) in screens() {
        let mut app = app(80, 24);
        app.paused = true;
        choose(&mut app, screen);
        let found = text(&frame(&app, 80, 24));
        let wanted = [
            "1234567",
            "512.0 MiB",
            "96.0 MiB",
            "PAUSED",
            "41.3 ms",
            "1234 events lost",
            "36.0 KiB",
            "partly verified",
            "4.7 %",
            "max 5 %",
        ];
        for wanted in wanted {
            let head: String = found.lines().take(3).collect();
            assert!(head.contains(wanted), "{name} lacks {wanted}:\n{found}");
        }
    }
}

#[test]
fn any_size_is_drawn_and_a_small_one_says_what_it_needs() {
    let sizes = (1..=200)
        .step_by(7)
        .flat_map(|w| (1..=60).step_by(3).map(move |h| (w, h)));
    for (width, height) in sizes.chain([(79, 24), (80, 23), (80, 24), (200, 60)]) {
        for (_, screen) in screens() {
            for view in [fixture::view(PAGES), fixture::unknown()] {
                let mut app = App::new(Theme::new(false));
                frame(&app, width, height);
                update(&mut app, Message::Resize(width, height));
                update(&mut app, Message::View(Box::new(view)));
                choose(&mut app, screen);
                let found = text(&frame(&app, width, height));
                if (width, height) == (79, 24) || (width, height) == (80, 23) {
                    assert!(found.contains("80 × 24"), "{found}");
                }
            }
        }
    }
}

#[test]
fn without_colour_nothing_is_coloured_and_glyphs_differ() {
    let (width, height) = (120, 40);
    for (name, screen) in screens() {
        let mut app = App::new(Theme::new(false));
        update(&mut app, Message::Resize(width, height));
        update(&mut app, Message::View(Box::new(fixture::view(PAGES))));
        choose(&mut app, screen);
        let buffer = frame(&app, width, height);
        let coloured = buffer.content.iter().find(|cell| {
            cell.fg != ratatui::style::Color::Reset || cell.bg != ratatui::style::Color::Reset
        });
        assert_eq!(coloured, None, "{name}");
        let mut in_colour = self::app(width, height);
        choose(&mut in_colour, screen);
        assert_eq!(text(&buffer), text(&frame(&in_colour, width, height)));
    }
}

#[test]
fn a_cell_of_the_map_tells_each_kind_of_page_apart() {
    let mut app = app(200, 60);
    choose(&mut app, Some(Tab::Pages));
    let found = text(&frame(&app, 200, 60));
    let map: String = found
        .lines()
        .skip(5)
        .map(|line| line.chars().skip(40).collect::<String>())
        .collect();
    for glyph in ["·", "s", "○", "░", "▒", "▓", "█"] {
        assert!(map.contains(glyph), "no {glyph} in:\n{found}");
    }
}

#[test]
fn no_text_of_the_target_drives_the_terminal_or_turns_what_is_beside_it() {
    let hostile = "a\x1b[2J\n\u{9b}\u{202e}\u{200b}b";
    let mut view = fixture::view(PAGES);
    let report = Arc::make_mut(&mut view.report);
    report.target.comm = hostile.into();
    report.target.libc = Some(hostile.into());
    report.target.malloc = Some(AllocatorTitle::Other(format!("{hostile}c")));
    view.notices = vec![hostile.into()];
    view.ended = Some(hostile.into());
    let mut app = app(120, 40);
    update(&mut app, Message::View(Box::new(view)));
    update(&mut app, Message::Note(hostile.into()));
    for (name, screen) in screens() {
        choose(&mut app, screen);
        let shown = text(&frame(&app, 120, 40));
        let harmful = shown.chars().find(|&c| is_harmful(c) && c != '\n');
        assert_eq!(harmful, None, "{name}: {shown}");
        assert_eq!(shown.lines().count(), 40, "{name}");
    }
}
