//! Checks the manifest of `examples/containers` against the schemas of Kubernetes. No field may be unknown.

use std::process::Command;

use crate::{Outcome, python, repo};

/// Contains the schemas of all versions, so nothing is fetched later.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";

/// Installs the validator into the target directory once, and runs it.
pub(crate) fn check() -> Outcome {
    let folder = repo::target_dir()?.join("kubernetes");
    let validator = python::install(&folder, VALIDATOR, "kubernetes-validate")?;
    let manifest = repo::root().join("examples/containers/kubernetes.yaml");
    let output = Command::new(&validator).args(["--strict", "--quiet"]).arg(manifest).output()?;
    let said = [output.stdout, output.stderr].concat();
    // It exits with 0 also for documents that it can't check, of an unknown kind for example, and prints a warning.
    match output.status.success() && said.is_empty() {
        true => Ok(()),
        false => {
            Err(format!("{VALIDATOR}: {}\n{}", output.status, String::from_utf8_lossy(&said).trim()).into())
        }
    }
}
