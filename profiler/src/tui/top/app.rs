//! The state of the screen of all processes and how keys change it. No I/O.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use profiler_core::host::{Arrangement, COLUMNS, HostView, Line, ProcessId, ProcessRow, lines};

use super::Effect;
use super::draw;
use crate::tui::theme::Theme;

/// What happens to the screen.
#[derive(Debug)]
pub(super) enum Message {
    /// A key.
    Key(KeyEvent),
    /// The terminal has another size, in columns and rows.
    Resize(u16, u16),
    /// Something new to show.
    View(Box<HostView>),
    /// One line for the user.
    Note(String),
}

/// The longest filter, in characters.
const LONGEST_FILTER: usize = 64;

/// The state of the screen.
#[derive(Debug)]
pub(super) struct App {
    pub(super) theme: Theme,
    /// The terminal's columns and rows.
    pub(super) size: (u16, u16),
    pub(super) view: Option<Box<HostView>>,
    pub(super) arrangement: Arrangement,
    /// The master of the tree that is shown as one unit; `None` if all processes are shown.
    pub(super) tree_of: Option<i32>,
    /// The lines of the table, rebuilt with each change.
    pub(super) lines: Vec<Line>,
    /// The selected line, and its process, which the selection follows.
    pub(super) at: usize,
    chosen: Option<ProcessId>,
    /// The first line that is shown.
    pub(super) first: usize,
    /// Whether keys go into the filter.
    pub(super) is_typing: bool,
    pub(super) help: bool,
    pub(super) note: Option<String>,
}

impl App {
    /// An empty screen.
    pub(super) fn new(theme: Theme, arrangement: Arrangement) -> Self {
        Self {
            theme,
            size: (0, 0),
            view: None,
            arrangement,
            tree_of: None,
            lines: Vec::new(),
            at: 0,
            chosen: None,
            first: 0,
            is_typing: false,
            help: false,
            note: None,
        }
    }

    /// The same for the tree of a master, if one is given.
    pub(super) fn of_tree(self, master: Option<i32>) -> Self {
        Self {
            tree_of: master,
            ..self
        }
    }

    /// The rows of the view.
    pub(super) fn rows(&self) -> &[ProcessRow] {
        self.view.as_ref().map_or(&[], |view| &view.rows)
    }

    /// The process on the chosen line.
    pub(super) fn row(&self) -> Option<&ProcessRow> {
        self.rows().get(self.lines.get(self.at)?.row)
    }

    fn id_at(&self, at: usize) -> Option<ProcessId> {
        Some(self.rows().get(self.lines.get(at)?.row)?.process.id)
    }

    /// Rebuilds the lines. The selection stays with its process, or else at its line.
    fn arrange(&mut self) {
        self.lines = lines(self.rows(), &self.arrangement);
        let of_chosen = |at: &usize| self.chosen.is_some() && self.id_at(*at) == self.chosen;
        let at = (0..self.lines.len()).find(of_chosen).unwrap_or(self.at);
        self.choose(at);
    }

    /// Selects a line, and scrolls so that it is visible.
    fn choose(&mut self, at: usize) {
        self.at = at.min(self.lines.len().saturating_sub(1));
        self.chosen = self.id_at(self.at);
        let room = draw::room(self).max(1);
        self.first = self
            .first
            .clamp((self.at + 1).saturating_sub(room), self.at);
        // Lines scrolled away are shown again if there is space.
        self.first = self.first.min(self.lines.len().saturating_sub(room));
    }

    fn fold(&mut self, fold: impl Fn(bool) -> bool) {
        let line = self.lines.get(self.at).filter(|line| line.descendants > 0);
        if let (Some(line), Some(id)) = (line, self.chosen) {
            match fold(line.is_folded) {
                true => self.arrangement.folded.insert(id),
                false => self.arrangement.folded.remove(&id),
            };
        }
    }
}

/// Handles a message. The result is a request to the session.
pub(super) fn update(app: &mut App, message: Message) -> Option<Effect> {
    let mut effect = None;
    match message {
        Message::View(view) => {
            let there: std::collections::BTreeSet<_> =
                view.rows.iter().map(|row| row.process.id).collect();
            // Nothing is kept of processes that are gone.
            app.arrangement.folded.retain(|id| there.contains(id));
            app.view = Some(view);
        }
        Message::Note(note) => app.note = Some(note),
        Message::Resize(width, height) => app.size = (width, height),
        Message::Key(key) => {
            app.note = None;
            effect = press(app, key);
        }
    }
    app.arrange();
    effect
}

fn press(app: &mut App, key: KeyEvent) -> Option<Effect> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control {
        return (key.code == KeyCode::Char('c')).then_some(Effect::Interrupt);
    }
    if app.is_typing {
        type_filter(app, key.code);
        return None;
    }
    if app.help {
        app.help = !matches!(
            key.code,
            KeyCode::Esc | KeyCode::Char('q' | '?' | 'h') | KeyCode::F(1)
        );
        return None;
    }
    let page = draw::room(app).saturating_sub(1).max(1);
    match key.code {
        KeyCode::Char('q') | KeyCode::F(10) => return Some(Effect::Quit),
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => app.help = true,
        KeyCode::Down | KeyCode::Char('j') => app.choose(app.at + 1),
        KeyCode::Up | KeyCode::Char('k') => app.choose(app.at.saturating_sub(1)),
        KeyCode::PageDown => app.choose(app.at.saturating_add(page)),
        KeyCode::PageUp => app.choose(app.at.saturating_sub(page)),
        KeyCode::Home => app.choose(0),
        KeyCode::End => app.choose(usize::MAX),
        KeyCode::Enter => return app.row().map(|row| Effect::Attach(row.process.id.pid)),
        KeyCode::Char('w') => return app.row().map(|row| Effect::Walk(row.process.id.pid)),
        KeyCode::Char(' ') => app.fold(|is_folded| !is_folded),
        KeyCode::Char('-') | KeyCode::Left => app.fold(|_| true),
        KeyCode::Char('+') | KeyCode::Right => app.fold(|_| false),
        KeyCode::Char('t') | KeyCode::F(5) => app.arrangement.tree = !app.arrangement.tree,
        KeyCode::Char('s' | '>') | KeyCode::F(6) => sort(app, 1),
        KeyCode::Char('<') => sort(app, COLUMNS.len() - 1),
        KeyCode::Char('S' | 'I') => app.arrangement.reversed = !app.arrangement.reversed,
        KeyCode::Char('/') | KeyCode::F(4) => app.is_typing = true,
        KeyCode::Esc => app.arrangement.filter.clear(),
        _ => {}
    }
    None
}

fn sort(app: &mut App, by: usize) {
    app.arrangement.sort = (app.arrangement.sort + by) % COLUMNS.len();
    app.arrangement.reversed = false;
}

fn type_filter(app: &mut App, code: KeyCode) {
    let filter = &mut app.arrangement.filter;
    match code {
        KeyCode::Enter => app.is_typing = false,
        KeyCode::Esc => {
            filter.clear();
            app.is_typing = false;
        }
        KeyCode::Backspace => drop(filter.pop()),
        KeyCode::Char(c) if filter.chars().count() < LONGEST_FILTER => filter.push(c),
        _ => {}
    }
}
