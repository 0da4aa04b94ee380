use profiler_core::machine::Machine;

use super::*;
use crate::sites::Segment;

const BASE: u64 = 0x4000;

/// The sites of the function that takes the first `length` of `bytes`; what follows it is code that
/// it calls.
fn sites(function: Function, length: u64, bytes: &[u8]) -> Option<Vec<String>> {
    let code = Code::new(
        Machine::X86_64,
        vec![Segment {
            address: BASE,
            file_offset: 0,
            bytes: [bytes, &[0xf4; 8]].concat(),
        }],
    );
    let body = Body {
        start: BASE,
        end: BASE + length,
    };
    let sites = result_sites(&code, &body, function, &Symbols::default())?;
    assert!(sites.iter().all(|site| site.emulated));
    let text = |s: &Site| format!("{:#x} {}", s.offset_in_function, s.instruction);
    Some(sites.iter().map(text).collect())
}

fn found(sites: &[&str]) -> Option<Vec<String>> {
    Some(sites.iter().map(|s| s.to_string()).collect())
}

#[test]
fn exactly_one_bit_of_each_set() {
    assert_eq!(one_of_each(&[]), Some(0));
    assert_eq!(one_of_each(&[0, 0b1]), Some(0b1));
    // The first bit alone would do for the first two, but not with the third.
    assert_eq!(one_of_each(&[0b011, 0b110, 0b100]), Some(0b101));
    assert_eq!(one_of_each(&[0b01, 0b10, 0b11]), None);
}

#[test]
fn a_result_kept_on_the_stack_over_a_call_is_followed() {
    // 0: push %rbx
    // 1: sub $0x10,%rsp
    // 5: call 2f
    // a: test %rax,%rax
    // d: je 1a
    // f: cmp $0x1,%edx
    // 12: jg 1e
    // 14: add $0x10,%rsp
    // 18: pop %rbx
    // 19: ret
    // 1a: xor %eax,%eax
    // 1c: jmp 14
    // 1e: mov %rax,0x8(%rsp)
    // 23: call 2f
    // 28: mov 0x8(%rsp),%rax
    // 2d: jmp 14
    // 2f: ret
    let bytes = [
        0x53, 0x48, 0x83, 0xec, 0x10, 0xe8, 0x25, 0x00, 0x00, 0x00, 0x48, 0x85, 0xc0, 0x74, 0x0b,
        0x83, 0xfa, 0x01, 0x7f, 0x0a, 0x48, 0x83, 0xc4, 0x10, 0x5b, 0xc3, 0x31, 0xc0, 0xeb, 0xf6,
        0x48, 0x89, 0x44, 0x24, 0x08, 0xe8, 0x07, 0x00, 0x00, 0x00, 0x48, 0x8b, 0x44, 0x24, 0x08,
        0xeb, 0xe5, 0xc3,
    ];
    assert_eq!(
        sites(Function::Malloc, 0x2f, &bytes),
        found(&["0xd je +0x1a"])
    );
}

#[test]
fn a_result_lost_in_a_call_proves_nothing() {
    // 0: call 10
    // 5: test %rax,%rax
    // 8: je f
    // a: call 10
    // f: ret
    // 10: ret
    let bytes = [
        0xe8, 0x0b, 0x00, 0x00, 0x00, 0x48, 0x85, 0xc0, 0x74, 0x05, 0xe8, 0x01, 0x00, 0x00, 0x00,
        0xc3, 0xc3,
    ];
    assert_eq!(sites(Function::Malloc, 0x10, &bytes), None);
}

