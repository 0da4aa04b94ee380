//! From a target to a plan: which object, which functions, which instructions.

use profiler_core::memory::TargetMemory;
use profiler_core::residency::MappingKind;

use super::object::{self, Inputs, Server};
use super::plan::{Function, MallocObject, PlanError, PlannedProbe, ProbePlan};
use super::sites;
use crate::process::Target;

impl MallocObject {
    /// The object that serves malloc in a live process; not the one at the path `passed_over`, which
    /// hands all calls on.
    ///
    /// # Errors
    /// When there is none that can be read.
    pub fn of(target: &Target, passed_over: Option<&str>) -> Result<Self, PlanError> {
        let pid = target.pid();
        let refused = |source| PlanError::Process { pid, source };
        let mut mappings = target.mappings().map_err(refused)?;
        mappings.retain(|mapping| {
            !matches!(&mapping.kind, MappingKind::File(path) if Some(path.as_str()) == passed_over)
        });
        let server = object::find(&Inputs {
            mappings: &mappings,
            auxv: &target.auxv().map_err(refused)?,
            memory: &target.memory(),
            host_path: &|mapped| target.host_path(mapped),
        })?;
        Ok(server.object)
    }
}

impl ProbePlan {
    /// The plan for a live process.
    ///
    /// # Errors
    /// When the object that serves its malloc calls cannot be found or read.
    pub fn for_target(target: &Target) -> Result<Self, PlanError> {
        let pid = target.pid();
        let refused = |source| PlanError::Process { pid, source };
        Self::from_inputs(&Inputs {
            mappings: &target.mappings().map_err(refused)?,
            auxv: &target.auxv().map_err(refused)?,
            memory: &target.memory(),
            host_path: &|mapped| target.host_path(mapped),
        })
    }

    /// The plan for the process that `inputs` describe.
    ///
    /// # Errors
    /// When the object that serves its malloc calls cannot be found or read.
    pub fn from_inputs<M: TargetMemory>(inputs: &Inputs<'_, M>) -> Result<Self, PlanError> {
        let server = object::find(inputs)?;
        let (probes, skipped) = place(&server);
        Ok(Self {
            object: server.object,
            probes,
            skipped,
        })
    }
}

fn place(server: &Server) -> (Vec<PlannedProbe>, Vec<(Function, String)>) {
    let mut probes: Vec<(u64, PlannedProbe)> = Vec::new();
    let mut skipped = Vec::new();
    for function in Function::ALL {
        let Some(definition) = server.named(function.name()) else {
            let why = format!("{} does not define it", server.object.target_path);
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
            server.object.chunk_header,
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
#[path = "planner_tests.rs"]
mod tests;
