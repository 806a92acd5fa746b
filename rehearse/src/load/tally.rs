//! Counts and times of all requests, by load and by upgrade. Its memory depends on the upgrades, not on the
//! requests.

use super::histogram::Histogram;
use super::timeline::Timeline;

/// A request that begins this long after the end of an upgrade may still be harmed by it, in microseconds.
pub(crate) const AFTERMATH: u64 = 50_000;

/// A completed request. Times are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// When it completed, since the rehearsal began.
    pub(crate) at: u64,
    pub(crate) took: u32,
    /// The number of its load.
    pub(crate) load: usize,
    pub(crate) lost: bool,
}

/// Requests that belong together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub(crate) requests: u64,
    pub(crate) lost: u64,
    /// Of those that were answered.
    pub(crate) times: Histogram,
}

impl Group {
    fn add(&mut self, sample: &Sample) {
        self.requests += 1;
        if sample.lost {
            self.lost += 1;
        } else {
            self.times.add(sample.took);
        }
    }
}

/// The requests that were under way during an upgrade.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// `None`: it still runs.
    end: Option<u64>,
    pub(crate) group: Group,
}

/// All requests so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) all: Group,
    pub(crate) loads: Vec<Group>,
    pub(crate) upgrades: Vec<Span>,
    /// Outside of upgrades.
    pub(crate) steady: Group,
    pub(crate) timeline: Timeline,
    /// When the first one completed.
    pub(crate) first: Option<u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, sample: Sample) {
        self.first.get_or_insert(sample.at);
        self.all.add(&sample);
        if sample.load >= self.loads.len() {
            self.loads.resize_with(sample.load + 1, Group::default);
        }
        self.loads[sample.load].add(&sample);
        self.timeline.add(sample.at, sample.took, sample.lost);
        let began = sample.at.saturating_sub(sample.took.into());
        // Upgrades follow each other, and the last one has begun already.
        let met = |span: &&mut Span| span.end.is_none_or(|end| began <= end + AFTERMATH);
        let mut is_steady = true;
        for span in self.upgrades.iter_mut().rev().take_while(met) {
            span.group.add(&sample);
            is_steady = false;
        }
        if is_steady {
            self.steady.add(&sample);
        }
    }

    /// An upgrade begins: every request that is under way belongs to it, until it ends.
    pub(crate) fn begin_upgrade(&mut self) {
        self.upgrades.push(Span { end: None, group: Group::default() });
    }

    /// The upgrade ended at this time.
    pub(crate) fn end_upgrade(&mut self, at: u64) {
        if let Some(span) = self.upgrades.last_mut() {
            span.end = Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_belong_to_the_upgrades_that_they_met() {
        let mut tally = Tally::default();
        let add = |tally: &mut Tally, at_ms: u64, took_ms: u32, lost| {
            tally.add(Sample { at: at_ms * 1000, took: took_ms * 1000, load: 1, lost });
        };
        add(&mut tally, 10, 5, false);
        tally.begin_upgrade();
        add(&mut tally, 20, 15, true);
        tally.end_upgrade(30_000);
        add(&mut tally, 81, 1, false); // began 50 ms after its end
        add(&mut tally, 82, 1, false);
        tally.begin_upgrade();
        add(&mut tally, 200, 150, false); // both
        tally.end_upgrade(210_000);
        add(&mut tally, 400, 1, false);
        let upgrades: Vec<_> =
            tally.upgrades.iter().map(|span| (span.group.requests, span.group.lost)).collect();
        assert_eq!(upgrades, [(3, 1), (1, 0)]);
        assert_eq!((tally.steady.requests, tally.all.requests, tally.all.lost), (3, 6, 1));
        assert_eq!((tally.loads[0].requests, tally.loads[1].requests), (0, 6));
        assert_eq!(tally.all.times.max(), Some(150_000), "lost requests have no time of an answer");
    }
}
