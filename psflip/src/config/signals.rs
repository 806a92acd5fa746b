//! `[signals]`: translates the signals that psflip forwards to the child (contract S8).

use toml::de::DeValue;

use super::error::{Error, quoted};
use super::reader::Reader;
use super::scalar::{self, Refused};
use super::section::Node;
use crate::signal::Signal;

/// Reads the table: each received signal with the signal for the child, `None` for no signal. There are no
/// duplicates.
pub(super) fn signals(reader: &mut Reader<'_>, node: Node<'_>) -> Vec<(Signal, Option<Signal>)> {
    let mut rules: Vec<(Signal, Option<Signal>)> = Vec::new();
    for (name, span, node) in reader.map("signals", node).unwrap_or_default() {
        let received = match scalar::received_signal(name) {
            Ok(signal) => signal,
            Err(Refused { message, help }) => {
                reader.error(Error { message, span: Some(span), help });
                continue;
            }
        };
        if rules.iter().any(|(other, _)| *other == received) {
            reader.error(
                Error::at(span, format!("{} is there twice", quoted(&received.to_string())))
                    .help("names with and without `SIG` mean the same: keep one"),
            );
            continue;
        }
        let stops = received == Signal::TERM || received == Signal::INT;
        let sent = match node.get_ref() {
            DeValue::Boolean(false) if stops => {
                let message = format!(
                    "{} can't be `false`: it requests a stop of psflip, and the child would never exit",
                    quoted(name)
                );
                reader.error(Error::at(node.span(), message).help(
                    "write the signal on which your program shuts down gracefully, for example `\"SIGQUIT\"`",
                ));
                continue;
            }
            DeValue::Boolean(false) => Some(None),
            DeValue::String(_) | DeValue::Integer(_) => {
                let read = |text: &str| match text {
                    "false" => {
                        scalar::refuse_help("`false` in quotes is no signal", "write `false` without quotes")
                    }
                    text if stops => scalar::stopping_signal(text),
                    text => scalar::sent_signal(text),
                };
                reader.read_signal(&format!("signals.{name}"), node, read).map(Some)
            }
            _ => {
                reader.signal_type(name, node);
                None
            }
        };
        // An invalid line is kept as well, so that a duplicate is reported.
        rules.push((received, sent.unwrap_or_default()));
    }
    rules
}

/// Reports a line about the upgrade signal, which psflip does not forward, wherever the file sets it.
pub(super) fn conflicts(
    reader: &mut Reader<'_>,
    node: Option<Node<'_>>,
    upgrade: Signal,
    rules: &[(Signal, Option<Signal>)],
) {
    if !rules.iter().any(|(received, _)| *received == upgrade) {
        return;
    }
    let Some(DeValue::Table(table)) = node.map(toml::Spanned::get_ref) else { return };
    let key = table.keys().find(|key| key.get_ref().parse() == Ok(upgrade));
    let message = format!(
        "{} is not allowed in `[signals]`: it is the upgrade signal, which no child gets",
        quoted(&upgrade.to_string())
    );
    reader.error(Error {
        message,
        span: key.map(toml::Spanned::span),
        help: Some("choose another `upgrade.signal`, or another signal to be passed on, for example `SIGUSR1 = \"SIGHUP\"`".to_owned()),
    });
}