#[test]
fn a_cache_and_a_retry_have_a_site_each_and_no_path_two() {
    // 0: push %rbp
    // 1: mov (%rdi),%rax
    // 4: test %rax,%rax
    // 7: jne 37
    // 9: mov %rdi,%rbx
    // c: call 4a
    // 11: test %rax,%rax
    // 14: jne 27
    // 16: call 4a
    // 1b: test %rbp,%rbp
    // 1e: je 22
    // 20: xor %edx,%edx
    // 22: test %rax,%rax
    // 25: je 33
    // 27: mov -0x8(%rax),%rdx
    // 2b: test $0x2,%dl
    // 2e: je 31
    // 30: nop
    // 31: pop %rbp
    // 32: ret
    // 33: xor %eax,%eax
    // 35: pop %rbp
    // 36: ret
    // 37: cmp $0x7,%ecx
    // 3a: ja 9
    // 3c: mov (%rax),%rcx
    // 3f: test $0xf,%al
    // 41: jne 45
    // 43: pop %rbp
    // 44: ret
    // 45: call 4b
    // 4a: ret
    // 4b: hlt
    let bytes = [
        0x55, 0x48, 0x8b, 0x07, 0x48, 0x85, 0xc0, 0x75, 0x2e, 0x48, 0x89, 0xfb, 0xe8, 0x39, 0x00,
        0x00, 0x00, 0x48, 0x85, 0xc0, 0x75, 0x11, 0xe8, 0x2f, 0x00, 0x00, 0x00, 0x48, 0x85, 0xed,
        0x74, 0x02, 0x31, 0xd2, 0x48, 0x85, 0xc0, 0x74, 0x0c, 0x48, 0x8b, 0x50, 0xf8, 0xf6, 0xc2,
        0x02, 0x74, 0x01, 0x90, 0x5d, 0xc3, 0x31, 0xc0, 0x5d, 0xc3, 0x83, 0xf9, 0x07, 0x77, 0xcd,
        0x48, 0x8b, 0x08, 0xa8, 0x0f, 0x75, 0x02, 0x5d, 0xc3, 0xe8, 0x01, 0x00, 0x00, 0x00, 0xc3,
        0xf4,
    ];
    assert_eq!(
        sites(Function::Malloc, 0x4a, &bytes),
        found(&["0x14 jne +0x27", "0x1e je +0x22", "0x41 jne +0x45"])
    );
}

#[test]
fn a_path_that_passes_no_jump_proves_nothing() {
    // 0: test %rdi,%rdi
    // 3: je 10
    // 5: call 14
    // a: test %rax,%rax
    // d: je 10
    // f: ret
    // 10: mov (%rsi),%rax
    // 13: ret
    // 14: ret
    let bytes = [
        0x48, 0x85, 0xff, 0x74, 0x0b, 0xe8, 0x0a, 0x00, 0x00, 0x00, 0x48, 0x85, 0xc0, 0x74, 0x01,
        0xc3, 0x48, 0x8b, 0x06, 0xc3, 0xc3,
    ];
    assert_eq!(sites(Function::Malloc, 0x14, &bytes), None);
}

#[test]
fn what_calloc_calls_last_with_the_block_and_zero_is_memset() {
    // 0: call 12
    // 5: test %rax,%rax
    // 8: je 11
    // a: mov %rax,%rdi
    // d: xor %esi,%esi
    // f: jmp 13
    // 11: ret
    // 12: ret
    // 13: jmp *0x1000(%rip) # 1019
    let bytes = [
        0xe8, 0x0d, 0x00, 0x00, 0x00, 0x48, 0x85, 0xc0, 0x74, 0x07, 0x48, 0x89, 0xc7, 0x31, 0xf6,
        0xeb, 0x02, 0xc3, 0xc3, 0xff, 0x25, 0x00, 0x10, 0x00, 0x00,
    ];
    assert_eq!(
        sites(Function::Calloc, 0x12, &bytes),
        found(&["0x8 je +0x11"])
    );
    assert_eq!(sites(Function::Malloc, 0x12, &bytes), None);
}

