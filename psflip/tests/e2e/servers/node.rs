//! Node on an inherited descriptor, with an application that shuts down gracefully.

use testkit::{Stream, psflip_bin};

use super::load::{Application, clients, flip_under_load};
use super::{Example, are_installed, with_success};

pub(super) const EXAMPLE: &str = "node.toml";

#[test]
fn load_node_on_a_shared_socket_loses_nothing() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["node"]) {
        return;
    }
    let example = Example::new(EXAMPLE);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load("Node, inherited TCP", &psflip, probe);
    example.stop(&psflip, with_success);
    report.assert_no_failures();
}

#[test]
fn load_a_node_release_that_is_rolled_back_from_a_shared_socket_loses_nothing() {
    // Contract: B2, B3, B9
    if !are_installed(&["node"]) {
        return;
    }
    let example = Example::new(EXAMPLE);
    let sandbox = &example.sandbox;
    let config = sandbox.read(EXAMPLE).replace("[shutdown]", "[upgrade]\nbake = \"1h\"\n\n[shutdown]");
    sandbox
        .write(EXAMPLE, config.replace("[healthcheck.http]\n", "[healthcheck.http]\ninterval = \"20ms\"\n"));
    let psflip = example.psflip().start().wait_ready();
    let before = (psflip.active(), psflip.child());
    let probe = clients(example.address(), Application::Http);
    probe.wait_tag("gen1");
    let run = |args: &[&str]| {
        let client = sandbox.command([psflip_bin()]).args(args).args(["-c", EXAMPLE]).start();
        let code = client.wait_exit().code();
        client.output().wait_closed();
        (code, client.stdout() + &client.stderr())
    };
    let good = sandbox.read("node_app.js");
    let (from, to) = ("response.end('up", "response.writeHead(fs.existsSync('sick') ? 503 : 200).end('up");
    assert!(good.contains(from));
    sandbox.write("node_app.js", good.replace(from, to));
    let upgrade = sandbox.command([psflip_bin()]).args(["upgrade", "--wait", "baked", "-c", EXAMPLE]).start();
    upgrade.output().wait(Stream::Stdout, "has the traffic and bakes");
    // Both accept: the clients of generation 2 are on trial.
    probe.wait_tag("gen2");
    let answers = |name: &str| probe.report().by_tag.get(name).map_or(0, |answers| answers.count);
    let served = answers("gen1");
    testkit::wait_until(testkit::Deadline::default(), "generation 1 to answer, too", || {
        (answers("gen1") > served).then_some(())
    });
    sandbox.write("sick", "");
    assert_eq!(upgrade.wait_exit().code(), Some(3));
    assert_eq!((psflip.active(), psflip.child()), before);
    sandbox.write("node_app.js", good);
    let (code, said) = run(&["upgrade"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(&["keep"]);
    assert_eq!(code, Some(0), "{said}");
    psflip.wait_gone(before.0);
    probe.wait_requests(50);
    let report = probe.finish();
    example.stop(&psflip, with_success);
    report.assert_no_failures();
}
