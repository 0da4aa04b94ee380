//! Recordings of other tools: heaptrack's, memray's, Firefox's logalloc. `docs/interchange.md` says
//! what is read of each, and what each lacks.

mod heaptrack;
mod lines;
mod logalloc;
mod memray;

use std::io::{self, BufRead, BufReader, Read};

pub use logalloc::{Written, write as write_logalloc};

use crate::limits::{Counted, Layer, Meter};
use crate::record::Normalised;
use crate::snapshot;
use crate::trace::{MAGIC, ReadError, Reader, TraceSource};

/// Reads a recording of any known kind, recognised by its first bytes, and counts its size.
///
/// # Errors
/// If its kind or its version is unknown.
pub fn read(input: impl Read + 'static, meter: &Meter) -> Result<Box<dyn TraceSource>, ReadError> {
    source(counted(input, meter, Layer::File), meter, 2)
}

type Input = Box<dyn BufRead>;

fn counted<R: Read>(inner: R, meter: &Meter, layer: Layer) -> BufReader<Counted<R>> {
    BufReader::with_capacity(
        BUFFERED,
        Counted {
            inner,
            meter: meter.clone(),
            layer,
        },
    )
}

/// Bytes that are read at once.
const BUFFERED: usize = 64 << 10;

/// The source in `input`, after removing at most `layers` layers of compression.
fn source(
    input: impl BufRead + 'static,
    meter: &Meter,
    layers: u32,
) -> Result<Box<dyn TraceSource>, ReadError> {
    let mut input: Input = Box::new(input);
    let start = peek(&mut input)?;
    let unpacked: Option<Box<dyn Read>> = match start.as_slice() {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            return unpack(zstd::Decoder::with_buffer(input)?, meter, layers);
        }
        [0x1f, 0x8b, ..] => Some(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
        [0x04, 0x22, 0x4d, 0x18, ..] => Some(Box::new(lz4_flex::frame::FrameDecoder::new(input))),
        _ if start.starts_with(&MAGIC[..7]) => {
            return Ok(Box::new(Reader::within(input, meter.clone())?));
        }
        _ if start.starts_with(snapshot::NAME) => return Err(ReadError::IsSession),
        _ if start.starts_with(memray::MAGIC) => {
            return Ok(Box::new(Normalised::new(
                memray::Memray::new(input)?,
                meter,
            )));
        }
        _ if start.starts_with(b"v ") => {
            return Ok(Box::new(Normalised::new(
                heaptrack::Heaptrack::new(input)?,
                meter,
            )));
        }
        _ if logalloc::begins(&start) => {
            return Ok(Box::new(Normalised::new(
                logalloc::Logalloc::new(input),
                meter,
            )));
        }
        _ => return Err(ReadError::NotATrace),
    };
    match unpacked {
        Some(unpacked) => unpack(unpacked, meter, layers),
        None => Err(ReadError::NotATrace),
    }
}

fn unpack(
    unpacked: impl Read + 'static,
    meter: &Meter,
    layers: u32,
) -> Result<Box<dyn TraceSource>, ReadError> {
    if layers == 0 {
        return Err(ReadError::NotATrace);
    }
    source(counted(unpacked, meter, Layer::Unpacked), meter, layers - 1)
}

/// The first bytes, which stay to be read.
fn peek(input: &mut Input) -> Result<Vec<u8>, ReadError> {
    const ENOUGH: usize = 256;
    let buffered = input.fill_buf().map_err(truncated)?;
    Ok(buffered[..buffered.len().min(ENOUGH)].to_vec())
}

/// A compressed file that is broken at its start is no known recording.
fn truncated(error: io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ReadError::NotATrace,
        _ => error.into(),
    }
}
