//! Which file of the target a mimalloc is in: the one whose writable data holds its secret.

use crate::addr::{AddrRange, RemoteAddr};
use crate::memory::TargetMemory;
use crate::residency::{MappingKind, ResidencyMap};

/// Bytes of one mapping that are searched at the most.
const MAX_DATA: u64 = 64 << 20;

/// The file and its writable data.
#[derive(Clone, Debug, Default)]
pub(super) struct Instance {
    /// Its path; empty when it was not found.
    pub(super) path: String,
    /// Its writable data, with the zero-initialised part behind it.
    pub(super) data: Vec<AddrRange>,
}

/// Files with writable data, in the order of their addresses.
fn files(residency: &ResidencyMap) -> Vec<Instance> {
    let mut files: Vec<Instance> = Vec::new();
    let mut end = None;
    for mapping in residency.mappings() {
        let follows = end == Some(mapping.range.start());
        let private = mapping.write && !mapping.shared;
        let data = AddrRange::with_len(mapping.range.start(), mapping.range.len().min(MAX_DATA));
        match (&mapping.kind, files.last_mut()) {
            (MappingKind::File(path), last) => {
                end = Some(mapping.range.end());
                match last {
                    Some(last) if last.path == *path && private => last.data.extend(data),
                    _ if private => files.push(Instance {
                        path: path.clone(),
                        data: data.into_iter().collect(),
                    }),
                    _ => {}
                }
            }
            (MappingKind::Anonymous, Some(last)) if follows && private => {
                last.data.extend(data);
                end = None;
            }
            _ => end = None,
        }
    }
    files
}

/// Calls `see` with every word of the resident parts of `data`; ends when it returns true.
pub(super) fn any_word<M: TargetMemory>(
    memory: &M,
    residency: &ResidencyMap,
    data: &[AddrRange],
    mut see: impl FnMut(RemoteAddr, u64) -> bool,
) -> bool {
    let mut bytes = Vec::new();
    for range in data {
        for run in residency
            .runs_in(*range)
            .filter(|run| run.state.is_resident())
        {
            bytes.resize(run.range.len() as usize, 0);
            if memory.read(run.range.start(), &mut bytes).is_err() {
                continue;
            }
            let (words, _) = bytes.as_chunks::<8>();
            for (i, word) in (0u64..).zip(words) {
                let at = RemoteAddr::new(run.range.start().get() + 8 * i);
                if see(at, u64::from_le_bytes(*word)) {
                    return true;
                }
            }
        }
    }
    false
}

impl Instance {
    /// The first file whose data holds `secret`.
    pub(super) fn find<M: TargetMemory>(memory: &M, residency: &ResidencyMap, secret: u64) -> Self {
        let holds = |file: &Self| any_word(memory, residency, &file.data, |_, word| word == secret);
        files(residency).into_iter().find(holds).unwrap_or_default()
    }
}
