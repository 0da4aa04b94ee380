//! Untrusted recordings and shared objects, and the results of replaying them.

use crate::*;

/// A trace of `blocks` blocks of 100 bytes, with this description.
pub(crate) fn trace(described: &[(&str, &str)], blocks: u64) -> Vec<u8> {
    trace_of(described, (0..blocks).map(|_| 100))
}

/// A trace of blocks of these sizes.
pub(crate) fn trace_of(described: &[(&str, &str)], sizes: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut trace = TraceBuilder::new(&described.iter().copied().collect());
    for bytes in sizes {
        trace.alloc(0, bytes);
    }
    trace.finish()
}

pub(crate) fn written(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("recording");
    fs::write(&path, bytes).expect("a writable folder");
    path
}

/// A library that leaves a mark when it is loaded, and ends what loaded it.
pub(crate) fn bait(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (source, object, mark) = (
        folder.join("bait.c"),
        folder.join(name),
        folder.join("loaded"),
    );
    let code = format!(
        "#include <fcntl.h>\n#include <stddef.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
         __attribute__((constructor)) static void begin(void) {{\n\
           open(\"{}\", O_CREAT | O_WRONLY, 0600);\n\
           static const char said[] = \"the bait is loaded\\n\";\n\
           if (write(2, said, sizeof said - 1) > 0) abort(); }}\n\
         unsigned la_version(unsigned v) {{ begin(); return v; }}\n\
         void *malloc(size_t n) {{ (void)n; return NULL; }}\n\
         void *calloc(size_t n, size_t m) {{ (void)n, (void)m; return NULL; }}\n\
         void *realloc(void *p, size_t n) {{ (void)n; return p; }}\n\
         void free(void *p) {{ (void)p; }}\n",
        mark.display()
    );
    fs::write(&source, code).expect("a writable folder");
    let cc = Command::new("cc")
        .args(["-shared", "-fPIC", "-fno-builtin", "-o"])
        .args([&object, &source])
        .status();
    assert!(cc.expect("a C compiler").success());
    (object, mark)
}

pub(crate) fn replayed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {}", stderr(output)))
}

/// Why what the program had could not be played; empty when it was.
pub(crate) fn failure_of_now(document: &Value) -> String {
    let all = document["candidates"].as_array().expect("a list");
    let now = all
        .iter()
        .find(|one| one["now"] == true)
        .expect("it is played");
    now["failure"].as_str().unwrap_or_default().to_owned()
}

/// A shared object for this host whose table of dynamic symbols is said to have 32 GiB.
pub(crate) fn sparse_elf() -> Vec<u8> {
    let machine: u16 = match std::env::consts::ARCH {
        "x86_64" => 62,
        _ => 183,
    };
    let mut bytes = vec![0; 64 + 3 * 64];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(16, &3u16.to_le_bytes()); // e_type: ET_DYN
    put(18, &machine.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(40, &64u64.to_le_bytes()); // e_shoff
    put(52, &64u16.to_le_bytes()); // e_ehsize
    put(58, &64u16.to_le_bytes()); // e_shentsize
    put(60, &3u16.to_le_bytes()); // e_shnum
    put(62, &2u16.to_le_bytes()); // e_shstrndx
    // The second section is SHT_DYNSYM, with the third, SHT_STRTAB, for its names.
    let (symbols, names) = (64 + 64, 64 + 128);
    put(symbols + 4, &11u32.to_le_bytes());
    put(symbols + 24, &4096u64.to_le_bytes());
    put(symbols + 32, &(32u64 << 30).to_le_bytes());
    put(symbols + 40, &2u32.to_le_bytes());
    put(symbols + 56, &24u64.to_le_bytes());
    put(names + 4, &3u32.to_le_bytes());
    put(names + 24, &1024u64.to_le_bytes());
    put(names + 32, &16u64.to_le_bytes());
    bytes
}
