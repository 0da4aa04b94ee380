//! fragscope embeds jemalloc and mimalloc as data: its own malloc is the C library's.

use object::{Object, ObjectSymbol};

#[test]
fn no_embedded_allocator_is_linked() {
    let bytes = std::fs::read(env!("CARGO_BIN_EXE_fragscope")).expect("readable");
    let elf = object::File::parse(bytes.as_slice()).expect("ELF");
    let named = |name: &str| {
        elf.symbols()
            .find(|s| s.name_bytes() == Ok(name.as_bytes()))
    };
    for name in ["malloc", "free", "mallctl", "_rjem_mallctl", "mi_malloc"] {
        assert!(named(name).is_none_or(|s| s.is_undefined()), "{name}");
    }
    let mut wanted = elf.dynamic_symbols();
    assert!(wanted.any(|s| s.is_undefined() && s.name_bytes() == Ok(b"malloc")));
}
