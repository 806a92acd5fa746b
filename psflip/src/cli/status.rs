//! `psflip status`: the state of a service, once or at every change, or as a picture.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::files::{self, Files};
use super::render;
use super::screen::{Screen, now};
use super::target::{ServiceAddress, ServiceArgs, Trouble};
use super::wait::{Waiter, Wakeup};
use crate::config;
use crate::control::protocol::{ControlRequest, Event, ServiceState, Status as Answer};
use crate::exit;
use crate::exit_status::ExitStatus;

/// `psflip status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    which: ServiceArgs,
    /// Print the status as one JSON object (see docs/control.md); with --watch, one object per line
    #[arg(long)]
    json: bool,
    /// Keep running and show every change, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Print one line, and exit with 1 until a child was found healthy and after a stop request: for probes
    /// of containers
    #[arg(long, conflicts_with_all = ["json", "watch", "timeline"])]
    check: bool,
    /// Print the configuration file as the active generation read it, and nothing else
    #[arg(long, conflicts_with_all = ["json", "watch", "timeline", "check"])]
    running_config: bool,
    /// How many recent upgrades to show; psflip keeps the last 16
    #[arg(long, value_name = "N", default_value_t = 5)]
    last: usize,
    /// Draw the recent upgrades as an SVG picture into this file (`-`: standard output)
    #[arg(long, value_name = "FILE.svg", conflicts_with_all = ["json", "watch"])]
    timeline: Option<PathBuf>,
    /// Stop waiting for an answer after this time; with --watch, for the first one
    #[arg(long, value_name = "DURATION", value_parser = config::duration, default_value = "10s")]
    timeout: Duration,
}

pub(super) const AFTER_HELP: &str = "\
Examples:
  psflip status -c app.toml
  psflip status -c app.toml --watch                        # as it changes
  psflip status -c app.toml --json | jq -r .state
  psflip status -c app.toml --timeline upgrades.svg        # for a browser
  psflip status -c app.toml --check                        # HEALTHCHECK of Docker, probe of Kubernetes
  psflip status -c app.toml --running-config | diff - app.toml

Exit codes:
    0  psflip answered; with --check: a child was found healthy, and no stop was requested since. That is also so
       during an upgrade, while `overlap = false` replaces the child (none runs), and under `psflip hold`
    1  with --check only: no child was found healthy yet, or a stop was requested
   78  the configuration does not say where the control socket is
  125  psflip did not answer; if the service went down without a stop request, the output shows how";

/// How often elapsed times are updated, for --watch on a terminal only.
const TICK: Duration = Duration::from_secs(1);

impl Status {
    /// Runs the command.
    pub(super) fn run(&self) -> ExitStatus {
        let mut screen = Screen::new();
        let end = if self.watch { self.watch(&mut screen) } else { self.once(&mut screen) };
        end.unwrap_or_else(|trouble| trouble.report())
    }

    fn once(&self, screen: &mut Screen) -> Result<ExitStatus, Trouble> {
        let address = self.which.locate()?;
        let waiter = Waiter::new(Some(self.timeout))?;
        let request = if self.running_config { ControlRequest::Config } else { ControlRequest::Status };
        for _ in 0..3 {
            let mut connection = address
                .request_within(request, waiter.left(), exit::FAILURE)
                .map_err(|trouble| self.with_last_exit(&address, trouble, screen))?;
            match waiter.next(&mut connection, None)? {
                Wakeup::Line(line, event) => match *event {
                    Event::Status { mut status } => {
                        self.show(screen, &line, &mut status)?;
                        return Ok(ExitStatus::Exited(self.code_for(status.state)));
                    }
                    Event::Config { text, .. } => {
                        std::io::stdout().write_all(text.as_bytes()).map_err(|error| cant_print(&error))?;
                        return Ok(ExitStatus::Exited(exit::OK));
                    }
                    Event::Refused { reason } | Event::Error { reason } => {
                        return Err(Trouble::refused(&reason));
                    }
                    _ => {} // this generation is no longer the service
                },
                Wakeup::Interrupted(signal) => return Ok(ExitStatus::Killed(signal)),
                Wakeup::TimedOut => return Err(address.silent(self.timeout)),
                Wakeup::Closed | Wakeup::Resized | Wakeup::Tick => {}
            }
        }
        Err(Trouble::new(super::target::CLOSED))
    }

    /// psflip did not answer. Prints how the service went down, if that is known.
    fn with_last_exit(&self, address: &ServiceAddress, trouble: Trouble, screen: &mut Screen) -> Trouble {
        let Some(exit) = address.last_exit() else { return trouble };
        if self.json {
            screen.line(&serde_json::json!({ "state": "down", "last_exit": exit }).to_string());
        } else {
            screen.line(render::last_exit(&exit, &screen.view()).trim_end());
        }
        Trouble { message: format!("psflip is not running: {}", trouble.message), ..trouble }
    }

