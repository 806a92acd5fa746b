//! The configurations in `docs/traffic.md`: each is one that psflip takes.

use std::fs;
use std::path::Path;

use testkit::{Sandbox, psflip_bin};

#[test]
fn every_configuration_in_the_page_on_traffic_is_valid() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/traffic.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks: Vec<&str> =
        page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 5, "only {} configurations found", blocks.len());
    let psflip = psflip_bin().display().to_string();
    for block in blocks {
        let sandbox = Sandbox::new();
        sandbox.write("psflip.toml", block);
        let check = sandbox.command([psflip.as_str(), "check", "-c", "psflip.toml"]).start();
        assert!(check.wait_exit().success(), "{block}\n{}", check.stderr());
    }
}
