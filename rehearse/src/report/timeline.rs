//! Requests over time, for the picture.

use serde::Serialize;

use crate::load::Sample;

/// The most buckets of a timeline.
const MOST: u64 = 1500;

/// The requests that completed in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Bucket {
    pub(crate) at_ms: f64,
    pub(crate) width_ms: f64,
    pub(crate) requests: u32,
    pub(crate) lost: u32,
    pub(crate) max_ms: f64,
    /// The median.
    pub(crate) p50_ms: f64,
}

/// Buckets of at least 10 ms. `samples` are in the order of their times.
pub(crate) fn of(samples: &[Sample]) -> Vec<Bucket> {
    let Some(last) = samples.iter().map(|sample| sample.at_us).max() else { return Vec::new() };
    let width = (last / MOST + 1).next_multiple_of(10_000);
    let mut buckets = Vec::new();
    let mut times = Vec::new();
    let mut rest = samples;
    for number in 0..=last / width {
        let end = rest.partition_point(|sample| sample.at_us / width <= number);
        let (own, others) = rest.split_at(end);
        rest = others;
        times.clear();
        times.extend(own.iter().map(|sample| sample.took_us));
        times.sort_unstable();
        let ms = |time: Option<&u32>| time.map_or(0.0, |time| f64::from(*time) / 1e3);
        buckets.push(Bucket {
            at_ms: (number * width) as f64 / 1e3,
            width_ms: width as f64 / 1e3,
            requests: own.len() as u32,
            lost: own.iter().filter(|sample| sample.lost).count() as u32,
            max_ms: ms(times.last()),
            p50_ms: ms(times.get(times.len() / 2)),
        });
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_in_one_bucket() {
        let sample = |at_us, took_us, lost| Sample { at_us, took_us, client: 0, lost };
        let buckets = of(&[
            sample(1, 10, false),
            sample(9_999, 30, true),
            sample(10_000, 20, false),
            sample(45_000, 5, false),
        ]);
        assert_eq!(buckets.iter().map(|bucket| bucket.requests).collect::<Vec<_>>(), [2, 1, 0, 0, 1]);
        assert_eq!((buckets[0].lost, buckets[0].max_ms), (1, 0.03));
        assert_eq!(of(&[]), []);
        let long: Vec<_> = (0..4000).map(|second| sample(second * 1_000_000, 1, false)).collect();
        let buckets = of(&long);
        assert!(buckets.len() as u64 <= MOST + 1, "{}", buckets.len());
        assert_eq!(buckets.iter().map(|bucket| bucket.requests).sum::<u32>(), 4000);
    }
}
