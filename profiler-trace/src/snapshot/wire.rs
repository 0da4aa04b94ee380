//! Encoding and decoding of plain values: one trait, and macros that name the fields of a struct
//! once for both directions.
//!
//! A struct is preceded by its length, so that fields can be added at its end: a reader that does
//! not know them skips them, and a reader that misses them uses [`Default`], or what [`fields`] names for that.

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use profiler_core::addr::{AddrRange, RemoteAddr};

use crate::limits::{Meter, TableOwner};
use crate::varint;

/// The error for input of another form than described.
pub(super) fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Memory used by what is read.
pub(super) struct Memory<'m> {
    meter: &'m Meter,
    held: Cell<u64>,
}

impl<'m> Memory<'m> {
    /// Counts in `meter` from `held` bytes on.
    pub(super) fn new(meter: &'m Meter, held: u64) -> Self {
        let held = Cell::new(held);
        Self { meter, held }
    }

    /// Adds `bytes` to the total.
    ///
    /// # Errors
    /// If that is too much, or a signal came.
    pub(super) fn add(&self, bytes: u64) -> io::Result<()> {
        self.meter.check()?;
        self.held.set(self.held.get().saturating_add(bytes));
        self.meter.hold(TableOwner::Reader, self.held.get())
    }
}

/// Bytes to read values from.
pub(super) struct Input<'a, 'm> {
    pub(super) rest: &'a [u8],
    pub(super) memory: &'a Memory<'m>,
}

impl<'a, 'm> Input<'a, 'm> {
    pub(super) fn new(bytes: &'a [u8], memory: &'a Memory<'m>) -> Self {
        Self {
            rest: bytes,
            memory,
        }
    }

    pub(super) fn number(&mut self) -> io::Result<u64> {
        varint::take(&mut self.rest).ok_or_else(|| malformed("a number is cut off"))
    }

    pub(super) fn signed(&mut self) -> io::Result<i64> {
        varint::take_signed(&mut self.rest).ok_or_else(|| malformed("a number is cut off"))
    }

    pub(super) fn byte(&mut self) -> io::Result<u8> {
        let (&byte, rest) = self
            .rest
            .split_first()
            .ok_or_else(|| malformed("a byte is missing"))?;
        self.rest = rest;
        Ok(byte)
    }

    fn bytes(&mut self, len: u64) -> io::Result<&'a [u8]> {
        let split = usize::try_from(len)
            .ok()
            .and_then(|len| self.rest.split_at_checked(len));
        let (bytes, rest) =
            split.ok_or_else(|| malformed("something is longer than what is there"))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn text(&mut self) -> io::Result<&'a str> {
        let len = self.number()?;
        str::from_utf8(self.bytes(len)?).map_err(|_| malformed("a text is not UTF-8"))
    }

    /// The bytes of a struct.
    pub(super) fn framed(&mut self) -> io::Result<Self> {
        let len = self.number()?;
        Ok(Self::new(self.bytes(len)?, self.memory))
    }
}

/// A value that has bytes.
pub(super) trait Wire: Sized {
    /// The most of them in one list.
    const MOST: u64 = u32::MAX as u64;

    /// Appends its bytes.
    fn put(&self, out: &mut Vec<u8>);

    /// Takes it from the front.
    fn take(input: &mut Input<'_, '_>) -> io::Result<Self>;

    /// Appends a list of them.
    fn put_list(list: &[Self], out: &mut Vec<u8>) {
        varint::put(out, list.len() as u64);
        for one in list {
            one.put(out);
        }
    }

    /// Takes a list of them.
    fn take_list(input: &mut Input<'_, '_>) -> io::Result<Vec<Self>> {
        let count = count::<Self>(input)?;
        let mut list = Vec::new();
        for _ in 0..count {
            input.memory.add(size_of::<Self>() as u64)?;
            list.push(Self::take(input)?);
        }
        Ok(list)
    }
}

/// The length of a list.
pub(super) fn count<T: Wire>(input: &mut Input<'_, '_>) -> io::Result<u64> {
    let count = input.number()?;
    match count <= T::MOST {
        true => Ok(count),
        false => Err(malformed("a list is longer than any should be")),
    }
}

