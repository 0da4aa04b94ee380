//! Builds jemalloc and mimalloc as shared objects.
//!
//! Their crates are dependencies from which nothing is called, so neither is linked into fragscope,
//! whose own malloc stays the C library's. They only provide the static library of the one and the
//! source of the other.

use std::path::{Path, PathBuf};
use std::process::Command;

use profiler_payload::{out_dir, run, variable};

/// Links jemalloc, and gives where it lies.
///
/// Its crate compiles it with the plain names of malloc and of `MALLOC_CONF`.
pub(crate) fn jemalloc() {
    let library = PathBuf::from(variable("DEP_JEMALLOC_ROOT")).join("lib/libjemalloc_pic.a");
    let object = out_dir().join("libjemalloc.so");
    let mut cc = shared("libjemalloc.so.2", &object);
    cc.args(["-Wl,--whole-archive".as_ref(), library.as_os_str()])
        .args(["-Wl,--no-whole-archive", "-pthread", "-lm", "-ldl"]);
    run(cc);
    println!("cargo::rustc-env=FRAGSCOPE_JEMALLOC={}", object.display());
}

/// Compiles mimalloc of the second and of the third major version, and gives where they lie.
///
/// The options are those of its own `CMakeLists.txt` for the shared library of a release.
pub(crate) fn mimalloc() {
    let include = PathBuf::from(variable("DEP_MIMALLOC_INCLUDE_DIR"));
    let of_version = include.parent().and_then(Path::parent);
    let sources = of_version.expect("the crate keeps the source of each version in a folder");
    for version in ["v2", "v3"] {
        let source = sources.join(version);
        let object = out_dir().join(format!("libmimalloc-{version}.so"));
        let mut cc = shared("libmimalloc.so", &object);
        cc.args(["-O3", "-fPIC", "-std=gnu11", "-w"])
            .args(["-fvisibility=hidden", "-fno-builtin-malloc"])
            .args(["-ftls-model=initial-exec", "-DNDEBUG"])
            .args(["-DMI_MALLOC_OVERRIDE", "-DMI_SHARED_LIB"])
            .args(["-DMI_SHARED_LIB_EXPORT", "-DMI_BUILD_RELEASE"])
            .arg("-I")
            .arg(source.join("include"))
            .arg(source.join("src/static.c"))
            .arg("-pthread");
        run(cc);
        let name = format!("FRAGSCOPE_MIMALLOC_{}", version.to_uppercase());
        println!("cargo::rustc-env={name}={}", object.display());
    }
}

/// The C compiler, to make a shared object whose symbols stay.
fn shared(name: &str, object: &Path) -> Command {
    println!("cargo::rerun-if-env-changed=CC");
    // A linker that cargo was given is one for the machine that is compiled for.
    let given = ["CC", "RUSTC_LINKER"]
        .into_iter()
        .find_map(std::env::var_os);
    let mut cc = Command::new(given.unwrap_or_else(|| "cc".into()));
    cc.arg("-shared")
        .arg(format!("-Wl,-soname,{name}"))
        .args(["-Wl,--strip-debug", "-Wl,--hash-style=both", "-Wl,-z,now"])
        .arg("-o")
        .arg(object);
    cc
}
