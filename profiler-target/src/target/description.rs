//! The description of a process: its names, its environment, and the files that it maps.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::PoisonError;

use profiler_core::addr::RemoteAddr;
use profiler_core::allocator::UnknownEnvironment;
use profiler_core::residency::{Mapping, MappingKind};
use profiler_core::sample::{self, Halted};

use super::Target;
use crate::cgroup::is_frozen;
use crate::elf::{FilePath, UnreadFiles};
use crate::environment::StartEnvironment;
use crate::kernel_file::kernel_text;
use crate::link_map;
use crate::maps;
use crate::memory::Answers;
use crate::proc_dir::field;
use crate::process::{Files, Process};
use crate::tmpfs::Kind;

/// Whether a process is stopped, by its `status`; of each of its threads that is the same.
fn halted(status: &str) -> Option<Halted> {
    let mut lines = status.lines();
    let state = lines.find_map(|line| line.strip_prefix("State:"))?;
    match state.trim_start().chars().next()? {
        'T' => Some(Halted::Stopped),
        't' => Some(Halted::Traced),
        _ => None,
    }
}

/// The longest part of a command line that is kept, in bytes.
const MAX_CMDLINE_BYTES: u64 = 64 << 10;

impl Target {
    /// Its root directory as a path of ours.
    pub fn root(&self) -> PathBuf {
        self.dir.path("root")
    }

    /// Whether its program is statically linked: then it has no C library of its own to inspect.
    ///
    /// # Errors
    /// When its mappings cannot be read.
    pub fn is_static(&self) -> io::Result<bool> {
        let program = || {
            let exe = self.dir.path("exe").into();
            self.files.reader.open("its program", exe)
        };
        Ok(self.libc()?.is_none() && program().is_some_and(|exe| !exe.has_interpreter()))
    }

    /// Makes it wait only once: after one of its files has not answered, no other file that the
    /// kernel does not serve itself is waited for, because it is one of many processes.
    pub fn waits_once(&self) {
        self.files.reader.waits_once();
    }

    /// Whether it maps files served by a process or another host, which may not answer.
    ///
    /// # Errors
    /// When its mappings cannot be read.
    pub fn maps_served_files(&self) -> io::Result<bool> {
        let mappings = self.mappings()?;
        let mut files = mappings
            .iter()
            .filter(|mapping| matches!(mapping.kind, MappingKind::File(_)));
        Ok(files.any(|mapping| self.is_served(mapping)))
    }

    fn is_served(&self, mapping: &Mapping) -> bool {
        self.devices.kind(maps::device(mapping)).is_served()
    }

    fn answers_for(&self, mapping: &Mapping) -> Answers {
        match mapping.kind {
            MappingKind::File(_) => match self.devices.kind(maps::device(mapping)) {
                Kind::Memory | Kind::Kernel => Answers::Always,
                Kind::Host => Answers::UnlessCopied,
                Kind::Others => Answers::Never,
            },
            _ => Answers::Always,
        }
    }

    fn cmdline(&self) -> Vec<String> {
        // The kernel reads this from the process's own memory, which is brought in for it.
        let bytes = self.dir.first_bytes("cmdline", MAX_CMDLINE_BYTES);
        words(&bytes.unwrap_or_default())
    }
}