/// Appends a struct whose fields `put` appends.
pub(super) fn put_framed(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let mut own = Vec::new();
    put(&mut own);
    varint::put(out, own.len() as u64);
    out.append(&mut own);
}

/// Names the fields of a struct, in the order of their bytes; those after `later` were added since
/// the first version. The struct is destructured by name: a field that is missing here does not
/// compile. Where older bytes lack a field, it is what stands after its `or`, else [`Default`]. The
/// function after `finish` fills in what follows from other fields.
macro_rules! fields {
    (@older) => { Default::default() };
    (@older $older:path) => { $older };
    ($Type:ty { $($field:ident),+ $(,)? } $(later { $($later:ident $(or $older:path)?),+ $(,)? } $(finish $finish:path)?)?) => {
        impl $crate::snapshot::wire::Wire for $Type {
            fn put(&self, out: &mut Vec<u8>) {
                let Self { $($field,)+ $($($later,)+)? } = self;
                $crate::snapshot::wire::put_framed(out, |out| {
                    $($field.put(out);)+
                    $($($later.put(out);)+)?
                });
            }

            fn take(
                input: &mut $crate::snapshot::wire::Input<'_, '_>,
            ) -> std::io::Result<Self> {
                let mut own = input.framed()?;
                let value = Self {
                    $($field: $crate::snapshot::wire::Wire::take(&mut own)?,)+
                    $($($later: match own.rest.is_empty() {
                        true => $crate::snapshot::wire::fields!(@older $($older)?),
                        false => $crate::snapshot::wire::Wire::take(&mut own)?,
                    },)+)?
                };
                $($(let value = $finish(value);)?)?
                Ok(value)
            }
        }
    };
}

/// Numbers the values of an enum without fields; `what` is what people call one.
macro_rules! numbered {
    ($Type:ty, $what:literal { $($number:literal => $Value:ident),+ $(,)? }) => {
        impl $crate::snapshot::wire::Wire for $Type {
            fn put(&self, out: &mut Vec<u8>) {
                out.push(match self {
                    $(Self::$Value => $number,)+
                });
            }

            fn take(
                input: &mut $crate::snapshot::wire::Input<'_, '_>,
            ) -> std::io::Result<Self> {
                match input.byte()? {
                    $($number => Ok(Self::$Value),)+
                    _ => Err($crate::snapshot::wire::malformed(concat!(
                        $what,
                        " that this fragscope does not know"
                    ))),
                }
            }
        }
    };
}

/// Writes an enum with the names that its values have elsewhere; `what` is the word for a value in
/// messages.
macro_rules! by_name {
    ($Type:ty, $what:literal) => {
        impl $crate::snapshot::wire::Wire for $Type {
            fn put(&self, out: &mut Vec<u8>) {
                $crate::varint::put_text(out, self.name());
            }

            fn take(input: &mut $crate::snapshot::wire::Input<'_, '_>) -> std::io::Result<Self> {
                let name = input.text()?;
                let mut all = Self::ALL.iter().copied();
                all.find(|value| value.name() == name).ok_or_else(|| {
                    $crate::snapshot::wire::malformed(concat!(
                        $what,
                        " that this fragscope does not know"
                    ))
                })
            }
        }
    };
}

pub(super) use {by_name, fields, numbered};

/// Whole numbers without a sign.
macro_rules! unsigned {
    ($($Type:ty),+) => {
        $(impl Wire for $Type {
            fn put(&self, out: &mut Vec<u8>) {
                varint::put(out, u64::from(*self));
            }

            fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
                let number = input.number()?;
                Self::try_from(number).map_err(|_| malformed("a number is too large"))
            }
        })+
    };
}

unsigned!(u16, u32, u64);

impl Wire for i32 {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put_signed(out, i64::from(*self));
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        Self::try_from(input.signed()?).map_err(|_| malformed("a number is too large"))
    }
}

