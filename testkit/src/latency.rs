//! How long requests took: counts by duration, to within 3 %.

use std::time::Duration;

/// Below this, each microsecond has a count of its own; above it, each power of two has this many.
const STEPS: u64 = 32;

/// Durations of requests, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    counts: Vec<u64>,
    count: u64,
    longest: Duration,
}

impl Latencies {
    /// Counts one request.
    pub fn add(&mut self, took: Duration) {
        let index = index(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += 1;
        self.count += 1;
        self.longest = self.longest.max(took);
    }

    /// How many requests were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest duration.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The duration that this percentage of the requests (0 to 100) did not exceed, to within 3 %; zero if
    /// none was counted.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        let wanted = (self.count as f64 * percent / 100.0).ceil().max(1.0);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen as f64 >= wanted {
                return Duration::from_micros(upper_bound(index)).min(self.longest);
            }
        }
        self.longest
    }

    /// As JSON: `requests`, and in milliseconds `p50_ms`, `p90_ms`, `p99_ms`, `p999_ms` and `longest_ms`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let at = |percent| millis(self.percentile(percent));
        serde_json::json!({
            "requests": self.count, "p50_ms": at(50.0), "p90_ms": at(90.0), "p99_ms": at(99.0),
            "p999_ms": at(99.9), "longest_ms": millis(self.longest),
        })
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |percent| millis(self.percentile(percent));
        let (count, longest) = (self.count, millis(self.longest));
        write!(
            f,
            "{count} requests, p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, longest {longest:.1} ms",
            at(50.0),
            at(90.0),
            at(99.0)
        )
    }
}

/// Milliseconds with a fraction.
pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn index(micros: u64) -> usize {
    let power = (micros | 1).ilog2().saturating_sub(STEPS.ilog2());
    usize::try_from(u64::from(power) * STEPS + (micros >> power)).unwrap_or(usize::MAX)
}

/// The largest number of microseconds with this index.
fn upper_bound(index: usize) -> u64 {
    let index = index as u64;
    let power = (index / STEPS).saturating_sub(1);
    (index - power * STEPS + 1).checked_shl(u32::try_from(power).unwrap_or(0)).map_or(u64::MAX, |end| end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_counted_to_within_three_percent() {
        for micros in (0..10_000).chain((10_000..100_000_000).step_by(99_991)) {
            let end = upper_bound(index(micros));
            assert!(micros <= end && end - micros <= micros / 31, "{micros}: {end}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(99.0), Duration::ZERO);
        (1..=100).for_each(|n| latencies.add(Duration::from_millis(n)));
        for percent in [1, 50, 90, 99, 100] {
            let found = millis(latencies.percentile(f64::from(percent)));
            assert!((found / f64::from(percent) - 1.0).abs() < 0.04, "p{percent}: {found} ms");
        }
        assert_eq!(latencies.longest(), Duration::from_millis(100));
    }
}
