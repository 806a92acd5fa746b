//! Requests over time, for the picture.

use serde::Serialize;

use super::histogram::Histogram;

/// The most buckets of a timeline. Beyond it, two become one.
const MOST: usize = 2000;
/// The first width of a bucket, in microseconds.
const WIDTH: u64 = 10_000;

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

/// All requests so far. The longer it gets, the wider its buckets are.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    width: u64,
    buckets: Vec<Stretch>,
}

#[derive(Clone, Debug, Default)]
struct Stretch {
    lost: u32,
    requests: u32,
    times: Histogram,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { width: WIDTH, buckets: Vec::new() }
    }
}

impl Timeline {
    /// A request that completed at `at`, in microseconds since the rehearsal began.
    pub(crate) fn add(&mut self, at: u64, took: u32, lost: bool) {
        while at / self.width >= MOST as u64 {
            self.halve();
        }
        let number = (at / self.width) as usize;
        if number >= self.buckets.len() {
            self.buckets.resize_with(number + 1, Stretch::default);
        }
        let bucket = &mut self.buckets[number];
        bucket.requests = bucket.requests.saturating_add(1);
        bucket.lost += u32::from(lost);
        bucket.times.add(took);
    }

    fn halve(&mut self) {
        self.width *= 2;
        let mut rest = std::mem::take(&mut self.buckets).into_iter();
        while let Some(mut one) = rest.next() {
            if let Some(other) = rest.next() {
                one.requests = one.requests.saturating_add(other.requests);
                one.lost += other.lost;
                one.times.merge(&other.times);
            }
            self.buckets.push(one);
        }
    }

    pub(crate) fn buckets(&self) -> Vec<Bucket> {
        let ms = |time: Option<u32>| time.map_or(0.0, |time| f64::from(time) / 1e3);
        let one = |(number, bucket): (usize, &Stretch)| Bucket {
            at_ms: (number as u64 * self.width) as f64 / 1e3,
            width_ms: self.width as f64 / 1e3,
            requests: bucket.requests,
            lost: bucket.lost,
            max_ms: ms(bucket.times.max()),
            p50_ms: ms(bucket.times.at(0.5)),
        };
        self.buckets.iter().enumerate().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(requests: impl IntoIterator<Item = (u64, u32, bool)>) -> Vec<Bucket> {
        let mut timeline = Timeline::default();
        requests.into_iter().for_each(|(at, took, lost)| timeline.add(at, took, lost));
        timeline.buckets()
    }

    #[test]
    fn every_request_is_in_one_bucket() {
        let buckets = of([(1, 10, false), (9_999, 30, true), (10_000, 20, false), (45_000, 5, false)]);
        assert_eq!(buckets.iter().map(|bucket| bucket.requests).collect::<Vec<_>>(), [2, 1, 0, 0, 1]);
        assert_eq!((buckets[0].lost, buckets[0].max_ms, buckets[0].p50_ms), (1, 0.03, 0.01));
        assert_eq!(of([]), []);
    }

    #[test]
    fn a_long_rehearsal_has_wider_buckets_and_no_more_of_them() {
        let buckets = of((0..4000).map(|second| (second * 1_000_000, 1, second == 3999)));
        assert!(buckets.len() <= MOST && buckets.len() > MOST / 3, "{}", buckets.len());
        assert_eq!(buckets.iter().map(|bucket| bucket.requests).sum::<u32>(), 4000);
        let last = buckets.last().unwrap();
        assert_eq!(last.lost, 1);
        assert!((last.at_ms..last.at_ms + last.width_ms).contains(&3_999_000.0), "{last:?}");
    }
}
