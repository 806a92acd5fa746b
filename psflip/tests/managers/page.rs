//! `docs/managers.md`.
