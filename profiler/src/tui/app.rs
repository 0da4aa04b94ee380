//! The state of the screen and how keys change it. No I/O.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use profiler_core::view::View;

use super::draw;
use super::map_view::MapView;
use super::screens::objects::{self, ObjectsView};
use super::screens::pages;
use super::screens::sites::{self, SitesView};
use super::screens::sizes::Sort;
use super::theme::Theme;

/// What happens to the screen.
#[derive(Debug)]
pub(super) enum Message {
    /// A key.
    Key(KeyEvent),
    /// The terminal has another size, in columns and rows.
    Resize(u16, u16),
    /// Something new to show.
    View(Box<View>),
    /// A walk of a saved session, and its position.
    Walk(Box<View>, Cursor),
    /// One line for the user.
    Note(String),
}

/// The user's requests to the session.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Leave.
    Quit,
    /// Leave: the terminal was closed.
    Closed,
    /// Leave, by Ctrl-C.
    Interrupt,
    /// Walk the heap at once.
    Walk,
    /// Read Python's objects at once.
    ReadObjects,
    /// Stop walking, or go on.
    Pause(bool),
    /// Write the exports now.
    Export,
    /// Show another walk of a saved session, by its [`Cursor::index`].
    Show(usize),
}

/// Which walk of a saved session is shown.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Cursor {
    /// Its index among those of the session, from 0 on.
    pub index: usize,
    /// The requested index: a different one if that walk is unreadable.
    pub asked: usize,
    /// How many there are.
    pub count: usize,
    /// Its number in the session, from 1 on; lost walks have numbers too.
    pub number: u64,
    /// The number of the last.
    pub last: u64,
}

/// The screens, in the order of their keys.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Tab {
    #[default]
    Overview,
    Sizes,
    Pages,
    Arenas,
    Activity,
    Why,
    Objects,
    Sites,
}

impl Tab {
    /// All of them.
    pub(super) const ALL: [Self; 8] = [
        Self::Overview,
        Self::Sizes,
        Self::Pages,
        Self::Arenas,
        Self::Activity,
        Self::Why,
        Self::Objects,
        Self::Sites,
    ];

    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Sizes => "Sizes",
            Self::Pages => "Pages",
            Self::Arenas => "Arenas",
            Self::Activity => "Activity",
            Self::Why => "Why",
            Self::Objects => "Objects",
            Self::Sites => "Sites",
        }
    }

    fn next(self, by: usize) -> Self {
        Self::ALL[(self as usize + by) % Self::ALL.len()]
    }
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct App {
    pub(super) theme: Theme,
    /// The terminal's columns and rows.
    pub(super) size: (u16, u16),
    pub(super) view: Option<Box<View>>,
    pub(super) tab: Tab,
    pub(super) help: bool,
    pub(super) paused: bool,
    /// Which walk is shown, of a saved session.
    pub(super) saved: Option<Cursor>,
    /// The walk that was requested and is not shown yet.
    wanted: Option<usize>,
    pub(super) note: Option<String>,
    /// The first line shown of the screens that scroll, by tab; the last entry is the help's.
    pub(super) scroll: [u16; Tab::ALL.len() + 1],
    pub(super) sort: Sort,
    pub(super) map: MapView,
    pub(super) objects: ObjectsView,
    pub(super) sites: SitesView,
    /// Whether Pages counts ranges of 2 MiB rather than pages.
    pub(super) by_huge: bool,
}

/// Lines that PgUp and PgDn move.
const PAGE_LINES: u16 = 10;

impl App {
    /// An empty screen.
    pub(super) fn new(theme: Theme) -> Self {
        Self {
            theme,
            size: (0, 0),
            view: None,
            tab: Tab::default(),
            help: false,
            paused: false,
            saved: None,
            wanted: None,
            note: None,
            scroll: [0; Tab::ALL.len() + 1],
            sort: Sort::default(),
            map: MapView::default(),
            objects: ObjectsView::default(),
            sites: SitesView::default(),
            by_huge: false,
        }
    }

    /// The first line shown of the present screen.
    pub(super) fn scrolled(&self) -> u16 {
        self.scroll[if self.help {
            Tab::ALL.len()
        } else {
            self.tab as usize
        }]
    }

    fn choose(&mut self, tab: Tab) {
        self.tab = tab;
        self.help = false;
    }

    fn scroll_to(&mut self, line: u16) {
        self.scroll[if self.help {
            Tab::ALL.len()
        } else {
            self.tab as usize
        }] = line;
    }
}

/// Handles a message. The result is a request to the session.
pub(super) fn update(app: &mut App, message: Message) -> Option<Effect> {
    match message {
        Message::View(view) => app.view = Some(view),
        Message::Walk(view, cursor) => {
            app.view = Some(view);
            app.saved = Some(cursor);
            app.wanted = app.wanted.filter(|wanted| *wanted != cursor.asked);
        }
        Message::Note(note) => app.note = Some(note),
        Message::Resize(width, height) => app.size = (width, height),
        Message::Key(key) => {
            app.note = None;
            return press(app, key);
        }
    }
    None
}

