//! Colours, and their substitutes on terminals without colours.

use profiler_core::completeness::Confidence;
use profiler_core::report::LedgerClass;
use ratatui::style::{Color, Modifier, Style};

use super::terminal;

/// The appearance. It uses the sixteen colours of the terminal's own palette, so that dark and
/// light backgrounds both work.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Theme {
    colour: bool,
}

impl Theme {
    /// In colour, unless `NO_COLOR` is set to something.
    pub(super) fn from_environment() -> Self {
        Self {
            colour: terminal::has_colour(),
        }
    }

    /// In colour or not.
    #[cfg(test)]
    pub(super) fn new(colour: bool) -> Self {
        Self { colour }
    }

    fn fg(self, colour: Color) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    /// Headings.
    pub(super) fn title(self) -> Style {
        self.fg(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    /// What is selected.
    pub(super) fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD)
    }

    /// What is less important.
    pub(super) fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// What wants attention.
    pub(super) fn warn(self) -> Style {
        self.fg(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    /// Errors and problems.
    pub(super) fn bad(self) -> Style {
        self.fg(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// The verdict.
    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// How sure a thing is.
    pub(super) fn confidence(self, confidence: Confidence) -> Style {
        match confidence {
            Confidence::High => self.fg(Color::Green),
            Confidence::Medium => self.warn(),
            Confidence::Low | Confidence::None => self.bad(),
        }
    }

    /// A class of the ledger: in use green, returned on request yellow, stuck red.
    pub(super) fn ledger(self, class: LedgerClass) -> Style {
        self.fg(match class {
            LedgerClass::Live | LedgerClass::PymallocLive | LedgerClass::LargeMapped => {
                Color::Green
            }
            LedgerClass::FreeTrimmable | LedgerClass::Top | LedgerClass::Cached => Color::Yellow,
            LedgerClass::FreeStuck | LedgerClass::FreePinned | LedgerClass::PymallocFree => {
                Color::Red
            }
            LedgerClass::File
            | LedgerClass::SharedMemory
            | LedgerClass::Stacks
            | LedgerClass::OtherAnonymous => Color::Blue,
            LedgerClass::InternalSlop
            | LedgerClass::AllocatorMetadata
            | LedgerClass::PrivateHeap => Color::Cyan,
            LedgerClass::Unknown => Color::Magenta,
        })
    }

    /// A page by its fullness, 0 to 1.
    pub(super) fn fullness(self, fullness: f64) -> Style {
        self.fg(match fullness {
            f if f <= 0.25 => Color::Red,
            f if f <= 0.5 => Color::LightRed,
            f if f <= 0.75 => Color::Yellow,
            _ => Color::Green,
        })
    }

    /// A page in swap.
    pub(super) fn swapped(self) -> Style {
        self.fg(Color::Magenta)
    }

    /// The first and the second curve of the chart.
    pub(super) fn curves(self) -> (Style, Style) {
        (self.fg(Color::Cyan), self.fg(Color::Green))
    }
}
