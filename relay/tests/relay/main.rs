//! Relays in threads of the test, with the test in place of psflip, and servers without any care as children.

mod bad;
mod bodies;
mod close;
mod descriptors;
mod fcgi;
mod http;
mod http2;
mod load;
mod orders;
mod passed_on;
mod signals;
mod support;
mod tcp;
