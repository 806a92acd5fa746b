//! A fleet: five hosts, each a systemd in namespaces of its own with an sshd, behind a bridge and a haproxy, upgraded by
//! the Ansible collection `psflip.service` of `dist/ansible_collections` over ssh. Needs root, Ansible and OpenSSH;
//! elsewhere the tests say `SKIPPED`, or fail with `TESTKIT_REQUIRE`, as CI sets it. The roll-outs take minutes of processor
//! time, so `cargo xtask nightly` runs them, and `cargo xtask ci` leaves them out.

mod ansible;
mod collection;
mod hosts;
mod network;
mod rollout;
