//! Percentiles.

use serde::Serialize;

/// Percentiles of times in milliseconds; `None` without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Latency {
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p90_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
}

impl Latency {
    /// Of times in microseconds.
    pub(crate) fn of(times: impl IntoIterator<Item = u32>) -> Self {
        let mut times: Vec<u32> = times.into_iter().collect();
        times.sort_unstable();
        let at = |part: f64| {
            let index = ((times.len() as f64 * part).ceil() as usize).clamp(1, times.len().max(1)) - 1;
            times.get(index).map(|time| f64::from(*time) / 1e3)
        };
        Self { p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_seen() {
        let latency = Latency::of((1..=100).map(|ms| ms * 1000));
        assert_eq!((latency.p50_ms, latency.p90_ms), (Some(50.0), Some(90.0)));
        assert_eq!((latency.p99_ms, latency.max_ms), (Some(99.0), Some(100.0)));
        assert_eq!(Latency::of([7000]).p50_ms, Some(7.0));
        assert_eq!(Latency::of([]), Latency::default());
    }
}
