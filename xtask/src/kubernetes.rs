//! Checks the manifest of `examples/containers` against the schemas of Kubernetes. No field may be unknown.

use std::process::Command;

use crate::{Outcome, python, repo, step};

/// Contains the schemas of all versions, so nothing is fetched later.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";

/// Installs the validator into the target directory once, and runs it.
pub(crate) fn check() -> Outcome {
    let folder = repo::target_dir()?.join("kubernetes");
    let validator = python::install(&folder, VALIDATOR, "kubernetes-validate")?;
    let manifest = repo::root().join("examples/containers/kubernetes.yaml");
    step::run(Command::new(validator).args(["--strict", "--quiet"]).arg(manifest))
}
