//! How clients reach the active child: the listeners that all generations share (`[[listen]]`), and the
//! symlink that is repointed at promotion (`[switch]`).

pub mod activation;
pub mod given;
pub mod listen;
pub mod pass;
pub mod store;
pub mod symlink;
mod unix_file;

pub use unix_file::FileId;
