//! The record of the tools that made the committed object.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::setup::{COMPILER, linker};
use crate::{output, root};

/// The tools as they are here, one `name: version` a line.
pub(super) fn present() -> Result<String> {
    let compiler = output(Command::new(COMPILER).arg("-vV"))?;
    let field = |name: &str| {
        let line = compiler.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or("unknown").trim().to_string()
    };
    let linker = linker().context("bpf-linker is not installed; run `cargo xtask bpf-setup`")?;
    let linker = output(Command::new(linker).arg("--version"))?;
    Ok(format!(
        "rustc: {}\nLLVM: {}\nbpf-linker: {}\naya-ebpf: {}\n",
        field("release:"),
        field("LLVM version:"),
        linker.trim().trim_start_matches("bpf-linker "),
        locked("aya-ebpf")?,
    ))
}

/// The version of a crate in the lock file of the BPF programs.
fn locked(name: &str) -> Result<String> {
    let lock = fs::read_to_string(root().join("profiler-ebpf/Cargo.lock"))?;
    let mut lines = lock.lines();
    lines.find(|line| *line == format!("name = \"{name}\""));
    let version = lines
        .next()
        .and_then(|line| line.strip_prefix("version = "));
    Ok(version
        .with_context(|| format!("{name} is not in profiler-ebpf/Cargo.lock"))?
        .trim_matches('"')
        .to_string())
}

/// Each line of the record that differs from the present tools.
pub(super) fn differing(record: &str, present: &str) -> Vec<String> {
    present
        .lines()
        .filter(|line| !record.lines().any(|recorded| recorded == *line))
        .map(|line| {
            let name = line.split(':').next().unwrap_or(line);
            let recorded = record.lines().find(|r| r.split(':').next() == Some(name));
            let recorded = recorded.and_then(|r| r.split_once(": "));
            let recorded = recorded.map_or("not recorded", |(_, version)| version);
            format!("{line} here, {recorded} when the object was committed")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named() {
        let record = "rustc: 1.96.0\nLLVM: 22.1.8\n";
        let present = "rustc: 1.96.0\nLLVM: 22.1.9\nbpf-linker: 0.13.0\n";
        assert_eq!(
            differing(record, present),
            [
                "LLVM: 22.1.9 here, 22.1.8 when the object was committed",
                "bpf-linker: 0.13.0 here, not recorded when the object was committed"
            ]
        );
        assert!(differing(record, record).is_empty());
    }
}
