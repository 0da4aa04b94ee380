//! The code is from functions of Debian 13's glibc 2.41 for arm64 (2.41-12+deb13u5), from their
//! first instruction on.

use profiler_core::machine::Machine;

use super::*;
use crate::plan::Sizes;
use crate::sites::code::Segment;
use crate::sites::{Symbols, plan as plan_of_any};

const BASE: u64 = 0x98000;

const MALLOC: [u32; 12] = [
    0xd503_233f,
    0xa9bc_7bfd,
    0x9100_03fd,
    0xf900_1bf7,
    0xf000_08f7,
    0x911d_82e1,
    0xa901_53f3,
    0xaa00_03f4,
    0xa902_5bf5,
    0x3940_1420,
    0x3600_05a0,
    0xb7f8_05d4,
];
const FREE: [u32; 12] = [
    0xd503_245f,
    0xb400_0ea0,
    0xd503_233f,
    0xa9b9_7bfd,
    0x9100_03fd,
    0xa902_5bf5,
    0xd000_08f5,
    0x911d_82a1,
    0xa901_53f3,
    0xd53b_d054,
    0xf000_08b6,
    0xf946_dad6,
];
const CALLOC: [u32; 8] = [
    0xd503_233f,
    0xa9bb_7bfd,
    0x9bc1_7c02,
    0x9100_03fd,
    0xf100_005f,
    0xa901_53f3,
    0x9b01_7c13,
    0x9a9f_07e0,
];
const POSIX_MEMALIGN: [u32; 8] = [
    0xd503_245f,
    0xb000_08e3,
    0xd503_233f,
    0xa9bd_7bfd,
    0x9100_03fd,
    0x395d_9463,
    0xa901_53f3,
    0xaa00_03f4,
];
const REALLOCARRAY: [u32; 12] = [
    0xd503_245f,
    0x9bc2_7c23,
    0x9b02_7c21,
    0xb500_0043,
    0x17fe_1da0,
    0xb000_08a1,
    0xf946_d821,
    0xd53b_d042,
    0x5280_0183,
    0xd280_0000,
    0xb821_6843,
    0xd65f_03c0,
];
const VALLOC: [u32; 6] = [
    0xd503_245f,
    0xd000_08e1,
    0xaa00_03e2,
    0x395d_9420,
    0x3600_00a0,
    0xf000_08a2,
];

fn code(words: &[u32]) -> (Code, Body) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let body = Body {
        start: BASE,
        end: BASE + bytes.len() as u64,
    };
    let segment = Segment {
        address: BASE,
        file_offset: 0x400,
        bytes,
    };
    (Code::new(Machine::Aarch64, vec![segment]), body)
}

fn planned(function: Function, words: &[u32], sizes: Sizes) -> PlannedProbe {
    let (code, body) = code(words);
    let manner = SiteOptions {
        chunk_header: true,
        sizes,
    };
    plan_of_any(&code, &body, function, manner, &Symbols::default()).expect("a probe")
}

fn shown(site: &Site) -> (u64, &str, bool) {
    assert_eq!(site.file_offset, 0x400 + site.offset_in_function);
    (
        site.offset_in_function,
        site.instruction.as_str(),
        site.emulated,
    )
}

/// Where the return is probed, and whether the entry is, at the same place.
fn returned(probe: &PlannedProbe) -> ((u64, &str, bool), bool) {
    let ResultSite::Return(site) = &probe.result else {
        panic!("{:?}", probe.result);
    };
    assert!(probe.entry.as_ref().is_none_or(|entry| entry == site));
    (shown(site), probe.entry.is_some())
}

#[test]
fn free_is_probed_where_it_tests_for_null() {
    let probe = planned(Function::Free, &FREE, Sizes::Given);
    let entry = probe.entry.as_ref().expect("an entry");
    assert_eq!(shown(entry), (4, "cbz +0x1d8", true));
    assert_eq!(probe.result, ResultSite::None);
}

#[test]
fn a_return_is_probed_before_the_link_register_is_signed() {
    let malloc = planned(Function::Malloc, &MALLOC, Sizes::Given);
    assert_eq!(returned(&malloc), ((0, "paciasp", false), false));
    let malloc = planned(Function::Malloc, &MALLOC, Sizes::Requested);
    assert_eq!(returned(&malloc), ((0, "paciasp", false), true));
    let calloc = planned(Function::Calloc, &CALLOC, Sizes::Given);
    assert_eq!(returned(&calloc), ((0, "paciasp", false), false));
    let memalign = planned(Function::PosixMemalign, &POSIX_MEMALIGN, Sizes::Requested);
    assert_eq!(returned(&memalign), ((4, "adrp x3", true), true));
    let valloc = planned(Function::Valloc, &VALLOC, Sizes::Given);
    assert_eq!(returned(&valloc), ((4, "adrp x1", true), true));
}

#[test]
fn an_argument_that_is_overwritten_leaves_the_first_place() {
    // The first argument is all that is read where sizes are read beside the blocks.
    let given = planned(Function::Reallocarray, &REALLOCARRAY, Sizes::Given);
    assert_eq!(returned(&given), ((12, "cbnz +0x14", true), true));
    let requested = planned(Function::Reallocarray, &REALLOCARRAY, Sizes::Requested);
    assert_eq!(returned(&requested), ((0, "bti", false), true));
}

