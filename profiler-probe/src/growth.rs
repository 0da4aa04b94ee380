//! Growth of the target's memory: which kernel tracepoints are watched, and how sparsely growth is
//! sampled.
//!
//! The links are descriptors of this process and are closed by the kernel when it ends: they leave
//! nothing in the target. They stay for the whole session, whether or not the probes are armed.

use aya::Ebpf;
use aya::programs::{ProgramError, RawTracePoint};
use profiler_common::sampling::{MAX_MEAN_BYTES, SamplingCounter};
use profiler_core::sites::GrowthSampling;
use profiler_core::units::nanoseconds;

use super::error::{chain, deepest};
use super::support::{self, LOCKED_DOWN};

/// Programs, the kernel's tracepoints at which they run, and what is not watched without them: page
/// faults by the program itself, and by the kernel on its behalf.
const WATCHED: [(&str, &str, &str); 3] = [
    (
        "on_call_end",
        "sys_exit",
        "mmap, munmap, mprotect, madvise, mremap, brk",
    ),
    ("on_page_fault", "page_fault_user", "page faults"),
    (
        "on_page_fault",
        "page_fault_kernel",
        "page faults in system calls",
    ),
];

/// How much longer one of the target's system calls or page faults takes while growth is watched,
/// in ns: the measured difference of empty calls with and without.
const EVENT_NS: f64 = 140.0;
/// Watching takes no more than this part of the budget, or this share of the target's time if that
/// is more.
const PART_OF_BUDGET: f64 = 0.5;
const LEAST_SHARE: f64 = 0.005;
/// Over how long that is measured, in ns.
const SPAN_NS: u64 = 2_000_000_000;

/// Samples take at most this part of the budget, but at least `LEAST_SAMPLES_A_SECOND` are taken:
/// their cost is known only after some were taken.
const SAMPLES_PART: f64 = 0.1;
const LEAST_SAMPLES_A_SECOND: f64 = 10.0;
/// The assumed cost of a sample before one was taken, in ns.
const FIRST_SAMPLE_NS: f64 = 5_000.0;

/// The mean bytes between sampling points at first, and the minimum: of the page faults of a burst
/// after a quiet time, no more than one in sixteen is sampled.
const LEAST_MEAN_BYTES: u64 = 64 << 10;
/// The target rate of samples per second where the budget has room for them, and the factor by
/// which they become rarer at most from one look to the next. With their stacks they take some
/// thousandths of one core while a lot grows.
const SAMPLES_A_SECOND: f64 = 1000.0;
const MAX_CHANGE: u64 = 4;

/// Attaches all programs of growth. Returns a sentence for each that is not available.
pub(super) fn attach(bpf: &mut Ebpf) -> Vec<String> {
    if !support::reads_kernel_memory() {
        let what = format!("system calls and page faults ({LOCKED_DOWN})");
        return vec![what];
    }
    let mut missing = Vec::new();
    for (program, tracepoint, what) in WATCHED {
        if let Err(why) = attach_one(bpf, program, tracepoint) {
            missing.push(format!("{what} ({why})"));
        }
    }
    missing
}

/// Attaches one program. The error says why it failed, by step.
fn attach_one(bpf: &mut Ebpf, program: &str, tracepoint: &str) -> Result<(), String> {
    let not_taken =
        |error: ProgramError| format!("the kernel did not take the BPF program: {}", chain(&error));
    let found = bpf.program_mut(program);
    let found = found.ok_or_else(|| format!("the BPF object has no {program}"))?;
    let program: &mut RawTracePoint = found.try_into().map_err(not_taken)?;
    if program.fd().is_err() {
        program.load().map_err(not_taken)?;
    }
    let attached = program.attach(tracepoint);
    attached
        .map(drop)
        .map_err(|error| format!("the tracepoint {tracepoint}: {}", deepest(&error)))
}

/// Removes what [`attach`] has attached.
pub(super) fn detach(bpf: &mut Ebpf) {
    for (name, _, _) in WATCHED {
        let program = bpf.program_mut(name);
        let program: Option<&mut RawTracePoint> = program.and_then(|of| of.try_into().ok());
        if let Some(program) = program {
            // A program that is not loaded need not be removed.
            let _not_loaded = program.unload();
        }
    }
}

/// How much time watching growth took from the target besides samples, in ns.
pub(super) fn spent_ns(counts: &[u64; SamplingCounter::COUNT as usize]) -> f64 {
    counts[SamplingCounter::GrowthEvents as usize] as f64 * EVENT_NS
}

