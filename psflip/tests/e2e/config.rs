//! Broken and valid configurations, through the command line (X1 to X3).
