//! The path from a holder down to where its bytes spread out.

use super::Holders;
use crate::memory::TargetMemory;
use crate::objects::attributes::Attributes;
use crate::objects::graph::NONE;
use crate::objects::holder::{PathStep, Via};
use crate::objects::layout::SIZE;
use crate::objects::mapped;
use crate::objects::text::str_name;
use crate::objects::types::{Role, Type};
use crate::objects::words::read_word;

/// Steps of a path that are reported.
const MAX_PATH: usize = 12;
/// The most objects of a path whose attributes are looked up; later ones are counted as
/// repetitions.
const MAX_LOOKED_UP: usize = 256;
/// Variables of enclosing functions that one function is looked through for.
const MAX_CELLS: u64 = 1 << 10;

impl<M: TargetMemory> Holders<'_, M> {
    /// The numbers from one down to where its retained memory spreads out, at most `most`, and the
    /// last of them.
    pub(super) fn way_down(
        &self,
        number: u32,
        retained: &[u64],
        heaviest: &[u32],
        most: usize,
    ) -> (Vec<u32>, u32) {
        let mut way = vec![number];
        let mut at = number;
        while way.len() < most {
            let next = heaviest[at as usize];
            if next == NONE || retained[next as usize] < retained[at as usize] / 2 {
                break;
            }
            at = next;
            way.push(at);
        }
        (way, at)
    }

    /// The objects on a way, like ones in a row together.
    pub(super) fn path(&self, way: &[u32]) -> Vec<PathStep> {
        let mut path: Vec<PathStep> = Vec::new();
        let mut before: Option<(&Type, u64)> = None;
        // The dictionary of an instance, which is not a separate step.
        let mut own_dict = None;
        // A function whose closure was met, with that; and the variable of it that has what comes next.
        let mut closure: Option<(u64, u64)> = None;
        let mut captured: Option<Option<String>> = None;
        for (nth, number) in way.iter().enumerate() {
            let Some((of, addr)) = self.object(*number) else {
                continue;
            };
            if let Some((before, at)) = before
                && of.facts.role == Role::Dict
                && self.attributes().is_dict_of(before, at, addr)
            {
                own_dict = Some(addr);
                continue;
            }
            let mut via = before.and_then(|(before, at)| self.via(before, at, addr));
            // The tuple of cells, and the cell, are no steps where the variable is known.
            if via == Some(Via::Closure) && self.leads_into_cell(way, nth) {
                closure = before.map(|(_, function)| (function, addr));
                continue;
            }
            if let Some((function, cells)) = closure.take() {
                captured = Some(self.variable_of(function, cells, addr));
                before = Some((of, addr));
                continue;
            }
            let length = self.length(of, addr);
            let attribute = match (own_dict.take(), before) {
                _ if let Some(variable) = captured.take() => {
                    via = Some(Via::Closure);
                    variable
                }
                (Some(dict), _) => self.attributes().in_dict(dict, addr),
                (None, Some((before, at))) if nth < MAX_LOOKED_UP => {
                    let attributes = self.attributes();
                    let in_values = attributes.in_values(before, at, addr);
                    in_values.or_else(|| attributes.in_slots(before, at, addr))
                }
                (None, _) => None,
            };
            before = Some((of, addr));
            if let Some(last) = path.last_mut()
                && last.type_name == of.name
                && via.is_none()
                && (attribute.is_none() || attribute == last.attribute)
            {
                last.times += 1;
                last.length = length;
                continue;
            }
            if path.len() == MAX_PATH {
                break;
            }
            path.push(PathStep {
                via,
                attribute,
                type_name: of.name.clone(),
                length,
                length_is_bytes: of.facts.role.length_is_bytes(),
                times: 1,
                subject: self.subject(of, addr),
            });
        }
        path
    }

    /// Whether what follows a closure on a way is one of its cells, and something in that.
    fn leads_into_cell(&self, way: &[u32], closure: usize) -> bool {
        let mut next = way[closure + 1..].iter().map(|number| self.object(*number));
        let is_cell = |of: Option<(&Type, u64)>| of.is_some_and(|(of, _)| of.name == "cell");
        is_cell(next.next().flatten()) && next.next().flatten().is_some()
    }

    /// The variable of an enclosing function that a function has in a cell.
    fn variable_of(&self, function: u64, cells: u64, cell: u64) -> Option<String> {
        let (memory, layout) = (self.source.memory, self.source.layout);
        let field = |at: u64, offset: u64| read_word(memory, at.checked_add(offset)?);
        let count = field(cells, SIZE)?.min(MAX_CELLS);
        let item = |tuple: u64, nth: u64| field(tuple, layout.tuple_items() + nth * 8);
        let nth = (0..count).find(|nth| item(cells, *nth) == Some(cell))?;
        let code = field(function, layout.function.code)?;
        let names = field(code, layout.free_variables())?;
        // Since 3.11 they are the last of all variables.
        let first = match layout.version >= (3, 11) {
            true => field(names, SIZE)?.checked_sub(count)?,
            false => 0,
        };
        self.attributes()
            .name(item(names, first.checked_add(nth)?)?)
    }

    /// The function whose results an `lru_cache` has, or the file that an `mmap` object maps.
    fn subject(&self, of: &Type, addr: u64) -> Option<String> {
        let (memory, layout) = (self.source.memory, self.source.layout);
        if of.facts.role != Role::LruCache {
            return mapped::file_name(memory, self.residency, of, addr);
        }
        let field = |at: u64, offset: u64| read_word(memory, at.checked_add(offset)?);
        let (_, function) = layout.lru_cache();
        let function = field(addr, function)?;
        let (_, of) = self.resolver().object(function)?;
        if self.types[of as usize].facts.role != Role::Function {
            return None;
        }
        let text = |offset: Option<u64>| str_name(memory, layout, field(function, offset?)?);
        let module = text(layout.function.module).unwrap_or_else(|| "?".to_owned());
        Some(format!(
            "{module}.{}",
            text(layout.function.qualified_name)?
        ))
    }

    fn attributes(&self) -> Attributes<'_, M> {
        Attributes {
            memory: self.source.memory,
            layout: self.source.layout,
        }
    }

    /// The role of an object for a function.
    fn via(&self, before: &Type, at: u64, addr: u64) -> Option<Via> {
        let function = &self.source.layout.function;
        let fields = [
            (Some(function.defaults), Via::Defaults),
            (function.keyword_defaults, Via::Defaults),
            (Some(function.closure), Via::Closure),
        ];
        let is = |offset: u64| read_word(self.source.memory, at.wrapping_add(offset)) == Some(addr);
        let mut fields = fields
            .iter()
            .filter(|_| before.facts.role == Role::Function);
        fields.find_map(|(offset, what)| offset.is_some_and(is).then_some(*what))
    }
}
