//! Memory that is resident only because the kernel used huge pages for it.

use profiler_core::machine::HugePageMode;

use crate::*;

/// Blocks of 8 MiB, one byte of each 2 MiB of which is written; with huge pages, or with none whatever the
/// host has.
fn sparse(huge: bool) -> Child {
    let child = Child::python(&format!(
        r"
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
MADV_HUGEPAGE, HUGE, SIZE = 14, 2 << 20, 8 << 20
PR_SET_THP_DISABLE = 41
if not {0}:
    assert libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0, ctypes.get_errno()
for _ in range(6):
    block = libc.malloc(SIZE)
    start, end = -(-block // HUGE) * HUGE, (block + SIZE) // HUGE * HUGE
    if {0}:
        assert libc.madvise(start, end - start, MADV_HUGEPAGE) == 0, ctypes.get_errno()
    for at in range(start, end, HUGE):
        ctypes.memset(at, 1, 1)
print('ready', flush=True)
sys.stdin.readline()
",
        if huge { "True" } else { "False" }
    ));
    assert_eq!(child.first_line(), "ready");
    child
}

#[test]
fn zeros_in_huge_pages_are_what_the_same_program_does_without_them() {
    let modes = host::transparent_huge_pages().expect("this kernel has transparent huge pages");
    assert_ne!(modes, HugePageMode::Never, "huge pages are off");
    let (with, without) = (sparse(true), sparse(false));
    let report = snapshot(with.pid(), &["--predict"]);
    let plain = snapshot(without.pid(), &[]);
    let rss = |report: &serde_json::Value| report["rss_bytes"].as_u64().expect("a number");
    let saved = rss(&report).saturating_sub(rss(&plain));
    let blank = report["metrics"]["blank_bytes"].as_u64().expect("a number");
    assert!(blank > 30 << 20, "{blank}");
    // Two runs of Python differ by some pages.
    assert!(
        blank.abs_diff(saved) < 1 << 20,
        "{blank} of zeros, {saved} saved"
    );

    let finding = &report["findings"][0];
    assert_eq!(finding["mechanism"], "huge_pages", "{finding}");
    assert_eq!(finding["bytes"], blank);
    let check = &report["self_check"];
    let error = check["error"].as_f64().expect("it was played");
    assert!(error.abs() < 0.05, "{check}");
    for prediction in report["predictions"].as_array().expect("a list") {
        if let (Some(low), Some(high)) = (
            prediction["low_bytes"].as_u64(),
            prediction["high_bytes"].as_u64(),
        ) && prediction["candidate"] != "malloc_trim"
        {
            assert!(high >= low + blank, "{prediction}");
        }
    }
    assert_eq!(plain["metrics"]["blank_bytes"], 0);
}
