//! The auxiliary vector (`include/uapi/linux/auxvec.h`): pairs of words, as the kernel hands them to
//! a program at its start.

/// Where 16 random bytes lie that the kernel drew.
pub const AT_RANDOM: u64 = 25;
/// Where the program's headers lie in its memory.
pub const AT_PHDR: u64 = 3;
/// Bytes of one of them.
pub const AT_PHENT: u64 = 4;
/// How many there are.
pub const AT_PHNUM: u64 = 5;

/// The value of the first entry with this key.
pub fn auxv_value(auxv: &[u8], key: u64) -> Option<u64> {
    let (words, _) = auxv.as_chunks::<8>();
    let (pairs, _) = words.as_chunks::<2>();
    let mut pairs = pairs.iter().map(|pair| pair.map(u64::from_le_bytes));
    pairs
        .find(|[found, _]| *found == key)
        .map(|[_, value]| value)
}
