//! `[control]`: the socket behind `psflip upgrade`, `status` and `stop`.

use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::address;
use super::error::{Error, quoted};
use super::plan::Control;
use super::reader::Reader;
use super::scalar::{Refused, refuse_help};
use super::section::Section;

/// Reads `[control]`.
pub(super) fn control(reader: &mut Reader<'_>, section: &Section<'_>, has_pidfile: bool) -> Control {
    let directories = if has_pidfile { None } else { reader.variable("RUNTIME_DIRECTORY") };
    let default = directories.map_or(Control::Default, |directories| in_runtime_directory(&directories));
    let Some(node) = section.find("socket") else { return default };
    match node.get_ref() {
        DeValue::Boolean(false) => Control::Off,
        DeValue::Boolean(true) => {
            let error = Error::at(node.span(), "`socket` can't be `true`");
            reader.error(error.help("write the path of the socket, or `false` to have none"));
            default
        }
        _ => reader.parsed(section, "socket", parse).map_or(default, Control::At),
    }
}

fn parse(text: &str) -> Result<PathBuf, Refused> {
    if text.starts_with('@') || text.starts_with("unix:@") || text.starts_with("unix://@") {
        return refuse_help(
            format!("the control socket can't be the abstract socket {}", quoted(text)),
            "everybody may connect to those; write a path, for example `/run/app/psflip.sock`",
        );
    }
    address::unix(text)
}

/// The default for a service without a pidfile: a socket in the directory that systemd created for it.
fn in_runtime_directory(directories: &str) -> Control {
    // Several directories are separated by colons (systemd.exec(5)).
    match directories.split(':').next().filter(|directory| directory.starts_with('/')) {
        Some(directory) => Control::Runtime(Path::new(directory).join("psflip.sock")),
        None => Control::Default,
    }
}
