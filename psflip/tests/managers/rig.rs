//! A service in a directory, with a configuration that may change and clients that send requests without
//! pause.

use std::fs;
use std::path::{Path, PathBuf};

use testkit::client::http::HttpClient;
use testkit::{AvailabilityProbe, Deadline, Process, Sandbox, cmd_line, fixture, psflip_bin, wait_until};

/// The stable parent above psflip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Steady {
    /// `psflip watch`.
    Watch,
    /// The anchor, which is the default.
    Anchor,
}

impl Steady {
    /// A file of `examples/managers` for this stable parent and this directory.
    pub(crate) fn example(self, file: &str, folder: &str) -> String {
        let text = fs::read_to_string(examples().join(file)).unwrap();
        let (shell, json) = ("psflip run -c app.toml", r#""psflip", "run", "-c", "app.toml""#);
        assert!(text.contains(shell) || text.contains(json), "{text}");
        let text = text.replace("/srv/app", folder);
        match self {
            Self::Anchor => text,
            Self::Watch => {
                text.replace(shell, "psflip watch --pidfile app.pid -- psflip run --no-anchor -c app.toml").replace(
                    json,
                    r#""psflip", "watch", "--pidfile", "app.pid", "--", "psflip", "run", "--no-anchor", "-c", "app.toml""#,
                )
            }
        }
    }
}

/// The directory with the run scripts.
pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/managers")
}

/// PATH with psflip first.
pub(crate) fn path() -> String {
    let folder = psflip_bin().parent().unwrap().display().to_string();
    format!("{folder}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
}

/// A server on a socket that all generations share. A hook creates the file `failed` after a failed upgrade.
pub(crate) const SERVER: &[&str] = &["http-server", "--inherit", "listen_fds"];
pub(crate) const SERVING: &str = "[healthcheck.notify]\n[[listen]]\naddress = \"unix://app.sock\"\n\
     [hooks]\nfailed = [\"sh\", \"-c\", \": > failed\"]\n";
/// A child that exits before it is healthy.
pub(crate) const BROKEN: &[&str] = &["crash-on-init", "--code", "3"];
/// Healthy as soon as it runs.
pub(crate) const AT_ONCE: &str = "[healthcheck.alive]\ntimeout = \"0s\"\n";

/// Processes that try to survive: workers, orphans, daemons that ignore SIGTERM, of another user.
pub(crate) const STUBBORN: &[&str] = &[
    "forks-workers",
    "--workers",
    "2",
    "--orphans",
    "2",
    "--setsid",
    "--ignore-term",
    "--uid",
    "65534",
    "--main-uid",
    "65533",
];

/// Writes `app.toml` with this child.
pub(crate) fn configure(sandbox: &Sandbox, folder: &str, child: &[&str], rest: &str) {
    let mut argv: Vec<String> = child.iter().map(|&word| word.to_owned()).collect();
    argv[0] = fixture(&argv[0]).display().to_string();
    sandbox.write(format!("{folder}app.toml"), format!("{}pidfile = \"app.pid\"\n{rest}", cmd_line(argv)));
}

/// Clients of `app.sock`.
pub(crate) fn probe(socket: &Path) -> AvailabilityProbe {
    AvailabilityProbe::start(2, |_| {
        let mut client = HttpClient::unix(socket);
        move || client.get("/")?.tag("pid")
    })
}

/// The content of the pidfile, once it differs from `before`.
#[track_caller]
pub(crate) fn wait_pidfile(path: &Path, before: Option<&str>) -> String {
    wait_until(Deadline::default(), "the pidfile to name another psflip", || {
        fs::read_to_string(path).ok().filter(|text| !text.is_empty() && Some(text.as_str()) != before)
    })
}

/// Waits until all of these are gone.
#[track_caller]
pub(crate) fn wait_gone(what: &str, family: &[Process]) {
    wait_until(Deadline::default(), format!("{what} to exit: {family:?}"), || {
        family.iter().all(|process| !process.is_alive()).then_some(())
    });
}

/// Whether this is root, which may change credentials and start containers.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