/// How many samples a second the budget has room for.
fn samples_a_second(counts: &[u64; SamplingCounter::COUNT as usize], budget: Option<f64>) -> f64 {
    let each = match counts[SamplingCounter::GrowthTaken as usize] {
        0 => FIRST_SAMPLE_NS,
        taken => counts[SamplingCounter::GrowthNanoseconds as usize] as f64 / taken as f64,
    };
    let room = budget.map_or(f64::INFINITY, |budget| {
        SAMPLES_PART * budget * 1e9 / each.max(100.0)
    });
    room.clamp(LEAST_SAMPLES_A_SECOND, SAMPLES_A_SECOND)
}

/// How growth is sampled.
#[derive(Debug)]
pub(super) struct GrowthRate {
    mean_bytes: u64,
    /// The time of the last look, and the bytes by then.
    before: (u64, u64),
    began_ns: u64,
    /// The start of the present span, and what watching had taken by then, in ns.
    span: (u64, f64),
    missing: Vec<String>,
    /// Whether it was stopped because of the budget.
    is_over_budget: bool,
}

impl GrowthRate {
    pub(super) fn new(now_ns: u64, missing: Vec<String>) -> Self {
        Self {
            mean_bytes: LEAST_MEAN_BYTES,
            before: (now_ns, 0),
            began_ns: now_ns,
            span: (now_ns, 0.0),
            missing,
            is_over_budget: false,
        }
    }

    /// Mean bytes between two points of the sample.
    pub(super) fn mean_bytes(&self) -> u64 {
        self.mean_bytes
    }

    /// Makes samples rare enough that they take no more than their part of the budget and are no
    /// more than some hundred a second. Returns whether that is a change.
    pub(super) fn adjust(
        &mut self,
        now_ns: u64,
        counts: &[u64; SamplingCounter::COUNT as usize],
        budget: Option<f64>,
    ) -> bool {
        let bytes = |of| counts[of as usize];
        let all = bytes(SamplingCounter::GrownBytes)
            .saturating_add(bytes(SamplingCounter::ReturnedBytes))
            .saturating_add(bytes(SamplingCounter::TouchedBytes));
        let (at_ns, before) = std::mem::replace(&mut self.before, (now_ns, all));
        let seconds = now_ns.saturating_sub(at_ns).max(1) as f64 / 1e9;
        let wanted = all.saturating_sub(before) as f64 / seconds / samples_a_second(counts, budget);
        // Most bursts are over before the next look, and quiet may be.
        let now = self.mean_bytes;
        let wanted = (wanted as u64).clamp(now / 2, now * MAX_CHANGE);
        let wanted = wanted.clamp(LEAST_MEAN_BYTES, MAX_MEAN_BYTES);
        std::mem::replace(&mut self.mean_bytes, wanted) != wanted
    }

    /// Whether watching takes more of the target's time than this budget allows, so that it must
    /// end; that is noted.
    pub(super) fn must_end(
        &mut self,
        now_ns: u64,
        counts: &[u64; SamplingCounter::COUNT as usize],
        budget: Option<f64>,
    ) -> bool {
        let (began_ns, before) = self.span;
        let length = now_ns.saturating_sub(began_ns);
        if length < SPAN_NS {
            return false;
        }
        let spent = spent_ns(counts) + counts[SamplingCounter::GrowthNanoseconds as usize] as f64;
        self.span = (now_ns, spent);
        let share = (spent - before) / length as f64;
        let limit = budget.map(|budget| (PART_OF_BUDGET * budget).max(LEAST_SHARE));
        let is_too_much = limit.is_some_and(|limit| share > limit);
        if is_too_much {
            self.is_over_budget = true;
            self.missing.push(format!(
                "all of it since {} after it began: the target makes so many system calls and page faults that watching \
                 them took {:.1} % of its time",
                nanoseconds(now_ns.saturating_sub(self.began_ns)),
                share * 100.0
            ));
        }
        is_too_much
    }

