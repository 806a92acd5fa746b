//! Samples of a measurement: median, 90th percentile, and a table that compares several with the first.

use std::time::Duration;

use serde_json::{Value, json};

/// Durations of one operation, in the order of measurement.
pub(super) struct Samples {
    pub(super) name: String,
    milliseconds: Vec<f64>,
}

impl Samples {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), milliseconds: Vec::new() }
    }

    pub(super) fn add(&mut self, duration: Duration) {
        self.milliseconds.push(duration.as_secs_f64() * 1000.0);
    }

    pub(super) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value that the fraction `part` of the samples doesn't exceed, interpolated between two samples;
    /// NaN without samples.
    fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.milliseconds.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
        #[expect(clippy::cast_precision_loss, reason = "a number of samples")]
        let place = part * last as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index of the samples"
        )]
        let below = place.floor() as usize;
        let above = (below + 1).min(last);
        sorted[below] + (sorted[above] - sorted[below]) * place.fract()
    }
}

/// Prints the samples, each with its ratio to the median of the first, and returns the same figures.
pub(super) fn table(all: &[Samples], first: &str) -> Value {
    println!("  {:<20}{:>10}{:>10}{:>10}   x {first}", "", "median ms", "p90", "least");
    let base = all.first().map_or(f64::NAN, Samples::median);
    let mut figures = serde_json::Map::new();
    for samples in all {
        let (median, p90, least) = (samples.median(), samples.quantile(0.9), samples.quantile(0.0));
        println!("  {:<20}{median:>10.3}{p90:>10.3}{least:>10.3}   {:.2}", samples.name, median / base);
        let figure = json!({ "median": median, "p90": p90, "least": least, "ratio": median / base, "samples": samples.milliseconds.len() });
        figures.insert(samples.name.clone(), figure);
    }
    Value::Object(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(milliseconds: &[u64]) -> Samples {
        let mut samples = Samples::new("a");
        for milliseconds in milliseconds {
            samples.add(Duration::from_millis(*milliseconds));
        }
        samples
    }

    #[test]
    fn medians_lie_in_the_middle() {
        assert_eq!(format!("{:.3}", samples(&[9, 1, 2]).median()), "2.000");
        assert_eq!(format!("{:.3}", samples(&[4, 1, 2, 3]).median()), "2.500");
        assert_eq!(format!("{:.3}", samples(&[7]).quantile(0.9)), "7.000");
        assert!(samples(&[]).median().is_nan());
    }

    #[test]
    fn ratios_are_to_the_first() {
        let mut other = samples(&[3]);
        other.name = "b".to_owned();
        let figures = table(&[samples(&[2]), other], "a");
        assert_eq!(format!("{:.2}", figures["b"]["ratio"].as_f64().unwrap()), "1.50");
    }
}
