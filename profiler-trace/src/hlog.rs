//! HdrHistogram interval logs, format V2 (`.hlog`), readable by every HdrHistogram tool.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use profiler_core::text::visible;

/// One histogram of a log.
#[derive(Debug)]
pub struct Tagged<'a> {
    /// Its tag, which names the counted quantity and the unit: no comma, space or newline.
    pub tag: String,
    /// Its values.
    pub histogram: &'a Histogram<u64>,
    /// The length of its interval, from the log's start; zero for the state at one moment.
    pub interval: Duration,
}

/// Why a log could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the histogram log could not be made: {0}")]
pub struct LogError(String);

/// The log of `histograms`, all beginning at `start` (nanoseconds since 1970-01-01 UTC), as the
/// bytes of a file. `comments` are lines of text at its head.
///
/// # Errors
/// If a tag contains a comma, space or newline, or a histogram cannot be serialised.
pub fn log(
    start_ns: u64,
    comments: &[String],
    histograms: &[Tagged<'_>],
) -> Result<Vec<u8>, LogError> {
    let failed = |error: &dyn std::fmt::Debug| LogError(format!("{error:?}"));
    let start = SystemTime::UNIX_EPOCH + Duration::from_nanos(start_ns);
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    for comment in comments {
        builder.add_comment(&visible(comment).to_string());
    }
    let mut writer = builder
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(1.0)
        .begin_log_with(&mut bytes, &mut serializer)
        .map_err(|error| failed(&error))?;
    for tagged in histograms {
        let tag = Tag::new(&tagged.tag)
            .ok_or_else(|| LogError(format!("{:?} cannot be a tag", tagged.tag)))?;
        writer
            .write_histogram(tagged.histogram, Duration::ZERO, tagged.interval, Some(tag))
            .map_err(|error| failed(&error))?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    #[test]
    fn a_log_reads_back_with_tags_and_values() {
        let mut sizes = Histogram::new(3).expect("three digits");
        for value in [16, 64, 64, 100_000] {
            sizes.record(value).expect("in range");
        }
        let tagged = Tagged {
            tag: "alloc_size_bytes".into(),
            histogram: &sizes,
            interval: Duration::from_secs(3),
        };
        let bytes = log(1_000_000_000, &["of a test".into()], &[tagged]).expect("a log");
        let entries: Vec<_> = IntervalLogIterator::new(&bytes)
            .map(|entry| entry.expect("parses"))
            .collect();
        let LogEntry::Interval(interval) = entries.last().expect("entries") else {
            panic!("the last line is an interval")
        };
        assert_eq!(interval.tag().map(|t| t.as_str()), Some("alloc_size_bytes"));
        let raw = base64(interval.encoded_histogram());
        let back: Histogram<u64> = Deserializer::new()
            .deserialize(&mut raw.as_slice())
            .expect("decodes");
        assert_eq!(back, sizes);
        assert!(
            log(
                0,
                &[],
                &[Tagged {
                    tag: "a b".into(),
                    histogram: &sizes,
                    interval: Duration::ZERO
                }]
            )
            .is_err()
        );
    }

    /// The payload's base64, decoded by hand: the log's reader leaves that to its caller.
    fn base64(text: &str) -> Vec<u8> {
        let value = |c: u8| match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let digits: Vec<u8> = text.bytes().filter(|&c| c != b'=').map(value).collect();
        let mut bytes = Vec::new();
        for four in digits.chunks(4) {
            let bits = four.iter().fold(0u32, |bits, &d| bits << 6 | u32::from(d));
            let bits = bits << (6 * (4 - four.len()));
            bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
        }
        bytes
    }
}
