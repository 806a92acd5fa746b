//! A shop in Node behind a proxy, with releases that break after they have the traffic: each is healthy, and answers
//! real orders with errors some requests later, or crashes (`upgrade.bake`).

use std::os::unix::fs::symlink;

use testkit::client::http::HttpClient;
use testkit::probe::Report;
use testkit::{AvailabilityProbe, Deadline, Psflip, Sandbox, psflip_bin, wait_until};

use super::{are_installed, path};
use crate::traffic::ports::Reserved;

/// A shop whose releases are directories; the symlink `current` leads to one.
struct Shop {
    sandbox: Sandbox,
    psflip: Psflip,
    port: Reserved,
}

/// What follows `cmd` and `pidfile`. The node process listens on the port in `PORT` and knows nothing of psflip.
fn config(port: &Reserved) -> String {
    format!(
        "[upgrade]\nbake = \"1h\"\n[healthcheck.http]\nurl = \"/up\"\ninterval = \"20ms\"\n\
         [locals]\nport = \"{{{{ free_port('20000-29999') }}}}\"\n[env]\nPORT = \"{{{{ local('port') }}}}\"\n\
         [[proxy]]\nlisten = \"tcp://{}\"\nforward = \"127.0.0.1:{{{{ local('port') }}}}\"\nprotocol = \"http\"\n",
        port.address()
    )
}

impl Shop {
    /// `None`: Node is not installed, and the caller skips the test.
    #[track_caller]
    fn start() -> Option<Self> {
        if !are_installed(&["node"]) {
            return None;
        }
        let (sandbox, port) = (Sandbox::new(), Reserved::new());
        release(&sandbox, 1, "");
        let psflip = sandbox.psflip().cmd(["node", "current/shop.js"]).config(config(&port));
        let psflip = psflip.env("PATH", path()).start().wait_ready();
        Some(Self { sandbox, psflip, port })
    }

    /// Clients that read pages, every other one on a connection that it keeps.
    fn pages(&self) -> AvailabilityProbe {
        let address = self.port.address();
        AvailabilityProbe::start(4, |number| {
            let client = HttpClient::tcp(address);
            let mut client = if number.is_multiple_of(2) { client.keep_alive() } else { client };
            move || client.get("/")?.tag("release")
        })
    }

    /// Clients that order.
    fn orders(&self) -> AvailabilityProbe {
        let address = self.port.address();
        AvailabilityProbe::start(2, |number| {
            let client = HttpClient::tcp(address);
            let mut client = if number.is_multiple_of(2) { client.keep_alive() } else { client };
            move || client.post("/order", &[b'x'; 3000])?.tag("release")
        })
    }

    /// Runs a command of psflip's. Returns its exit code and what it printed.
    #[track_caller]
    fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let client = self.sandbox.command([psflip_bin()]).args(args).start();
        let status = client.wait_exit();
        client.output().wait_closed();
        (status.code(), client.stdout() + &client.stderr())
    }

    /// Deploys a bad release, and waits until it is rolled back. Returns the command's output.
    #[track_caller]
    fn is_rolled_back(&self, number: u32, faults: &str, cause: impl FnOnce()) -> String {
        release(&self.sandbox, number, faults);
        let before = (self.psflip.active(), self.psflip.child());
        let upgrade = self.sandbox.command([psflip_bin()]).args(["upgrade", "--wait", "baked"]).start();
        upgrade.output().wait(testkit::Stream::Stdout, "has the traffic and bakes");
        cause();
        let status = upgrade.wait_exit();
        upgrade.output().wait_closed();
        let said = upgrade.stdout() + &upgrade.stderr();
        assert_eq!(status.code(), Some(3), "{said}\n{}", self.sandbox.report());
        assert_eq!((self.psflip.active(), self.psflip.child()), before, "{said}");
        said
    }

    /// A release answers.
    #[track_caller]
    fn serves(&self, number: u32) {
        wait_until(Deadline::default(), format!("release {number} to answer"), || {
            let answer = HttpClient::tcp(self.port.address()).get("/").ok()?;
            (answer.tag("release").ok()? == number.to_string()).then_some(())
        });
    }

    #[track_caller]
    fn stop(self) {
        self.psflip.stop();
        self.sandbox.assert_no_process_left();
    }
}

