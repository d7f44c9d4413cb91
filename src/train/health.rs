//! How gradients, weights and activations fare, and what that means: the diagnosis of a training step that measures itself
//! ([`Training::health`](crate::nn::Training)).

use netloom_ir::Tensor;

use crate::nn::training::Observed;

/// The measures of one training step.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Each trained matrix or kernel, from the input on.
    pub weights: Vec<WeightHealth>,
    /// Each activation that can be quiet, from the input on.
    pub activations: Vec<ActivationHealth>,
}

/// Measures of a trained matrix or kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightHealth {
    /// The parameter.
    pub name: String,
    /// The Euclidean norm of its gradient.
    pub gradient: f64,
    /// The norm of its last change over its own.
    pub update: f64,
}

/// Measures of an activation.
#[derive(Clone, Debug, PartialEq)]
pub struct ActivationHealth {
    /// Its scope.
    pub name: String,
    /// The function.
    pub kind: String,
    /// The share of dead units or saturated elements.
    pub quiet: f64,
}

/// A gradient this much smaller than that of a later layer has vanished, this much greater has exploded. A factor of 10⁴ over the
/// whole depth means that with one rate for all, some layers do not move.
const RATIO: f64 = 1e-4;
/// The norm above which a gradient is called exploding whatever the others are.
const HUGE: f64 = 1e3;
/// Healthy updates change a weight by about a thousandth (A. Karpathy, "CS231n: babysitting the learning process"); a tenth at a
/// step is too much.
const GREAT_UPDATE: f64 = 0.1;
/// The share of dead or saturated units from which an activation is named.
const QUIET: f64 = 0.5;

impl Health {
    /// From the results [`HEALTH`](crate::nn::training::HEALTH) of a training step.
    pub fn new(observed: &Observed, results: &[Tensor; 3]) -> Health {
        let [gradients, updates, quiet] = results.each_ref().map(Tensor::to_f32);
        let measures = gradients.into_iter().zip(updates);
        let weights = observed
            .weights
            .iter()
            .zip(measures)
            .map(|(name, (gradient, update))| WeightHealth {
                name: name.clone(),
                gradient: f64::from(gradient),
                update: f64::from(update),
            });
        let activations = observed
            .activations
            .iter()
            .zip(quiet)
            .map(|((name, kind), quiet)| ActivationHealth {
                name: name.clone(),
                kind: kind.clone(),
                quiet: f64::from(quiet),
            });
        Health {
            weights: weights.collect(),
            activations: activations.collect(),
        }
    }

    /// The gradient of the first matrix over that of the last: far below 1 it vanishes on its way back, far above it explodes.
    pub fn first_to_last(&self) -> Option<f64> {
        let (first, last) = (self.weights.first()?, self.weights.last()?);
        Some(first.gradient / last.gradient)
    }

    /// What is wrong, a sentence for each finding; none if nothing is.
    pub fn verdicts(&self) -> Vec<String> {
        let mut found = Vec::new();
        let strongest = self.weights.iter().max_by(|a, b| a.gradient.total_cmp(&b.gradient));
        for weight in &self.weights {
            let (name, gradient) = (&weight.name, weight.gradient);
            if !gradient.is_finite() || gradient > HUGE {
                found.push(format!("exploding: `{name}` gets a gradient of norm {gradient:.0e}"));
            } else if let Some(other) = strongest.filter(|other| gradient < RATIO * other.gradient) {
                let share = gradient / other.gradient;
                found.push(format!(
                    "vanishing: `{name}` gets {share:.0e} of the gradient of `{}`",
                    other.name
                ));
            }
            if weight.update > GREAT_UPDATE {
                let percent = 100.0 * weight.update;
                found.push(format!("too fast: a step changes `{name}` by {percent:.0} % of itself"));
            }
        }
        for activation in self.activations.iter().filter(|activation| activation.quiet > QUIET) {
            let (name, percent) = (&activation.name, 100.0 * activation.quiet);
            found.push(match activation.kind.as_str() {
                "Relu" | "Relu6" => format!("dead: {percent:.0} % of the units of `{name}` are 0 for the whole batch"),
                kind => format!("saturated: {percent:.0} % of `{name}` ({kind}) lie where it is flat"),
            });
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_name_layers_and_sizes() {
        let observed = Observed {
            weights: ["0.weight", "2.weight", "4.weight"].map(str::to_owned).into(),
            activations: vec![("1".into(), "Relu".into()), ("3".into(), "Tanh".into())],
        };
        let health = |gradients: &[f32], updates: &[f32], quiet: &[f32]| {
            let vector = |values: &[f32]| Tensor::from_f32([values.len()], values);
            Health::new(&observed, &[vector(gradients), vector(updates), vector(quiet)])
        };
        assert_eq!(health(&[1.0, 0.5, 1.0], &[1e-3; 3], &[0.1, 0.2]).verdicts(), [""; 0]);
        let ill = health(&[1e-7, 0.5, 1.0], &[0.0, 0.3, 1e-3], &[0.75, 0.9]);
        assert_eq!(
            ill.verdicts(),
            [
                "vanishing: `0.weight` gets 1e-7 of the gradient of `4.weight`",
                "too fast: a step changes `2.weight` by 30 % of itself",
                "dead: 75 % of the units of `1` are 0 for the whole batch",
                "saturated: 90 % of `3` (Tanh) lie where it is flat",
            ]
        );
        let exploding = health(&[f32::INFINITY, 2e4, 1.0], &[0.0; 3], &[0.0; 2]).verdicts();
        assert_eq!(exploding[1], "exploding: `2.weight` gets a gradient of norm 2e4");
    }
}
