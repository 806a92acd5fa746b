//! What psflip ends with (C5, C6).
