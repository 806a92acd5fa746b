//! Percentiles.

use serde::Serialize;

use crate::load::Histogram;

/// Percentiles of times in milliseconds, exact to 0.4 %, and the longest time; `None` without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Latency {
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p90_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
}

impl From<&Histogram> for Latency {
    fn from(times: &Histogram) -> Self {
        let ms = |time: u32| f64::from(time) / 1e3;
        let at = |part| times.at(part).map(ms);
        Self { p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99), max_ms: times.max().map(ms) }
    }
}
