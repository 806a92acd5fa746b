//! The fuzz targets, one file per parser. Each calls psflip as psflip calls itself, and checks the promises
//! for the result.

mod config;
mod control;
mod link;
mod message;
mod migrate;
mod notify;
mod pidfile;
mod probe;
mod self_test;
mod template;
mod value;

use std::path::Path;

use crate::Error;

/// Runs one input. An error says which promise is broken.
pub(crate) type Run = Box<dyn FnMut(&[u8]) -> Result<(), String>>;

/// A parser to fuzz.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    /// Its dictionary.
    pub(crate) words: fn() -> Vec<String>,
    /// Prepares it, with a folder of its own.
    pub(crate) start: fn(&Path) -> Result<Run, Error>,
}

/// All targets.
pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "config",
        summary: "the text of a configuration",
        words: config::words,
        start: config::start,
    },
    Target {
        name: "template",
        summary: "a template in a configuration",
        words: || all(template::WORDS),
        start: template::start,
    },
    Target {
        name: "value",
        summary: "durations, signals, addresses, URLs, codes and paths",
        words: || all(value::WORDS),
        start: value::start,
    },
    Target {
        name: "migrate",
        summary: "a configuration of upstream psflip",
        words: || all(migrate::WORDS),
        start: migrate::start,
    },
    Target {
        name: "message",
        summary: "the text of a hand-over message",
        words: || all(message::WORDS),
        start: message::start,
    },
    Target {
        name: "control",
        summary: "a request and an answer on the control socket",
        words: || all(control::WORDS),
        start: control::start,
    },
    Target {
        name: "link",
        summary: "what a successor receives from its predecessor, descriptors included",
        words: || all(message::WORDS),
        start: link::start,
    },
    Target {
        name: "pidfile",
        summary: "the contents of a pidfile",
        words: || all(pidfile::WORDS),
        start: pidfile::start,
    },
    Target {
        name: "http",
        summary: "the answer to an HTTP health check",
        words: || all(probe::HTTP_WORDS),
        start: probe::http,
    },
    Target {
        name: "fcgi",
        summary: "the answer to a FastCGI health check",
        words: || all(probe::FCGI_WORDS),
        start: probe::fcgi,
    },
    Target {
        name: "docker",
        summary: "a container engine's answer",
        words: || all(probe::HTTP_WORDS),
        start: probe::docker,
    },
    Target {
        name: "notify",
        summary: "what a child sends to NOTIFY_SOCKET",
        words: || all(notify::WORDS),
        start: notify::start,
    },
];

fn all(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The test of the driver itself; it always finds something.
const SELF_TEST: Target =
    Target { name: "self-test", summary: "faults of every kind", words: Vec::new, start: self_test::start };

/// The target with this name.
pub(crate) fn find(name: &str) -> Result<&'static Target, Error> {
    let mut all = TARGETS.iter().chain(std::iter::once(&SELF_TEST));
    all.find(|target| target.name == name).ok_or_else(|| {
        let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        format!("unknown target `{name}`; there are {}", known.join(", ")).into()
    })
}

/// Returns an error if a promise doesn't hold.
fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}

fn open_descriptors() -> Result<usize, String> {
    std::fs::read_dir("/proc/self/fd").map(Iterator::count).map_err(|error| error.to_string())
}
