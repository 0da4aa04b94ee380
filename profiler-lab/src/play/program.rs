//! A program in its file, which may grow while it is replayed.

mod buffer;

use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use profiler_common::program::{
    Control, OPS_AT, Op, OpCode, PROGRAM_MAGIC, ProgramHeader, STACK_BYTES,
};
use profiler_core::addr::PAGE_SIZE;
use profiler_core::allocator::GlibcSetting;
use profiler_core::text::visible;
use profiler_trace::compile::{Compiler, ObjectBytes, ProgramCheckpoint, Sink, Summary};
use profiler_trace::limits::{Incomplete, Meter, Stopped, TableOwner};
use profiler_trace::trace::{
    Checkpoint, Event, EventKind, Item, PassError, ReadError, RecordedBy, TraceDescription,
};

pub use self::buffer::OperationsSink;
use self::buffer::{BUFFERED, Buffer};

/// Why a trace has no program.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The trace cannot be read.
    #[error(transparent)]
    Read(ReadError),
    /// There is nothing in it to replay.
    #[error("the trace holds no event: there is nothing to play{}", because(.0))]
    Empty(Option<Incomplete>),
    /// A signal came while it was read.
    #[error("interrupted while it was read: nothing was played")]
    Interrupted,
    /// The program cannot be written.
    #[error(
        "cannot write what players are to play into {}, the folder for temporary files: {why}",
        visible(std::env::temp_dir().display())
    )]
    Write {
        /// What failed.
        #[from]
        why: io::Error,
    },
}

fn because(trouble: &Option<Incomplete>) -> String {
    let trouble = trouble.as_ref();
    trouble.map_or_else(String::new, |trouble| format!(" ({trouble})"))
}

impl From<ReadError> for CompileError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Stopped(Stopped::Interrupted) => Self::Interrupted,
            other => Self::Read(other),
        }
    }
}

impl From<PassError> for CompileError {
    fn from(error: PassError) -> Self {
        match error {
            PassError::Interrupted => Self::Interrupted,
            PassError::Taker(why) => Self::Write { why },
        }
    }
}

/// A compiled trace. Players may play it while it grows.
#[derive(Debug)]
pub struct ReplayProgram {
    file: File,
    published: AtomicU64,
    description: TraceDescription,
    state: RwLock<State>,
}

/// What is known of a program so far.
#[derive(Clone, Debug, Default)]
struct State {
    checkpoints: Vec<ProgramCheckpoint>,
    summary: Summary,
    closed: bool,
}

impl ReplayProgram {
    /// A program whose operations are written at once, with one checkpoint at its end. `write`
    /// returns their summary.
    ///
    /// # Errors
    /// Those of `write`, or if there is no room for the program.
    pub fn of_operations(
        meter: Meter,
        write: impl FnOnce(&mut OperationsSink) -> io::Result<Summary>,
    ) -> io::Result<Arc<Self>> {
        let mut builder = ProgramBuilder::new(TraceDescription::default(), meter)?;
        let mut summary = write(&mut OperationsSink(&mut builder.buffer))?;
        (summary.processes, summary.events) = (1, builder.buffer.published);
        builder.buffer.push(Op {
            code: OpCode::CHECKPOINT,
            ..Op::default()
        })?;
        builder.close()?;
        if let Ok(mut state) = builder.program.state.write() {
            let checkpoint = ProgramCheckpoint {
                checkpoint: Checkpoint::default(),
                recorded: false,
                began_ns: 0,
                live_bytes: 0,
                objects: ObjectBytes::default(),
                events: summary.events,
            };
            state.checkpoints.push(checkpoint);
            state.summary = summary;
        }
        Ok(builder.program)
    }

    /// What the trace says about the recorded program.
    pub fn description(&self) -> &TraceDescription {
        &self.description
    }

    /// Its contents so far.
    pub fn summary(&self) -> Summary {
        self.state(|state| state.summary.clone())
    }

    /// The checkpoints so far, in order.
    pub fn checkpoints(&self) -> Vec<ProgramCheckpoint> {
        self.state(|state| state.checkpoints.clone())
    }

    /// A checkpoint by its number.
    pub(super) fn checkpoint(&self, number: usize) -> Option<ProgramCheckpoint> {
        self.state(|state| state.checkpoints.get(number).cloned())
    }

