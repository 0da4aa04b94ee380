//! The cost of one hit on this host: measured on two of fragscope's own functions, called only by
//! this thread, with the same programs that will be attached to the target.

use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use profiler_common::sampling::MAX_MEAN_BYTES;
use profiler_common::{Arguments, Config, Cookie, MAX_SITES};

use super::error::{ProbeError, attach_failure, attach_reason, remove_failure};
use super::links::Link;
use super::loaded::Loaded;
use super::program::BpfProgram;
use super::traps::{CALIBRATION_SITES, Trap};

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text",
    ".globl fragscope_begins_emulated",
    ".type fragscope_begins_emulated, @function",
    "fragscope_begins_emulated:",
    "push rbp",
    "mov rax, rdi",
    "pop rbp",
    "ret",
    ".size fragscope_begins_emulated, . - fragscope_begins_emulated",
    ".globl fragscope_begins_stepped",
    ".type fragscope_begins_stepped, @function",
    "fragscope_begins_stepped:",
    "mov rax, rdi",
    "ret",
    ".size fragscope_begins_stepped, . - fragscope_begins_stepped",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .text",
    ".globl fragscope_begins_emulated",
    ".type fragscope_begins_emulated, @function",
    "fragscope_begins_emulated:",
    "adr x9, fragscope_begins_emulated",
    "ret",
    ".size fragscope_begins_emulated, . - fragscope_begins_emulated",
    ".globl fragscope_begins_stepped",
    ".type fragscope_begins_stepped, @function",
    "fragscope_begins_stepped:",
    "mov x9, x0",
    "ret",
    ".size fragscope_begins_stepped, . - fragscope_begins_stepped",
    ".popsection",
);

unsafe extern "C" {
    /// Returns its argument; begins with an instruction that the kernel emulates.
    safe fn fragscope_begins_emulated(pointer: *const u64) -> *const u64;
    /// Returns its argument; begins with an instruction that the kernel single-steps.
    safe fn fragscope_begins_stepped(pointer: *const u64) -> *const u64;
}

/// Calls in one round; the least of some rounds counts, as interruptions only add.
const CALLS: u32 = 1000;
/// Single-stepping costs tens of times more.
const STEPPED_CALLS: u32 = 100;
const ROUNDS: u32 = 3;

/// A hit costs a real program more than a tight loop, because the trap leaves its caches cold: a
/// Python worker of `benches/slowdown.rs` lost 1,060 ns per hit where the loop lost 500.
const COLD: f64 = 2.1;

/// The least that any hit is taken to cost, in ns: a trap into the kernel and back is dearer
/// everywhere. Noise on a loaded machine must not make probing look free.
const LEAST: f64 = 100.0;

/// Held while probes are on the functions above.
static ALONE: Mutex<()> = Mutex::new(());

/// Cost of one hit of each kind, in ns.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) struct HitCost {
    emulated: f64,
    stepped: f64,
    /// What a return probe adds to the trap at its entry.
    return_adds: f64,
}

impl HitCost {
    pub(super) fn of(&self, trap: Trap) -> f64 {
        match trap {
            Trap::Emulated => self.emulated,
            Trap::Stepped => self.stepped,
            Trap::Return => self.return_adds,
            Trap::ReturnAlone { emulated: true } => self.emulated + self.return_adds,
            Trap::ReturnAlone { emulated: false } => self.stepped + self.return_adds,
        }
    }

    /// Measures. The ring is empty and no window is open afterwards.
    pub(super) fn measure(loaded: &mut Loaded) -> Result<Self, ProbeError> {
        // The functions belong to this process: another session in it would count our calls as its
        // own.
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        loaded
            .configure(Config {
                growth_mean_bytes: 0,
                open: 1,
                // As rarely as possible: the cost of samples is measured where they are taken.
                mean_bytes: MAX_MEAN_BYTES,
                ..Config::default()
            })
            .map_err(host("write a BPF map"))?;
        let plain = Dummy {
            call: fragscope_begins_emulated,
            calls: CALLS,
        };
        let stepping = Dummy {
            call: fragscope_begins_stepped,
            calls: STEPPED_CALLS,
        };
        let bare = plain.least_round(loaded);
        let entry = plain.probed(loaded, BpfProgram::Free, 0)?;
        let both = plain.probed(loaded, BpfProgram::Return, 1)?;
        let stepped = stepping.probed(loaded, BpfProgram::Free, 2)?;
        loaded
            .configure(Config::default())
            .map_err(host("write a BPF map"))?;
        let cost = Self {
            emulated: COLD * (entry.ns - bare).max(LEAST),
            stepped: COLD * (stepped.ns - bare).max(LEAST),
            return_adds: COLD * (both.ns - entry.ns).max(LEAST),
        };
        loaded
            .remove(&[entry.link, both.link, stepped.link])
            .map_err(remove_failure)?;
        Ok(cost)
    }
}

/// A function of our own to probe.
struct Dummy {
    call: extern "C" fn(*const u64) -> *const u64,
    calls: u32,
}

/// What one call takes with a probe, in ns.
struct Probed {
    ns: f64,
    link: Link,
}

impl Dummy {
    /// The time of a call with one more probe at its entry.
    fn probed(
        &self,
        loaded: &mut Loaded,
        program: BpfProgram,
        site: u16,
    ) -> Result<Probed, ProbeError> {
        let offset =
            file_offset(self.call as usize as u64).map_err(host("read /proc/self/maps"))?;
        let site = (MAX_SITES - CALIBRATION_SITES) as u16 + site;
        let cookie = Cookie::new(site, u16::MAX, Arguments::Size).with_chunk_header(true);
        let path = Path::new("/proc/self/exe");
        let pid = NonZeroU32::new(std::process::id()).expect("no process is 0");
        let link = loaded
            .attach(program, path, pid, &[(offset, cookie.0)])
            .map_err(|error| {
                attach_failure(pid.get().cast_signed(), &error)
                    .unwrap_or_else(|| ProbeError::Attach(attach_reason(&error)))
            })?;
        let ns = self.least_round(loaded);
        let seen = loaded.hits(site.into()).map_err(host("read a BPF map"))?;
        let expected = u64::from(self.calls * ROUNDS);
        if seen != expected {
            return Err(ProbeError::Attach(format!(
                "of {expected} hits of a probe on fragscope itself, {seen} were seen"
            )));
        }
        Ok(Probed { ns, link })
    }

    /// The least time of one call over all rounds, in ns.
    fn least_round(&self, loaded: &mut Loaded) -> f64 {
        let words = [0x21u64, 0];
        let rounds = (0..ROUNDS).map(|_| {
            let start = Instant::now();
            for _ in 0..self.calls {
                std::hint::black_box((self.call)(std::hint::black_box(&words[1])));
            }
            let taken = start.elapsed().as_nanos() as f64 / f64::from(self.calls);
            while loaded.events.next().is_some() {}
            taken
        });
        rounds.fold(f64::INFINITY, f64::min)
    }
}

fn host(what: &'static str) -> impl Fn(io::Error) -> ProbeError {
    move |source| ProbeError::Host { what, source }
}

/// The file offset in this program of the code at `address`.
fn file_offset(address: u64) -> io::Result<u64> {
    let maps = profiler_target::kernel_text("/proc/self/maps")?;
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = (hex(start)?, hex(end)?);
        let offset = hex(fields.nth(1)?)?;
        (start..end)
            .contains(&address)
            .then(|| address - start + offset)
    };
    maps.lines()
        .find_map(parse)
        .ok_or_else(|| io::Error::other("the program's own code is in no mapping"))
}
