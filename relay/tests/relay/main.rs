//! Relays in threads of the test, with the test in place of psflip, and servers without any care as children.

mod bad;
mod bad_records;
mod bodies;
mod close;
mod descriptors;
mod fcgi;
mod http;
mod http2;
mod load;
mod orders;
mod passed_on;
mod pause;
mod pool;
mod resets;
mod resources;
mod signals;
mod smuggling;
mod support;
mod tcp;
