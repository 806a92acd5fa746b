//! The flags that choose whether there is an anchor.

use crate::anchor;

/// Whether the started process becomes an anchor. The default is in [`anchor::choose`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct AnchorArgs {
    /// Keep this process as the stable parent (the anchor) of all generations: its PID never changes. This is
    /// the default unless systemd started psflip and set NOTIFY_SOCKET
    #[arg(long, conflicts_with = "no_anchor")]
    pub(super) foreground: bool,
    /// Run without an anchor: every upgrade changes the PID of the service. For supervisors that follow the
    /// PID in the pidfile or MAINPID=
    #[arg(long)]
    pub(super) no_anchor: bool,
}

impl AnchorArgs {
    /// The choice as far as it is known before the start, as a comment for `psflip check`.
    pub(super) fn prediction(self) -> &'static str {
        match self.mode() {
            anchor::Mode::Always => {
                "# With an anchor (--foreground): no upgrade changes the PID of the service.\n"
            }
            anchor::Mode::Never => {
                "# Without an anchor (--no-anchor): every upgrade changes the PID of the service.\n"
            }
            anchor::Mode::Default => {
                "# With an anchor, so that no upgrade changes the PID of the service; without one\n\
                 # where systemd starts psflip with NOTIFY_SOCKET (Type=notify), since that follows the PID.\n"
            }
        }
    }

    pub(super) fn mode(self) -> anchor::Mode {
        match (self.foreground, self.no_anchor) {
            (true, _) => anchor::Mode::Always,
            (_, true) => anchor::Mode::Never,
            _ => anchor::Mode::Default,
        }
    }
}
