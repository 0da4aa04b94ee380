//! Samples of allocations with their stacks: how the BPF programs learn where Python keeps its
//! frames, how sparsely they sample, and how their samples are processed.

use std::time::Instant;

use profiler_common::RawEvent;
use profiler_common::growth::GrowthKind;
use profiler_common::sampling::{MAX_MEAN_BYTES, PythonFrames, RawNative, RawStack, StackEnd};
use profiler_core::addr::RemoteAddr;
use profiler_core::objects::stacks::{PythonStacks, ThreadPointer};
use profiler_core::sites::{Allocation, Frame, NativeSampling, SiteTable};
use profiler_target::{LiveMemory, Process, Target};
use zerocopy::FromBytes;

use super::armed::Armed;
use super::error::ProbeError;
use super::kernel_types;
use super::native::NativeStacks;
use super::support::{self, LOCKED_DOWN};

/// The mean bytes between points of the sample before anything is known of the target.
const FIRST_MEAN_BYTES: u64 = 512 << 10;
/// The least: nearly every allocation that malloc sees of a program would be taken.
const LEAST_MEAN_BYTES: u64 = 64;
/// The share of the traps' time that samples may take in addition.
const SHARE_OF_TRAPS: f64 = 0.05;
/// Samples per second of armed probes that are always taken: for a target that rarely calls they
/// cost next to nothing.
const LEAST_A_SECOND: f64 = 100.0;
/// The assumed cost of a sample before one was taken, in ns.
const FIRST_COST_NS: f64 = 20_000.0;

/// The stacks of one target's threads.
pub(super) struct Stacks {
    memory: LiveMemory,
    python: Result<(PythonStacks, ThreadPointer), String>,
    /// The native functions, if they are wanted.
    native: Option<NativeStacks>,
    rate: Rate,
}

/// The subject of a sample.
pub(super) struct Sampled {
    of: SampleOf,
    stack: Vec<Frame>,
    end: StackEnd,
}

enum SampleOf {
    Allocation(Allocation),
    /// Growth in bytes, and the mean bytes between two sampling points.
    Growth(GrowthKind, u64, u64),
}

impl Sampled {
    /// Adds it to the sums.
    pub(super) fn add(self, sites: &mut SiteTable) {
        match self.of {
            SampleOf::Allocation(allocation) => sites.sampled(allocation, self.stack, self.end),
            SampleOf::Growth(kind, bytes, mean_bytes) => {
                sites.grew(kind, bytes, mean_bytes, self.stack, self.end);
            }
        }
    }
}

impl Stacks {
    /// The stacks of a target. If it has no Python, or its frames cannot be found, allocations are
    /// sampled all the same.
    pub(super) fn of(target: &Target, native: Option<NativeStacks>) -> Self {
        let memory = target.memory();
        let find = || {
            let version = target.python_version()?;
            let version = version.ok_or("the target runs no Python")?;
            if !support::reads_kernel_memory() {
                return Err(format!("threads cannot be distinguished, as {LOCKED_DOWN}").into());
            }
            let in_task = kernel_types::thread_pointer();
            let in_task = in_task.ok_or(
                "the kernel does not describe its types (no /sys/kernel/btf/vmlinux), so threads \
                 cannot be distinguished",
            )?;
            let stacks = PythonStacks::find(&memory, version, target.python_symbols()?);
            let stacks = stacks.map_err(|error| error.to_string())?;
            let self_before = target.thread_self_before()?;
            let self_before = self_before.ok_or(
                "its C library does not say how much it keeps of a thread, so threads cannot be distinguished",
            )?;
            let pointer = ThreadPointer {
                in_task,
                self_before,
            };
            Ok((stacks, pointer))
        };
        Self {
            python: find().map_err(|why: Box<dyn std::error::Error>| why.to_string()),
            memory,
            native,
            rate: Rate::default(),
        }
    }

    /// Tells the BPF programs which threads there are, and how seldom to sample.
    pub(super) fn arm(&mut self, armed: &mut Armed) -> Result<(), ProbeError> {
        let (frames, threads) = match &mut self.python {
            Ok((python, pointer)) => {
                python.look_again();
                let threads = python.threads(&self.memory);
                (python.frames(threads.head, *pointer), threads.states)
            }
            Err(_) => (PythonFrames::default(), Vec::new()),
        };
        if let Some(native) = &mut self.native {
            native.look_again();
        }
        armed.set_python(frames, &threads)?;
        armed.copy_native_stacks(self.native.is_some())?;
        armed.sample(self.rate.mean_bytes)
    }

    /// Takes in how much was spent, and sets how rarely to sample from now on.
    pub(super) fn adjust(&mut self, armed: &mut Armed, spent: Spent) -> Result<(), ProbeError> {
        let before = self.rate.mean_bytes;
        self.rate.adjust(spent);
        match self.rate.mean_bytes == before {
            true => Ok(()),
            false => armed.sample(self.rate.mean_bytes),
        }
    }

