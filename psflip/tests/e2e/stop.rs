//! Stop requests in every phase (S5, F11).
