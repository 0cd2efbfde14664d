//! Medians, percentiles, and quotients within a round.

/// The middle value, or the mean of the two middle values; NaN of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

/// The value that `share` of the samples do not exceed, in the unit of the samples; sorts them.
pub(crate) fn percentile(samples: &mut [u64], share: f64) -> f64 {
    if samples.is_empty() {
        return f64::NAN;
    }
    samples.sort_unstable();
    let rank = (samples.len() as f64 * share).ceil() as usize;
    samples[rank.clamp(1, samples.len()) - 1] as f64
}

/// `of` divided by `by`, round by round.
pub(crate) fn quotients(of: &[f64], by: &[f64]) -> Vec<f64> {
    of.iter().zip(by).map(|(of, by)| of / by).collect()
}

/// The median of `of` divided by `by` within one round.
pub(crate) fn ratio(of: &[f64], by: &[f64]) -> f64 {
    median(quotients(of, by))
}

/// One figure of every round.
pub(crate) fn each<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> Vec<f64> {
    rounds.iter().map(figure).collect()
}
