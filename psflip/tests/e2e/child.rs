//! What a child sees: as if psflip were not there (C1 to C4).

mod inherited;
mod view;
