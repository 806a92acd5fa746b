//! The first argument of the second and the third process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;

/// The first argument starts with this.
const PREFIX: &str = "--stage=";

/// Which process this is, and what the one outside has handed to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    /// PID 1 of the sandbox; otherwise the process that makes the namespaces.
    pub(crate) is_inside: bool,
    /// The files of the report and of the log, which are open in this process.
    pub(crate) descriptors: Vec<RawFd>,
    /// Whether the sandbox has the host's network, instead of its own.
    pub(crate) has_host_network: bool,
    /// The host's addresses, so that a service can bind to them inside.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Stage {
    pub(crate) fn is_one(arg: &OsStr) -> bool {
        arg.to_str().is_some_and(|arg| arg.starts_with(PREFIX))
    }

    /// Reads the first argument. `None`: the user has started this process.
    pub(crate) fn of_process() -> Option<Self> {
        std::env::args_os().nth(1).and_then(|arg| Self::from_arg(arg.to_str()?))
    }

    fn from_arg(arg: &str) -> Option<Self> {
        let mut parts = arg.strip_prefix(PREFIX)?.split(';');
        let is_inside = parts.next()? == "inside";
        let has_host_network = parts.next()? == "host";
        let descriptors = parts.next()?.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
        let addresses = parts.next()?.split(',').filter(|text| !text.is_empty()).map(str::parse);
        let addresses = addresses.collect::<Result<_, _>>().ok()?;
        Some(Self { is_inside, descriptors, has_host_network, addresses })
    }

    pub(crate) fn to_arg(&self) -> OsString {
        let name = if self.is_inside { "inside" } else { "enter" };
        let network = if self.has_host_network { "host" } else { "own" };
        let join = |list: Vec<String>| list.join(",");
        let descriptors = join(self.descriptors.iter().map(ToString::to_string).collect());
        let addresses = join(self.addresses.iter().map(ToString::to_string).collect());
        format!("{PREFIX}{name};{network};{descriptors};{addresses}").into()
    }
}

impl Stage {
    /// The files that the process outside has opened, by descriptors that no other program inherits.
    pub(crate) fn files(&self) -> io::Result<Vec<File>> {
        let open = |number: &RawFd| {
            let file = File::options().write(true).open(format!("/proc/self/fd/{number}"))?;
            nix::unistd::close(*number)?;
            Ok(file)
        };
        self.descriptors.iter().map(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_survives_the_command_line() {
        let stage = Stage {
            is_inside: true,
            descriptors: vec![3, 4, 9],
            has_host_network: true,
            addresses: vec!["10.0.0.7".parse().unwrap(), "fd00::1".parse().unwrap()],
        };
        assert_eq!(Stage::from_arg(stage.to_arg().to_str().unwrap()), Some(stage.clone()));
        let bare = Stage { is_inside: false, has_host_network: false, addresses: Vec::new(), ..stage };
        assert_eq!(Stage::from_arg(bare.to_arg().to_str().unwrap()), Some(bare));
        assert_eq!(Stage::from_arg("--flips"), None);
    }
}