/// The words of a command line in the format of `/proc/PID/cmdline`.
pub(crate) fn words(cmdline: &[u8]) -> Vec<String> {
    let kept = cmdline.strip_suffix(b"\0").unwrap_or(cmdline);
    if kept.is_empty() {
        return Vec::new();
    }
    kept.split(|&byte| byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

impl Process for Target {
    fn mappings(&self) -> io::Result<Vec<Mapping>> {
        let maps::Listed {
            mappings: mut all,
            cut,
        } = maps::read(&self.dir)?;
        *self.maps_cut.lock().unwrap_or_else(PoisonError::into_inner) = cut;
        let is_file = |mapping: &Mapping| matches!(mapping.kind, MappingKind::File(_));
        let devices = all
            .iter()
            .filter(|mapping| is_file(mapping))
            .map(maps::device);
        self.devices.learn(&self.dir, &devices.collect());
        for mapping in all.iter_mut().filter(|mapping| is_file(mapping)) {
            mapping.is_tmpfs = self.devices.kind(maps::device(mapping)) == Kind::Memory;
        }
        let answers = all
            .iter()
            .filter(|mapping| is_file(mapping) || mapping.shared)
            .map(|mapping| (mapping.range, self.answers_for(mapping)));
        self.memory.files_are(answers.collect());
        // A zombie has none, and the kernel returns no error.
        match all.is_empty() {
            true => Err(self.gone()),
            false => Ok(all),
        }
    }

    fn auxv(&self) -> io::Result<Vec<u8>> {
        self.dir.bytes("auxv")
    }

    fn load_order(&self) -> Vec<RemoteAddr> {
        // Objects loaded later come after these, so the one that serves malloc stays. Until the
        // order is known it is read again.
        if let Some(known) = self.load_order.get() {
            return known.clone();
        }
        let read = || {
            let auxv = self.auxv().ok()?;
            link_map::chain(&auxv, &self.memory())
        };
        match read() {
            Some(order) => self.load_order.get_or_init(|| order).clone(),
            None => Vec::new(),
        }
    }

    fn names(&self) -> sample::Target {
        let status = self.dir.text("status").unwrap_or_default();
        let comm = self.dir.text("comm").unwrap_or_default();
        sample::Target {
            pid: self.pid(),
            comm: comm.trim_end().to_owned(),
            cmdline: self.cmdline(),
            threads: field(&status, "Threads").unwrap_or(0) as u32,
            began_ticks: self.began_ticks().ok(),
            boot_id: kernel_text("/proc/sys/kernel/random/boot_id")
                .ok()
                .map(|id| id.trim_end().to_owned()),
            halted: halted(&status).or_else(|| is_frozen(&self.dir).then_some(Halted::Frozen)),
            ..sample::Target::default()
        }
    }

    fn environment(&self) -> Result<StartEnvironment, UnknownEnvironment> {
        StartEnvironment::of(&self.dir)
    }

    /// The mapped inode itself if the kernel gives access to it (the file may have been deleted or
    /// replaced since), else the path through the target's root.
    fn file_of(&self, mapping: &Mapping) -> FilePath {
        let (start, end) = (mapping.range.start().get(), mapping.range.end().get());
        let linked = self.dir.path(&format!("map_files/{start:x}-{end:x}"));
        let mapped: &str = match &mapping.kind {
            MappingKind::File(mapped) => mapped,
            _ => "",
        };
        let named = self.root().join(mapped.trim_start_matches('/'));
        FilePath::linked(linked, named, Some(mapping.device)).served(self.is_served(mapping))
    }

    fn is_program(&self, mapped: &str) -> bool {
        fs::read_link(self.dir.path("exe"))
            .is_ok_and(|exe| exe.to_string_lossy().trim_end_matches(" (deleted)") == mapped)
    }

    fn read_only_memory(&self, _mapped: &str) -> Vec<Vec<u8>> {
        Vec::new()
    }

    fn unread_files(&self) -> Option<UnreadFiles> {
        let mounts = self.devices.is_cut().then(|| {
            "its list of mounts is too long to be read, so it is unknown who answers for some of the files that it maps"
                .to_owned()
        });
        let cut = *self.maps_cut.lock().unwrap_or_else(PoisonError::into_inner);
        let files = self.files.reader.unread();
        let is_over_limit = files.as_ref().is_some_and(|files| files.is_over_limit);
        let all = [cut.what(), mounts, files.map(|files| files.what)];
        let all: Vec<String> = all.into_iter().flatten().collect();
        (!all.is_empty()).then(|| UnreadFiles {
            what: all.join("; "),
            is_over_limit,
        })
    }

    fn files(&self) -> &Files {
        &self.files
    }
}
