//! `[control]`: the socket behind `psflip upgrade`, `status` and `stop`.

use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::address;
use super::build::CONTROL;
use super::error::{Error, quoted};
use super::listen::{ListenAddress, Listener, Options};
use super::plan::Control;
use super::reader::{Node, Reader};
use super::scalar::{Refused, refuse_help};

/// How many clients may wait to be accepted.
const BACKLOG: u32 = 64;

/// Reads `[control]`.
pub(super) fn control(reader: &mut Reader<'_>, node: Node<'_>, control: &mut Control) {
    let Some(section) = reader.table("control", node) else { return };
    for (key, span, node) in &section.entries {
        match *key {
            "socket" if matches!(node.get_ref(), DeValue::Boolean(false)) => *control = Control::Off,
            "socket" if matches!(node.get_ref(), DeValue::Boolean(true)) => {
                let error = Error::at(node.span(), "`socket` can't be `true`");
                reader.error(error.help("write the path of the socket, or `false` to have none"));
            }
            "socket" => {
                if let Some(path) = reader.parsed("socket", node, parse) {
                    *control = Control::At(path);
                }
            }
            _ => reader.unknown(&section, key, span, CONTROL),
        }
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
pub(super) fn in_runtime_directory(directories: &str) -> Control {
    // Several directories are separated by colons (systemd.exec(5)).
    match directories.split(':').next().filter(|directory| directory.starts_with('/')) {
        Some(directory) => Control::Runtime(Path::new(directory).join("psflip.sock")),
        None => Control::Default,
    }
}

impl Control {
    /// The path of the control socket. By default it is derived from `pidfile`, that of the same
    /// configuration.
    #[must_use]
    pub fn path(&self, pidfile: Option<&Path>) -> Option<PathBuf> {
        match self {
            Self::At(path) | Self::Runtime(path) => Some(path.clone()),
            Self::Off => None,
            Self::Default => {
                // The suffix is appended, not replaced: many programs have a socket `app.sock` next to a
                // pidfile `app.pid`.
                let mut path = pidfile?.as_os_str().to_owned();
                path.push(".sock");
                // A leading `@` would name an abstract socket.
                let path = PathBuf::from(path);
                let is_abstract = path.as_os_str().as_encoded_bytes().starts_with(b"@");
                Some(if is_abstract { Path::new(".").join(path) } else { path })
            }
        }
    }

    /// The control socket as a listener that psflip keeps for all generations.
    #[must_use]
    pub fn listener(&self, pidfile: Option<&Path>) -> Option<Listener> {
        let address = ListenAddress::Unix(self.path(pidfile)?);
        let options =
            Options { mode: Some(0o600), backlog: BACKLOG, nonblock: Some(true), ..Options::default() };
        Some(Listener { address, name: "control".to_owned(), protocols: Vec::new(), options })
    }
}