    /// What is known of growth by now.
    pub(super) fn state(
        &self,
        now_ns: u64,
        counts: &[u64; SamplingCounter::COUNT as usize],
    ) -> GrowthSampling {
        GrowthSampling {
            watched_ns: now_ns.saturating_sub(self.began_ns),
            mean_bytes: self.mean_bytes,
            grown_bytes: counts[SamplingCounter::GrownBytes as usize],
            returned_bytes: counts[SamplingCounter::ReturnedBytes as usize],
            touched_bytes: counts[SamplingCounter::TouchedBytes as usize],
            missing: self.missing.clone(),
            is_over_budget: self.is_over_budget,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_growth_is_sampled_seldom_and_quiet_often_bit_by_bit() {
        let mut rate = GrowthRate::new(0, Vec::new());
        let mut counts = [0; SamplingCounter::COUNT as usize];
        assert!(!rate.adjust(100_000_000, &counts, None));
        assert_eq!(rate.mean_bytes(), LEAST_MEAN_BYTES);
        // 2 GB a second.
        for tick in 2..=10 {
            counts[SamplingCounter::TouchedBytes as usize] += 200_000_000;
            rate.adjust(tick * 100_000_000, &counts, None);
            let most = LEAST_MEAN_BYTES * MAX_CHANGE.pow(tick as u32 - 1);
            assert!(rate.mean_bytes() <= most);
        }
        assert_eq!(rate.mean_bytes(), 2_000_000);
        assert!(rate.adjust(1_100_000_000, &counts, None));
        assert_eq!(rate.mean_bytes(), 1_000_000);
        counts[SamplingCounter::GrownBytes as usize] = u64::MAX;
        for tick in 12..30 {
            counts[SamplingCounter::TouchedBytes as usize] = 0;
            rate.adjust(tick * 100_000_000, &counts, None);
            counts[SamplingCounter::GrownBytes as usize] -= 1;
            assert!((LEAST_MEAN_BYTES..=MAX_MEAN_BYTES).contains(&rate.mean_bytes()));
        }
    }

    /// Simulates a target that touches 2 GB per second, where each sample costs `each_ns`. Returns
    /// the samples per second and the share of the target's time that they take.
    fn sampled(budget: Option<f64>, each_ns: f64) -> (f64, f64) {
        let mut rate = GrowthRate::new(0, Vec::new());
        let mut counts = [0; SamplingCounter::COUNT as usize];
        let mut taken = 0.0;
        for tick in 1..=100 {
            taken = 200_000_000.0 / rate.mean_bytes() as f64;
            counts[SamplingCounter::TouchedBytes as usize] += 200_000_000;
            counts[SamplingCounter::GrowthTaken as usize] += taken as u64;
            counts[SamplingCounter::GrowthNanoseconds as usize] +=
                (taken as u64 as f64 * each_ns) as u64;
            rate.adjust(tick * 100_000_000, &counts, budget);
        }
        (taken * 10.0, taken * 10.0 * each_ns / 1e9)
    }

    #[test]
    fn samples_of_growth_keep_to_their_part_of_the_budget() {
        // Of 2 us a thousand a second take 0.2 %.
        assert!((990.0..1010.0).contains(&sampled(None, 2000.0).0));
        assert!((990.0..1010.0).contains(&sampled(Some(0.04), 2000.0).0));
        for (budget, each_ns) in [(0.04, 20_000.0), (0.01, 2000.0), (0.002, 5000.0)] {
            let (often, share) = sampled(Some(budget), each_ns);
            assert!(
                share <= SAMPLES_PART * budget * 1.1,
                "{budget}: {often}, {share}"
            );
            assert!(
                share >= SAMPLES_PART * budget * 0.8,
                "{budget}: {often}, {share}"
            );
        }
        // There are samples all the same.
        let counts = [0; SamplingCounter::COUNT as usize];
        assert_eq!(
            samples_a_second(&counts, Some(0.0001)),
            LEAST_SAMPLES_A_SECOND
        );
    }

    #[test]
    fn watching_ends_where_samples_take_more_than_its_part_too() {
        let mut rate = GrowthRate::new(0, Vec::new());
        let mut counts = [0; SamplingCounter::COUNT as usize];
        let ended = (1..=20).find(|second| {
            counts[SamplingCounter::GrowthNanoseconds as usize] = second * 50_000_000;
            rate.must_end(second * 1_000_000_000, &counts, Some(0.04))
        });
        assert_eq!(ended, Some(2));
    }

    #[test]
    fn watching_ends_where_it_takes_more_than_its_part_of_the_budget() {
        let second = 1_000_000_000;
        let play = |calls_a_second: u64, budget| {
            let mut rate = GrowthRate::new(0, Vec::new());
            let mut counts = [0; SamplingCounter::COUNT as usize];
            let ended = (1..=20).find(|at| {
                counts[SamplingCounter::GrowthEvents as usize] = at * calls_a_second;
                rate.must_end(at * second, &counts, budget)
            });
            assert_eq!(ended.is_some(), !rate.missing.is_empty());
            assert_eq!(ended.is_some(), rate.is_over_budget);
            ended
        };
        // Of 140 ns each: 1.4 and 7 %.
        assert_eq!(play(100_000, Some(0.05)), None);
        assert_eq!(play(500_000, Some(0.05)), Some(2));
        assert_eq!(play(500_000, None), None);
        assert_eq!(play(30_000, Some(0.001)), None);
    }
}
