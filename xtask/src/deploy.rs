//! `cargo xtask check-deploy`: checks the DaemonSet against Kubernetes' schemas.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::{root, run};

/// The tool, which includes the schemas.
const TOOL: &str = "kubernetes-validate==1.37.0";
/// The oldest Kubernetes that knows all fields, and the newest that the tool does.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];
const FILE: &str = "deploy/daemonset.yaml";

/// Checks it, with the tool in a virtual environment under `target/`, which pip creates if it is
/// missing.
///
/// # Errors
/// What is wrong with it, or why the tool is not available.
pub(crate) fn check() -> Result<()> {
    let tool = tool(&root())?;
    let path = root().join(FILE);
    for version in VERSIONS {
        run(&mut validate(&tool, version, &path))?;
    }
    // A check that takes anything is none.
    let text = fs::read_to_string(&path)?;
    let wrong = root().join("target/deploy-wrong.yaml");
    for (right, mistake) in [
        ("hostPID: true", "hostPid: true"),
        ("runAsUser: 0", "runAsUser: root"),
    ] {
        ensure!(text.contains(right), "{FILE} has no {right}");
        fs::write(&wrong, text.replacen(right, mistake, 1))?;
        let refused = validate(&tool, VERSIONS[1], &wrong)
            .arg("--quiet")
            .output()?;
        ensure!(!refused.status.success(), "{mistake} passes for {right}");
    }
    fs::remove_file(&wrong)?;
    Ok(())
}

fn validate(tool: &Path, version: &str, file: &Path) -> Command {
    let mut command = Command::new(tool);
    command
        .args(["--strict", "--kubernetes-version", version])
        .arg(file);
    command
}

/// The tool, installed.
fn tool(root: &Path) -> Result<PathBuf> {
    let venv = root.join("target/kubernetes-validate");
    let tool = venv.join("bin/kubernetes-validate");
    if !tool.exists() {
        run(Command::new("/usr/bin/python3")
            .args(["-m", "venv"])
            .arg(&venv))?;
        let pip = venv.join("bin/pip");
        run(Command::new(pip).args(["install", "--quiet", TOOL]))?;
    }
    Ok(tool)
}