#[test]
fn a_place_that_a_branch_leads_to_is_not_passed_once() {
    // bti; nop; cbz x0, +8; b to the nop.
    let words = [0xd503_245f, 0xd503_201f, 0xb400_0040, 0x17ff_fffe];
    let entry = planned(Function::Free, &words, Sizes::Given).entry;
    assert_eq!(shown(&entry.expect("an entry")), (0, "bti", false));
    // br x16 may lead anywhere in the function.
    let words = [0xd503_245f, 0xb400_0040, 0xd503_201f, 0xd61f_0200];
    let entry = planned(Function::Free, &words, Sizes::Given).entry;
    assert_eq!(shown(&entry.expect("an entry")), (0, "bti", false));
}

#[test]
fn nothing_is_probed_between_the_halves_of_an_exclusive_access() {
    // ldaxr x1, [x2]; cbnz x1, +8: the entry itself cannot be probed, and what follows must not.
    let words = [0xc85f_fc41, 0xb500_0041, 0xd65f_03c0];
    let (code, body) = code(&words);
    assert_eq!(entry_site(&code, &body, Registers::arguments(1)), None);
    // One that begins with a literal is probed behind it.
    let words = [0x5800_0041, 0xb400_0040, 0xd65f_03c0];
    let entry = planned(Function::Free, &words, Sizes::Given).entry;
    assert_eq!(shown(&entry.expect("an entry")), (4, "cbz +0xc", true));
}

#[test]
fn follows_the_kernels_rules() {
    use Treatment::{Emulated, Refused, SingleStepped};
    let cases = [
        (0x1400_0001, Emulated),      // b
        (0x9400_0001, Emulated),      // bl
        (0x5400_0020, Emulated),      // b.eq
        (0xb400_0ea0, Emulated),      // cbz
        (0x3500_0040, Emulated),      // cbnz of 32 bits
        (0x3600_05a0, Emulated),      // tbz
        (0xb7f8_05d4, Emulated),      // tbnz
        (0x1000_0020, Emulated),      // adr
        (0xf000_08f7, Emulated),      // adrp
        (0xd61f_0200, Emulated),      // br
        (0xd63f_0000, Emulated),      // blr
        (0xd65f_03c0, Emulated),      // ret
        (0xd503_201f, SingleStepped), // nop
        (0xd503_245f, SingleStepped), // bti c
        (0xd503_233f, SingleStepped), // paciasp
        (0xd53b_d054, SingleStepped), // mrs x20, tpidr_el0
        (0xd503_3bbf, SingleStepped), // dmb ish
        (0xf940_0020, SingleStepped), // ldr x0, [x1]
        (0xd503_23bf, Refused),       // autiasp
        (0xd503_205f, Refused),       // wfe
        (0xd65f_0bff, Refused),       // retaa
        (0xd69f_03e0, Refused),       // eret
        (0xd400_0001, Refused),       // svc
        (0xd420_0000, Refused),       // brk
        (0xd51b_d040, Refused),       // msr tpidr_el0, x0
        (0xd503_42df, Refused),       // msr daifset, #2
        (0xd53b_4220, Refused),       // mrs x0, daif
        (0x5800_0040, Refused),       // ldr x0, a literal
        (0x9800_0040, Refused),       // ldrsw x0, a literal
        (0xc85f_7c01, Refused),       // ldxr
        (0xc802_7c01, Refused),       // stxr
    ];
    for (word, expected) in cases {
        let instruction = Instruction {
            address: BASE,
            word,
        };
        assert_eq!(instruction.treatment(), expected, "{word:#010x}");
    }
}

#[test]
fn what_instructions_write() {
    let stack = Registers::of(STACK);
    let all = |numbers: &[u32]| {
        let each = numbers.iter().map(|number| Registers::of(*number));
        each.fold(Registers::NONE, Registers::with)
    };
    let cases = [
        (0xa9bc_7bfd, stack),                      // stp x29, x30, [sp, #-64]!
        (0xa8c3_7bfd, all(&[29, 30]).with(stack)), // ldp x29, x30, [sp], #48
        (0xa940_7bfd, all(&[29, 30])),             // ldp x29, x30, [sp]
        (0x6dbf_27e8, stack),                      // stp d8, d9, [sp, #-16]!
        (0x9100_03fd, all(&[29])),                 // mov x29, sp
        (0xd100_43ff, stack),                      // sub sp, sp, #16
        (0xf100_005f, Registers::NONE),            // cmp x2, #0
        (0xf900_1bf7, Registers::NONE),            // str x23, [sp, #48]
        (0x3940_1420, all(&[0])),                  // ldrb w0, [x1, #5]
        (0xf840_8420, all(&[0, 1])),               // ldr x0, [x1], #8
        (0xf81f_0ffe, stack),                      // str x30, [sp, #-16]!
        (0xb876_6a97, all(&[23])),                 // ldr w23, [x20, x22]
        (0xf821_0040, all(&[0])),                  // ldadd x1, x0, [x2]
        (0xc8a1_7c40, all(&[0, 1, 2])),            // cas x1, x0, [x2]
        (0x9bc1_7c02, all(&[2])),                  // umulh x2, x0, x1
        (0xf000_08f7, all(&[23])),                 // adrp x23
        (0xd53b_d054, all(&[20])),                 // mrs x20, tpidr_el0
        (0x9400_0001, all(&[30])),                 // bl
        (0xd503_233f, all(&[30])),                 // paciasp
        (0xd503_245f, Registers::NONE),            // bti c
        (0xb400_0ea0, Registers::NONE),            // cbz x0
    ];
    for (word, expected) in cases {
        let instruction = Instruction {
            address: BASE,
            word,
        };
        assert_eq!(instruction.writes(), expected, "{word:#010x}");
    }
}
