//! Which instructions the kernel emulates when a uprobe is placed on them.
//!
//! Linux `arch/x86/kernel/uprobes.c`: `branch_setup_xol_ops` handles `nop`, `jmp`, `call` and `jcc`
//! with a relative target; `push_setup_xol_ops` (4.18) handles `push` of a register without a
//! prefix or with only `41`. Everything else runs as a single-stepped copy, which costs ten times
//! as much. Nops longer than one byte are emulated only since 6.16, so they are not relied on.

/// What the kernel does with a probed instruction.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Treatment {
    /// Emulated: the trap itself is the only cost.
    Emulated,
    /// A copy is single-stepped.
    SingleStepped,
    /// The kernel does not take a probe there (`-ENOTSUPP`), at least some versions.
    Refused,
}

/// How the kernel treats the instruction of exactly these `bytes`.
pub(super) fn treatment(bytes: &[u8]) -> Treatment {
    use Treatment::{Emulated, Refused, SingleStepped};

    let is_prefix = |b: &&u8| {
        matches!(
            b,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3
        )
    };
    let prefixes = bytes.iter().take_while(is_prefix).count();
    let (prefixes, rest) = bytes.split_at(prefixes);
    // `is_prefix_bad`: ES, CS, SS, DS (also `notrack` and the branch hints) and LOCK.
    if prefixes
        .iter()
        .any(|b| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0))
    {
        return Refused;
    }
    let (rex, opcode) = match rest {
        [rex @ 0x40..=0x4f, opcode @ ..] => (Some(*rex), opcode),
        _ => (None, rest),
    };
    match opcode {
        [0x90] if rex.is_none() && prefixes.is_empty() => Emulated,
        // Refused before 6.2 (66 90).
        [0x90] if prefixes.contains(&0x66) => Refused,
        [0xe8 | 0xe9 | 0xeb | 0x70..=0x7f, ..] | [0x0f, 0x80..=0x8f, ..] => {
            if prefixes.contains(&0x66) {
                Refused
            } else {
                Emulated
            }
        }
        [0x50..=0x57] if prefixes.is_empty() && matches!(rex, None | Some(0x41)) => Emulated,
        _ => SingleStepped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_kernels_rules() {
        use Treatment::{Emulated, Refused, SingleStepped};
        let cases: [(&[u8], Treatment); 24] = [
            (&[0x90], Emulated),
            (&[0x66, 0x90], Refused),
            (&[0xf3, 0x90], SingleStepped),
            (&[0x41, 0x90], SingleStepped),
            (&[0x0f, 0x1f, 0x44, 0, 0], SingleStepped),
            (&[0xf3, 0x0f, 0x1e, 0xfa], SingleStepped),
            (&[0x55], Emulated),
            (&[0x54], Emulated),
            (&[0x41, 0x54], Emulated),
            (&[0x48, 0x55], SingleStepped),
            (&[0x66, 0x55], SingleStepped),
            (&[0x6a, 0], SingleStepped),
            (&[0xff, 0x35, 0, 0, 0, 0], SingleStepped),
            (&[0x74, 5], Emulated),
            (&[0x2e, 0x74, 5], Refused),
            (&[0x0f, 0x84, 0, 0, 0, 0], Emulated),
            (&[0xf2, 0xe9, 0, 0, 0, 0], Emulated),
            (&[0xf2, 0xe8, 0, 0, 0, 0], Emulated),
            (&[0x66, 0x48, 0xe8, 0, 0, 0, 0], Refused),
            (&[0x3e, 0xff, 0xe0], Refused),
            (&[0xff, 0xe0], SingleStepped),
            (&[0xff, 0x25, 0, 0, 0, 0], SingleStepped),
            (&[0xc3], SingleStepped),
            (&[0xe3, 5], SingleStepped),
        ];
        for (bytes, expected) in cases {
            assert_eq!(treatment(bytes), expected, "{bytes:x?}");
        }
    }
}