/// Puts a release into a directory of its own, and repoints `current`.
#[track_caller]
fn release(sandbox: &Sandbox, number: u32, faults: &str) {
    let folder = format!("releases/{number}");
    std::fs::create_dir_all(sandbox.path(&folder)).unwrap();
    let app = format!("{}/tests/e2e/servers/proxied/apps/shop.js", env!("CARGO_MANIFEST_DIR"));
    std::fs::copy(app, sandbox.path(format!("{folder}/shop.js"))).unwrap();
    sandbox.write(format!("{folder}/release.json"), format!("{{ \"name\": \"{number}\"{faults} }}"));
    symlink(&folder, sandbox.path("next")).unwrap();
    std::fs::rename(sandbox.path("next"), sandbox.path("current")).unwrap();
}

/// Every order was answered: by a page's release, or with the error of a bad release.
#[track_caller]
fn assert_only_bad_releases_failed(report: &Report, bad: &[u32]) {
    let of_the_app = |cause: &str| {
        bad.iter()
            .any(|number| cause.starts_with(&format!("status 500, body `release={number} no such column")))
    };
    let other: Vec<_> = report.failures.iter().filter(|failure| !of_the_app(&failure.error.cause)).collect();
    assert!(other.is_empty(), "{other:?}\n{report}");
    assert!(report.failed > 0, "no bad release failed: {report}");
}

#[test]
fn load_node_releases_that_answer_errors_are_taken_back_and_the_next_good_one_is_kept() {
    // Contract: B2, B3, B7, B8, T6
    let Some(shop) = Shop::start() else { return };
    let (pages, orders) = (shop.pages(), shop.orders());
    orders.wait_tag("1");
    // After some orders.
    let said = shop.is_rolled_back(2, ", \"failsAfter\": 30", || ());
    assert!(said.contains("the health check failed in the bake") && said.contains("status 503"), "{said}");
    shop.serves(1);
    // At a moment that has nothing to do with requests.
    let said = shop.is_rolled_back(3, ", \"failsWith\": \"new-year\"", || {
        pages.wait_tag("3");
        orders.wait_tag("3");
        orders.wait_requests(20);
        shop.sandbox.write("new-year", "");
    });
    assert!(said.contains("status 503"), "{said}");
    shop.serves(1);
    let (_, status) = shop.run(&["status"]);
    assert!(status.matches("ROLLED BACK").count() == 2, "{status}");
    // A good one, which an operator keeps.
    release(&shop.sandbox, 4, "");
    let (code, said) = shop.run(&["upgrade"]);
    assert_eq!(code, Some(0), "{said}");
    orders.wait_tag("4");
    let (code, said) = shop.run(&["keep"]);
    assert_eq!(code, Some(0), "{said}");
    // A good one, whose bake ends by itself.
    let config = shop.sandbox.read("psflip.toml");
    shop.sandbox.write("psflip.toml", config.replace("bake = \"1h\"", "bake = \"200ms\""));
    release(&shop.sandbox, 5, "");
    let (code, said) = shop.run(&["upgrade", "--wait", "baked"]);
    assert_eq!(code, Some(0), "{said}");
    pages.wait_tag("5");
    orders.wait_tag("5");
    shop.serves(5);
    pages.wait_requests(50);
    pages.finish().assert_no_failures();
    assert_only_bad_releases_failed(&orders.finish(), &[2, 3]);
    shop.stop();
}

#[test]
fn load_a_node_release_that_crashes_with_an_order_costs_what_it_had() {
    // Contract: B2, B3
    let Some(shop) = Shop::start() else { return };
    let (pages, orders) = (shop.pages(), shop.orders());
    orders.wait_tag("1");
    for number in 2..=4 {
        let said = shop.is_rolled_back(number, ", \"failsAfter\": 30, \"crashes\": true", || ());
        assert!(said.contains("before its bake (1h) was over: exit code 1"), "{said}");
        shop.serves(1);
    }
    pages.wait_requests(50);
    // Each crash costs at most the request that a client had sent, and one that came before psflip knew.
    let (pages, orders) = (pages.finish(), orders.finish());
    assert!(pages.failures.len() <= 3 * 2 * 4, "{pages}");
    assert!(orders.failures.len() <= 3 * 2 * 2, "{orders}");
    release(&shop.sandbox, 5, "");
    let (code, said) = shop.run(&["upgrade"]);
    assert_eq!(code, Some(0), "{said}");
    shop.serves(5);
    assert_eq!(shop.run(&["keep"]).0, Some(0));
    shop.stop();
}
