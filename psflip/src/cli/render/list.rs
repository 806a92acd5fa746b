//! Several services: a line for each.

use super::status::old_generations;
use super::{Paint, View, clean, cut, span};
use crate::cli::list::Answered;
use crate::control::protocol::{ServiceState, Status};
use crate::history::Outcome;

const HEADINGS: [&str; 6] = ["SERVICE", "PID", "GENERATION", "STATE", "ACTIVE FOR", "LAST UPGRADE"];

/// A table: what serves, since when, and how the last upgrade ended.
pub(in crate::cli) fn list(answers: &[Answered], view: &View) -> String {
    let mut rows: Vec<([String; 6], Option<Paint>)> = Vec::new();
    for answered in answers {
        rows.push(match &answered.status {
            Ok((_, status)) => row(status, answered, view),
            Err(reason) => {
                let name = clean(&crate::text::lossy(&answered.found.named));
                let pid = answered.found.pid.to_string();
                let cells =
                    [name, pid, "-".to_owned(), "no answer".to_owned(), "-".to_owned(), clean(reason)];
                (cells, Some(Paint::Bad))
            }
        });
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|(cells, _)| cells[column].chars().count());
        cells.chain([HEADINGS[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let line = |cells: &[String; 6]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = padded.collect::<Vec<_>>().join("  ");
        cut(line.trim_end(), view.width)
    };
    let mut out = view.paint(Paint::Faint, &line(&HEADINGS.map(str::to_owned))) + "\n";
    for (cells, paint) in &rows {
        let text = line(cells);
        out += &paint.map_or_else(|| text.clone(), |paint| view.paint(paint, &text));
        out.push('\n');
    }
    out
}

/// What to call a service: its configuration, or without one its pidfile or its control socket.
pub(in crate::cli) fn name(status: &Status, answered: &Answered) -> String {
    match (&status.config, &status.pidfile) {
        (Some(config), _) => clean(&config.path),
        (None, Some(pidfile)) if pidfile.starts_with('/') => clean(pidfile),
        _ => clean(&crate::text::lossy(&answered.found.named)),
    }
}

fn row(status: &Status, answered: &Answered, view: &View) -> ([String; 6], Option<Paint>) {
    let (state, mut paint) = match status.state {
        _ if status.bake_left_ms.is_some() => ("baking", Some(Paint::Busy)),
        ServiceState::Serving if old_generations(status).next().is_some() => ("draining", Some(Paint::Busy)),
        ServiceState::Serving => ("serving", None),
        ServiceState::Starting => ("starting", Some(Paint::Busy)),
        ServiceState::Upgrading => ("upgrading", Some(Paint::Busy)),
        ServiceState::Stopping => ("stopping", Some(Paint::Bad)),
        ServiceState::Other => ("running", None),
    };
    let since = status.active_since.map_or_else(|| "-".to_owned(), |at| span(view.now.saturating_sub(at)));
    let last = status.history.iter().rev().find(|record| record.upgrade > 0 && record.result.is_some());
    let last = last.map_or_else(
        || "none".to_owned(),
        |record| {
            let ended = record.began_at.saturating_add(record.took_ms.unwrap_or_default());
            let ago = view.ago(ended);
            let reason = record.reason.as_deref().map_or_else(String::new, |why| format!(": {}", clean(why)));
            match record.result {
                Some(Outcome::Promoted) => format!("promoted {ago}"),
                Some(Outcome::Failed) => {
                    paint = Some(Paint::Bad);
                    format!("failed {ago}{reason}")
                }
                Some(Outcome::RolledBack) => {
                    paint = Some(Paint::Bad);
                    format!("rolled back {ago}{reason}")
                }
                Some(Outcome::Other) | None => "-".to_owned(),
            }
        },
    );
    let cells = [
        name(status, answered),
        status.pid.to_string(),
        status.generation.to_string(),
        state.to_owned(),
        since,
        last,
    ];
    (cells, paint)
}
