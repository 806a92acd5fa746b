//! The collection itself.

use std::fs;
use std::path::Path;

use crate::ansible;

#[test]
fn the_role_installs_the_unit_of_the_examples() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/systemd/psflip@.service");
    let own = ansible::source().join("roles/service/files/psflip@.service");
    assert_eq!(fs::read_to_string(own).unwrap(), fs::read_to_string(examples).unwrap());
}
