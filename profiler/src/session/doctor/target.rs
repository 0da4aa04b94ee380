//! What one target allows: whether it can be opened and stopped, and what can be walked.

use std::io;

use profiler_core::allocator::{Allocator, AllocatorTitle};
use profiler_core::glibc::{self, NotWalked};
use profiler_target::{ErrorKind, OpenError, Process, Target};

use super::{Check, Fix, Grade, breakpoints};

/// The row of the target itself.
const TARGET: &str = "target";

/// Removes breakpoints from its code that no tool holds.
pub(super) fn repair(pid: i32) -> Result<Check, OpenError> {
    Ok(breakpoints::repair(&Target::open(pid)?))
}

/// What one target allows.
pub(super) fn checks(pid: i32) -> Vec<Check> {
    let name = TARGET;
    let target = match Target::open(pid) {
        Ok(target) => target,
        Err(error) => {
            let found = match &error {
                OpenError::NotPermitted { denial, .. } => denial.to_string(),
                error => error.to_string(),
            };
            let check = match error.kind() {
                ErrorKind::Other => Check::bad(name, Grade::Missing, found, Fix::OtherProcess),
                kind => Check::kind(name, Grade::Missing, found, kind),
            };
            return vec![check];
        }
    };
    // If something is unreadable, that is reported instead of its absence.
    looked_into(&target).unwrap_or_else(|error| {
        let found = format!("what it maps cannot be read: {error}");
        vec![Check::bad(name, Grade::Missing, found, Fix::OtherProcess)]
    })
}

/// The checks for a process that could be opened.
fn looked_into(target: &Target) -> io::Result<Vec<Check>> {
    let name = TARGET;
    let pid = target.pid();
    let described = target.describe()?;
    let found = match described.threads {
        1 => format!("{} (1 thread)", described.comm),
        threads => format!("{} ({threads} threads)", described.comm),
    };
    let seen = match target.unstoppable() {
        None => Check::ok(name, found),
        Some(error) => Check::bad(
            name,
            Grade::Limited,
            format!("{found}: {error}"),
            Fix::NoStops { pid },
        ),
    };
    let allocator = allocator(described.malloc.as_ref());
    let breakpoints = breakpoints::check(target);
    let mut checks = vec![seen, libc(target)?, allocator, python(target)?, breakpoints];
    checks.extend(target.environment().err().map(|reason| {
        Check::bad(
            "environment",
            Grade::Limited,
            format!(
                "settings that it asks for are unknown: {}",
                reason.because()
            ),
            Fix::SettingsInEffect,
        )
    }));
    checks.extend(target.unread_files().map(|unread| {
        let fix = Fix::UnreadFiles {
            is_over_limit: unread.is_over_limit,
        };
        Check::bad("mapped files", Grade::Limited, unread.what, fix)
    }));
    Ok(checks)
}

fn allocator(malloc: Option<&AllocatorTitle>) -> Check {
    let name = "allocator";
    match malloc {
        Some(malloc) => Check::ok(name, malloc.to_string()),
        None => Check::bad(
            name,
            Grade::Limited,
            "not known: residency, and heaps that can be identified without symbols",
            Fix::DynamicAllocator,
        ),
    }
}

fn libc(target: &Target) -> io::Result<Check> {
    let name = "C library";
    let Some(libc) = target.libc()? else {
        let found = if target.is_static()? {
            "none, the program is linked statically: an allocator in it is walked where it is recognised"
        } else {
            "none found among its mapped files: residency only"
        };
        return Ok(Check::bad(name, Grade::Limited, found, Fix::DynamicLibc));
    };
    let found = format!("{libc} ({})", libc.path);
    Ok(match (libc.kind, libc.glibc_release()) {
        (Allocator::Glibc, Some(version)) if glibc::is_known(version) => Check::ok(name, found),
        (Allocator::Glibc, Some((major, minor))) => Check::bad(
            name,
            Grade::Limited,
            NotWalked::UnknownVersion(major, minor).to_string(),
            Fix::NewerFragscope,
        ),
        (Allocator::Glibc, None) => Check::bad(
            name,
            Grade::Limited,
            format!("{found}: its heap cannot be walked without its version"),
            Fix::ReportLibc,
        ),
        _ => Check::ok(name, found),
    })
}

fn python(target: &Target) -> io::Result<Check> {
    let name = "Python";
    Ok(match target.python()? {
        Some(python) => Check::ok(
            name,
            format!("CPython {} ({})", python.full_version, python.path),
        ),
        None => Check::ok(name, "none: fragscope works, without a walk of pymalloc"),
    })
}
