//! `upgrade.bake`: a new generation has the traffic on trial, and gives it back or becomes the service
//! (contract B).

mod faults;
mod killed;
mod operators;
mod rolled_back;
mod without_proxy;

use testkit::client::http::HttpClient;
use testkit::{AvailabilityProbe, Deadline, Line, Process, Psflip, Sandbox, Stream, double, wait_until};

use crate::failures::stage::Stage;
use crate::service::{self, generations, psflip};

/// A server that ends carelessly: on SIGTERM it closes all connections at once, even those with a request. Each
/// generation has a socket of its own.
const CARELESS: &[&str] = &[
    "http-server",
    "--unix",
    "{{ blue_green() }}.sock",
    "--drain",
    "0s",
    "--keep-idle",
    "0s",
    "--linger",
    "0s",
    "--verbose",
];

/// Healthy as long as the file `sick` does not exist.
const UNLESS_SICK: &str = "[healthcheck.command]\ncmd = [\"sh\", \"-c\", \"test -S {{ blue_green() }}.sock && ! test -e sick\"]\n\
    interval = \"20ms\"\nfailures = 2\n";

const PROXY: &str = "[log]\nlevel = \"debug\"\n[[proxy]]\nlisten = \"unix://web.sock\"\n\
    forward = \"unix://{{ blue_green() }}.sock\"\nprotocol = \"http\"\n";

/// A bake that only an event ends.
const LONG: &str = "bake = \"1h\"\n";

/// What follows `cmd` and `pidfile`. `upgrade`: keys of `[upgrade]`.
fn config(upgrade: &str) -> String {
    format!("[upgrade]\n{upgrade}{UNLESS_SICK}{PROXY}")
}

/// A psflip that follows the plans of a [`Stage`]. `upgrade`: keys of `[upgrade]`.
#[track_caller]
fn staged(sandbox: &Sandbox, upgrade: &str) -> Psflip {
    // Named as the other ones.
    let exe = sandbox.path("psflip");
    std::os::unix::fs::symlink(double("psflip-staged"), &exe).unwrap();
    let builder = psflip(sandbox, CARELESS, &config(upgrade)).exe(exe);
    builder.env("PSFLIP_STAGED", sandbox.dir()).start().wait_ready()
}

/// A service behind a proxy, with clients that send requests without pause.
struct Baked {
    probe: AvailabilityProbe,
    psflip: Psflip,
    sandbox: Sandbox,
}

/// The processes of a bake.
#[derive(Clone, Copy, Debug)]
struct Bake {
    old: Process,
    old_child: Process,
    new: Process,
    new_child: Process,
    /// The position in the output at the request of the upgrade.
    mark: usize,
}

impl Baked {
    #[track_caller]
    fn start() -> Self {
        Self::start_with(LONG, "")
    }

    #[track_caller]
    fn start_with(upgrade: &str, rest: &str) -> Self {
        let sandbox = Sandbox::new();
        let psflip = psflip(&sandbox, CARELESS, &format!("{}{rest}", config(upgrade))).start().wait_ready();
        Self::with_clients(sandbox, psflip)
    }

    /// A service whose system calls fail, and whose steps pause, as the test plans it.
    #[track_caller]
    fn start_staged(upgrade: &str) -> (Self, Stage) {
        let sandbox = Sandbox::new();
        let stage = Stage::new(&sandbox);
        let psflip = staged(&sandbox, upgrade);
        (Self::with_clients(sandbox, psflip), stage)
    }

    #[track_caller]
    fn with_clients(sandbox: Sandbox, psflip: Psflip) -> Self {
        let path = sandbox.path("web.sock");
        let probe = AvailabilityProbe::start(4, |number| {
            let client = HttpClient::new(path.as_path());
            let mut client = if number.is_multiple_of(2) { client.keep_alive() } else { client };
            move || {
                let answer = if number < 2 { client.get("/") } else { client.post("/", &[b'x'; 3000]) };
                answer?.tag("name")
            }
        });
        probe.wait_tag("gen1");
        Self { probe, psflip, sandbox }
    }

    /// From now on, requests come from the test alone.
    #[track_caller]
    fn stop_clients(&mut self) {
        let none = AvailabilityProbe::start(0, |_| || Ok(String::new()));
        std::mem::replace(&mut self.probe, none).finish().assert_no_failures();
    }

    /// Starts an upgrade, and waits until the new generation has the traffic.
    #[track_caller]
    fn bake(&self) -> Bake {
        let (old, old_child) = (self.psflip.active(), self.psflip.child());
        let mark = self.psflip.output().mark();
        self.psflip.request_flip();
        self.psflip.output().wait_after(mark, Stream::Stderr, "has the traffic and bakes");
        let new = self.other(old);
        let new_child = wait_until(Deadline::default(), "the child of the new generation", || {
            let below = |parent: Process| {
                self.sandbox.processes().into_iter().filter(move |one| one.parent() == Some(parent))
            };
            below(new).flat_map(below).next()
        });
        Bake { old, old_child, new, new_child, mark }
    }

    /// The psflip beside this one.
    #[track_caller]
    fn other(&self, one: Process) -> Process {
        wait_until(Deadline::default(), "another psflip", || {
            generations(&self.sandbox).into_iter().find(|process| *process != one)
        })
    }

    /// The old generation has the traffic again, and everything is as before (contract B3, U8). Returns the line
    /// of the log.
    #[track_caller]
    fn is_rolled_back(&self, bake: Bake) -> Line {
        let line = self.psflip.output().wait_after(bake.mark, Stream::Stderr, "upgrade rolled back");
        assert!(line.text.contains("the old child keeps running"), "{line}");
        wait_until(Deadline::default(), "the new generation to be gone", || {
            let all = self.sandbox.processes();
            (!all.contains(&bake.new) && !all.contains(&bake.new_child)).then_some(())
        });
        assert_eq!((self.psflip.active(), self.psflip.child()), (bake.old, bake.old_child));
        assert!(bake.old_child.is_alive());
        assert!(!self.psflip.log().contains("got SIGTERM"), "{}", self.psflip.log());
        line
    }

    /// Clients are answered by this generation, all of them.
    #[track_caller]
    fn serves(&self, generation: &str) {
        wait_until(Deadline::default(), format!("{generation} to answer"), || {
            let mut client = HttpClient::new(self.sandbox.path("web.sock").as_path());
            (client.get("/").ok()?.tag("name").ok()? == generation).then_some(())
        });
    }

    /// The next upgrade works, and no request was lost since the start.
    #[track_caller]
    fn goes_on_and_ends(self) {
        let Self { probe, psflip, sandbox } = self;
        service::configure(&sandbox, CARELESS, &config(""));
        psflip.flip();
        probe.wait_tag("gen2");
        probe.finish().assert_no_failures();
        psflip.stop();
        sandbox.assert_no_process_left();
    }
}
