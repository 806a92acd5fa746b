//! The checks against real listeners and commands, driven as the runtime drives them.
