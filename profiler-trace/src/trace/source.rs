//! The source of a stream: a trace, or a recording of another tool.

use std::io::{self, Read};

use super::{Item, ReadError, Reader, TraceDescription};
use crate::limits::{Incomplete, Stopped};

/// Why a stream was not passed on.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A signal came.
    #[error("interrupted")]
    Interrupted,
    /// The receiver failed.
    #[error(transparent)]
    Taker(io::Error),
}

/// Passes a stream on, item by item, as far as it can be read. Returns why it did not get to the
/// end; `None` if it did.
///
/// # Errors
/// If a signal came, or `take` failed for another reason than a limit.
pub fn pass_on(
    source: &mut dyn TraceSource,
    mut take: impl FnMut(Item) -> io::Result<()>,
) -> Result<Option<Incomplete>, PassError> {
    let mut events = 0u64;
    loop {
        let item = match source.next_item() {
            Ok(Some(item)) => {
                events += u64::from(matches!(item, Item::Event(_)));
                item
            }
            Ok(None) if source.is_complete() => return Ok(None),
            Ok(None) => {
                let what = format!("the recording was cut off: {events} events of it were read");
                return Ok(Some(what.into()));
            }
            Err(ReadError::Stopped(Stopped::Interrupted)) => return Err(PassError::Interrupted),
            Err(ReadError::Stopped(limit)) => return Ok(Some((&limit).into())),
            Err(error) => return Ok(Some(error.to_string().into())),
        };
        if let Err(error) = take(item) {
            return match Stopped::of(&error) {
                Some(Stopped::Interrupted) => Err(PassError::Interrupted),
                Some(limit) => Ok(Some(limit.into())),
                None => Err(PassError::Taker(error)),
            };
        }
    }
}

/// Gives a recorded stream, item by item.
pub trait TraceSource {
    /// What is known of the program.
    fn description(&self) -> &TraceDescription;

    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// When what follows cannot be read; nothing follows an error.
    fn next_item(&mut self) -> Result<Option<Item>, ReadError>;

    /// Whether the proper end was reached.
    fn is_complete(&self) -> bool;
}

impl<R: Read> TraceSource for Reader<R> {
    fn description(&self) -> &TraceDescription {
        Reader::description(self)
    }

    fn next_item(&mut self) -> Result<Option<Item>, ReadError> {
        Reader::next_item(self)
    }

    fn is_complete(&self) -> bool {
        Reader::is_complete(self)
    }
}

impl<S: TraceSource + ?Sized> TraceSource for Box<S> {
    fn description(&self) -> &TraceDescription {
        (**self).description()
    }

    fn next_item(&mut self) -> Result<Option<Item>, ReadError> {
        (**self).next_item()
    }

    fn is_complete(&self) -> bool {
        (**self).is_complete()
    }
}