/// The walk of a saved session that a key leads to; `None` for other keys. Arrows, Home and End do
/// if they move nothing else.
fn walk_of(app: &App, code: KeyCode) -> Option<usize> {
    let cursor = app.saved?;
    let (from, last) = (app.wanted.unwrap_or(cursor.index), cursor.count - 1);
    let moves = app.help || app.tab == Tab::Pages;
    Some(match code {
        KeyCode::Char('[') => from.saturating_sub(1),
        KeyCode::Char(']') => last.min(from + 1),
        KeyCode::Char('{') => 0,
        KeyCode::Char('}') => last,
        KeyCode::Left if !moves => from.saturating_sub(1),
        KeyCode::Right if !moves => last.min(from + 1),
        KeyCode::Home if !moves => 0,
        KeyCode::End if !moves => last,
        _ => return None,
    })
}

/// Requests another walk of a saved session, unless it is shown or already requested.
fn show(app: &mut App, walk: usize) -> Option<Effect> {
    let shown = app.saved.map(|cursor| cursor.index);
    if app.wanted.or(shown) == Some(walk) {
        return None;
    }
    app.wanted = Some(walk);
    Some(Effect::Show(walk))
}

fn press(app: &mut App, key: KeyEvent) -> Option<Effect> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let on_objects = app.tab == Tab::Objects && !app.help;
    if on_objects && app.objects.is_typing() && !control {
        app.objects.press(key.code, 0);
        return None;
    }
    let on_sites = app.tab == Tab::Sites && !app.help;
    if on_sites && app.sites.is_typing() && !control {
        sites::press(app, key.code);
        return None;
    }
    if let Some(walk) = walk_of(app, key.code) {
        return show(app, walk);
    }
    match key.code {
        KeyCode::Char('c') if control => return Some(Effect::Interrupt),
        KeyCode::Char('q') | KeyCode::F(10) if !app.help => return Some(Effect::Quit),
        KeyCode::Esc if on_objects => app.objects.press(key.code, 0),
        KeyCode::Esc if on_sites => sites::press(app, key.code),
        KeyCode::Esc | KeyCode::Char('q') => app.help = false,
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => app.help = !app.help,
        KeyCode::Char('9') => app.help = true,
        KeyCode::Char(digit @ '1'..='8') => {
            app.choose(Tab::ALL[digit as usize - '1' as usize]);
        }
        KeyCode::Tab => app.choose(app.tab.next(1)),
        KeyCode::BackTab => app.choose(app.tab.next(Tab::ALL.len() - 1)),
        KeyCode::Char('p' | ' ' | 'w' | 'o') if app.saved.is_some() => {
            app.note = Some("this is a saved session: it cannot be walked again".into());
        }
        KeyCode::Char('p' | ' ') => {
            app.paused = !app.paused;
            return Some(Effect::Pause(app.paused));
        }
        KeyCode::Char('w') => return Some(Effect::Walk),
        KeyCode::Char('o') => return Some(Effect::ReadObjects),
        KeyCode::Char('e') => return Some(Effect::Export),
        KeyCode::Char('t') if app.tab == Tab::Pages && !app.help => app.by_huge = !app.by_huge,
        code if app.tab == Tab::Pages && !app.help => {
            let room = pages::map_area(draw::body(app));
            if let Some(view) = &app.view {
                let map = &view.report.map;
                app.map.press(code, map, room.width, room.height);
            }
        }
        KeyCode::Left | KeyCode::Right => scroll(app, key.code),
        code if on_objects => {
            let rows = app
                .view
                .as_deref()
                .map(|view| objects::row_count(app, view));
            app.objects.press(code, rows.unwrap_or(0));
        }
        code if on_sites => sites::press(app, code),
        code => scroll(app, code),
    }
    None
}

fn scroll(app: &mut App, code: KeyCode) {
    let last = last_line(app);
    // A screen may have become shorter since.
    let line = app.scrolled().min(last);
    let to = match code {
        KeyCode::Down | KeyCode::Char('j') => line.saturating_add(1),
        KeyCode::Up | KeyCode::Char('k') => line.saturating_sub(1),
        KeyCode::PageDown => line.saturating_add(PAGE_LINES),
        KeyCode::PageUp => line.saturating_sub(PAGE_LINES),
        KeyCode::Home => 0,
        KeyCode::End => last,
        KeyCode::Char('s') if app.tab == Tab::Sizes => return app.sort.next(),
        KeyCode::Char('S') if app.tab == Tab::Sizes => return app.sort.reverse(),
        KeyCode::Right => return app.choose(app.tab.next(1)),
        KeyCode::Left => return app.choose(app.tab.next(Tab::ALL.len() - 1)),
        _ => return,
    };
    app.scroll_to(to.min(last));
}

/// The last line to which the present screen can be scrolled.
fn last_line(app: &App) -> u16 {
    let body = draw::body(app);
    let lines = app
        .view
        .as_deref()
        .and_then(|view| draw::lines(app, view, body.width));
    let lines = lines.map_or(0, |lines| lines.len());
    let hidden = lines.saturating_sub(usize::from(body.height));
    u16::try_from(hidden).unwrap_or(u16::MAX)
}
