//! A process or a core file: its memory, mappings, pages, threads, files, control group and
//! descendants.
//!
//! [`Target`] is a live process, held so that a recycled pid is never read, and read through
//! `/proc`, ptrace and the pagemap. [`CoreFile`] is what an ELF core preserved of one. Both
//! implement [`Process`] and give walkers what they need: memory as
//! [`TargetMemory`](profiler_core::memory::TargetMemory), the state of every page, mappings and
//! threads. Nothing here executes code in a target or writes to its memory. Everything read from a
//! target is hostile: bounded and checked. Results are returned; nothing is printed.
//!
//! [`mod@host`] says what this machine and this process's privileges allow. A [`Guard`] is a small
//! process that releases what must not remain when fragscope is killed or suspended.

mod ahead;
mod allocators;
mod attributes;
pub mod auxv;
mod cgroup;
mod closed_stdout;
mod core_file;
mod denial;
mod elf;
mod environment;
mod error_kind;
mod file_reader;
mod forked;
mod fuse;
mod guard;
pub mod host;
mod identity;
pub mod interrupts;
mod jemalloc_options;
mod kernel_file;
mod known_files;
pub mod link_map;
mod maps;
mod memory;
mod memory_group;
mod open;
mod own_memory;
mod page_size;
mod pagemap;
mod preload;
mod privileges;
mod proc_dir;
mod process;
mod process_group;
mod processes;
mod record_ring;
mod residency;
mod runs_on;
mod slices;
mod stat;
mod stop;
mod target;
mod tmpfs;
mod tree;

pub use ahead::{Ahead, reading_ahead};
pub use closed_stdout::was_stdout_closed;
pub use core_file::{CoreError, CoreFile, CoreMemory, CorePages};
pub use denial::{Caller, Denial};
pub use elf::{FILE_LIMIT, FileError, FileLimit, FilePath, UnreadFiles, set_file_limit};
pub use elf::{Source, file_limit, open_checked, open_regular};
pub use environment::StartEnvironment;
pub use error_kind::{
    Action, AllocatorProblem, CoreProblem, ErrorKind, InputProblem, Limit, ListenProblem,
    OutputProblem, Packer, ProgramProblem, not_started, start_thread,
};
pub use file_reader::{is_file_below, open_foreign};
pub use forked::end_forked;
pub use guard::{Deadline, Guard, IDLE_CHECK, Needed, is_suspended};
pub use host::host;
pub use identity::{Libc, Python};
pub use kernel_file::kernel_text;
pub use memory::{LiveMemory, ReadTime};
pub use memory_group::{MemoryGroups, MemoryKills, group_account};
pub use open::OpenError;
pub use own_memory::{give_back_free_memory, share_arena_where_addresses_are_short};
pub use page_size::page_size;
pub use preload::{not_preloaded, wants_to_be_first};
pub use privileges::{
    as_caller, drop_capabilities, give_up_borrowed_privileges, has_borrowed_privileges,
};
pub use proc_dir::{Gone, MemoryShared};
pub use process::{Files, Process, malloc_in};
pub use process_group::ProcessGroup;
pub use processes::{Listed, Listing, list, resident_bytes, user_of};
pub use record_ring::{Marker, Next, RecordRing, RingEvent, SUSPENDED_AFTER};
pub use residency::PageSource;
pub use runs_on::RunsOn;
pub use slices::{RUNS_BETWEEN, SliceTally, Slices};
pub use stat::{Stat, time_of_ticks};
pub use stop::{LONGEST_STOP, STOP_DEADLINE, StopError, StopOutcome, Stopped};
pub use target::{Reads, Target, TargetState};
pub use tree::{
    Executed, Member, ProcessTree, ThreadState, children_of, counts_as_here, has_ended, has_exited,
    process_of, reap_adopted,
};
