use profiler_core::machine::Machine;

use super::*;
use crate::sites::code::Segment;

const BASE: u64 = 0x1000;

fn place(bytes: &[u8], intact: &[Register]) -> (u64, String, bool) {
    let padded = [bytes, &[0x90; 8]].concat();
    let code = Code::new(
        Machine::X86_64,
        vec![Segment {
            address: BASE,
            file_offset: 0x400,
            bytes: padded,
        }],
    );
    let body = Body {
        start: BASE,
        end: BASE + bytes.len() as u64,
    };
    let site = entry_site(&code, &body, intact).expect("a site");
    assert_eq!(site.file_offset, 0x400 + site.offset_in_function);
    (site.offset_in_function, site.instruction, site.emulated)
}

fn found(offset: u64, text: &str, emulated: bool) -> (u64, String, bool) {
    (offset, text.to_string(), emulated)
}

const RDI: &[Register] = &[Register::RDI];

#[test]
fn a_push_at_the_entry_is_the_site() {
    assert_eq!(place(&[0x41, 0x54, 0xc3], RDI), found(0, "push r12", true));
}

#[test]
fn endbr64_is_stepped_over() {
    let bytes = [0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0xc3];
    assert_eq!(place(&bytes, RDI), found(4, "push rbp", true));
}

#[test]
fn test_and_je_of_free() {
    // test rdi,rdi; je +1; push rbp; ret
    let bytes = [0x48, 0x85, 0xff, 0x74, 0x01, 0x55, 0xc3];
    assert_eq!(place(&bytes, RDI), found(3, "je +0x6", true));
}

#[test]
fn an_argument_that_is_overwritten_first_leaves_the_entry() {
    // mov edi,1; push rbp; ret
    let bytes = [0xbf, 1, 0, 0, 0, 0x55, 0xc3];
    assert_eq!(place(&bytes, RDI), found(0, "mov edi", false));
    assert_eq!(place(&bytes, &[Register::RSI]), found(5, "push rbp", true));
}

#[test]
fn a_moved_stack_pointer_is_wrong_for_a_return_probe_only() {
    // sub rsp,8; je +0; ret
    let bytes = [0x48, 0x83, 0xec, 0x08, 0x74, 0x00, 0xc3];
    assert_eq!(place(&bytes, RDI), found(4, "je +0x6", true));
    assert!(!place(&bytes, &[Register::RDI, Register::RSP]).2);
}

#[test]
fn a_loop_back_behind_the_entry_would_be_counted_again() {
    // L: endbr64; M: test rdi,rdi; je M; ret
    let bytes = [0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x85, 0xff, 0x74, 0xfb, 0xc3];
    assert_eq!(place(&bytes, RDI), found(0, "endbr64", false));
}

#[test]
fn a_call_from_elsewhere_behind_the_entry_would_be_counted_too() {
    // mov eax,edi; push rbp; ret | call function+2
    let bytes = [0x89, 0xf8, 0x55, 0xc3, 0xe8, 0xf9, 0xff, 0xff, 0xff];
    let code = |bytes: &[u8]| {
        Code::new(
            Machine::X86_64,
            vec![Segment {
                address: BASE,
                file_offset: 0,
                bytes: [bytes, &[0x90; 8]].concat(),
            }],
        )
    };
    let body = Body {
        start: BASE,
        end: BASE + 4,
    };
    let site = entry_site(&code(&bytes), &body, RDI).expect("a site");
    assert_eq!((site.offset_in_function, site.emulated), (0, false));
    let site = entry_site(&code(&bytes[..4]), &body, RDI).expect("a site");
    assert_eq!((site.offset_in_function, site.emulated), (2, true));
}

#[test]
fn a_jump_table_may_lead_anywhere_and_a_hook_may_not() {
    // mov eax,[rip]; push rbp; lea rcx,[rip]; movsxd rax,[rcx+rax*4]; add rax,rcx; jmp rax
    let table = [
        0x8b, 0x05, 0, 0, 0, 0, 0x55, 0x48, 0x8d, 0x0d, 0, 0, 0, 0, 0x48, 0x63, 0x04, 0x81, 0x48,
        0x01, 0xc8, 0xff, 0xe0,
    ];
    assert_eq!(place(&table, RDI), found(0, "mov eax", false));
    // mov rax,[rip]; push rbp; mov rax,[rax]; jmp rax
    let hook = [
        0x48, 0x8b, 0x05, 0, 0, 0, 0, 0x55, 0x48, 0x8b, 0x00, 0xff, 0xe0,
    ];
    assert_eq!(place(&hook, RDI), found(7, "push rbp", true));
}

#[test]
fn a_thunk_is_probed_at_its_jump_and_an_indirect_one_at_its_entry() {
    // jmp +0x100
    assert_eq!(
        place(&[0xe9, 0xfb, 0, 0, 0], &[Register::RDI, Register::RSP]),
        found(0, "jmp +0x100", true)
    );
    // jmp [rip]
    assert_eq!(
        place(&[0xff, 0x25, 0, 0, 0, 0], RDI),
        found(0, "jmp", false)
    );
}

#[test]
fn bytes_that_are_no_code_give_no_site() {
    let code = Code::new(
        Machine::X86_64,
        vec![Segment {
            address: BASE,
            file_offset: 0,
            bytes: vec![0x06; 32],
        }],
    );
    let body = Body {
        start: BASE,
        end: BASE + 16,
    };
    assert!(entry_site(&code, &body, RDI).is_none());
    assert!(entry_site(&code, &Body { start: 0, end: 9 }, RDI).is_none());
}
