//! Pages in swap: reported, and left there unless reading them is requested.

use crate::*;

#[test]
fn swapped_pages_are_reported_and_left_in_swap() {
    let _swap = Swap::on();
    let child = Child::c("pages");
    let addrs: Vec<u64> = child
        .first_line()
        .split(' ')
        .map(|n| n.parse().expect("a number"))
        .collect();
    let area = AddrRange::with_len(RemoteAddr::new(addrs[4]), 1 << 20).expect("small");
    let target = Target::open(child.pid()).expect("we are root");
    let stopped = child::stop(&target);
    let mappings = target.mappings().expect("alive");
    let map = target.residency(&mappings).expect("alive");
    let before = target.kernel_count().expect("alive");
    assert_eq!(map.resident_bytes(), before.rss_bytes);
    assert_eq!(map.swapped_bytes(), before.swap_bytes);
    let swapped: Vec<_> = map
        .runs_in(area)
        .filter(|run| run.state.is_swapped())
        .collect();
    assert!(!swapped.is_empty(), "the kernel swapped nothing out");
    let memory = ResidentMemory::new(target.memory(), &map);
    for run in swapped {
        let at = run.range.start();
        assert_eq!(memory.read(at, &mut [0; 8]), Err(ReadError::Swapped(at)));
    }
    let after = target.kernel_count().expect("alive");
    drop(stopped);
    assert_eq!(after.rss_bytes, before.rss_bytes);
    assert_eq!(after.swap_bytes, before.swap_bytes);
}

/// Bytes of its memory that are in swap, by the kernel.
fn in_swap(pid: i32) -> u64 {
    let target = Target::open(pid).expect("we are root");
    target.quick_count().expect("alive").swap_bytes
}

#[test]
fn a_swapped_heap_stays_in_swap_unless_it_is_asked_for() {
    let _swap = Swap::on();
    let mut child = Child::python(
        r"
import ctypes, sys
kept = [[bytes([i % 250 + 1]) * 700 for i in range(200)] for _ in range(20)]
for row in kept:
    del row[::2]
untouched = bytearray(0)
print('ready', flush=True)
sys.stdin.readline()
libc = ctypes.CDLL(None, use_errno=True)
libc.madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
MADV_PAGEOUT = 21
for line in open('/proc/self/maps'):
    if '[heap]' in line:
        start, end = (int(n, 16) for n in line.split()[0].split('-'))
        assert libc.madvise(start, end - start, MADV_PAGEOUT) == 0, ctypes.get_errno()
print('out', flush=True)
sys.stdin.readline()
",
    );
    let before = snapshot(child.pid(), &[]);
    child.send("page out");
    assert_eq!(child.next_line(), "out");
    // It waits in a read: nothing but fragscope touches its pages from here on.
    child::wait_for_state(child.pid(), 'S');
    let swapped = in_swap(child.pid());
    assert!(swapped > 1 << 20, "the kernel swapped {swapped} bytes out");

    for more in [&[][..], &["--no-stop"]] {
        let left = snapshot(child.pid(), more);
        assert_eq!(in_swap(child.pid()), swapped, "{more:?}");
        assert_eq!(left["swap_bytes"], swapped);
        assert!(left["completeness"]["unreadable_bytes"].as_u64() > Some(0));
    }
    let brought = snapshot(child.pid(), &["--swap-in"]);
    assert_eq!(
        brought["swap_bytes"], swapped,
        "the sample keeps the state before"
    );
    assert_eq!(brought["completeness"]["unreadable_bytes"], 0);
    assert_eq!(brought["completeness"]["layout_confidence"], "high");
    let live = |of: &serde_json::Value| of["heaps"][0]["live_bytes"].as_u64().expect("a number");
    assert!(live(&before).abs_diff(live(&brought)) < 64 << 10);
    assert!(in_swap(child.pid()) < swapped);
}

/// Swap for the time of a test, where the host has none.
struct Swap(Option<tempfile::TempDir>);

impl Swap {
    fn on() -> Self {
        let active = std::fs::read_to_string("/proc/swaps").expect("readable");
        if active.lines().count() > 1 {
            return Self(None);
        }
        let folder = open_folder();
        let script = "dd if=/dev/zero of=swap bs=1M count=32 status=none && chmod 600 swap && mkswap -q swap && swapon swap";
        let status = Command::new("sh")
            .args(["-c", script])
            .current_dir(folder.path())
            .status();
        assert!(
            status.expect("a shell").success(),
            "swap needs root on the host"
        );
        Self(Some(folder))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            let _ = Command::new("swapoff")
                .arg(folder.path().join("swap"))
                .status();
        }
    }
}
