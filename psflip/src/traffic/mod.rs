//! How clients reach the active child: the sockets that psflip keeps for all generations (`[[listen]]`), and the symbolic link
//! that is turned at promotion (`[switch]`).

pub mod activation;
pub mod listen;
pub mod pass;
pub mod store;
pub mod symlink;
mod unix_file;

pub use unix_file::FileId;