impl Wire for f64 {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(input.bytes(8)?);
        Ok(Self::from_le_bytes(bytes))
    }
}

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        match input.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(malformed("a yes or no is neither")),
        }
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put_text(out, self);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let text = input.text()?;
        input.memory.add(text.len() as u64)?;
        Ok(text.to_owned())
    }
}

/// A name and a value, for settings, which are compared with one another.
impl Wire for (String, String) {
    const MOST: u64 = 4096;

    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        Ok((String::take(input)?, String::take(input)?))
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        bool::take(input)?.then(|| T::take(input)).transpose()
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        T::put_list(self, out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        T::take_list(input)
    }
}

impl<T: Wire> Wire for Arc<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        T::take(input).map(Self::new)
    }
}

impl Wire for RemoteAddr {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.get());
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        input.number().map(Self::new)
    }
}

impl Wire for AddrRange {
    fn put(&self, out: &mut Vec<u8>) {
        self.start().put(out);
        varint::put(out, self.len());
    }

    fn take(input: &mut Input<'_, '_>) -> io::Result<Self> {
        let (start, len) = (RemoteAddr::take(input)?, input.number()?);
        Self::with_len(start, len).ok_or_else(|| malformed("a range ends beyond all addresses"))
    }

    /// Each relative to the end of the previous one.
    fn put_list(list: &[Self], out: &mut Vec<u8>) {
        varint::put(out, list.len() as u64);
        let mut end = 0u64;
        for range in list {
            varint::put_signed(out, range.start().get().wrapping_sub(end) as i64);
            varint::put(out, range.len());
            end = range.end().get();
        }
    }

    fn take_list(input: &mut Input<'_, '_>) -> io::Result<Vec<Self>> {
        let count = count::<Self>(input)?;
        let mut list = Vec::new();
        let mut end = 0u64;
        for _ in 0..count {
            input.memory.add(size_of::<Self>() as u64)?;
            let start = end.wrapping_add(input.signed()? as u64);
            let range = Self::with_len(RemoteAddr::new(start), input.number()?);
            let range = range.ok_or_else(|| malformed("a range ends beyond all addresses"))?;
            end = range.end().get();
            list.push(range);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Then {
        name: String,
        bytes: u64,
    }
    fields!(Then { name, bytes });

    #[derive(Debug, Default, PartialEq)]
    struct Now {
        name: String,
        bytes: u64,
        since: Option<u32>,
        words: Vec<String>,
    }
    fields!(Now { name, bytes } later { since, words });

    fn bytes<T: Wire>(value: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        value.put(&mut bytes);
        bytes
    }

    fn taken<T: Wire>(bytes: &[u8]) -> io::Result<T> {
        let meter = Meter::default();
        let memory = Memory::new(&meter, 0);
        T::take(&mut Input::new(bytes, &memory))
    }

    #[test]
    fn a_struct_that_grew_is_read_by_those_who_knew_it_before_and_reads_what_they_wrote() {
        let then = || Then {
            name: "a".into(),
            bytes: 7,
        };
        let now = || Now {
            name: "a".into(),
            bytes: 7,
            since: Some(3),
            words: vec!["b".into()],
        };
        let both = [bytes(&vec![now(), now()])].concat();
        assert_eq!(taken::<Vec<Then>>(&both).expect("read"), [then(), then()]);
        let old = bytes(&vec![then(), then()]);
        let read = taken::<Vec<Now>>(&old).expect("read");
        assert_eq!(read[1].name, "a");
        assert_eq!((read[1].since, read[1].words.len()), (None, 0));
        assert_eq!(taken::<Now>(&bytes(&now())).expect("read"), now());
    }

    #[test]
    fn a_list_that_claims_more_than_there_is_ends_with_an_error_and_takes_no_memory() {
        let mut claims = Vec::new();
        varint::put(&mut claims, u64::from(u32::MAX));
        assert!(taken::<Vec<u64>>(&claims).is_err());
        assert!(taken::<Vec<AddrRange>>(&claims).is_err());
        assert!(taken::<Vec<(String, String)>>(&claims).is_err());
        assert!(taken::<String>(&claims).is_err());
    }
}
