//! A fuzzer's input as damage to something sound: what the walkers accept is so rare among random
//! bytes that damage is where the bugs are.

/// Bytes of one patch: how wide it is, where, and what.
const PATCH: usize = 14;

/// Overwrites words of `pieces`, seen as one, as `input` says.
pub(crate) fn apply<'p>(input: &[u8], pieces: impl IntoIterator<Item = &'p mut Vec<u8>>) {
    let mut pieces: Vec<&mut Vec<u8>> = pieces.into_iter().collect();
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    for patch in input.chunks_exact(PATCH) {
        let [kind, piece, a, b, c, d, value @ ..] = patch else {
            continue;
        };
        let offset = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        let width = 1 + usize::from(kind % 8);
        // Most patches name a piece, so that small ones are hit as often as large ones.
        let (index, mut at) = if kind & 0x80 == 0 {
            let index = usize::from(*piece) % pieces.len();
            (index, offset % pieces[index].len().max(1))
        } else {
            let mut at = offset % total.max(1);
            let index = pieces.iter().position(|piece| {
                let here = at < piece.len();
                at -= if here { 0 } else { piece.len() };
                here
            });
            (index.unwrap_or(0), at)
        };
        if kind & 0x40 == 0 {
            at &= !7;
        }
        let piece = &mut pieces[index];
        for (byte, value) in piece.iter_mut().skip(at).take(width).zip(value) {
            // Small changes keep what is around them plausible.
            *byte = if kind & 0x20 == 0 { *value } else { *byte ^ value };
        }
    }
}
