//! The program on its own. Under psflip it is tested in `psflip/tests/e2e/servers/rust.rs`.

use std::process::Command;

#[test]
fn without_a_socket_the_server_reports_what_is_missing() {
    let output = Command::new(env!("CARGO_BIN_EXE_axum-server")).env_remove("LISTEN_FDS").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("LISTEN_FDS is not set"), "{output:?}");
}
