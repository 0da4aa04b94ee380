//! Parsers for the values of flags.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use profiler_core::thresholds::MostFragmentation;

use crate::session::options::Budget;

/// A file to write, which [`STANDARD_OUTPUT`] is not.
pub(super) fn output() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|name| match name == STANDARD_OUTPUT {
        true => Err(
            "this is a file that is written, and - the standard output: leave -o out where the command \
             prints the same with --json or --format, and give ./- for a file of this name",
        ),
        false => Ok(PathBuf::from(name)),
    })
}

/// The name that other commands, such as perf, use for it.
const STANDARD_OUTPUT: &str = "-";

/// A time with a unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "give a time with its unit, such as 500ms, 30s or 5m".into())
}

/// A time between two measurements.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < Duration::from_millis(100) {
        return Err(
            "the shortest interval is 100ms: measuring more often would disturb the target".into(),
        );
    }
    Ok(interval)
}

/// The longest that a target may be stopped.
pub(super) fn max_stop(text: &str) -> Result<Duration, String> {
    let longest = duration(text)?;
    if longest < Duration::from_millis(1) {
        return Err(
            "nothing can be read in less than 1ms; use --no-stop to not stop the target at all"
                .into(),
        );
    }
    Ok(longest)
}

/// The longest that a walk may take.
pub(super) fn max_walk(text: &str) -> Result<Duration, String> {
    let longest = duration(text)?;
    if longest < Duration::from_millis(1) {
        return Err("nothing can be read in less than 1ms".into());
    }
    Ok(longest)
}

/// Bytes, with a unit of 1024 or none.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].trim_end_matches(['i', 'B', 'b']);
    let shift = match unit {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return Err("give bytes, such as 500M or 2G".into()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "give bytes, such as 500M or 2G")?;
    number
        .checked_shl(shift)
        .filter(|bytes| bytes >> shift == number && *bytes > 0)
        .ok_or_else(|| "give bytes, such as 500M or 2G".into())
}

/// A share of RSS in percent, or bytes.
pub(super) fn fragmentation(text: &str) -> Result<MostFragmentation, String> {
    let Some(percent) = text.strip_suffix('%') else {
        let bytes =
            size(text).map_err(|_| "give a share of RSS, such as 40%, or bytes, such as 500M")?;
        return Ok(MostFragmentation::Bytes(bytes));
    };
    match percent.trim().parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => {
            Ok(MostFragmentation::Share(percent / 100.0))
        }
        _ => Err("give a percentage from 0 to 100, such as 40%".into()),
    }
}

/// Bytes in a time, as bytes a second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let wrong = || "give bytes in a time, such as 1MiB/s, 20M/min or 500M/h".to_owned();
    let (bytes, unit) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    // Zero is a valid rate: that of something that must not grow.
    let bytes = match bytes.trim() {
        "0" => 0,
        bytes => size(bytes).map_err(|_| wrong())?,
    };
    Ok(bytes as f64 / seconds)
}

/// A share of a core, or none.
pub(super) fn budget(text: &str) -> Result<Budget, String> {
    if text == "unlimited" {
        return Ok(Budget::Unlimited);
    }
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(Budget::Share(percent / 100.0)),
        _ => Err("give a percentage above 0 and up to 100, such as 5%, or `unlimited`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_thresholds_have_their_units() {
        assert_eq!(fragmentation("40%"), Ok(MostFragmentation::Share(0.4)));
        assert_eq!(
            fragmentation("500M"),
            Ok(MostFragmentation::Bytes(500 << 20))
        );
        assert_eq!(rate("1MiB/s"), Ok(f64::from(1 << 20)));
        assert_eq!(rate("3600K/h"), Ok(1024.0));
        assert_eq!(rate("0/s"), Ok(0.0));
        for bad in ["", "40", "1M", "1M/day", "x/s", "-1M/s", "/s"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        for bad in ["", "-1%", "101%", "nan%", "inf%", "0"] {
            assert!(fragmentation(bad).is_err(), "{bad}");
        }
    }
}
