//! Measures of how well a network does.

use std::fmt;

use netloom_ir::Tensor;

/// What evaluation finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// The mean loss.
    pub loss: f64,
    /// The share of examples whose greatest score is at their label; `None` where targets are not classes.
    pub accuracy: Option<f64>,
}

/// The position of the greatest element of each row of `[n, classes]`; the first of equals.
pub fn best_classes(scores: &Tensor) -> Vec<usize> {
    let width = scores.shape()[1..].iter().product::<usize>().max(1);
    let values = scores.to_f32();
    values
        .chunks_exact(width)
        .map(|row| (0..width).fold(0, |best, class| if row[class] > row[best] { class } else { best }))
        .collect()
}

/// How often each true class (row) was taken for each class (column).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    counts: Vec<Vec<usize>>,
}

impl Confusion {
    /// Counts predictions against labels; pairs outside `classes` are left out.
    pub fn new(classes: usize, labels: &[usize], predictions: &[usize]) -> Confusion {
        let mut counts = vec![vec![0; classes]; classes];
        for (&label, &prediction) in labels.iter().zip(predictions) {
            if label < classes && prediction < classes {
                counts[label][prediction] += 1;
            }
        }
        Confusion { counts }
    }

    /// The counts, by true class and predicted class.
    pub fn counts(&self) -> &[Vec<usize>] {
        &self.counts
    }

    /// The share of examples on the diagonal; 0 for none.
    pub fn accuracy(&self) -> f64 {
        let right: usize = (0..self.counts.len()).map(|class| self.counts[class][class]).sum();
        let all: usize = self.counts.iter().flatten().sum();
        if all == 0 { 0.0 } else { right as f64 / all as f64 }
    }
}

impl fmt::Display for Confusion {
    /// A line for each true class, a column for each answer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.counts {
            row.iter().try_for_each(|count| write!(f, "{count:>5}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confusion_counts_rows_by_truth() {
        let confusion = Confusion::new(3, &[0, 0, 1, 2], &[0, 1, 1, 2]);
        assert_eq!(confusion.counts(), [[1, 1, 0], [0, 1, 0], [0, 0, 1]]);
        assert_eq!(confusion.accuracy(), 0.75);
    }

    #[test]
    fn the_first_of_equal_scores_wins() {
        assert_eq!(
            best_classes(&Tensor::from_f32([2, 3], &[1.0, 2.0, 2.0, 5.0, 1.0, 5.0])),
            [1, 0]
        );
    }
}
