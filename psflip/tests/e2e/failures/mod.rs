//! What may die or fail during an upgrade, and what then holds (contract F). In every test clients ask the service without pause.

mod faults;
mod frozen;
mod injected;
mod killed;
mod limits;
mod matrix;
mod resources;
mod rig;
pub(crate) mod stage;
mod start;
mod versions;
