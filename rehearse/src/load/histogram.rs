//! Times in buckets, so that any number of requests takes the same memory.

/// Times below 2^(PRECISION + 1) microseconds have a bucket each. Above, each power of two is divided into
/// 2^PRECISION buckets: a time is exact to 0.8 %, and a percentile, which is the middle of its bucket, to 0.4 %.
const PRECISION: u32 = 7;

/// A histogram of times in microseconds: at most 3,328 buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Histogram {
    /// Up to the bucket of the longest time.
    counts: Vec<u64>,
    count: u64,
    max: u32,
}

impl Histogram {
    pub(crate) fn add(&mut self, time: u32) {
        let bucket = bucket(time);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.count += 1;
        self.max = self.max.max(time);
    }

    /// Adds the times of another one.
    pub(crate) fn merge(&mut self, other: &Self) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, more)| *own += more);
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// The longest time, exactly; `None` without any.
    pub(crate) fn max(&self) -> Option<u32> {
        (self.count > 0).then_some(self.max)
    }

    /// The time that this part of all times does not exceed: 0.5 is the median.
    pub(crate) fn at(&self, part: f64) -> Option<u32> {
        let rank = ((self.count as f64 * part).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map(|bucket| middle(bucket).min(self.max))
    }
}

fn bucket(time: u32) -> usize {
    let shift = (31 - PRECISION).saturating_sub(time.leading_zeros());
    ((shift << PRECISION) + (time >> shift)) as usize
}

fn middle(bucket: usize) -> u32 {
    let bucket = bucket as u32;
    let shift = (bucket >> PRECISION).saturating_sub(1);
    let first = (bucket - (shift << PRECISION)) << shift;
    first + ((1 << shift) - 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_are_narrow() {
        let mut last = 0;
        for time in 0..200_000 {
            let own = bucket(time);
            assert!((last..=last + 1).contains(&own), "{time} is in {own} after {last}");
            last = own;
        }
        for time in (0..200_000).chain((0..u32::MAX).step_by(999_983)).chain([u32::MAX]) {
            assert!(middle(bucket(time)).abs_diff(time) <= time / 250, "{time}: {}", middle(bucket(time)));
        }
        assert_eq!(bucket(u32::MAX), 3327);
    }

    #[test]
    fn percentiles_are_right_within_one_percent_for_any_number_of_times() {
        // Squares, so that the times are not evenly distributed.
        let times = (0..5_000_000_u64).map(|number| (number * number / 1_000_000) as u32 + 100);
        let mut histogram = Histogram::default();
        times.for_each(|time| histogram.add(time));
        for part in [0.5, 0.9, 0.99] {
            let rank = (5e6 * part) - 1.0;
            let exact = rank * rank / 1e6 + 100.0;
            let found = f64::from(histogram.at(part).unwrap());
            assert!((found - exact).abs() / exact < 0.01, "{part}: {found} instead of {exact}");
        }
        assert_eq!(histogram.max(), Some(24_999_990 + 100));
        assert!(histogram.counts.len() <= 3328, "{}", histogram.counts.len());
    }

    #[test]
    fn percentiles_of_few_times_are_theirs() {
        assert_eq!(Histogram::default().at(0.5), None);
        let mut one = Histogram::default();
        one.add(7000);
        assert_eq!(
            (one.at(0.5), one.at(0.99), one.max()),
            (Some(6991.clamp(6976, 7000)), one.at(0.5), Some(7000))
        );
        let mut both = Histogram::default();
        [1, 2].into_iter().for_each(|time| both.add(time));
        both.merge(&one);
        assert_eq!((both.at(0.3), both.at(0.6), both.max()), (Some(1), Some(2), Some(7000)));
    }
}
