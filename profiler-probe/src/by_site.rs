//! Programs with a built-in cookie, for kernels whose BPF has no cookies on perf events (before
//! Linux 5.15). Each site has a program of its own, in which the call for the cookie is replaced by
//! a call of a function that returns it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

use aya_obj::generated::{BPF_CALL, BPF_DW, BPF_EXIT, BPF_IMM, BPF_JMP, BPF_LD, BPF_PSEUDO_CALL};
use aya_obj::generated::{bpf_func_id::BPF_FUNC_get_attach_cookie, bpf_insn};

use super::error::NotLoaded;
use super::multi::{Relocated, attach_event, instruction};
use super::program::BpfProgram;

/// The programs, each created when its site is first attached.
pub(super) struct SitePrograms {
    object: Relocated,
    /// The descriptors of the maps that the instructions name.
    maps: Vec<RawFd>,
    made: HashMap<(u32, u64), OwnedFd>,
}

impl SitePrograms {
    /// The programs of this object, whose instructions name these maps.
    pub(super) fn new(object: Relocated, maps: Vec<RawFd>) -> Self {
        Self {
            object,
            maps,
            made: HashMap::new(),
        }
    }

    /// The descriptors of the maps that they use.
    pub(super) fn maps(&self) -> &[RawFd] {
        &self.maps
    }

    /// Attaches a program with this cookie in process `pid` at `offset` of the file at `path`. It
    /// is gone when the descriptor is closed. If the kernel rejects the program, the error is a
    /// [`NotLoaded`].
    pub(super) fn attach(
        &mut self,
        program: BpfProgram,
        path: &Path,
        pid: u32,
        (offset, cookie): (u64, u64),
    ) -> io::Result<OwnedFd> {
        let key = (program as u32, cookie);
        if !self.made.contains_key(&key) {
            let general = self.object.instructions(program.name());
            let general = general.ok_or(io::ErrorKind::NotFound)?;
            let own = with_cookie(general, cookie).ok_or(io::ErrorKind::InvalidData)?;
            let loaded = self.object.load_for_event(&own);
            let loaded = loaded.map_err(NotLoaded::error)?;
            self.made.insert(key, loaded);
        }
        let at_return = program == BpfProgram::Return;
        attach_event(&self.made[&key], path, pid, offset, at_return)
    }
}

/// The program with this cookie in it; `None` if it asks for none, or is too long.
fn with_cookie(general: &[bpf_insn], cookie: u64) -> Option<Vec<bpf_insn>> {
    const CALL: u8 = (BPF_JMP | BPF_CALL) as u8;
    let mut own = general.to_vec();
    let giver = i32::try_from(own.len()).ok()?;
    let mut found = false;
    for (place, one) in own.iter_mut().enumerate() {
        let is_asking = one.code == CALL && one.src_reg() == 0;
        if is_asking && one.imm == BPF_FUNC_get_attach_cookie as i32 {
            // Functions are called by their distance from the next instruction.
            let distance = giver - place as i32 - 1;
            *one = instruction(CALL, BPF_PSEUDO_CALL as u8, distance);
            found = true;
        }
    }
    // Two halves of a number into the register of the result, and the return.
    const LOAD: u8 = (BPF_LD | BPF_DW | BPF_IMM) as u8;
    own.push(instruction(LOAD, 0, cookie as u32 as i32));
    own.push(instruction(0, 0, (cookie >> 32) as u32 as i32));
    own.push(instruction((BPF_JMP | BPF_EXIT) as u8, 0, 0));
    found.then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_for_the_cookie_becomes_one_of_a_function_that_gives_it() {
        let call = (BPF_JMP | BPF_CALL) as u8;
        let exit = instruction((BPF_JMP | BPF_EXIT) as u8, 0, 0);
        let asking = instruction(call, 0, BPF_FUNC_get_attach_cookie as i32);
        let other = instruction(call, 0, 14);
        let own = with_cookie(&[other, asking, exit], 0x1_8000_0002).expect("it asks");
        assert_eq!(own.len(), 6);
        assert_eq!((own[0].src_reg(), own[0].imm), (0, 14));
        // From behind itself over the return to the function.
        assert_eq!((own[1].src_reg(), own[1].imm), (1, 1));
        assert_eq!(
            (own[3].code, own[3].imm, own[4].imm),
            (0x18, 0x8000_0002_u32 as i32, 1)
        );
        assert_eq!(own[5].code, exit.code);
        assert!(with_cookie(&[other, exit], 1).is_none());
    }
}
