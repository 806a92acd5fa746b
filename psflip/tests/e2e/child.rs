//! The child's view of its process: the same as without psflip (C1 to C4).

mod inherited;
mod view;
