//! Determines why the dynamic loader does not preload an object into a program.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{getgid, getuid};

use profiler_core::machine::Machine;
use profiler_core::text::visible;

use super::elf::{ElfFile, FILE_LIMIT, Source, asks_for};

/// A script's interpreter may itself be a script; the kernel follows at most this many
/// (`fs/exec.c`).
const MAX_INTERPRETERS: usize = 5;
/// As much of a script's first line as the kernel reads (`BINPRM_BUF_SIZE`).
const FIRST_LINE_BYTES: u64 = 256;
const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;

/// Why nothing is preloaded into the program started by this command; `None` if its file gives no
/// reason.
pub fn not_preloaded(command: &OsStr) -> Option<String> {
    let mut path = find(command)?;
    for _ in 0..MAX_INTERPRETERS {
        match interpreter(&path) {
            Some(next) => path = next,
            None => break,
        }
    }
    let file = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let name = visible(path.display());
    let mode = file.mode();
    if mode & SETUID != 0 && file.uid() != getuid().as_raw() {
        return Some(format!(
            "{name} is set-user-ID: it runs as user {}, and the loader preloads nothing into such a \
             program",
            file.uid()
        ));
    }
    if mode & SETGID != 0 && mode & 0o010 != 0 && file.gid() != getgid().as_raw() {
        return Some(format!(
            "{name} is set-group-ID: it runs as group {}, and the loader preloads nothing into such \
             a program",
            file.gid()
        ));
    }
    if !getuid().is_root() && has_capabilities(&path) {
        return Some(format!(
            "{name} has file capabilities (getcap {name}), and the loader preloads nothing into \
             such a program"
        ));
    }
    let mut head = [0u8; 20];
    File::open(&path).ok()?.read_exact(&mut head).ok()?;
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    // Class 2 is 64 bits; the machine is two bytes at 18 (`elf(5)`).
    let machine = u16::from_le_bytes([head[18], head[19]]);
    if head[4] != 2 || machine != Machine::OWN.elf_number() {
        let bits = if head[4] == 2 { 64 } else { 32 };
        return Some(format!(
            "{name} is a program of another architecture ({bits} bits, ELF machine {machine}): only \
             those of this machine's 64 bits are recorded"
        ));
    }
    let file = ElfFile::read(&Source::open(&path, FILE_LIMIT).ok()?);
    (!file.has_interpreter()).then(|| {
        format!("{name} is linked statically: it has no dynamic loader that could preload anything")
    })
}

/// AddressSanitizer as a library, of GCC and of Clang.
const ADDRESS_SANITIZER: [&str; 2] = ["libasan.so", "libclang_rt.asan"];

/// Whether the program named by this command exits at once if anything is preloaded into it:
/// AddressSanitizer's library does that, because it must be loaded first.
pub fn wants_to_be_first(command: &OsStr) -> bool {
    // Starting it would wait for its file system anyway.
    let source = find(command).and_then(|path| Source::open(&path, FILE_LIMIT).ok());
    source.is_some_and(|source| asks_for(&source, &ADDRESS_SANITIZER))
}

/// The file that would be executed, found like `execvp` does.
fn find(command: &OsStr) -> Option<PathBuf> {
    if command.as_bytes().contains(&b'/') {
        return Some(command.into());
    }
    let folders = std::env::var_os("PATH")?;
    let mut found = std::env::split_paths(&folders).map(|folder| folder.join(command));
    found.find(|path| path.is_file())
}

/// The interpreter of a script; for `env`, the program that it would start.
fn interpreter(path: &Path) -> Option<PathBuf> {
    path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let mut line = Vec::new();
    File::open(path)
        .ok()?
        .take(FIRST_LINE_BYTES)
        .read_to_end(&mut line)
        .ok()?;
    let line = line
        .strip_prefix(b"#!")?
        .split(|&byte| byte == b'\n')
        .next()?;
    let mut words = line
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .map(OsStr::from_bytes);
    let first = words.next()?;
    if Path::new(first).file_name() == Some(OsStr::new("env")) {
        let started = words.find(|word| !word.as_bytes().starts_with(b"-"));
        return started.and_then(find);
    }
    Some(first.into())
}

fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let name = c"security.capability";
    // SAFETY: two strings with terminating zeros; with size 0, only the length is returned.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_and_scripts_of_it_have_no_reason() {
        for command in ["python3", "/bin/sh", "ldd"] {
            assert_eq!(not_preloaded(OsStr::new(command)), None, "{command}");
        }
    }

    #[test]
    fn a_static_program_is_said_to_be_one_through_a_script_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("empty.c");
        std::fs::write(&source, "int main(void) { return 0; }").expect("ours");
        let program = folder.path().join("static");
        let mut compiler = std::process::Command::new("cc");
        compiler.args(["-static", "-o"]).arg(&program).arg(&source);
        assert!(compiler.status().expect("a C compiler").success());
        let script = folder.path().join("script");
        std::fs::write(&script, format!("#! {} -x\n", program.display())).expect("ours");
        for path in [program, script] {
            let why = not_preloaded(path.as_os_str()).expect("a reason");
            assert!(why.contains("linked statically"), "{why}");
        }
    }

    #[test]
    fn a_program_of_32_bits_is_said_to_be_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("program");
        let mut head = [0u8; 64];
        head[..5].copy_from_slice(b"\x7fELF\x01");
        head[18] = 3;
        std::fs::write(&program, head).expect("ours");
        let why = not_preloaded(program.as_os_str()).expect("a reason");
        assert!(
            why.contains("another architecture (32 bits, ELF machine 3)"),
            "{why}"
        );
    }
}
