//! The seed inputs: files in `corpus/TARGET` and, for configurations, the examples.

use std::path::Path;

use crate::Error;

/// The seeds of a target, sorted by name; never empty.
pub(crate) fn of(target: &str) -> Result<Vec<Vec<u8>>, Error> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut inputs = read(&own.join("corpus").join(target), |_| true)?;
    if target == "config" {
        inputs.extend(read(&own.join("../../examples"), |name| name.ends_with(".toml"))?);
    }
    if inputs.is_empty() { Err(format!("no input in corpus/{target}").into()) } else { Ok(inputs) }
}

fn read(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<Vec<u8>>, Error> {
    let entries =
        std::fs::read_dir(folder).map_err(|error| format!("can't list `{}`: {error}", folder.display()))?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.retain(|path| {
        path.is_file() && path.file_name().is_some_and(|name| wanted(&name.to_string_lossy()))
    });
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).map_err(Into::into)).collect()
}
