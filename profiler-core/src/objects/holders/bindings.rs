//! Names of the program that may be bound to a new object again and again: what such an object has is gone when it is read,
//! so that no name holds it.

use hashbrown::HashMap;

use super::Holders;
use super::origins::Origin;
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::objects::census::Binding;
use crate::objects::holder::NameKind;
use crate::objects::layout::SIZE;
use crate::objects::names::Name;
use crate::objects::words::read_word;

/// The most names that are kept.
const MAX_BINDINGS: usize = 256;
/// The most variables of running functions that are looked at.
const MAX_VARIABLES: usize = 1 << 10;
/// Types whose objects are small, unless they are texts as large as this.
const SMALL: [&str; 5] = ["NoneType", "bool", "complex", "float", "int"];
const TEXTS: [&str; 3] = ["bytes", "str", "unicode"];
const LARGE_TEXT: u64 = 64 << 10;

impl<M: TargetMemory> Holders<'_, M> {
    /// The names of the program's own modules and running functions.
    pub(super) fn bindings(&self) -> Vec<Binding> {
        let types = self.types.iter().map(|of| (of.addr, of.name.as_str()));
        let types: HashMap<u64, &str> = types.collect();
        let newer = self.names.newer().iter().filter_map(|(name, value)| {
            let Name::Entry { space, key } = *name else {
                return None;
            };
            let place = self.is_own(space).then(|| {
                let place = self.names.place_of_entry(self.source, space, key, *value);
                Some((*name, *value, place?))
            });
            place.flatten()
        });
        let mut variables = 0;
        let known = self.names.with_nodes().filter_map(|(node, name)| {
            match name {
                Name::Entry { space, .. } if self.is_own(space) => {}
                Name::Variable(_) if variables < MAX_VARIABLES => variables += 1,
                _ => return None,
            }
            let (_, value) = self.names.of_node(node)?;
            let (value, _) = self.resolver().object_in(value)?;
            Some((name, value, self.names.place(self.source, node, value)?))
        });
        let of = |(name, value, place): (Name, u64, u64)| {
            let type_name = *types.get(&self.word(value, 8)?)?;
            let is_small = match TEXTS.contains(&type_name) {
                true => self.word(value, SIZE)? < LARGE_TEXT,
                false => SMALL.contains(&type_name),
            };
            let text = (!is_small).then(|| {
                self.names
                    .text(self.source.memory, self.source.layout, name)
            })?;
            let is_own = self.origins.rank(&text, name.kind()) == Origin::Program;
            is_own.then(|| Binding {
                name: text,
                type_name: type_name.to_owned(),
                place: RemoteAddr::new(place),
                rebound: 0,
            })
        };
        newer
            .chain(known)
            .filter_map(of)
            .take(MAX_BINDINGS)
            .collect()
    }

    /// Whether a module, or a class, is of the program itself.
    fn is_own(&self, space: u32) -> bool {
        let name = format!("{}.", self.names.space_name(space));
        self.origins.rank(&name, NameKind::Entry) == Origin::Program
    }

    fn word(&self, object: u64, offset: u64) -> Option<u64> {
        read_word(self.source.memory, object.checked_add(offset)?)
    }
}