#[test]
fn a_function_that_ends_the_process_for_one_is_not_come_back_from() {
    // 0: mov %rdi,%rbx
    // 3: call 23
    // 8: test %rax,%rax
    // b: je 16
    // d: mov -0x8(%rax),%rdx
    // 11: test %rdx,%rdx
    // 14: js 17
    // 16: ret
    // 17: mov $0x1,%edi
    // 1c: call 24
    // 21: jmp 0
    // 23: ret
    // 24: push %rbp
    // 25: and $0x1,%edi
    // 28: mov %edi,%r15d
    // 2b: call 23
    // 30: test %r15d,%r15d
    // 33: jne 37
    // 35: pop %rbp
    // 36: ret
    // 37: call 3c
    // 3c: hlt
    let bytes = [
        0x48, 0x89, 0xfb, 0xe8, 0x1b, 0x00, 0x00, 0x00, 0x48, 0x85, 0xc0, 0x74, 0x09, 0x48, 0x8b,
        0x50, 0xf8, 0x48, 0x85, 0xd2, 0x78, 0x01, 0xc3, 0xbf, 0x01, 0x00, 0x00, 0x00, 0xe8, 0x03,
        0x00, 0x00, 0x00, 0xeb, 0xdd, 0xc3, 0x55, 0x83, 0xe7, 0x01, 0x41, 0x89, 0xff, 0xe8, 0xf3,
        0xff, 0xff, 0xff, 0x45, 0x85, 0xff, 0x75, 0x02, 0x5d, 0xc3, 0xe8, 0x00, 0x00, 0x00, 0x00,
        0xf4,
    ];
    assert_eq!(
        sites(Function::Malloc, 0x23, &bytes),
        found(&["0xb je +0x16"])
    );
}

#[test]
fn other_code_that_jumps_into_the_body_proves_nothing() {
    // 0: call e
    // 5: test %rax,%rax
    // 8: je b
    // a: ret
    // b: xor %eax,%eax
    // d: ret
    // e: ret
    // f: je 5
    let bytes = [
        0xe8, 0x09, 0x00, 0x00, 0x00, 0x48, 0x85, 0xc0, 0x74, 0x01, 0xc3, 0x31, 0xc0, 0xc3, 0xc3,
        0x0f, 0x84, 0xf0, 0xff, 0xff, 0xff,
    ];
    assert_eq!(sites(Function::Malloc, 0xe, &bytes), None);
    assert_eq!(
        sites(Function::Malloc, 0xe, &bytes[..15]),
        found(&["0x8 je +0xb"])
    );
}

#[test]
fn a_part_elsewhere_is_its_own_unless_others_lead_there() {
    // 0: push rbx
    // 1: test rdi,rdi
    // 4: je 14
    // 6: mov rax,[rdi]
    // 9: test rax,rax
    // c: jne 11
    // e: pop rbx
    // f: jmp 15
    // 11: pop rbx
    // 12: ret
    // 13: ret (what is called)
    // 14: pop rbx
    // 15: sub rsp,8
    // 19: call 13
    // 1e: test rax,rax
    // 21: je 24
    // 23: nop
    // 24: add rsp,8
    // 28: ret
    // 29: call 15 (from another function)
    let bytes = [
        0x53, 0x48, 0x85, 0xff, 0x74, 0x0e, 0x48, 0x8b, 0x07, 0x48, 0x85, 0xc0, 0x75, 0x03, 0x5b,
        0xeb, 0x04, 0x5b, 0xc3, 0xc3, 0x5b, 0x48, 0x83, 0xec, 0x08, 0xe8, 0xf5, 0xff, 0xff, 0xff,
        0x48, 0x85, 0xc0, 0x74, 0x01, 0x90, 0x48, 0x83, 0xc4, 0x08, 0xc3, 0xe8, 0xe7, 0xff, 0xff,
        0xff,
    ];
    let own = found(&["0xc jne +0x11", "0x21 je +0x24"]);
    assert_eq!(sites(Function::Malloc, 0x13, &bytes[..0x29]), own);
    assert_eq!(sites(Function::Malloc, 0x13, &bytes), None);
}
