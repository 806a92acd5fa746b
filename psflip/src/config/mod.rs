//! The configuration: text -> templates -> typed values -> [`Plan`]. Pure but for what templates read on purpose.

mod plan;

pub use plan::*;
