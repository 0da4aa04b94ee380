//! Golden frames and keys of the screen of all processes, on ratatui's own test backend.

use std::sync::Arc;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use profiler_core::allocator::AllocatorTitle;
use profiler_core::completeness::Confidence;
use profiler_core::explain::ShortVerdict;
use profiler_core::host::{
    Arrangement, Cost, EndedProcess, FREE, HostView, Memory, MemoryGroup, PlannedWalks, ProcessId,
    ProcessRow, ProcessSample, TreeHistory, WalkFigures, place_of,
};
use profiler_core::report::Mechanism;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::Effect;
use super::app::{App, Message, update};
use super::draw::draw;
use crate::tui::tests::frames::golden;
use crate::tui::tests::text;
use crate::tui::theme::Theme;

const SECOND: u64 = 1_000_000_000;

fn row(pid: i32, parent: i32, rss_mib: u64, words: &[&str]) -> ProcessRow {
    ProcessRow {
        process: ProcessSample {
            id: ProcessId {
                pid,
                began_ticks: pid as u64,
                program: (8, 1),
            },
            parent,
            comm: "python3".into(),
            cmdline: words.iter().map(|word| (*word).to_owned()).collect(),
            python: Some("CPython 3.11.2".into()),
            memory: Memory {
                rss_bytes: rss_mib << 20,
                pss_bytes: Some(rss_mib << 19),
                uss_bytes: Some(rss_mib << 18),
                swap_bytes: Some(0),
            },
            group: Some(Arc::new(MemoryGroup {
                path: "/system.slice/celery.service".into(),
                current_bytes: Some(700 << 20),
                max_bytes: Some(1 << 30),
                left_bytes: None,
            })),
            age_ns: None,
        },
        growth: Some(0.0),
        ..ProcessRow::default()
    }
}

fn walked(mut row: ProcessRow, mechanism: Option<Mechanism>, free: f64) -> ProcessRow {
    let rss = row.process.memory.rss_bytes as f64;
    row.walk_age_ns = Some(12 * SECOND);
    row.walk = Some(WalkFigures {
        ledger: None,
        taken_at_ns: 0,
        live_bytes: Some((rss * (1.0 - free)) as u64 * 3),
        live_resident_bytes: Some((rss * (1.0 - free)) as u64),
        fragmentation_bytes: Some((rss * free) as u64),
        shared_fragmentation_bytes: 0,
        fork: None,
        trim_returnable_bytes: Some((rss * free * 0.9) as u64),
        malloc: Some(AllocatorTitle::parse("glibc 2.36")),
        stop_ns: 8_000_000,
        confidence: Confidence::High,
        verdict: ShortVerdict {
            mechanism,
            share: free * 0.9,
            fragmentation: free,
            is_in_swap: false,
        },
    });
    row
}

/// A Celery master with four children, one of them fragmented and one growing, and a lonely program
/// whose names drive a terminal.
fn view() -> HostView {
    let celery = ["/venv/bin/python3", "-m", "celery", "-A", "tasks", "worker"];
    let mut growing = walked(
        row(104, 100, 410, &celery),
        Some(Mechanism::MostlyLive),
        0.05,
    );
    growing.growth = Some(3.2 * f64::from(1 << 20));
    growing.is_growing = true;
    let mut denied = row(200, 1, 90, &["python3", "evil\x1b[2J\n.py"]);
    denied.not_walked = Some("it is traced by process 7".into());
    denied.process.group = None;
    HostView {
        rows: vec![
            walked(row(100, 1, 60, &celery), Some(Mechanism::NotTheHeap), 0.02),
            walked(
                row(101, 100, 252, &celery),
                Some(Mechanism::Untrimmed),
                0.69,
            ),
            walked(
                row(102, 100, 240, &celery),
                Some(Mechanism::ArenaSprawl),
                0.41,
            ),
            row(103, 100, 130, &celery),
            growing,
            denied,
        ],
        cost: Cost {
            elapsed_ns: 60 * SECOND,
            cpu_ns: 2 * SECOND,
            walks: 4,
            stop_ns: 32_000_000,
            longest_stop_ns: 9_000_000,
            ..Cost::default()
        },
        ..HostView::default()
    }
}

fn app(width: u16, height: u16) -> App {
    let mut app = App::new(Theme::new(true), Arrangement::default());
    update(&mut app, Message::Resize(width, height));
    update(&mut app, Message::View(Box::new(view())));
    app
}

fn frame(app: &App) -> String {
    let (width, height) = app.size;
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("it cannot fail");
    terminal
        .draw(|frame| draw(app, frame))
        .expect("it cannot fail");
    text(terminal.backend().buffer())
}

fn press(app: &mut App, code: KeyCode) -> Option<Effect> {
    update(app, Message::Key(code.into()))
}

fn chosen(app: &App) -> i32 {
    app.row().expect("a choice").process.id.pid
}

#[test]
fn the_table_at_both_sizes() {
    for (width, height) in [(80, 24), (120, 40)] {
        let mut app = app(width, height);
        golden(&format!("top_{width}x{height}"), &frame(&app));
        press(&mut app, KeyCode::Char(' '));
        golden(&format!("top_folded_{width}x{height}"), &frame(&app));
        press(&mut app, KeyCode::Char('?'));
        golden(&format!("top_help_{width}x{height}"), &frame(&app));
    }
}

