//! The auxiliary vector (`include/uapi/linux/auxvec.h`): pairs of words that the kernel passes to a
//! program at its start.

/// The address of 16 random bytes drawn by the kernel.
pub const AT_RANDOM: u64 = 25;
/// The address of the program headers in memory.
pub const AT_PHDR: u64 = 3;
/// Bytes of one of them.
pub const AT_PHENT: u64 = 4;
/// How many there are.
pub const AT_PHNUM: u64 = 5;
/// Bytes of a page of the kernel's.
pub const AT_PAGESZ: u64 = 6;

/// The value of the first entry with this key.
pub fn auxv_value(auxv: &[u8], key: u64) -> Option<u64> {
    let (words, _) = auxv.as_chunks::<8>();
    let (pairs, _) = words.as_chunks::<2>();
    let mut pairs = pairs.iter().map(|pair| pair.map(u64::from_le_bytes));
    pairs
        .find(|[found, _]| *found == key)
        .map(|[_, value]| value)
}

/// Bytes of an entry of the program headers of a 32-bit program, and of a 64-bit one (`Elf32_Phdr`, `Elf64_Phdr`).
const PHENT: (u64, u64) = (32, 56);

/// Whether it belongs to a 64-bit program; the words of a 32-bit program have 32 bits. `None` if
/// there is none yet.
pub(crate) fn is_of_64_bit(auxv: &[u8]) -> Option<bool> {
    let (words, _) = auxv.as_chunks::<4>();
    let (pairs, _) = words.as_chunks::<2>();
    let mut pairs = pairs.iter().map(|pair| pair.map(u32::from_le_bytes));
    let is_narrow =
        |[key, value]: [u32; 2]| (u64::from(key), u64::from(value)) == (AT_PHENT, PHENT.0);
    match auxv_value(auxv, AT_PHENT) {
        Some(bytes) if bytes == PHENT.1 => Some(true),
        _ if pairs.any(is_narrow) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_32_and_of_64_bits_are_told_apart() {
        let wide: Vec<u8> = [3_u64, 0x20_0000_0004, 4, 56, 5, 11, 0, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let narrow: Vec<u8> = [3_u32, 0x0804_8034, 4, 32, 5, 11, 0, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert_eq!(is_of_64_bit(&wide), Some(true));
        assert_eq!(is_of_64_bit(&narrow), Some(false));
        assert_eq!(is_of_64_bit(&[0; 16]), None);
        let own = std::fs::read("/proc/self/auxv").expect("ours");
        assert_eq!(is_of_64_bit(&own), Some(true));
    }
}
