//! psflip's own exit codes (contract C6). What the child ends with is relayed and is not listed here.

/// A successful end that is not a relay: a generation that was superseded, `check` without findings.
pub const OK: u8 = 0;
/// The first child ended with code 0 before it was healthy (C6: 0 becomes 1).
pub const ENDED_TOO_EARLY: u8 = 1;
/// Wrong usage of the command line (as clap and most Unix tools do).
pub const USAGE: u8 = 2;
/// The configuration is broken (`EX_CONFIG` of sysexits.h).
pub const CONFIG: u8 = 78;
/// The child was not healthy within `upgrade.timeout` (as timeout(1) does).
pub const NOT_HEALTHY: u8 = 124;
/// Any other failure of psflip's own (as env(1), nohup(1) and timeout(1) do).
pub const FAILURE: u8 = 125;
/// The command was found but can't be executed (POSIX, shells).
pub const NOT_EXECUTABLE: u8 = 126;
/// The command was not found (POSIX, shells).
pub const NOT_FOUND: u8 = 127;
