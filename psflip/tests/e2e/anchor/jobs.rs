//! An anchor on a terminal: keys, job control, a new size (S2, S3).
