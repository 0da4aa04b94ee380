//! Breakpoints in the target's code: those of a tool that is probing it now, and those that the
//! kernel left behind when such a tool was killed.

use std::collections::BTreeMap;

use profiler_core::text::visible;
use profiler_core::units;
use profiler_probe::leftover::{self, Breakpoint, Scan};
use profiler_target::{ErrorKind, Target};

use super::{Check, Fix, Grade};

const NAME: &str = "breakpoints";

/// Whether there are any.
pub(super) fn check(target: &Target) -> Check {
    let found = match leftover::find(target) {
        Ok(found) => found,
        Err(error) => return failed(&error.to_string()),
    };
    if found.breakpoints.is_empty() {
        return none(&found, "none in its code");
    }
    let found = format!(
        "{}: set by a tool that probes it now, or left by one that was killed (each costs a trap \
         whenever it is reached){}",
        describe(&found.breakpoints),
        left_out(&found)
    );
    let fix = Fix::Repair { pid: target.pid() };
    Check::bad(NAME, Grade::Limited, found, fix)
}

/// Removes those that no running tool holds, and reports the result.
pub(super) fn repair(target: &Target) -> Check {
    if let Some(error) = target.traced() {
        // A debugger's breakpoints must be removed by the debugger.
        return failed(&error.to_string());
    }
    let found = match leftover::find(target) {
        Ok(found) if found.breakpoints.is_empty() => {
            return none(&found, "none in its code to remove");
        }
        Ok(found) => found.breakpoints,
        Err(error) => return failed(&error.to_string()),
    };
    match leftover::repair(target, &found) {
        Ok(left) if left.is_empty() => Check::ok(NAME, format!("{} removed", found.len())),
        Ok(left) if !leftover::suspended_guards().is_empty() => {
            let guards = leftover::suspended_guards();
            let numbers: Vec<String> = guards.iter().map(i32::to_string).collect();
            let found = format!(
                "{} left: somebody has suspended the process that holds fragscope's probes and removes \
                 them (probe-guard, process {})",
                describe(&left),
                numbers.join(", ")
            );
            Check::bad(NAME, Grade::Limited, found, Fix::Continue(guards))
        }
        Ok(left) => Check::bad(
            NAME,
            Grade::Limited,
            format!(
                "{} removed; a tool that runs holds the others: {}",
                found.len() - left.len(),
                describe(&left)
            ),
            Fix::EndOfTool,
        ),
        Err(error) => {
            let found = format!("not removed: {error}");
            match error.kind() {
                kind @ ErrorKind::NotPermitted { .. } | kind @ ErrorKind::NoSysfs => {
                    Check::kind(NAME, Grade::Limited, found, kind)
                }
                _ => Check::bad(NAME, Grade::Limited, found, Fix::RootAndFreeTarget),
            }
        }
    }
}

/// The result if none were found in all of its code, or in the searched part.
fn none(found: &Scan, words: &str) -> Check {
    if found.left_out_bytes == 0 {
        return Check::ok(NAME, words);
    }
    Check::bad(
        NAME,
        Grade::Limited,
        format!("{words}{}", left_out(found)),
        Fix::OwnCode,
    )
}

/// How much of its code was not searched, if any.
fn left_out(found: &Scan) -> String {
    match found.left_out_bytes {
        0 => String::new(),
        bytes => format!(
            ", as far as it was compared with the files: it has written to so much of its code that {} \
             were left out",
            units::bytes(bytes)
        ),
    }
}

fn failed(why: &str) -> Check {
    Check::bad(
        NAME,
        Grade::Limited,
        format!("not checked: {why}"),
        Fix::RootAndFreeTarget,
    )
}

/// How many there are in each file.
fn describe(found: &[Breakpoint]) -> String {
    let mut by_file: BTreeMap<&str, usize> = BTreeMap::new();
    for breakpoint in found {
        *by_file.entry(&breakpoint.mapped).or_default() += 1;
    }
    let counts = by_file.iter();
    let counts: Vec<String> = counts
        .map(|(file, count)| format!("{count} in {}", visible(file)))
        .collect();
    counts.join(", ")
}
