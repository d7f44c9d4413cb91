//! Naive Bayes on counted words: each word of a text speaks for each class by itself.

/// A multinomial model with one imagined occurrence of every word in every class (Laplace's rule).
#[derive(Clone, Debug, PartialEq)]
pub struct NaiveBayes {
    /// The logarithm of each class's share of the texts.
    prior: Vec<f64>,
    /// For each class, the logarithm of each word's share.
    words: Vec<Vec<f64>>,
}

impl NaiveBayes {
    /// From texts, lists of words below `vocabulary`, and their classes; what lies beyond either bound is left out.
    pub fn fit<'a>(
        texts: impl IntoIterator<Item = (&'a [usize], usize)>,
        vocabulary: usize,
        classes: usize,
    ) -> NaiveBayes {
        let (mut count, mut words) = (vec![1.0f64; classes], vec![vec![1.0f64; vocabulary]; classes]);
        for (text, class) in texts.into_iter().filter(|(_, class)| *class < classes) {
            count[class] += 1.0;
            for &word in text.iter().filter(|word| **word < vocabulary) {
                words[class][word] += 1.0;
            }
        }
        let logarithms = |counts: Vec<f64>| {
            let sum: f64 = counts.iter().sum();
            counts.into_iter().map(|count| (count / sum).ln()).collect::<Vec<f64>>()
        };
        NaiveBayes {
            prior: logarithms(count),
            words: words.into_iter().map(logarithms).collect(),
        }
    }

    /// The likeliest class of a text; words that the model does not know say nothing.
    pub fn predict(&self, text: &[usize]) -> usize {
        let score = |class: usize| {
            let known = text.iter().filter_map(|&word| self.words[class].get(word));
            self.prior[class] + known.sum::<f64>()
        };
        (0..self.prior.len()).fold(0, |best, class| if score(class) > score(best) { class } else { best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_speak_for_their_classes() {
        let texts: [(&[usize], usize); 3] = [(&[0, 0, 1], 0), (&[2, 1], 1), (&[2, 2], 1)];
        let model = NaiveBayes::fit(texts, 3, 2);
        assert_eq!(
            [&[0][..], &[2], &[1, 2, 2], &[9]].map(|text| model.predict(text)),
            [0, 1, 1, 1]
        );
        // Two of three imagined and real texts in class 1, and of its 7 words 3 + 1 are word 2.
        assert!((model.words[1][2] - (4.0f64 / 7.0).ln()).abs() < 1e-12);
    }
}
