//! Where a stream comes from: a trace, or a recording of another tool.

use std::io::Read;

use super::{Description, Item, ReadError, Reader};

/// Gives a recorded stream, item by item.
pub trait Source {
    /// What is known of the program.
    fn description(&self) -> &Description;

    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// When what follows cannot be read; nothing follows an error.
    fn next_item(&mut self) -> Result<Option<Item>, ReadError>;

    /// Whether the end was reached as it was written.
    fn is_whole(&self) -> bool;
}

impl<R: Read> Source for Reader<R> {
    fn description(&self) -> &Description {
        Reader::description(self)
    }

    fn next_item(&mut self) -> Result<Option<Item>, ReadError> {
        Reader::next_item(self)
    }

    fn is_whole(&self) -> bool {
        Reader::is_whole(self)
    }
}

impl<S: Source + ?Sized> Source for Box<S> {
    fn description(&self) -> &Description {
        (**self).description()
    }

    fn next_item(&mut self) -> Result<Option<Item>, ReadError> {
        (**self).next_item()
    }

    fn is_whole(&self) -> bool {
        (**self).is_whole()
    }
}
