//! Health checks on real children (H1 to H4).
