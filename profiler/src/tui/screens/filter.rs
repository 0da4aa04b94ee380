//! Text typed by the user to show only the rows that contain it.

use crossterm::event::KeyCode;
use ratatui::text::Span;

use crate::tui::theme::Theme;

/// The filter's text, and whether it is being typed.
#[derive(Clone, Debug, Default)]
pub(in crate::tui) struct Filter {
    text: String,
    is_typing: bool,
}

impl Filter {
    /// Whether all keys are added to it.
    pub(in crate::tui) fn is_typing(&self) -> bool {
        self.is_typing
    }

    /// From now on all keys are.
    pub(super) fn begin(&mut self) {
        self.is_typing = true;
    }

    /// Lets all rows pass.
    pub(super) fn clear(&mut self) {
        self.text.clear();
    }

    /// Handles a key while it is typed; returns whether that may have changed which rows match.
    pub(super) fn type_in(&mut self, code: KeyCode) -> bool {
        match code {
            KeyCode::Char(letter) => self.text.push(letter),
            KeyCode::Backspace => {
                self.text.pop();
            }
            KeyCode::Esc => {
                self.text.clear();
                self.is_typing = false;
            }
            KeyCode::Enter => self.is_typing = false,
            _ => return false,
        }
        true
    }

    /// Whether a name matches, ignoring case.
    pub(super) fn passes(&self, name: &str) -> bool {
        self.text.is_empty() || name.to_lowercase().contains(&self.text.to_lowercase())
    }

    /// The filter and how to remove it, if there is one.
    pub(super) fn shown(&self, theme: Theme) -> Option<Span<'static>> {
        let cursor = if self.is_typing { "▏" } else { "" };
        let text = format!("  /{}{cursor}  Esc clears", self.text);
        (self.is_typing || !self.text.is_empty()).then(|| Span::styled(text, theme.strong()))
    }
}
