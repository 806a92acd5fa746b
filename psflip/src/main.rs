//! psflip.
fn main() {}