    /// Operations that can be played.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// A descriptor for a player, for reading only: other players play it too.
    pub(super) fn for_player(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(File::open(path)?.into())
    }

    /// Whether one of its processes starts or executes another program, or still may.
    pub(super) fn may_execute(&self) -> bool {
        self.state(|state| !state.closed || state.summary.executes)
    }

    /// Bytes that players themselves use to play it, in all of their processes: the program, the
    /// control block, slots and stacks.
    pub(super) fn own_bytes(&self) -> u64 {
        let all = self.summary();
        // A file on a disk does not count.
        let in_memory = fstatfs(&self.file).is_ok_and(|it| it.filesystem_type() == TMPFS_MAGIC);
        let operations = match in_memory {
            true => self.published() * size_of::<Op>() as u64 + OPS_AT as u64,
            false => 0,
        };
        let slots = all.slots * size_of::<usize>() as u64;
        // The last page of a table is touched as a whole.
        let stacks = u64::from(all.threads) * STACK_BYTES as u64;
        let rest = u64::from(all.processes) * 2 * PAGE_SIZE + size_of::<Control>() as u64;
        operations + slots + stacks + rest
    }

    fn state<T>(&self, get: impl FnOnce(&State) -> T) -> T {
        // Nothing that holds the lock panics.
        get(&self
            .state
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// A program that grows.
#[derive(Debug)]
pub struct ProgramBuilder {
    program: Arc<ReplayProgram>,
    compiler: Compiler,
    buffer: Buffer,
    meter: Meter,
    since_weighed: u32,
}

/// The size of the tables is checked every this many items.
const WEIGHED_EVERY: u32 = 4096;

/// The value to which glibc's `mmap_threshold` had grown when the recording began; `None` if it
/// does not grow or had not.
fn grown_mmap_threshold(description: &TraceDescription) -> Option<u64> {
    let is_seeded = description.recorder == Some(RecordedBy::Probes);
    let grown = GlibcSetting::MmapThreshold.grown(|wanted| description.glibc_setting(wanted));
    grown.filter(|_| is_seeded)
}

impl ProgramBuilder {
    /// An empty program, within the limits of a meter.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn new(description: TraceDescription, meter: Meter) -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        let room = fstatvfs(&file)?;
        let room = room.blocks_available() * room.fragment_size() / 2;
        file.set_len(OPS_AT as u64)?;
        let magic = offset_of!(ProgramHeader, magic) as u64;
        file.write_all_at(&PROGRAM_MAGIC.to_ne_bytes(), magic)?;
        let buffer = Buffer {
            file: file.try_clone()?,
            published: 0,
            forgotten: 0,
            ops: Vec::with_capacity(BUFFERED),
            meter: meter.clone(),
            room,
        };
        let threshold = grown_mmap_threshold(&description);
        let compiler = Compiler::new(&description);
        let mut builder = Self {
            program: Arc::new(ReplayProgram {
                file,
                published: AtomicU64::new(0),
                description,
                state: RwLock::default(),
            }),
            compiler,
            buffer,
            meter,
            since_weighed: 0,
        };
        if let Some(bytes) = threshold {
            builder
                .compiler
                .set_mmap_threshold(bytes, &mut builder.buffer)?;
        }
        Ok(builder)
    }

    /// The program, to be played.
    pub fn program(&self) -> &Arc<ReplayProgram> {
        &self.program
    }

    /// Appends an item.
    ///
    /// # Errors
    /// If there is no room, or a limit is met; what was appended before can be played.
    pub fn item(&mut self, item: Item) -> io::Result<()> {
        self.weigh(&item)?;
        self.buffer.check_room()?;
        let is_checkpoint = matches!(item, Item::Checkpoint(_));
        self.compiler.item(item, &mut self.buffer)?;
        if is_checkpoint {
            self.share_checkpoints();
        }
        self.publish_if_full()
    }

    /// Makes checkpoints known before a player comes there.
    fn share_checkpoints(&self) {
        if let Ok(mut state) = self.program.state.write() {
            let known = state.checkpoints.len();
            state
                .checkpoints
                .extend_from_slice(&self.compiler.checkpoints()[known..]);
        }
    }

    fn publish_if_full(&mut self) -> io::Result<()> {
        if self.buffer.ops.len() >= BUFFERED {
            self.publish()?;
        }
        Ok(())
    }

    /// Appends a checkpoint that was not recorded: these are few enough to need no limit.
    ///
    /// # Errors
    /// If there is no room.
    pub fn add_checkpoint(&mut self, process: u32, time_ns: u64) -> io::Result<()> {
        self.compiler
            .add_checkpoint(process, time_ns, &mut self.buffer)?;
        self.share_checkpoints();
        self.publish_if_full()
    }

    /// Whether its tables may be this large, checked from time to time and before they suddenly
    /// grow.
    fn weigh(&mut self, item: &Item) -> io::Result<()> {
        let forks = match item {
            Item::Event(Event {
                thread,
                kind: EventKind::Fork { .. },
                ..
            }) => Some(*thread),
            _ => None,
        };
        self.since_weighed += 1;
        let is_event = matches!(item, Item::Event(_));
        if is_event && forks.is_none() && self.since_weighed < WEIGHED_EVERY {
            return Ok(());
        }
        self.since_weighed = 0;
        self.meter.check()?;
        let bytes = self.compiler.table_bytes(forks);
        self.meter.hold(TableOwner::Compiler, bytes)
    }

    /// Completes the program: nothing more will follow, for the reason given unless it is complete.
    ///
    /// # Errors
    /// If there is nothing in it, or no room for it.
    pub fn finish(
        mut self,
        trouble: Option<Incomplete>,
    ) -> Result<Arc<ReplayProgram>, CompileError> {
        self.close()?;
        let summary = self.compiler.summary();
        if summary.events == 0 && summary.seed_blocks == 0 {
            return Err(CompileError::Empty(trouble));
        }
        Ok(self.program)
    }

    /// Bytes live by now in a process that runs, as asked for.
    pub fn live_bytes_of(&self, process: u32) -> Option<u64> {
        self.compiler.live_bytes_of(process)
    }

    /// The number of processes so far: each process number is less.
    pub fn processes(&self) -> u32 {
        self.compiler.processes()
    }

    /// Bytes live now in all processes, as requested.
    pub fn live_bytes(&self) -> u64 {
        self.compiler.live_bytes()
    }

    /// The process of a thread that is known.
    pub fn process_of_thread(&self, thread: u32) -> Option<u32> {
        self.compiler.process_of_thread(thread)
    }

    /// Lets players see all of it.
    ///
    /// # Errors
    /// If there is no room.
    pub fn publish(&mut self) -> io::Result<()> {
        self.buffer.publish()?;
        let published = self.buffer.published;
        self.program.published.store(published, Ordering::Relaxed);
        if let Ok(mut state) = self.program.state.write() {
            state.summary = self.compiler.summary();
        }
        Ok(())
    }

    /// Frees the room of operations before this one, which all have played.
    ///
    /// # Errors
    /// If the file system cannot.
    pub fn forget(&mut self, before: u64) -> io::Result<()> {
        let bytes = (before.min(self.buffer.published) * size_of::<Op>() as u64) & !(BLOCK - 1);
        if bytes == 0 {
            return Ok(());
        }
        self.buffer.forgotten = before;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(
            &self.program.file,
            flags,
            OPS_AT as i64,
            bytes as i64,
        )?)
    }

    /// Marks the end: nothing more will follow.
    ///
    /// # Errors
    /// If there is no room.
    pub fn close(&mut self) -> io::Result<()> {
        self.publish()?;
        if let Ok(mut state) = self.program.state.write() {
            state.closed = true;
        }
        let closed = offset_of!(ProgramHeader, closed) as u64;
        self.program.file.write_all_at(&1u32.to_ne_bytes(), closed)
    }
}

/// Room is given back in whole blocks of the file system.
const BLOCK: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_that_had_grown_is_known_of_a_process_that_ran_already() {
        let of = |recorder: &str, fixed: &str, bytes: &str| {
            let all = [
                ("recorder", recorder),
                ("setting.no_dyn_threshold", fixed),
                ("setting.mmap_threshold", bytes),
            ];
            grown_mmap_threshold(&all.into_iter().collect())
        };
        assert_eq!(of("probes", "0", "503808"), Some(503_808));
        assert_eq!(of("probes", "0", "131072"), None);
        assert_eq!(of("probes", "1", "503808"), None);
        assert_eq!(of("preload", "0", "503808"), None);
        assert_eq!(of("probes", "0", "99999999999"), None);
    }
}
