//! Terminals and job control (S2, S3).
