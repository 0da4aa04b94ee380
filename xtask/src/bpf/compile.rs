//! Compiles for the BPF target with a stable compiler that includes a `core` for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

use super::setup::{COMPILER, linker};
use crate::{root, run};

const TARGET: &str = "bpfel-unknown-none";

/// The machines whose registers the programs are compiled for, each into an object of its own.
pub(super) const MACHINES: [&str; 2] = ["x86_64", "aarch64"];

/// The stripped object for a machine, compiled from its source.
pub(super) fn object(machine: &str) -> Result<Vec<u8>> {
    let source = root().join("profiler-ebpf");
    let target = root().join("target/bpf").join(machine);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo)
        .current_dir(&source)
        .args(["build", "--release", "--locked", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTC", COMPILER)
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        // These two need `asm_experimental_arch`, and nothing else does.
        .env("RUSTC_BOOTSTRAP", "aya_ebpf,fragscope")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(machine)?.join("\x1f")))
    .context("cannot compile the BPF programs; `cargo xtask bpf-setup` installs the tools")?;
    let linked = target.join(TARGET).join("release/fragscope");
    let linked = fs::read(&linked).with_context(|| linked.display().to_string())?;
    strip(&linked)
}

/// The debug information is for the BTF that is generated from it. No path of this machine may
/// remain in it.
fn flags(machine: &str) -> Result<Vec<String>> {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let linker = linker().context("bpf-linker is not installed; run `cargo xtask bpf-setup`")?;
    Ok(vec![
        format!("--cfg=bpf_target_arch=\"{machine}\""),
        "-Cdebuginfo=2".to_string(),
        "-Clink-arg=--btf".to_string(),
        format!("-Clinker={}", linker.display()),
        remap(&root(), "/fragscope"),
        remap(&cargo_home()?, "/cargo"),
    ])
}

pub(super) fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = std::env::home_dir().context("no home directory, and CARGO_HOME is not set")?;
    Ok(home.join(".cargo"))
}

/// Removes the DWARF sections, which the kernel does not accept. BTF stays: the kernel checks it
/// and the verifier quotes source lines from it.
fn strip(linked: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(linked).context("the linked object is no ELF file")?;
    for section in elf.sections.iter_mut() {
        section.delete |= is_debug(section.name.as_slice());
    }
    for symbol in elf.symbols.iter_mut() {
        symbol.name = without_crate_hash(symbol.name.as_slice()).into();
    }
    elf.delete_orphans();
    // LLVM keeps the sections' names in the symbols' string table; the writer wants them apart.
    let names = elf.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    elf.write(&mut stripped)
        .context("cannot write the stripped object")?;
    if stripped.len() >= linked.len() {
        bail!("stripping did not make the object smaller");
    }
    Ok(stripped)
}

/// A mangled name without the hash of its crate, which depends on the checkout's path: the object
/// is the same wherever it is compiled (`Cs…_` of the v0 mangling).
fn without_crate_hash(name: &[u8]) -> Vec<u8> {
    let is_mangled = name.starts_with(b"_R");
    let hash = name.windows(2).position(|two| two == b"Cs");
    let Some(at) = hash.filter(|_| is_mangled) else {
        return name.to_vec();
    };
    let (head, tail) = name.split_at(at + 1);
    let end = tail.iter().position(|byte| *byte == b'_');
    [head, &tail[end.map_or(0, |end| end + 1)..]].concat()
}

fn is_debug(name: &[u8]) -> bool {
    name.starts_with(b".debug_") || name.starts_with(b".rel.debug_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_nothing_of_where_it_was_compiled() {
        let name = without_crate_hash(b"_RNvNtCs29IJbaHb8li_9fragscope5stack4take");
        assert_eq!(name, b"_RNvNtC9fragscope5stack4take");
        assert_eq!(without_crate_hash(b"on_Cs_entry"), b"on_Cs_entry");
    }
}
