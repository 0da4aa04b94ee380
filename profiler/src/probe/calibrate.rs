//! What one hit costs here: measured on two functions of fragscope's own, called by this thread
//! alone, with the same programs that will be attached to the target.

use std::io;
use std::path::Path;
use std::time::Instant;

use aya::programs::uprobe::UProbeScope;
use profiler_common::{Arguments, Config, Cookie, MAX_SITES};

use super::error::ProbeError;
use super::loaded::{Loaded, Program};
use super::traps::{CALIBRATION_SITES, Trap, attach};

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

unsafe extern "C" {
    /// Gives its argument back; begins with an instruction that the kernel emulates.
    safe fn fragscope_begins_emulated(pointer: *const u64) -> *const u64;
    /// Gives its argument back; begins with an instruction that the kernel single-steps.
    safe fn fragscope_begins_stepped(pointer: *const u64) -> *const u64;
}

/// Calls in one round; the least of some rounds counts, as interruptions only add.
const CALLS: u32 = 2000;
const ROUNDS: u32 = 3;

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

    /// Measures. The ring is empty and the programs have no process to follow afterwards.
    pub(super) fn measure(loaded: &mut Loaded) -> Result<Self, ProbeError> {
        loaded
            .configure(Config { tgid: 0, open: 1 })
            .map_err(host("write a BPF map"))?;
        let emulated = measured(loaded, Program::Free, fragscope_begins_emulated)?;
        let stepped = measured(loaded, Program::Free, fragscope_begins_stepped)?;
        let returning = measured(loaded, Program::Return, fragscope_begins_emulated)?;
        loaded
            .configure(Config::default())
            .map_err(host("write a BPF map"))?;
        Ok(Self {
            emulated,
            stepped,
            return_adds: (returning - emulated).max(0.0),
        })
    }
}

fn host(what: &'static str) -> impl Fn(io::Error) -> ProbeError {
    move |source| ProbeError::Host { what, source }
}

type Dummy = extern "C" fn(*const u64) -> *const u64;

/// The cost of `program` at the entry of `dummy`, in ns.
fn measured(loaded: &mut Loaded, program: Program, dummy: Dummy) -> Result<f64, ProbeError> {
    let bare = least_round(loaded, dummy);
    let offset = file_offset(dummy as usize as u64).map_err(host("read /proc/self/maps"))?;
    let site = (MAX_SITES - CALIBRATION_SITES) as u16;
    let cookie = Cookie::new(site, u16::MAX, Arguments::Size).with_chunk_header(true);
    let path = Path::new("/proc/self/exe");
    let scope = UProbeScope::CallingProcess;
    let link = attach(loaded.program(program)?, path, offset, cookie, scope).map_err(|error| {
        super::error::attach_failure(std::process::id().cast_signed(), &error)
            .unwrap_or_else(|| ProbeError::Attach(super::error::attach_reason(&error)))
    })?;
    let hits = |loaded: &Loaded| loaded.hits(site.into()).map_err(host("read a BPF map"));
    let before = hits(loaded)?;
    let probed = least_round(loaded, dummy);
    let seen = hits(loaded)? - before;
    drop(link);
    if seen != u64::from(CALLS * ROUNDS) {
        return Err(ProbeError::Attach(format!(
            "of {} hits of a probe on fragscope itself, {seen} were seen",
            CALLS * ROUNDS
        )));
    }
    Ok((probed - bare).max(0.0))
}

/// The least time of one call over all rounds, in ns.
fn least_round(loaded: &mut Loaded, dummy: Dummy) -> f64 {
    let words = [0x21u64, 0];
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        for _ in 0..CALLS {
            std::hint::black_box(dummy(std::hint::black_box(&words[1])));
        }
        let taken = start.elapsed().as_nanos() as f64 / f64::from(CALLS);
        while loaded.events.next().is_some() {}
        taken
    });
    rounds.fold(f64::INFINITY, f64::min)
}

/// Where in this program's file the code at `address` is.
fn file_offset(address: u64) -> io::Result<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
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
