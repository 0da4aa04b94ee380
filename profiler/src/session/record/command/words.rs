//! Messages about a command and its end.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use profiler_core::host::MemoryGroup;
use profiler_core::text::visible;
use profiler_core::units;
use profiler_target::{has_borrowed_privileges, not_preloaded, wants_to_be_first};

use crate::hints::Hint;

/// Why nothing was recorded of this command; `early` is what ended it soon after its start.
pub(super) fn nothing_recorded(command: &[OsString], early: Option<String>) -> String {
    if has_borrowed_privileges() {
        return "nothing was recorded: this fragscope has privileges of its file (capabilities, or a \
                set-user-ID bit), and the kernel lets no program open what such a process has open. \
                Record with a copy of it that has none: `cp` does not copy them"
            .to_owned();
    }
    let why = command.first().and_then(|program| not_preloaded(program));
    if let (None, Some(early)) = (&why, early) {
        return format!("nothing was recorded: {early} came before the command had begun");
    }
    let why = why.unwrap_or_else(|| {
        "the program was not loaded by the dynamic loader with its environment as it was: it, or \
         what started it, drops LD_PRELOAD, or it became another user before it was executed"
            .to_owned()
    });
    format!(
        "nothing was recorded: {why}. {}",
        Hint::RecordRunning.words()
    )
}

/// The option that makes AddressSanitizer accept the recorder before it.
const SUFFERS: &str = "verify_asan_link_order=0";

/// Whether these AddressSanitizer options (`sanitizer_flag_parser.cpp`) make it accept that. The
/// last one counts.
fn suffers(options: &str) -> bool {
    let (name, _) = SUFFERS.split_once('=').unwrap_or_default();
    let options = options.split([' ', ',', ':', '\n', '\t', '\r']);
    let mut values = options.filter_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    let last = values.next_back();
    last.is_some_and(|value| matches!(value.trim_matches(['"', '\'']), "0" | "no" | "false"))
}

/// A message that this command exits as soon as it is started, if it would.
pub(super) fn ends_at_once(command: &[OsString]) -> Option<String> {
    let program = command.first()?;
    let options = std::env::var("ASAN_OPTIONS").unwrap_or_default();
    let ends = !suffers(&options) && wants_to_be_first(program);
    ends.then(|| {
        format!(
            "{} is built with AddressSanitizer, which by default ends a program where anything is loaded before \
             it, as the recorder is. It is recorded with ASAN_OPTIONS={SUFFERS} in its environment",
            visible(program.to_string_lossy())
        )
    })
}

/// That the kernel ended a process of this group.
pub(super) fn want_of_memory(group: &MemoryGroup) -> String {
    let limit = match group.max_bytes {
        Some(limit) => format!(", whose limit is {},", units::bytes(limit)),
        None => String::new(),
    };
    format!(
        ": the kernel ended a process of its memory control group {}{limit} for want of memory",
        visible(&group.path)
    )
}

pub(super) fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        _ => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_sanitizer_are_read_as_it_reads_them() {
        for options in [
            SUFFERS,
            "verify_asan_link_order=no",
            "detect_leaks=0 verify_asan_link_order=false",
            "verify_asan_link_order=1,verify_asan_link_order='0'",
        ] {
            assert!(suffers(options), "{options}");
        }
        for options in [
            "",
            "detect_leaks=0",
            "verify_asan_link_order=1",
            "verify_asan_link_order=0:verify_asan_link_order=1",
        ] {
            assert!(!suffers(options), "{options}");
        }
    }
}
