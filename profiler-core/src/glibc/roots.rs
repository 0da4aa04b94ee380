//! Addresses of the main arena and of `mp_`, and what is kept of them for the next walk.

use super::Context;
use super::find::{self, Data, Main};
use super::layout::Layout;
use super::mapped;
use super::ranges::Claims;
use super::state::MallocPar;
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::residency::{MappingKind, ResidencyMap};

/// Addresses of glibc's structures, as far as they were found before: these are tried first. A
/// structure that is not verified there is searched for again.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// `main_arena`, and the layout with which it was found.
    main: Option<(&'static Layout, u64)>,
    /// `mp_`.
    par: Option<u64>,
    /// The mappings of mmapped chunks.
    pub(super) mapped: Vec<u64>,
}

impl Roots {
    /// Whether all were found.
    pub fn are_known(&self) -> bool {
        self.main.is_some() && self.par.is_some()
    }

    /// The main arena, at its previous address or wherever it is now.
    pub(super) fn main<M: TargetMemory>(
        &mut self,
        memory: &M,
        data: &Data<'_, M>,
        version: (u32, u32),
    ) -> Option<Main> {
        let known = self.main.take();
        let known = known.and_then(|(layout, addr)| find::main_arena_at(memory, layout, addr));
        let main = known.or_else(|| find::main_arena(memory, data.read(), version))?;
        self.main = main.ring.first().map(|arena| (main.layout, arena.addr));
        Some(main)
    }

    /// `mp_`, found in the same way.
    pub(super) fn par<M: TargetMemory>(
        &mut self,
        memory: &M,
        residency: &ResidencyMap,
        data: &Data<'_, M>,
        main: &Main,
    ) -> Option<MallocPar> {
        let (layout, first) = (main.layout, main.ring.first()?);
        let known = self.par.take().and_then(|addr| {
            let par = find::malloc_par_at(memory, layout, addr, first, residency)?;
            Some((addr, par))
        });
        let found = known.or_else(|| find::malloc_par(data.read(), layout, first, residency));
        let (addr, par) = found?;
        self.par = Some(addr);
        Some(par)
    }
}

/// Finds the heap's roots, and its mmapped chunks, for a later walk.
pub fn find_roots<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    context: &Context<'_>,
    roots: &mut Roots,
) {
    let Some(version) = context.version else {
        return;
    };
    let data = Data::new(memory, &context.libc_data);
    // The walk looks for whatever is not found here.
    let Some(main) = roots.main(memory, &data, version) else {
        return;
    };
    if let Some(par) = roots.par(memory, residency, &data, &main) {
        let mut claims = of_arenas(memory, residency, &main, &par);
        let known = std::mem::take(&mut roots.mapped);
        let mapped = mapped::find(memory, residency, &par, &mut claims, &known);
        roots.mapped = mapped.iter().map(|chunk| chunk.start).collect();
    }
}

/// The arenas' memory, as far as it is known without a walk: it contains no mmapped chunks.
fn of_arenas<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    main: &Main,
    par: &MallocPar,
) -> Claims {
    let mut claims = Claims::default();
    let mut claim = |start: u64, end: u64| {
        let is_free = claims.is_free(start, end);
        if is_free {
            claims.claim(start, end);
        }
        is_free
    };
    let mappings = residency.mappings().iter();
    for brk in mappings.filter(|m| m.kind == MappingKind::Brk) {
        claim(brk.range.start().get(), brk.range.end().get());
    }
    for arena in main.ring.iter().skip(1) {
        let mut heap = arena.top & !(par.heap_max() - 1);
        // A heap that was visited before ends the chain.
        while let Ok([owner, prev, size]) = memory.read_value::<[u64; 3]>(RemoteAddr::new(heap))
            && owner == arena.addr
            && size <= par.heap_max()
            && claim(heap, heap.saturating_add(size))
        {
            heap = prev;
        }
    }
    claims
}
