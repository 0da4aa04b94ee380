//! Makes a plan for a target: which object, which functions, which instructions.

use profiler_core::memory::TargetMemory;
use profiler_core::residency::{Mapping, MappingKind};
use profiler_target::{Process, Target};

use super::object::{self, Inputs, Server};
use super::plan::{Function, MallocObject, PlanError, PlannedProbe, ProbePlan, Sizes};
use super::sites::{self, SiteOptions};

impl MallocObject {
    /// The object that serves malloc in a live process; not the one at the path `passed_over`,
    /// which forwards all calls.
    ///
    /// # Errors
    /// If there is none that can be read.
    pub fn of(target: &Target, passed_over: Option<&str>) -> Result<Self, PlanError> {
        let server = Loaded::of(target, passed_over)?.server(target)?;
        Ok(server.object)
    }
}

impl ProbePlan {
    /// The plan for a live process.
    ///
    /// # Errors
    /// If the object that serves its malloc calls cannot be found or read.
    pub fn for_target(target: &Target) -> Result<Self, PlanError> {
        let server = Loaded::of(target, None)?.server(target)?;
        Ok(Self::new(server, Sizes::Given))
    }

    /// The plan for recording a live process's calls with all their arguments. It takes more traps.
    ///
    /// # Errors
    /// If the object that serves its malloc calls cannot be found or read.
    pub fn for_recording(target: &Target) -> Result<Self, PlanError> {
        let server = Loaded::of(target, None)?.server(target)?;
        Ok(Self::new(server, Sizes::Requested))
    }

    /// The plan for the process that `inputs` describe.
    ///
    /// # Errors
    /// If the object that serves its malloc calls cannot be found or read.
    pub fn from_inputs<M: TargetMemory>(inputs: &Inputs<'_, M>) -> Result<Self, PlanError> {
        Ok(Self::new(object::find(inputs)?, Sizes::Given))
    }

    fn new(server: Server, sizes: Sizes) -> Self {
        let (probes, skipped) = place(&server, sizes);
        Self {
            object: server.object,
            probes,
            skipped,
            sizes,
            watches_growth: false,
            native_stacks: false,
        }
    }
}

/// What a live process has loaded.
struct Loaded {
    mappings: Vec<Mapping>,
    auxv: Vec<u8>,
}

impl Loaded {
    fn of(target: &Target, passed_over: Option<&str>) -> Result<Self, PlanError> {
        let pid = target.pid();
        let refused = |source| PlanError::Process { pid, source };
        let mut mappings = target.mappings().map_err(refused)?;
        mappings.retain(|mapping| {
            !matches!(&mapping.kind, MappingKind::File(path) if Some(&**path) == passed_over)
        });
        let auxv = target.auxv().map_err(refused)?;
        Ok(Self { mappings, auxv })
    }

    fn server(&self, target: &Target) -> Result<Server, PlanError> {
        let found = object::find(&Inputs {
            mappings: &self.mappings,
            auxv: &self.auxv,
            memory: &target.memory(),
            target,
        });
        // Files of a process that is gone cannot be read, but that is not their fault.
        found.map_err(|error| match target.check() {
            Ok(()) => error,
            Err(gone) => PlanError::Process {
                pid: target.pid(),
                source: gone.into(),
            },
        })
    }
}

fn place(server: &Server, sizes: Sizes) -> (Vec<PlannedProbe>, Vec<(Function, String)>) {
    let mut probes: Vec<(u64, PlannedProbe)> = Vec::new();
    let mut skipped = Vec::new();
    for function in Function::ALL {
        let Some(definition) = server.named(function.name()) else {
            let why = format!("{} does not define it", server.object.target_path());
            skipped.push((function, why));
            continue;
        };
        let start = definition.body.start;
        if definition.indirect {
            let why = "the loader chooses its code (IFUNC), which is not followed".to_string();
            skipped.push((function, why));
        } else if let Some((_, probe)) = probes.iter_mut().find(|(at, _)| *at == start) {
            probe.aliases.push(function);
        } else if let Some(probe) = sites::plan(
            &server.code,
            &definition.body,
            function,
            SiteOptions {
                chunk_header: server.object.chunk_header(),
                sizes,
            },
            &server.symbols,
        ) {
            probes.push((start, probe));
        } else {
            let why = format!("there is no code at its address {start:#x}");
            skipped.push((function, why));
        }
    }
    (
        probes.into_iter().map(|(_, probe)| probe).collect(),
        skipped,
    )
}

#[cfg(test)]
mod tests;
