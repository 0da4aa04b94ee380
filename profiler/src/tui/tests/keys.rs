//! What each key does.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::app::{App, Cursor, Effect, Message, Tab, update};
use super::{app, frame, saved, text, walk};

fn press(app: &mut App, code: KeyCode) -> Option<Effect> {
    update(app, Message::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn shown(app: &App) -> String {
    text(&frame(app, 80, 24))
}

#[test]
fn keys_that_the_session_hears() {
    let mut app = app(80, 24);
    assert_eq!(press(&mut app, KeyCode::Char('e')), Some(Effect::Export));
    assert_eq!(press(&mut app, KeyCode::Char('w')), Some(Effect::Walk));
    assert_eq!(
        press(&mut app, KeyCode::Char('o')),
        Some(Effect::ReadObjects)
    );
    assert_eq!(
        press(&mut app, KeyCode::Char('p')),
        Some(Effect::Pause(true))
    );
    assert!(shown(&app).contains("PAUSED"));
    assert_eq!(
        press(&mut app, KeyCode::Char(' ')),
        Some(Effect::Pause(false))
    );
    assert!(!shown(&app).contains("PAUSED"));
    assert_eq!(press(&mut app, KeyCode::Char('q')), Some(Effect::Quit));
    assert_eq!(press(&mut app, KeyCode::F(10)), Some(Effect::Quit));
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(
        update(&mut app, Message::Key(control_c)),
        Some(Effect::Interrupt)
    );
}

#[test]
fn keys_that_choose_a_screen() {
    let mut app = app(80, 24);
    for (index, tab) in Tab::ALL.into_iter().enumerate() {
        let digit = char::from(b'1' + index as u8);
        assert_eq!(press(&mut app, KeyCode::Char(digit)), None);
        assert_eq!(app.tab, tab);
    }
    press(&mut app, KeyCode::Tab);
    assert_eq!(app.tab, Tab::Overview);
    press(&mut app, KeyCode::BackTab);
    assert_eq!(app.tab, Tab::Sites);
    press(&mut app, KeyCode::Left);
    assert_eq!(app.tab, Tab::Objects);
    press(&mut app, KeyCode::Right);
    assert_eq!(app.tab, Tab::Sites);
}

#[test]
fn objects_are_filtered_by_what_is_typed() {
    let mut app = app(80, 24);
    press(&mut app, KeyCode::Char('7'));
    press(&mut app, KeyCode::Char('/'));
    // Keys that lead elsewhere are letters while they are typed.
    for letter in "POOLq".chars() {
        assert_eq!(press(&mut app, KeyCode::Char(letter)), None);
    }
    press(&mut app, KeyCode::Backspace);
    press(&mut app, KeyCode::Enter);
    let found = shown(&app);
    assert!(
        found.contains("app.db.POOL") && !found.contains("SESSIONS"),
        "{found}"
    );
    press(&mut app, KeyCode::Enter);
    assert!(shown(&app).contains("shared with app.db.connections, app.web.pool"));
    press(&mut app, KeyCode::Char('/'));
    press(&mut app, KeyCode::Esc);
    assert!(shown(&app).contains("SESSIONS"));
    let filter = |app: &mut App| {
        for key in [KeyCode::Char('/'), KeyCode::Char('l'), KeyCode::Enter] {
            press(app, key);
        }
        assert!(shown(app).contains("/l  Esc clears"));
        assert!(!shown(app).contains("SESSIONS"));
    };
    // One that was kept is cleared, too.
    filter(&mut app);
    assert_eq!(press(&mut app, KeyCode::Esc), None);
    assert!(shown(&app).contains("SESSIONS"));
    // Another table has other names.
    filter(&mut app);
    press(&mut app, KeyCode::Char('t'));
    assert!(!shown(&app).contains("/l"), "{}", shown(&app));
}

#[test]
fn objects_are_sorted_by_each_column() {
    let mut app = app(80, 24);
    press(&mut app, KeyCode::Char('7'));
    let first = |app: &App| {
        let found = shown(app);
        let row = found.lines().find(|line| line.starts_with('▸'));
        row.and_then(|row| row.rsplit(' ').next())
            .map(str::to_owned)
    };
    assert_eq!(first(&app).as_deref(), Some("app.tasks.SESSIONS"));
    for _ in 0..3 {
        press(&mut app, KeyCode::Char('s'));
    }
    assert_eq!(first(&app).as_deref(), Some("app.cache.remember"));
    press(&mut app, KeyCode::Char('S'));
    assert_eq!(first(&app).as_deref(), Some("app.tasks.SESSIONS"));
}

/// What the selected row is of: all behind its figures.
fn selected(app: &App) -> String {
    let found = shown(app);
    let row = found.lines().find(|line| line.starts_with('▸'));
    let row = row.unwrap_or_default().trim_start_matches('▸');
    let words = row.split_whitespace().skip_while(|word| {
        word.starts_with(|first: char| "±+-".contains(first) || first.is_ascii_digit())
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn sites_are_sorted_by_each_column_filtered_and_opened() {
    let mut app = app(80, 24);
    press(&mut app, KeyCode::Char('8'));
    assert!(selected(&app).starts_with("JSONEncoder"), "{}", shown(&app));
    // By error, share, unfreed, stays, pins, grew, name.
    let wanted = ["JSON", "JSON", "JSON", "load", "JSON", "load", "(no Python"];
    for (at, wanted) in wanted.into_iter().enumerate() {
        press(&mut app, KeyCode::Char('s'));
        let found = selected(&app);
        assert!(found.starts_with(wanted), "{at}: {found}\n{}", shown(&app));
    }
    press(&mut app, KeyCode::Char('S'));
    press(&mut app, KeyCode::Home);
    assert!(selected(&app).starts_with("report"), "{}", shown(&app));
    press(&mut app, KeyCode::Char('/'));
    for letter in "Loadq".chars() {
        assert_eq!(press(&mut app, KeyCode::Char(letter)), None);
    }
    press(&mut app, KeyCode::Backspace);
    press(&mut app, KeyCode::Enter);
    assert!(selected(&app).starts_with("load"), "{}", shown(&app));
    assert!(!shown(&app).contains("JSON"));
    // In stacks from outside any function counts.
    press(&mut app, KeyCode::Char('t'));
    assert!(selected(&app).starts_with("Worker.run"), "{}", shown(&app));
    let rows = shown(&app).lines().count();
    press(&mut app, KeyCode::Enter);
    assert!(
        shown(&app).contains("worker.py:41), ") || shown(&app).contains("/srv/app/worker.py:41")
    );
    press(&mut app, KeyCode::Down);
    assert!(selected(&app).starts_with("load"), "{}", shown(&app));
    press(&mut app, KeyCode::Up);
    press(&mut app, KeyCode::Enter);
    assert_eq!(shown(&app).lines().count(), rows);
    assert!(!shown(&app).contains("/srv/app/worker.py:41"));
    assert_eq!(press(&mut app, KeyCode::Esc), None);
    assert!(!shown(&app).contains("Esc clears"));
}

#[test]
fn a_saved_session_is_stepped_through() {
    let mut app = saved(80, 24);
    let show = |index| Some(Effect::Show(index));
    for (next, before) in [(']', '['), (']', '[')] {
        assert_eq!(press(&mut app, KeyCode::Char(next)), show(3));
        assert_eq!(press(&mut app, KeyCode::Char(before)), show(2));
    }
    // What is shown already is not asked for again, and what is asked for is stepped from.
    update(&mut app, walk(2));
    assert_eq!(press(&mut app, KeyCode::Right), show(3));
    assert_eq!(press(&mut app, KeyCode::Right), show(4));
    assert_eq!(press(&mut app, KeyCode::End), show(16));
    assert_eq!(press(&mut app, KeyCode::Char(']')), None);
    update(&mut app, walk(3));
    assert_eq!(press(&mut app, KeyCode::Left), show(15));
    assert_eq!(press(&mut app, KeyCode::Home), show(0));
    assert_eq!(press(&mut app, KeyCode::Char('[')), None);
    update(&mut app, walk(0));
    assert!(shown(&app).contains("walk 1 of 17"));
    assert_eq!(press(&mut app, KeyCode::Char('}')), show(16));
    assert_eq!(press(&mut app, KeyCode::Char('{')), show(0));
}

#[test]
fn arrows_move_over_the_map_of_a_saved_session() {
    let mut app = saved(80, 24);
    press(&mut app, KeyCode::Char('3'));
    for key in [KeyCode::Right, KeyCode::End, KeyCode::Home, KeyCode::Left] {
        assert_eq!(press(&mut app, key), None, "{key:?}");
    }
    assert_eq!(press(&mut app, KeyCode::Char(']')), Some(Effect::Show(3)));
}

#[test]
fn where_a_walk_cannot_be_read_the_next_step_begins_at_the_one_that_is_shown() {
    let mut app = saved(80, 24);
    assert_eq!(press(&mut app, KeyCode::Char('[')), Some(Effect::Show(1)));
    let Message::Walk(view, cursor) = walk(0) else {
        unreachable!("it makes no other")
    };
    update(&mut app, Message::Walk(view, Cursor { asked: 1, ..cursor }));
    assert_eq!(press(&mut app, KeyCode::Char(']')), Some(Effect::Show(1)));
}

#[test]
fn a_saved_session_is_neither_walked_nor_paused_and_live_ones_have_no_walks_to_step() {
    let mut app = saved(80, 24);
    for key in ['p', ' ', 'w'] {
        assert_eq!(press(&mut app, KeyCode::Char(key)), None);
        assert!(shown(&app).contains("it cannot be walked again"));
        assert!(!app.paused);
    }
    assert_eq!(press(&mut app, KeyCode::Char('e')), Some(Effect::Export));
    let mut live = self::app(80, 24);
    for key in ['[', ']', '{', '}'] {
        assert_eq!(press(&mut live, KeyCode::Char(key)), None);
    }
}

#[test]
fn help_covers_the_screen_until_it_is_left() {
    for enter in [
        KeyCode::Char('?'),
        KeyCode::Char('h'),
        KeyCode::F(1),
        KeyCode::Char('9'),
    ] {
        let mut app = app(80, 24);
        let before = shown(&app);
        assert_eq!(press(&mut app, enter), None);
        assert!(shown(&app).contains("Keys"));
        assert_eq!(press(&mut app, KeyCode::Esc), None);
        assert_eq!(shown(&app), before);
        press(&mut app, enter);
        press(&mut app, KeyCode::Tab);
        assert!(!app.help, "another screen was chosen");
    }
}

#[test]
fn scrolling_ends_where_the_lines_end() {
    for tab in ['2', '6', '?'] {
        let mut app = app(80, 24);
        press(&mut app, KeyCode::Char(tab));
        let first = shown(&app);
        for _ in 0..100 {
            press(&mut app, KeyCode::PageDown);
        }
        let last = shown(&app);
        assert_ne!(first, last, "{tab}");
        press(&mut app, KeyCode::Up);
        assert_ne!(shown(&app), last, "{tab}: one step back is seen at once");
        press(&mut app, KeyCode::End);
        assert_eq!(shown(&app), last, "{tab}");
        press(&mut app, KeyCode::Home);
        assert_eq!(shown(&app), first, "{tab}");
    }
}

#[test]
fn sizes_are_sorted_by_each_column_both_ways() {
    let mut app = app(80, 24);
    press(&mut app, KeyCode::Char('2'));
    let mut seen = std::collections::HashSet::new();
    for _ in 0..5 {
        assert!(seen.insert(shown(&app)));
        press(&mut app, KeyCode::Char('S'));
        assert!(seen.insert(shown(&app)));
        press(&mut app, KeyCode::Char('s'));
    }
    assert!(seen.contains(&shown(&app)), "the sixth is the first again");
}

#[test]
fn the_map_is_moved_over_row_by_row_and_zoomed() {
    let mut app = app(80, 24);
    press(&mut app, KeyCode::Char('3'));
    let address = |app: &App| {
        let found = shown(app);
        let at = found.find("0x").expect("the cursor's address");
        let digits = found[at + 2..]
            .split(|c: char| !c.is_ascii_hexdigit())
            .next();
        u64::from_str_radix(digits.unwrap_or_default(), 16).expect("a number")
    };
    for _ in 0..9 {
        press(&mut app, KeyCode::Char('+'));
    }
    let start = address(&app);
    assert_eq!(start, 0x5555_5575_0000);
    press(&mut app, KeyCode::Right);
    assert_eq!(
        address(&app) - start,
        4096,
        "a page a cell at the last zoom"
    );
    press(&mut app, KeyCode::Left);
    press(&mut app, KeyCode::Down);
    let row = address(&app) - start;
    assert!(row > 4096 && row.is_multiple_of(4096));
    press(&mut app, KeyCode::PageDown);
    assert!(address(&app) > start + row);
    press(&mut app, KeyCode::Home);
    assert_eq!(address(&app), start);
    press(&mut app, KeyCode::Up);
    assert_eq!(address(&app), start, "nothing lies above");
    press(&mut app, KeyCode::End);
    let end = address(&app);
    press(&mut app, KeyCode::PageDown);
    assert_eq!(address(&app), end, "nothing lies below");
    press(&mut app, KeyCode::Char('-'));
    press(&mut app, KeyCode::Right);
    assert!(address(&app) <= end);
    press(&mut app, KeyCode::Char('0'));
    assert!(shown(&app).contains("map"));
}

#[test]
fn a_note_stays_until_the_next_key() {
    let mut app = app(80, 24);
    update(&mut app, Message::Note("wrote out.json".into()));
    assert!(shown(&app).contains("wrote out.json"));
    press(&mut app, KeyCode::Tab);
    assert!(!shown(&app).contains("wrote out.json"));
}
