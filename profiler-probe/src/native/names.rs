//! Names of symbols as they are shown.

use std::fmt::{self, Write};

use cpp_demangle::DemangleOptions;

/// A name is cut at this many bytes: template names can be arbitrarily long.
const MAX_NAME: usize = 256;
/// A longer symbol is shown as it is: demangling it could take long.
const MAX_SYMBOL: usize = 16 << 10;

/// The name of a C++ or Rust function without its parameters, else the symbol itself.
pub(super) fn shown(symbol: &str) -> String {
    let demangled = (symbol.len() <= MAX_SYMBOL)
        .then(|| rust(symbol).or_else(|| cpp(symbol)))
        .flatten();
    demangled.unwrap_or_else(|| {
        let mut name = Bounded::default();
        // The buffer is full, and says so.
        let _full = name.write_str(symbol);
        name.finish()
    })
}

fn rust(symbol: &str) -> Option<String> {
    let name = rustc_demangle::try_demangle(symbol).ok()?;
    let mut out = Bounded::default();
    // Without the hash.
    let written = write!(out, "{name:#}");
    out.if_written(written)
}

fn cpp(symbol: &str) -> Option<String> {
    if !symbol.starts_with("_Z") {
        return None;
    }
    let name = cpp_demangle::Symbol::new(symbol).ok()?;
    let mut out = Bounded::default();
    let options = DemangleOptions::new().no_params().no_return_type();
    let written = name.structured_demangle(&mut out, &options);
    out.if_written(written)
}

/// Text up to a length; beyond it, writing fails.
#[derive(Default)]
struct Bounded {
    text: String,
    is_full: bool,
}

impl Bounded {
    /// The name; `None` if writing failed for another reason than its length.
    fn if_written(self, written: fmt::Result) -> Option<String> {
        let is_name = (written.is_ok() || self.is_full) && !self.text.is_empty();
        is_name.then(|| self.finish())
    }

    fn finish(mut self) -> String {
        if self.is_full {
            self.text.push('…');
        }
        self.text
    }
}

impl Write for Bounded {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = MAX_NAME.saturating_sub(self.text.len());
        if more.len() <= room {
            self.text.push_str(more);
            return Ok(());
        }
        self.text.push_str(&more[..more.floor_char_boundary(room)]);
        self.is_full = true;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_cpp_and_rust_are_as_they_are_written() {
        for (symbol, name) in [
            ("PyDict_New", "PyDict_New"),
            (
                "_ZN5arrow10PoolBuffer6ResizeElb",
                "arrow::PoolBuffer::Resize",
            ),
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            ("_RNvC7mycrate3run", "mycrate::run"),
            ("_Zwhatever", "_Zwhatever"),
        ] {
            assert_eq!(shown(symbol), name);
        }
    }

    #[test]
    fn names_without_end_are_cut() {
        let long = "a".repeat(1000);
        assert_eq!(shown(&long), format!("{}…", "a".repeat(MAX_NAME)));
        // Each argument contains the previous one twice: the last would need more memory than there
        // is.
        let mut symbol = String::from("_Z1fI1A1BIS0_S0_E");
        for before in 2..30u32 {
            let digit = char::from_digit(before, 36)
                .expect("a digit")
                .to_ascii_uppercase();
            symbol.push_str(&format!("S1_IS{digit}_S{digit}_E"));
        }
        symbol.push_str("Evv");
        let name = shown(&symbol);
        assert!(
            name.starts_with("f<A, B<A, A>, B<B<A, A>, B<A, A> >"),
            "{name}"
        );
        assert!(name.len() <= MAX_NAME + 4, "{name}");
        assert!(shown(&format!("_Z{}", "N1a".repeat(20_000))).len() <= MAX_NAME + 4);
    }
}
