//! Text read from the target: names of types, modules and variables. Nothing else is read as text.

use super::layout::{Layout, SIZE, StrLayout};
use super::words::word;
use crate::addr::RemoteAddr;
use crate::memory::TargetMemory;
use crate::text::visible;

/// Characters of a name that are kept.
const MAX_NAME: usize = 128;

/// The C string at `addr`, if it is a name: of 1 to 255 bytes, without characters that no name has.
/// A program's own names may contain anything; characters that could harm a reader are escaped.
pub(super) fn c_name<M: TargetMemory>(memory: &M, addr: u64, of_program: bool) -> Option<String> {
    const LONGEST: usize = 256;
    let mut bytes = [0; LONGEST];
    // The string may end just before memory that cannot be read.
    let to_page_end = 4096 - addr as usize % 4096;
    let len = LONGEST.min(to_page_end);
    memory.read(RemoteAddr::new(addr), &mut bytes[..len]).ok()?;
    let end = match bytes[..len].iter().position(|&byte| byte == 0) {
        Some(end) => end,
        None if len < LONGEST => {
            let rest = addr.checked_add(len as u64)?;
            memory.read(RemoteAddr::new(rest), &mut bytes[len..]).ok()?;
            bytes.iter().position(|&byte| byte == 0)?
        }
        None => return None,
    };
    let name = std::str::from_utf8(&bytes[..end]).ok()?;
    let sound = !name.is_empty() && (of_program || !name.chars().any(char::is_control));
    sound.then(|| cut(&visible(name).to_string()))
}

/// The text of the string object at `addr`, if it is a name; cut to a bounded length.
pub(super) fn str_name<M: TargetMemory>(memory: &M, layout: &Layout, addr: u64) -> Option<String> {
    str_text::<_, MAX_NAME>(memory, layout, addr)
}

/// The same, up to `MOST` characters.
pub(super) fn str_text<M: TargetMemory, const MOST: usize>(
    memory: &M,
    layout: &Layout,
    addr: u64,
) -> Option<String> {
    let at = RemoteAddr::new(addr);
    let mut head = [0; 36];
    memory.read(at, &mut head).ok()?;
    let len = usize::try_from(word(&head, SIZE)?).ok()?;
    let (data, width) = match layout.str {
        StrLayout::Bytes => (36, 1),
        StrLayout::Compact { ascii, wide } => {
            let state = u32::from_le_bytes(*head[32..].first_chunk()?);
            let (kind, compact, is_ascii) = (state >> 2 & 7, state >> 5 & 1, state >> 6 & 1);
            match (compact, is_ascii, kind) {
                (1, 1, 1) => (ascii, 1),
                (1, 0, 1 | 2 | 4) => (wide, kind as usize),
                _ => return None,
            }
        }
    };
    let mut bytes = vec![0; len.min(MOST) * width];
    memory.read(at.checked_add(data)?, &mut bytes).ok()?;
    let units = bytes.chunks_exact(width).map(|unit| {
        let mut word = [0; 4];
        word[..width].copy_from_slice(unit);
        char::from_u32(u32::from_le_bytes(word))
    });
    let name: Option<String> = units.collect();
    let name = name.filter(|name| !name.is_empty())?;
    Some(match len > MOST {
        true => format!("{name}…"),
        false => name,
    })
}

/// A name of bounded length.
fn cut(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}