#[test]
fn a_tree_has_its_verdict_above_and_the_worst_first() {
    let mut seen = view();
    seen.rows.retain(|row| row.process.id.pid != 200);
    seen.walks = Some(PlannedWalks {
        until_next_ns: 6 * SECOND,
        budget: Some(0.05),
    });
    let mut history = TreeHistory {
        came: 2,
        ended: 1,
        ..TreeHistory::default()
    };
    history.last.push_back(EndedProcess {
        pid: 99,
        is_python: true,
        rss_bytes: 180 << 20,
        age_ns: Some(2400 * SECOND),
        ..EndedProcess::default()
    });
    seen.history = Some(history);
    let by_free = Arrangement {
        sort: place_of(&FREE),
        ..Arrangement::default()
    };
    let mut app = App::new(Theme::new(true), by_free).of_tree(Some(100));
    update(&mut app, Message::Resize(120, 24));
    update(&mut app, Message::View(Box::new(seen)));
    let frame = frame(&app);
    let words = frame.split_whitespace().collect::<Vec<_>>().join(" ");
    for said in [
        "1 waits for its first walk, the next in 6 s, as the budget of 5 % allows",
        "Since it is watched 2 came and 1 ended: those that ran Python had an RSS of 180.0 MiB when last seen, after 40m.",
        "The worst is process 101 (celery -A tasks worker)",
        "COPIED",
    ] {
        assert!(words.contains(said), "{said}: {frame}");
    }
    let at = |pid: &str| {
        frame
            .lines()
            .position(|line| line.trim_start().starts_with(pid))
    };
    assert!(
        at("101 ").is_some_and(|worst| Some(worst) < at("102 ") && at("102 ") < at("104 ")),
        "{frame}"
    );
    assert!(frame.lines().count() <= 24, "{frame}");
}

#[test]
fn names_that_drive_a_terminal_do_not() {
    assert!(!frame(&app(80, 24)).contains('\x1b'));
}

#[test]
fn a_choice_follows_its_process_when_the_order_changes() {
    let mut app = app(80, 24);
    assert_eq!(chosen(&app), 100);
    press(&mut app, KeyCode::Down);
    assert_eq!(chosen(&app), 104);
    let mut later = view();
    later.rows[4].process.memory.rss_bytes = 1;
    update(&mut app, Message::View(Box::new(later)));
    assert_eq!(chosen(&app), 104);
    assert_eq!(press(&mut app, KeyCode::Enter), Some(Effect::Attach(104)));
    assert_eq!(press(&mut app, KeyCode::Char('w')), Some(Effect::Walk(104)));
    // It has exited: the choice stays where it was.
    let mut gone = view();
    gone.rows.remove(4);
    let at = app.at;
    update(&mut app, Message::View(Box::new(gone)));
    assert_eq!(app.at, at.min(app.lines.len() - 1));
}

#[test]
fn a_filter_is_typed_kept_and_cleared() {
    let mut app = app(80, 24);
    press(&mut app, KeyCode::Char('/'));
    for c in "arenasq".chars() {
        press(&mut app, KeyCode::Char(c));
    }
    press(&mut app, KeyCode::Backspace);
    press(&mut app, KeyCode::Enter);
    assert_eq!(app.lines.len(), 2, "the process and its master");
    assert!(frame(&app).contains("filter: arenas"));
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.lines.len(), 6);
    assert_eq!(press(&mut app, KeyCode::Char('q')), Some(Effect::Quit));
}

#[test]
fn nothing_is_kept_of_processes_that_are_gone() {
    let mut app = app(80, 24);
    press(&mut app, KeyCode::Char(' '));
    assert_eq!(app.arrangement.folded.len(), 1);
    update(&mut app, Message::View(Box::default()));
    assert!(app.arrangement.folded.is_empty() && app.lines.is_empty());
    assert_eq!(press(&mut app, KeyCode::Enter), None);
    assert!(frame(&app).contains("No Python process was found"));
}

#[test]
fn a_long_list_is_scrolled_to_the_choice() {
    let mut many = view();
    many.rows
        .extend((1000..1100).map(|pid| row(pid, 1, 1, &["python3", "x.py"])));
    let mut app = app(80, 24);
    update(&mut app, Message::View(Box::new(many)));
    press(&mut app, KeyCode::End);
    assert_eq!(app.at, 105);
    assert!(frame(&app).contains(&chosen(&app).to_string()));
    press(&mut app, KeyCode::Home);
    assert_eq!((app.at, app.first), (0, 0));
}

#[test]
fn control_c_interrupts_wherever_it_is_pressed() {
    let mut app = app(80, 24);
    press(&mut app, KeyCode::Char('/'));
    let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(update(&mut app, Message::Key(key)), Some(Effect::Interrupt));
}

#[test]
fn any_size_can_be_drawn() {
    for (width, height) in [(1, 1), (80, 1), (20, 60), (300, 100)] {
        frame(&app(width, height));
    }
}