    /// The sample in a record, with its functions; `None` if the record holds none.
    pub(super) fn resolve(&mut self, record: &[u8]) -> Option<Sampled> {
        let event = RawEvent::ref_from_prefix(record).ok()?.0;
        if event.kind == RawNative::KIND {
            let copy = RawNative::ref_from_prefix(record).ok()?.0;
            self.native.as_mut()?.keep(copy);
            return None;
        }
        let growth = GrowthKind::of(event.kind);
        if event.kind != RawStack::KIND && growth.is_none() {
            return None;
        }
        let raw = RawStack::ref_from_prefix(record).ok()?.0;
        let count = raw.frames.len().min(raw.count as usize);
        let stack = match &mut self.python {
            Ok((python, _)) => python.resolve(&self.memory, &raw.frames[..count]),
            Err(_) => Vec::new(),
        };
        let stack = match &mut self.native {
            Some(native) => native.add(raw, stack),
            None => stack,
        };
        let end = StackEnd::ALL.get(raw.end as usize).copied();
        let of = match growth {
            Some(kind) => SampleOf::Growth(kind, raw.event.size, raw.mean_bytes),
            None => SampleOf::Allocation(Allocation {
                block: RemoteAddr::new(raw.event.addr),
                bytes: raw.event.size,
                is_usable_size: raw.event.flags & RawEvent::USABLE != 0,
                mean_bytes: raw.mean_bytes,
                at_ns: raw.event.time_ns,
            }),
        };
        Some(Sampled {
            of,
            stack,
            end: end.unwrap_or(StackEnd::Unreadable),
        })
    }

    /// Native functions of later samples are looked up until then.
    pub(super) fn find_native_until(&mut self, until: Instant) {
        if let Some(native) = &mut self.native {
            native.find_until(until);
        }
    }

    /// The state of native sampling so far, if native functions are wanted.
    pub(super) fn native(&self) -> Option<NativeSampling> {
        self.native.as_ref().map(NativeStacks::sampling)
    }

    /// Mean bytes between two points of the sample.
    pub(super) fn mean_bytes(&self) -> u64 {
        self.rate.mean_bytes
    }

    /// Why there are no stacks, if that is so.
    pub(super) fn missing(&self) -> Option<&str> {
        self.python.as_ref().err().map(String::as_str)
    }
}

/// What was seen and spent so far, while the probes were armed.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub(super) struct Spent {
    /// Time with all probes armed, in ns.
    pub(super) armed_ns: u64,
    /// Bytes allocated.
    pub(super) bytes: u64,
    /// The time that the traps took, in ns.
    pub(super) traps_ns: f64,
    /// Samples, and the time that they took, in ns.
    pub(super) samples: u64,
    pub(super) samples_ns: u64,
}

/// How seldom to sample.
#[derive(Debug)]
struct Rate {
    mean_bytes: u64,
    before: Spent,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            mean_bytes: FIRST_MEAN_BYTES,
            before: Spent::default(),
        }
    }
}

impl Rate {
    /// Makes samples rare enough that they take no more than a small part of the traps' time. The
    /// rate at most doubles or halves at once: what was seen last may not last.
    fn adjust(&mut self, spent: Spent) {
        let before = std::mem::replace(&mut self.before, spent);
        let bytes = spent.bytes.saturating_sub(before.bytes) as f64;
        let seconds = spent.armed_ns.saturating_sub(before.armed_ns) as f64 / 1e9;
        let traps_ns = (spent.traps_ns - before.traps_ns).max(0.0);
        if bytes == 0.0 || seconds == 0.0 {
            return;
        }
        let each = match spent.samples {
            0 => FIRST_COST_NS,
            samples => spent.samples_ns as f64 / samples as f64,
        };
        let allowed = SHARE_OF_TRAPS * traps_ns / each.max(100.0);
        let wanted = bytes / allowed.max(LEAST_A_SECOND * seconds);
        let now = self.mean_bytes as f64;
        let mean = wanted.clamp(now / 2.0, now * 2.0);
        self.mean_bytes = (mean as u64).clamp(LEAST_MEAN_BYTES, MAX_MEAN_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates a target that allocates `bytes` in `calls` calls per second. Returns the samples
    /// per second at the end, and their share of the traps' time.
    fn play(bytes: f64, calls: f64) -> (f64, f64) {
        let (mut rate, mut spent) = (Rate::default(), Spent::default());
        let (trap_ns, sample_ns) = (1000.0, 10_000.0);
        let mut last = 0.0;
        for tick in 1..=200u32 {
            last = bytes / 10.0 / rate.mean_bytes as f64;
            spent.armed_ns += 100_000_000;
            spent.bytes = (bytes / 10.0 * f64::from(tick)) as u64;
            spent.traps_ns += calls / 10.0 * trap_ns;
            spent.samples += last.ceil() as u64;
            spent.samples_ns += (last.ceil() * sample_ns) as u64;
            rate.adjust(spent);
        }
        (last * 10.0, last * sample_ns / (calls / 10.0 * trap_ns))
    }

    #[test]
    fn a_busy_target_pays_a_twentieth_more_and_a_quiet_one_gives_some_samples() {
        let (often, share) = play(400e6, 400e3);
        assert!((1000.0..2100.0).contains(&often), "{often}");
        assert!((0.025..0.055).contains(&share), "{share}");
        let (often, _) = play(1e6, 100.0);
        assert!((99.0..102.0).contains(&often), "{often}");
    }

    #[test]
    fn nothing_seen_changes_nothing() {
        let mut rate = Rate::default();
        rate.adjust(Spent::default());
        assert_eq!(rate.mean_bytes, FIRST_MEAN_BYTES);
    }
}
