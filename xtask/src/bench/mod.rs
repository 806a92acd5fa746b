//! stub
use crate::{Outcome, args::Args};
pub(crate) const USAGE: &str = "cargo xtask x";
pub(crate) fn run(_args: Args) -> Outcome {
    Ok(())
}
pub(crate) fn check() -> Outcome {
    Ok(())
}