    fn code_for(&self, state: ServiceState) -> u8 {
        match state {
            ServiceState::Starting | ServiceState::Stopping if self.check => exit::NOT_SERVING,
            // A state that only a later psflip knows is no proof of a fault.
            _ => exit::OK,
        }
    }

    fn show(&self, screen: &mut Screen, line: &str, status: &mut Answer) -> Result<(), Trouble> {
        if self.timeline.is_none() && !self.check {
            Files::default().compare(status);
        }
        let view = screen.view();
        match &self.timeline {
            Some(path) => {
                let picture = render::timeline::svg(status, &view);
                if path == Path::new("-") {
                    screen.line(picture.trim_end());
                } else {
                    std::fs::write(path, picture).map_err(|error| Trouble {
                        message: format!("can't write `{}`: {error}", path.display()),
                        code: exit::FAILURE,
                    })?;
                    screen.line(&format!(
                        "{} shows the last {} of generation {}'s history",
                        path.display(),
                        match status.history.len() {
                            1 => "upgrade".to_owned(),
                            count => format!("{count} upgrades"),
                        },
                        status.generation
                    ));
                }
            }
            None if self.json => screen.line(&files::object(line, status).to_string()),
            None if self.check => screen.line(&render::summary(status, view.now)),
            None => screen.line(render::status(status, self.last, &view).trim_end()),
        }
        Ok(())
    }

    fn watch(&self, screen: &mut Screen) -> Result<ExitStatus, Trouble> {
        let address = self.which.locate()?;
        let waiter = Waiter::new(None)?;
        let mut connection = address
            .request_within(ControlRequest::Watch, Some(self.timeout), exit::FAILURE)
            .map_err(|trouble| self.with_last_exit(&address, trouble, screen))?;
        let live = screen.is_live && !self.json;
        let mut answer_by = Some(Instant::now() + self.timeout);
        let mut last: Option<Box<Answer>> = None;
        let mut last_shown = String::new();
        let mut look = Files::default();
        // After a generation exits, the next one answers. If psflip has exited, none does.
        let mut silent = 0;
        loop {
            // With nothing left, what has arrived still counts: this process may have been suspended.
            let left = answer_by.map(|by| by.saturating_duration_since(Instant::now()));
            let wakeup = waiter.next(&mut connection, live.then_some(TICK).into_iter().chain(left).min())?;
            match wakeup {
                Wakeup::Tick if left == Some(Duration::ZERO) => {
                    screen.clear();
                    return Err(address.silent(self.timeout));
                }
                Wakeup::Line(line, event) => {
                    (silent, answer_by) = (0, None);
                    match *event {
                        Event::Status { mut status } if self.json => {
                            look.compare(&mut status);
                            screen.line(&files::object(&line, &status).to_string());
                            last = Some(status);
                        }
                        Event::Status { mut status } => {
                            if live {
                                look.compare(&mut status);
                            }
                            let text = render::summary(
                                &status,
                                status.upgrade.as_ref().map_or(0, |upgrade| upgrade.began_at),
                            );
                            if !live && text != last_shown {
                                let view = screen.view();
                                screen.line(&format!(
                                    "{} {}",
                                    view.moment_of_now(),
                                    render::summary(&status, now())
                                ));
                                last_shown = text;
                            }
                            last = Some(status);
                        }
                        Event::Moved { .. } => connection = address.request(ControlRequest::Watch)?,
                        Event::Stopped { end, .. } => {
                            super::complain(&format!("psflip has exited: {}", render::clean(&end)));
                            return Ok(ExitStatus::Exited(exit::OK));
                        }
                        Event::Refused { reason } | Event::Error { reason } => {
                            return Err(Trouble::refused(&reason));
                        }
                        _ => {}
                    }
                }
                Wakeup::Resized if live => screen.wipe(),
                // psflip sends changes, and counts change all the time: they are requested.
                Wakeup::Tick if last.as_ref().is_some_and(|status| !status.proxies.is_empty()) => {
                    if let Ok(newer) = address.request(ControlRequest::Watch) {
                        connection = newer;
                    }
                }
                Wakeup::Resized | Wakeup::Tick | Wakeup::TimedOut => {}
                Wakeup::Interrupted(signal) => return Ok(ExitStatus::Killed(signal)),
                Wakeup::Closed => {
                    silent += 1;
                    let gone = || Trouble::new("psflip has exited");
                    if silent > 3 {
                        return Err(gone());
                    }
                    connection = address.request(ControlRequest::Watch).map_err(|_| gone())?;
                }
            }
            if live && let Some(status) = &last {
                screen.picture(&render::status(status, self.last, &screen.view()));
            }
        }
    }
}

fn cant_print(error: &std::io::Error) -> Trouble {
    Trouble { message: format!("can't write to standard output: {error}"), code: exit::FAILURE }
}
