//! Words of native blocks, which are references only where nothing says otherwise: such a block may never have been
//! written to, and hold what was there before. Nodes of an `OrderedDict` are as good as objects.

use super::graph::{Bits, Graph};
use super::kinds::{Content, Kind, PackedKind};
use super::names::{Name, Names, Root};
use super::scan::Source;
use super::types::{Role, Type};
use super::words::{Window, word};
use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::TargetMemory;

/// What is known about the blocks.
pub(super) struct Doubtful<'a, M> {
    pub(super) source: &'a Source<'a, M>,
    pub(super) kinds: &'a [PackedKind],
    pub(super) types: &'a [Type],
    pub(super) names: &'a Names,
    /// Tables whose references to their entries are not counted, ascending.
    pub(super) interned: &'a [u32],
}

/// Whether words of a block are references only if nothing else holds what they refer to.
pub(super) fn is(node: u32, kinds: &[PackedKind], types: &[Type]) -> bool {
    match kinds.get(node as usize).map(|kind| kind.get()) {
        Some(Kind::Native) => true,
        Some(Kind::Storage {
            of,
            content: Content::Reached,
        }) => types[of as usize].facts.role != Role::Dict,
        _ => false,
    }
}

/// Removes words of native blocks that refer to something that names hold without them, or to
/// objects whose reference counts are explained by other referrers: structures of Rust are moved
/// together with old stack contents in the padding between their fields.
pub(super) fn drop<M: TargetMemory>(graph: &mut Graph, roots: &[u32], of: &Doubtful<'_, M>) {
    let is_doubtful = |node: u32| is(node, of.kinds, of.types);
    // What Python's own data refers to is the state of interpreters and threads.
    let mut states = Bits::new(graph.nodes());
    for &block in of.names.of_root(Root::Interpreter) {
        states.set(block);
    }
    let sure = graph.reached(roots, |node| !is_doubtful(node));
    let counts = |node: u32| {
        // References on stacks and in free lists of Python's data may be stale.
        let is_counted = match of.names.of_node(node) {
            Some((Name::Root(_), _)) => false,
            Some(_) => true,
            None => !is_doubtful(node) && !of.has_stack(node),
        };
        is_counted && of.interned.binary_search(&node).is_err()
    };
    let explained = of.explained(graph, &sure, counts);
    graph.retain(|from, to| {
        !is_doubtful(from) || !sure.has(to) && (states.has(from) || !explained.has(to))
    });
}

impl<M: TargetMemory> Doubtful<'_, M> {
    /// Of the objects that native blocks refer to and no name certainly holds: those with as many
    /// other referrers as their reference counts say.
    fn explained(&self, graph: &Graph, sure: &Bits, counts: impl Fn(u32) -> bool) -> Bits {
        let mut found = Bits::new(graph.nodes());
        let mut objects = Vec::new();
        for from in 0..self.kinds.len() as u32 {
            if is(from, self.kinds, self.types) {
                let targets = graph.targets(from).iter().copied();
                objects.extend(targets.filter(|to| self.is_object(*to) && !sure.has(*to)));
            }
        }
        objects.sort_unstable();
        objects.dedup();
        let referrers = graph.referrers(&objects, counts);
        let last = objects
            .last()
            .map(|last| self.source.index.range(*last).end());
        let end = last.unwrap_or_default();
        let mut window = Window::new(self.source.memory);
        for (&block, referrers) in objects.iter().zip(referrers) {
            let count = self.count(block, &mut window, end);
            if referrers > 0 && count.is_some_and(|count| count <= referrers.into()) {
                found.set(block);
            }
        }
        found
    }

    /// Whether a block is a frame, or contains one, whose stack may contain old values.
    fn has_stack(&self, block: u32) -> bool {
        match self.kinds.get(block as usize).map(|kind| kind.get()) {
            Some(Kind::Object { of, .. }) => {
                let role = self.types[of as usize].facts.role;
                matches!(role, Role::Frame | Role::Generator)
            }
            _ => false,
        }
    }

    fn is_object(&self, block: u32) -> bool {
        let kind = self.kinds.get(block as usize).map(|kind| kind.get());
        matches!(kind, Some(Kind::Object { .. }))
    }

    /// The current reference count of an object.
    fn count(&self, block: u32, window: &mut Window<'_, M>, end: RemoteAddr) -> Option<u64> {
        let Kind::Object { head, .. } = self.kinds[block as usize].get() else {
            return None;
        };
        let object = self.source.index.range(block).start().checked_add(head)?;
        let bytes = window.bytes(AddrRange::with_len(object, 8)?, end).ok()?;
        self.source.layout.reference_count(word(bytes, 0)?)
    }
}
