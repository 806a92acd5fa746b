//! Exit codes.

/// Nothing was lost.
pub(crate) const OK: u8 = 0;
/// Requests were lost, a process was left, or a bad version was accepted.
pub(crate) const LOST: u8 = 1;
/// Wrong usage.
pub(crate) const USAGE: u8 = 2;
/// No sandbox is possible here (as automake's tests say that they were skipped).
pub(crate) const NO_SANDBOX: u8 = 77;
/// The configuration is invalid.
pub(crate) const CONFIG: u8 = 78;
/// The service did not start, or did not answer well before the first upgrade; or the rehearsal itself failed.
pub(crate) const FAILED: u8 = 125;
/// 128 and SIGINT: Ctrl-C before the first upgrade, or a second one, has ended the rehearsal at once.
pub(crate) const INTERRUPTED: u8 = 130;
